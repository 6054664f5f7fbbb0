//! Memory for rows, taken from the kernel in shards as it is needed.

use std::{fmt::Debug, os::fd::AsFd};

use aya::maps::{ArrayOfMaps, MapData, MapError};
use profiler_common::{
    limits::{MAX_SHARDS, ROWS_PER_SHARD, SHARD_SHIFT},
    row::Row,
};
use zerocopy::IntoBytes;

use super::{allocator::Run, load::LoadError, refusal::table_error, sys::SharedMemory};
use crate::processes::walker_tables::TableError;

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const MMAPABLE: u32 = 1 << 10;
const ROW_BYTES: usize = size_of::<Row>();

/// Where shards are made, and put for walkers to find them: the kernel.
pub(super) trait Rack: Debug {
    /// Room for [`ROWS_PER_SHARD`] rows, given back when it is dropped.
    type Shard: Debug;

    /// Makes a shard.
    fn make(&self) -> Result<Self::Shard, LoadError>;

    /// Has walkers find a shard at an index from now on. All programs that ran before have ended when this returns.
    fn put(&mut self, index: u32, shard: &Self::Shard) -> Result<(), MapError>;

    /// Copies bytes into a shard.
    fn write(shard: &Self::Shard, offset: usize, bytes: &[u8]);
}

impl Rack for ArrayOfMaps<MapData, MapData> {
    type Shard = Shard;

    fn make(&self) -> Result<Shard, LoadError> {
        let description = aya_obj::Map::new_from_params(
            aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
            size_of::<u32>() as u32,
            ROW_BYTES as u32,
            ROWS_PER_SHARD,
            MMAPABLE,
        );
        let map = MapData::create(description, "SHARD", None)?;
        let memory = SharedMemory::map(map.fd().as_fd(), ROWS_PER_SHARD as usize * ROW_BYTES)
            .map_err(|source| LoadError::ShareMap { map: "SHARD", source })?;
        Ok(Shard { memory, map })
    }

    /// An update of a map of maps returns only after a grace period (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c).
    fn put(&mut self, index: u32, shard: &Shard) -> Result<(), MapError> {
        self.set(index, &shard.map, 0)
    }

    fn write(shard: &Shard, offset: usize, bytes: &[u8]) {
        shard.memory.write(offset, bytes);
    }
}

/// All rows, in shards of one array of maps.
#[derive(Debug)]
pub(super) struct Shards<R: Rack = ArrayOfMaps<MapData, MapData>> {
    rack: R,
    shards: Vec<R::Shard>,
}

/// Memory that a walker reads through a map and we write directly.
#[derive(Debug)]
pub(super) struct Shard {
    memory: SharedMemory,
    map: MapData,
}

impl<R: Rack> Shards<R> {
    pub(super) fn new(rack: R) -> Self {
        Self {
            rack,
            shards: Vec::new(),
        }
    }

    /// Makes sure that shards up to the end of a run of rows exist.
    pub(super) fn grow_to(&mut self, rows: Run) -> Result<(), TableError> {
        while (self.shards.len() as u64) << SHARD_SHIFT < u64::from(rows.first) + u64::from(rows.count) {
            self.add().map_err(|error| {
                tracing::warn!(%error, "the kernel refused another shard of rows");
                table_error("rows", u64::from(MAX_SHARDS) << SHARD_SHIFT, &error)
            })?;
        }
        Ok(())
    }

    fn add(&mut self) -> Result<(), LoadError> {
        let shard = self.rack.make()?;
        self.rack.put(self.shards.len() as u32, &shard)?;
        self.shards.push(shard);
        Ok(())
    }

    /// Writes rows from index `first` on, where [`Shards::grow_to`] has made room.
    pub(super) fn write(&self, first: u32, rows: &[Row]) {
        let mut index = first as usize;
        let mut rest = rows;
        let per_shard = ROWS_PER_SHARD as usize;
        while !rest.is_empty() {
            let offset = index % per_shard;
            let (now, later) = rest.split_at(rest.len().min(per_shard - offset));
            let words: Vec<u64> = now.iter().map(|row| row.0).collect();
            R::write(&self.shards[index / per_shard], offset * ROW_BYTES, words.as_bytes());
            index += now.len();
            rest = later;
        }
    }

    /// Memory of all shards.
    pub(super) fn bytes(&self) -> u64 {
        (self.shards.len() * ROWS_PER_SHARD as usize * ROW_BYTES) as u64
    }

    /// Gives shards behind a row back to the kernel, all but the first. Nothing may refer to their rows any more. In the
    /// array the first takes their place, until there is another.
    pub(super) fn shrink_to(&mut self, end: u32) {
        let needed = (end as usize).div_ceil(ROWS_PER_SHARD as usize).max(1);
        while self.shards.len() > needed {
            let Some(first) = self.shards.first() else { return };
            if let Err(error) = self.rack.put(self.shards.len() as u32 - 1, first) {
                tracing::debug!(%error, "a shard of rows that nobody uses stays");
                return;
            }
            self.shards.pop();
        }
    }

