//! What the file of an interpreter says about it.
//!
//! Comes in: an ELF object. Goes out: whether it is a CPython interpreter, which version, how its structures are laid out,
//! and the addresses that a process's layout is made from. An interpreter is known by its content, never by its name.

use std::ops::Range;

use object::read::ReadRef;

use super::debug_offsets;
use super::error::PythonError;
use super::eval;
use super::image::Image;
use super::memory::half_at;
use super::offsets::Offsets;
use super::strings::Strings;
use super::tables;
use super::thread_local::{self, ThreadLocal};
use super::version::Version;

/// Exports by which versions that do not state theirs are told: those that each was the first to have, newest first.
const FIRST_EXPORTS: [(u8, &str); 3] = [
    (10, "PyModule_AddObjectRef"),
    (9, "PyModule_AddType"),
    (8, "PyCode_NewWithPosOnlyArgs"),
];
/// The first minor version whose thread state is found through a variable of the thread instead of a key.
const FIRST_WITHOUT_KEY: u8 = 15;

/// The C library that an interpreter runs on, which decides where threads keep the values of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Libc {
    /// GNU.
    Glibc,
    /// musl.
    Musl,
}

/// An interpreter, as its file describes it: the same for all processes that run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterpreterObject {
    /// What the object states, or what its exports tell.
    pub version: Version,
    /// Built without a global interpreter lock.
    pub free_threaded: bool,
    /// Link address of `_PyRuntime`.
    pub runtime: u64,
    /// Link address of `PyCode_Type`.
    pub code_type: u64,
    /// Link address of `PyType_Type`, if it is exported.
    pub type_type: Option<u64>,
    /// Link addresses of the evaluation loop, its parts apart from the others included.
    pub eval_ranges: Vec<Range<u64>>,
    /// By the libraries it says it needs; `None` if it needs neither (a static program).
    pub libc: Option<Libc>,
    /// Link addresses of the types of strings.
    pub(super) text_type: u64,
    pub(super) bytes_type: u64,
    pub(super) offsets: Offsets,
    /// The first bytes of `_PyRuntime` where they state offsets, to be found again in memory.
    pub(super) header: Option<Vec<u8>>,
    /// Where the thread state is kept by a variable of the thread.
    pub(super) thread_local: Option<ThreadLocal>,
}

impl InterpreterObject {
    /// Reads an object. `None` if it is no interpreter.
    ///
    /// # Errors
    /// If it is one, but of no known version, or damaged. A file that is no x86-64 object is an error too.
    pub fn read<'data, R: ReadRef<'data>>(data: R) -> Result<Option<Self>, PythonError> {
        let image = Image::parse(data)?;
        let Some(runtime) = image.export("_PyRuntime") else {
            // A static program may export nothing; its interpreter still has a section of its own.
            return match image.has_section(b".PyRuntime") {
                true => Err(PythonError::SymbolMissing { name: "_PyRuntime" }),
                false => Ok(None),
            };
        };
        let stated = debug_offsets::version(&image, runtime.link_address)?;
        let version = version(&image, stated)?;
        if !version.is_known() {
            return Err(PythonError::VersionUnsupported { version });
        }
        if !version.is_settled() {
            return Err(PythonError::PreRelease { version });
        }
        let (offsets, free_threaded, header) = match stated {
            Some(_) => {
                let stated = debug_offsets::read(&image, runtime.link_address, version)?;
                (stated.offsets, stated.free_threaded, Some(stated.bytes))
            }
            None => (tables::offsets(version)?, false, None),
        };
        let thread_local = match version.minor {
            FIRST_WITHOUT_KEY.. => Some(thread_local::find(&image)?),
            _ => None,
        };
        Ok(Some(Self {
            version,
            free_threaded,
            runtime: runtime.link_address,
            code_type: image.required("PyCode_Type")?.link_address,
            type_type: image.export("PyType_Type").map(|symbol| symbol.link_address),
            eval_ranges: eval::ranges(&image)?,
            libc: libc(&image),
            text_type: image.required("PyUnicode_Type")?.link_address,
            bytes_type: image.required("PyBytes_Type")?.link_address,
            offsets,
            header,
            thread_local,
        }))
    }

    /// How strings are told and read in a process that has this object mapped `bias` (wrapping) above its link addresses.
    pub fn strings(&self, bias: u64) -> Strings {
        Strings {
            text: self.offsets.string,
            object: self.offsets.object,
            text_type: self.text_type.wrapping_add(bias),
            bytes_type: self.bytes_type.wrapping_add(bias),
        }
    }
}

/// By `_Py_DebugOffsets` (3.13 and newer), by `Py_Version` (3.11 and newer), or by what the object exports.
fn version<'data, R: ReadRef<'data>>(image: &Image<'data, R>, header: Option<Version>) -> Result<Version, PythonError> {
    let exported = match image.export("Py_Version") {
        Some(symbol) => Some(
            image
                .bytes(symbol.link_address, 4)
                .and_then(|bytes| Version::from_hex(half_at(bytes, 0)?))
                .ok_or(PythonError::VersionUnknown)?,
        ),
        None => None,
    };
    match (header, exported) {
        (Some(header), Some(exported)) if header != exported => Err(PythonError::VersionsDiffer { exported, header }),
        (Some(version), _) | (None, Some(version)) => Ok(version),
        (None, None) => FIRST_EXPORTS
            .iter()
            .find(|(_, name)| image.export(name).is_some())
            .map(|(minor, _)| Version::of_minor(*minor))
            .ok_or(PythonError::VersionUnknown),
    }
}

fn libc<'data, R: ReadRef<'data>>(image: &Image<'data, R>) -> Option<Libc> {
    if image.needs(b"libc.musl-") {
        return Some(Libc::Musl);
    }
    image.needs(b"libc.so.6").then_some(Libc::Glibc)
}
