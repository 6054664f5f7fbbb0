//! The debug sections of an object as readers.

use std::{collections::BTreeMap, io, rc::Rc, sync::Arc};

use gimli::SectionId;
use object::{
    LittleEndian as LE,
    elf::{self, CompressionHeader64},
    pod::from_bytes,
    read::{CompressedData, CompressionFormat},
};

use super::{DebugError, Dwarf};
use crate::{
    effort::Effort,
    elf::{Layout, SectionHeader},
    limits::Limits,
    paged::{PagedReader, Section},
    source::{ReadAt, read_exact_at},
};

/// `.zdebug_*` of old GNU tools: this, then the size in 8 bytes, big endian, then a zlib stream.
const GNU_MAGIC: &[u8; 4] = b"ZLIB";
const GNU_HEADER_BYTES: u64 = 12;

/// The sections that frames come from.
const SECTIONS: [SectionId; 9] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLineStr,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
];

/// The compressed debug sections of an object as they are after decompression, kept between batches.
#[derive(Debug, Default)]
pub(crate) struct Inflated {
    sections: BTreeMap<SectionId, Arc<Vec<u8>>>,
}

impl Inflated {
    pub(crate) fn memory_bytes(&self) -> usize {
        self.sections.values().map(|bytes| bytes.len()).sum()
    }
}

/// Opens the debug sections for one batch. `None` if there is no `.debug_info`. Those that have to be decompressed are taken
/// from `inflated`, or left there.
pub(crate) fn open<'a>(
    source: &'a dyn ReadAt,
    layout: &Layout,
    limits: &Limits,
    effort: &Rc<Effort>,
    inflated: &mut Inflated,
) -> Result<Option<Dwarf<'a>>, DebugError> {
    if find(layout, SectionId::DebugInfo).is_none() {
        return Ok(None);
    }
    let found = SECTIONS.iter().filter_map(|id| find(layout, *id));
    let bytes = found.fold(0_u64, |sum, header| sum.saturating_add(header.size));
    if bytes > limits.debug_bytes {
        return Err(DebugError::TooLarge {
            bytes,
            limit: limits.debug_bytes,
        });
    }
    let dwarf = Dwarf::load(|id| {
        let section = match find(layout, id).filter(|_| SECTIONS.contains(&id)) {
            Some(header) => section(source, header, id, limits, inflated, effort)?,
            None => Section::held(Arc::default(), Rc::clone(effort)),
        };
        Ok(PagedReader::new(section))
    })?;
    Ok(Some(dwarf))
}

fn find(layout: &Layout, id: SectionId) -> Option<&SectionHeader> {
    let name = id.name().as_bytes();
    layout.section(name).or_else(|| {
        let mut gnu = b".z".to_vec();
        gnu.extend_from_slice(name.strip_prefix(b".")?);
        layout.section(&gnu)
    })
}

fn section<'a>(
    source: &'a dyn ReadAt,
    header: &SectionHeader,
    id: SectionId,
    limits: &Limits,
    inflated: &mut Inflated,
    effort: &Rc<Effort>,
) -> Result<Rc<Section<'a>>, DebugError> {
    if let Some(bytes) = inflated.sections.get(&id) {
        return Ok(Section::held(Arc::clone(bytes), Rc::clone(effort)));
    }
    let failed = |reason: &str| DebugError::Decompress {
        section: id.name(),
        reason: reason.to_owned(),
    };
    let read_failed = |error: io::Error| failed(&error.to_string());
    let (format, header_bytes, uncompressed_size) = if header.is_compressed() {
        let mut bytes = [0; size_of::<CompressionHeader64<LE>>()];
        read_exact_at(source, header.offset, &mut bytes).map_err(read_failed)?;
        let (compression, _) =
            from_bytes::<CompressionHeader64<LE>>(&bytes).or(Err(failed("no compression header")))?;
        let format = match compression.ch_type.get(LE) {
            elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
            elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
            _ => return Err(failed("unknown compression")),
        };
        (format, bytes.len() as u64, compression.ch_size.get(LE))
    } else if header.name.starts_with(b".z") {
        let mut bytes = [0; GNU_HEADER_BYTES as usize];
        read_exact_at(source, header.offset, &mut bytes).map_err(read_failed)?;
        let size = bytes
            .last_chunk()
            .filter(|_| bytes.starts_with(GNU_MAGIC))
            .ok_or_else(|| failed("no header"))?;
        (CompressionFormat::Zlib, GNU_HEADER_BYTES, u64::from_be_bytes(*size))
    } else {
        return Ok(Section::paged(source, header.offset, header.size, Rc::clone(effort)));
    };
    // The compressed bytes are held beside the result for a moment, so they count too.
    let bytes = uncompressed_size
        .saturating_add(header.size)
        .saturating_add(inflated.memory_bytes() as u64);
    if bytes > limits.decompressed_bytes {
        return Err(DebugError::CompressedTooLarge {
            bytes,
            limit: limits.decompressed_bytes,
        });
    }
    let length = header
        .size
        .checked_sub(header_bytes)
        .ok_or_else(|| failed("shorter than its header"))?;
    let mut data = vec![0; length as usize];
    read_exact_at(source, header.offset + header_bytes, &mut data).map_err(read_failed)?;
    if !effort.spend((length + uncompressed_size) / 16) {
        return Err(DebugError::EffortSpent);
    }
    let compressed = CompressedData {
        format,
        data: &data,
        uncompressed_size,
    };
    let bytes = compressed.decompress().map_err(|error| failed(&error.to_string()))?;
    // Shared as it is: copied into one piece with its counts, it would be there twice for a moment.
    let bytes = Arc::new(bytes.into_owned());
    inflated.sections.insert(id, Arc::clone(&bytes));
    Ok(Section::held(bytes, Rc::clone(effort)))
}
