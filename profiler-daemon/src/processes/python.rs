//! Which images run Python, and what is known of their interpreters.
//!
//! An image that maps an interpreter is given to the builder, which holds the interpreter's layout against the process.
//! Until that has succeeded, and where it does not, its native stacks are all there is. A process that is still starting
//! is looked at again, less and less often; one that embeds an interpreter and calls it now and then, for as long as it runs.

use std::{collections::BTreeMap, sync::Arc};

use profiler_common::python::PythonLayout;
use profiler_unwinding::python::{Libc, Version};

use super::{
    clock::Now,
    interpreter::{Again, Interpreter, MappedInterpreter, Unfit},
    jobs::Job,
    owner::Processes,
    process::{Image, ImageId},
    walker_tables::WalkerTables,
};
use crate::command::{InterpreterState, InterpreterSummary, Runtime};

/// Time after which a process is looked at again that was not fit; it doubles each time.
const FIRST_RETRY_NS: u64 = 50_000_000;
/// Longest such time.
const LAST_RETRY_NS: u64 = 10_000_000_000;
/// Looks at a process whose interpreter runs and does not fit.
const MAX_LOOKS: u32 = 12;
/// Time after which a process is looked at again that was looked at so often and runs no Python code.
const IDLE_RETRY_NS: u64 = 30_000_000_000;
/// Reasons of refusals that are told apart in counts.
const MAX_REASONS: usize = 32;
/// Processes that wait for another look.
const MAX_WAITING: usize = 4096;

/// What is known of the interpreter of an image.
#[derive(Clone, Debug, Default)]
pub(super) enum PythonState {
    /// It has none, as far as is known.
    #[default]
    None,
    /// The builder is at it, or will be.
    Looking {
        mapped: Arc<MappedInterpreter>,
        looks: u32,
        /// Why the last look did not succeed.
        reason: Arc<str>,
    },
    /// Its Python stacks are walked.
    Active(Arc<Interpreter>),
    /// Its Python stacks are not walked.
    Refused {
        object: Arc<str>,
        version: Option<Version>,
        reason: Arc<str>,
    },
}

impl PythonState {
    /// What the walker is told.
    pub(super) fn walk(&self) -> Option<&PythonLayout> {
        match self {
            Self::Active(interpreter) => Some(&interpreter.layout.walk),
            _ => None,
        }
    }

    /// What a fork has of it: its memory is a copy, but a look at one says nothing about the other.
    pub(super) fn of_fork(&self) -> Self {
        match self {
            Self::Looking { .. } => Self::None,
            other => other.clone(),
        }
    }

    /// What is shown of it.
    pub(super) fn summary(&self) -> Option<InterpreterSummary> {
        let summary = |object: &Arc<str>, version: Option<Version>, state, reason: &str| InterpreterSummary {
            object: Arc::clone(object),
            version: version.map(|version| version.to_string()),
            free_threaded: false,
            state,
            reason: reason.to_owned(),
        };
        match self {
            Self::None => None,
            Self::Looking { mapped, reason, .. } => Some(InterpreterSummary {
                free_threaded: mapped.object.free_threaded,
                ..summary(
                    &mapped.name,
                    Some(mapped.object.version),
                    InterpreterState::Looking,
                    reason,
                )
            }),
            Self::Active(interpreter) => Some(InterpreterSummary {
                free_threaded: interpreter.layout.free_threaded,
                ..summary(
                    &interpreter.object,
                    Some(interpreter.layout.version),
                    InterpreterState::Active,
                    "",
                )
            }),
            Self::Refused {
                object,
                version,
                reason,
            } => Some(summary(object, *version, InterpreterState::Refused, reason)),
        }
    }
}

/// What becomes of the Python stacks of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PythonWalk {
    /// It has none, as far as is known.
    NoPython,
    /// Its interpreter is being looked at.
    NotChecked,
    /// They are walked.
    Walked,
    /// They are not.
    Refused,
}

/// Name of an object, and why the interpreter in it cannot be used.
type Unusable = (Arc<str>, Arc<str>);

