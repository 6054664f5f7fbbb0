//! GPUs without one: a library with the interface of NVIDIA's, compiled here, answers what a file says.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant, SystemTime},
};

use profiler_readings::{
    Gap, GpuSampler, Metric, Moment, ProcessId, Reading, Source, SourceState, Subject, WatchedProcess,
};
use tempfile::TempDir;

/// More than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Return values of the library.
const NO_PERMISSION: u32 = 4;
const DRIVER_NOT_LOADED: u32 = 9;
const GPU_IS_LOST: u32 = 15;
const VERSION_MISMATCH: u32 = 18;
const UNINITIALIZED: u32 = 1;

const ONE_CARD: &str = "cards 1\n0.uuid GPU-a\n0.utilization 37\n0.memory_busy 12\n0.total 1000\n0.used 250\n";

/// A host with a library of its own, and a sampler that reads through it.
struct Host {
    directory: TempDir,
    sampler: GpuSampler,
    /// Seconds since boot, which only the test moves.
    clock: u64,
}

impl Host {
    fn new(answers: &str) -> Self {
        Self::with_card(answers, true)
    }

    fn with_card(answers: &str, has_card: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        if has_card {
            let device = directory.path().join("sys/bus/pci/devices/0000:01:00.0");
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("vendor"), "0x10de\n").unwrap();
            fs::write(device.join("class"), "0x030200\n").unwrap();
        }
        let library = directory.path().join("libnvidia-ml.so.1");
        compile(&library);
        let host = Self {
            sampler: GpuSampler::new(directory.path(), Some(&library)),
            directory,
            clock: 1000,
        };
        host.answer(answers);
        host
    }

    /// Sets what the library answers from now on, in one step.
    fn answer(&self, answers: &str) {
        let path = self.directory.path().join("libnvidia-ml.so.1.answers");
        let new = path.with_extension("new");
        fs::write(&new, answers).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn now(&self) -> Moment {
        Moment {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(self.clock),
            since_boot: Duration::from_secs(self.clock),
        }
    }

    /// One turn, two seconds after the last.
    fn turn(&mut self) -> Vec<Reading> {
        self.pass(2)
    }

    /// One turn so many seconds after the last.
    fn pass(&mut self, seconds: u64) -> Vec<Reading> {
        self.clock += seconds;
        self.again()
    }

    /// One turn at the same moment.
    fn again(&mut self) -> Vec<Reading> {
        let mut readings = Vec::new();
        self.sampler.sample(self.now(), &mut readings);
        readings
    }

    /// Turns at the same moment until something is as wanted.
    fn until<T>(&mut self, what: &str, mut is: impl FnMut(&mut Self, Vec<Reading>) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let readings = self.again();
            if let Some(found) = is(self, readings) {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {:?}", self.sampler.report());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The answers to one question.
    fn round(&mut self) -> Values {
        self.pass(2);
        self.until("an answer", |_, readings| {
            (!readings.is_empty()).then(|| values(&readings))
        })
    }

    /// Turns until a state is told that fits.
    fn until_state(&mut self, what: &str, fits: impl Fn(&SourceState) -> bool) -> SourceState {
        self.until(what, |host, _| host.state().filter(|state| fits(state)))
    }

    fn state(&self) -> Option<SourceState> {
        self.sampler.report().map(|report| {
            assert_eq!(report.source, Source::Gpu);
            report.state.clone()
        })
    }

    fn remedy(&self) -> &'static str {
        self.sampler.report().unwrap().remedy
    }

    /// Opens the library; the first question is on its way then.
    fn opened(mut self) -> Self {
        self.until_state("the library is open", |state| *state == SourceState::Active);
        self
    }
}

type Values = BTreeMap<(Metric, String), f64>;

fn values(readings: &[Reading]) -> Values {
    let values: Values = readings
        .iter()
        .map(|reading| ((reading.metric, reading.subject.to_string()), reading.value))
        .collect();
    assert_eq!(values.len(), readings.len(), "each value once: {readings:?}");
    values
}

fn compile(library: &Path) {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fake-nvml/nvml.c");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o"])
        .args([library, &source])
        .status()
        .unwrap();
    assert!(status.success());
}

fn watched(pid: u32, service: &str) -> WatchedProcess {
    WatchedProcess {
        id: ProcessId { pid, start_ticks: 5 },
        service: Some(service.into()),
        executed: None,
    }
}

fn failed(state: &SourceState) -> bool {
    matches!(state, SourceState::Failed { .. })
}

