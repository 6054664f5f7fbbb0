//! Private parsers for the fuzz targets: each takes bytes or messages of others and gives what the daemon makes of them.
//!
//! Nothing here has logic of its own, and only a build with the feature `fuzzing` has it at all.

use std::io;

pub use crate::api::fuzzing::{check_lease, check_pid, check_query, profile_message};
use crate::{
    kernel::{
        self, MalformedRecord,
        records::{Lifecycle, RawFault, RawMapped, RawSample},
    },
    processes::scan::{self, Credentials, MapsScan, ProcStat},
};

/// The sample in a record of a ring; see `kernel::sampler`.
pub fn decode_sample<'a>(record: &'a [u8], frames: &'a mut Vec<u64>) -> Option<RawSample<'a>> {
    kernel::decode_sample(record, frames)
}

/// The chosen page fault in a record of a ring; see `kernel::faults`.
pub fn decode_fault<'a>(record: &'a [u8], frames: &'a mut Vec<u64>) -> Option<RawFault<'a>> {
    kernel::decode_fault(record, frames)
}

/// The call for memory in a record of a ring; see `kernel::mapped`.
pub fn decode_mapped<'a>(record: &'a [u8], frames: &'a mut Vec<u64>) -> Option<RawMapped<'a>> {
    kernel::decode_mapped(record, frames)
}

/// The meaning of the body of one of perf's records; see `kernel::lifecycle`.
pub fn parse_lifecycle(kind: u32, misc: u16, body: &[u8]) -> Result<Option<Lifecycle>, MalformedRecord> {
    kernel::parse_lifecycle(kind, misc, body)
}

/// The text of `/proc/PID/maps`.
pub fn parse_maps(text: &[u8]) -> io::Result<Option<MapsScan>> {
    scan::parse_maps(text)
}

/// The text of `/proc/PID/stat`.
pub fn parse_stat(text: &[u8]) -> Option<ProcStat> {
    scan::parse_stat(text)
}

/// The real user id from the text of `/proc/PID/status`.
pub fn parse_user_id(text: &[u8]) -> Option<u32> {
    scan::parse_user_id(text)
}

/// The own process id and the effective user id from the text of `/proc/PID/status`.
pub fn parse_credentials(text: &[u8]) -> Option<Credentials> {
    scan::parse_credentials(text)
}
