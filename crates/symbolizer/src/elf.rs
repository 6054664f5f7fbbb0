//! Where the parts of an ELF object lie that names come from.
//!
//! Only headers are read here, and only after their size has been held against a bound: a sparse file of any length
//! costs nothing.

use std::io;

use object::{
    LittleEndian as LE, elf,
    pod::{from_bytes, slice_from_all_bytes},
};

use crate::{
    segments,
    source::{ReadAt, read_exact_at},
};

/// Section headers that are read; the format's own limit without its extension is 65,279.
const MAX_SECTIONS: u64 = 65_536;
/// Bytes of section names that are read.
const MAX_SECTION_NAME_BYTES: u64 = 4 << 20;
/// Bytes of a note section that are read.
const MAX_NOTE_BYTES: u64 = 64 << 10;
/// Bytes of a section that names another file that are read.
const MAX_DEBUG_LINK_BYTES: u64 = 4 << 10;
/// Longest build id that is believed: SHA-512 is the longest that linkers write.
const MAX_BUILD_ID_BYTES: usize = 64;

/// Why an object cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The first bytes are not those of an ELF object.
    #[error("not an ELF object")]
    NotElf,
    /// An ELF object, but not one of 64 bits and little endian.
    #[error("ELF class {class} with byte order {byte_order} is not supported, only 64 bits and little endian")]
    Unsupported {
        /// `EI_CLASS`: 1 for 32 bits, 2 for 64.
        class: u8,
        /// `EI_DATA`: 1 for little endian, 2 for big.
        byte_order: u8,
    },
    /// A header lies outside of the object, or contradicts itself.
    #[error("malformed ELF object: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// There is more of something than is ever read.
    #[error("{count} {what} are more than the limit of {limit}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        count: u64,
        /// How much is accepted.
        limit: u64,
    },
    /// The bytes could not be read.
    #[error("reading the object failed")]
    Read {
        /// What the medium reported.
        #[from]
        source: io::Error,
    },
}

/// A section header in native types, with the name looked up.
#[derive(Clone, Debug)]
pub(crate) struct SectionHeader {
    pub(crate) name: Box<[u8]>,
    pub(crate) kind: u32,
    pub(crate) flags: u64,
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) link: u32,
}

impl SectionHeader {
    /// Whether the section holds code that is loaded.
    pub(crate) fn is_code(&self) -> bool {
        let wanted = elf::SHF_ALLOC.0 | elf::SHF_EXECINSTR.0;
        self.flags & wanted == wanted
    }

    /// Whether its bytes lie in the file.
    pub(crate) fn has_bytes(&self) -> bool {
        self.kind != elf::SHT_NOBITS.0 && self.kind != elf::SHT_NULL.0
    }

    /// Whether its bytes begin with a compression header.
    pub(crate) fn is_compressed(&self) -> bool {
        self.flags & elf::SHF_COMPRESSED.0 != 0
    }

    /// Whether a link address lies in it.
    fn holds(&self, address: u64) -> bool {
        (self.address..self.end()).contains(&address)
    }

    /// Link address after the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.address.saturating_add(self.size)
    }
}

/// The section headers of an object. A section whose bytes lie outside of the file has `size` 0.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) machine: u16,
    pub(crate) sections: Vec<SectionHeader>,
    /// Symbols name their section by its number among these.
    are_numbered: bool,
}

