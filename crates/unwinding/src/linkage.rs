//! Procedure linkage tables that nothing describes: some linkers (lld) write no call frame information for them.
//!
//! In: section headers and the first instructions of `.plt`. Out: the rules of a table in the form of the System V ABI
//! (AMD64 supplement, 5.2), in which each entry of 16 bytes jumps through the global offset table, or pushes a number and
//! jumps to the first entry to have the address found.

use std::ops::Range;

use object::LittleEndian;
use object::elf::{SHF_ALLOC, SHF_EXECINSTR, SHT_PROGBITS};
use object::read::ReadRef;
use profiler_common::row::{CfaRule, RbpRule, Row};

use crate::elf::{Elf, Section64};
use crate::segments::Segments;

/// Bytes of an entry.
const ENTRY_BYTES: u64 = 16;
/// Where the first entry's second instruction is: one word more is on the stack.
const AFTER_PUSH: u64 = 6;
/// `push [rip + …]`, `jmp [rip + …]`: the first entry.
const FIRST: [(usize, &[u8]); 2] = [(0, &[0xff, 0x35]), (6, &[0xff, 0x25])];
/// `jmp [rip + …]`, `push …`, `jmp …`: every other one.
const OTHER: [(usize, &[u8]); 3] = [(0, &[0xff, 0x25]), (6, &[0x68]), (11, &[0xe9])];

/// A table of the usual form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkageTable {
    /// Its link addresses, within one executable segment.
    pub(crate) range: Range<u64>,
}

impl LinkageTable {
    /// Finds `.plt`; nothing if it is missing, or of another form.
    pub(crate) fn find<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>, segments: &Segments) -> Option<Self> {
        let sections = elf.section_headers();
        let section = sections
            .iter()
            .find(|section| is_code(section) && elf.section_has_name(sections, section, b".plt"))?;
        let (start, size) = (section.sh_addr.get(LittleEndian), section.sh_size.get(LittleEndian));
        let end = start.checked_add(size)?;
        let is_loaded = segments.containing(start)?.link_range().end >= end;
        let is_whole = start % ENTRY_BYTES == 0 && size % ENTRY_BYTES == 0 && size >= 2 * ENTRY_BYTES;
        let offset = section.sh_offset.get(LittleEndian);
        let bytes = elf.data().read_bytes_at(offset, 2 * ENTRY_BYTES).ok()?;
        let (first, other) = bytes.split_at(ENTRY_BYTES as usize);
        (is_loaded && is_whole && matches(first, &FIRST) && matches(other, &OTHER))
            .then_some(Self { range: start..end })
    }

    /// Its rules, in the order of addresses.
    pub(crate) fn rules(&self) -> [(Range<u64>, Row); 3] {
        let Range { start, end } = self.range;
        let (pushed, entries) = (start + AFTER_PUSH, start + ENTRY_BYTES);
        [
            (start..pushed, rule(CfaRule::Rsp, 16)),
            (pushed..entries, rule(CfaRule::Rsp, 24)),
            (entries..end, rule(CfaRule::Plt, 0)),
        ]
    }
}

/// Link addresses of the sections that hold code.
pub(crate) fn code_sections<'data, R: ReadRef<'data>>(elf: &Elf<'data, R>) -> impl Iterator<Item = Range<u64>> {
    elf.section_headers()
        .iter()
        .filter(|section| is_code(section))
        .filter_map(|section| {
            let start = section.sh_addr.get(LittleEndian);
            Some(start..start.checked_add(section.sh_size.get(LittleEndian))?)
        })
}

fn is_code(section: &Section64) -> bool {
    let flags = section.sh_flags.get(LittleEndian);
    section.sh_type.get(LittleEndian) == SHT_PROGBITS && flags.contains(SHF_ALLOC) && flags.contains(SHF_EXECINSTR)
}

fn matches(entry: &[u8], instructions: &[(usize, &[u8])]) -> bool {
    instructions
        .iter()
        .all(|(at, opcode)| entry.get(*at..).is_some_and(|rest| rest.starts_with(opcode)))
}

fn rule(cfa: CfaRule, offset: i64) -> Row {
    Row::new(0, cfa, offset, RbpRule::Same, 0).unwrap_or(Row::marker(0, CfaRule::Unsupported))
}
