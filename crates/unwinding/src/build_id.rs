//! The build id that a linker left in an object.

use std::fmt;

use object::LittleEndian;
use object::elf::{ELF_NOTE_GNU, FileHeader64, NT_GNU_BUILD_ID, PT_NOTE};
use object::read::ReadRef;
use object::read::elf::NoteIterator;

use crate::elf::{Elf, ElfError};

/// Most bytes of one note segment that are searched.
const MAX_NOTE_BYTES: u64 = 64 << 10;
/// Most bytes of a build id: twice the longest that linkers make.
const MAX_BUILD_ID_BYTES: usize = 64;

/// A build id (`NT_GNU_BUILD_ID`): a name that an object gives itself, good for finding its debug file.
///
/// It can be absent, and anybody can write any into a file: it must never stand for the content.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BuildId(Vec<u8>);

impl BuildId {
    /// Reads the build id of an x86-64 object from its notes.
    pub fn read<'data, R: ReadRef<'data>>(data: R) -> Result<Option<Self>, ElfError> {
        let elf = Elf::parse(data)?;
        for header in elf.program_headers()? {
            let size = header.p_filesz.get(LittleEndian);
            if header.p_type.get(LittleEndian) != PT_NOTE || size > MAX_NOTE_BYTES {
                continue;
            }
            let Ok(bytes) = data.read_bytes_at(header.p_offset.get(LittleEndian), size) else {
                continue;
            };
            if let Some(id) = find(bytes, header.p_align.get(LittleEndian)) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// The bytes of the id.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn find(notes: &[u8], align: u64) -> Option<BuildId> {
    let mut notes = NoteIterator::<FileHeader64<LittleEndian>>::new(LittleEndian, align, notes).ok()?;
    // What follows a damaged note cannot be found.
    while let Ok(Some(note)) = notes.next() {
        if note.name() == ELF_NOTE_GNU && note.n_type(LittleEndian) == NT_GNU_BUILD_ID {
            let id = note.desc();
            return (1..=MAX_BUILD_ID_BYTES)
                .contains(&id.len())
                .then(|| BuildId(id.to_vec()));
        }
    }
    None
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}
