//! Censuses one after the other, each on a thread of its own: one whose reads never end is left behind, and others are taken
//! all the same.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{CensusError, GLANCE, Options, Taken, kept::Kept, pace, take::Taker, waits::Waits};
use crate::{health::Health, kernel::records::Pid, processes::scan::ProcFs};

/// How long the kernel may take for one thing that it is asked for; and the same once nobody waits for the census any more.
const HUNG_AFTER: Duration = Duration::from_secs(10);
const UNWANTED_HUNG_AFTER: Duration = Duration::from_secs(1);
/// Censuses that may be left behind at one time.
const MAX_HUNG: usize = 2;

/// Takes censuses.
#[derive(Debug)]
pub(super) struct Runs {
    proc: ProcFs,
    health: Arc<Health>,
    kept: Arc<Mutex<Kept>>,
    hung_after: Duration,
    /// Whose censuses were left behind, until they end.
    hung: Vec<(Pid, JoinHandle<()>)>,
}

impl Runs {
    pub(super) fn new(proc: ProcFs, health: Arc<Health>) -> Self {
        Self {
            proc,
            health,
            kept: Arc::default(),
            hung_after: HUNG_AFTER,
            hung: Vec::new(),
        }
    }

    /// Takes a census, and waits for it. `is_unwanted` tells whether nobody else does any more.
    pub(super) fn take(
        &mut self,
        pid: Pid,
        options: Options,
        is_unwanted: impl Fn() -> bool,
    ) -> Result<Taken, CensusError> {
        self.hung.retain(|(_, thread)| !thread.is_finished());
        if self.hung.iter().any(|(hung, _)| *hung == pid) {
            return Err(self.hung_error(pid));
        }
        if self.hung.len() >= MAX_HUNG {
            let count = self.hung.len();
            return Err(CensusError::Stuck { count });
        }
        let run = Run {
            proc: self.proc.clone(),
            pid,
            options,
            health: Arc::clone(&self.health),
            kept: Arc::clone(&self.kept),
            waits: Arc::default(),
            unwanted: Arc::default(),
        };
        let (waits, unwanted) = (Arc::clone(&run.waits), Arc::clone(&run.unwanted));
        let (sender, taken) = sync_channel(1);
        let builder = thread::Builder::new().name("census-take".to_owned());
        let spawned = builder.spawn(move || {
            if sender.send(run.take()).is_err() {
                tracing::info!(pid = pid.0, "a census that was left behind has ended");
            }
        });
        let failed = |reason: String| CensusError::Refused { pid, reason };
        let thread = spawned.map_err(|error| failed(format!("no thread can be started: {error}")))?;
        loop {
            match taken.recv_timeout(GLANCE) {
                Ok(taken) => return taken,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed("the census failed by a fault of its own".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let left = is_unwanted();
            if left {
                unwanted.store(true, Ordering::Release);
            }
            let limit = if left { UNWANTED_HUNG_AFTER } else { self.hung_after };
            if waits.waited() >= limit {
                // Should it go on some day, it does not for long.
                unwanted.store(true, Ordering::Release);
                self.hung.push((pid, thread));
                return Err(if left {
                    CensusError::Unwanted
                } else {
                    self.hung_error(pid)
                });
            }
        }
    }

    fn hung_error(&self, pid: Pid) -> CensusError {
        CensusError::Hung {
            pid,
            seconds: self.hung_after.as_secs(),
        }
    }
}

/// One census.
#[derive(Debug)]
struct Run {
    proc: ProcFs,
    pid: Pid,
    options: Options,
    health: Arc<Health>,
    kept: Arc<Mutex<Kept>>,
    waits: Arc<Waits>,
    unwanted: Arc<AtomicBool>,
}

impl Run {
    fn take(&self) -> Result<Taken, CensusError> {
        pace::give_way();
        let is_unwanted = |spent| {
            self.health.budget.note_asked_for(spent);
            self.unwanted.load(Ordering::Acquire)
        };
        let taker = Taker {
            proc: &self.proc,
            pid: self.pid,
            options: self.options,
            is_unwanted: &is_unwanted,
            waits: &self.waits,
        };
        let (taken, earlier) = taker.take(|start_ticks, program| {
            let earlier = self
                .options
                .compare
                .then(|| self.kept().find(self.pid, start_ticks, program));
            earlier.flatten()
        })?;
        self.kept().keep(&taken, earlier);
        Ok(taken)
    }

    /// One that panicked while it had the lock left whole censuses behind.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Instant};

    use rustix::fs::{CWD, FileType, Mode};

    use super::*;

    const OPTIONS: Options = Options {
        compare: true,
        holders: true,
    };

    /// A process whose memory cannot be opened until somebody writes into it.
    fn stuck_process(root: &Path, pid: u32) {
        let folder = root.join(pid.to_string());
        fs::create_dir(&folder).unwrap();
        let stat = format!("{pid} (stuck) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 3 0 4242 0 0");
        fs::write(folder.join("stat"), stat).unwrap();
        let memory = folder.join("mem");
        rustix::fs::mknodat(CWD, memory, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    #[test]
    fn one_that_hangs_is_left_behind_and_others_are_taken() {
        let root = tempfile::tempdir().unwrap();
        for pid in [7, 8, 9] {
            stuck_process(root.path(), pid);
        }
        let mut runs = Runs::new(ProcFs::new(root.path()), Arc::new(Health::new()));
        runs.hung_after = Duration::from_millis(100);
        let hung = |pid| CensusError::Hung { pid, seconds: 0 };
        for _ in 0..2 {
            let taken = runs.take(Pid(7), OPTIONS, || false);
            assert_eq!(taken.err(), Some(hung(Pid(7))));
            assert_eq!(runs.hung.len(), 1, "no other is begun of the same process");
        }
        let gone = || Some(CensusError::NoSuchProcess { pid: Pid(10) });
        assert_eq!(runs.take(Pid(10), OPTIONS, || false).err(), gone());
        // Nobody waits for that one, and it is not waited for as long.
        runs.hung_after = Duration::from_secs(600);
        let unwanted = runs.take(Pid(8), OPTIONS, || true).err();
        assert_eq!(unwanted, Some(CensusError::Unwanted));
        let stuck = runs.take(Pid(9), OPTIONS, || false).err();
        assert_eq!(stuck, Some(CensusError::Stuck { count: MAX_HUNG }));
        // What was waited for comes.
        for pid in ["7", "8"] {
            drop(
                fs::File::options()
                    .write(true)
                    .open(root.path().join(pid).join("mem"))
                    .unwrap(),
            );
        }
        let begun = Instant::now();
        while runs.hung.iter().any(|(_, thread)| !thread.is_finished()) {
            assert!(begun.elapsed() < Duration::from_secs(60), "they do not end");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(runs.take(Pid(10), OPTIONS, || false).err(), gone());
        assert!(runs.hung.is_empty());
    }
}
