//! Debug information that lies in a file of its own: where that may be, and whether a file is the right one.
//!
//! In: what an object says of its debug file. Out: paths to try, in the order of gdb, and a verdict on each file found there.
//! An object can claim what it likes and another file can claim the same: a verdict says that two files belong together,
//! not that either is honest. Whose files are believed is up to who opens them.

use std::io;

use crate::{
    elf::{CommonLink, DebugLink},
    object_symbols::ObjectSymbols,
    source::{ReadAt, read_exact_at},
};

/// Where distributions put debug files.
const GLOBAL_FOLDER: &[u8] = b"/usr/lib/debug";
/// Build ids shorter than the shortest that linkers write (`--build-id=fast`) prove nothing.
const SHORTEST_PROOF: usize = 8;
/// Bytes read at a time for a checksum.
const CHUNK_BYTES: usize = 64 << 10;

/// What an object says of the file that holds its debug information.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DebugHints {
    build_id: Option<Vec<u8>>,
    link: Option<DebugLink>,
}

/// Why a file is not used as the debug file of an object.
#[derive(Debug, thiserror::Error)]
pub enum DebugFileError {
    /// It is of another build.
    #[error("it has another build id")]
    OtherBuildId,
    /// Its content is not what the object expects.
    #[error("its checksum is {found:#010x} and not {expected:#010x}")]
    OtherChecksum {
        /// What the object says.
        expected: u32,
        /// What it is.
        found: u32,
    },
    /// Nothing ties it to the object.
    #[error("neither a build id nor a checksum says that it belongs to the object")]
    Unproven,
    /// It is too long to be checked.
    #[error("its {bytes} bytes are more than the limit of {limit}")]
    TooLarge {
        /// Bytes of the file.
        bytes: u64,
        /// How many are accepted.
        limit: u64,
    },
    /// It could not be read.
    #[error("reading it failed: {source}")]
    Read {
        /// What the medium reported.
        #[from]
        source: io::Error,
    },
}

impl DebugHints {
    /// What an object says.
    pub fn of(symbols: &ObjectSymbols, source: &dyn ReadAt) -> Self {
        let is_name = |link: &DebugLink| {
            let name = link.file_name.as_slice();
            !name.contains(&b'/') && ![&b""[..], b".", b".."].contains(&name)
        };
        Self {
            build_id: symbols.build_id(source).filter(|id| id.len() >= SHORTEST_PROOF),
            link: symbols.debug_link(source).filter(is_name),
        }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.build_id.is_none() && self.link.is_none()
    }

    /// Absolute paths where the file may be, best first, for an object at an absolute path.
    pub fn paths(&self, object_path: &[u8]) -> Vec<Vec<u8>> {
        let mut paths = Vec::new();
        if let Some(id) = &self.build_id {
            paths.push(path_by_build_id(id));
        }
        let folder_end = object_path.iter().rposition(|byte| *byte == b'/');
        if let (Some(link), Some(folder_end), Some(b'/')) = (&self.link, folder_end, object_path.first()) {
            let (folder, name) = (&object_path[..folder_end], link.file_name.as_slice());
            paths.push([folder, b"/", name].concat());
            paths.push([folder, b"/.debug/", name].concat());
            paths.push([GLOBAL_FOLDER, folder, b"/", name].concat());
        }
        paths
    }

    /// Whether a file belongs to the object: by equal build ids, or by the checksum over all of it, which takes reading at
    /// most `max_bytes`.
    ///
    /// # Errors
    ///
    /// When it does not, or that cannot be told.
    pub fn verify(&self, found: &ObjectSymbols, source: &dyn ReadAt, max_bytes: u64) -> Result<(), DebugFileError> {
        match (&self.build_id, found.build_id(source)) {
            (Some(own), Some(found)) if *own == found => return Ok(()),
            (Some(_), Some(_)) => return Err(DebugFileError::OtherBuildId),
            _ => {}
        }
        let expected = self.link.as_ref().ok_or(DebugFileError::Unproven)?.crc;
        if source.len() > max_bytes {
            return Err(DebugFileError::TooLarge {
                bytes: source.len(),
                limit: max_bytes,
            });
        }
        match checksum(source)? {
            found if found == expected => Ok(()),
            found => Err(DebugFileError::OtherChecksum { expected, found }),
        }
    }
}

