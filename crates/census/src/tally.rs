//! Counts the objects of pools.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use profiler_unwinding::python::ProcessMemory;

use crate::{
    Interpreter, Pool,
    counts::{Census, TypeCount},
    dicts::Dicts,
    names::of_key,
    sample::Sample,
    types::{DICT, Found, Type, TypeTable},
    words::{is_address, word},
};

/// Where an object may begin in its block: at once, behind what the collector keeps of it, behind that and two words more.
const BEGINNINGS: [usize; 3] = [0, 16, 32];
/// Entries of a class's dict among which its module is looked for: it is the first thing that a class body sets.
const MODULE_WITHIN: u64 = 16;
/// A sample of blocks decides whether they have the pads of the debug allocator: at least so many, three quarters of them.
const MIN_BLOCKS: u64 = 64;

/// What became of what was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolFound {
    /// It was counted.
    Counted,
    /// Its free blocks do not fit its header. It may be read again.
    Torn,
}

/// Counts pools.
#[derive(Clone, Debug)]
pub struct Tally {
    table: TypeTable,
    census: Census,
    blocks: u64,
    padded: u64,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(interpreter: Interpreter) -> Self {
        Self {
            table: TypeTable::new(interpreter),
            census: Census::default(),
            blocks: 0,
            padded: 0,
        }
    }

    /// Counts the blocks of a pool, given all its bytes. Types are read from the memory as they are met.
    pub fn add_pool(&mut self, memory: &(impl ProcessMemory + ?Sized), pool: &Pool, bytes: &[u8]) -> PoolFound {
        let Some(blocks) = pool.blocks(bytes) else {
            return PoolFound::Torn;
        };
        self.census.pools += 1;
        let size = pool.block_bytes();
        for (address, block) in blocks {
            self.blocks += 1;
            self.padded += u64::from(is_padded(block));
            match object_in(&mut self.table, memory, block) {
                Object::At(index, beginning) => {
                    let found = &mut self.table.types[index];
                    found.objects += 1;
                    found.bytes += size;
                    found.sample.offer(address.wrapping_add(beginning as u64));
                }
                Object::None => {
                    self.census.other_blocks += 1;
                    self.census.other_bytes += size;
                }
                Object::Further => {
                    self.census.further_objects += 1;
                    self.census.further_bytes += size;
                }
            }
        }
        PoolFound::Counted
    }

    /// Notes a pool that was torn however often it was read.
    pub fn add_torn(&mut self) {
        self.census.torn_pools += 1;
    }

    /// Pools counted so far.
    pub fn pools(&self) -> u64 {
        self.census.pools
    }

    /// Whether the blocks have the pads of the debug allocator (`PYTHONMALLOC=debug`, a debug build): what they hold is not
    /// where it is looked for.
    pub fn is_padded(&self) -> bool {
        self.blocks >= MIN_BLOCKS && self.padded >= self.blocks / 4 * 3
    }

    /// What was counted, and the types for a [`Search`](crate::Search). Modules of classes are read from the memory.
    pub fn finish(mut self, memory: &(impl ProcessMemory + ?Sized)) -> (Census, TypeTable) {
        let dicts = Dicts {
            interpreter: *self.table.interpreter(),
            memory,
        };
        let mut counts: HashMap<String, (TypeCount, Sample)> = HashMap::new();
        for found in &mut self.table.types {
            if found.objects == 0 {
                continue;
            }
            let name = full_name(&dicts, found);
            let (count, sample) = counts.entry(name).or_default();
            count.objects += found.objects;
            count.bytes += found.bytes;
            // Classes may have the same name.
            for address in std::mem::take(&mut found.sample).into_addresses() {
                sample.offer(address);
            }
        }
        let finished = |(name, (count, sample)): (String, (TypeCount, Sample))| TypeCount {
            name: Arc::from(name),
            sample: sample.into_addresses(),
            ..count
        };
        self.census.types = counts.into_iter().map(finished).collect();
        self.census
            .types
            .sort_by(|one, other| (Reverse(one.bytes), &one.name).cmp(&(Reverse(other.bytes), &other.name)));
        (self.census, self.table)
    }
}

/// The name of a type with its module: types of the heap have it in their dict, others in their name.
pub(crate) fn full_name<M: ProcessMemory + ?Sized>(dicts: &Dicts<'_, M>, found: &Type) -> String {
    let module = || {
        let dict = dicts.word(found.address.wrapping_add(DICT))?;
        let module = dicts.find(dict, "__module__", MODULE_WITHIN)?;
        of_key(dicts.memory, &dicts.interpreter, module)
    };
    // Types of C extensions have both.
    if !found.is_of_heap() || found.name.contains('.') {
        return found.name.to_string();
    }
    match module() {
        Some(module) if module != "builtins" => format!("{module}.{}", found.name),
        _ => found.name.to_string(),
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    /// An object of this type, which begins at this offset.
    At(usize, usize),
    /// None.
    None,
    /// One of a type that was not looked at, if any.
    Further,
}

/// The object in a block: it has a count of references and a type, and begins where objects of that type do.
pub(crate) fn object_in(table: &mut TypeTable, memory: &(impl ProcessMemory + ?Sized), block: &[u8]) -> Object {
    let mut found = Object::None;
    for beginning in BEGINNINGS {
        let Some((count, kind)) = word(block, beginning).zip(word(block, beginning + 8)) else {
            break;
        };
        if !table.interpreter().is_reference_count(count) || !is_address(kind) {
            continue;
        }
        match table.find(memory, kind) {
            Found::Type(index) => {
                let of_type = &table.types[index];
                let fits = beginning as u64 + of_type.least_bytes() <= block.len() as u64;
                if of_type.before == beginning as u64 && fits {
                    return Object::At(index, beginning);
                }
            }
            Found::NoType => {}
            Found::Full => found = Object::Further,
        }
    }
    found
}

/// Whether a block begins with the size, the kind and the pad that the debug allocator writes (`_PyMem_DebugRawAlloc`).
fn is_padded(block: &[u8]) -> bool {
    let Some(kind) = block.get(8) else { return false };
    b"omr".contains(kind) && block.get(9..16).is_some_and(|pad| pad.iter().all(|byte| *byte == 0xfd))
}
