//! Limits: what several sources wrote about one, put together, and what that means.
//!
//! A limit is named, so that a later source changes single keys of it. What is wrong shows only when all is together; each
//! part therefore remembers where it was written.

mod defaults;
mod level;
mod written;

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use profiler_alerts::{Comparison, Level, Limit, Severity, Subjects};
use profiler_readings::{Metric, Scope};

pub(crate) use defaults::limits as default_limits;
pub(crate) use level::WrittenLevel;
pub(crate) use written::{WrittenLimit, WrittenSeverity};

use crate::{ConfigError, LimitRule, Origin, Sink, names::check_name};

/// Most limits.
const MAX_LIMITS: usize = 100;
/// Most labels of a limit.
const MAX_LABELS: usize = 16;
/// Longest value of a label, or name of a subject, in bytes.
const MAX_TEXT_BYTES: usize = 256;
/// Where no clear level is written, it is this share of the level away from it.
const CLEAR_SHARE: f64 = 0.1;

/// Finds the place of a part of a source.
pub(crate) type Locate<'a> = &'a dyn Fn(Range<usize>) -> Origin;

/// A value and where it was written; nowhere if it is a default.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) origin: Option<Origin>,
}

/// One limit while sources are put together.
#[derive(Clone, Debug, Default)]
struct Draft {
    /// Where it was last written about.
    named: Option<Origin>,
    enabled: Option<bool>,
    reading: Option<At<String>>,
    subject: Option<At<String>>,
    above: Option<At<WrittenLevel>>,
    below: Option<At<WrittenLevel>>,
    clear: Option<At<WrittenLevel>>,
    hold_for: Option<Duration>,
    keep_firing_for: Option<Duration>,
    no_data_after: Option<Duration>,
    severity: Option<Severity>,
    labels: Option<At<BTreeMap<String, String>>>,
    sinks: Option<At<Vec<At<String>>>>,
}

/// All limits while sources are put together.
#[derive(Debug)]
pub(crate) struct Drafts(BTreeMap<String, Draft>);

impl Drafts {
    /// The limits that are there without being written.
    pub(crate) fn of_defaults() -> Self {
        let drafts = default_limits().into_iter().map(|rule| {
            let mut draft = Draft::default();
            draft.take(WrittenLimit::from(&rule), &|_| None);
            // Whoever is there is told, not only the sink that is there by default.
            draft.sinks = None;
            (rule.limit.name.clone(), draft)
        });
        Self(drafts.collect())
    }

    /// Overrides what a source says.
    ///
    /// # Errors
    /// The name of a limit is none.
    pub(crate) fn add(
        &mut self,
        limits: BTreeMap<toml::Spanned<String>, WrittenLimit>,
        locate: Locate<'_>,
    ) -> Result<(), ConfigError> {
        for (name, limit) in limits {
            let origin = locate(name.span());
            let name = name.into_inner();
            check_name("limit", &name, &origin)?;
            if self.0.len() >= MAX_LIMITS && !self.0.contains_key(&name) {
                return Err(wrong(&origin, format!("more than {MAX_LIMITS} limits")));
            }
            let draft = self.0.entry(name).or_default();
            draft.named = Some(origin);
            draft.take(limit, &|span| Some(locate(span)));
        }
        Ok(())
    }

    /// What each limit means, or its first mistake.
    pub(crate) fn finish(self, sinks: &[Sink]) -> Vec<Result<LimitRule, ConfigError>> {
        let drafts = self.0.into_iter();
        drafts.map(|(name, draft)| draft.finish(name, sinks)).collect()
    }
}

fn wrong(origin: &Origin, problem: impl Into<String>) -> ConfigError {
    ConfigError {
        origin: origin.clone(),
        problem: problem.into(),
    }
}

/// A mistake in a part, or, if nobody wrote that, in what was written of the limit last.
fn wrong_part<T>(part: &At<T>, named: &Origin, problem: impl Into<String>) -> ConfigError {
    wrong(part.origin.as_ref().unwrap_or(named), problem)
}

fn set<T>(target: &mut Option<T>, written: Option<T>) {
    if written.is_some() {
        *target = written;
    }
}

