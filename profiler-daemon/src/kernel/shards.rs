//! Memory for rows, taken from the kernel in shards as it is needed.

use std::os::fd::AsFd;

use aya::maps::{ArrayOfMaps, MapData};
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

/// All rows, in shards of one array of maps.
#[derive(Debug)]
pub(super) struct Shards {
    array: ArrayOfMaps<MapData, MapData>,
    shards: Vec<Shard>,
}

#[derive(Debug)]
struct Shard {
    memory: SharedMemory,
    map: MapData,
}

impl Shards {
    pub(super) fn new(array: ArrayOfMaps<MapData, MapData>) -> Self {
        Self {
            array,
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
        self.array.set(self.shards.len() as u32, &map, 0)?;
        self.shards.push(Shard { memory, map });
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
            self.shards[index / per_shard]
                .memory
                .write(offset * ROW_BYTES, words.as_bytes());
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
            if let Err(error) = self.array.set(self.shards.len() as u32 - 1, &first.map, 0) {
                tracing::debug!(%error, "a shard of rows that nobody uses stays");
                return;
            }
            self.shards.pop();
        }
    }

    /// Waits until all programs that ran before have ended: an update of a map of maps returns only after that
    /// (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c). False if it could not wait.
    pub(super) fn wait_for_grace_period(&mut self) -> bool {
        if self.grow_to(Run { first: 0, count: 1 }).is_err() {
            return false;
        }
        self.shards
            .first()
            .is_some_and(|shard| self.array.set(0, &shard.map, 0).is_ok())
    }
}
