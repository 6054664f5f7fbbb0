//! The headers of an ELF object, checked and bounded.
//!
//! Comes in: the bytes of a file that nobody vouches for. Goes out: its program headers and, where they can be used, its
//! section headers. Never reads more than the two tables of headers, whose lengths are bounded here.

use object::LittleEndian;
use object::elf::{ELFCLASS64, ELFDATA2LSB, EM_X86_64, FileHeader64, ProgramHeader64, SectionHeader64};
use object::read::ReadRef;
use thiserror::Error;

/// Most program headers read. The kernel starts no program with more than 64 KiB of them (`load_elf_phdrs`).
const MAX_PROGRAM_HEADERS: u16 = 1170;

/// Why a file is no object that this profiler can use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ElfError {
    /// The file does not begin as an ELF file does.
    #[error("not an ELF file")]
    NotElf,
    /// A 32-bit object, or one of no known class.
    #[error("not a 64-bit object (ELF class {class})")]
    Class {
        /// `e_ident[EI_CLASS]`.
        class: u8,
    },
    /// An object of the other byte order.
    #[error("not a little-endian object (ELF data encoding {encoding})")]
    ByteOrder {
        /// `e_ident[EI_DATA]`.
        encoding: u8,
    },
    /// An object for another architecture.
    #[error("not an x86-64 object (ELF machine {machine})")]
    Machine {
        /// `e_machine`.
        machine: u16,
    },
    /// More program headers than the kernel would load.
    #[error("{count} program headers, at most {MAX_PROGRAM_HEADERS} are read")]
    TooManyProgramHeaders {
        /// `e_phnum`.
        count: u16,
    },
    /// A part of the file that its headers speak of is missing or cannot be read.
    #[error("{part} cannot be read: the file is truncated, damaged or unreadable")]
    Unreadable {
        /// Which part.
        part: &'static str,
    },
    /// A segment that wraps around the address space.
    #[error("a segment at link address {link_address:#x} of {size:#x} bytes wraps around")]
    SegmentWraps {
        /// Link address of the segment.
        link_address: u64,
        /// Its size in the file.
        size: u64,
    },
}

pub(crate) type Segment64 = ProgramHeader64<LittleEndian>;
pub(crate) type Section64 = SectionHeader64<LittleEndian>;

/// A 64-bit little-endian x86-64 object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elf<'data, R> {
    data: R,
    header: &'data FileHeader64<LittleEndian>,
}

impl<'data, R: ReadRef<'data>> Elf<'data, R> {
    pub(crate) fn parse(data: R) -> Result<Self, ElfError> {
        let ident = data.read_bytes_at(0, 16).map_err(|()| ElfError::NotElf)?;
        let [0x7f, b'E', b'L', b'F', class, encoding, ..] = *ident else {
            return Err(ElfError::NotElf);
        };
        if class != ELFCLASS64.0 {
            return Err(ElfError::Class { class });
        }
        if encoding != ELFDATA2LSB.0 {
            return Err(ElfError::ByteOrder { encoding });
        }
        let header = data
            .read_at::<FileHeader64<LittleEndian>>(0)
            .map_err(|()| ElfError::Unreadable { part: "the ELF header" })?;
        let machine = header.e_machine.get(LittleEndian);
        if machine != EM_X86_64 {
            return Err(ElfError::Machine { machine: machine.0 });
        }
        Ok(Self { data, header })
    }

    pub(crate) fn program_headers(&self) -> Result<&'data [Segment64], ElfError> {
        let count = self.header.e_phnum.get(LittleEndian);
        if count == 0 {
            return Ok(&[]);
        }
        if count > MAX_PROGRAM_HEADERS {
            return Err(ElfError::TooManyProgramHeaders { count });
        }
        let part = "the table of program headers";
        if usize::from(self.header.e_phentsize.get(LittleEndian)) != size_of::<Segment64>() {
            return Err(ElfError::Unreadable { part });
        }
        self.data
            .read_slice_at(self.header.e_phoff.get(LittleEndian), usize::from(count))
            .map_err(|()| ElfError::Unreadable { part })
    }

    /// The section headers, or none: nothing needs them to run a program, so they may be cut off or be nonsense.
    ///
    /// Objects with so many sections that `e_shnum` cannot hold their number are not linked programs; theirs are not
    /// looked at.
    pub(crate) fn section_headers(&self) -> &'data [Section64] {
        if usize::from(self.header.e_shentsize.get(LittleEndian)) != size_of::<Section64>() {
            return &[];
        }
        let count = usize::from(self.header.e_shnum.get(LittleEndian));
        self.data
            .read_slice_at(self.header.e_shoff.get(LittleEndian), count)
            .unwrap_or(&[])
    }

    /// Whether a section has this name. Reads no more than the name's length.
    pub(crate) fn section_has_name(&self, sections: &[Section64], section: &Section64, name: &[u8]) -> bool {
        let Some(names) = sections.get(usize::from(self.header.e_shstrndx.get(LittleEndian).0)) else {
            return false;
        };
        let start = u64::from(section.sh_name.get(LittleEndian));
        let size = name.len() as u64 + 1;
        let fits = start
            .checked_add(size)
            .is_some_and(|end| end <= names.sh_size.get(LittleEndian));
        let Some(offset) = names.sh_offset.get(LittleEndian).checked_add(start).filter(|_| fits) else {
            return false;
        };
        self.data
            .read_bytes_at(offset, size)
            .is_ok_and(|bytes| bytes.strip_suffix(&[0]) == Some(name))
    }

    pub(crate) fn data(&self) -> R {
        self.data
    }
}