impl Draft {
    fn take(&mut self, written: WrittenLimit, locate: &dyn Fn(Range<usize>) -> Option<Origin>) {
        fn place<T>(
            written: Option<toml::Spanned<T>>,
            locate: &dyn Fn(Range<usize>) -> Option<Origin>,
        ) -> Option<At<T>> {
            written.map(|written| At {
                origin: locate(written.span()),
                value: written.into_inner(),
            })
        }
        // A clear level belongs to the level that it was chosen for.
        if written.above.is_some() || written.below.is_some() {
            self.clear.take_if(|clear| clear.origin.is_none());
        }
        set(&mut self.enabled, written.enabled);
        set(&mut self.reading, place(written.reading, locate));
        set(&mut self.subject, place(written.subject, locate));
        set(&mut self.above, place(written.above, locate));
        set(&mut self.below, place(written.below, locate));
        set(&mut self.clear, place(written.clear, locate));
        set(&mut self.hold_for, written.hold_for.map(crate::values::Period::get));
        set(
            &mut self.keep_firing_for,
            written.keep_firing_for.map(crate::values::Period::get),
        );
        set(
            &mut self.no_data_after,
            written.no_data_after.map(crate::values::Period::get),
        );
        set(&mut self.severity, written.severity.map(Severity::from));
        set(&mut self.labels, place(written.labels, locate));
        let sinks = place(written.sinks, locate).map(|sinks| At {
            origin: sinks.origin,
            value: sinks
                .value
                .into_iter()
                .filter_map(|sink| place(Some(sink), locate))
                .collect(),
        });
        set(&mut self.sinks, sinks);
    }

    fn finish(self, name: String, sinks: &[Sink]) -> Result<LimitRule, ConfigError> {
        let named = self.named.clone().unwrap_or(Origin::Combination);
        let metric = self.metric(&named)?;
        let subjects = self.subjects(metric, &named)?;
        let (comparison, level, range) = self.level(metric, &named)?;
        let clear = self.clear(metric, comparison, level, &range, &named)?;
        let severity = self.severity.unwrap_or(defaults::SEVERITY);
        let sinks = self.sinks(severity, sinks, &named)?;
        let labels = self.labels(&named)?;
        Ok(LimitRule {
            enabled: self.enabled.unwrap_or(true),
            limit: Arc::new(Limit {
                name,
                metric,
                subjects,
                comparison,
                level,
                clear,
                hold_for: self.hold_for.unwrap_or(defaults::HOLD_FOR),
                keep_firing_for: self.keep_firing_for.unwrap_or(defaults::KEEP_FIRING_FOR),
                no_data_after: self.no_data_after.unwrap_or(defaults::NO_DATA_AFTER),
                severity,
                labels,
                sinks,
            }),
        })
    }

    fn metric(&self, named: &Origin) -> Result<Metric, ConfigError> {
        let Some(reading) = &self.reading else {
            return Err(wrong(
                named,
                "a limit needs a `reading`, such as \"host_cpu_busy_ratio\"",
            ));
        };
        reading.value.parse::<Metric>().map_err(|error| {
            let nearest =
                nearest(&reading.value).map_or_else(String::new, |name| format!("; did you mean \"{name}\"?"));
            wrong_part(reading, named, format!("{error}{nearest}"))
        })
    }

    fn subjects(&self, metric: Metric, named: &Origin) -> Result<Subjects, ConfigError> {
        let Some(subject) = &self.subject else {
            return Ok(Subjects::All);
        };
        let scope = metric.scope();
        let text = &subject.value;
        let problem = match scope {
            Scope::Host => Some(format!("{metric} is about the host: leave `subject` out")),
            Scope::Process => Some(format!(
                "{metric} is about processes, which end and begin: name a service in a limit on a service_ reading"
            )),
            Scope::Core if text.parse::<u32>().is_err() => {
                Some(format!("{metric} is about a CPU, and \"{text}\" is no number of one"))
            }
            _ if text.is_empty() || text.len() > MAX_TEXT_BYTES || text.contains(char::is_control) => Some(format!(
                "`subject` is the name of a {}, of 1 to {MAX_TEXT_BYTES} bytes",
                scope.name()
            )),
            _ => None,
        };
        match problem {
            Some(problem) => Err(wrong_part(subject, named, problem)),
            None => Ok(Subjects::Named(text.clone())),
        }
    }

    fn level(&self, metric: Metric, named: &Origin) -> Result<(Comparison, Level, Range<f64>), ConfigError> {
        let (comparison, written) = match (&self.above, &self.below) {
            (Some(above), None) => (Comparison::Above, above),
            (None, Some(below)) => (Comparison::Below, below),
            (None, None) => return Err(wrong(named, "a limit needs a level: `above` or `below`")),
            (Some(above), Some(below)) => {
                let last = if below.origin.is_some() { below } else { above };
                return Err(wrong_part(
                    last,
                    named,
                    "a limit has one level, `above` or `below`: give the other side a limit of its own",
                ));
            }
        };
        let (level, range) = written
            .value
            .in_unit_of(metric)
            .map_err(|problem| wrong_part(written, named, problem))?;
        let value = level.get();
        let never = match comparison {
            Comparison::Above => value >= range.end,
            Comparison::Below => value <= range.start,
        };
        if never {
            let problem = format!("no value of {metric} is {} {}", comparison.name(), written.value);
            return Err(wrong_part(written, named, problem));
        }
        Ok((comparison, level, range))
    }

