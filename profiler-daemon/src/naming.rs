//! The thread that names windows and stores them.

mod caches;
mod mapped;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    time::{Duration, SystemTime},
};

use profiler_profile::Frame;

use self::caches::Caches;
use crate::{
    api::SharedStore,
    engine::Naming,
    health::{Health, Part, PartState},
    memory::{MemoryHandle, NamedFaults, NamedStack},
    processes,
    stacks::{faults::FaultWindow, window::RawStack},
    symbols::{Limitation, Symbols},
};

/// Limitations that are remembered, so that each is told once.
const MAX_TOLD: usize = 1024;
/// No window waits longer to be named: one that seems to was ended before the time of day was set.
const MAX_LATE: Duration = Duration::from_secs(60);

/// Names windows and stores them.
#[derive(Debug)]
pub struct Namer {
    /// How.
    pub settings: profiler_config::Symbols,
    /// Where the state of naming is reported.
    pub health: Arc<Health>,
    /// Where profiles go.
    pub store: SharedStore,
    /// Where page faults go.
    pub memory: MemoryHandle,
    /// Where calls for memory go.
    pub mapped: SharedStore,
    /// Set when nobody can ask for profiles any more.
    pub stop: Arc<AtomicBool>,
}

impl Namer {
    /// Names windows until nobody sends any more, or until it is told to stop: what is in memory only is worth nothing then.
    /// `proc_root` is where procfs is mounted.
    pub fn run(self, proc_root: &Path, windows: &Receiver<Naming>) {
        let mut caches = Caches::new(&self.settings, proc_root, &self.stop);
        let mut told = Told::default();
        self.health.report(Part::Symbols, PartState::Active);
        self.tell(caches.symbols(&self.health.budget), &mut told);
        while let Ok(Naming {
            window,
            faults,
            mapped,
            waiting,
        }) = windows.recv()
            && !self.stop.load(Ordering::Acquire)
        {
            let symbols = caches.symbols(&self.health.budget);
            let profile = symbols.name(&window);
            // Cut short: what it lacks says nothing about the objects.
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            self.tell(symbols, &mut told);
            let late = SystemTime::now().duration_since(profile.end).unwrap_or_default();
            self.store.lock().unwrap_or_else(PoisonError::into_inner).insert_late(
                profile,
                processes::uptime(),
                late.min(MAX_LATE),
            );
            if let Some(faults) = faults {
                self.memory.window(name_faults(symbols, faults));
            }
            if let Some(mapped) = mapped {
                let profile = mapped::name(symbols, &mapped);
                self.mapped
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(profile, processes::uptime());
            }
            for reply in waiting {
                if reply.send(Ok(())).is_err() {
                    tracing::trace!("nobody waits for the window any more");
                }
            }
        }
    }

    /// Reports how kernel functions are named, and logs what cannot be named well; each only when it is news.
    fn tell(&self, symbols: &Symbols, told: &mut Told) {
        let state = kernel_symbols_state(symbols);
        if told.kernel.as_ref() != Some(&state) {
            self.health.report(Part::KernelSymbols, state.clone());
            told.kernel = Some(state);
        }
        for Limitation { object, reason } in symbols.limitations() {
            if told.limitations.len() < MAX_TOLD && told.limitations.insert((object.to_string(), reason.clone())) {
                tracing::info!(%object, %reason, "not all of an object can be named");
            }
        }
    }
}

/// Names the stacks of page faults.
fn name_faults(symbols: &mut Symbols, faults: FaultWindow) -> NamedFaults {
    let FaultWindow {
        window,
        stacks,
        processes,
    } = faults;
    let mut numbers: HashMap<(u32, &RawStack), Box<[u32]>> = HashMap::new();
    let profile = symbols.name_with(&window, |pid, stack, frames| {
        numbers.insert((pid, stack), frames.into());
    });
    let frames: Vec<Arc<Frame>> = profile.frames.iter().cloned().map(Arc::new).collect();
    let mut named = HashMap::new();
    let pids: HashMap<u32, u32> = processes
        .iter()
        .flat_map(|process| process.touches.iter().map(|touch| (touch.stack, process.label.pid)))
        .collect();
    for (number, stack) in &stacks {
        let found = pids.get(number).and_then(|pid| numbers.get(&(*pid, stack)));
        let frames = found.map(|numbers| {
            numbers
                .iter()
                .filter_map(|number| frames.get(*number as usize).cloned())
        });
        named.insert(
            *number,
            NamedStack {
                thread: Arc::clone(&stack.thread),
                frames: frames.map(Iterator::collect).unwrap_or_default(),
            },
        );
    }
    NamedFaults {
        end: window.end,
        lost: window.lost,
        processes,
        stacks: named,
    }
}

#[derive(Debug, Default)]
struct Told {
    kernel: Option<PartState>,
    limitations: HashSet<(String, String)>,
}

fn kernel_symbols_state(symbols: &Symbols) -> PartState {
    match symbols.kernel_error() {
        None => PartState::Active,
        Some(error) => PartState::Failed {
            reason: error.to_string(),
            remedy: "Give the daemon CAP_SYSLOG, and set kernel.kptr_restrict to 0 or 1.".to_owned(),
        },
    }
}
