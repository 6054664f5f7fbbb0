//! The parts of an object without section headers, as what loads it finds them: by its program headers and its dynamic section.
//!
//! In: the file header. Out: sections that stand for those that the object does not describe: its code, its exported symbols
//! with their names, and the call frame information. Whatever is not as it should be is left out.

use object::{
    LittleEndian as LE, elf,
    pod::{Pod, slice_from_all_bytes},
};

use crate::{
    elf::SectionHeader,
    source::{ReadAt, read_exact_at},
};

/// Program headers that are read.
const MAX_SEGMENTS: u64 = 4096;
/// Bytes of a dynamic section that are read.
const MAX_DYNAMIC_BYTES: u64 = 64 << 10;
/// Bytes of a hash table that are read, of its buckets and of one chain each.
const MAX_HASH_BYTES: u64 = 16 << 20;
/// Bytes of the two kinds of hash table before what they hold: 2 words, or 4 words.
const HASH_HEADER_BYTES: usize = 8;
const GNU_HASH_HEADER_BYTES: usize = 16;
const SYMBOL_BYTES: u64 = size_of::<elf::Sym64<LE>>() as u64;

/// What is loaded, and where it lies in the file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: elf::ProgramType,
    is_code: bool,
    address: u64,
    offset: u64,
    /// Bytes in the file.
    size: u64,
}

/// The sections that stand for what an object does not describe.
pub(crate) fn sections(source: &dyn ReadAt, header: &elf::FileHeader64<LE>) -> Vec<SectionHeader> {
    let segments = segments(source, header).unwrap_or_default();
    let loaded = segments.iter().filter(|segment| segment.kind == elf::PT_LOAD);
    let code = loaded.filter(|segment| segment.is_code && segment.size > 0);
    let flags = elf::SHF_ALLOC.0 | elf::SHF_EXECINSTR.0;
    let code = code.map(|segment| {
        section(
            b".text",
            elf::SHT_PROGBITS,
            flags,
            segment.address,
            (segment.offset, segment.size),
        )
    });
    let mut sections: Vec<SectionHeader> = code.collect();
    if let Some(symbols) = dynamic_symbols(source, &segments, sections.len()) {
        sections.extend(symbols);
    }
    if let Some(frames) = call_frames(source, &segments) {
        sections.extend(frames);
    }
    sections
}

fn section(name: &[u8], kind: elf::SectionType, flags: u64, address: u64, (offset, size): (u64, u64)) -> SectionHeader {
    SectionHeader {
        name: name.into(),
        kind: kind.0,
        flags,
        address,
        offset,
        size,
        link: 0,
    }
}

fn segments(source: &dyn ReadAt, header: &elf::FileHeader64<LE>) -> Option<Vec<Segment>> {
    let count = u64::from(header.e_phnum.get(LE));
    let entry_bytes = size_of::<elf::ProgramHeader64<LE>>() as u64;
    if u64::from(header.e_phentsize.get(LE)) != entry_bytes || count > MAX_SEGMENTS {
        return None;
    }
    let bytes = read(source, header.e_phoff.get(LE), count * entry_bytes)?;
    let headers = array::<elf::ProgramHeader64<LE>>(&bytes)?;
    let segments = headers.iter().map(|header| {
        let offset = header.p_offset.get(LE);
        Segment {
            kind: header.p_type.get(LE),
            is_code: header.p_flags.get(LE).0 & elf::PF_X.0 != 0,
            address: header.p_vaddr.get(LE),
            offset,
            // No more than there is.
            size: header.p_filesz.get(LE).min(source.len().saturating_sub(offset)),
        }
    });
    Some(segments.collect())
}

/// Names of exported functions, then the symbols, which refer to them as section `first`.
fn dynamic_symbols(source: &dyn ReadAt, segments: &[Segment], first: usize) -> Option<[SectionHeader; 2]> {
    let dynamic = segments.iter().find(|segment| segment.kind == elf::PT_DYNAMIC)?;
    let bytes = read(source, dynamic.offset, dynamic.size.min(MAX_DYNAMIC_BYTES) / 16 * 16)?;
    let entries = array::<elf::Dyn64<LE>>(&bytes)?;
    let value = |tag: elf::DynamicTag| {
        let mut entries = entries.iter().take_while(|entry| entry.d_tag.get(LE) != elf::DT_NULL);
        entries
            .find(|entry| entry.d_tag.get(LE) == tag)
            .map(|entry| entry.d_val.get(LE))
    };
    if value(elf::DT_SYMENT)? != SYMBOL_BYTES {
        return None;
    }
    let (symbols, names) = (value(elf::DT_SYMTAB)?, value(elf::DT_STRTAB)?);
    let by_hash = value(elf::DT_HASH).and_then(|table| count_by_hash(source, segments, table));
    let count = by_hash.or_else(|| count_by_gnu_hash(source, segments, value(elf::DT_GNU_HASH)?))?;
    let part = |address: u64, bytes: u64| place(segments, address).map(|(offset, left)| (offset, left.min(bytes)));
    let names_at = part(names, value(elf::DT_STRSZ)?)?;
    let symbols_at = part(symbols, count.checked_mul(SYMBOL_BYTES)?)?;
    let flags = elf::SHF_ALLOC.0;
    let names = section(b".dynstr", elf::SHT_STRTAB, flags, names, names_at);
    let symbols = SectionHeader {
        link: u32::try_from(first).ok()?,
        ..section(b".dynsym", elf::SHT_DYNSYM, flags, symbols, symbols_at)
    };
    Some([names, symbols])
}

