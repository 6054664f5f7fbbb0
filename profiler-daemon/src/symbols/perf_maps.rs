//! Names that processes gave to the code they generated, from their perf maps.
//!
//! A compiler at run time writes `/tmp/perf-PID.map` with its id in its own PID namespace, in its own root. The file is taken
//! from no one else: it must be a regular file owned by the user that the process acts as. It grows, so only what was added
//! is read the next time. What was read is kept while there is room, also when the process has ended.

use std::{collections::HashMap, os::fd::AsFd, sync::Arc};

use profiler_symbolizer::{PerfMap, ReadAt};

use super::{object_file::ObjectFile, object_names::Limitation};
use crate::{
    kernel::records::Pid,
    processes::{
        files::{OpenError, TargetFile, open_in_root},
        scan::ProcFs,
    },
};

/// Most bytes of one file that are read.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Bytes read at a time; a line that does not fit is passed over.
const CHUNK_BYTES: usize = 256 << 10;
/// What an entry costs beside its map.
const ENTRY_BYTES: usize = 256;

/// A process that is not taken for another with its id: the id and when it started, in ticks since boot.
pub(super) type ProcessKey = (u32, u64);

/// The perf maps of the processes met so far, bounded in bytes.
#[derive(Debug)]
pub(super) struct PerfMaps {
    maps: HashMap<ProcessKey, Entry>,
    max_bytes: usize,
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    map: PerfMap,
    /// Device and inode of the file that was read, and how far.
    file: Option<(u64, u64)>,
    read_to: u64,
    limitation: Option<String>,
    last_use: u64,
}

impl Entry {
    fn new(max_bytes: usize) -> Self {
        Self {
            map: PerfMap::new(max_bytes),
            file: None,
            read_to: 0,
            limitation: None,
            last_use: 0,
        }
    }

    fn memory_bytes(&self) -> usize {
        ENTRY_BYTES + self.map.memory_bytes()
    }
}

impl PerfMaps {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            maps: HashMap::new(),
            max_bytes,
            uses: 0,
        }
    }

    /// The map of a process, with what it has added since the last time.
    pub(super) fn of(&mut self, proc: &ProcFs, process: ProcessKey) -> &PerfMap {
        self.make_room(process);
        self.uses += 1;
        let max_bytes = self.max_bytes / 2;
        let entry = self.maps.entry(process).or_insert_with(|| Entry::new(max_bytes));
        entry.last_use = self.uses;
        match refresh(entry, proc, process, max_bytes) {
            Ok(()) => {
                let full = "it names more code than there is room for";
                entry.limitation = entry.map.is_full().then(|| full.to_owned());
            }
            // The process has ended or has none; what it wrote before still holds.
            Err(OpenError::Gone) => {}
            Err(error) => entry.limitation = Some(error.to_string()),
        }
        &entry.map
    }

    /// Which maps are not used, or not whole.
    pub(super) fn limitations(&self) -> impl Iterator<Item = Limitation> {
        self.maps.iter().filter_map(|((pid, _), entry)| {
            let reason = entry.limitation.as_ref()?;
            Some(Limitation {
                object: Arc::from(format!("perf map of process {pid}")),
                reason: reason.clone(),
            })
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.maps.values().map(Entry::memory_bytes).sum()
    }

    /// Frees the maps that were not used for longest until half of the room is left for this one.
    fn make_room(&mut self, process: ProcessKey) {
        let others = |maps: &HashMap<ProcessKey, Entry>| -> usize {
            let others = maps.iter().filter(|(key, _)| **key != process);
            others.map(|(_, entry)| entry.memory_bytes()).sum()
        };
        while others(&self.maps) > self.max_bytes / 2 {
            let oldest = self.maps.iter().filter(|(key, _)| **key != process);
            let Some(oldest) = oldest.min_by_key(|(_, entry)| entry.last_use).map(|(key, _)| *key) else {
                return;
            };
            self.maps.remove(&oldest);
        }
    }
}

/// Reads what was added to the map of a process.
fn refresh(entry: &mut Entry, proc: &ProcFs, process: ProcessKey, max_bytes: usize) -> Result<(), OpenError> {
    let Some((file, owner)) = open(proc, process)? else {
        return Err(OpenError::Gone);
    };
    let stat = rustix::fs::fstat(&file.descriptor).map_err(|error| OpenError::Refused {
        what: "it cannot be looked at",
        reason: error.into(),
    })?;
    if stat.st_uid != owner {
        *entry = Entry {
            last_use: entry.last_use,
            ..Entry::new(max_bytes)
        };
        return Err(OpenError::Refused {
            what: "it is not used",
            reason: std::io::Error::other("it belongs to another user than the process"),
        });
    }
    let id = (file.identity.device, file.identity.inode);
    let length = file.identity.length.min(MAX_FILE_BYTES);
    if entry.file != Some(id) || length < entry.read_to {
        *entry = Entry {
            file: Some(id),
            last_use: entry.last_use,
            ..Entry::new(max_bytes)
        };
    }
    read_added(entry, &file, length);
    Ok(())
}

/// The file and who must own it; `None` if the process is not the one that is meant.
fn open(proc: &ProcFs, (pid, start_ticks): ProcessKey) -> Result<Option<(TargetFile, u32)>, OpenError> {
    let pid = Pid(pid);
    let Ok(credentials) = proc.credentials(pid) else {
        return Ok(None);
    };
    let path = format!("/tmp/perf-{}.map", credentials.own_pid);
    let file = open_in_root(&proc.path(pid, "root"), path.as_bytes())?;
    // Asked last, so that all of the above is of the same process.
    let is_meant = proc.stat(pid).is_ok_and(|stat| stat.start_ticks == start_ticks);
    Ok(is_meant.then_some((file, credentials.effective_user_id)))
}

fn read_added(entry: &mut Entry, file: &TargetFile, length: u64) {
    let source = ObjectFile::new(file.descriptor.as_fd(), length);
    let mut chunk = Vec::new();
    while entry.read_to < length {
        chunk.resize(CHUNK_BYTES.min((length - entry.read_to) as usize), 0);
        let Ok(count) = source.read_at(entry.read_to, &mut chunk) else {
            return;
        };
        let taken = match entry.map.extend(&chunk[..count]) {
            // A line that is longer than any that makes sense.
            0 if count == CHUNK_BYTES => count,
            taken => taken,
        };
        if taken == 0 {
            return;
        }
        entry.read_to += taken as u64;
    }
}