#[test]
fn every_value_is_what_the_card_said_in_base_units() {
    let all = "cards 1\n0.uuid GPU-a\n0.utilization 37\n0.memory_busy 12\n0.total 85899345920\n0.used 21474836480\n\
               0.temperature 61\n0.milliwatts 301500\n0.limit_milliwatts 700000\n0.millijoules 9876543210\n\
               0.megahertz 1980\n0.memory_megahertz 2619\n0.violation0 1500000000\n0.violation1 250000000\n\
               0.corrected 7\n0.uncorrected 2\n0.gpm 1\n0.gpm2 88.5\n0.gpm3 42.25\n0.gpm5 17\n0.gpm10 63\n";
    let mut host = Host::new(all).opened();
    let first = host.until("the first answer", |_, readings| {
        (!readings.is_empty()).then_some(readings)
    });
    let asked = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    assert!(
        first.iter().all(|reading| reading.time == asked),
        "the time of the question"
    );
    assert!(
        first
            .iter()
            .all(|reading| reading.subject == Subject::Gpu("GPU-a".into()))
    );
    assert!(
        first
            .iter()
            .all(|reading| reading.metric != Metric::GpuSmOccupancy && reading.metric != Metric::GpuThrottled),
        "what is a difference needs two rounds"
    );
    // Held back for half a second of the two until the next round.
    host.answer(&all.replace("0.violation0 1500000000", "0.violation0 2000000000"));
    let expect = [
        (Metric::GpuUtilization, 0.37),
        (Metric::GpuMemoryBusy, 0.12),
        (Metric::GpuMemoryUsed, 0.25),
        (Metric::GpuMemoryUsedBytes, 21_474_836_480.0),
        (Metric::GpuMemoryTotal, 85_899_345_920.0),
        (Metric::GpuTemperature, 61.0),
        (Metric::GpuPower, 301.5),
        (Metric::GpuPowerLimit, 700.0),
        (Metric::GpuEnergy, 9_876_543.21),
        (Metric::GpuClock, 1.98e9),
        (Metric::GpuMemoryClock, 2.619e9),
        (Metric::GpuThrottled, 0.25),
        (Metric::GpuPowerThrottledTime, 2.0),
        (Metric::GpuThermalThrottledTime, 0.25),
        (Metric::GpuEccCorrected, 7.0),
        (Metric::GpuEccUncorrected, 2.0),
        (Metric::GpuSmActive, 0.885),
        (Metric::GpuSmOccupancy, 0.4225),
        (Metric::GpuTensorActive, 0.17),
        (Metric::GpuMemoryBandwidth, 0.63),
    ];
    let round = host.round();
    assert_eq!(round.len(), expect.len(), "{round:?}");
    for (metric, value) in expect {
        let read = round[&(metric, "GPU-a".to_owned())];
        assert!((read - value).abs() <= value * 1e-12, "{metric}: {read} for {value}");
    }
}

#[test]
fn what_a_card_does_not_support_is_left_out_and_nonsense_is_too() {
    let mut host = Host::new("cards 1\n0.uuid GPU-a\n0.utilization 250\n0.memory_busy 3\n").opened();
    let round = host.round();
    assert_eq!(
        round,
        Values::from([((Metric::GpuMemoryBusy, "GPU-a".to_owned()), 0.03)])
    );
    assert_eq!(host.state(), Some(SourceState::Active));
}

#[test]
fn watched_processes_and_their_services_have_their_share_of_all_cards() {
    let answers = "cards 2\n0.uuid GPU-a\n1.uuid GPU-b\n0.total 1000\n0.used 1\n1.total 1000\n1.used 1\n\
                   0.processes 7:100,8:200,99:50\n0.drawing 7:100\n1.processes 7:1000,8\n\
                   0.samples 7:10:90\n1.samples 8:10:90\n";
    let mut host = Host::new(answers);
    host.sampler
        .watch([watched(7, "train"), watched(8, "train"), watched(500, "idle")]);
    let mut host = host.opened();
    // Both cards have answered once: what they had sampled before anybody asked is not told.
    let mut heard = 0;
    host.until("the first answers", |_, readings| {
        let total = |reading: &&Reading| reading.metric == Metric::GpuMemoryTotal;
        heard += readings.iter().filter(total).count();
        assert!(
            readings
                .iter()
                .all(|reading| reading.metric != Metric::ProcessGpuUtilization)
        );
        (heard == 2).then_some(())
    });
    host.answer(
        &answers
            .replace(
                "0.samples 7:10:90",
                "0.samples 7:10:90,7:20:40,7:30:60,8:20:20,8:30:999",
            )
            .replace("1.samples 8:10:90", "1.samples 8:10:90,7:20:10"),
    );
    host.pass(2);
    let (mut all, mut heard) = (Values::new(), 0);
    host.until("the second answers", |_, readings| {
        let new = values(&readings);
        heard += new
            .keys()
            .filter(|(metric, _)| *metric == Metric::GpuMemoryTotal)
            .count();
        all.extend(new);
        (heard == 2).then_some(())
    });
    let of = |metric, subject: &str| all.get(&(metric, subject.to_owned())).copied();
    assert_eq!(
        of(Metric::ProcessGpuMemory, "7"),
        Some(1100.0),
        "both lists of one card have it once"
    );
    assert_eq!(
        of(Metric::ProcessGpuMemory, "8"),
        Some(200.0),
        "what the driver does not tell is not zero"
    );
    assert_eq!(of(Metric::ServiceGpuMemory, "train"), Some(1300.0));
    assert_eq!(
        of(Metric::ProcessGpuUtilization, "7"),
        Some(0.5),
        "the mean of the new samples, busiest card"
    );
    assert_eq!(of(Metric::ProcessGpuUtilization, "8"), Some(0.2));
    assert_eq!(of(Metric::ServiceGpuUtilization, "train"), Some(0.7));
    assert_eq!(of(Metric::ProcessGpuMemory, "99"), None, "nobody watches it");
    assert_eq!(of(Metric::ServiceGpuMemory, "idle"), None);
}

