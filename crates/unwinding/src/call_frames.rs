//! Finding `.eh_frame` in an object.
//!
//! Comes in: a file and [`Limits`]. Goes out: the bytes of its call frame information with the link address that their
//! relative pointers need. The sizes that headers claim are checked before anything is read.

use gimli::{BaseAddresses, EhFrameHdr, Pointer};
use object::LittleEndian;
use object::elf::{PT_GNU_EH_FRAME, PT_LOAD, SHF_ALLOC, SHF_COMPRESSED, SHT_NOBITS};
use object::read::ReadRef;

use crate::compile::{CompileError, Limits};
use crate::elf::{Elf, ElfError, Section64, Segment64};
use crate::function::{Entries, Entry, Listing};
use crate::identity::ContentId;
use crate::linkage::LinkageTable;
use crate::segments::Segments;
use crate::undescribed::{self, Undescribed};

/// What is read of `.eh_frame_hdr`: version, three encodings, and a pointer of at most 10 bytes (LEB128).
const EH_FRAME_HDR_BYTES: u64 = 16;

/// The call frame information of one object, found and read but not yet compiled.
#[derive(Clone, Debug)]
pub struct CallFrames<'data> {
    bytes: &'data [u8],
    link_address: u64,
    segments: Segments,
    listing: Listing,
    linkage: Option<LinkageTable>,
    undescribed: Vec<Undescribed<'data>>,
}

impl<'data> CallFrames<'data> {
    /// Finds and reads `.eh_frame`: by its section header, or by the program header `PT_GNU_EH_FRAME` where section
    /// headers are stripped or hold none.
    ///
    /// # Errors
    /// [`CompileError::NoUnwindTable`] if the object has no code or no call frame information in memory (a section without
    /// bytes, as in separate debug files, or a compressed one counts as none); others as they say.
    pub fn read<R: ReadRef<'data>>(data: R, limits: &Limits) -> Result<Self, CompileError> {
        let elf = Elf::parse(data)?;
        let segments = Segments::of(&elf)?;
        if segments.executable().is_empty() {
            return Err(CompileError::NoUnwindTable);
        }
        let (bytes, link_address) = match by_section(&elf) {
            Some(section) => read_section(&elf, section, limits)?,
            None => read_by_segment(&elf, limits)?,
        };
        let listing = Listing::read(bytes, link_address, &segments, limits)?;
        // Only where no function describes a part of it.
        let linkage = LinkageTable::find(&elf, &segments).filter(|linkage| !listing.describes_any_of(&linkage.range));
        let undescribed = undescribed::find(&elf, &segments, &listing.functions, linkage.as_ref(), limits);
        Ok(Self {
            bytes,
            link_address,
            segments,
            listing,
            linkage,
            undescribed,
        })
    }

    /// The bytes of `.eh_frame`.
    pub fn bytes(&self) -> &'data [u8] {
        self.bytes
    }

    /// The link address of the first byte.
    pub fn link_address(&self) -> u64 {
        self.link_address
    }

    /// The executable segments of the object.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// The functions that are described.
    pub(crate) fn listing(&self) -> &Listing {
        &self.listing
    }

    /// The procedure linkage table, if it has the usual form and nothing describes it.
    pub(crate) fn linkage(&self) -> Option<&LinkageTable> {
        self.linkage.as_ref()
    }

    /// Code that nothing describes, in the order of addresses.
    pub(crate) fn undescribed(&self) -> &[Undescribed<'data>] {
        &self.undescribed
    }

    /// The digest under which processes share rows.
    pub fn content_id(&self) -> ContentId {
        ContentId::of(self)
    }
}

fn by_section<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>) -> Option<&'data Section64> {
    let sections = elf.section_headers();
    sections.iter().find(|section| {
        let flags = section.sh_flags.get(LittleEndian);
        section.sh_type.get(LittleEndian) != SHT_NOBITS
            // What is not loaded, or is compressed (which a loaded section must not be), no unwinder can use.
            && flags.contains(SHF_ALLOC)
            && !flags.contains(SHF_COMPRESSED)
            && section.sh_size.get(LittleEndian) != 0
            && elf.section_has_name(sections, section, b".eh_frame")
    })
}

fn read_section<'data, R: ReadRef<'data>>(
    elf: &Elf<'data, R>,
    section: &Section64,
    limits: &Limits,
) -> Result<(&'data [u8], u64), CompileError> {
    let bytes = section.sh_size.get(LittleEndian);
    if bytes > limits.max_eh_frame_bytes {
        return Err(CompileError::TooLarge {
            bytes,
            limit: limits.max_eh_frame_bytes,
        });
    }
    let read = elf
        .data()
        .read_bytes_at(section.sh_offset.get(LittleEndian), bytes)
        .map_err(|()| ElfError::Unreadable { part: ".eh_frame" })?;
    Ok((read, section.sh_addr.get(LittleEndian)))
}

/// Follows the pointer in `.eh_frame_hdr`. Where `.eh_frame` ends is not recorded there: it is read up to its
/// terminator, or to the end of what the segment loads.
fn read_by_segment<'data, R: ReadRef<'data>>(
    elf: &Elf<'data, R>,
    limits: &Limits,
) -> Result<(&'data [u8], u64), CompileError> {
    let headers = elf.program_headers()?;
    let header = headers
        .iter()
        .find(|header| header.p_type.get(LittleEndian) == PT_GNU_EH_FRAME)
        .ok_or(CompileError::NoUnwindTable)?;
    let link_address = eh_frame_address(elf, header)?;
    let (offset, rest) = headers
        .iter()
        .filter(|header| header.p_type.get(LittleEndian) == PT_LOAD)
        .find_map(|header| {
            let into = link_address.checked_sub(header.p_vaddr.get(LittleEndian))?;
            let rest = header
                .p_filesz
                .get(LittleEndian)
                .checked_sub(into)
                .filter(|rest| *rest > 0)?;
            Some((header.p_offset.get(LittleEndian).checked_add(into)?, rest))
        })
        .ok_or(ElfError::Unreadable {
            part: "what .eh_frame_hdr points to",
        })?;
    let limit = limits.max_eh_frame_bytes;
    let read = elf
        .data()
        .read_bytes_at(offset, rest.min(limit))
        .map_err(|()| ElfError::Unreadable {
            part: "what .eh_frame_hdr points to",
        })?;
    let mut entries = Entries::new(read);
    loop {
        let end = entries.position();
        match entries.next() {
            Some(Entry::Terminator) => return Ok((&read[..end], link_address)),
            Some(_) => {}
            None if rest > limit => return Err(CompileError::TooLarge { bytes: rest, limit }),
            None => return Ok((&read[..end], link_address)),
        }
    }
}

fn eh_frame_address<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>, header: &Segment64) -> Result<u64, CompileError> {
    let unreadable = ElfError::Unreadable { part: ".eh_frame_hdr" };
    let size = header.p_filesz.get(LittleEndian).min(EH_FRAME_HDR_BYTES);
    let Ok(bytes) = elf.data().read_bytes_at(header.p_offset.get(LittleEndian), size) else {
        return Err(unreadable.into());
    };
    let bases = BaseAddresses::default().set_eh_frame_hdr(header.p_vaddr.get(LittleEndian));
    // The number of entries of the search table, which follows, is read along with the pointer.
    match EhFrameHdr::new(bytes, gimli::LittleEndian)
        .parse(&bases, 8)
        .map(|parsed| parsed.eh_frame_ptr())
    {
        Ok(Pointer::Direct(address)) => Ok(address),
        Ok(Pointer::Indirect(_)) | Err(_) => Err(unreadable.into()),
    }
}
