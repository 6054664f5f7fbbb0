//! Readings, and which of them are asked for.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_proto::v1;
use profiler_readings::{Kind, Metric, Scope, Subject, Unit, UnknownMetric};
use profiler_store::{Latest, Moment, Owner, Range, SeriesRef, SeriesStatus, Steps};
use prost_types::Timestamp;

use super::{InvalidRequest, duration, system_time};
use crate::readings::Tally;

/// Span of a query that names no start, which is also as long as readings are kept.
const DEFAULT_SPAN: Duration = Duration::from_secs(3600);
/// Shortest step: nothing is read more often.
const MIN_STEP: Duration = Duration::from_secs(1);
/// Most quantiles of one query.
const MAX_QUANTILES: usize = 16;
/// Longest time between two snapshots of a stream.
const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// Which series are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::api) struct Selector {
    /// All if empty.
    metrics: Vec<Metric>,
    /// All if empty.
    scopes: Vec<Scope>,
    service: Option<Arc<str>>,
    pid: Option<u32>,
    subject: Option<String>,
}

impl Selector {
    /// Whether a series is meant.
    pub(in crate::api) fn wants(&self, series: &SeriesRef<'_>) -> bool {
        let of_service = |service: &Arc<str>| match series.subject {
            Subject::Service(name) => name == service,
            Subject::Process { .. } => series.owner.is_some_and(|owner| owner.service == *service),
            _ => false,
        };
        (self.metrics.is_empty() || self.metrics.contains(&series.metric))
            && (self.scopes.is_empty() || self.scopes.contains(&series.subject.scope()))
            && self.service.as_ref().is_none_or(of_service)
            && self
                .pid
                .is_none_or(|wanted| matches!(series.subject, Subject::Process { pid, .. } if *pid == wanted))
            && self
                .subject
                .as_ref()
                .is_none_or(|wanted| name(series.subject, series.owner) == *wanted)
    }
}

/// Reads a selector.
pub(in crate::api) fn selector(selector: Option<v1::ReadingSelector>) -> Result<Selector, InvalidRequest> {
    let selector = selector.unwrap_or_default();
    let metrics: Result<_, UnknownMetric> = selector.metrics.iter().map(|name| name.parse()).collect();
    let scopes: Result<_, InvalidRequest> = selector.scopes.iter().map(|scope| scope_of(*scope)).collect();
    Ok(Selector {
        metrics: metrics?,
        scopes: scopes?,
        service: (!selector.service.is_empty()).then(|| selector.service.into()),
        pid: (selector.pid != 0).then_some(selector.pid),
        subject: (!selector.subject.is_empty()).then_some(selector.subject),
    })
}

/// A span of readings that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::api) struct RangeQuery {
    pub(in crate::api) selector: Selector,
    pub(in crate::api) steps: Steps,
    pub(in crate::api) quantiles: Vec<f64>,
}

/// Reads the query of a span. An end after now is cut to it.
pub(in crate::api) fn range_query(request: v1::GetRangeRequest, now: Moment) -> Result<RangeQuery, InvalidRequest> {
    let time = |time: Option<Timestamp>, field| time.map(|time| system_time(time, field)).transpose();
    let start = time(request.start_time, "start_time")?;
    let end = time(request.end_time, "end_time")?;
    if start.zip(end).is_some_and(|(start, end)| start >= end) {
        return Err(InvalidRequest::EmptySpan);
    }
    let to = end.map_or(now.steady, |end| now.steady_of(end).min(now.steady));
    let from = start.map_or_else(|| to.saturating_sub(DEFAULT_SPAN), |start| now.steady_of(start));
    if from >= to {
        return Err(InvalidRequest::Future);
    }
    let step = match request.step.map(Duration::try_from) {
        None => to - from,
        Some(Ok(step)) if !step.is_zero() => step,
        Some(_) => return Err(InvalidRequest::Step),
    };
    let is_share = |quantile: &f64| (0.0..=1.0).contains(quantile);
    if request.quantiles.len() > MAX_QUANTILES || !request.quantiles.iter().all(is_share) {
        return Err(InvalidRequest::Quantiles { most: MAX_QUANTILES });
    }
    let step = step.max(MIN_STEP);
    Ok(RangeQuery {
        selector: selector(request.selector)?,
        steps: Steps { from, to, step },
        quantiles: request.quantiles,
    })
}

/// Time between two snapshots of a stream.
pub(in crate::api) fn watch_interval(interval: Option<prost_types::Duration>) -> Result<Duration, InvalidRequest> {
    match interval.map(Duration::try_from) {
        None => Ok(MIN_STEP),
        Some(Ok(interval)) if !interval.is_zero() => Ok(interval.clamp(MIN_STEP, MAX_INTERVAL)),
        Some(_) => Err(InvalidRequest::Interval),
    }
}

