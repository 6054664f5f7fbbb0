//! GPUs, as the library of NVIDIA's driver tells of them.
//!
//! In: the library, opened when it is there, and which processes are watched. Out: readings of each card and each instance
//! of one, of the watched processes on them, and of their services. A driver may take its time, or hang: each card has a
//! thread of its own, which is asked and never waited for. So what is read is told one turn later, with its own time, and a
//! card that does not answer keeps no other from being read. A card or library that is lost is tried again now and then.

mod nvml;
mod round;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender, TryRecvError},
    },
    thread,
    time::Duration,
};

use self::{
    nvml::{CardId, Handle, Library},
    round::{GpuProcess, Round, Watched},
};
use crate::{
    Reading, WatchedProcess,
    source::{Moment, Schedule, Source, SourceReport, SourceState, UNSUPPORTED_RETRY},
};

/// A card that has not answered for so long is late.
const CARD_LATE: Duration = Duration::from_secs(5);
/// Opening the library may wake every card first.
const OPEN_LATE: Duration = Duration::from_secs(30);
/// Vendor of NVIDIA's devices on PCI, as sysfs writes it.
const VENDOR: &str = "0x10de";
/// Class of devices on PCI that draw or compute.
const CLASS: &str = "0x03";
/// Most devices on PCI that are looked at.
const MAX_DEVICES: usize = 4096;
/// More than a vendor or class has characters.
const MAX_NUMBER_BYTES: u64 = 16;

/// Why a card or the library is of no use.
#[derive(Clone, Debug)]
struct Trouble {
    /// What happened, in one line.
    reason: String,
    /// What an operator can do about it; empty if nothing is known.
    remedy: &'static str,
    /// There is no driver, and where there is no card there need be none.
    is_missing: bool,
}

impl Trouble {
    fn panicked() -> Self {
        Self {
            reason: "the thread that asks it panicked".to_owned(),
            remedy: "Report the panic that the daemon wrote to standard error.",
            is_missing: false,
        }
    }

    fn no_thread(error: &std::io::Error) -> Self {
        Self {
            reason: format!("no thread to ask it: {error}"),
            remedy: "",
            is_missing: false,
        }
    }
}

/// Reads GPUs.
#[derive(Debug)]
pub struct GpuSampler {
    root: PathBuf,
    library: Option<PathBuf>,
    schedule: Schedule,
    stage: Stage,
    /// When what is lost is tried again.
    retry_due: Duration,
    /// Cards that were there once, and those of them that are lost.
    known: BTreeSet<Arc<str>>,
    lost: BTreeMap<Arc<str>, Trouble>,
    left_out: u64,
    watched: Watched,
    state: Option<(SourceState, &'static str)>,
}

/// How far it has come.
#[derive(Debug)]
enum Stage {
    /// Nothing is open.
    Closed,
    /// A thread opens the library.
    Opening {
        since: Duration,
        answer: Receiver<Result<Library, Trouble>>,
    },
    /// The cards that are asked. The library is open as long as the thread of one holds it.
    Open(Vec<Card>),
}

/// A card, as seen from outside of its thread.
#[derive(Debug)]
struct Card {
    uuid: Arc<str>,
    ask: SyncSender<Moment>,
    answers: Receiver<Result<Round, Trouble>>,
    /// When it was asked what it has not answered yet, since boot.
    asked: Option<Duration>,
    /// Who used it at the last round.
    processes: Vec<GpuProcess>,
}

impl GpuSampler {
    /// Opens the library at the first turn, and again now and then while it cannot be. `library` goes before the one that
    /// the host's loader finds. Below `root`, which is `/` but in tests, is only looked whether the host has a card at all.
    pub fn new(root: &Path, library: Option<&Path>) -> Self {
        Self {
            root: root.to_owned(),
            library: library.map(Path::to_owned),
            schedule: Schedule::new(Source::Gpu),
            stage: Stage::Closed,
            retry_due: Duration::ZERO,
            known: BTreeSet::new(),
            lost: BTreeMap::new(),
            left_out: 0,
            watched: Watched::new(),
            state: None,
        }
    }

    /// Sets the processes whose share of the cards is told from now on.
    pub fn watch(&mut self, wanted: impl IntoIterator<Item = WatchedProcess>) {
        self.watched = round::by_pid(wanted);
    }