    fn clear(
        &self,
        metric: Metric,
        comparison: Comparison,
        level: Level,
        range: &Range<f64>,
        named: &Origin,
    ) -> Result<Level, ConfigError> {
        let value = level.get();
        let Some(written) = &self.clear else {
            let (distance, end) = match comparison {
                Comparison::Above => (-value.abs() * CLEAR_SHARE, range.start),
                Comparison::Below => (value.abs() * CLEAR_SHARE, range.end),
            };
            let tenth = round(value + distance);
            // Near the end of what the reading can be there is no room for a tenth.
            let is_reached = tenth > range.start && tenth < range.end;
            let clear = if is_reached { tenth } else { f64::midpoint(value, end) };
            return Ok(Level::new(clear).unwrap_or(level));
        };
        let (clear, _) = written
            .value
            .in_unit_of(metric)
            .map_err(|problem| wrong_part(written, named, problem))?;
        let is_right = match comparison {
            Comparison::Above => clear.get() <= value,
            Comparison::Below => clear.get() >= value,
        };
        if is_right {
            return Ok(clear);
        }
        let problem = format!(
            "`clear` is on the wrong side: an alert that begins {} {} cannot end at {}",
            comparison.name(),
            WrittenLevel::of(metric, level),
            written.value
        );
        Err(wrong_part(written, named, problem))
    }

    /// Those that are named, or else everyone that hears of this severity.
    fn sinks(&self, severity: Severity, sinks: &[Sink], named: &Origin) -> Result<Vec<String>, ConfigError> {
        let Some(written) = &self.sinks else {
            let told = sinks
                .iter()
                .filter(|sink| sink.enabled && severity >= sink.min_severity);
            return Ok(told.map(|sink| sink.name.clone()).collect());
        };
        for part in &written.value {
            let Some(sink) = sinks.iter().find(|sink| sink.name == part.value) else {
                let names: Vec<&str> = sinks.iter().map(|sink| sink.name.as_str()).collect();
                let problem = format!("there is no sink \"{}\"; there are: {}", part.value, names.join(", "));
                return Err(wrong_part(part, named, problem));
            };
            if severity < sink.min_severity {
                let problem = format!(
                    "the sink \"{}\" hears of nothing below {}, and the limit is {}",
                    sink.name,
                    sink.min_severity.name(),
                    severity.name()
                );
                return Err(wrong_part(part, named, problem));
            }
        }
        let is_enabled = |name: &&String| sinks.iter().any(|sink| sink.enabled && sink.name == **name);
        let mut names: Vec<String> = written
            .value
            .iter()
            .map(|part| &part.value)
            .filter(is_enabled)
            .cloned()
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn labels(&self, named: &Origin) -> Result<BTreeMap<String, String>, ConfigError> {
        let Some(labels) = &self.labels else {
            return Ok(BTreeMap::new());
        };
        if labels.value.len() > MAX_LABELS {
            return Err(wrong_part(labels, named, format!("more than {MAX_LABELS} labels")));
        }
        for (name, value) in &labels.value {
            let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && !name.starts_with("__");
            let is_name = starts && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let problem = if !is_name || name.len() > MAX_TEXT_BYTES {
                format!("\"{name}\" is no name of a label: letters, digits and _, no digit first")
            } else if Limit::is_own_label(name) {
                format!("the label \"{name}\" is set by the limit itself")
            } else if value.is_empty() || value.len() > MAX_TEXT_BYTES || value.contains(char::is_control) {
                format!("the label \"{name}\" needs a value of 1 to {MAX_TEXT_BYTES} bytes")
            } else {
                continue;
            };
            return Err(wrong_part(labels, named, problem));
        }
        Ok(labels.value.clone())
    }
}

/// Without the noise of binary fractions: a tenth off 70 % is 63 %.
fn round(value: f64) -> f64 {
    const DIGITS: f64 = 1e9;
    let rounded = (value * DIGITS).round() / DIGITS;
    if rounded.is_finite() { rounded } else { value }
}

/// The metric that shares the most words with a name.
fn nearest(name: &str) -> Option<&'static str> {
    let shared = |metric: &Metric| {
        let words = metric.name().split('_');
        words.filter(|word| name.split('_').any(|other| other == *word)).count()
    };
    let best = Metric::ALL.iter().map(shared).max().filter(|best| *best > 0)?;
    let nearest = Metric::ALL.iter().find(|metric| shared(metric) == best)?;
    Some(nearest.name())
}
