//! An object as it is loaded: bytes by link address, and what it exports.
//!
//! Comes in: an ELF file. Goes out: the answer to a name, through the hash table that the dynamic loader uses, so that
//! of a large object only a few hundred bytes are read.

use std::ops::Range;

use object::LittleEndian;
use object::elf::{DT_GNU_HASH, DT_HASH, DT_NEEDED, DT_STRTAB, DT_SYMTAB, PT_DYNAMIC, PT_LOAD};
use object::read::ReadRef;

use crate::elf::{Elf, ElfError, Segment64};
use crate::python::error::PythonError;

/// Most bytes of the dynamic section; linked objects have some 600.
const MAX_DYNAMIC_BYTES: u64 = 16 << 10;
/// Most symbols that are looked at for one name. Good tables have fewer than ten in a chain.
const MAX_CHAIN: u32 = 4096;
/// Most libraries that an object may say it needs.
const MAX_NEEDED: usize = 256;
/// Size of a symbol, `Elf64_Sym`.
const SYMBOL_BYTES: u64 = 24;

/// A symbol that the object defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Symbol {
    pub(super) link_address: u64,
    pub(super) size: u64,
}

impl Symbol {
    pub(super) fn range(self) -> Range<u64> {
        self.link_address..self.link_address.saturating_add(self.size)
    }
}

/// Where the dynamic section says its tables are.
#[derive(Clone, Debug, Default)]
struct Dynamic {
    symbols: u64,
    strings: u64,
    gnu_hash: Option<u64>,
    hash: Option<u64>,
    needed: Vec<u64>,
}

/// An object with its loaded segments.
#[derive(Clone, Debug)]
pub(super) struct Image<'data, R> {
    elf: Elf<'data, R>,
    headers: &'data [Segment64],
    dynamic: Dynamic,
}