/// A metric and how many series of it there are.
pub(in crate::api) fn metric(metric: Metric, series: usize) -> v1::MetricDescription {
    let kind = match metric.kind() {
        Kind::Gauge => v1::MetricKind::Gauge,
        Kind::Counter => v1::MetricKind::Counter,
    };
    v1::MetricDescription {
        name: metric.name().to_owned(),
        scope: scope(metric.scope()).into(),
        kind: kind.into(),
        unit: unit(metric.unit()).into(),
        help: metric.help().to_owned(),
        series: u32::try_from(series).unwrap_or(u32::MAX),
    }
}

/// A reading.
pub(in crate::api) fn reading(latest: Latest, now: Moment) -> v1::Reading {
    v1::Reading {
        metric: latest.metric.name().to_owned(),
        subject: Some(subject(&latest.subject, latest.owner.as_ref())),
        value: latest.value,
        rate: latest.rate,
        time: Some(timestamp(now.wall_of(latest.at))),
    }
}

/// A series over a span; none if there are no values in it.
pub(in crate::api) fn series(series: &SeriesRef<'_>, range: &Range) -> Option<v1::Series> {
    let is_empty = range.buckets.is_empty();
    (!is_empty).then(|| series_of(series.metric, series.subject, series.owner, range))
}

/// A series over a span.
pub(super) fn series_of(metric: Metric, subject: &Subject, owner: Option<&Owner>, range: &Range) -> v1::Series {
    let steps = range.buckets.iter().map(|bucket| v1::Step {
        index: bucket.index,
        readings: bucket.count,
        min: bucket.min,
        mean: bucket.mean,
        max: bucket.max,
        last: bucket.last,
    });
    v1::Series {
        metric: metric.name().to_owned(),
        subject: Some(self::subject(subject, owner)),
        steps: steps.collect(),
        quantiles: range.quantiles.clone(),
    }
}

/// A span as it was cut.
pub(in crate::api) fn range(steps: Steps, now: Moment, series: Vec<v1::Series>) -> v1::GetRangeResponse {
    v1::GetRangeResponse {
        start_time: Some(timestamp(now.wall_of(steps.from))),
        end_time: Some(timestamp(now.wall_of(steps.to))),
        step: Some(duration(steps.step)),
        series,
    }
}

/// What is kept of readings, and what they cost.
pub(in crate::api) fn readings(status: SeriesStatus, tally: Tally) -> v1::ReadingsStatus {
    v1::ReadingsStatus {
        subjects: status.subjects as u64,
        series: status.series as u64,
        bytes: status.bytes as u64,
        capacity_bytes: status.capacity_bytes as u64,
        dropped_subjects: status.dropped.subjects,
        dropped_runs: status.dropped.runs,
        refused_values: status.dropped.refused,
        invalid_values: status.dropped.invalid,
        rounds: tally.rounds,
        missed_rounds: tally.missed,
        cpu: Some(duration(tally.cpu)),
    }
}

/// A time of day as a message.
pub(in crate::api) fn timestamp(time: SystemTime) -> Timestamp {
    time.into()
}

pub(super) fn subject(subject: &Subject, owner: Option<&Owner>) -> v1::Subject {
    let (pid, start_ticks) = match subject {
        Subject::Process { pid, start_ticks } => (*pid, *start_ticks),
        _ => (0, 0),
    };
    v1::Subject {
        scope: scope(subject.scope()).into(),
        name: name(subject, owner),
        pid,
        start_ticks,
        service: owner.map(|owner| owner.service.to_string()).unwrap_or_default(),
    }
}

/// The name of a subject; of a process its own, where it is known.
fn name(subject: &Subject, owner: Option<&Owner>) -> String {
    match (subject, owner) {
        (Subject::Process { .. }, owner) => owner.map(|owner| owner.name.to_string()).unwrap_or_default(),
        _ => subject.to_string(),
    }
}

pub(super) fn scope(scope: Scope) -> v1::Scope {
    match scope {
        Scope::Host => v1::Scope::Host,
        Scope::Core => v1::Scope::Core,
        Scope::Disk => v1::Scope::Disk,
        Scope::Network => v1::Scope::Network,
        Scope::Filesystem => v1::Scope::Filesystem,
        Scope::Service => v1::Scope::Service,
        Scope::Process => v1::Scope::Process,
        Scope::ControlGroup => v1::Scope::ControlGroup,
        Scope::Gpu => v1::Scope::Gpu,
    }
}

