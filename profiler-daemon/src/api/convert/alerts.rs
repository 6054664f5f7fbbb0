//! Limits, alerts and silences.

use std::time::Duration;

use profiler_alerts::{AlertId, Change, Matcher, Phase, Silence};
use profiler_proto::v1;
use profiler_store::state::AlertQuery;

use super::{InvalidRequest, readings};
use crate::alerting::{LimitInForce, ShownAlert};
use crate::api::convert::readings::timestamp;
use crate::sinks::{SinkState, SinkStatus};

/// Alerts of one answer, if nothing else is asked for, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// Longest silence.
const MAX_SILENCE: Duration = Duration::from_secs(366 * 24 * 3600);

/// A limit and its alerts.
pub(in crate::api) fn limit(in_force: &LimitInForce) -> v1::Limit {
    let LimitInForce { limit, pending, firing } = in_force;
    v1::Limit {
        name: limit.name.clone(),
        metric: limit.metric.name().to_owned(),
        meaning: limit.explain(),
        severity: limit.severity.name().to_owned(),
        sinks: limit.sinks.clone(),
        pending: *pending,
        firing: *firing,
    }
}

/// An alert.
pub(in crate::api) fn alert(shown: &ShownAlert) -> v1::Alert {
    let ShownAlert { alert, silenced, owner } = shown;
    let (phase, firing, ended) = match alert.phase {
        Phase::Pending => (v1::AlertPhase::Pending, None, None),
        Phase::Firing { since } => (v1::AlertPhase::Firing, Some(since), None),
        Phase::Resolved { since, at, reason } => (v1::AlertPhase::Resolved, Some(since), Some((at, reason))),
        Phase::Dropped { at, reason } => (v1::AlertPhase::Dropped, None, Some((at, reason))),
    };
    v1::Alert {
        id: alert.id.to_string(),
        fingerprint: alert.fingerprint.to_string(),
        kind: alert.kind.name().to_owned(),
        limit: alert.limit.name.clone(),
        metric: alert.limit.metric.name().to_owned(),
        severity: alert.limit.severity.name().to_owned(),
        subject: Some(readings::subject(&alert.subject, owner.as_ref())),
        phase: phase.into(),
        meaning: alert.limit.explain(),
        begin_time: Some(timestamp(alert.began)),
        firing_time: firing.map(timestamp),
        end_time: ended.map(|(at, _)| timestamp(at)),
        end_reason: ended.map(|(_, reason)| reason.name().to_owned()).unwrap_or_default(),
        latest: alert.latest,
        worst: alert.worst,
        silenced: *silenced,
        labels: alert.labels().into_iter().collect(),
        unit: readings::unit(alert.limit.metric.unit()).into(),
    }
}

/// What happened to an alert, in a word.
pub(in crate::api) fn change(change: Change) -> &'static str {
    match change {
        Change::Pending => "pending",
        Change::Firing => "firing",
        Change::Unsilenced => "unsilenced",
        Change::Resolved => "resolved",
        Change::Dropped => "dropped",
    }
}

/// A sink and what it is doing.
pub(in crate::api) fn sink(status: SinkStatus) -> v1::Sink {
    let (failure, failing_since) = match status.state {
        SinkState::Active => (String::new(), None),
        SinkState::Failed { since, reason } => (reason, Some(since)),
    };
    v1::Sink {
        name: status.name,
        kind: status.kind.to_owned(),
        failure,
        failing_since: failing_since.map(timestamp),
        queued: status.queued as u64,
        sent: status.counts.sent,
        retried: status.counts.retried,
        dropped: status.counts.dropped,
        refused: status.counts.refused,
        unsaved: status.counts.unsaved,
    }
}

/// A silence.
pub(in crate::api) fn silence(silence: Silence) -> v1::Silence {
    v1::Silence {
        id: silence.id.0,
        matchers: silence
            .matchers
            .into_iter()
            .map(|Matcher { label, value, negated }| v1::Matcher { label, value, negated })
            .collect(),
        start_time: Some(timestamp(silence.made)),
        end_time: Some(timestamp(silence.until)),
        created_by: silence.who,
        comment: silence.comment,
    }
}

/// Which alerts are asked for, and one more, to know whether there are more.
pub(in crate::api) fn query(request: &v1::ListAlertsRequest) -> AlertQuery {
    let page = match request.page_size {
        0 => PAGE,
        size => usize::try_from(size).unwrap_or(MAX_PAGE).min(MAX_PAGE),
    };
    AlertQuery {
        is_over: (!request.include_ended).then_some(false),
        limit_name: (!request.limit.is_empty()).then(|| request.limit.clone()),
        since: None,
        most: page,
    }
}

/// An alert's id.
pub(in crate::api) fn alert_id(id: &str) -> Result<AlertId, InvalidRequest> {
    let is_id = id.len() <= 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parsed = is_id.then(|| id.parse().ok()).flatten();
    parsed.ok_or(InvalidRequest::AlertId)
}

/// What a silence matches.
pub(in crate::api) fn matchers(matchers: Vec<v1::Matcher>) -> Vec<Matcher> {
    let matcher = |v1::Matcher { label, value, negated }| Matcher { label, value, negated };
    matchers.into_iter().map(matcher).collect()
}

/// For how long a silence holds.
pub(in crate::api) fn silence_duration(duration: Option<prost_types::Duration>) -> Result<Duration, InvalidRequest> {
    match duration.map(Duration::try_from) {
        Some(Ok(duration)) if !duration.is_zero() && duration <= MAX_SILENCE => Ok(duration),
        _ => Err(InvalidRequest::SilenceDuration),
    }
}