impl Layout {
    /// Reads the headers. Of an object without section headers, the sections are those that its program headers stand for.
    pub(crate) fn read(source: &dyn ReadAt) -> Result<Self, ElfError> {
        let mut bytes = [0; size_of::<elf::FileHeader64<LE>>()];
        if source.len() < bytes.len() as u64 {
            return Err(ElfError::NotElf);
        }
        read_exact_at(source, 0, &mut bytes)?;
        let header: &elf::FileHeader64<LE> = pod(&bytes)?;
        if header.e_ident.magic != elf::ELFMAG {
            return Err(ElfError::NotElf);
        }
        let (class, byte_order) = (bytes[4], bytes[5]);
        if (class, byte_order) != (2, 1) {
            return Err(ElfError::Unsupported { class, byte_order });
        }
        let machine = header.e_machine.get(LE).0;
        let table = header.e_shoff.get(LE);
        if table == 0 {
            return Ok(Self {
                machine,
                sections: segments::sections(source, header),
                are_numbered: false,
            });
        }
        let entry_size = u64::from(header.e_shentsize.get(LE));
        if entry_size != size_of::<elf::SectionHeader64<LE>>() as u64 {
            return Err(ElfError::Malformed {
                what: "size of a section header",
            });
        }
        // Numbers that do not fit into the file header are in the first section header.
        let first = read_section_headers(source, table, 1)?;
        let count = match u64::from(header.e_shnum.get(LE)) {
            0 => first.first().map_or(0, |first| first.size),
            count => count,
        };
        let names_index = match u32::from(header.e_shstrndx.get(LE).0) {
            0xffff => first.first().map_or(0, |first| first.link),
            index => index,
        };
        let mut headers = read_section_headers(source, table, count)?;
        for header in &mut headers {
            let outside = header
                .offset
                .checked_add(header.size)
                .is_none_or(|end| end > source.len());
            if header.has_bytes() && outside {
                header.size = 0;
            }
        }
        let names = match headers.get(names_index as usize) {
            Some(names) => read_section(source, names, "bytes of section names", MAX_SECTION_NAME_BYTES)?,
            None => Vec::new(),
        };
        let sections = headers.into_iter().map(|header| header.named(&names)).collect();
        Ok(Self {
            machine,
            sections,
            are_numbered: true,
        })
    }

    /// Drops the sections that `keep` refuses.
    pub(crate) fn keep(&mut self, keep: impl FnMut(&SectionHeader) -> bool) {
        self.sections.retain(keep);
        self.sections.shrink_to_fit();
    }

    /// The section of code that a symbol lies in, by the number that it gives and by its address. Undefined and absolute
    /// symbols lie in none.
    pub(crate) fn code_of_symbol(&self, number: u16, address: u64) -> Option<&SectionHeader> {
        let section = match self.are_numbered {
            true => self.sections.get(usize::from(number))?,
            false if (1..elf::SHN_LORESERVE).contains(&number) => {
                let mut sections = self.sections.iter();
                sections.find(|section| section.is_code() && section.holds(address))?
            }
            false => return None,
        };
        (section.is_code() && section.holds(address)).then_some(section)
    }

    /// The lowest link address of code.
    pub(crate) fn lowest_code_address(&self) -> u64 {
        let code = self
            .sections
            .iter()
            .filter(|section| section.is_code() && section.size > 0);
        code.map(|section| section.address).min().unwrap_or(0)
    }

    /// Memory that the headers occupy.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.sections
            .iter()
            .map(|section| size_of_val(section) + section.name.len())
            .sum()
    }

    /// The first section with this name that has bytes in the file.
    pub(crate) fn section(&self, name: &[u8]) -> Option<&SectionHeader> {
        self.sections
            .iter()
            .find(|section| *section.name == *name && section.has_bytes() && section.size > 0)
    }
}

/// A section header whose name is still an offset.
struct RawSectionHeader {
    name: u32,
    kind: u32,
    flags: u64,
    address: u64,
    offset: u64,
    size: u64,
    link: u32,
}

impl RawSectionHeader {
    fn has_bytes(&self) -> bool {
        self.kind != elf::SHT_NOBITS.0 && self.kind != elf::SHT_NULL.0
    }

    fn named(self, names: &[u8]) -> SectionHeader {
        /// Every name that means something here is shorter.
        const LONGEST: usize = 32;
        let name = names.get(self.name as usize..).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        SectionHeader {
            name: name[..name.len().min(LONGEST)].into(),
            kind: self.kind,
            flags: self.flags,
            address: self.address,
            offset: self.offset,
            size: self.size,
            link: self.link,
        }
    }
}

fn read_section_headers(source: &dyn ReadAt, table: u64, count: u64) -> Result<Vec<RawSectionHeader>, ElfError> {
    if count > MAX_SECTIONS {
        return Err(ElfError::TooMany {
            what: "sections",
            count,
            limit: MAX_SECTIONS,
        });
    }
    let length = count * size_of::<elf::SectionHeader64<LE>>() as u64;
    if table.checked_add(length).is_none_or(|end| end > source.len()) {
        return Err(ElfError::Malformed {
            what: "section headers outside of the file",
        });
    }
    let mut bytes = vec![0; length as usize];
    read_exact_at(source, table, &mut bytes)?;
    let headers: &[elf::SectionHeader64<LE>] = slice_from_all_bytes(&bytes).or(Err(ElfError::Malformed {
        what: "section headers",
    }))?;
    let native = headers.iter().map(|header| RawSectionHeader {
        name: header.sh_name.get(LE),
        kind: header.sh_type.get(LE).0,
        flags: header.sh_flags.get(LE).0,
        address: header.sh_addr.get(LE),
        offset: header.sh_offset.get(LE),
        size: header.sh_size.get(LE),
        link: header.sh_link.get(LE),
    });
    Ok(native.collect())
}

