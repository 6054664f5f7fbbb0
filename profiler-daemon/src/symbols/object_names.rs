//! The symbol tables of objects, kept between windows within a number of bytes.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use profiler_symbolizer::{DebugError, Limits, ObjectSymbols, ReadAt, Resolution};

use super::{
    debug_file::{DebugFile, DebugSearch},
    frame_cache::{Frames, ObjectKey},
};

/// Addresses named at a time: the bound on what one batch holds and takes.
const BATCH: usize = 4096;
/// Debug files that are held open.
const MAX_DEBUG_FILES: usize = 128;
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
    /// Set when nobody waits for names any more.
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Object {
    /// `None` if it cannot be read.
    symbols: Option<ObjectSymbols>,
    debug_file: Option<DebugFile>,
    limitation: Option<Limitation>,
    last_use: u64,
}

impl Object {
    fn memory_bytes(&self) -> usize {
        let tables = self.tables().map(ObjectSymbols::memory_bytes);
        ENTRY_BYTES + tables.sum::<usize>()
    }

    fn inflated_bytes(&self) -> usize {
        self.tables().map(ObjectSymbols::inflated_bytes).sum()
    }

    /// Frees decompressed sections, and returns how many bytes those were.
    fn free_inflated(&mut self) -> usize {
        let bytes = self.inflated_bytes();
        self.tables_mut().for_each(ObjectSymbols::forget_inflated);
        bytes
    }

    /// Frees the indexes of units, and returns how many bytes those were.
    fn free_units(&mut self) -> usize {
        let bytes = self.tables().map(ObjectSymbols::unit_bytes).sum();
        self.tables_mut().for_each(ObjectSymbols::forget_units);
        bytes
    }

    fn tables_mut(&mut self) -> impl Iterator<Item = &mut ObjectSymbols> {
        let debug_file = self.debug_file.iter_mut().flat_map(DebugFile::tables_mut);
        self.symbols.iter_mut().chain(debug_file)
    }

    fn tables(&self) -> impl Iterator<Item = &ObjectSymbols> {
        let debug_file = self.debug_file.iter().flat_map(DebugFile::tables);
        self.symbols.iter().chain(debug_file)
    }
}

impl ObjectNames {
    pub(super) fn new(max_bytes: usize, limits: Limits) -> Self {
        Self {
            objects: HashMap::new(),
            limits,
            max_bytes,
            uses: 0,
            stop: Arc::default(),
        }
    }

    /// Names nothing more once this is set.
    pub(super) fn until(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
    }