#[test]
fn instances_of_a_card_are_subjects_of_their_own() {
    let mut host = Host::new(
        "cards 1\n0.uuid GPU-a\n0.mig 1\n0.milliwatts 5000\n0.total 100\n0.used 60\n0.processes 7:60\n\
         0.mig0.uuid MIG-x\n0.mig0.total 40\n0.mig0.used 10\n0.mig0.processes 7:10\n\
         0.mig2.uuid MIG-y\n0.mig2.total 50\n0.mig2.used 50\n0.mig2.processes 7:50\n",
    );
    host.sampler.watch([watched(7, "train")]);
    let mut host = host.opened();
    let round = host.round();
    let of = |metric, subject: &str| round.get(&(metric, subject.to_owned())).copied();
    assert_eq!(of(Metric::GpuMemoryUsed, "GPU-a"), Some(0.6));
    assert_eq!(of(Metric::GpuMemoryUsed, "MIG-x"), Some(0.25));
    assert_eq!(of(Metric::GpuMemoryUsed, "MIG-y"), Some(1.0));
    assert_eq!(
        (of(Metric::GpuPower, "GPU-a"), of(Metric::GpuPower, "MIG-x")),
        (Some(5.0), None)
    );
    assert_eq!(
        of(Metric::ProcessGpuMemory, "7"),
        Some(60.0),
        "once, though card and instances list it"
    );
}

#[test]
fn a_lost_card_is_no_data_and_comes_back_while_the_other_goes_on() {
    let both =
        "cards 2\n0.uuid GPU-a\n1.uuid GPU-b\n0.utilization 10\n0.memory_busy 1\n1.utilization 20\n1.memory_busy 2\n";
    let mut host = Host::new(both).opened();
    let cards = |readings: &[Reading]| -> Vec<String> {
        let utilization = readings
            .iter()
            .filter(|reading| reading.metric == Metric::GpuUtilization);
        utilization.map(|reading| reading.subject.to_string()).collect()
    };
    let mut seen = Vec::new();
    host.until("both cards", |_, readings| {
        seen.extend(cards(&readings));
        (seen.len() == 2).then_some(())
    });
    host.answer(&format!("{both}1.result {GPU_IS_LOST}\n"));
    host.turn();
    let state = host.until_state("the loss", failed);
    let SourceState::Failed { reason } = &state else {
        panic!("{state:?}")
    };
    assert!(reason.starts_with("GPU GPU-b: device fell off the bus"), "{reason}");
    assert!(host.remedy().contains("Xid"));
    assert_eq!(state.gap(), Gap::NoData);
    // The other card goes on, and neither it nor trying again makes the state another.
    for _ in 0..40 {
        host.pass(1);
        let found = host.until_state("a state", |_| true);
        assert_eq!(found, state);
        thread::sleep(Duration::from_millis(2));
    }
    let mut seen = Vec::new();
    for _ in 0..40 {
        seen.extend(cards(&host.turn()));
        thread::sleep(Duration::from_millis(5));
        assert_eq!(host.state(), Some(state.clone()));
    }
    assert!(!seen.is_empty() && seen.iter().all(|card| card == "GPU-a"), "{seen:?}");
    // The card is reset. The library is opened anew, at most a minute later.
    host.answer(both);
    let start = Instant::now();
    let mut seen = Vec::new();
    while !seen.contains(&"GPU-b".to_owned()) || host.state() != Some(SourceState::Active) {
        seen.extend(cards(&host.turn()));
        thread::sleep(Duration::from_millis(5));
        assert!(start.elapsed() < PATIENCE, "{:?}", host.state());
    }
}

