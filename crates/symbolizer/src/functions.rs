//! The functions of an object by link address, from its symbol tables.
//!
//! A table holds 16 bytes for each function and no names: those stay in the file and are read when a function is
//! met. Built from `.symtab` and `.dynsym` together, because either can know what the other leaves out.

use std::rc::Rc;

use object::{LittleEndian as LE, elf, pod::slice_from_all_bytes};

use crate::{
    effort::Effort,
    elf::{ElfError, Layout, SectionHeader},
    limits::Limits,
    paged::{PagedReader, Section},
    plt,
    source::{ReadAt, read_exact_at},
};

/// Longest name that is read; a longer one is cut. Above what is demangled, so that a cut name is never half demangled.
const LONGEST_NAME: usize = 8 << 10;
/// Names that are compared to choose between aliases, and the part of each that is looked at.
const ALIASES_COMPARED: usize = 16;
const ALIAS_BYTES: usize = 256;
/// Bytes of a symbol table read at a time.
const CHUNK_BYTES: usize = 24 << 12;

const _: () = assert!(CHUNK_BYTES.is_multiple_of(size_of::<elf::Sym64<LE>>()));

/// Where a name is: an offset into one of two string tables, and whether it is to be shown as a stub for that function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NameRef(u32);

impl NameRef {
    const DYNAMIC: u32 = 1 << 31;
    const STUB: u32 = 1 << 30;
    const OFFSET: u32 = Self::STUB - 1;

    /// `None` if the offset is larger than fits; no linker writes string tables of a gigabyte.
    pub(crate) fn new(offset: u32, dynamic: bool) -> Option<Self> {
        (offset <= Self::OFFSET).then_some(Self(offset | if dynamic { Self::DYNAMIC } else { 0 }))
    }

    /// The same name as that of a stub in a procedure linkage table.
    pub(crate) fn stub(self) -> Self {
        Self(self.0 | Self::STUB)
    }
}

/// A function symbol on its way into the table. The order prefers what should be shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) rank: Rank,
    pub(crate) name: NameRef,
}

/// How good a source of names a symbol is; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Exported,
    Local,
    Untyped,
    Stub,
}

#[derive(Clone, Copy, Debug)]
struct Function {
    start: u64,
    size: u32,
    name: NameRef,
}

/// The bytes of a string table in the file.
#[derive(Clone, Copy, Debug, Default)]
struct StringTable {
    offset: u64,
    size: u64,
}

/// The functions of one object, sorted, without overlaps.
#[derive(Debug, Default)]
pub(crate) struct FunctionTable {
    functions: Box<[Function]>,
    strings: StringTable,
    dynamic_strings: StringTable,
}

impl FunctionTable {
    /// Reads the symbol tables. An object without any has an empty table.
    pub(crate) fn read(source: &dyn ReadAt, layout: &Layout, limits: &Limits) -> Result<Self, ElfError> {
        let effort = Rc::new(Effort::new(limits.effort));
        let mut table = Self::default();
        let mut candidates = Vec::new();
        let symtab = layout.sections.iter().find(|section| section.kind == elf::SHT_SYMTAB.0);
        let dynsym = layout.sections.iter().find(|section| section.kind == elf::SHT_DYNSYM.0);
        for (section, dynamic) in [(symtab, false), (dynsym, true)] {
            let Some(section) = section else { continue };
            let strings = string_table(layout, section);
            if dynamic {
                table.dynamic_strings = strings;
            } else {
                table.strings = strings;
            }
            read_symbols(source, layout, section, dynamic, limits, &mut candidates)?;
        }
        if let Some(dynsym) = dynsym {
            plt::add_stubs(source, layout, dynsym, limits, &mut candidates)?;
        }
        candidates
            .sort_unstable_by_key(|candidate| (candidate.start, candidate.rank, std::cmp::Reverse(candidate.end)));
        let names = table.names(source, &effort);
        let mut chosen = choose_aliases(&candidates, &names);
        drop(candidates);
        extend_unsized(&mut chosen, &layout.sections);
        table.functions = without_overlaps(&chosen);
        Ok(table)
    }

    /// A reader of the names, for one batch.
    pub(crate) fn names<'a>(&self, source: &'a dyn ReadAt, effort: &Rc<Effort>) -> Names<'a> {
        let reader =
            |table: StringTable| PagedReader::new(Section::paged(source, table.offset, table.size, Rc::clone(effort)));
        Names {
            strings: reader(self.strings),
            dynamic_strings: reader(self.dynamic_strings),
        }
    }

    /// The name of the function at an address.
    pub(crate) fn find(&self, link_address: u64) -> Option<NameRef> {
        let after = self
            .functions
            .partition_point(|function| function.start <= link_address);
        let function = self.functions[..after].last()?;
        (link_address - function.start < u64::from(function.size)).then_some(function.name)
    }

    pub(crate) fn len(&self) -> usize {
        self.functions.len()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.functions)
    }
}

