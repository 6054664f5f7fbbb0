//! What the builder is asked for, and what becomes of it.

use std::{ops::Range, sync::Arc};

use profiler_config::NamedService;

use super::{
    discovery::Marks,
    files::MappedPlace,
    interpreter::{Interpreter, MappedInterpreter, Unfit},
    kept_pages::CompiledRows,
    objects::{Built, MappedObject},
    process::ImageId,
    row_pages::{PageRead, PagesOutcome},
    scan::MapsScan,
};
use crate::kernel::records::Pid;

/// Bytes of code in an object from which on its table takes long: some hundred milliseconds.
pub(super) const LARGE_CODE_BYTES: u64 = 8 << 20;
/// The same in rows.
const LARGE_ROWS: u64 = 1 << 18;

/// Something to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Open the file that is mapped at a place, and read what the object needs.
    Build {
        object: Arc<MappedObject>,
        place: MappedPlace,
    },
    /// Read the kernel's shared object from the daemon's own memory.
    BuildVdso { object: Arc<MappedObject> },
    /// Read a long list of mappings.
    List(super::long_lists::LongList),
    /// Compile the rows of an object again.
    Compile { object: Arc<MappedObject> },
    /// Read pages of rows.
    ReadPages(PageRead),
    /// Read a stack from an address outwards, for addresses in some code.
    ReadStack {
        image: ImageId,
        pid: Pid,
        from: u64,
        code: Vec<Range<u64>>,
    },
    /// Find out what a process is.
    Identify {
        image: ImageId,
        pid: Pid,
        services: Arc<[NamedService]>,
    },
    /// Hold the layout of an interpreter against a process that has it mapped.
    Inspect {
        image: ImageId,
        pid: Pid,
        mapped: Arc<MappedInterpreter>,
    },
}

/// What became of a job.
#[derive(Debug)]
pub(super) enum Outcome {
    Built {
        object: Arc<MappedObject>,
        pid: Pid,
        result: Result<(Arc<Built>, Option<CompiledRows>), Failure>,
    },
    Listed {
        list: super::long_lists::LongList,
        result: Result<MapsScan, Failure>,
    },
    Compiled {
        object: Arc<MappedObject>,
        result: Result<CompiledRows, String>,
    },
    PagesRead(PagesOutcome),
    StackRead {
        image: ImageId,
        addresses: Vec<u64>,
    },
    Identified {
        image: ImageId,
        result: Result<Identity, Failure>,
    },
    Inspected {
        image: ImageId,
        result: Result<Arc<Interpreter>, Unfit>,
    },
}

/// Why a file was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// It says nothing about the file, and another attempt may succeed.
    pub(super) passes: bool,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, passes: false }
    }
}

/// What a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) executable: Vec<u8>,
    pub(super) user_id: u32,
    pub(super) service: Arc<str>,
    /// The services that it was named by.
    pub(super) named_by: Arc<[NamedService]>,
    pub(super) marks: Marks,
}

impl Identity {
    /// Whether its name is what it would be by these services.
    pub(super) fn is_named_by(&self, services: &Arc<[NamedService]>) -> bool {
        Arc::ptr_eq(&self.named_by, services) || self.named_by == *services
    }
}

impl Job {
    pub(super) fn is_large(&self) -> bool {
        match self {
            Self::List(_) => false,
            Self::Build { place, .. } => place.end.saturating_sub(place.start) >= LARGE_CODE_BYTES,
            Self::Compile { object } => {
                let summary = object.built().and_then(|built| built.unwind.as_ref().ok());
                summary.is_some_and(|summary| summary.rows >= LARGE_ROWS)
            }
            Self::BuildVdso { .. }
            | Self::ReadPages(_)
            | Self::ReadStack { .. }
            | Self::Identify { .. }
            | Self::Inspect { .. } => false,
        }
    }

    /// The device of the file that is read, if it is known.
    pub(super) fn device(&self) -> Option<u64> {
        match self {
            Self::List(_) => None,
            Self::Build { object, .. } | Self::Compile { object } => Some(object.device_inode?.0),
            Self::BuildVdso { .. }
            | Self::ReadPages(_)
            | Self::ReadStack { .. }
            | Self::Identify { .. }
            | Self::Inspect { .. } => None,
        }
    }

    /// What it is about, in words.
    pub(super) fn subject(&self) -> String {
        match self {
            Self::Build { place, .. } => {
                format!("{} of process {}", String::from_utf8_lossy(&place.path), place.pid.0)
            }
            Self::BuildVdso { .. } => "the vDSO".to_owned(),
            Self::List(list) => format!("the mappings of process {}", list.pid.0),
            Self::Compile { object } => String::from_utf8_lossy(&object.path).into_owned(),
            Self::ReadPages(_) => "kept rows".to_owned(),
            Self::ReadStack { pid, .. } => format!("a stack of process {}", pid.0),
            Self::Identify { pid, .. } => format!("the program of process {}", pid.0),
            Self::Inspect { pid, .. } => format!("the interpreter of process {}", pid.0),
        }
    }
}

impl Outcome {
    pub(super) fn row_bytes(&self) -> u64 {
        let table = match self {
            Self::Built {
                result: Ok((_, Some(compiled))),
                ..
            }
            | Self::Compiled {
                result: Ok(compiled), ..
            } => &compiled.table,
            Self::PagesRead(outcome) => return outcome.row_bytes(),
            _ => return 0,
        };
        (size_of_val(table.rows.as_slice()) + size_of_val(table.pages.as_slice())) as u64
    }
}
