//! Lifecycle records of all processes, from perf's rings.
//!
//! In: one ring per CPU of `MMAP2`, `COMM`, `FORK`, `EXIT` and `LOST` records, each with the thread and the monotonic time
//! at its end (`sample_id_all`). Out: [`Lifecycle`] values. Layouts: include/uapi/linux/perf_event.h.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::Ordering,
};

use super::{
    cpus::PerCpu,
    records::{Lifecycle, LifecycleEvent, MapRecord, Pid},
    sys::{self, PerfEventAttr, SharedMemory, attr},
};

const RECORD_LOST: u32 = 2;
const RECORD_COMM: u32 = 3;
const RECORD_EXIT: u32 = 4;
const RECORD_FORK: u32 = 7;
const RECORD_MMAP2: u32 = 10;
const MISC_COMM_EXEC: u16 = 1 << 13;
const MISC_MMAP_BUILD_ID: u16 = 1 << 14;
const PROT_EXEC: u32 = 4;

/// Offsets of `data_head` and `data_tail` in `struct perf_event_mmap_page`.
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;
/// Bytes of `sample_id_all` for TID and TIME: `u32 pid, tid; u64 time`.
const SAMPLE_ID_BYTES: usize = 16;
const HEADER_BYTES: usize = 8;
/// The kernel's paths end at `PATH_MAX`; no record that is asked for is longer than this.
const MAX_RECORD_BYTES: usize = 8192;

/// The lifecycle ring of one CPU.
#[derive(Debug)]
pub(super) struct LifecycleRing {
    cpu: u32,
    event: OwnedFd,
    memory: SharedMemory,
    page_bytes: usize,
    data_bytes: usize,
    record: Vec<u8>,
}

/// A record that does not have the layout of its type.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a lifecycle record of type {kind} and {length} bytes is malformed")]
pub struct MalformedRecord {
    /// Type of the record.
    pub kind: u32,
    /// Its length.
    pub length: usize,
}

impl PerCpu for LifecycleRing {
    fn cpu(&self) -> u32 {
        self.cpu
    }
}

impl LifecycleRing {
    /// Opens the ring of one CPU. `data_pages` is a power of two.
    pub(super) fn open(cpu: u32, data_pages: usize) -> io::Result<Self> {
        let page_bytes = rustix::param::page_size();
        let data_bytes = data_pages * page_bytes;
        let attributes = PerfEventAttr {
            kind: attr::TYPE_SOFTWARE,
            config: attr::DUMMY,
            sample_type: attr::SAMPLE_TID | attr::SAMPLE_TIME,
            flags: attr::FLAG_MMAP
                | attr::FLAG_MMAP2
                | attr::FLAG_COMM
                | attr::FLAG_COMM_EXEC
                | attr::FLAG_TASK
                | attr::FLAG_SAMPLE_ID_ALL
                | attr::FLAG_USE_CLOCKID
                | attr::FLAG_WATERMARK,
            wakeup: (data_bytes / 4) as u32,
            clock_id: libc::CLOCK_MONOTONIC,
            ..PerfEventAttr::default()
        };
        let event = sys::perf_event_open(&attributes, cpu)?;
        let memory = SharedMemory::map(event.as_fd(), page_bytes + data_bytes)?;
        Ok(Self {
            cpu,
            event,
            memory,
            page_bytes,
            data_bytes,
            record: Vec::new(),
        })
    }

    /// The descriptor that becomes readable when the ring is a quarter full.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Takes what is in the ring. Records of other kinds than asked for are passed over.
    pub(super) fn drain(&mut self, mut take: impl FnMut(Result<Lifecycle, MalformedRecord>)) {
        let head = self.memory.atomic(DATA_HEAD).load(Ordering::Acquire);
        let mut tail = self.memory.atomic(DATA_TAIL).load(Ordering::Relaxed);
        while tail < head {
            let mut header = [0; HEADER_BYTES];
            self.copy_out(tail, &mut header);
            let [k0, k1, k2, k3, m0, m1, s0, s1] = header;
            let kind = u32::from_le_bytes([k0, k1, k2, k3]);
            let length = usize::from(u16::from_le_bytes([s0, s1]));
            if length < HEADER_BYTES || length as u64 > head - tail {
                // Only a broken ring has this: give up what is in it rather than read nonsense.
                take(Err(MalformedRecord { kind, length }));
                tail = head;
                break;
            }
            if length <= MAX_RECORD_BYTES {
                let mut record = std::mem::take(&mut self.record);
                record.resize(length - HEADER_BYTES, 0);
                self.copy_out(tail + HEADER_BYTES as u64, &mut record);
                match parse(kind, u16::from_le_bytes([m0, m1]), &record) {
                    Ok(Some(lifecycle)) => take(Ok(lifecycle)),
                    Ok(None) => {}
                    Err(error) => take(Err(error)),
                }
                self.record = record;
            } else {
                take(Err(MalformedRecord { kind, length }));
            }
            tail += length as u64;
        }
        self.memory.atomic(DATA_TAIL).store(tail, Ordering::Release);
    }