/// Reads names from the string tables of one object.
#[derive(Debug)]
pub(crate) struct Names<'a> {
    strings: PagedReader<'a>,
    dynamic_strings: PagedReader<'a>,
}

impl Names<'_> {
    /// The name as the linker knows it, without a symbol version, and whether it is a stub's; `None` if it cannot be read.
    pub(crate) fn read(&self, name: NameRef) -> Option<(Vec<u8>, bool)> {
        Some((self.read_part(name, LONGEST_NAME)?, name.0 & NameRef::STUB != 0))
    }

    fn read_part(&self, name: NameRef, limit: usize) -> Option<Vec<u8>> {
        let table = if name.0 & NameRef::DYNAMIC == 0 {
            &self.strings
        } else {
            &self.dynamic_strings
        };
        let mut bytes = table.string_at(u64::from(name.0 & NameRef::OFFSET), limit)?;
        // Linkers append `@VERSION` or `@@VERSION` in .symtab.
        if let Some(version) = bytes.iter().skip(1).position(|byte| *byte == b'@') {
            bytes.truncate(version + 1);
        }
        (!bytes.is_empty()).then_some(bytes)
    }
}

fn string_table(layout: &Layout, symbols: &SectionHeader) -> StringTable {
    match layout.sections.get(symbols.link as usize) {
        Some(strings) if strings.has_bytes() => StringTable {
            offset: strings.offset,
            size: strings.size,
        },
        _ => StringTable::default(),
    }
}

/// Calls `visit` with each symbol of a table and its index.
pub(crate) fn for_each_symbol(
    source: &dyn ReadAt,
    section: &SectionHeader,
    limits: &Limits,
    mut visit: impl FnMut(usize, &elf::Sym64<LE>) -> Result<(), ElfError>,
) -> Result<(), ElfError> {
    for_each_record(source, section, limits, "bytes of symbols", &mut visit)
}

/// Calls `visit` with each record of a section that is an array, and its index.
pub(crate) fn for_each_record<T: object::pod::Pod>(
    source: &dyn ReadAt,
    section: &SectionHeader,
    limits: &Limits,
    what: &'static str,
    mut visit: impl FnMut(usize, &T) -> Result<(), ElfError>,
) -> Result<(), ElfError> {
    if section.size > limits.symbol_bytes {
        return Err(ElfError::TooMany {
            what,
            count: section.size,
            limit: limits.symbol_bytes,
        });
    }
    let record_bytes = size_of::<T>() as u64;
    let length = section.size - section.size % record_bytes;
    let mut chunk = vec![0; (CHUNK_BYTES as u64).min(length) as usize];
    let mut done = 0;
    while done < length {
        let part = &mut chunk[..(length - done).min(CHUNK_BYTES as u64) as usize];
        read_exact_at(source, section.offset + done, part)?;
        let records = slice_from_all_bytes::<T>(part).or(Err(ElfError::Malformed {
            what: "array of records",
        }))?;
        for (index, record) in records.iter().enumerate() {
            visit((done / record_bytes) as usize + index, record)?;
        }
        done += part.len() as u64;
    }
    Ok(())
}

fn read_symbols(
    source: &dyn ReadAt,
    layout: &Layout,
    section: &SectionHeader,
    dynamic: bool,
    limits: &Limits,
    candidates: &mut Vec<Candidate>,
) -> Result<(), ElfError> {
    for_each_symbol(source, section, limits, |_, symbol| {
        let Some(candidate) = candidate(layout, symbol, dynamic) else {
            return Ok(());
        };
        if candidates.len() >= limits.functions {
            let count = candidates.len() as u64 + 1;
            return Err(ElfError::TooMany {
                what: "function symbols",
                count,
                limit: limits.functions as u64,
            });
        }
        candidates.push(candidate);
        Ok(())
    })
}

/// The symbol, if it names code.
fn candidate(layout: &Layout, symbol: &elf::Sym64<LE>, dynamic: bool) -> Option<Candidate> {
    let start = symbol.st_value.get(LE);
    let section = layout.code_of_symbol(symbol.st_shndx.get(LE).0, start)?;
    let rank = match symbol.st_info.st_type() {
        elf::STT_FUNC | elf::STT_GNU_IFUNC if symbol.st_info.st_bind() == elf::STB_LOCAL => Rank::Local,
        elf::STT_FUNC | elf::STT_GNU_IFUNC => Rank::Exported,
        elf::STT_NOTYPE => Rank::Untyped,
        _ => return None,
    };
    let name = symbol.st_name.get(LE);
    if name == 0 {
        return None;
    }
    let end = start.saturating_add(symbol.st_size.get(LE)).min(section.end());
    Some(Candidate {
        start,
        end,
        rank,
        name: NameRef::new(name, dynamic)?,
    })
}