/// Symbols as many as the chains of a hash table have links (System V ABI, "Hash Table").
fn count_by_hash(source: &dyn ReadAt, segments: &[Segment], table: u64) -> Option<u64> {
    let (offset, _) = place(segments, table).filter(|(_, left)| *left >= HASH_HEADER_BYTES as u64)?;
    let header = read(source, offset, HASH_HEADER_BYTES as u64)?;
    Some(u64::from(word(&header, 1)?))
}

/// Symbols up to the last that a GNU hash table knows: the last of the chain that begins last. A chain is a list of hashes, the
/// last of which has its lowest bit set. Before the buckets stand their number, the number of the first symbol with a hash,
/// the words of a filter of 8 bytes each, and how it is asked.
fn count_by_gnu_hash(source: &dyn ReadAt, segments: &[Segment], table: u64) -> Option<u64> {
    let (offset, left) = place(segments, table).filter(|(_, left)| *left >= GNU_HASH_HEADER_BYTES as u64)?;
    let header = read(source, offset, GNU_HASH_HEADER_BYTES as u64)?;
    let (buckets, first, filter) = (
        u64::from(word(&header, 0)?),
        word(&header, 1)?,
        u64::from(word(&header, 2)?),
    );
    let buckets_at = GNU_HASH_HEADER_BYTES as u64 + 8 * filter;
    let chains_at = buckets_at + 4 * buckets;
    if chains_at > left || 4 * buckets > MAX_HASH_BYTES {
        return None;
    }
    let heads = read(source, offset.checked_add(buckets_at)?, 4 * buckets)?;
    let last = heads
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| u32::from_le_bytes(*bytes))
        .max()?;
    let Some(link) = last.checked_sub(first) else {
        // All buckets are empty: there are only symbols without a hash.
        return Some(u64::from(first));
    };
    let chain_at = chains_at + 4 * u64::from(link);
    let length = left.checked_sub(chain_at)?.min(MAX_HASH_BYTES) / 4 * 4;
    let chain = read(source, offset.checked_add(chain_at)?, length)?;
    let links = chain.as_chunks::<4>().0.iter();
    let end = links.clone().position(|bytes| bytes[0] & 1 != 0)?;
    Some(u64::from(last) + end as u64 + 1)
}

/// The table of functions by their call frame information, and that information itself (Linux Standard Base 5.0, 10.6.2).
fn call_frames(source: &dyn ReadAt, segments: &[Segment]) -> Option<[SectionHeader; 2]> {
    let table = segments.iter().find(|segment| segment.kind == elf::PT_GNU_EH_FRAME)?;
    let header = read(source, table.offset, HASH_HEADER_BYTES as u64)?;
    // Relative to the place where it stands, in the only encoding that linkers write.
    let distance = word(&header, 1)?.cast_signed();
    let frames = table.address.wrapping_add(4).wrapping_add_signed(i64::from(distance));
    let flags = elf::SHF_ALLOC.0;
    let at = place(segments, frames)?;
    Some([
        section(
            b".eh_frame_hdr",
            elf::SHT_PROGBITS,
            flags,
            table.address,
            (table.offset, table.size),
        ),
        section(b".eh_frame", elf::SHT_PROGBITS, flags, frames, at),
    ])
}

/// Where the file has what is loaded at an address, and how many bytes from there on.
fn place(segments: &[Segment], address: u64) -> Option<(u64, u64)> {
    let mut loaded = segments.iter().filter(|segment| segment.kind == elf::PT_LOAD);
    loaded.find_map(|segment| {
        let inside = address.checked_sub(segment.address)?;
        let left = segment.size.checked_sub(inside).filter(|left| *left > 0)?;
        Some((segment.offset.checked_add(inside)?, left))
    })
}

fn read(source: &dyn ReadAt, offset: u64, length: u64) -> Option<Vec<u8>> {
    if offset.checked_add(length)? > source.len() {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    read_exact_at(source, offset, &mut bytes).ok()?;
    Some(bytes)
}

fn array<T: Pod>(bytes: &[u8]) -> Option<&[T]> {
    slice_from_all_bytes(bytes).ok()
}

/// A word of 4 bytes by its number.
fn word(bytes: &[u8], number: usize) -> Option<u32> {
    let bytes = bytes.get(4 * number..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}