impl Image {
    /// The interpreter whose stacks are walked in it.
    pub(crate) fn interpreter(&self) -> Option<&Arc<Interpreter>> {
        match &self.python {
            PythonState::Active(interpreter) => Some(interpreter),
            _ => None,
        }
    }

    /// What becomes of its Python stacks.
    pub(crate) fn python_walk(&self) -> PythonWalk {
        match &self.python {
            PythonState::Active(_) => PythonWalk::Walked,
            PythonState::Refused { .. } => PythonWalk::Refused,
            PythonState::Looking { .. } => PythonWalk::NotChecked,
            PythonState::None if self.runtime() == Runtime::Python => PythonWalk::NotChecked,
            PythonState::None => PythonWalk::NoPython,
        }
    }

    /// The interpreter among what it has mapped; or the name of its object and why that cannot be used.
    fn mapped_interpreter(&self) -> Option<Result<MappedInterpreter, Unusable>> {
        self.mappings.live().find_map(|mapping| {
            let built = mapping.object.built()?;
            let name = &mapping.object.name;
            match built.python.as_ref()? {
                Ok(object) => {
                    let bias = built.segments.bias(mapping.start, mapping.file_offset)?;
                    Some(Ok(MappedInterpreter {
                        object: Arc::clone(object),
                        name: Arc::clone(name),
                        bias,
                        libcs: object.libc.map_or_else(|| self.likely_libcs(), |libc| vec![libc]),
                    }))
                }
                Err(reason) => Some(Err((Arc::clone(name), Arc::clone(reason)))),
            }
        })
    }

    /// What a program may run on whose interpreter does not say it.
    fn likely_libcs(&self) -> Vec<Libc> {
        let mut live = self.mappings.live();
        match live.any(|mapping| mapping.object.name.starts_with("libc.so.6")) {
            true => vec![Libc::Glibc, Libc::Musl],
            false => vec![Libc::Musl, Libc::Glibc],
        }
    }
}

impl<T: WalkerTables> Processes<T> {
    /// Watched processes that run Python, by what becomes of their Python stacks: walked, being looked at, or refused with
    /// the reason.
    pub fn python_processes(&self) -> BTreeMap<String, u64> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for image in self.watched.iter().filter_map(|id| self.images.get(id)) {
            let key = match (image.python_walk(), &image.python) {
                (PythonWalk::NoPython, _) => continue,
                (PythonWalk::Walked, _) => "walked".to_owned(),
                (PythonWalk::Refused, PythonState::Refused { reason, .. }) => format!("refused: {reason}"),
                _ => "being looked at".to_owned(),
            };
            add(&mut counts, key);
        }
        counts
    }

    /// Has the interpreter of an image looked at, once it is known to have one.
    pub(super) fn look_for_python(&mut self, id: ImageId) {
        let Some(image) = self.images.get_mut(&id) else { return };
        if !matches!(image.python, PythonState::None) {
            return;
        }
        match image.mapped_interpreter() {
            None => {}
            Some(Err((object, reason))) => {
                image.python = PythonState::Refused {
                    object,
                    version: None,
                    reason,
                }
            }
            Some(Ok(mapped)) => self.inspect(id, Arc::new(mapped), 0, "it was not looked at yet".into()),
        }
    }

    fn inspect(&mut self, id: ImageId, mapped: Arc<MappedInterpreter>, looks: u32, reason: Arc<str>) {
        let Some(image) = self.images.get_mut(&id) else { return };
        image.python = PythonState::Looking {
            mapped: Arc::clone(&mapped),
            looks,
            reason,
        };
        let pid = image.pid;
        if !self.submit(Job::Inspect { image: id, pid, mapped }) {
            let reason = "too many files wait to be read".to_owned();
            let again = Again::Soon;
            self.apply_inspected(id, Err(Unfit { reason, again }), Now::read());
        }
    }

    pub(super) fn apply_inspected(&mut self, id: ImageId, result: Result<Arc<Interpreter>, Unfit>, now: Now) {
        let Some(image) = self.images.get_mut(&id) else { return };
        let PythonState::Looking { mapped, looks, .. } = &image.python else {
            return;
        };
        let (mapped, looks) = (Arc::clone(mapped), *looks);
        let has_room = self.python_waiting.len() < MAX_WAITING;
        match result {
            Ok(interpreter) => {
                image.python = PythonState::Active(interpreter);
                image.walker.must_write = true;
                self.dirty.insert(id);
            }
            Err(unfit) => match pause(unfit.again, looks).filter(|_| has_room) {
                Some(pause) => {
                    self.python_waiting.push((now.monotonic_ns.saturating_add(pause), id));
                    image.python = PythonState::Looking {
                        mapped,
                        looks: looks.saturating_add(1),
                        reason: unfit.reason.into(),
                    };
                }
                None => {
                    tracing::info!(pid = image.pid.0, reason = %unfit.reason, "Python stacks of a process are not walked");
                    image.python = PythonState::Refused {
                        object: Arc::clone(&mapped.name),
                        version: Some(mapped.object.version),
                        reason: unfit.reason.into(),
                    };
                }
            },
        }
    }

    /// Looks again at processes whose time has come.
    pub(super) fn retry_python(&mut self, now: Now) {
        let is_due = |(due, _): &mut (u64, ImageId)| *due <= now.monotonic_ns;
        let due: Vec<(u64, ImageId)> = self.python_waiting.extract_if(.., is_due).collect();
        for (_, id) in due {
            let image = self.images.get(&id).filter(|image| image.is_running());
            if let Some(PythonState::Looking { mapped, looks, reason }) = image.map(|image| &image.python) {
                let (mapped, looks, reason) = (Arc::clone(mapped), *looks, Arc::clone(reason));
                self.inspect(id, mapped, looks, reason);
            }
        }
    }
}

