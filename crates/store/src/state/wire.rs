//! How limits, matchers and subjects are written: JSON in a column, and names.

use std::{collections::BTreeMap, time::Duration};

use profiler_alerts::{Comparison, Level, Limit, Matcher, Severity, Subjects};
use profiler_readings::Subject;
use serde::{Deserialize, Serialize};

use super::StateError;

/// A limit as it was when an alert was last held against it.
#[derive(Deserialize, Serialize)]
struct WrittenLimit {
    metric: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    comparison: String,
    level: f64,
    clear: f64,
    for_ms: u64,
    keep_firing_for_ms: u64,
    no_data_after_ms: u64,
    severity: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    sinks: Vec<String>,
}

#[derive(Deserialize, Serialize)]
struct WrittenMatcher {
    label: String,
    value: String,
    #[serde(default)]
    negated: bool,
}

pub(super) fn bad(what: &'static str, value: &str) -> StateError {
    StateError::BadRow {
        what,
        value: value.to_owned(),
    }
}

/// The subject that is shown so.
pub(super) fn read_subject(scope: &str, name: String, start_ticks: u64) -> Result<Subject, StateError> {
    let number = || name.parse::<u32>().map_err(|_not_a_number| bad("a number", &name));
    Ok(match scope {
        "host" => Subject::Host,
        "core" => Subject::Core(number()?),
        "disk" => Subject::Disk(name.into()),
        "network" => Subject::Network(name.into()),
        "filesystem" => Subject::Filesystem(name.into()),
        "service" => Subject::Service(name.into()),
        "process" => Subject::Process {
            pid: number()?,
            start_ticks,
        },
        "cgroup" => Subject::ControlGroup(name.into()),
        "gpu" => Subject::Gpu(name.into()),
        _ => return Err(bad("a scope", scope)),
    })
}

fn to_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn write_limit(limit: &Limit) -> Result<String, StateError> {
    let written = WrittenLimit {
        metric: limit.metric.name().to_owned(),
        subject: match &limit.subjects {
            Subjects::All => None,
            Subjects::Named(name) => Some(name.clone()),
        },
        comparison: limit.comparison.name().to_owned(),
        level: limit.level.get(),
        clear: limit.clear.get(),
        for_ms: to_ms(limit.hold_for),
        keep_firing_for_ms: to_ms(limit.keep_firing_for),
        no_data_after_ms: to_ms(limit.no_data_after),
        severity: limit.severity.name().to_owned(),
        labels: limit.labels.clone(),
        sinks: limit.sinks.clone(),
    };
    serde_json::to_string(&written).map_err(|error| bad("a limit", &error.to_string()))
}

pub(super) fn read_limit(name: String, json: &str) -> Result<Limit, StateError> {
    let written: WrittenLimit = serde_json::from_str(json).map_err(|_not_json| bad("a limit", json))?;
    let comparison = [Comparison::Above, Comparison::Below]
        .into_iter()
        .find(|comparison| comparison.name() == written.comparison);
    let severity = Severity::ALL
        .into_iter()
        .find(|severity| severity.name() == written.severity);
    Ok(Limit {
        name,
        metric: written
            .metric
            .parse()
            .map_err(|_unknown| bad("a reading", &written.metric))?,
        subjects: written.subject.map_or(Subjects::All, Subjects::Named),
        comparison: comparison.ok_or_else(|| bad("a comparison", &written.comparison))?,
        level: Level::new(written.level).ok_or_else(|| bad("a level", json))?,
        clear: Level::new(written.clear).ok_or_else(|| bad("a level", json))?,
        hold_for: Duration::from_millis(written.for_ms),
        keep_firing_for: Duration::from_millis(written.keep_firing_for_ms),
        no_data_after: Duration::from_millis(written.no_data_after_ms),
        severity: severity.ok_or_else(|| bad("a severity", &written.severity))?,
        labels: written.labels,
        sinks: written.sinks,
    })
}

pub(super) fn write_matchers(matchers: &[Matcher]) -> Result<String, StateError> {
    let written: Vec<WrittenMatcher> = matchers
        .iter()
        .map(|matcher| WrittenMatcher {
            label: matcher.label.clone(),
            value: matcher.value.clone(),
            negated: matcher.negated,
        })
        .collect();
    serde_json::to_string(&written).map_err(|error| bad("a matcher", &error.to_string()))
}

pub(super) fn read_matchers(json: &str) -> Result<Vec<Matcher>, StateError> {
    let written: Vec<WrittenMatcher> = serde_json::from_str(json).map_err(|_not_json| bad("a matcher", json))?;
    let read = written.into_iter().map(|matcher| Matcher {
        label: matcher.label,
        value: matcher.value,
        negated: matcher.negated,
    });
    Ok(read.collect())
}