    /// Waits until all programs that ran before have ended. False if it could not wait.
    pub(super) fn wait_for_grace_period(&mut self) -> bool {
        if self.grow_to(Run { first: 0, count: 1 }).is_err() {
            return false;
        }
        self.shards.first().is_some_and(|first| self.rack.put(0, first).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        io, mem,
        rc::Rc,
    };

    use aya::sys::SyscallError;

    use super::*;

    /// What is done to shards, in its order.
    type Events = Rc<RefCell<Vec<String>>>;

    #[derive(Debug, Default)]
    struct Recorder {
        events: Events,
        made: Cell<u32>,
        refuses: Rc<Cell<bool>>,
    }

    #[derive(Debug)]
    struct Recorded {
        number: u32,
        events: Events,
    }

    impl Recorded {
        fn note(&self, event: &str) {
            self.events.borrow_mut().push(format!("{} {event}", self.number));
        }
    }

    impl Drop for Recorded {
        fn drop(&mut self) {
            self.note("dropped");
        }
    }

    impl Rack for Recorder {
        type Shard = Recorded;

        fn make(&self) -> Result<Recorded, LoadError> {
            let number = self.made.replace(self.made.get() + 1);
            let events = Rc::clone(&self.events);
            Ok(Recorded { number, events })
        }

        fn put(&mut self, index: u32, shard: &Recorded) -> Result<(), MapError> {
            if self.refuses.get() {
                return Err(MapError::SyscallError(SyscallError {
                    call: "bpf_map_update_elem",
                    io_error: io::Error::from_raw_os_error(libc::ENOMEM),
                }));
            }
            shard.note(&format!("put at {index}"));
            Ok(())
        }

        fn write(shard: &Recorded, offset: usize, bytes: &[u8]) {
            shard.note(&format!("{} bytes at {offset}", bytes.len()));
        }
    }

    struct Scene {
        shards: Shards<Recorder>,
        events: Events,
        refuses: Rc<Cell<bool>>,
    }

    impl Scene {
        fn new() -> Self {
            let recorder = Recorder::default();
            let (events, refuses) = (Rc::clone(&recorder.events), Rc::clone(&recorder.refuses));
            Self {
                shards: Shards::new(recorder),
                events,
                refuses,
            }
        }

        /// With so many shards, of which nothing is to be told.
        fn with(shards: u32) -> Self {
            let mut scene = Self::new();
            scene.shards.grow_to(rows(0, shards * ROWS_PER_SHARD)).unwrap();
            assert_eq!(scene.news().len(), shards as usize);
            scene
        }

        /// What was done since the last look.
        fn news(&self) -> Vec<String> {
            mem::take(&mut *self.events.borrow_mut())
        }
    }

    fn rows(first: u32, count: u32) -> Run {
        Run { first, count }
    }

    /// Nothing but an update of the array waits.
    #[test]
    fn each_wait_puts_a_shard_anew() {
        let mut scene = Scene::new();
        assert!(scene.shards.wait_for_grace_period());
        assert_eq!(scene.news(), ["0 put at 0", "0 put at 0"]);
        assert!(scene.shards.wait_for_grace_period());
        assert_eq!(scene.news(), ["0 put at 0"]);
        scene.refuses.set(true);
        assert!(!scene.shards.wait_for_grace_period(), "it did not wait");
        let mut scene = Scene::new();
        scene.refuses.set(true);
        assert!(!scene.shards.wait_for_grace_period(), "there is nothing to put");
    }

    #[test]
    fn memory_goes_when_no_walker_finds_it_any_more() {
        let mut scene = Scene::with(4);
        scene.shards.shrink_to(ROWS_PER_SHARD + 1);
        assert_eq!(scene.news(), ["0 put at 3", "3 dropped", "0 put at 2", "2 dropped"]);
        scene.refuses.set(true);
        scene.shards.shrink_to(0);
        assert_eq!(scene.news(), [""; 0], "it is still found where it lay");
        scene.refuses.set(false);
        scene.shards.shrink_to(0);
        assert_eq!(scene.news(), ["0 put at 1", "1 dropped"]);
        assert_eq!(scene.shards.bytes(), u64::from(ROWS_PER_SHARD) * ROW_BYTES as u64);
    }

    #[test]
    fn rows_go_to_the_shards_that_their_indices_are_in() {
        let mut scene = Scene::with(2);
        scene.shards.write(ROWS_PER_SHARD - 1, &[Row(1), Row(2), Row(3)]);
        let last = (ROWS_PER_SHARD as usize - 1) * ROW_BYTES;
        assert_eq!(
            scene.news(),
            [
                format!("0 {ROW_BYTES} bytes at {last}"),
                format!("1 {} bytes at 0", 2 * ROW_BYTES)
            ]
        );
        scene.shards.grow_to(rows(ROWS_PER_SHARD, 2)).unwrap();
        assert_eq!(scene.news(), [""; 0], "there is room");
        scene.shards.grow_to(rows(2 * ROWS_PER_SHARD - 1, 2)).unwrap();
        assert_eq!(scene.news(), ["2 put at 2"]);
    }
}
