//! The thread that gathers evidence: it may take as long as a large profile takes, and an evaluation must not wait for it.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::SystemTime,
};

use profiler_alerts::AlertId;
use profiler_store::state::{Encoding, Evidence as KeptEvidence};

use crate::{
    api::{self, SharedStore},
    census::CensusHandle,
    command::{Command, EngineHandle},
    evidence::{self, Breach, Course, memory::concerns_memory},
    memory::{OomKills, SharedMemory},
    readings::Board,
};

/// Breaches that may wait. Beyond that an alert has no evidence: many at once have one cause.
const QUEUE: usize = 8;
/// What the evidence of an alert is called, and its lines.
pub(super) const PROFILE: &str = "profile";
pub(super) const LINES: &str = "lines";
/// How hard bytes are packed: a profile of 200 KB takes a few milliseconds.
const LEVEL: i32 = 3;
/// Largest evidence that is unpacked.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// A breach to be looked at.
#[derive(Debug)]
struct Job {
    id: AlertId,
    breach: Breach,
    course: Option<Course>,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) id: AlertId,
    /// What grew, then the heaviest stacks, for whoever is told.
    pub(super) lines: Vec<String>,
    /// What is kept.
    pub(super) kept: Vec<KeptEvidence>,
}

/// Where evidence comes from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The windows.
    pub store: SharedStore,
    /// The readings.
    pub board: Arc<Board>,
    /// The sampling loop, whose current window has what was sampled last.
    pub engine: EngineHandle,
    /// Which code touched which memory, where that can be told.
    pub memory: SharedMemory,
    /// Processes that were killed because memory ran out.
    pub oom_kills: Arc<OomKills>,
    /// Counts objects of Python processes; none where nobody does.
    pub census: Option<CensusHandle>,
}

/// In reach of the owner of alerts.
#[derive(Debug)]
pub(super) struct Collector {
    jobs: SyncSender<Job>,
    findings: Receiver<Finding>,
}

impl Collector {
    /// Starts the thread. It ends when this is dropped, after what it is at.
    pub(super) fn start(sources: Sources) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel::<Job>(QUEUE);
        let (found, findings) = sync_channel(QUEUE);
        thread::Builder::new().name("evidence".to_owned()).spawn(move || {
            for job in waiting {
                if found.send(sources.look(job)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs, findings })
    }

    /// Has a breach looked at. Whether there was room.
    pub(super) fn look(&self, id: AlertId, breach: Breach, course: Option<Course>) -> bool {
        match self.jobs.try_send(Job { id, breach, course }) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// What was found since the last time.
    pub(super) fn found(&self) -> impl Iterator<Item = Finding> {
        self.findings.try_iter()
    }
}

impl Sources {
    fn look(&self, Job { id, breach, course }: Job) -> Finding {
        // What was sampled last tells most. Without it the windows before are still worth a look.
        let flushed = self.engine.begin(|reply| Command::Flush { reply });
        if let Ok(answer) = flushed {
            let _at_an_end_of_the_daemon = answer.blocking_recv();
        }
        let mut evidence = evidence::gather(&self.store, &self.board, &breach, course);
        if concerns_memory(breach.metric) {
            let pages = |query| match self.memory.get() {
                Some(memory) => memory.query_blocking(query).map_err(|error| error.to_string()),
                None => Err("page faults are not sampled on this host".to_owned()),
            };
            evidence.memory = Some(evidence::memory::gather(&self.store, &self.board, &breach, pages));
        }
        let lines = evidence::lines(&evidence);
        let made = SystemTime::now();
        let raw = api::encode_evidence(&evidence);
        let mut kept = vec![KeptEvidence {
            kind: LINES.to_owned(),
            encoding: Encoding::Raw,
            made,
            body: lines.join("\n").into_bytes(),
        }];
        match zstd::bulk::compress(&raw, LEVEL) {
            Ok(body) => kept.push(KeptEvidence {
                kind: PROFILE.to_owned(),
                encoding: Encoding::Zstd,
                made,
                body,
            }),
            Err(error) => tracing::error!(%error, "evidence could not be packed"),
        }
        Finding { id, lines, kept }
    }
}

/// Unpacks evidence.
///
/// # Errors
/// It was damaged, or is larger than any that was packed.
pub(super) fn unpack(kept: KeptEvidence) -> io::Result<Vec<u8>> {
    match kept.encoding {
        Encoding::Raw => Ok(kept.body),
        Encoding::Zstd => zstd::bulk::decompress(&kept.body, MAX_BYTES),
    }
}
