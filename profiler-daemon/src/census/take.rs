//! Takes one census: finds the pools of a process, counts what is in them, and looks for who holds what is new.

use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use profiler_census::{
    Census, Difference, HEADER_BYTES, Holders, Interpreter, MAX_SEARCHED_TYPES, Pool, PoolFound, Search, Tally,
    TypeTable, Wanted,
};
use profiler_unwinding::python::ProcessMemory as _;

use super::{
    CensusError, Cost, Options, Taken,
    kept::Earlier,
    mounts::Mounts,
    pace::Pace,
    regions::{ENTRY_BYTES, PAGE_BYTES, Page, Regions},
    target::{PacedMemory, Target},
    waits::Waits,
};
use crate::{kernel::records::Pid, processes::scan::ProcFs};

/// Longest time of a count, and of the search for holders after it: the answer to a request must begin within half a minute.
pub(super) const COUNT_WITHIN: Duration = Duration::from_secs(14);
const SEARCH_WITHIN: Duration = Duration::from_secs(8);
/// Pages whose presence is asked for at once: 32 MiB.
const PAGES_AT_ONCE: u64 = 8192;
/// Pools of which is remembered where they are, for the search.
const MAX_POOLS: usize = 1 << 20;
/// How often a pool is read that changes meanwhile.
const ATTEMPTS: u32 = 4;
/// A census in which no more than one of so many pools changed whenever it was read tells what is new since.
const TORN_OF: u64 = 100;

/// What a census of a process is taken with.
pub(super) struct Taker<'a> {
    pub(super) proc: &'a ProcFs,
    pub(super) pid: Pid,
    pub(super) options: Options,
    /// Whether nobody waits any more; is told of the CPU time spent.
    pub(super) is_unwanted: &'a dyn Fn(Duration) -> bool,
    /// Where it tells for how long it waits for the kernel.
    pub(super) waits: &'a Arc<Waits>,
}

/// A census in progress.
struct Count<'a> {
    memory: &'a PacedMemory<'a>,
    pagemap: File,
    interpreter: Interpreter,
    tally: Tally,
    pools: Pools,
    swapped_pools: u64,
    /// Of which it could not be read what is there.
    unknown_bytes: u64,
    pagemap_bytes: u64,
    buffer: Vec<u8>,
}

/// Where pools are, for the search.
#[derive(Debug, Default)]
struct Pools {
    addresses: Vec<u64>,
    left_out: u64,
}

/// A count that is done.
struct Counted {
    census: Arc<Census>,
    table: TypeTable,
    pools: Pools,
    partial: Vec<String>,
    /// Whether what is not among it is new in the next.
    tells_new: bool,
    pagemap_bytes: u64,
}