    /// Takes what was answered since the last turn, and asks again when it is time. Never waits.
    pub fn sample(&mut self, now: Moment, readings: &mut Vec<Reading>) {
        match &self.stage {
            Stage::Closed if now.since_boot >= self.retry_due => self.open(now),
            Stage::Closed => {}
            Stage::Opening { since, answer } => match answer.try_recv() {
                Ok(Ok(library)) => self.connect(library, now),
                Ok(Err(trouble)) => self.close(trouble, now),
                Err(TryRecvError::Disconnected) => self.close(Trouble::panicked(), now),
                Err(TryRecvError::Empty) if is_over(*since, OPEN_LATE, now) => {
                    let reason = "the library of the NVIDIA driver does not answer".to_owned();
                    self.state = Some((SourceState::Late { reason }, HANGS));
                }
                Err(TryRecvError::Empty) => {}
            },
            Stage::Open(_) => self.read(now, readings),
        }
    }

    /// How it is doing; none before it is known.
    pub fn report(&self) -> Option<SourceReport<'_>> {
        self.state.as_ref().map(|(state, remedy)| SourceReport {
            source: Source::Gpu,
            state,
            remedy,
            left_out: self.left_out,
        })
    }

    fn open(&mut self, now: Moment) {
        let (tell, answer) = mpsc::sync_channel(1);
        let library = self.library.clone();
        let spawned = thread::Builder::new().name("gpu-open".to_owned()).spawn(move || {
            // Nobody listens any more once the sampler is gone.
            drop(tell.send(Library::open(library.as_deref())));
        });
        match spawned {
            Ok(_) => {
                let since = now.since_boot;
                self.stage = Stage::Opening { since, answer };
            }
            Err(error) => self.close(Trouble::no_thread(&error), now),
        }
    }

    /// Gives the library up until it is tried again.
    fn close(&mut self, trouble: Trouble, now: Moment) {
        self.stage = Stage::Closed;
        self.retry_due = now.since_boot + UNSUPPORTED_RETRY;
        let Trouble {
            reason,
            remedy,
            is_missing,
        } = trouble;
        // What was there before is lost.
        let state = if !is_missing || !self.known.is_empty() {
            SourceState::Failed { reason }
        } else if has_card(&self.root) {
            SourceState::Unsupported { reason }
        } else {
            let reason = format!("no NVIDIA GPU ({reason})");
            self.state = Some((SourceState::Absent { reason }, ""));
            return;
        };
        self.state = Some((state, remedy));
    }

    /// Gives each card of the library its thread.
    fn connect(&mut self, library: Library, now: Moment) {
        if library.cards.is_empty() && library.lost.is_empty() && self.known.is_empty() {
            let trouble = Trouble {
                reason: "the driver knows no card".to_owned(),
                remedy: "Look for NVRM in the kernel's log.",
                is_missing: true,
            };
            return self.close(trouble, now);
        }
        self.left_out = library.left_out;
        let there: BTreeSet<Arc<str>> = library.cards.iter().map(|card| Arc::clone(&card.uuid)).collect();
        let before = std::mem::take(&mut self.lost);
        for uuid in self.known.difference(&there) {
            let trouble = before.get(uuid).cloned().unwrap_or_else(|| Trouble {
                reason: "it is not there any more".to_owned(),
                remedy: "Look for NVRM and Xid in the kernel's log.",
                is_missing: false,
            });
            self.lost.insert(Arc::clone(uuid), trouble);
        }
        // A card without a name is one that is missed by its name, if as many are.
        if self.lost.len() < library.lost.len() {
            self.lost.extend(library.lost.iter().cloned());
        }
        self.known.extend(there);
        let handles: Vec<(CardId, Handle)> = library
            .cards
            .iter()
            .map(|card| (card.clone(), library.handle()))
            .collect();
        // From here on the threads hold it, so that it is closed by one of them.
        drop(library);
        let mut cards = Vec::with_capacity(handles.len());
        for (id, handle) in handles {
            let uuid = Arc::clone(&id.uuid);
            match Card::start(id, handle) {
                Ok(card) => cards.push(card),
                Err(error) => {
                    self.lost.insert(uuid, Trouble::no_thread(&error));
                }
            }
        }
        self.retry_due = now.since_boot + UNSUPPORTED_RETRY;
        self.stage = Stage::Open(cards);
        self.ask(now);
    }

