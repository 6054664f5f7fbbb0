//! Names of kernel code, read from `/proc/kallsyms`.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use profiler_symbolizer::{KernelSymbol, KernelSymbols, KernelSymbolsBuilder, KernelSymbolsError};

/// Reading the list costs the kernel a tenth of a second: it is read again at most this often, and only after an address
/// had no name, since then modules or programs may have been loaded.
const RELOAD_INTERVAL: Duration = Duration::from_secs(600);
/// Bytes read at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Longest list that is read.
const MAX_BYTES: u64 = 256 << 20;

/// Why kernel code has no names.
#[derive(Debug, thiserror::Error)]
pub enum KernelNamesError {
    /// The list cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The list.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The list cannot be used.
    #[error(transparent)]
    Unusable(#[from] KernelSymbolsError),
}

/// The kernel's functions as they were when last read.
#[derive(Debug)]
pub(super) struct KernelNames {
    path: PathBuf,
    symbols: Result<KernelSymbols, KernelNamesError>,
    read_at: Instant,
    missed: bool,
}

impl KernelNames {
    /// Reads the list under a root that looks like `/proc`.
    pub(super) fn read(proc_root: &Path, now: Instant) -> Self {
        let path = proc_root.join("kallsyms");
        Self {
            symbols: read(&path),
            path,
            read_at: now,
            missed: false,
        }
    }

    /// Reads the list again if that may help.
    pub(super) fn refresh(&mut self, now: Instant) {
        if !self.missed || now.saturating_duration_since(self.read_at) < RELOAD_INTERVAL {
            return;
        }
        self.missed = false;
        self.read_at = now;
        match read(&self.path) {
            Ok(symbols) => self.symbols = Ok(symbols),
            // Old names are better than none.
            Err(error) if self.symbols.is_err() => self.symbols = Err(error),
            Err(_) => {}
        }
    }

    pub(super) fn resolve(&mut self, runtime_address: u64) -> Option<KernelSymbol<'_>> {
        let symbol = self
            .symbols
            .as_ref()
            .ok()
            .and_then(|symbols| symbols.resolve(runtime_address));
        self.missed |= symbol.is_none();
        symbol
    }

    pub(super) fn error(&self) -> Option<&KernelNamesError> {
        self.symbols.as_ref().err()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.symbols.as_ref().map_or(0, KernelSymbols::memory_bytes)
    }
}

fn read(path: &Path) -> Result<KernelSymbols, KernelNamesError> {
    let failed = |source| KernelNamesError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?.take(MAX_BYTES);
    let mut builder = KernelSymbolsBuilder::default();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(builder.build()?),
            Ok(count) => builder.add(&chunk[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn is_read_again_only_after_a_miss_and_not_often() {
        let root = tempfile::tempdir().unwrap();
        let list = root.path().join("kallsyms");
        fs::write(&list, "ffffffff81000000 T first\nffffffff81001000 T _etext\n").unwrap();
        let start = Instant::now();
        let mut names = KernelNames::read(root.path(), start);
        assert_eq!(names.resolve(0xffff_ffff_8100_0010).unwrap().name, "first");
        let more = "ffffffff81000000 T first\nffffffff81001000 T _etext\nffffffffc0000000 t later\t[module]\n";
        fs::write(&list, more).unwrap();
        names.refresh(start + 2 * RELOAD_INTERVAL);
        assert!(names.resolve(0xffff_ffff_c000_0001).is_none());
        names.refresh(start + RELOAD_INTERVAL / 2);
        assert!(names.resolve(0xffff_ffff_c000_0001).is_none());
        names.refresh(start + 4 * RELOAD_INTERVAL);
        assert_eq!(names.resolve(0xffff_ffff_c000_0001).unwrap().module, Some("module"));
        assert!(names.memory_bytes() > 0);
        fs::remove_file(&list).unwrap();
        assert!(names.resolve(1).is_none());
        names.refresh(start + 6 * RELOAD_INTERVAL);
        assert!(names.error().is_none(), "old names stay");
    }

    #[test]
    fn tells_why_there_are_none() {
        let root = tempfile::tempdir().unwrap();
        let now = Instant::now();
        assert!(matches!(
            KernelNames::read(root.path(), now).error(),
            Some(KernelNamesError::Read { .. })
        ));
        fs::write(root.path().join("kallsyms"), "0000000000000000 T first\n").unwrap();
        let mut hidden = KernelNames::read(root.path(), now);
        let hidden_error = KernelSymbolsError::Hidden { symbols: 1 };
        assert!(matches!(hidden.error(), Some(KernelNamesError::Unusable(error)) if *error == hidden_error));
        assert!(hidden.resolve(0xffff_ffff_8100_0010).is_none());
    }
}