    /// Copies from the ring, which wraps around.
    fn copy_out(&self, position: u64, into: &mut [u8]) {
        let start = (position % self.data_bytes as u64) as usize;
        let first = into.len().min(self.data_bytes - start);
        let (before, after) = into.split_at_mut(first);
        self.memory.read(self.page_bytes + start, before);
        self.memory.read(self.page_bytes, after);
    }
}

/// The meaning of one record, header excluded; `None` if it is of no interest here.
pub(crate) fn parse(kind: u32, misc: u16, body: &[u8]) -> Result<Option<Lifecycle>, MalformedRecord> {
    let malformed = || MalformedRecord {
        kind,
        length: body.len() + HEADER_BYTES,
    };
    if !matches!(
        kind,
        RECORD_LOST | RECORD_COMM | RECORD_EXIT | RECORD_FORK | RECORD_MMAP2
    ) {
        return Ok(None);
    }
    let (body, trailer) = body
        .split_at_checked(body.len().saturating_sub(SAMPLE_ID_BYTES))
        .ok_or_else(malformed)?;
    let time_ns = u64_at(trailer, 8).ok_or_else(malformed)?;
    let fields = Fields { body };
    let event = match kind {
        RECORD_LOST => fields.lost(),
        RECORD_COMM => fields.comm(misc),
        RECORD_EXIT => fields.exit(),
        RECORD_FORK => fields.fork(),
        _ => fields.mmap2(misc),
    };
    Ok(event.ok_or_else(malformed)?.map(|event| Lifecycle { time_ns, event }))
}

/// The body of a record without its trailer. Each method is `None` on a short body and `Some(None)` on one of no interest.
struct Fields<'a> {
    body: &'a [u8],
}

impl Fields<'_> {
    fn lost(&self) -> Option<Option<LifecycleEvent>> {
        Some(Some(LifecycleEvent::Lost {
            count: u64_at(self.body, 8)?,
        }))
    }

    fn comm(&self, misc: u16) -> Option<Option<LifecycleEvent>> {
        let (pid, tid) = (Pid(u32_at(self.body, 0)?), u32_at(self.body, 4)?);
        let name = text(self.body.get(8..)?);
        Some(Some(if misc & MISC_COMM_EXEC != 0 {
            LifecycleEvent::Exec { pid, name }
        } else {
            LifecycleEvent::Rename { pid, tid, name }
        }))
    }

    fn exit(&self) -> Option<Option<LifecycleEvent>> {
        let (pid, tid) = (u32_at(self.body, 0)?, u32_at(self.body, 8)?);
        Some((pid == tid).then_some(LifecycleEvent::Exit { pid: Pid(pid) }))
    }

    fn fork(&self) -> Option<Option<LifecycleEvent>> {
        let (pid, parent) = (Pid(u32_at(self.body, 0)?), Pid(u32_at(self.body, 4)?));
        Some(Some(match pid == parent {
            true => LifecycleEvent::Thread { pid },
            false => LifecycleEvent::Fork { pid, parent },
        }))
    }

    fn mmap2(&self, misc: u16) -> Option<Option<LifecycleEvent>> {
        let body = self.body;
        let pid = Pid(u32_at(body, 0)?);
        let (start, length, file_offset) = (u64_at(body, 8)?, u64_at(body, 16)?, u64_at(body, 24)?);
        let protection = u32_at(body, 56)?;
        let device_inode = if misc & MISC_MMAP_BUILD_ID != 0 {
            None
        } else {
            let device = rustix::fs::makedev(u32_at(body, 32)?, u32_at(body, 36)?);
            Some((device, u64_at(body, 40)?))
        };
        let path = text(body.get(64..)?);
        // The kernel reports mappings that are not executable as well when asked for data; be sure.
        Some(
            (protection & PROT_EXEC != 0 && length != 0).then_some(LifecycleEvent::Map {
                pid,
                mapping: MapRecord {
                    start,
                    length,
                    file_offset,
                    device_inode,
                    path,
                },
            }),
        )
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
}