fn scope_of(scope: i32) -> Result<Scope, InvalidRequest> {
    match v1::Scope::try_from(scope) {
        Ok(v1::Scope::Host) => Ok(Scope::Host),
        Ok(v1::Scope::Core) => Ok(Scope::Core),
        Ok(v1::Scope::Disk) => Ok(Scope::Disk),
        Ok(v1::Scope::Network) => Ok(Scope::Network),
        Ok(v1::Scope::Filesystem) => Ok(Scope::Filesystem),
        Ok(v1::Scope::Service) => Ok(Scope::Service),
        Ok(v1::Scope::Process) => Ok(Scope::Process),
        Ok(v1::Scope::ControlGroup) => Ok(Scope::ControlGroup),
        Ok(v1::Scope::Gpu) => Ok(Scope::Gpu),
        Ok(v1::Scope::Unspecified) | Err(prost::UnknownEnumValue(_)) => Err(InvalidRequest::Scope { scope }),
    }
}

pub(super) fn unit(unit: Unit) -> v1::Unit {
    match unit {
        Unit::Ratio => v1::Unit::Ratio,
        Unit::Bytes => v1::Unit::Bytes,
        Unit::Seconds => v1::Unit::Seconds,
        Unit::Cores => v1::Unit::Cores,
        Unit::Count => v1::Unit::Count,
        Unit::Celsius => v1::Unit::Celsius,
        Unit::Watts => v1::Unit::Watts,
        Unit::Joules => v1::Unit::Joules,
        Unit::Hertz => v1::Unit::Hertz,
        Unit::BytesPerHour => v1::Unit::BytesPerHour,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn now() -> Moment {
        Moment {
            steady: at(5000),
            wall: SystemTime::UNIX_EPOCH + at(1_000_000),
        }
    }

    fn time(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    #[test]
    fn spans_are_cut_to_what_can_be() {
        let query = |start, end, step: Option<i64>| {
            let request = v1::GetRangeRequest {
                start_time: start,
                end_time: end,
                step: step.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
                ..v1::GetRangeRequest::default()
            };
            let steps = range_query(request, now()).map(|query| query.steps);
            steps.map(|steps| (steps.from.as_secs(), steps.to.as_secs(), steps.step.as_secs()))
        };
        assert_eq!(query(None, None, None), Ok((1400, 5000, 3600)));
        assert_eq!(query(time(999_990), None, Some(5)), Ok((4990, 5000, 5)));
        assert_eq!(query(time(999_990), time(2_000_000), Some(5)), Ok((4990, 5000, 5)));
        assert_eq!(
            query(time(0), time(999_999), None),
            Ok((0, 4999, 4999)),
            "from the start"
        );
        assert_eq!(query(time(5), time(5), None), Err(InvalidRequest::EmptySpan));
        assert_eq!(query(time(2_000_000), None, None), Err(InvalidRequest::Future));
        assert_eq!(
            query(time(i64::MIN), None, None),
            Err(InvalidRequest::Time { field: "start_time" })
        );
        for step in [0, -1] {
            assert_eq!(query(None, None, Some(step)), Err(InvalidRequest::Step));
        }
        let quantiles = |quantiles: Vec<f64>| {
            let request = v1::GetRangeRequest {
                quantiles,
                ..v1::GetRangeRequest::default()
            };
            range_query(request, now()).is_ok()
        };
        assert!(quantiles(vec![0.0, 0.5, 1.0]));
        for wrong in [vec![1.1], vec![-0.1], vec![f64::NAN], vec![0.5; 17]] {
            assert!(!quantiles(wrong.clone()), "{wrong:?}");
        }
    }

    #[test]
    fn unknown_metrics_and_scopes_are_refused() {
        let with = |metrics: &[&str], scopes: &[i32]| {
            selector(Some(v1::ReadingSelector {
                metrics: metrics.iter().map(ToString::to_string).collect(),
                scopes: scopes.to_vec(),
                ..v1::ReadingSelector::default()
            }))
        };
        assert_eq!(selector(None), Ok(Selector::default()));
        assert!(with(&["host_cpu_busy_ratio"], &[1]).is_ok());
        let error = with(&["host_cpu"], &[]).unwrap_err();
        assert_eq!(error.to_string(), "there is no reading \"host_cpu\"");
        for scope in [0, 77] {
            assert_eq!(with(&[], &[scope]), Err(InvalidRequest::Scope { scope }));
        }
    }

    #[test]
    fn every_scope_can_be_asked_for() {
        for metric in Metric::ALL {
            let sent = scope(metric.scope());
            assert_eq!(scope_of(sent.into()), Ok(metric.scope()));
            assert_ne!(unit(metric.unit()), v1::Unit::Unspecified);
        }
    }

    #[test]
    fn intervals_of_a_stream_are_bounded() {
        let with = |seconds, nanos| watch_interval(Some(prost_types::Duration { seconds, nanos }));
        assert_eq!(watch_interval(None), Ok(at(1)));
        assert_eq!(with(0, 1), Ok(at(1)));
        assert_eq!(with(10, 0), Ok(at(10)));
        assert_eq!(with(i64::MAX, 0), Ok(at(60)));
        assert_eq!(with(0, 0), Err(InvalidRequest::Interval));
        assert_eq!(with(-1, 0), Err(InvalidRequest::Interval));
    }
}
