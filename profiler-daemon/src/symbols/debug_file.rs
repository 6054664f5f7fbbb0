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

use profiler_symbolizer::{DebugHints, Limits, ObjectSymbols, ReadAt, Resolution};

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
    /// The file that it refers to and that other debug files refer to as well.
    pub(super) common: Option<Box<Self>>,
    /// Why that file is not there.
    pub(super) limitation: Option<String>,
}

impl DebugFile {
    /// Names a batch of addresses; what it takes is read until `stop` is set.
    pub(super) fn resolve(&mut self, link_addresses: &[u64], stop: &AtomicBool) -> Resolution {
        let file = ObjectFile::new(self.descriptor.as_fd(), self.length).until(stop);
        let Some(common) = &mut self.common else {
            return self.symbols.resolve(&file, link_addresses);
        };
        let common_file = ObjectFile::new(common.descriptor.as_fd(), common.length).until(stop);
        let common = (&mut common.symbols, &common_file as &dyn ReadAt);
        self.symbols.resolve_with(&file, Some(common), link_addresses)
    }

    /// The tables of it and of the file that it refers to.
    pub(super) fn tables(&self) -> impl Iterator<Item = &ObjectSymbols> {
        let common = self.common.as_ref().map(|common| &common.symbols);
        [&self.symbols].into_iter().chain(common)
    }

    /// The same, to be changed.
    pub(super) fn tables_mut(&mut self) -> impl Iterator<Item = &mut ObjectSymbols> {
        let common = self.common.as_mut().map(|common| &mut common.symbols);
        [&mut self.symbols].into_iter().chain(common)
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
            let verify = |symbols: &ObjectSymbols, source: &dyn ReadAt| {
                hints
                    .verify(symbols, source, limits.debug_bytes)
                    .map_err(|error| error.to_string())
            };
            match self.open(root, path, limits, verify) {
                Ok(None) => {}
                Ok(Some(found)) => return Ok(Some(self.with_common(found, root, path, limits))),
                Err(reason) => {
                    let path = String::from_utf8_lossy(path);
                    refusal.get_or_insert_with(|| format!("the debug file {path} is not used: {reason}"));
                }
            }
        }
        refusal.map_or(Ok(None), Err)
    }

    /// The debug file at a path with the one that it refers to, if it refers to any.
    fn with_common(&self, file: DebugFile, root: &Path, path: &[u8], limits: &Limits) -> DebugFile {
        let source = ObjectFile::new(file.descriptor.as_fd(), file.length).until(self.stop);
        let Some(link) = file.symbols.common_link(&source) else {
            return file;
        };
        let mut reason = "it is not there".to_owned();
        for path in link.paths(path) {
            let verify = |symbols: &ObjectSymbols, source: &dyn ReadAt| {
                link.verify(symbols, source).map_err(|error| error.to_string())
            };
            match self.open(root, &path, limits, verify) {
                Ok(Some(common)) => {
                    return DebugFile {
                        common: Some(Box::new(common)),
                        ..file
                    };
                }
                Ok(None) => {}
                Err(error) => reason = error,
            }
        }
        let path = String::from_utf8_lossy(&link.path);
        let limitation =
            format!("names of inlined calls are incomplete: {path}, which its debug file refers to: {reason}");
        DebugFile {
            limitation: Some(limitation),
            ..file
        }
    }

    fn open(
        &self,
        root: &Path,
        path: &[u8],
        limits: &Limits,
        verify: impl FnOnce(&ObjectSymbols, &dyn ReadAt) -> Result<(), String>,
    ) -> Result<Option<DebugFile>, String> {
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
        verify(&symbols, &source)?;
        Ok(Some(DebugFile {
            descriptor,
            length: identity.length,
            symbols,
            common: None,
            limitation: None,
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

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        process::{Command, Stdio},
    };

    use super::*;
    use crate::processes::files::identity_of;

    const SOURCE: &str = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n\
                          int main(int count, char **words) { return printf(\"%s\", words[count - 1]) < NUMBER; }\n";

    /// Runs a program; false where there is none.
    fn run(program: &str, arguments: &[&str], folder: &Path) -> bool {
        let mut command = Command::new(program);
        match command
            .args(arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .status()
        {
            Ok(status) => {
                assert!(status.success(), "{command:?}");
                true
            }
            Err(_) => {
                println!("skipped: no {program} on this machine");
                false
            }
        }
    }

    #[test]
    fn a_debug_file_is_found_with_what_it_shares_with_others() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::write(folder.join("source.c"), SOURCE).unwrap();
        for (name, number) in [("one", "-DNUMBER=1"), ("other", "-DNUMBER=2")] {
            if !run("cc", &["-g", "-Wl,--build-id", number, "-o", name, "source.c"], folder) {
                return;
            }
        }
        let common = folder.join("common.debug");
        if !run("dwz", &["-m", common.to_str().unwrap(), "one", "other"], folder) {
            return;
        }
        assert!(run("objcopy", &["--only-keep-debug", "one", "one.debug"], folder));
        let strip = ["--strip-debug", "--add-gnu-debuglink=one.debug", "one"];
        assert!(run("objcopy", &strip, folder));

        let program = File::open(folder.join("one")).unwrap();
        let (proc, stop) = (ProcFs::new("/proc"), AtomicBool::new(false));
        let search = DebugSearch {
            proc: &proc,
            pid: Pid(std::process::id()),
            path: &[folder.as_os_str().as_encoded_bytes(), b"/one"].concat(),
            identity: identity_of(&program).unwrap(),
            descriptor: program.as_fd(),
            stop: &stop,
        };
        let find = || {
            let source = ObjectFile::new(search.descriptor, search.identity.length);
            let object = ObjectSymbols::load(&source, &Limits::default()).unwrap();
            search.find(&object, &source, &Limits::default()).unwrap().unwrap()
        };
        let found = find();
        assert!(found.common.is_some() && found.limitation.is_none(), "{found:?}");
        assert_eq!(found.tables().count(), 2);
        // Another file in its place proves nothing.
        fs::copy(folder.join("other"), &common).unwrap();
        let reason = find().limitation.unwrap();
        assert!(
            reason.contains("common.debug") && reason.contains("build id"),
            "{reason}"
        );
        fs::remove_file(&common).unwrap();
        let found = find();
        let reason = found.limitation.unwrap();
        assert!(
            found.common.is_none() && reason.ends_with("it is not there"),
            "{reason}"
        );
    }
}
