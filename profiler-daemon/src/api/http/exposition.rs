//! Readings and our own counters as Prometheus reads them: the text format, version 0.0.4.
//!
//! Series are by service. Processes come and go, so only the busiest have series of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use profiler_readings::{Kind, Metric, Scope, Source, Subject};
use profiler_store::{Latest, SeriesStatus};

use crate::{
    alerting::LimitInForce,
    budget::{
        Report,
        policy::{Caps, State},
    },
    command::EngineStatus,
    health::OwnCost,
    readings::Tally,
};

/// What the text is.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Before every name.
const PREFIX: &str = "profiler_";
/// Processes with series of their own: those that use the most CPU.
const BUSIEST_PROCESSES: usize = 20;

/// What is said besides readings.
#[derive(Debug)]
pub(super) struct Own<'a> {
    pub(super) version: &'a str,
    pub(super) engine: Option<EngineStatus>,
    pub(super) limits: Option<Vec<LimitInForce>>,
    pub(super) cost: Option<OwnCost>,
    pub(super) budget: Report,
    pub(super) series: SeriesStatus,
    pub(super) tally: Tally,
    pub(super) left_out: Vec<(Source, u64)>,
    pub(super) failed_handshakes: u64,
}

/// The whole text.
pub(super) fn text(latest: &[Latest], own: &Own<'_>) -> String {
    let mut out = String::new();
    let shown = busiest(latest);
    let mut by_metric: BTreeMap<Metric, BTreeMap<String, f64>> = BTreeMap::new();
    for reading in latest {
        if reading.subject.scope() != Scope::Process || shown.contains(&reading.subject) {
            let series = by_metric.entry(reading.metric).or_default();
            // Of two processes with one id the later counts.
            series.insert(labels(reading), reading.value);
        }
    }
    for (metric, series) in &by_metric {
        head(&mut out, metric.name(), metric.kind(), metric.help());
        for (labels, value) in series {
            line(&mut out, metric.name(), labels, *value);
        }
    }
    write_own(&mut out, own);
    out
}

/// The processes that use the most CPU.
fn busiest(latest: &[Latest]) -> BTreeSet<Subject> {
    let mut processes: Vec<&Latest> = latest
        .iter()
        .filter(|reading| reading.metric == Metric::ProcessCpu)
        .collect();
    processes.sort_by(|one, other| other.value.total_cmp(&one.value));
    let busiest = processes.into_iter().take(BUSIEST_PROCESSES);
    busiest.map(|reading| reading.subject.clone()).collect()
}

fn labels(reading: &Latest) -> String {
    let name = match reading.subject.scope() {
        Scope::Host => return String::new(),
        Scope::Core => "cpu",
        Scope::Disk | Scope::Network => "device",
        Scope::Filesystem => "mountpoint",
        Scope::Service => "service",
        Scope::Process => "pid",
        Scope::ControlGroup => "cgroup",
        Scope::Gpu => "gpu",
    };
    let mut labels = label(name, &reading.subject.to_string());
    if let Some(owner) = &reading.owner {
        labels = format!(
            "{labels},{},{}",
            label("name", &owner.name),
            label("service", &owner.service)
        );
    }
    labels
}

/// A label with its value escaped as the format wants it.
fn label(name: &str, value: &str) -> String {
    let mut label = format!("{name}=\"");
    for character in value.chars() {
        match character {
            '\\' => label.push_str("\\\\"),
            '"' => label.push_str("\\\""),
            '\n' => label.push_str("\\n"),
            character => label.push(character),
        }
    }
    label.push('"');
    label
}

fn head(out: &mut String, name: &str, kind: Kind, help: &str) {
    let kind = match kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
    };
    // Writing to a string cannot fail.
    let _ignored = writeln!(out, "# HELP {PREFIX}{name} {help}.\n# TYPE {PREFIX}{name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: f64) {
    let braces = if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    };
    let _ignored = writeln!(out, "{PREFIX}{name}{braces} {value}");
}

/// A metric with one series.
fn single(out: &mut String, name: &str, kind: Kind, help: &str, value: f64) {
    head(out, name, kind, help);
    line(out, name, "", value);
}

