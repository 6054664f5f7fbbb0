//! What a configuration means: every value typed, in range, and with its default.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use profiler_alerts::Limit;
use serde::{Deserialize, Serialize};

use crate::{Gpu, NamedService, Pattern, Sink, limits::default_limits, sinks::default_sinks};

/// The configuration of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory for what outlives the daemon.
    pub state_dir: PathBuf,
    /// How stacks are sampled.
    pub sampling: Sampling,
    /// Which processes are watched.
    pub targets: Targets,
    /// How addresses get their names.
    pub symbols: Symbols,
    /// How long profiles are kept.
    pub store: Store,
    /// How user stacks are walked.
    pub walker: Walker,
    /// What the daemon itself may cost.
    pub budget: Budget,
    /// How GPUs are read.
    pub gpu: Gpu,
    /// Who may ask, and where.
    pub api: Api,
    /// Whether and how it may be asked over TCP.
    pub tcp: Tcp,
    /// What the daemon writes about itself.
    pub log: Log,
    /// What is kept of alerts.
    pub alerts: Alerts,
    /// What readings are held against, by name; those that are switched off too.
    pub limits: Vec<LimitRule>,
    /// Who is told of alerts, by name; those that are switched off too.
    pub sinks: Vec<Sink>,
}

/// What is kept of alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alerts {
    /// Where people reach what this daemon shows, for links in alerts; empty for nowhere.
    pub external_url: String,
    /// Age at which alerts that are over are dropped.
    pub history: Duration,
    /// Alerts that are over and kept; the oldest are dropped first.
    pub max_history: NonZeroU32,
    /// Room for the evidence of all alerts; the oldest is dropped first.
    pub max_evidence_bytes: u64,
    /// Time between the two censuses of an alert about memory.
    pub census_apart: Duration,
}

/// A limit, and whether readings are held against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRule {
    /// Whether they are.
    pub enabled: bool,
    /// The limit.
    pub limit: Arc<Limit>,
}

/// How stacks are sampled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Samples a second on each CPU.
    pub hz: NonZeroU32,
    /// The loop that drives the walker.
    pub walker_loop: WalkerLoop,
}

/// The helper of the kernel that drives the walker's loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WalkerLoop {
    /// The best that the kernel has.
    Auto,
    /// `bpf_loop`, since Linux 5.17.
    BpfLoop,
    /// `bpf_for_each_map_elem`, since Linux 5.13.
    ForEachMapElem,
}

/// Which processes are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Watch every process whose program was compiled by rustc.
    pub discover_rust: bool,
    /// Watch every process that runs a CPython interpreter.
    pub discover_python: bool,
    /// Processes that may be watched at one time.
    pub max_processes: NonZeroU32,
    /// Processes that are watched beside those discovered.
    pub include: Vec<Pattern>,
    /// Processes that are never watched unless asked for by their id; goes before [`Self::include`].
    pub exclude: Vec<Pattern>,
    /// Allow the daemon to be watched.
    pub watch_self: bool,
    /// Names of services that go before those that the host gives; the first that fits.
    pub services: Arc<[NamedService]>,
}

/// How addresses get their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbols {
    /// Memory for names of functions and files.
    pub cache_bytes: u64,
    /// Debug information of one file beyond this size is not read; its functions are named from its symbol table.
    pub max_debug_info_bytes: u64,
}

/// How long profiles are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Age at which profiles are dropped.
    pub retention: Duration,
    /// Memory for profiles; the oldest are dropped first.
    pub max_bytes: u64,
    /// Memory for an hour of readings; when it is used up, less than an hour is kept.
    pub max_series_bytes: u64,
    /// Length of one profile as it is stored: how finely a query can cut time.
    pub window: Duration,
}

/// How user stacks are walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walker {
    /// Kernel memory for unwind rows of all objects.
    pub max_row_bytes: u64,
    /// Room below the state directory for rows of objects that were seen before; none are kept for 0.
    pub max_cached_row_bytes: u64,
}