impl<'data, R: ReadRef<'data>> Image<'data, R> {
    pub(super) fn parse(data: R) -> Result<Self, ElfError> {
        let elf = Elf::parse(data)?;
        let headers = elf.program_headers()?;
        let mut image = Self {
            elf,
            headers,
            dynamic: Dynamic::default(),
        };
        image.dynamic = image.read_dynamic();
        Ok(image)
    }

    /// The bytes that the file has for a link address. `None` where it has none (`.bss`) or too few.
    pub(super) fn bytes(&self, link_address: u64, length: u64) -> Option<&'data [u8]> {
        let offset = self.headers.iter().find_map(|header| {
            let into = link_address.checked_sub(header.p_vaddr.get(LittleEndian))?;
            let is_loaded = header.p_type.get(LittleEndian) == PT_LOAD;
            let fits = into.checked_add(length)? <= header.p_filesz.get(LittleEndian);
            (is_loaded && fits)
                .then(|| header.p_offset.get(LittleEndian).checked_add(into))
                .flatten()
        })?;
        self.elf.data().read_bytes_at(offset, length).ok()
    }

    fn half(&self, link_address: u64) -> Option<u32> {
        let bytes = self.bytes(link_address, 4)?;
        Some(u32::from_le_bytes(*bytes.first_chunk()?))
    }

    fn word(&self, link_address: u64) -> Option<u64> {
        let bytes = self.bytes(link_address, 8)?;
        Some(u64::from_le_bytes(*bytes.first_chunk()?))
    }

    /// The first program header of a type.
    pub(super) fn segment(&self, kind: object::elf::ProgramType) -> Option<&'data Segment64> {
        self.headers
            .iter()
            .find(|header| header.p_type.get(LittleEndian) == kind)
    }

    /// Whether a loaded section has this name.
    pub(super) fn has_section(&self, name: &[u8]) -> bool {
        let sections = self.elf.section_headers();
        sections
            .iter()
            .any(|section| self.elf.section_has_name(sections, section, name))
    }

    fn read_dynamic(&self) -> Dynamic {
        let mut dynamic = Dynamic::default();
        let Some(header) = self.segment(PT_DYNAMIC) else {
            return dynamic;
        };
        let size = header.p_filesz.get(LittleEndian).min(MAX_DYNAMIC_BYTES);
        let offset = header.p_offset.get(LittleEndian);
        let Ok(bytes) = self.elf.data().read_bytes_at(offset, size) else {
            return dynamic;
        };
        for entry in bytes.as_chunks::<16>().0 {
            let (tag, value) = entry.split_at(8);
            let (Some(tag), Some(value)) = (tag.first_chunk(), value.first_chunk()) else {
                break;
            };
            let value = u64::from_le_bytes(*value);
            match i64::from_le_bytes(*tag) {
                0 => break,
                tag if tag == DT_SYMTAB.0 => dynamic.symbols = value,
                tag if tag == DT_STRTAB.0 => dynamic.strings = value,
                tag if tag == DT_GNU_HASH.0 => dynamic.gnu_hash = Some(value),
                tag if tag == DT_HASH.0 => dynamic.hash = Some(value),
                tag if tag == DT_NEEDED.0 && dynamic.needed.len() < MAX_NEEDED => dynamic.needed.push(value),
                _ => {}
            }
        }
        dynamic
    }

    /// Whether the object needs a library whose name starts like this.
    pub(super) fn needs(&self, start: &[u8]) -> bool {
        self.dynamic.needed.iter().any(|name| self.has_string(*name, start))
    }

    fn has_string(&self, offset: u64, expect: &[u8]) -> bool {
        self.dynamic
            .strings
            .checked_add(offset)
            .and_then(|address| self.bytes(address, expect.len() as u64))
            .is_some_and(|bytes| bytes == expect)
    }

    /// The symbol that the object exports under this name (given with its closing zero), if it defines it itself.
    pub(super) fn export(&self, name: &'static str) -> Option<Symbol> {
        match (self.dynamic.gnu_hash, self.dynamic.hash) {
            (Some(table), _) => self.find_by_gnu_hash(table, name),
            (None, Some(table)) => self.find_by_hash(table, name),
            (None, None) => None,
        }
    }

    /// As [`Self::export`], where the interpreter must define it.
    pub(super) fn required(&self, name: &'static str) -> Result<Symbol, PythonError> {
        self.export(name).ok_or(PythonError::SymbolMissing { name })
    }

    /// The table of `DT_GNU_HASH`: number of buckets, first symbol in them, words of the Bloom filter and its shift;
    /// the filter; the buckets; and for each symbol its hash, whose lowest bit ends a chain.
    fn find_by_gnu_hash(&self, table: u64, name: &str) -> Option<Symbol> {
        let hash = name.bytes().fold(5381_u32, |hash, byte| {
            hash.wrapping_mul(33).wrapping_add(u32::from(byte))
        });
        let [buckets, first, filter_words, _] = [0, 4, 8, 12].map(|at| self.half(table.wrapping_add(at)));
        let (buckets, first, filter_words) = (buckets?, first?, filter_words?);
        let bucket_table = table.wrapping_add(16).wrapping_add(8 * u64::from(filter_words));
        let chains = bucket_table.wrapping_add(4 * u64::from(buckets));
        let bucket = hash.checked_rem(buckets)?;
        let start = self.half(bucket_table.wrapping_add(4 * u64::from(bucket)))?;
        for index in (start..u32::MAX).take(MAX_CHAIN as usize) {
            let place = index.checked_sub(first)?;
            let found = self.half(chains.wrapping_add(4 * u64::from(place)))?;
            if found | 1 == hash | 1
                && let Some(symbol) = self.symbol(index, name)
            {
                return Some(symbol);
            }
            if found & 1 == 1 {
                return None;
            }
        }
        None
    }

    /// The table of `DT_HASH`: numbers of buckets and of symbols, the buckets, and for each symbol the next of its chain.
    fn find_by_hash(&self, table: u64, name: &str) -> Option<Symbol> {
        let hash = name.bytes().fold(0_u32, |hash, byte| {
            let hash = (hash << 4).wrapping_add(u32::from(byte));
            let high = hash & 0xf000_0000;
            (hash ^ (high >> 24)) & !high
        });
        let buckets = self.half(table)?;
        let bucket = hash.checked_rem(buckets)?;
        let bucket_table = table.wrapping_add(8);
        let chains = bucket_table.wrapping_add(4 * u64::from(buckets));
        let mut index = self.half(bucket_table.wrapping_add(4 * u64::from(bucket)))?;
        for _ in 0..MAX_CHAIN {
            if index == 0 {
                return None;
            }
            if let Some(symbol) = self.symbol(index, name) {
                return Some(symbol);
            }
            index = self.half(chains.wrapping_add(4 * u64::from(index)))?;
        }
        None
    }

    /// The symbol with this number, if it is defined and has this name.
    fn symbol(&self, index: u32, name: &str) -> Option<Symbol> {
        let address = self.dynamic.symbols.wrapping_add(SYMBOL_BYTES * u64::from(index));
        let name_offset = self.half(address)?;
        // Section 0 stands for undefined.
        let section = self.half(address.wrapping_add(4))? >> 16;
        let is_named = self.has_string(u64::from(name_offset), name.as_bytes())
            && self.has_string(u64::from(name_offset) + name.len() as u64, &[0]);
        (section != 0 && is_named).then_some(())?;
        Some(Symbol {
            link_address: self.word(address.wrapping_add(8))?,
            size: self.word(address.wrapping_add(16))?,
        })
    }
}
