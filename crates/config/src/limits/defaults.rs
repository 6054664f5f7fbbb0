//! The limits that are there without being written.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use profiler_alerts::{Comparison, Level, Limit, Severity, Subjects};
use profiler_readings::Metric;

use crate::{LimitRule, sinks::JOURNAL};

/// For how long a reading must be beyond a level, where nothing is written.
pub(super) const HOLD_FOR: Duration = Duration::from_secs(30);
/// For how long it must be clear. A load that swings with a period of up to about two minutes is one alert by it.
pub(super) const KEEP_FIRING_FOR: Duration = Duration::from_secs(60);
/// For how long readings must be missing.
pub(super) const NO_DATA_AFTER: Duration = Duration::from_secs(60);
/// How much a limit matters.
pub(super) const SEVERITY: Severity = Severity::Warning;

/// A limit that is there without being written.
struct Known {
    name: &'static str,
    metric: Metric,
    level: f64,
    clear: f64,
    seconds_beyond: u64,
    severity: Severity,
    enabled: bool,
}

impl Known {
    /// One that warns of what lasts for half a minute.
    const fn new(name: &'static str, metric: Metric, level: f64, clear: f64) -> Self {
        Self {
            name,
            metric,
            level,
            clear,
            seconds_beyond: 30,
            severity: Severity::Warning,
            enabled: true,
        }
    }

    const fn after(self, seconds_beyond: u64) -> Self {
        Self { seconds_beyond, ..self }
    }

    const fn of(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    const fn switched_off(self) -> Self {
        Self { enabled: false, ..self }
    }
}

/// A GPU that is busy, or whose memory is taken, is often as it should be: servers of models take nearly all of its memory at
/// their start. How much growth is too much is for each host to say.
const LIMITS: [Known; 10] = [
    Known::new("disk_full", Metric::FilesystemUsed, 0.9, 0.88).after(300),
    Known::new("gpu_busy", Metric::GpuUtilization, 0.9, 0.85)
        .after(120)
        .of(Severity::Info),
    Known::new("gpu_memory", Metric::GpuMemoryUsed, 0.9, 0.85).of(Severity::Info),
    Known::new("host_cpu", Metric::HostCpuBusy, 0.7, 0.63),
    Known::new("host_memory", Metric::HostMemoryUsed, 0.8, 0.75),
    Known::new("host_swap", Metric::HostSwapUsed, 0.8, 0.7).after(60),
    Known::new("memory_growth", Metric::ServiceMemoryGrowth, GROWTH, GROWTH / 2.0).switched_off(),
    Known::new("memory_pressure", Metric::HostMemoryPressure, 0.2, 0.1),
    Known::new("oom_kill", Metric::ProcessOomKilled, 0.0, 0.0)
        .after(0)
        .of(Severity::Critical),
    Known::new("service_memory", Metric::ServiceMemoryLimitUsed, 0.9, 0.85),
];
/// 64 MiB an hour, a little more than a megabyte a minute.
const GROWTH: f64 = 67_108_864.0;

/// The limits that are there without being written, by name.
pub(crate) fn limits() -> Vec<LimitRule> {
    let limits = LIMITS.iter().filter_map(|known| {
        Some(LimitRule {
            enabled: known.enabled,
            limit: Arc::new(Limit {
                name: known.name.to_owned(),
                metric: known.metric,
                subjects: Subjects::All,
                comparison: Comparison::Above,
                level: Level::new(known.level)?,
                clear: Level::new(known.clear)?,
                hold_for: Duration::from_secs(known.seconds_beyond),
                keep_firing_for: KEEP_FIRING_FOR,
                no_data_after: NO_DATA_AFTER,
                severity: known.severity,
                labels: BTreeMap::new(),
                sinks: vec![JOURNAL.to_owned()],
            }),
        })
    });
    limits.collect()
}
