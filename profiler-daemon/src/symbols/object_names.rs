//! The symbol tables of objects, kept between windows within a number of bytes.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use profiler_symbolizer::{DebugError, Limits, ObjectSymbols, ReadAt};

use super::frame_cache::{Frames, ObjectKey};

/// Addresses named at a time: the bound on what one batch holds and takes.
const BATCH: usize = 4096;
/// What an entry costs beside the tables.
const ENTRY_BYTES: usize = 512;

/// What keeps an object's code from being named, or from being named well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limitation {
    /// Name of the object. As found in the target: escape it for every output.
    pub object: Arc<str>,
    /// What is missing and why.
    pub reason: String,
}

/// The objects met so far.
#[derive(Debug)]
pub(super) struct ObjectNames {
    objects: HashMap<ObjectKey, Object>,
    limits: Limits,
    max_bytes: usize,
    uses: u64,
}

#[derive(Debug)]
struct Object {
    /// `None` if it cannot be read.
    symbols: Option<ObjectSymbols>,
    limitation: Option<Limitation>,
    last_use: u64,
}

impl Object {
    fn memory_bytes(&self) -> usize {
        ENTRY_BYTES + self.symbols.as_ref().map_or(0, ObjectSymbols::memory_bytes)
    }
}

impl ObjectNames {
    pub(super) fn new(max_bytes: usize, limits: Limits) -> Self {
        Self {
            objects: HashMap::new(),
            limits,
            max_bytes,
            uses: 0,
        }
    }

    /// Names addresses of an object; each gets its frames, empty where there is no name.
    pub(super) fn resolve(
        &mut self,
        key: ObjectKey,
        name: &Arc<str>,
        source: &dyn ReadAt,
        link_addresses: &[u64],
    ) -> Vec<Frames> {
        self.uses += 1;
        let object = self
            .objects
            .entry(key)
            .or_insert_with(|| load(name, source, &self.limits));
        object.last_use = self.uses;
        let mut frames = Vec::with_capacity(link_addresses.len());
        for batch in link_addresses.chunks(BATCH) {
            frames.extend(resolve_batch(object, name, source, batch));
        }
        frames.resize(link_addresses.len(), Frames::default());
        self.trim();
        frames
    }

    /// What cannot be named, or not well, of the objects in the cache.
    pub(super) fn limitations(&self) -> Vec<Limitation> {
        let mut limitations: Vec<_> = self
            .objects
            .values()
            .filter_map(|object| object.limitation.clone())
            .collect();
        limitations.sort_by(|a, b| (&a.object, &a.reason).cmp(&(&b.object, &b.reason)));
        limitations.dedup();
        limitations
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.objects.values().map(Object::memory_bytes).sum()
    }

    /// Frees what was not used for longest until the rest fits: first what debug information left, then whole objects.
    fn trim(&mut self) {
        let mut bytes = self.memory_bytes();
        if bytes <= self.max_bytes {
            return;
        }
        let mut by_age: Vec<_> = self
            .objects
            .iter()
            .map(|(key, object)| (object.last_use, *key))
            .collect();
        by_age.sort_unstable_by_key(|(last_use, _)| *last_use);
        for (_, key) in &by_age {
            if let Some(symbols) = self.objects.get_mut(key).and_then(|object| object.symbols.as_mut()) {
                bytes -= symbols.unit_bytes();
                symbols.forget_units();
            }
            if bytes <= self.max_bytes {
                return;
            }
        }
        for (_, key) in &by_age {
            bytes -= self.objects.remove(key).map_or(0, |object| object.memory_bytes());
            if bytes <= self.max_bytes {
                return;
            }
        }
    }
}

fn load(name: &Arc<str>, source: &dyn ReadAt, limits: &Limits) -> Object {
    let limitation = |reason: String| {
        Some(Limitation {
            object: Arc::clone(name),
            reason,
        })
    };
    match guarded(|| ObjectSymbols::load(source, limits)) {
        Some(Ok(symbols)) => {
            let error = symbols.functions_error();
            let limitation = error.and_then(|error| limitation(format!("its symbol tables cannot be used: {error}")));
            Object {
                symbols: Some(symbols),
                limitation,
                last_use: 0,
            }
        }
        Some(Err(error)) => Object {
            symbols: None,
            limitation: limitation(format!("it cannot be read: {error}")),
            last_use: 0,
        },
        None => Object {
            symbols: None,
            limitation: limitation(BROKEN.to_owned()),
            last_use: 0,
        },
    }
}

fn resolve_batch(object: &mut Object, name: &Arc<str>, source: &dyn ReadAt, link_addresses: &[u64]) -> Vec<Frames> {
    let nothing = || vec![Frames::default(); link_addresses.len()];
    let Some(symbols) = &mut object.symbols else {
        return nothing();
    };
    let Some(resolution) = guarded(|| symbols.resolve(source, link_addresses)) else {
        let reason = BROKEN.to_owned();
        object.symbols = None;
        object.limitation = Some(Limitation {
            object: Arc::clone(name),
            reason,
        });
        return nothing();
    };
    if let Some(error) = resolution.debug_error {
        let lasting = error.is_lasting();
        if lasting {
            symbols.ignore_debug_info();
        }
        // A lasting error says more than an earlier one.
        if lasting || object.limitation.is_none() {
            object.limitation = Some(Limitation {
                object: Arc::clone(name),
                reason: without_debug_info(&error),
            });
        }
    }
    resolution.frames
}

/// What is said of an object that breaks the reader.
const BROKEN: &str = "reading it failed inside the profiler";

fn without_debug_info(error: &DebugError) -> String {
    if error.is_lasting() {
        format!("no inlined calls and no lines: {error}")
    } else {
        format!("inlined calls and lines are incomplete: {error}")
    }
}

/// Runs what a hostile object may be made to break. `None` if it did.
fn guarded<T>(job: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(job)).ok()
}
