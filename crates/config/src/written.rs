//! What was written: one source of configuration, every key optional, unknown keys refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::{
    Config, LogFormat, LogLevel, WalkerLoop,
    gpu::WrittenGpu,
    limits::WrittenLimit,
    pattern::Patterns,
    service::Services,
    sinks::WrittenSink,
    tcp::WrittenTcp,
    values::{AbsolutePath, ExternalUrl, GroupName, Integer, Period, Size, SocketPath},
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 24 * 60 * MINUTE;
/// Memory for rows is taken in shards of this size.
const SHARD_BYTES: u64 = profiler_common::limits::ROWS_PER_SHARD as u64 * size_of::<profiler_common::row::Row>() as u64;
/// All shards together.
const ALL_SHARDS_BYTES: u64 = profiler_common::limits::MAX_SHARDS as u64 * SHARD_BYTES;

/// The names of the sections, as environment variables have them.
pub(crate) const SECTIONS: [&str; 11] = [
    "sampling", "targets", "symbols", "store", "walker", "budget", "gpu", "api", "tcp", "log", "alerts",
];
/// The keys outside of sections.
pub(crate) const TOP_KEYS: [&str; 1] = ["state_dir"];

/// One source of configuration.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Written {
    pub(crate) state_dir: Option<AbsolutePath>,
    pub(crate) sampling: Sampling,
    pub(crate) targets: Targets,
    pub(crate) symbols: Symbols,
    pub(crate) store: Store,
    pub(crate) walker: Walker,
    pub(crate) budget: Budget,
    pub(crate) gpu: WrittenGpu,
    pub(crate) api: Api,
    pub(crate) tcp: WrittenTcp,
    pub(crate) log: Log,
    pub(crate) alerts: Alerts,
    pub(crate) limits: BTreeMap<Spanned<String>, WrittenLimit>,
    pub(crate) sinks: BTreeMap<Spanned<String>, WrittenSink>,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Sampling {
    hz: Option<Integer<1, 10_000>>,
    walker_loop: Option<WalkerLoop>,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Targets {
    discover_rust: Option<bool>,
    discover_python: Option<bool>,
    max_processes: Option<Integer<1, { profiler_common::limits::MAX_PROCESSES }>>,
    include: Option<Patterns>,
    exclude: Option<Patterns>,
    watch_self: Option<bool>,
    services: Option<Services>,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Symbols {
    cache_bytes: Option<Size<MIB, { 4 * GIB }>>,
    max_debug_info_bytes: Option<Size<{ 64 * KIB }, { 16 * GIB }>>,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Store {
    retention: Option<Period<MINUTE, DAY>>,
    max_bytes: Option<Size<MIB, { 4 * GIB }>>,
    max_series_bytes: Option<Size<MIB, { 4 * GIB }>>,
    window: Option<Period<SECOND, MINUTE>>,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Walker {
    max_row_bytes: Option<Size<SHARD_BYTES, ALL_SHARDS_BYTES>>,
    max_cached_row_bytes: Option<Size<0, { 64 * GIB }>>,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Budget {
    max_cpu_percent: Option<Integer<1, 100>>,
    max_memory_bytes: Option<Size<{ 8 * MIB }, { 64 * GIB }>>,
    max_kernel_bytes: Option<Size<{ 8 * MIB }, { 4 * GIB }>>,
    averaged_over: Option<Period<SECOND, MINUTE>>,
    recover_after: Option<Period<SECOND, { 10 * MINUTE }>>,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Api {
    socket: Option<SocketPath>,
    read_group: Option<GroupName>,
    act_group: Option<GroupName>,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    format: Option<LogFormat>,
    level: Option<LogLevel>,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Alerts {
    external_url: Option<ExternalUrl>,
    history: Option<Period<DAY, { 3660 * DAY }>>,
    max_history: Option<Integer<1, 1_000_000>>,
    max_evidence_bytes: Option<Size<0, { 16 * GIB }>>,
    census_apart: Option<Period<{ 5 * SECOND }, { 10 * MINUTE }>>,
}

impl Written {
    /// Overrides what this source says and leaves the rest. A list replaces the list before it. Limits and sinks, which
    /// are judged when all sources are together, are not its business.
    pub(crate) fn apply(self, config: &mut Config) {
        let Self {
            state_dir,
            sampling,
            targets,
            symbols,
            store,
            walker,
            budget,
            gpu,
            api,
            tcp,
            log,
            alerts,
            limits: _,
            sinks: _,
        } = self;
        set(&mut config.state_dir, state_dir.map(|path| path.0));
        set(&mut config.sampling.hz, sampling.hz.map(Integer::get));
        set(&mut config.sampling.walker_loop, sampling.walker_loop);
        set(&mut config.targets.discover_rust, targets.discover_rust);
        set(&mut config.targets.discover_python, targets.discover_python);
        set(
            &mut config.targets.max_processes,
            targets.max_processes.map(Integer::get),
        );
        set(&mut config.targets.include, targets.include.map(|list| list.0));
        set(&mut config.targets.exclude, targets.exclude.map(|list| list.0));
        set(&mut config.targets.watch_self, targets.watch_self);
        set(
            &mut config.targets.services,
            targets.services.map(|services| services.0.into()),
        );
        set(&mut config.symbols.cache_bytes, symbols.cache_bytes.map(|size| size.0));
        set(
            &mut config.symbols.max_debug_info_bytes,
            symbols.max_debug_info_bytes.map(|size| size.0),
        );
        set(&mut config.store.retention, store.retention.map(Period::get));
        set(&mut config.store.max_bytes, store.max_bytes.map(|size| size.0));
        set(
            &mut config.store.max_series_bytes,
            store.max_series_bytes.map(|size| size.0),
        );
        set(&mut config.store.window, store.window.map(Period::get));
        set(
            &mut config.walker.max_row_bytes,
            walker.max_row_bytes.map(|size| size.0),
        );
        set(
            &mut config.walker.max_cached_row_bytes,
            walker.max_cached_row_bytes.map(|size| size.0),
        );
        set(
            &mut config.budget.max_cpu_percent,
            budget.max_cpu_percent.map(Integer::get),
        );
        set(
            &mut config.budget.max_memory_bytes,
            budget.max_memory_bytes.map(|size| size.0),
        );
        set(
            &mut config.budget.max_kernel_bytes,
            budget.max_kernel_bytes.map(|size| size.0),
        );
        set(&mut config.budget.averaged_over, budget.averaged_over.map(Period::get));
        set(&mut config.budget.recover_after, budget.recover_after.map(Period::get));
        gpu.apply(&mut config.gpu);
        set(&mut config.api.socket, api.socket.map(|path| path.0));
        set(&mut config.api.read_group, api.read_group.map(|name| name.0));
        set(&mut config.api.act_group, api.act_group.map(|name| name.0));
        tcp.apply(&mut config.tcp);
        set(&mut config.log.format, log.format);
        set(&mut config.log.level, log.level);
        alerts.apply(&mut config.alerts);
    }
}

impl Alerts {
    fn apply(self, alerts: &mut crate::Alerts) {
        set(&mut alerts.external_url, self.external_url.map(|url| url.0));
        set(&mut alerts.history, self.history.map(Period::get));
        set(&mut alerts.max_history, self.max_history.map(Integer::get));
        set(
            &mut alerts.max_evidence_bytes,
            self.max_evidence_bytes.map(|size| size.0),
        );
        set(&mut alerts.census_apart, self.census_apart.map(Period::get));
    }
}

/// A table below its name.
fn named<'a, T, W: From<&'a T>>(name: &str, meant: &'a T) -> (Spanned<String>, W) {
    (Spanned::new(0..0, name.to_owned()), meant.into())
}

fn set<T>(target: &mut T, written: Option<T>) {
    if let Some(value) = written {
        *target = value;
    }
}

impl From<&Config> for Written {
    fn from(config: &Config) -> Self {
        Self {
            state_dir: Some(AbsolutePath(config.state_dir.clone())),
            sampling: Sampling {
                hz: Some(config.sampling.hz.into()),
                walker_loop: Some(config.sampling.walker_loop),
            },
            targets: Targets {
                discover_rust: Some(config.targets.discover_rust),
                discover_python: Some(config.targets.discover_python),
                max_processes: Some(config.targets.max_processes.into()),
                include: Some(Patterns(config.targets.include.clone())),
                exclude: Some(Patterns(config.targets.exclude.clone())),
                watch_self: Some(config.targets.watch_self),
                services: Some(Services(config.targets.services.to_vec())),
            },
            symbols: Symbols {
                cache_bytes: Some(Size(config.symbols.cache_bytes)),
                max_debug_info_bytes: Some(Size(config.symbols.max_debug_info_bytes)),
            },
            store: Store {
                retention: Some(config.store.retention.into()),
                max_bytes: Some(Size(config.store.max_bytes)),
                max_series_bytes: Some(Size(config.store.max_series_bytes)),
                window: Some(config.store.window.into()),
            },
            walker: Walker {
                max_row_bytes: Some(Size(config.walker.max_row_bytes)),
                max_cached_row_bytes: Some(Size(config.walker.max_cached_row_bytes)),
            },
            budget: Budget {
                max_cpu_percent: Some(config.budget.max_cpu_percent.into()),
                max_memory_bytes: Some(Size(config.budget.max_memory_bytes)),
                max_kernel_bytes: Some(Size(config.budget.max_kernel_bytes)),
                averaged_over: Some(config.budget.averaged_over.into()),
                recover_after: Some(config.budget.recover_after.into()),
            },
            gpu: (&config.gpu).into(),
            api: Api {
                socket: Some(SocketPath(config.api.socket.clone())),
                read_group: Some(GroupName(config.api.read_group.clone())),
                act_group: Some(GroupName(config.api.act_group.clone())),
            },
            tcp: (&config.tcp).into(),
            log: Log {
                format: Some(config.log.format),
                level: Some(config.log.level),
            },
            alerts: Alerts {
                external_url: Some(ExternalUrl(config.alerts.external_url.clone())),
                history: Some(config.alerts.history.into()),
                max_history: Some(config.alerts.max_history.into()),
                max_evidence_bytes: Some(Size(config.alerts.max_evidence_bytes)),
                census_apart: Some(config.alerts.census_apart.into()),
            },
            limits: config.limits.iter().map(|rule| named(&rule.limit.name, rule)).collect(),
            sinks: config.sinks.iter().map(|sink| named(&sink.name, sink)).collect(),
        }
    }
}
