//! Alerts, limits and silences as JSON.

use std::collections::BTreeMap;

use profiler_proto::v1::{Alert, Limit, Matcher, Silence, Sink};
use serde::Serialize;

use super::{phase_name, subject_name};

/// Several alerts.
#[derive(Serialize)]
pub(super) struct AlertsDocument<'a> {
    alerts: Vec<AlertDocument<'a>>,
    truncated: bool,
}

impl<'a> AlertsDocument<'a> {
    pub(super) fn new(alerts: &'a [Alert], truncated: bool) -> Self {
        Self {
            alerts: alerts.iter().map(AlertDocument::from).collect(),
            truncated,
        }
    }
}

/// One alert.
#[derive(Serialize)]
pub(super) struct AlertDocument<'a> {
    id: &'a str,
    fingerprint: &'a str,
    kind: &'a str,
    limit: &'a str,
    metric: &'a str,
    severity: &'a str,
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "str::is_empty")]
    service: &'a str,
    phase: &'static str,
    meaning: &'a str,
    begin_time: Option<String>,
    firing_time: Option<String>,
    end_time: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    end_reason: &'a str,
    latest: Option<f64>,
    worst: Option<f64>,
    silenced: bool,
    labels: BTreeMap<&'a str, &'a str>,
}

impl<'a> From<&'a Alert> for AlertDocument<'a> {
    fn from(alert: &'a Alert) -> Self {
        let process = alert.subject.as_ref().filter(|subject| subject.pid != 0);
        Self {
            id: &alert.id,
            fingerprint: &alert.fingerprint,
            kind: &alert.kind,
            limit: &alert.limit,
            metric: &alert.metric,
            severity: &alert.severity,
            subject: subject_name(alert),
            pid: process.map(|process| process.pid),
            service: process.map_or("", |process| &process.service),
            phase: phase_name(alert.phase()),
            meaning: &alert.meaning,
            begin_time: alert.begin_time.as_ref().map(ToString::to_string),
            firing_time: alert.firing_time.as_ref().map(ToString::to_string),
            end_time: alert.end_time.as_ref().map(ToString::to_string),
            end_reason: &alert.end_reason,
            latest: alert.latest,
            worst: alert.worst,
            silenced: alert.silenced,
            labels: alert
                .labels
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect(),
        }
    }
}

/// One alert and what was found about it.
#[derive(Serialize)]
pub(super) struct OneAlertDocument<'a> {
    #[serde(flatten)]
    alert: AlertDocument<'a>,
    findings: &'a [String],
}

impl<'a> OneAlertDocument<'a> {
    pub(super) fn new(alert: &'a Alert, findings: &'a [String]) -> Self {
        Self {
            alert: alert.into(),
            findings,
        }
    }
}

/// A change of an alert.
#[derive(Serialize)]
pub(super) struct ChangeDocument<'a> {
    pub(super) change: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) missed: u64,
    #[serde(flatten)]
    pub(super) alert: AlertDocument<'a>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The limits in force.
#[derive(Serialize)]
pub(super) struct LimitsDocument<'a> {
    limits: Vec<LimitDocument<'a>>,
}

#[derive(Serialize)]
struct LimitDocument<'a> {
    name: &'a str,
    metric: &'a str,
    meaning: &'a str,
    severity: &'a str,
    sinks: &'a [String],
    pending: u32,
    firing: u32,
}

impl<'a> From<&'a [Limit]> for LimitsDocument<'a> {
    fn from(limits: &'a [Limit]) -> Self {
        let limit = |limit: &'a Limit| LimitDocument {
            name: &limit.name,
            metric: &limit.metric,
            meaning: &limit.meaning,
            severity: &limit.severity,
            sinks: &limit.sinks,
            pending: limit.pending,
            firing: limit.firing,
        };
        Self {
            limits: limits.iter().map(limit).collect(),
        }
    }
}

/// Who is told.
#[derive(Serialize)]
pub(super) struct SinksDocument<'a> {
    sinks: Vec<SinkDocument<'a>>,
}

#[derive(Serialize)]
struct SinkDocument<'a> {
    name: &'a str,
    kind: &'a str,
    failure: Option<&'a str>,
    failing_since: Option<String>,
    queued: u64,
    sent: u64,
    retried: u64,
    dropped: u64,
    refused: u64,
    unsaved: u64,
}

impl<'a> From<&'a [Sink]> for SinksDocument<'a> {
    fn from(sinks: &'a [Sink]) -> Self {
        let sink = |sink: &'a Sink| SinkDocument {
            name: &sink.name,
            kind: &sink.kind,
            failure: (!sink.failure.is_empty()).then_some(&sink.failure),
            failing_since: sink.failing_since.as_ref().map(ToString::to_string),
            queued: sink.queued,
            sent: sink.sent,
            retried: sink.retried,
            dropped: sink.dropped,
            refused: sink.refused,
            unsaved: sink.unsaved,
        };
        Self {
            sinks: sinks.iter().map(sink).collect(),
        }
    }
}

/// The silences that hold.
#[derive(Serialize)]
pub(super) struct SilencesDocument<'a> {
    silences: Vec<SilenceDocument<'a>>,
}

impl<'a> From<&'a [Silence]> for SilencesDocument<'a> {
    fn from(silences: &'a [Silence]) -> Self {
        Self {
            silences: silences.iter().map(SilenceDocument::from).collect(),
        }
    }
}

/// One silence.
#[derive(Serialize)]
pub(super) struct SilenceDocument<'a> {
    id: u64,
    matchers: Vec<MatcherDocument<'a>>,
    start_time: Option<String>,
    end_time: Option<String>,
    created_by: &'a str,
    comment: &'a str,
}

#[derive(Serialize)]
struct MatcherDocument<'a> {
    label: &'a str,
    value: &'a str,
    negated: bool,
}

impl<'a> From<&'a Silence> for SilenceDocument<'a> {
    fn from(silence: &'a Silence) -> Self {
        let matcher = |matcher: &'a Matcher| MatcherDocument {
            label: &matcher.label,
            value: &matcher.value,
            negated: matcher.negated,
        };
        Self {
            id: silence.id,
            matchers: silence.matchers.iter().map(matcher).collect(),
            start_time: silence.start_time.as_ref().map(ToString::to_string),
            end_time: silence.end_time.as_ref().map(ToString::to_string),
            created_by: &silence.created_by,
            comment: &silence.comment,
        }
    }
}