    /// Names addresses of an object; each gets its frames, empty where there is no name. `search` tells where its debug
    /// file may be.
    pub(super) fn resolve(
        &mut self,
        key: ObjectKey,
        name: &Arc<str>,
        source: &dyn ReadAt,
        search: Option<DebugSearch<'_>>,
        link_addresses: &[u64],
    ) -> Vec<Frames> {
        self.uses += 1;
        if !self.objects.contains_key(&key) {
            self.close_debug_files();
        }
        let object = self
            .objects
            .entry(key)
            .or_insert_with(|| load(name, source, search, &self.limits));
        object.last_use = self.uses;
        let mut frames = Vec::with_capacity(link_addresses.len());
        for batch in link_addresses.chunks(BATCH) {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            frames.extend(resolve_batch(object, name, source, batch, &self.stop));
        }
        frames.resize(link_addresses.len(), Frames::default());
        if object.inflated_bytes() > self.max_bytes / 4 * 3 {
            // It would push out all others, batch for batch.
            object.free_inflated();
        }
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

    /// Forgets the object that was not used for longest of those with a debug file, if there are too many of them.
    fn close_debug_files(&mut self) {
        let open = self.objects.iter().filter(|(_, object)| object.debug_file.is_some());
        if open.clone().count() < MAX_DEBUG_FILES {
            return;
        }
        let oldest = open.min_by_key(|(_, object)| object.last_use).map(|(key, _)| *key);
        if let Some(oldest) = oldest {
            self.objects.remove(&oldest);
        }
    }

    /// Frees what was not used for longest until the rest fits: first what can be decompressed again, then what else debug
    /// information left, then whole objects.
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
        for free in [Object::free_inflated, Object::free_units] {
            for (_, key) in &by_age {
                bytes -= self.objects.get_mut(key).map_or(0, free);
                if bytes <= self.max_bytes {
                    return;
                }
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

fn load(name: &Arc<str>, source: &dyn ReadAt, search: Option<DebugSearch<'_>>, limits: &Limits) -> Object {
    let limited = |reason: String| Object {
        symbols: None,
        debug_file: None,
        limitation: Some(Limitation {
            object: Arc::clone(name),
            reason,
        }),
        last_use: 0,
    };
    let symbols = match guarded(|| ObjectSymbols::load(source, limits)) {
        Some(Ok(symbols)) => symbols,
        Some(Err(error)) => return limited(format!("it cannot be read: {error}")),
        None => return limited(BROKEN.to_owned()),
    };
    let mut reason = symbols
        .functions_error()
        .map(|error| format!("its symbol tables cannot be used: {error}"));
    let search = search.filter(|_| !symbols.has_debug_info());
    let debug_file = search.and_then(|search| {
        let found = guarded(|| search.find(&symbols, source, limits)).unwrap_or_else(|| Err(BROKEN.to_owned()));
        found.unwrap_or_else(|error| {
            reason.get_or_insert(error);
            None
        })
    });
    let reason = reason.or_else(|| debug_file.as_ref()?.limitation.clone());
    Object {
        limitation: reason.and_then(|reason| limited(reason).limitation),
        symbols: Some(symbols),
        debug_file,
        last_use: 0,
    }
}

/// Names a batch of addresses by the debug file first, and by the object where that has nothing.
fn resolve_batch(
    object: &mut Object,
    name: &Arc<str>,
    source: &dyn ReadAt,
    link_addresses: &[u64],
    stop: &AtomicBool,
) -> Vec<Frames> {
    let mut frames = vec![Frames::default(); link_addresses.len()];
    let mut errors = Vec::new();
    if let Some(file) = &mut object.debug_file {
        match shortcomings(guarded(|| file.resolve(link_addresses, stop)), &mut file.symbols) {
            Some((found, error)) => {
                frames = found;
                errors.extend(error);
            }
            None => {
                object.debug_file = None;
                errors.push((BROKEN.to_owned(), true));
            }
        }
    }
    let missing: Vec<usize> = (0..frames.len()).filter(|place| frames[*place].is_empty()).collect();
    if let Some(symbols) = object.symbols.as_mut().filter(|_| !missing.is_empty()) {
        let addresses: Vec<u64> = missing.iter().map(|place| link_addresses[*place]).collect();
        match shortcomings(guarded(|| symbols.resolve(source, &addresses)), symbols) {
            Some((found, error)) => {
                for (place, found) in missing.into_iter().zip(found) {
                    frames[place] = found;
                }
                errors.extend(error);
            }
            None => {
                object.symbols = None;
                errors.push((BROKEN.to_owned(), true));
            }
        }
    }
    for (reason, lasting) in errors {
        // A lasting error says more than an earlier one.
        if lasting || object.limitation.is_none() {
            object.limitation = Some(Limitation {
                object: Arc::clone(name),
                reason,
            });
        }
    }
    frames
}

/// What keeps a table from naming well, and whether that lasts.
type Shortcoming = (String, bool);

/// What a table names, with what keeps it from naming well; `None` if it breaks the reader.
fn shortcomings(
    resolution: Option<Resolution>,
    symbols: &mut ObjectSymbols,
) -> Option<(Vec<Frames>, Option<Shortcoming>)> {
    let resolution = resolution?;
    let error = resolution.debug_error.map(|error| {
        if error.is_lasting() {
            symbols.ignore_debug_info();
        }
        (without_debug_info(&error), error.is_lasting())
    });
    Some((resolution.frames, error))
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