fn write_own(out: &mut String, own: &Own<'_>) {
    let mut one = |name: &str, kind, help: &str, value: f64| single(out, name, kind, help, value);
    if let Some(cost) = &own.cost {
        let memory = cost.resident_anon_bytes.saturating_add(cost.resident_shmem_bytes);
        let cpu = "CPU time of the profiler itself, without its programs in the kernel";
        one("daemon_cpu_seconds_total", Kind::Counter, cpu, cost.cpu.as_secs_f64());
        let help = "Resident memory of the profiler itself, anonymous and shared";
        one("daemon_memory_bytes", Kind::Gauge, help, memory as f64);
    }
    one(
        "readings_series",
        Kind::Gauge,
        "Series of readings kept",
        own.series.series as f64,
    );
    let help = "Rounds of reading that could not be begun in time";
    one(
        "readings_missed_rounds_total",
        Kind::Counter,
        help,
        own.tally.missed as f64,
    );
    let help = "Readings refused because there was no room for another series";
    one(
        "readings_refused_total",
        Kind::Counter,
        help,
        own.series.dropped.refused as f64,
    );
    let help = "Callers of the TCP port that TLS did not let in: no certificate, a wrong one, or no TLS";
    let failed = own.failed_handshakes as f64;
    one("tls_handshakes_failed_total", Kind::Counter, help, failed);
    if !own.left_out.is_empty() {
        let help =
            "Processes, disks and other subjects that are not read because there are too many, by what reads them";
        head(out, "readings_left_out", Kind::Gauge, help);
        for (source, count) in &own.left_out {
            line(out, "readings_left_out", &label("source", source.name()), *count as f64);
        }
    }
    head(out, "build_info", Kind::Gauge, "The version that runs; always 1");
    line(out, "build_info", &label("version", own.version), 1.0);
    if let Some(caps) = own.budget.caps {
        write_budget(out, &own.budget, caps);
    }
    if let Some(limits) = &own.limits {
        write_alerts(out, limits);
    }
    if let Some(engine) = &own.engine {
        write_engine(out, engine);
    }
}

/// What the profiler costs next to its caps, and what it gave up to keep within them.
fn write_budget(out: &mut String, report: &Report, caps: Caps) {
    let help = "Whether the profiler keeps within its caps, 1 for the state that it is in";
    head(out, "budget_state", Kind::Gauge, help);
    for (name, state) in [
        ("within", State::Within),
        ("shedding", State::Shedding),
        ("exhausted", State::Exhausted),
    ] {
        let is_so = f64::from(u8::from(report.state == state));
        line(out, "budget_state", &label("state", name), is_so);
    }
    let help = "Times that the profiler gave something up to keep within its caps";
    let count = report.sheddings as f64;
    single(out, "budget_sheddings_total", Kind::Counter, help, count);
    let help = "Times that the profiler took back something that it had given up";
    let count = report.recoveries as f64;
    single(out, "budget_recoveries_total", Kind::Counter, help, count);
    let help = "CPU of the profiler and its programs in the kernel, as a share of the host, averaged over seconds";
    single(out, "budget_cpu_ratio", Kind::Gauge, help, report.cpu_share);
    let help = "The cap on profiler_budget_cpu_ratio";
    single(out, "budget_cpu_cap_ratio", Kind::Gauge, help, caps.cpu_share);
    let help = "The cap on profiler_daemon_memory_bytes";
    let bytes = caps.memory_bytes as f64;
    single(out, "budget_memory_cap_bytes", Kind::Gauge, help, bytes);
    let help = "The cap on profiler_kernel_memory_bytes";
    let bytes = caps.kernel_bytes as f64;
    single(out, "budget_kernel_memory_cap_bytes", Kind::Gauge, help, bytes);
    let help = "Memory of the profiler's maps and programs in the kernel";
    let bytes = report.kernel.bytes as f64;
    single(out, "kernel_memory_bytes", Kind::Gauge, help, bytes);
    // Each is a counter by itself: which of them is told depends on a setting of the kernel that may change.
    let source = match report.kernel.from_bpf_statistics {
        true => "bpf_statistics",
        false => "own_clock",
    };
    let help = "Time in the profiler's programs in the kernel, by who measured it: \
                the kernel (all programs), or the sampling program itself";
    head(out, "kernel_cpu_seconds_total", Kind::Counter, help);
    let seconds = report.kernel.time.as_secs_f64();
    line(out, "kernel_cpu_seconds_total", &label("source", source), seconds);
}

