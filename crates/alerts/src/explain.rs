//! A limit in a sentence.

use std::{fmt::Write as _, time::Duration};

use profiler_readings::{Kind, Metric, Scope, Unit};

use crate::{Comparison, Limit, Severity, Subjects};

impl Limit {
    /// What the limit does, in a sentence without a full stop: who says what of whom, when, until when, and to whom.
    /// Names of subjects are not escaped.
    pub fn explain(&self) -> String {
        let verb = match self.severity {
            Severity::Info => "notes",
            Severity::Warning => "warns",
            Severity::Critical => "alarms",
        };
        let side = self.comparison.name();
        let end = match self.comparison {
            Comparison::Above => "or less",
            Comparison::Below => "or more",
        };
        let mut sentence = format!(
            "{}: {verb} when {} {} is {side} {}",
            self.name,
            self.metric,
            self.of_whom(),
            in_words(self.metric, self.level.get()),
        );
        if self.metric.unit() == Unit::BytesPerHour {
            sentence.push_str(" beyond doubt");
        }
        if !self.hold_for.is_zero() {
            add(&mut sentence, format_args!(" for {}", span_in_words(self.hold_for)));
        }
        let clear = in_words(self.metric, self.clear.get());
        add(&mut sentence, format_args!(", until it is {clear} {end}"));
        if !self.keep_firing_for.is_zero() {
            add(
                &mut sentence,
                format_args!(" for {}", span_in_words(self.keep_firing_for)),
            );
        }
        if self.sinks.is_empty() {
            sentence.push_str("; nobody is told");
        } else {
            add(&mut sentence, format_args!("; told to: {}", self.sinks.join(", ")));
        }
        sentence
    }

    fn of_whom(&self) -> String {
        let scope = match self.metric.scope() {
            Scope::Host => return "of the host".to_owned(),
            Scope::Core => "CPU",
            Scope::Disk => "disk",
            Scope::Network => "network interface",
            Scope::Filesystem => "file system",
            Scope::Service => "service",
            Scope::Process => "process",
            Scope::ControlGroup => "control group",
            Scope::Gpu => "GPU",
        };
        match &self.subjects {
            Subjects::All => format!("of a {scope}"),
            Subjects::Named(name) => format!("of {scope} {name}"),
        }
    }
}

fn add(sentence: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _written = sentence.write_fmt(words);
}

/// A value of a metric as people read it, with its unit; of a counter, a rate.
pub fn in_words(metric: Metric, value: f64) -> String {
    let words = match metric.unit() {
        Unit::Ratio => format!("{} %", short(value * 100.0)),
        Unit::Bytes => size_in_words(value),
        Unit::BytesPerHour => format!("{} an hour", size_in_words(value)),
        Unit::Seconds => format!("{} s", short(value)),
        Unit::Cores => format!("{} CPUs", short(value)),
        Unit::Count => short(value),
        Unit::Celsius => format!("{} °C", short(value)),
        Unit::Watts => format!("{} W", short(value)),
        Unit::Joules => format!("{} J", short(value)),
        Unit::Hertz => format!("{} Hz", short(value)),
    };
    match metric.kind() {
        Kind::Gauge => words,
        Kind::Counter => format!("{words} a second"),
    }
}

/// A number of bytes in its largest unit.
pub fn size_in_words(bytes: f64) -> String {
    const BYTES: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value.abs() >= 1024.0 && unit + 1 < BYTES.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", short(value), BYTES[unit])
}

/// A number with three digits behind the point at most.
fn short(value: f64) -> String {
    let rounded = (value * 1000.0).round() / 1000.0;
    // No negative zero.
    format!("{}", if rounded == 0.0 { 0.0 } else { rounded })
}

/// A duration in its largest whole unit.
pub fn span_in_words(span: Duration) -> String {
    let milliseconds = span.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    let whole = units
        .iter()
        .find(|(unit, _)| milliseconds != 0 && milliseconds.is_multiple_of(*unit));
    match whole {
        Some((unit, name)) => format!("{} {name}", milliseconds / unit),
        None => format!("{milliseconds} ms"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::Level;

    use super::*;

    #[test]
    fn a_limit_in_a_sentence() {
        let mut limit = Limit {
            name: "host_cpu".to_owned(),
            metric: Metric::HostCpuBusy,
            subjects: Subjects::All,
            comparison: Comparison::Above,
            level: Level::new(0.7).unwrap(),
            clear: Level::new(0.63).unwrap(),
            hold_for: Duration::from_secs(30),
            keep_firing_for: Duration::from_secs(60),
            no_data_after: Duration::from_secs(60),
            severity: Severity::Warning,
            labels: BTreeMap::new(),
            sinks: vec!["journal".to_owned(), "ops".to_owned()],
        };
        assert_eq!(
            limit.explain(),
            "host_cpu: warns when host_cpu_busy_ratio of the host is above 70 % for 30 s, until it is 63 % or less for \
             1 min; told to: journal, ops"
        );
        limit.name = "idle".to_owned();
        limit.metric = Metric::ServiceMemory;
        limit.subjects = Subjects::Named("web".to_owned());
        limit.comparison = Comparison::Below;
        limit.level = Level::new(1536.0 * 1024.0 * 1024.0).unwrap();
        limit.clear = limit.level;
        limit.hold_for = Duration::ZERO;
        limit.keep_firing_for = Duration::ZERO;
        limit.severity = Severity::Critical;
        limit.sinks.clear();
        assert_eq!(
            limit.explain(),
            "idle: alarms when service_memory_bytes of service web is below 1.5 GiB, until it is 1.5 GiB or more; \
             nobody is told"
        );
    }

    #[test]
    fn spans() {
        for (milliseconds, expected) in [
            (0, "0 ms"),
            (1500, "1500 ms"),
            (30_000, "30 s"),
            (90_000, "90 s"),
            (120_000, "2 min"),
            (86_400_000, "1 d"),
        ] {
            assert_eq!(span_in_words(Duration::from_millis(milliseconds)), expected);
        }
    }
}
