//! The thread that keeps the pages.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    time::{Duration, Instant, SystemTime},
};

use profiler_common::memory::process_salt;
use profiler_common::stop::StopReason;
use profiler_store::{Growth, GrowthLimits, GrowthProcess, Look, PageLook, PageTouch, TouchedStack};
use rustix::time::{ClockId, clock_gettime};

use super::{
    MemoryCommand, MemoryHandle, NamedFaults, NamedStack, QUEUE,
    condition::{Condition, LOST_NO_STACK, LOST_NOT_LOOKED_AT, add},
    presence::{Looked, Presence},
};
use crate::{
    kernel::records::Pid,
    processes::scan::ProcFs,
    stacks::faults::{FaultProcess, RawTouch},
};

/// Time between two looks at all pages.
const LOOK: Duration = Duration::from_secs(10);
/// Time between two looks for programs that run no more, and the same where there is no room for the map of another.
const SWEEP: Duration = Duration::from_secs(10);
const HASTY_SWEEP: Duration = Duration::from_secs(1);
/// CPU time of the looks at all pages: one part in so many of the time.
const LOOK_SHARE: u32 = 400;
/// Longest wait for something to do.
const TURN: Duration = Duration::from_millis(500);

/// What the keeper is made of.
#[derive(Debug)]
pub struct MemoryParts {
    /// Where procfs is mounted.
    pub proc: ProcFs,
    /// How long is kept what was.
    pub retention: Duration,
    /// Salt of the hash that chooses pages.
    pub salt: u64,
    /// Set to end it.
    pub stop: Arc<AtomicBool>,
}

/// Keeps the pages.
#[derive(Debug)]
pub struct MemoryKeeper {
    growth: Growth,
    presence: Presence,
    /// By the number of the program, for as long as it runs.
    running: HashMap<u64, (Pid, Option<u64>)>,
    salt: u64,
    commands: Receiver<MemoryCommand>,
    stop: Arc<AtomicBool>,
    look_due: Instant,
    swept: Instant,
    condition: Arc<Condition>,
}

impl Drop for MemoryKeeper {
    fn drop(&mut self) {
        if !self.stop.load(Ordering::Acquire) {
            self.condition.note_failed();
        }
    }
}

impl MemoryKeeper {
    /// A keeper that knows no page yet, and the handle to it.
    pub fn new(parts: MemoryParts) -> (Self, MemoryHandle) {
        let (sender, commands) = sync_channel(QUEUE);
        let condition = Arc::new(Condition::default());
        let keeper = Self {
            growth: Growth::new(GrowthLimits {
                retention: parts.retention,
                ..GrowthLimits::default()
            }),
            presence: Presence::new(parts.proc),
            running: HashMap::new(),
            salt: parts.salt,
            commands,
            stop: parts.stop,
            look_due: Instant::now() + LOOK,
            swept: Instant::now(),
            condition: Arc::clone(&condition),
        };
        let handle = MemoryHandle {
            commands: sender,
            condition,
        };
        (keeper, handle)
    }

    /// Keeps and answers until it is told to stop, or nobody can ask any more.
    pub fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            self.condition.note_turn(None);
            let command = self.commands.recv_timeout(TURN);
            self.condition.note_turn(Some(Instant::now()));
            match command {
                Ok(command) => self.take(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.swept.elapsed() >= SWEEP {
                self.sweep();
            }
            if Instant::now() >= self.look_due {
                self.look_at_all();
            }
            self.condition.note_kept(self.growth.status());
        }
    }

    fn take(&mut self, command: MemoryCommand) {
        let is_taken = match command {
            MemoryCommand::Window(window) => {
                self.on_window(window);
                true
            }
            MemoryCommand::Query { reply, .. } if reply.is_closed() => false,
            MemoryCommand::Query { query, reply } => {
                for image in self.growth.images_of(&query.target) {
                    self.look_at(image);
                }
                reply.send(self.growth.answer(&query, SystemTime::now())).is_ok()
            }
        };
        if !is_taken {
            tracing::trace!("nobody waits for an answer any more");
        }
    }

    /// Forgets the programs that run no more: a busy host starts and ends many between two looks at all pages.
    fn sweep(&mut self) {
        for image in self.presence.gone() {
            match self.running.get(&image).copied() {
                Some((pid, start_ticks)) => {
                    let looked = self.presence.after_end(pid, start_ticks);
                    self.on_end(image, &looked);
                }
                None => self.presence.close(image),
            }
        }
        self.swept = Instant::now();
    }

    fn look_at_all(&mut self) {
        let begun = cpu_time();
        for image in self.growth.running() {
            self.look_at(image);
        }
        let gone: Vec<u64> = self
            .running
            .keys()
            .copied()
            .filter(|image| !self.growth.is_running(*image))
            .collect();
        for image in gone {
            self.forget(image);
        }
        self.growth.expire(SystemTime::now());
        let took = cpu_time().saturating_sub(begun);
        self.look_due = Instant::now() + LOOK.max(took * LOOK_SHARE);
    }