#[test]
fn a_card_that_is_gone_when_the_library_is_opened_again_stays_missed() {
    let mut host = Host::new(ONE_CARD).opened();
    host.round();
    host.answer(&format!("{ONE_CARD}0.result {UNINITIALIZED}\n"));
    host.turn();
    host.until_state("the loss", failed);
    host.answer("cards 0\n");
    for _ in 0..60 {
        assert!(host.turn().is_empty());
        thread::sleep(Duration::from_millis(2));
        assert!(failed(&host.state().unwrap()), "{:?}", host.state());
    }
}

#[test]
fn a_card_that_hangs_is_late_and_keeps_no_other_from_being_read() {
    let both =
        "cards 2\n0.uuid GPU-a\n1.uuid GPU-b\n0.utilization 10\n0.memory_busy 1\n1.utilization 20\n1.memory_busy 2\n";
    let mut host = Host::new(both).opened();
    let mut seen = 0;
    host.until("both cards", |_, readings| {
        seen += readings.len();
        (seen == 4).then_some(())
    });
    host.answer(&format!("{both}0.hang 1\n"));
    for _ in 0..5 {
        let round = host.round();
        assert!(round.keys().all(|(_, card)| card == "GPU-b"), "{round:?}");
    }
    let state = host.state().unwrap();
    assert!(
        matches!(&state, SourceState::Late { reason } if reason == "GPU GPU-a does not answer"),
        "{state:?}"
    );
    assert_eq!(state.gap(), Gap::NoData);
    assert!(!host.remedy().is_empty());
    // What was asked long ago is not told as if it were of now; the next round is.
    host.answer(both);
    host.until_state("it answers", |state| *state == SourceState::Active);
    let mut seen = Vec::new();
    host.pass(2);
    host.until("both cards again", |host, readings| {
        assert!(readings.iter().all(|reading| reading.time == host.now().time));
        seen.extend(readings);
        (seen.len() == 4).then_some(())
    });
}

#[test]
fn a_library_that_hangs_while_it_is_opened_stops_nobody() {
    let mut host = Host::new("hang 1\n");
    assert!(host.turn().is_empty() && host.state().is_none());
    host.pass(31);
    assert!(
        matches!(host.state(), Some(SourceState::Late { .. })),
        "{:?}",
        host.state()
    );
    host.answer(ONE_CARD);
    host.until_state("it is open", |state| *state == SourceState::Active);
}

#[test]
fn a_host_without_library_card_or_driver_says_why() {
    let mut none = Host::with_card("", false);
    fs::remove_file(none.directory.path().join("libnvidia-ml.so.1")).unwrap();
    let state = none.until_state("a state", |_| true);
    let SourceState::Absent { reason } = &state else {
        panic!("{state:?}")
    };
    assert!(
        reason.starts_with("no NVIDIA GPU (") && reason.contains("libnvidia-ml.so.1"),
        "{reason}"
    );
    assert_eq!((state.gap(), none.remedy()), (Gap::Unsupported, ""));

    let mut no_library = Host::new("");
    fs::remove_file(no_library.directory.path().join("libnvidia-ml.so.1")).unwrap();
    let state = no_library.until_state("a state", |_| true);
    assert!(matches!(state, SourceState::Unsupported { .. }), "{state:?}");
    assert!(no_library.remedy().contains("gpu.library"), "{}", no_library.remedy());

    let mut no_card = Host::new("cards 0\n");
    let state = no_card.until_state("a state", |_| true);
    assert!(
        matches!(&state, SourceState::Unsupported { reason } if reason == "the driver knows no card"),
        "{state:?}"
    );
}

#[test]
fn errors_of_the_driver_have_a_remedy_each_and_are_tried_again_rarely() {
    type Fits = fn(&SourceState) -> bool;
    let cases: [(u32, Fits, &str); 3] = [
        (
            DRIVER_NOT_LOADED,
            |state| matches!(state, SourceState::Unsupported { .. }),
            "Load the NVIDIA driver",
        ),
        (VERSION_MISMATCH, failed, "load its modules anew"),
        (NO_PERMISSION, failed, "/dev/nvidia"),
    ];
    for (code, fits, remedy) in cases {
        let mut host = Host::new(&format!("init {code}\n{ONE_CARD}"));
        let state = host.until_state("a state", |_| true);
        assert!(fits(&state), "{state:?}");
        assert!(host.remedy().contains(remedy), "{}", host.remedy());
        host.answer(ONE_CARD);
        for _ in 0..29 {
            host.turn();
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(host.state(), Some(state), "58 s later it was not tried again");
        host.turn();
        host.until_state("it is tried after a minute", |state| *state == SourceState::Active);
        assert!(!host.round().is_empty());
    }
}
