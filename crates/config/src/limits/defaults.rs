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

/// Name, metric, level and clear level, seconds beyond, severity. A GPU that is busy, or whose memory is taken, is often
/// as it should be: servers of models take nearly all of its memory at their start.
const LIMITS: [(&str, Metric, f64, f64, u64, Severity); 8] = [
    ("disk_full", Metric::FilesystemUsed, 0.9, 0.88, 300, Severity::Warning),
    ("gpu_busy", Metric::GpuUtilization, 0.9, 0.85, 120, Severity::Info),
    ("gpu_memory", Metric::GpuMemoryUsed, 0.9, 0.85, 30, Severity::Info),
    ("host_cpu", Metric::HostCpuBusy, 0.7, 0.63, 30, Severity::Warning),
    ("host_memory", Metric::HostMemoryUsed, 0.8, 0.75, 30, Severity::Warning),
    ("host_swap", Metric::HostSwapUsed, 0.8, 0.7, 60, Severity::Warning),
    (
        "memory_pressure",
        Metric::HostMemoryPressure,
        0.2,
        0.1,
        30,
        Severity::Warning,
    ),
    (
        "service_memory",
        Metric::ServiceMemoryLimitUsed,
        0.9,
        0.85,
        30,
        Severity::Warning,
    ),
];

/// The limits that are there without being written, by name.
pub(crate) fn limits() -> Vec<LimitRule> {
    let limits = LIMITS
        .iter()
        .filter_map(|&(name, metric, level, clear, seconds, severity)| {
            Some(LimitRule {
                enabled: true,
                limit: Arc::new(Limit {
                    name: name.to_owned(),
                    metric,
                    subjects: Subjects::All,
                    comparison: Comparison::Above,
                    level: Level::new(level)?,
                    clear: Level::new(clear)?,
                    hold_for: Duration::from_secs(seconds),
                    keep_firing_for: KEEP_FIRING_FOR,
                    no_data_after: NO_DATA_AFTER,
                    severity,
                    labels: BTreeMap::new(),
                    sinks: vec![JOURNAL.to_owned()],
                }),
            })
        });
    limits.collect()
}