/// One candidate for each start. `candidates` are sorted by start and rank.
fn choose_aliases(candidates: &[Candidate], names: &Names<'_>) -> Vec<Candidate> {
    let mut chosen = Vec::with_capacity(candidates.len());
    for group in candidates.chunk_by(|a, b| a.start == b.start) {
        let mut best = group[0];
        let peers = group
            .iter()
            .take_while(|candidate| candidate.rank == best.rank)
            .take(ALIASES_COMPARED);
        if group.len() > 1 {
            let plainness = |candidate: &Candidate| {
                let name = names.read_part(candidate.name, ALIAS_BYTES);
                // Fewer leading underscores first: `write` before `__write`; then the shorter.
                name.map_or((usize::MAX, usize::MAX, Vec::new()), |name| {
                    (name.iter().take_while(|byte| **byte == b'_').count(), name.len(), name)
                })
            };
            best = peers
                .min_by_key(|candidate| plainness(candidate))
                .copied()
                .unwrap_or(best);
        }
        best.end = group.iter().map(|candidate| candidate.end).max().unwrap_or(best.end);
        chosen.push(best);
    }
    chosen
}

/// Gives symbols without a size the code up to the next symbol of their section, and drops those inside of another: they are labels.
fn extend_unsized(functions: &mut Vec<Candidate>, sections: &[SectionHeader]) {
    let mut code: Vec<_> = sections.iter().filter(|section| section.is_code()).collect();
    code.sort_unstable_by_key(|section| section.address);
    let mut covered_to = 0;
    let mut kept = 0;
    for index in 0..functions.len() {
        let mut function = functions[index];
        let is_label = function.rank == Rank::Untyped || function.end == function.start;
        if is_label && function.start < covered_to {
            continue;
        }
        if function.end == function.start {
            let section = code[..code.partition_point(|section| section.address <= function.start)].last();
            let section_end = section.map_or(function.start, |section| section.end());
            function.end = functions
                .get(index + 1)
                .map_or(section_end, |next| next.start.min(section_end));
        } else {
            covered_to = covered_to.max(function.end);
        }
        functions[kept] = function;
        kept += 1;
    }
    functions.truncate(kept);
}

/// Cuts functions so that each address belongs to the one that starts last before it.
fn without_overlaps(sorted: &[Candidate]) -> Box<[Function]> {
    let mut functions = Vec::with_capacity(sorted.len());
    let mut add = |start: u64, end: u64, name: NameRef| {
        if start < end {
            functions.push(Function {
                start,
                size: u32::try_from(end - start).unwrap_or(u32::MAX),
                name,
            });
        }
    };
    let mut open: Vec<Candidate> = Vec::new();
    let mut cursor = 0;
    for function in sorted {
        while let Some(outer) = open.last().copied() {
            add(cursor, outer.end.min(function.start), outer.name);
            cursor = cursor.max(outer.end.min(function.start));
            if outer.end > function.start {
                break;
            }
            open.pop();
        }
        open.push(*function);
        cursor = function.start;
    }
    while let Some(outer) = open.pop() {
        add(cursor, outer.end, outer.name);
        cursor = cursor.max(outer.end);
    }
    functions.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(start: u64, end: u64, name: u32) -> Candidate {
        Candidate {
            start,
            end,
            rank: Rank::Exported,
            name: NameRef(name),
        }
    }

    fn code(address: u64, size: u64) -> SectionHeader {
        let flags = elf::SHF_ALLOC.0 | elf::SHF_EXECINSTR.0;
        SectionHeader {
            name: Box::default(),
            kind: elf::SHT_PROGBITS.0,
            flags,
            address,
            offset: 0,
            size,
            link: 0,
        }
    }

    #[test]
    fn unsized_functions_reach_to_the_next_but_not_across_sections() {
        let sections = [code(0x1000, 0x100), code(0x1100, 0x100)];
        let mut functions = vec![
            candidate(0x1000, 0x1000, 1),
            candidate(0x1040, 0x1080, 2),
            candidate(0x1050, 0x1050, 3),
            candidate(0x1090, 0x1090, 4),
            candidate(0x1150, 0x1150, 5),
        ];
        extend_unsized(&mut functions, &sections);
        let ranges: Vec<_> = functions
            .iter()
            .map(|function| (function.start, function.end))
            .collect();
        assert_eq!(
            ranges,
            [(0x1000, 0x1040), (0x1040, 0x1080), (0x1090, 0x1100), (0x1150, 0x1200)]
        );
    }

    proptest! {
        /// Each address belongs to the function that starts last before it and has not ended.
        #[test]
        fn overlaps_are_cut(ranges in proptest::collection::btree_map(0_u64..200, 1_u64..60, 1..40)) {
            let sorted: Vec<_> = ranges
                .iter()
                .enumerate()
                .map(|(name, (start, length))| candidate(*start, start + length, name as u32))
                .collect();
            let functions = without_overlaps(&sorted);
            prop_assert!(functions.windows(2).all(|pair| pair[0].start + u64::from(pair[0].size) <= pair[1].start));
            let table = FunctionTable { functions, ..FunctionTable::default() };
            for address in 0..300 {
                let expected = sorted.iter().rev().find(|function| (function.start..function.end).contains(&address));
                prop_assert_eq!(table.find(address), expected.map(|function| function.name), "{}", address);
            }
        }
    }
}