    fn read(&mut self, now: Moment, readings: &mut Vec<Reading>) {
        let Stage::Open(cards) = &mut self.stage else { return };
        let mut is_new = false;
        cards.retain_mut(|card| match card.take(now, readings) {
            Ok(answered) => {
                is_new |= answered;
                true
            }
            Err(trouble) => {
                self.lost.insert(Arc::clone(&card.uuid), trouble);
                self.retry_due = now.since_boot + UNSUPPORTED_RETRY;
                false
            }
        });
        if is_new {
            let processes = cards.iter().flat_map(|card| &card.processes);
            round::join(now, processes, &self.watched, readings);
        }
        // A thread that hangs holds the library: to open it anew would only bring another that hangs.
        let is_idle = cards.iter().all(|card| card.asked.is_none());
        if !self.lost.is_empty() && is_idle && now.since_boot >= self.retry_due {
            self.stage = Stage::Closed;
            // The threads are to close it first.
            self.retry_due = now.since_boot + Source::Gpu.interval();
            return;
        }
        self.ask(now);
    }

    /// Asks the cards that have answered, when it is time, and settles how all do.
    fn ask(&mut self, now: Moment) {
        let Stage::Open(cards) = &mut self.stage else { return };
        if self.schedule.take_turn(now) {
            for card in cards.iter_mut().filter(|card| card.asked.is_none()) {
                // A thread that has ended says so by its answers.
                card.asked = card.ask.try_send(now).is_ok().then_some(now.since_boot);
            }
        }
        let mut late = cards.iter().filter(|card| card.is_late(now));
        self.state = Some(if let Some((uuid, trouble)) = self.lost.first_key_value() {
            let reason = format!("GPU {uuid}: {}{}", trouble.reason, and_others(self.lost.len() - 1));
            (SourceState::Failed { reason }, trouble.remedy)
        } else if let Some(card) = late.next() {
            let reason = format!("GPU {} does not answer{}", card.uuid, and_others(late.count()));
            (SourceState::Late { reason }, HANGS)
        } else {
            (SourceState::Active, "")
        });
    }
}

/// What can be done about a driver that hangs.
const HANGS: &str = "Look for NVRM and Xid in the kernel's log; see whether nvidia-smi answers.";

impl Card {
    fn start(id: CardId, handle: Handle) -> std::io::Result<Self> {
        let (ask, asked) = mpsc::sync_channel(1);
        let (answer, answers) = mpsc::sync_channel(1);
        let uuid = Arc::clone(&id.uuid);
        thread::Builder::new()
            .name("gpu".to_owned())
            .spawn(move || handle.serve(&id, asked.into_iter(), |result| answer.send(result).is_ok()))?;
        Ok(Self {
            uuid,
            ask,
            answers,
            asked: None,
            processes: Vec::new(),
        })
    }

    /// Takes an answer if there is one, and says whether it tells of now.
    fn take(&mut self, now: Moment, readings: &mut Vec<Reading>) -> Result<bool, Trouble> {
        match self.answers.try_recv() {
            Ok(Ok(round)) => {
                let was_late = self.is_late(now);
                self.asked = None;
                if was_late {
                    return Ok(false);
                }
                readings.extend(round.readings);
                self.processes = round.processes;
                Ok(true)
            }
            Ok(Err(trouble)) => Err(trouble),
            Err(TryRecvError::Disconnected) => Err(Trouble::panicked()),
            Err(TryRecvError::Empty) => {
                if self.is_late(now) {
                    self.processes.clear();
                }
                Ok(false)
            }
        }
    }

    fn is_late(&self, now: Moment) -> bool {
        self.asked.is_some_and(|asked| is_over(asked, CARD_LATE, now))
    }
}

fn is_over(since: Duration, longest: Duration, now: Moment) -> bool {
    now.since_boot.saturating_sub(since) > longest
}

fn and_others(count: usize) -> String {
    match count {
        0 => String::new(),
        count => format!("; {count} more likewise"),
    }
}

/// Whether the host has a card at all: without one, nobody misses the driver.
fn has_card(root: &Path) -> bool {
    let Ok(devices) = fs::read_dir(root.join("sys/bus/pci/devices")) else {
        return false;
    };
    devices.take(MAX_DEVICES).flatten().any(|device| {
        let is = |name: &str, wanted: &str| {
            let mut text = String::new();
            let file = File::open(device.path().join(name));
            file.and_then(|file| file.take(MAX_NUMBER_BYTES).read_to_string(&mut text))
                .is_ok_and(|_| text.starts_with(wanted))
        };
        is("vendor", VENDOR) && is("class", CLASS)
    })
}