/// What the daemon itself may cost. When it costs more it gives something up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// CPU of the daemon and its programs in the kernel, in percent of the host.
    pub max_cpu_percent: NonZeroU32,
    /// Anonymous and shared resident memory.
    pub max_memory_bytes: u64,
    /// Maps and programs in the kernel.
    pub max_kernel_bytes: u64,
    /// Time over which CPU is averaged, and that each step gets to show before the next.
    pub averaged_over: Duration,
    /// Time for which everything must be clear of the caps before a step is taken back.
    pub recover_after: Duration,
}

/// Who may ask, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The unix socket that gRPC is served on.
    pub socket: PathBuf,
    /// Members of this group may read and profile; empty for nobody.
    pub read_group: String,
    /// Members of this group may also act; empty for nobody.
    pub act_group: String,
}

/// Asking over TCP: gRPC, and Prometheus's text at `/metrics`, by callers that show a token or a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Where to listen; nowhere without it.
    pub listen: Option<SocketAddr>,
    /// The file that the token is in; empty where none has to be shown.
    pub token_file: PathBuf,
    /// Our certificate, with those between it and its authority, and its key, in PEM; empty for no TLS.
    pub certificate_file: PathBuf,
    /// Its key, in PEM.
    pub key_file: PathBuf,
    /// Authorities, in PEM, one of which has to have signed the certificate of a caller; empty where none has to be shown.
    pub client_ca_file: PathBuf,
    /// Allow an address that other hosts may reach without TLS.
    pub allow_remote: bool,
    /// Whoever is let in may also profile; otherwise only read.
    pub allow_profile: bool,
}

/// What the daemon writes about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// How it is written.
    pub format: LogFormat,
    /// What is written.
    pub level: LogLevel,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// To the journal if it listens, for people on a terminal, else JSON.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
    /// To the systemd journal, with fields.
    Journal,
}

/// The least severe line that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What is not as it should be.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The level's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Config {
    /// The limits that readings are held against.
    pub fn limits_in_force(&self) -> impl Iterator<Item = &Arc<Limit>> {
        self.limits.iter().filter(|rule| rule.enabled).map(|rule| &rule.limit)
    }
}

impl Targets {
    /// Whether processes are watched by what they are.
    pub fn discovers(&self) -> bool {
        self.discover_rust || self.discover_python
    }
}

impl Default for Config {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            state_dir: PathBuf::from("/var/lib/profiler"),
            sampling: Sampling {
                hz: nonzero(99),
                walker_loop: WalkerLoop::Auto,
            },
            targets: Targets {
                discover_rust: true,
                discover_python: true,
                max_processes: nonzero(1024),
                include: Vec::new(),
                exclude: Vec::new(),
                watch_self: false,
                services: Arc::default(),
            },
            symbols: Symbols {
                cache_bytes: 32 * MIB,
                max_debug_info_bytes: 512 * MIB,
            },
            store: Store {
                retention: Duration::from_secs(15 * 60),
                max_bytes: 32 * MIB,
                max_series_bytes: 16 * MIB,
                window: Duration::from_secs(5),
            },
            walker: Walker {
                max_row_bytes: 48 * MIB,
                max_cached_row_bytes: 256 * MIB,
            },
            budget: Budget {
                max_cpu_percent: nonzero(2),
                max_memory_bytes: 160 * MIB,
                max_kernel_bytes: 96 * MIB,
                averaged_over: Duration::from_secs(10),
                recover_after: Duration::from_secs(30),
            },
            gpu: Gpu::default(),
            api: Api {
                socket: PathBuf::from("/run/profiler/profiler.sock"),
                read_group: "profiler".to_owned(),
                act_group: "profiler-admin".to_owned(),
            },
            tcp: Tcp::default(),
            log: Log {
                format: LogFormat::Auto,
                level: LogLevel::Info,
            },
            alerts: Alerts {
                external_url: String::new(),
                history: Duration::from_secs(30 * 86_400),
                max_history: nonzero(10_000),
                max_evidence_bytes: 64 * MIB,
                census_apart: Duration::from_secs(60),
            },
            limits: default_limits(),
            sinks: default_sinks(),
        }
    }
}

const fn nonzero(value: u32) -> NonZeroU32 {
    match NonZeroU32::new(value) {
        Some(value) => value,
        None => NonZeroU32::MIN,
    }
}