fn read_section(
    source: &dyn ReadAt,
    section: &RawSectionHeader,
    what: &'static str,
    limit: u64,
) -> Result<Vec<u8>, ElfError> {
    if !section.has_bytes() {
        return Ok(Vec::new());
    }
    if section.size > limit {
        return Err(ElfError::TooMany {
            what,
            count: section.size,
            limit,
        });
    }
    let mut bytes = vec![0; section.size as usize];
    read_exact_at(source, section.offset, &mut bytes)?;
    Ok(bytes)
}

fn pod<T: object::pod::Pod>(bytes: &[u8]) -> Result<&T, ElfError> {
    from_bytes(bytes)
        .map(|(value, _)| value)
        .or(Err(ElfError::Malformed { what: "file header" }))
}

/// The file that holds the debug information of a stripped object (`.gnu_debuglink`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebugLink {
    /// Name of the file, without a directory. As found in the object: it may hold anything but a zero.
    pub file_name: Vec<u8>,
    /// CRC-32 over the whole file.
    pub crc: u32,
}

/// The file that holds what several debug files have in common (`.gnu_debugaltlink`, which dwz writes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommonLink {
    /// Path of the file, absolute or from the folder of the file that says it. As found there: it may hold anything but a zero.
    pub path: Vec<u8>,
    /// Its build id.
    pub build_id: Vec<u8>,
}

/// The file that the object says holds what its debug information refers to.
pub(crate) fn common_link(source: &dyn ReadAt, layout: &Layout) -> Option<CommonLink> {
    let section = layout
        .section(b".gnu_debugaltlink")
        .filter(|section| section.size <= MAX_DEBUG_LINK_BYTES)?;
    let mut path = vec![0; section.size as usize];
    read_exact_at(source, section.offset, &mut path).ok()?;
    let length = path.iter().position(|byte| *byte == 0).filter(|length| *length > 0)?;
    let build_id = path.split_off(length + 1);
    path.truncate(length);
    (build_id.len() <= MAX_BUILD_ID_BYTES).then_some(CommonLink { path, build_id })
}

/// The build id that the linker wrote. An object can claim any: it is a hint, never an identity.
pub(crate) fn build_id(source: &dyn ReadAt, layout: &Layout) -> Option<Vec<u8>> {
    let section = layout
        .section(b".note.gnu.build-id")
        .filter(|section| section.size <= MAX_NOTE_BYTES)?;
    let mut bytes = vec![0; section.size as usize];
    read_exact_at(source, section.offset, &mut bytes).ok()?;
    let (header, rest) = from_bytes::<elf::NoteHeader64<LE>>(&bytes).ok()?;
    let (name_size, size) = (header.n_namesz.get(LE) as usize, header.n_descsz.get(LE) as usize);
    let is_build_id = header.n_type.get(LE) == elf::NT_GNU_BUILD_ID && rest.get(..name_size)? == b"GNU\0";
    let id = rest.get(name_size..)?.get(..size)?;
    (is_build_id && (1..=MAX_BUILD_ID_BYTES).contains(&size)).then(|| id.to_vec())
}

/// The file that the object says holds its debug information.
pub(crate) fn debug_link(source: &dyn ReadAt, layout: &Layout) -> Option<DebugLink> {
    let section = layout
        .section(b".gnu_debuglink")
        .filter(|section| section.size <= MAX_DEBUG_LINK_BYTES)?;
    let mut bytes = vec![0; section.size as usize];
    read_exact_at(source, section.offset, &mut bytes).ok()?;
    let length = bytes.iter().position(|byte| *byte == 0)?;
    let crc_offset = (length + 4) & !3;
    let crc = bytes.get(crc_offset..crc_offset + 4)?.try_into().ok()?;
    bytes.truncate(length);
    Some(DebugLink {
        file_name: bytes,
        crc: u32::from_le_bytes(crc),
    })
}
