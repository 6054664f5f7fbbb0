//! Readings as JSON.

use std::collections::BTreeMap;

use profiler_proto::v1::{GetRangeResponse, MetricDescription, MetricKind, Reading, Scope, Series, Step, Subject};
use prost_types::Timestamp;
use serde::Serialize;

use super::{Known, described, scope_name, unit_name};

/// What can be measured.
#[derive(Serialize)]
pub(super) struct ListDocument<'a> {
    metrics: Vec<MetricDocument<'a>>,
}

#[derive(Serialize)]
struct MetricDocument<'a> {
    name: &'a str,
    scope: &'static str,
    kind: &'static str,
    unit: &'static str,
    help: &'a str,
    series: u32,
}

impl<'a> From<&'a [MetricDescription]> for ListDocument<'a> {
    fn from(metrics: &'a [MetricDescription]) -> Self {
        let metric = |metric: &'a MetricDescription| MetricDocument {
            name: &metric.name,
            scope: scope_name(metric.scope()),
            kind: match metric.kind() {
                MetricKind::Gauge => "gauge",
                MetricKind::Counter => "counter",
                MetricKind::Unspecified => "unknown",
            },
            unit: unit_name(metric.unit()),
            help: &metric.help,
            series: metric.series,
        };
        Self {
            metrics: metrics.iter().map(metric).collect(),
        }
    }
}

/// The latest readings.
#[derive(Serialize)]
pub(super) struct SnapshotDocument<'a> {
    time: Option<String>,
    readings: Vec<ReadingDocument<'a>>,
}

#[derive(Serialize)]
struct ReadingDocument<'a> {
    metric: &'a str,
    unit: &'static str,
    #[serde(flatten)]
    subject: SubjectDocument<'a>,
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    time: Option<String>,
}

/// Whom a reading is about.
#[derive(Serialize)]
struct SubjectDocument<'a> {
    scope: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "str::is_empty")]
    service: &'a str,
}

impl<'a> SubjectDocument<'a> {
    fn new(subject: Option<&'a Subject>) -> Self {
        let Some(subject) = subject else {
            return Self {
                scope: scope_name(Scope::Unspecified),
                subject: "",
                pid: None,
                service: "",
            };
        };
        Self {
            scope: scope_name(subject.scope()),
            subject: &subject.name,
            pid: (subject.pid != 0).then_some(subject.pid),
            service: &subject.service,
        }
    }
}

impl<'a> SnapshotDocument<'a> {
    /// The document of a snapshot made at `time`.
    pub(super) fn new(time: Option<Timestamp>, readings: &'a [Reading], known: &Known) -> Self {
        let reading = |reading: &'a Reading| ReadingDocument {
            metric: &reading.metric,
            unit: unit_name(described(&reading.metric, known).0),
            subject: SubjectDocument::new(reading.subject.as_ref()),
            value: reading.value,
            rate: reading.rate,
            time: reading.time.as_ref().map(ToString::to_string),
        };
        Self {
            time: time.as_ref().map(ToString::to_string),
            readings: readings.iter().map(reading).collect(),
        }
    }
}

/// Readings over a span.
#[derive(Serialize)]
pub(super) struct RangeDocument<'a> {
    start_time: Option<String>,
    end_time: Option<String>,
    step_seconds: f64,
    series: Vec<SeriesDocument<'a>>,
}

#[derive(Serialize)]
struct SeriesDocument<'a> {
    metric: &'a str,
    unit: &'static str,
    /// Its values are so much a second.
    is_rate: bool,
    #[serde(flatten)]
    subject: SubjectDocument<'a>,
    quantiles: BTreeMap<String, f64>,
    steps: Vec<StepDocument>,
}

#[derive(Serialize)]
struct StepDocument {
    index: u32,
    readings: u32,
    min: f64,
    mean: f64,
    max: f64,
    last: f64,
}

impl From<&Step> for StepDocument {
    fn from(step: &Step) -> Self {
        Self {
            index: step.index,
            readings: step.readings,
            min: step.min,
            mean: step.mean,
            max: step.max,
            last: step.last,
        }
    }
}

impl<'a> RangeDocument<'a> {
    /// The document of a span for which these quantiles were asked.
    pub(super) fn new(range: &'a GetRangeResponse, quantiles: &[f64], known: &Known) -> Self {
        let series = |series: &'a Series| {
            let (unit, is_rate) = described(&series.metric, known);
            let named = quantiles.iter().zip(&series.quantiles);
            SeriesDocument {
                metric: &series.metric,
                unit: unit_name(unit),
                is_rate,
                subject: SubjectDocument::new(series.subject.as_ref()),
                quantiles: named.map(|(share, value)| (share.to_string(), *value)).collect(),
                steps: series.steps.iter().map(StepDocument::from).collect(),
            }
        };
        let step = range.step.unwrap_or_default();
        Self {
            start_time: range.start_time.as_ref().map(ToString::to_string),
            end_time: range.end_time.as_ref().map(ToString::to_string),
            step_seconds: step.seconds as f64 + f64::from(step.nanos) / 1e9,
            series: range.series.iter().map(series).collect(),
        }
    }
}
