//! What a daemon would answer: one service with a stack of each kind of frame, and a status with a bit of everything.

use profiler_proto::v1::{
    ApiStatus, BudgetState, BudgetStatus, Cost, Frame, FrameKind, GetStatusResponse, MappedCallsStatus,
    MemoryProfileStatus, Node, Part, PartState, Process, Profile, ProfiledProcess, Quality, ReadingsStatus, Runtime,
    SampleKind, SamplingStatus, StoreStatus, WatchProcessResponse, WatchState,
};
use prost_types::{Duration, Timestamp};

/// The process of the fixtures.
pub(crate) const PID: u32 = 4242;
/// A name that would clear the screen and turn the text around.
pub(crate) const HOSTILE: &str = "\x1b[2Jevil\u{202e}\r\n";

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

/// A process that the daemon watches by itself.
pub(crate) fn discovered() -> Process {
    Process {
        pid: PID,
        start_time: at(1_772_366_000),
        name: "checkout".to_owned(),
        executable: "/usr/bin/checkout".to_owned(),
        command_line: ["checkout", "--port", "80"].map(String::from).to_vec(),
        runtime: Runtime::Rust.into(),
        service: "checkout.service".to_owned(),
        watch_state: WatchState::Watched.into(),
        watch_reason: "discovered".to_owned(),
        user_id: 1_000,
        mappings: 12,
        mappings_with_rows: 11,
        samples: 12_345,
        rooted_samples: 12_340,
        python_samples: 0,
        interpreter: None,
        limitations: vec!["libodd.so: no .eh_frame, walked by frame pointers".to_owned()],
    }
}

/// The same process, not watched.
pub(crate) fn not_watched() -> Process {
    Process {
        watch_state: WatchState::NotWatched.into(),
        watch_reason: "no mark of rustc".to_owned(),
        samples: 0,
        rooted_samples: 0,
        ..discovered()
    }
}

/// 60 samples in `main;work`, 40 of them in what `work` inlined, and 5 in the kernel.
pub(crate) fn profile() -> Profile {
    let strings = [
        "",
        "main",
        "work",
        "sum",
        "do_syscall_64",
        "checkout",
        "[kernel]",
        "src/main.rs",
    ];
    let frame = |kind: FrameKind, function, module, line| Frame {
        kind: kind.into(),
        function,
        module,
        file: if line == 0 { 0 } else { 7 },
        line,
    };
    let node = |parent, frame, self_samples| Node {
        parent,
        frame,
        process: 0,
        self_samples,
    };
    Profile {
        kind: SampleKind::Cpu.into(),
        period: Some(Duration {
            seconds: 0,
            nanos: 10_101_010,
        }),
        start_time: at(1_772_366_400),
        end_time: at(1_772_366_460),
        strings: strings.map(String::from).to_vec(),
        frames: vec![
            frame(FrameKind::Native, 1, 5, 3),
            frame(FrameKind::Native, 2, 5, 12),
            frame(FrameKind::Inlined, 3, 5, 20),
            frame(FrameKind::Kernel, 4, 6, 0),
        ],
        nodes: vec![node(-1, 0, 0), node(0, 1, 20), node(1, 2, 40), node(0, 3, 5)],
        processes: vec![ProfiledProcess {
            pid: PID,
            start_time: at(1_772_366_000),
            name: "checkout".to_owned(),
            service: "checkout.service".to_owned(),
        }],
        quality: Some(quality()),
    }
}

/// The quality of [`profile`].
pub(crate) fn quality() -> Quality {
    Quality {
        samples: 65,
        rooted_samples: 64,
        stopped_samples: [("no_row".to_owned(), 1)].into(),
        lost_samples: [].into(),
        user_frames: 165,
        named_user_frames: 165,
        incomplete_kernel_stacks: 0,
        python_samples: 0,
        samples_with_python_frames: 0,
        stopped_python_samples: [].into(),
        memory: None,
    }
}

/// A profile without samples.
pub(crate) fn empty_profile() -> Profile {
    Profile {
        nodes: Vec::new(),
        quality: Some(Quality::default()),
        ..profile()
    }
}

/// The same samples as [`profile`], as the daemon would render them for pprof.
pub(crate) fn pprof() -> Vec<u8> {
    use std::{sync::Arc, time};

    use profiler_profile::{Frame, FrameKind, ProcessLabel, ProfileBuilder};

    let start = time::UNIX_EPOCH + time::Duration::from_secs(1_772_366_400);
    let mut builder = ProfileBuilder::new(
        time::Duration::from_millis(10),
        start,
        start + time::Duration::from_secs(60),
    );
    let process = ProcessLabel {
        pid: PID,
        start,
        name: "checkout".into(),
        service: "".into(),
    };
    let frame = |function: &str| Frame {
        kind: FrameKind::Native,
        function: function.into(),
        module: "checkout".into(),
        file: "".into(),
        line: 0,
    };
    let thread: Arc<str> = "worker-1".into();
    builder.add(&process, &thread, [frame("main"), frame("work")].into_iter(), 65);
    let mut bytes = Vec::new();
    profiler_profile::render::pprof::write(&builder.build(), &mut bytes).unwrap();
    bytes
}