impl CommonLink {
    /// Absolute paths where the file may be, best first, for a debug file at an absolute path that refers to it.
    pub fn paths(&self, debug_file: &[u8]) -> Vec<Vec<u8>> {
        let folder_end = debug_file.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let named = match self.path.first() {
            Some(b'/') => self.path.clone(),
            _ => [&debug_file[..folder_end], b"/", &self.path].concat(),
        };
        let by_id = (self.build_id.len() >= SHORTEST_PROOF).then(|| path_by_build_id(&self.build_id));
        [named].into_iter().chain(by_id).collect()
    }

    /// Whether a file is the one that is meant: by its build id.
    ///
    /// # Errors
    ///
    /// When it is not, or that cannot be told.
    pub fn verify(&self, found: &ObjectSymbols, source: &dyn ReadAt) -> Result<(), DebugFileError> {
        match found.build_id(source) {
            Some(id) if id == self.build_id && id.len() >= SHORTEST_PROOF => Ok(()),
            Some(id) if id.len() >= SHORTEST_PROOF => Err(DebugFileError::OtherBuildId),
            _ => Err(DebugFileError::Unproven),
        }
    }
}

/// Where distributions put the debug file of a build.
fn path_by_build_id(id: &[u8]) -> Vec<u8> {
    let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (folder, file) = digits.split_at(2);
    let file = format!("/.build-id/{folder}/{file}.debug");
    [GLOBAL_FOLDER, file.as_bytes()].concat()
}

/// The CRC-32 of all bytes, as `.gnu_debuglink` has it.
fn checksum(source: &dyn ReadAt) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    while offset < source.len() {
        let count = (source.len() - offset).min(CHUNK_BYTES as u64);
        let part = &mut chunk[..count as usize];
        read_exact_at(source, offset, part)?;
        hasher.update(part);
        offset += count;
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str) -> DebugLink {
        DebugLink {
            file_name: name.into(),
            crc: 0,
        }
    }

    #[test]
    fn places_in_the_order_of_gdb() {
        let hints = DebugHints {
            build_id: Some(vec![0xab; 20]),
            link: Some(link("x.debug")),
        };
        let paths: Vec<_> = hints.paths(b"/opt/bin/x").into_iter().map(String::from_utf8).collect();
        let id = "ab".repeat(19);
        assert_eq!(
            paths.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
            [
                &*format!("/usr/lib/debug/.build-id/ab/{id}.debug"),
                "/opt/bin/x.debug",
                "/opt/bin/.debug/x.debug",
                "/usr/lib/debug/opt/bin/x.debug",
            ]
        );
        assert_eq!(hints.paths(b"[anon]").len(), 1, "what has no path has no folder");
    }

    #[test]
    fn what_debug_files_share_is_where_they_say() {
        let paths = |path: &str| {
            let link = CommonLink {
                path: path.into(),
                build_id: vec![0xcd; 20],
            };
            let paths = link.paths(b"/usr/lib/debug/.build-id/ab/12.debug").into_iter();
            paths.map(|path| String::from_utf8(path).unwrap()).collect::<Vec<_>>()
        };
        let by_id = format!("/usr/lib/debug/.build-id/cd/{}.debug", "cd".repeat(19));
        assert_eq!(paths("/srv/x.debug"), ["/srv/x.debug", &by_id]);
        let relative = "/usr/lib/debug/.build-id/ab/../../.dwz/x.debug";
        assert_eq!(paths("../../.dwz/x.debug"), [relative, &by_id]);
    }

    #[test]
    fn the_checksum_is_that_of_gdb() {
        // The check value of CRC-32/ISO-HDLC, which gdb's manual describes.
        assert_eq!(checksum(&b"123456789".to_vec()).unwrap(), 0xcbf4_3926);
        let long = vec![7; CHUNK_BYTES * 2 + 5];
        assert_eq!(checksum(&long).unwrap(), crc32fast::hash(&long));
    }
}