/// Counts a process. Reasons of refusals are bounded; what is no refusal is always told.
fn add(counts: &mut BTreeMap<String, u64>, key: String) {
    let is_told = !key.starts_with("refused") || counts.len() < MAX_REASONS || counts.contains_key(&key);
    let key = if is_told {
        key
    } else {
        "refused: other reasons".to_owned()
    };
    *counts.entry(key).or_default() += 1;
}

/// Time until the next look at a process that was not fit after so many; none if there is to be none.
fn pause(again: Again, looks: u32) -> Option<u64> {
    let sooner = || FIRST_RETRY_NS.saturating_mul(1 << looks).min(LAST_RETRY_NS);
    match again {
        Again::Never => None,
        Again::Soon | Again::WhenItRuns if looks < MAX_LOOKS => Some(sooner()),
        Again::Soon => None,
        Again::WhenItRuns => Some(IDLE_RETRY_NS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_reasons_of_refusals_hide_nobody_else() {
        let mut counts = BTreeMap::new();
        for number in 0..2 * MAX_REASONS {
            add(&mut counts, format!("refused: {number}"));
        }
        for _ in 0..3 {
            add(&mut counts, "walked".to_owned());
            add(&mut counts, "being looked at".to_owned());
        }
        add(&mut counts, "refused: 0".to_owned());
        assert_eq!(
            (counts["walked"], counts["being looked at"], counts["refused: 0"]),
            (3, 3, 2)
        );
        assert_eq!(counts["refused: other reasons"], MAX_REASONS as u64);
        assert_eq!(counts.len(), MAX_REASONS + 3);
    }

    #[test]
    fn what_runs_no_python_is_looked_at_for_as_long_as_it_runs() {
        assert_eq!(pause(Again::Never, 0), None);
        for again in [Again::Soon, Again::WhenItRuns] {
            assert_eq!(pause(again, 0), Some(FIRST_RETRY_NS));
            assert_eq!(pause(again, 3), Some(8 * FIRST_RETRY_NS));
            assert_eq!(pause(again, MAX_LOOKS - 1), Some(LAST_RETRY_NS));
        }
        for looks in [MAX_LOOKS, 1_000_000] {
            assert_eq!(pause(Again::Soon, looks), None);
            assert_eq!(pause(Again::WhenItRuns, looks), Some(IDLE_RETRY_NS));
        }
    }
}