/// Text up to the zero that ends it: the kernel pads to eight bytes.
fn text(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: &[u32], text: &[u8], time_ns: u64) -> Vec<u8> {
        let mut body: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        body.extend(text);
        while !body.len().is_multiple_of(8) {
            body.push(0);
        }
        body.extend([0; 8]);
        body.extend(time_ns.to_le_bytes());
        body
    }

    #[track_caller]
    fn check(kind: u32, misc: u16, body: &[u8], expect: Option<LifecycleEvent>) {
        assert_eq!(
            parse(kind, misc, body),
            Ok(expect.map(|event| Lifecycle { time_ns: 77, event }))
        );
    }

    #[test]
    fn tells_processes_from_threads() {
        let fork = |pid, parent| record(&[pid, parent, 9, 8, 0, 0], b"", 77);
        check(
            RECORD_FORK,
            0,
            &fork(5, 4),
            Some(LifecycleEvent::Fork {
                pid: Pid(5),
                parent: Pid(4),
            }),
        );
        check(
            RECORD_FORK,
            0,
            &fork(4, 4),
            Some(LifecycleEvent::Thread { pid: Pid(4) }),
        );
        let exit = |tid| record(&[5, 1, tid, 1, 0, 0], b"", 77);
        check(RECORD_EXIT, 0, &exit(5), Some(LifecycleEvent::Exit { pid: Pid(5) }));
        check(RECORD_EXIT, 0, &exit(6), None);
    }

    #[test]
    fn tells_exec_from_rename() {
        let body = record(&[5, 6], b"name\0", 77);
        check(
            RECORD_COMM,
            MISC_COMM_EXEC,
            &body,
            Some(LifecycleEvent::Exec {
                pid: Pid(5),
                name: b"name".to_vec(),
            }),
        );
        let rename = LifecycleEvent::Rename {
            pid: Pid(5),
            tid: 6,
            name: b"name".to_vec(),
        };
        check(RECORD_COMM, 0, &body, Some(rename));
    }

    #[test]
    fn keeps_executable_mappings_only() {
        let map = |protection| {
            let fields = [5, 5, 0x1000, 1, 0x2000, 0, 0x3000, 0, 8, 1, 42, 0, 0, 0, protection, 2];
            record(&fields, b"/lib/x.so\0", 77)
        };
        let mapping = MapRecord {
            start: 0x1_0000_1000,
            length: 0x2000,
            file_offset: 0x3000,
            device_inode: Some((rustix::fs::makedev(8, 1), 42)),
            path: b"/lib/x.so".to_vec(),
        };
        check(
            RECORD_MMAP2,
            0,
            &map(5),
            Some(LifecycleEvent::Map {
                pid: Pid(5),
                mapping: mapping.clone(),
            }),
        );
        check(RECORD_MMAP2, 0, &map(1), None);
        let with_build_id = MapRecord {
            device_inode: None,
            ..mapping
        };
        let expect = LifecycleEvent::Map {
            pid: Pid(5),
            mapping: with_build_id,
        };
        check(RECORD_MMAP2, MISC_MMAP_BUILD_ID, &map(5), Some(expect));
    }

    #[test]
    fn short_records_are_errors() {
        for kind in [RECORD_LOST, RECORD_COMM, RECORD_EXIT, RECORD_FORK, RECORD_MMAP2] {
            for length in 0..24 {
                // A name may be empty, so that a COMM record of 8 bytes and a trailer is whole.
                if kind == RECORD_COMM && length >= 24 {
                    continue;
                }
                assert!(parse(kind, 0, &vec![0; length]).is_err(), "type {kind}, {length} bytes");
            }
        }
        assert_eq!(parse(1, 0, &[]), Ok(None));
    }
}
