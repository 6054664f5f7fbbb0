//! From the newest readings to what limits are held against.

use std::{collections::BTreeSet, time::Duration};

use profiler_alerts::{Limit, Observation};
use profiler_readings::{Gap, Kind, Metric, Source, Subject};
use profiler_store::SeriesStore;

/// The metrics that limits are about.
pub(super) fn metrics_of<'a>(limits: impl Iterator<Item = &'a Limit>) -> BTreeSet<Metric> {
    limits.map(|limit| limit.metric).collect()
}

/// The newest value of each subject of these metrics. A series that is read no more is left out: its subject is gone, unless
/// its source fails or does not answer. Then it is there without a value: nobody can say that it is gone. Of a source that
/// has not been read at all since the start, those are there that have `live` alerts.
pub(super) fn observe(
    series: &SeriesStore,
    metrics: &BTreeSet<Metric>,
    now: Duration,
    live: &[(Metric, &Subject)],
    fails: impl Fn(Source) -> bool,
) -> Vec<Observation> {
    let latest = series.latest(now, |series| metrics.contains(&series.metric));
    let mut observations: Vec<Observation> = latest
        .into_iter()
        .filter_map(|latest| {
            let value = match latest.metric.kind() {
                Kind::Gauge => Some(latest.value),
                // The first value of a counter has no rate yet.
                Kind::Counter => latest.rate,
            };
            Some(Observation {
                metric: latest.metric,
                subject: latest.subject,
                value: Ok(value?),
            })
        })
        .collect();
    for &metric in metrics {
        let source = Source::of(metric);
        if !fails(source) {
            continue;
        }
        let of_metric = || series.series().filter(|series| series.metric == metric);
        let Some(last_round) = of_metric().filter_map(|series| series.latest_at()).max() else {
            let of_alerts = live.iter().filter(|(of, _)| *of == metric);
            observations.extend(of_alerts.map(|(_, subject)| Observation {
                metric,
                subject: (*subject).clone(),
                value: Err(Gap::NoData),
            }));
            continue;
        };
        // What was gone before the source failed is gone.
        let was_there = |at: Duration| last_round.saturating_sub(at) <= source.interval();
        let missing = of_metric().filter(|series| series.latest_at().is_some_and(was_there));
        let seen: BTreeSet<Subject> = observations
            .iter()
            .filter(|observation| observation.metric == metric)
            .map(|observation| observation.subject.clone())
            .collect();
        let missing = missing.filter(|series| !seen.contains(series.subject));
        observations.extend(missing.map(|series| Observation {
            metric,
            subject: series.subject.clone(),
            value: Err(Gap::NoData),
        }));
    }
    observations
}