impl Taker<'_> {
    /// Counts, and compares with an earlier count that `earlier` finds, of the same process by its start and of the same program.
    /// Also what to compare the next with.
    pub(super) fn take(
        self,
        earlier: impl FnOnce(u64, u64) -> Option<Earlier>,
    ) -> Result<(Taken, Earlier), CensusError> {
        let (started, time) = (Instant::now(), SystemTime::now());
        let target = Target::open(self.proc, self.pid)?;
        let pace = Pace::new(COUNT_WITHIN, self.is_unwanted).telling(self.waits);
        let memory = PacedMemory::new(pace.during(|| target.open_file("mem"))?, &pace);
        let program = target.program(&memory)?;
        let (interpreter, python) = target.interpreter(self.proc, &pace)?;
        let Counted {
            census,
            table,
            pools,
            mut partial,
            tells_new,
            pagemap_bytes,
        } = self.count(&target, &memory, interpreter)?;
        let kept = Earlier {
            census: Arc::clone(&census),
            time,
            partial: partial.clone(),
            tells_new,
        };
        let before = earlier(target.start_ticks, program);
        let difference = before
            .as_ref()
            .map(|before| Difference::between(&before.census, &census));
        let mut holders = Vec::new();
        partial.extend(before.iter().flat_map(|before| before.caveats(self.options.holders)));
        let searched = before.as_ref().filter(|before| before.tells_new);
        if let (true, Some(before), Some(difference)) = (self.options.holders, searched, &difference) {
            let search = Search::new(table, wanted(&before.census, &census, difference));
            memory.is_strict.set(true);
            pace.extend(SEARCH_WITHIN);
            holders = find_holders(search, &memory, &pools.addresses, interpreter.pool_bytes());
            if pace.is_over() {
                let limit = SEARCH_WITHIN.as_secs();
                partial.push(format!("the search for holders ended after {limit} s"));
            }
            if pools.left_out > 0 {
                partial.push(format!("{} pools were not searched for holders", pools.left_out));
            }
            self.still(&target, &memory, &interpreter)?;
        }
        let taken = Taken {
            pid: self.pid,
            start_ticks: target.start_ticks,
            program,
            time,
            python,
            difference: difference.zip(before.map(|before| before.time)),
            census,
            holders,
            partial,
            cost: Cost {
                memory_bytes: memory.bytes(),
                pagemap_bytes,
                duration: started.elapsed(),
                busy: pace.busy(),
            },
        };
        Ok((taken, kept))
    }

    /// Counts all that is in pools.
    fn count(
        &self,
        target: &Target,
        memory: &PacedMemory<'_>,
        interpreter: Interpreter,
    ) -> Result<Counted, CensusError> {
        let pid = self.pid;
        let pace = memory.pace;
        let maps = pace.during(|| target.open_file("maps"))?;
        let mounts = pace.during(|| Mounts::read(self.proc, pid));
        let may_hang = |device| mounts.may_hang(device);
        let regions = pace.during(|| Regions::read(maps, interpreter.pool_bytes(), may_hang));
        let regions = regions.map_err(|_error| CensusError::Ended { pid })?;
        memory.avoid(regions.avoided);
        let mut count = Count {
            memory,
            pagemap: pace.during(|| target.open_file("pagemap"))?,
            interpreter,
            tally: Tally::new(interpreter),
            pools: Pools::default(),
            swapped_pools: 0,
            unknown_bytes: 0,
            pagemap_bytes: 0,
            buffer: vec![0; interpreter.pool_bytes() as usize],
        };
        let unread = count.count(&regions.ranges);
        self.still(target, memory, &interpreter)?;
        let mut partial = Vec::new();
        if regions.is_cut {
            partial.push("its list of mappings is longer than is read".to_owned());
        }
        if unread > 0 {
            let (unread, limit) = (unread.div_ceil(1 << 20), COUNT_WITHIN.as_secs());
            partial.push(format!(
                "{unread} MiB of its address space were not looked at within {limit} s"
            ));
        }
        if count.unknown_bytes > 0 {
            let unknown = count.unknown_bytes.div_ceil(1 << 20);
            partial.push(format!(
                "of {unknown} MiB of its address space it could not be read what is there"
            ));
        }
        if count.swapped_pools > 0 {
            partial.push(format!(
                "{} pools are swapped out and were not read",
                count.swapped_pools
            ));
        }
        if count.tally.pools() == 0 {
            // There may be pools in what was not read.
            return Err(match partial.is_empty() {
                true => CensusError::NoPools { pid },
                false => CensusError::Refused {
                    pid,
                    reason: partial.join("; "),
                },
            });
        }
        if count.tally.is_padded() {
            return Err(CensusError::Padded { pid });
        }
        let (census, table) = count.tally.finish(memory);
        let tells_new = partial.is_empty() && census.torn_pools.saturating_mul(TORN_OF) <= census.pools;
        if census.torn_pools > 0 {
            partial.push(format!("{} pools changed whenever they were read", census.torn_pools));
        }
        Ok(Counted {
            census: Arc::new(census),
            table,
            pools: count.pools,
            partial,
            tells_new,
            pagemap_bytes: count.pagemap_bytes,
        })
    }

    /// That the process is still the one that was opened, and runs the same program.
    fn still(&self, target: &Target, memory: &PacedMemory<'_>, interpreter: &Interpreter) -> Result<(), CensusError> {
        let pid = self.pid;
        if memory.pace.is_unwanted() {
            return Err(CensusError::Unwanted);
        }
        memory.is_strict.set(false);
        // Of a program that was replaced, nothing can be read.
        let is_there = memory.read(interpreter.type_of_types(), &mut [0; 8]);
        (is_there && target.is_running())
            .then_some(())
            .ok_or(CensusError::Ended { pid })
    }
}