/// How many alerts each limit has; none is told as 0, so that a rule need not tell apart what is missing.
fn write_alerts(out: &mut String, limits: &[LimitInForce]) {
    head(out, "alerts", Kind::Gauge, "Alerts of each limit by their state");
    for LimitInForce { limit, pending, firing } in limits {
        let named = format!(
            "{},{}",
            label("limit", &limit.name),
            label("severity", limit.severity.name())
        );
        for (state, count) in [("pending", pending), ("firing", firing)] {
            let labels = format!("{named},{}", label("state", state));
            line(out, "alerts", &labels, f64::from(*count));
        }
    }
}

fn write_engine(out: &mut String, engine: &EngineStatus) {
    let watched = f64::from(engine.watched_processes);
    head(
        out,
        "watched_processes",
        Kind::Gauge,
        "Processes whose stacks are sampled",
    );
    line(out, "watched_processes", "", watched);
    let help = "Samples a second on each CPU as configured";
    let hertz = f64::from(engine.sample_hz);
    single(out, "sampling_configured_hertz", Kind::Gauge, help, hertz);
    let help = "Samples a second on each CPU now: fewer than configured while the profiler keeps within its caps";
    let hertz = engine.effective_hz();
    single(out, "sampling_effective_hertz", Kind::Gauge, help, hertz);
    let help = "Runs of the sampling program by what became of them";
    head(out, "sampling_runs_total", Kind::Counter, help);
    for (outcome, count) in &engine.run_outcomes {
        line(out, "sampling_runs_total", &label("outcome", outcome), *count as f64);
    }
    let help = "Samples and records known to be lost, by reason";
    head(out, "samples_lost_total", Kind::Counter, help);
    for (reason, count) in &engine.lost {
        line(out, "samples_lost_total", &label("reason", reason), *count as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
        time::Duration,
    };

    use profiler_config::Config;
    use profiler_store::{Owner, SeriesLimits, SeriesStore};

    use super::*;
    use crate::kernel::KernelCost;

    fn latest(metric: Metric, subject: Subject, value: f64) -> Latest {
        let owner = matches!(subject, Subject::Process { .. }).then(|| Owner {
            name: "a\"b\\c\nd".into(),
            service: "shop".into(),
        });
        Latest {
            metric,
            subject,
            owner,
            value,
            rate: None,
            at: Duration::ZERO,
        }
    }

    fn process(pid: u32, start_ticks: u64) -> Subject {
        Subject::Process { pid, start_ticks }
    }

    fn all() -> String {
        let mut readings: Vec<Latest> = (1..=30)
            .map(|pid| latest(Metric::ProcessCpu, process(pid, 7), f64::from(pid)))
            .collect();
        readings.push(latest(Metric::ProcessCpu, process(30, 9), 99.0));
        for metric in Metric::ALL.iter().filter(|metric| **metric != Metric::ProcessCpu) {
            let subject = match metric.scope() {
                Scope::Host => Subject::Host,
                Scope::Core => Subject::Core(3),
                Scope::Disk => Subject::Disk("sda".into()),
                Scope::Network => Subject::Network("eth0".into()),
                Scope::Filesystem => Subject::Filesystem("/var \"x\"".into()),
                Scope::Service => Subject::Service("shop".into()),
                Scope::Process => process(30, 7),
                Scope::ControlGroup => Subject::ControlGroup("/a/b".into()),
                Scope::Gpu => Subject::Gpu("GPU-1".into()),
            };
            readings.push(latest(*metric, subject, 0.25));
        }
        let store = SeriesStore::new(SeriesLimits {
            retention: Duration::ZERO,
            max_bytes: 0,
        });
        let engine = EngineStatus {
            run_outcomes: [("delivered".to_owned(), 5)].into(),
            lost: [("ring_full".to_owned(), 3)].into(),
            sample_hz: 100,
            period: Duration::from_millis(40),
            ..EngineStatus::default()
        };
        let own = Own {
            version: "1.2.3",
            engine: Some(engine),
            limits: Some(vec![LimitInForce {
                limit: Config::default().limits_in_force().next().cloned().unwrap(),
                pending: 1,
                firing: 2,
            }]),
            cost: Some(OwnCost::default()),
            budget: Report {
                state: State::Shedding,
                sheddings: 3,
                recoveries: 1,
                cpu_share: 0.04,
                caps: Some(Caps {
                    cpu_share: 0.02,
                    memory_bytes: 160 << 20,
                    kernel_bytes: 96 << 20,
                }),
                kernel: KernelCost {
                    time: Duration::from_millis(1500),
                    from_bpf_statistics: true,
                    bytes: 1 << 20,
                    ..KernelCost::default()
                },
                ..Report::default()
            },
            series: store.status(),
            tally: Tally::default(),
            left_out: vec![(Source::Processes, 4)],
            failed_handshakes: 0,
        };
        text(&readings, &own)
    }

    #[test]
    fn series_are_by_service_and_of_the_busiest_processes() {
        let text = all();
        let has = |line: &str| assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        has("# TYPE profiler_host_cpu_busy_ratio gauge");
        has("profiler_host_cpu_busy_ratio 0.25");
        has("profiler_service_cpu_cores{service=\"shop\"} 0.25");
        has("profiler_filesystem_used_ratio{mountpoint=\"/var \\\"x\\\"\"} 0.25");
        has("profiler_readings_left_out{source=\"processes\"} 4");
        has("profiler_samples_lost_total{reason=\"ring_full\"} 3");
        has("profiler_process_cpu_cores{pid=\"30\",name=\"a\\\"b\\\\c\\nd\",service=\"shop\"} 99");
        let processes = text
            .lines()
            .filter(|line| line.starts_with("profiler_process_cpu_cores{"));
        // Of the two with one id, which are among the busiest, one is shown.
        assert_eq!(processes.count(), BUSIEST_PROCESSES - 1);
        let names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|pair| pair.0)
            .collect();
        let unique: BTreeSet<&str> = names.iter().copied().filter(|name| *name != "#").collect();
        assert_eq!(
            unique.len(),
            names.iter().filter(|name| **name != "#").count(),
            "no series twice"
        );
    }

    #[test]
    fn what_it_costs_is_told_beside_the_caps_and_what_was_given_up() {
        let text = all();
        for line in [
            "profiler_budget_state{state=\"within\"} 0",
            "profiler_budget_state{state=\"shedding\"} 1",
            "profiler_budget_state{state=\"exhausted\"} 0",
            "# TYPE profiler_budget_sheddings_total counter",
            "profiler_budget_sheddings_total 3",
            "profiler_budget_recoveries_total 1",
            "profiler_budget_cpu_ratio 0.04",
            "profiler_budget_cpu_cap_ratio 0.02",
            "profiler_budget_memory_cap_bytes 167772160",
            "profiler_budget_kernel_memory_cap_bytes 100663296",
            "profiler_kernel_memory_bytes 1048576",
            "profiler_kernel_cpu_seconds_total{source=\"bpf_statistics\"} 1.5",
            "profiler_sampling_configured_hertz 100",
            "profiler_sampling_effective_hertz 25",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
    }

    /// Debian's package `prometheus` has promtool. Without it there is nothing to judge by, and that is said.
    #[test]
    fn promtool_finds_nothing_to_complain_of() {
        let tool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut tool) = tool else {
            println!("skipped: promtool is not installed (Debian's package prometheus has it)");
            return;
        };
        tool.stdin.take().unwrap().write_all(all().as_bytes()).unwrap();
        let output = tool.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success() && said.is_empty(),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
}