    /// Looks which pages of a program are still there.
    fn look_at(&mut self, image: u64) {
        let Some((pid, start_ticks)) = self.running.get(&image).copied() else {
            return;
        };
        let pages = self.growth.pages_of(image);
        match self.presence.look(image, pid, start_ticks, &pages, false) {
            Looked::Found(looks) => self.growth.found(image, &pages, &looks),
            other => self.on_end(image, &other),
        }
    }

    /// The process has ended or goes on with another program.
    fn on_end(&mut self, image: u64, looked: &Looked) {
        match looked {
            Looked::Found(_) => {}
            Looked::Refused(reason) => {
                tracing::debug!(image, %reason, "pages cannot be looked at");
                self.condition.note_refused(0, reason, Instant::now());
            }
            Looked::Replaced => {
                self.growth.replaced(image);
                self.forget(image);
            }
            Looked::Ended => {
                self.growth.ended(image, SystemTime::now());
                self.forget(image);
            }
        }
    }

    fn forget(&mut self, image: u64) {
        self.running.remove(&image);
        self.presence.close(image);
    }

    fn on_window(&mut self, window: NamedFaults) {
        let NamedFaults {
            end,
            mut lost,
            processes,
            stacks,
        } = window;
        for (reason, count) in self.condition.take_missed() {
            add(&mut lost, &reason, count);
        }
        self.growth.note_lost(end, &lost);
        for process in processes {
            self.on_process(&process, &stacks, end);
        }
    }

    /// The faults of a process with their stacks. Those without one are counted as lost.
    fn touches(
        &mut self,
        process: &FaultProcess,
        stacks: &HashMap<u32, NamedStack>,
        end: SystemTime,
    ) -> Vec<PageTouch> {
        let mut shared: BTreeMap<(u32, StopReason), Arc<TouchedStack>> = BTreeMap::new();
        let mut touches = Vec::with_capacity(process.touches.len());
        for touch in &process.touches {
            let Some(stack) = stacks.get(&touch.stack) else {
                continue;
            };
            let stack = shared
                .entry((touch.stack, touch.stop))
                .or_insert_with(|| self.growth.stack(touched_stack(stack, touch.stop)));
            touches.push(page_touch(touch, Arc::clone(stack)));
        }
        let without = (process.touches.len() - touches.len()) as u64;
        if without > 0 {
            self.condition.note_without_stack(without);
            self.growth
                .note_lost(end, &[(LOST_NO_STACK.to_owned(), without)].into());
        }
        touches
    }

    fn on_process(&mut self, process: &FaultProcess, stacks: &HashMap<u32, NamedStack>, end: SystemTime) {
        let image = process.image;
        let pid = Pid(process.label.pid);
        let touches = self.touches(process, stacks, end);
        let mut pages: Vec<PageLook> = touches
            .iter()
            .map(|touch| PageLook {
                page: touch.page,
                pages: 1,
            })
            .collect();
        pages.sort_unstable();
        pages.dedup();
        if self.presence.is_full() && self.swept.elapsed() >= HASTY_SWEEP {
            self.sweep();
        }
        let looked = if process.is_running {
            self.presence.look(image, pid, process.start_ticks, &pages, true)
        } else {
            self.presence.after_end(pid, process.start_ticks)
        };
        if matches!(looked, Looked::Found(_) | Looked::Refused(_)) {
            self.running.insert(image, (pid, process.start_ticks));
        }
        let looks: Vec<Look> = match &looked {
            Looked::Found(looks) => {
                let found: HashMap<u64, Look> = pages.iter().map(|page| page.page).zip(looks.iter().copied()).collect();
                let look = |touch: &PageTouch| found.get(&touch.page).copied().unwrap_or(Look::Unknown);
                touches.iter().map(look).collect()
            }
            Looked::Replaced | Looked::Ended => vec![Look::Unknown; touches.len()],
            // Kept as if they were there, they would never go: growth would be all that was ever touched.
            Looked::Refused(reason) => {
                let count = touches.len() as u64;
                self.condition.note_refused(count, reason, Instant::now());
                let lost = [(LOST_NOT_LOOKED_AT.to_owned(), count)].into();
                self.growth.note_lost(end, &lost);
                vec![Look::Gone; touches.len()]
            }
        };
        let process = GrowthProcess {
            image,
            label: process.label.clone(),
            salt: process_salt(self.salt, pid.0),
            shares_pages: process.shares_pages,
            runs_python: process.runs_python,
        };
        self.growth.touch(&process, &touches, &looks);
        if !self.growth.has_pages(image) {
            self.presence.close(image);
        }
        self.on_end(image, &looked);
    }
}

/// CPU time of the calling thread.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn touched_stack(stack: &NamedStack, stop: StopReason) -> TouchedStack {
    TouchedStack {
        thread: Arc::clone(&stack.thread),
        frames: stack.frames.clone(),
        stop: match stop {
            StopReason::Root | StopReason::NoUserRegisters => None,
            other => Some(other.name()),
        },
    }
}

fn page_touch(touch: &RawTouch, stack: Arc<TouchedStack>) -> PageTouch {
    PageTouch {
        page: touch.page,
        level: touch.level,
        code: touch.code,
        time: touch.time,
        stack,
    }
}

#[cfg(test)]
mod tests;