impl Count<'_> {
    /// Counts the pools in these ranges, and gives the bytes that there was no time for.
    fn count(&mut self, ranges: &[Range<u64>]) -> u64 {
        let mut unread = 0;
        for range in ranges {
            let mut next = range.start.next_multiple_of(self.interpreter.pool_bytes());
            while next < range.end && self.memory.pace.go_on() {
                let end = range.end.min(next.saturating_add(PAGES_AT_ONCE * PAGE_BYTES));
                unread += self.count_part(next..end);
                next = end;
            }
            unread += range.end.saturating_sub(next);
        }
        unread
    }

    /// The same for a part that is looked at at once.
    fn count_part(&mut self, range: Range<u64>) -> u64 {
        let pages = (range.end - range.start) / PAGE_BYTES;
        let mut entries = vec![0; (pages * ENTRY_BYTES) as usize];
        self.pagemap_bytes += entries.len() as u64;
        // Of what was unmapped meanwhile it says that nothing is there.
        let offset = range.start / PAGE_BYTES * ENTRY_BYTES;
        let pagemap = &self.pagemap;
        let read = self.memory.pace.during(|| pagemap.read_exact_at(&mut entries, offset));
        if read.is_err() {
            self.unknown_bytes += range.end - range.start;
            return 0;
        }
        let entries = entries.as_chunks().0.iter().map(|entry| u64::from_le_bytes(*entry));
        let states: Vec<Page> = entries.map(Page::of).collect();
        let pages_of_pool = (self.interpreter.pool_bytes() / PAGE_BYTES) as usize;
        let pools = states.chunks_exact(pages_of_pool);
        for (index, pages) in pools.enumerate() {
            let address = range.start + index as u64 * self.interpreter.pool_bytes();
            match pages[0] {
                Page::Absent => {}
                Page::Swapped => self.swapped_pools += 1,
                Page::Present => {
                    if !self.memory.pace.go_on() {
                        return range.end - address;
                    }
                    self.count_pool(address, pages);
                }
            }
        }
        0
    }

    fn count_pool(&mut self, address: u64, pages: &[Page]) {
        let mut was_pool = false;
        for _ in 0..ATTEMPTS {
            let Some(pool) = self.read_pool(address, pages) else {
                break;
            };
            was_pool = true;
            let found = self.tally.add_pool(self.memory, &pool, &self.buffer);
            if found == PoolFound::Counted {
                if self.pools.addresses.len() < MAX_POOLS {
                    self.pools.addresses.push(address);
                } else {
                    self.pools.left_out += 1;
                }
                return;
            }
        }
        if was_pool {
            self.tally.add_torn();
        }
    }

    /// Reads what is in use of a pool, if there is one.
    fn read_pool(&mut self, address: u64, pages: &[Page]) -> Option<Pool> {
        let (head, _) = self.buffer.split_at_mut(HEADER_BYTES);
        if !self.memory.read(address, head) {
            return None;
        }
        let length = Pool::parse(address, head, self.interpreter.pool_bytes())?.used_bytes();
        let last = (length.saturating_sub(1) as u64 / PAGE_BYTES) as usize;
        if pages.iter().take(last + 1).any(|page| *page == Page::Swapped) {
            self.swapped_pools += 1;
            return None;
        }
        read_pool(
            self.memory,
            address,
            length,
            &mut self.buffer,
            self.interpreter.pool_bytes(),
        )
    }
}

/// Reads a pool of which so many bytes were in use a moment ago.
fn read_pool(
    memory: &PacedMemory<'_>,
    address: u64,
    length: usize,
    buffer: &mut [u8],
    pool_bytes: u64,
) -> Option<Pool> {
    let part = buffer.get_mut(..length)?;
    memory.read(address, part).then_some(())?;
    let pool = Pool::parse(address, part, pool_bytes)?;
    // More may be in use by now.
    if pool.used_bytes() > length {
        let rest = buffer.get_mut(length..pool.used_bytes())?;
        memory.read(address + length as u64, rest).then_some(())?;
    }
    Some(pool)
}

/// A few new objects of the types that grew most.
fn wanted(before: &Census, after: &Census, difference: &Difference) -> Vec<Wanted> {
    let grown = difference.grown().filter(|change| change.more_objects() > 0);
    let wanted = grown.take(MAX_SEARCHED_TYPES).filter_map(|change| {
        let addresses = after.of(&change.name)?.new_since(before.of(&change.name));
        let name = Arc::clone(&change.name);
        (!addresses.is_empty()).then_some(Wanted { name, addresses })
    });
    wanted.collect()
}

fn find_holders(mut search: Search, memory: &PacedMemory<'_>, pools: &[u64], pool_bytes: u64) -> Vec<Holders> {
    let mut buffer = vec![0; pool_bytes as usize];
    while search.goes_on() && !memory.pace.is_over() {
        for address in pools {
            if memory.pace.is_over() {
                break;
            }
            if let Some(pool) = read_pool(memory, *address, HEADER_BYTES, &mut buffer, pool_bytes) {
                search.add_pool(memory, &pool, &buffer);
            }
        }
        search.end_round(memory);
    }
    // Names are read after the time for the search, too: they are few.
    memory.is_strict.set(false);
    search.finish(memory)
}

#[cfg(test)]
mod tests;
