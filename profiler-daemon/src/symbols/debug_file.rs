//! Debug files of objects: found, opened and proved.
//!
//! They are looked for in the root of a process that maps the object, then in ours, and opened under the same rules as
//! everything of a target. An object is shared by all who map it, and so are the names from its debug file: only one that
//! belongs to root or to the owner of the object itself is believed, not one that some other user put in its own root.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::atomic::AtomicBool,
};

use profiler_symbolizer::{DebugHints, Limits, ObjectSymbols, ReadAt};

use super::object_file::ObjectFile;
use crate::{
    kernel::records::Pid,
    processes::{
        files::{OpenError, TargetFile, open_in_root},
        scan::ProcFs,
    },
    stacks::window::FileIdentity,
};

/// The debug file of an object.
#[derive(Debug)]
pub(super) struct DebugFile {
    descriptor: OwnedFd,
    length: u64,
    pub(super) symbols: ObjectSymbols,
}

impl DebugFile {
    /// Its symbols and its bytes, which are read until `stop` is set.
    pub(super) fn parts<'a>(&'a mut self, stop: &'a AtomicBool) -> (&'a mut ObjectSymbols, ObjectFile<'a>) {
        let file = ObjectFile::new(self.descriptor.as_fd(), self.length);
        (&mut self.symbols, file.until(stop))
    }
}

/// Where the debug file of an object is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct DebugSearch<'a> {
    pub(super) proc: &'a ProcFs,
    /// A process that maps the object.
    pub(super) pid: Pid,
    /// Where that process has it.
    pub(super) path: &'a [u8],
    pub(super) identity: FileIdentity,
    pub(super) descriptor: BorrowedFd<'a>,
    /// Set when nobody waits for names any more.
    pub(super) stop: &'a AtomicBool,
}

impl DebugSearch<'_> {
    /// The debug file, if there is one; an error says why the one that is there is not used.
    pub(super) fn find(
        &self,
        object: &ObjectSymbols,
        source: &dyn ReadAt,
        limits: &Limits,
    ) -> Result<Option<DebugFile>, String> {
        let hints = DebugHints::of(object, source);
        if hints.is_empty() {
            return Ok(None);
        }
        let roots = [self.proc.path(self.pid, "root"), self.proc.root().join("self/root")];
        let paths = hints.paths(self.path);
        let mut refusal = None;
        for (root, path) in roots.iter().flat_map(|root| paths.iter().map(move |path| (root, path))) {
            match self.open(root, path, &hints, limits) {
                Ok(None) => {}
                Ok(Some(found)) => return Ok(Some(found)),
                Err(reason) => {
                    let path = String::from_utf8_lossy(path);
                    refusal.get_or_insert_with(|| format!("the debug file {path} is not used: {reason}"));
                }
            }
        }
        refusal.map_or(Ok(None), Err)
    }

    fn open(&self, root: &Path, path: &[u8], hints: &DebugHints, limits: &Limits) -> Result<Option<DebugFile>, String> {
        let file = match open_in_root(root, path) {
            Ok(file) => file,
            Err(OpenError::Gone) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        // The object itself, which a link may name.
        if file.identity == self.identity {
            return Ok(None);
        }
        if !self.is_trusted(&file)? {
            return Err("it belongs to another user than the object".to_owned());
        }
        let TargetFile { descriptor, identity } = file;
        let source = ObjectFile::new(descriptor.as_fd(), identity.length).until(self.stop);
        let symbols = ObjectSymbols::load(&source, limits).map_err(|error| error.to_string())?;
        hints
            .verify(&symbols, &source, limits.debug_bytes)
            .map_err(|error| error.to_string())?;
        Ok(Some(DebugFile {
            descriptor,
            length: identity.length,
            symbols,
        }))
    }

    fn is_trusted(&self, file: &TargetFile) -> Result<bool, String> {
        let owner = |descriptor: BorrowedFd<'_>| {
            let stat = rustix::fs::fstat(descriptor).map_err(|error| error.to_string())?;
            Ok::<_, String>(stat.st_uid)
        };
        let owner_of_file = owner(file.descriptor.as_fd())?;
        Ok(owner_of_file == 0 || owner_of_file == owner(self.descriptor)?)
    }
}