/// A report of a watch.
pub(crate) fn report(samples: u64, exited: bool) -> WatchProcessResponse {
    WatchProcessResponse {
        elapsed: None,
        samples,
        rooted_samples: samples,
        already_watched: false,
        exited,
    }
}

/// A daemon that costs too much and samples less.
fn budget() -> BudgetStatus {
    BudgetStatus {
        state: BudgetState::Shedding.into(),
        since: at(1_772_366_430),
        reason: "CPU at 2.50 % of the host, cap 2.00 %".to_owned(),
        shed: vec!["sampling rate divided by 2".to_owned()],
        sheddings: 3,
        recoveries: 2,
        cpu_percent: 1.25,
        max_cpu_percent: 2.0,
        memory_bytes: 31 << 20,
        max_memory_bytes: 160 << 20,
        kernel_bytes: 12 << 20,
        max_kernel_bytes: 96 << 20,
    }
}

fn sampling() -> SamplingStatus {
    let counts = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    SamplingStatus {
        sample_hz: 99,
        effective_hz: 49.5,
        walker_loop: "bpf_loop".to_owned(),
        expected_runs: 200_000,
        runs: 199_990,
        run_outcomes: counts(&[("idle", 150_000), ("not_watched", 37_645), ("delivered", 12_345)]),
        lost: counts(&[("ring_full", 3)]),
        lifecycle_records: 512,
        lifecycle_lost: 0,
        stop_reasons: counts(&[("root", 12_340), ("no_row", 5)]),
        python_stop_reasons: counts(&[("whole", 2_100), ("no_thread_state", 3)]),
        python_processes: counts(&[("walked", 2), ("refused: Python 3.99 is not known", 1)]),
        missed_ticks: 10,
    }
}

fn cost() -> Cost {
    Cost {
        daemon_cpu: Some(Duration {
            seconds: 1,
            nanos: 500_000_000,
        }),
        kernel_cpu: Some(Duration {
            seconds: 0,
            nanos: 250_000_000,
        }),
        kernel_runs: 199_990,
        resident_anon_bytes: 30 << 20,
        resident_shmem_bytes: 1 << 20,
        kernel_bytes: 12 << 20,
        kernel_cpu_from_statistics: true,
        kernel_bytes_per_cpu: 1 << 20,
        descriptors: 150,
        max_descriptors: 1024,
        possible_cpus: 4,
    }
}

/// What was taken of calls for memory.
fn mapped_calls() -> MappedCallsStatus {
    MappedCallsStatus {
        pid: PID,
        seen: 1_240,
        delivered: 1_200,
        lost: [("over_quota".to_owned(), 40)].into(),
        runs: 3_000_000,
        time: Some(Duration {
            seconds: 0,
            nanos: 120_000_000,
        }),
    }
}

/// The status of a daemon in which one part is not active.
pub(crate) fn status() -> GetStatusResponse {
    let part = |name: &str, state: PartState, reason: &str, remedy: &str| Part {
        name: name.to_owned(),
        state: state.into(),
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    };
    GetStatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        start_time: None,
        kernel_release: "6.1.0-18-amd64".to_owned(),
        parts: vec![
            part("sampling", PartState::Active, "", ""),
            part(
                "discovery",
                PartState::Disabled,
                "targets.discover_rust and targets.discover_python are false",
                "",
            ),
            part(
                "kernel symbols",
                PartState::Unsupported,
                "kptr_restrict hides addresses",
                "give the daemon CAP_SYSLOG",
            ),
        ],
        sampling: Some(sampling()),
        memory_profile: Some(MemoryProfileStatus {
            attached: true,
            faults: 123_456,
            delivered: 2_000,
            lost: [("ring_full".to_owned(), 3)].into(),
            runs: 400_000,
            time: Some(Duration {
                seconds: 0,
                nanos: 80_000_000,
            }),
            processes: 4,
            pages: 1_500,
            stacks: 90,
            thinned_pages: 7,
        }),
        mapped_calls: Some(mapped_calls()),
        cost: Some(cost()),
        budget: Some(budget()),
        store: Some(StoreStatus {
            windows: 180,
            bytes: 3 << 20,
            capacity_bytes: 32 << 20,
            oldest_time: at(1_772_366_400),
            dropped_by_age: 20,
            dropped_by_bytes: 0,
            dropped_too_large: 0,
        }),
        readings: Some(ReadingsStatus {
            subjects: 21,
            series: 210,
            bytes: 2 << 20,
            capacity_bytes: 16 << 20,
            dropped_subjects: 4,
            dropped_runs: 5,
            refused_values: 6,
            invalid_values: 7,
            rounds: 3_600,
            missed_rounds: 2,
            cpu: Some(Duration {
                seconds: 0,
                nanos: 900_000_000,
            }),
        }),
        watched_processes: 3,
        api: Some(ApiStatus {
            connections: 1,
            refused_connections: 0,
            refused_watches: 2,
            refused_commands: 0,
        }),
    }
}
