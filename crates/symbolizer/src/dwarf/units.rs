//! Which compilation unit describes an address, and units opened to be read.

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugAddrBase, DebugInfoOffset, DebugLineOffset, DebugLocListsBase,
    DebugRngListsBase, DebugStrOffsetsBase, Error, Reader, Result, Section as _, Unit, UnitHeader, constants as dw,
};

use super::{DebugError, Dwarf};
use crate::{effort::Effort, limits::Limits, paged::PagedReader};

/// Longest table of abbreviations that is read: each byte of it can become a hundred in memory. Real ones stay below a
/// quarter of this.
const LONGEST_ABBREVIATIONS: usize = 256 << 10;
/// Units that are kept open for references between units.
const OPEN_UNITS: usize = 32;
/// Ranges of one unit that are no further apart are taken as one: what lies between is padding.
const PADDING: u64 = 64;
/// Compilation units that are told apart.
const MAX_UNITS: usize = 1 << 20;

/// Ranges of addresses of each compilation unit.
#[derive(Debug)]
pub(crate) struct UnitIndex {
    /// Sorted, without overlaps.
    ranges: Box<[UnitRange]>,
    /// Offset of each unit in `.debug_info`, ascending.
    offsets: Box<[u64]>,
    lowest_address: u64,
}

#[derive(Clone, Copy, Debug)]
struct UnitRange {
    start: u64,
    end: u64,
    unit: u32,
}

impl UnitIndex {
    pub(crate) fn read(
        dwarf: &Dwarf<'_>,
        lowest_address: u64,
        limits: &Limits,
        effort: &Effort,
    ) -> std::result::Result<Self, DebugError> {
        let mut ranges = Vec::new();
        let mut offsets = Vec::new();
        let mut abbreviations = AbbreviationCache::default();
        let mut headers = dwarf.units();
        // A header that cannot be read hides all units behind it; those before it are good.
        while let Ok(Some(header)) = headers.next() {
            let Some(offset) = header.debug_info_offset() else {
                continue;
            };
            if offsets.len() >= MAX_UNITS {
                break;
            }
            let number = offsets.len() as u32;
            offsets.push(offset.0 as u64);
            let first = ranges.len();
            let mut too_many = false;
            let result = OpenUnit::open(dwarf, header, &mut abbreviations, effort).and_then(|unit| {
                unit.ranges.for_each(dwarf, &unit.unit, lowest_address, |start, end| {
                    too_many = ranges.len() >= limits.unit_ranges;
                    match ranges[first..].last_mut() {
                        Some(UnitRange { end: last, .. }) if start >= *last && start - *last <= PADDING => *last = end,
                        _ if too_many => return false,
                        _ => ranges.push(UnitRange {
                            start,
                            end,
                            unit: number,
                        }),
                    }
                    true
                })
            });
            if too_many {
                return Err(DebugError::TooManyRanges {
                    limit: limits.unit_ranges,
                });
            }
            // A unit that cannot be read describes nothing; the others may.
            if result.is_err() && effort.is_spent() {
                return Err(DebugError::EffortSpent);
            }
        }
        ranges.sort_by_key(|range| (range.start, std::cmp::Reverse(range.end)));
        Ok(Self {
            ranges: without_overlaps(&ranges),
            offsets: offsets.into_boxed_slice(),
            lowest_address,
        })
    }

    /// Number of the unit that describes an address.
    pub(super) fn find(&self, link_address: u64) -> Option<usize> {
        let after = self.ranges.partition_point(|range| range.start <= link_address);
        let range = self.ranges[..after].last()?;
        (link_address < range.end).then_some(range.unit as usize)
    }

    /// Number of the unit that holds an entry.
    pub(super) fn unit_at(&self, offset: DebugInfoOffset<usize>) -> Option<usize> {
        self.offsets
            .partition_point(|start| *start <= offset.0 as u64)
            .checked_sub(1)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.ranges) + size_of_val(&*self.offsets)
    }
}

/// Cuts ranges so that each address belongs to the unit whose range starts last before it: a unit of hand-written code
/// can claim everything between its first and its last function.
fn without_overlaps(sorted: &[UnitRange]) -> Box<[UnitRange]> {
    let mut cut: Vec<UnitRange> = Vec::with_capacity(sorted.len());
    let mut add = |start: u64, end: u64, unit: u32| match cut.last_mut() {
        Some(last) if last.unit == unit && start.saturating_sub(last.end) <= PADDING => last.end = last.end.max(end),
        _ if start < end => cut.push(UnitRange { start, end, unit }),
        _ => {}
    };
    let mut open: Vec<UnitRange> = Vec::new();
    let mut cursor = 0;
    for range in sorted {
        while let Some(outer) = open.last().copied() {
            add(cursor, outer.end.min(range.start), outer.unit);
            cursor = cursor.max(outer.end.min(range.start));
            if outer.end > range.start {
                break;
            }
            open.pop();
        }
        open.push(*range);
        cursor = range.start;
    }
    while let Some(outer) = open.pop() {
        add(cursor, outer.end, outer.unit);
        cursor = cursor.max(outer.end);
    }
    cut.into_boxed_slice()
}

/// The ranges that an entry claims, before they are looked up.
#[derive(Debug, Default)]
pub(super) struct Ranges<'a> {
    low: Option<AttributeValue<PagedReader<'a>>>,
    high: Option<AttributeValue<PagedReader<'a>>>,
    list: Option<AttributeValue<PagedReader<'a>>>,
}

impl<'a> Ranges<'a> {
    /// Takes the attribute if it is about ranges.
    pub(super) fn take(&mut self, name: gimli::DwAt, value: &AttributeValue<PagedReader<'a>>) {
        match name {
            dw::DW_AT_low_pc => self.low = Some(value.clone()),
            dw::DW_AT_high_pc => self.high = Some(value.clone()),
            dw::DW_AT_ranges => self.list = Some(value.clone()),
            _ => {}
        }
    }

    /// Whether there can be none.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_none() && (self.low.is_none() || self.high.is_none())
    }

    /// Calls `visit` with the start and the end of each range until it returns false. Ranges below `lowest_address` are of
    /// functions that the linker dropped.
    pub(super) fn for_each(
        &self,
        dwarf: &Dwarf<'a>,
        unit: &Unit<PagedReader<'a>>,
        lowest_address: u64,
        mut visit: impl FnMut(u64, u64) -> bool,
    ) -> Result<()> {
        let mut visit = |start: u64, end: u64| start < lowest_address || start >= end || visit(start, end);
        if let Some(list) = &self.list {
            if let Some(mut ranges) = dwarf.attr_ranges(unit, list.clone())? {
                while let Some(range) = ranges.next()? {
                    if !visit(range.begin, range.end) {
                        break;
                    }
                }
            }
        } else if let (Some(low), Some(high)) = (&self.low, &self.high)
            && let Some(start) = dwarf.attr_address(unit, low.clone())?
        {
            let end = match high.udata_value() {
                Some(length) => start.saturating_add(length),
                None => dwarf.attr_address(unit, high.clone())?.unwrap_or(start),
            };
            visit(start, end);
        }
        Ok(())
    }
}

/// A unit with what its first entry says.
#[derive(Debug)]
pub(super) struct OpenUnit<'a> {
    pub(super) unit: Unit<PagedReader<'a>>,
    pub(super) line_program: Option<DebugLineOffset<usize>>,
    /// In the unit's language a function's name is also the name of its symbol.
    pub(super) has_plain_names: bool,
    ranges: Ranges<'a>,
}

impl<'a> OpenUnit<'a> {
    fn open(
        dwarf: &Dwarf<'a>,
        header: UnitHeader<PagedReader<'a>>,
        abbreviations: &mut AbbreviationCache,
        effort: &Effort,
    ) -> Result<Self> {
        let abbreviations = abbreviations.get(dwarf, &header)?;
        // Not `Unit::new`: it also parses the unit's files, of any number.
        let mut unit = Unit {
            abbreviations,
            name: None,
            comp_dir: None,
            low_pc: 0,
            str_offsets_base: DebugStrOffsetsBase(0),
            addr_base: DebugAddrBase(0),
            loclists_base: DebugLocListsBase(0),
            rnglists_base: DebugRngListsBase(0),
            line_program: None,
            dwo_id: None,
            header,
        };
        let (mut name, mut directory, mut line_program) = (None, None, None);
        let mut has_plain_names = false;
        let mut ranges = Ranges::default();
        let abbreviations = Arc::clone(&unit.abbreviations);
        let mut entries = unit.header.entries_raw(&abbreviations, None)?;
        let root = entries.read_abbreviation()?.ok_or(Error::MissingUnitDie)?;
        if !effort.spend(root.attributes().len() as u64) {
            return Err(Error::Io);
        }
        for specification in root.attributes() {
            let attribute = entries.read_attribute(*specification)?;
            let value = attribute.value();
            ranges.take(attribute.name(), &value);
            match (attribute.name(), value) {
                (dw::DW_AT_language, AttributeValue::Language(language)) => has_plain_names = is_plain(language),
                (dw::DW_AT_name, value) => name = Some(value),
                (dw::DW_AT_comp_dir, value) => directory = Some(value),
                (dw::DW_AT_stmt_list, AttributeValue::DebugLineRef(offset)) => line_program = Some(offset),
                (dw::DW_AT_str_offsets_base, AttributeValue::DebugStrOffsetsBase(base)) => unit.str_offsets_base = base,
                (dw::DW_AT_addr_base | dw::DW_AT_GNU_addr_base, AttributeValue::DebugAddrBase(base)) => {
                    unit.addr_base = base;
                }
                (dw::DW_AT_rnglists_base | dw::DW_AT_GNU_ranges_base, AttributeValue::DebugRngListsBase(base)) => {
                    unit.rnglists_base = base;
                }
                _ => {}
            }
        }
        // Only now: forms that are indices need the bases, which may come after them.
        unit.name = name.and_then(|value| dwarf.attr_string(&unit, value).ok());
        unit.comp_dir = directory.and_then(|value| dwarf.attr_string(&unit, value).ok());
        if let Some(low) = &ranges.low {
            unit.low_pc = dwarf.attr_address(&unit, low.clone())?.unwrap_or(0);
        }
        Ok(Self {
            unit,
            line_program,
            has_plain_names,
            ranges,
        })
    }
}

/// Whether functions of a language have symbols of the same name.
fn is_plain(language: gimli::DwLang) -> bool {
    matches!(
        language,
        dw::DW_LANG_C89
            | dw::DW_LANG_C
            | dw::DW_LANG_C99
            | dw::DW_LANG_C11
            | dw::DW_LANG_C17
            | dw::DW_LANG_Mips_Assembler
    )
}

/// The last tables of abbreviations; units of one compiler often share one.
#[derive(Debug, Default)]
struct AbbreviationCache {
    last: Option<(usize, Arc<Abbreviations>)>,
}

impl AbbreviationCache {
    fn get<'a>(&mut self, dwarf: &Dwarf<'a>, header: &UnitHeader<PagedReader<'a>>) -> Result<Arc<Abbreviations>> {
        let offset = header.debug_abbrev_offset().0;
        if let Some((last, abbreviations)) = &self.last
            && *last == offset
        {
            return Ok(Arc::clone(abbreviations));
        }
        let mut table = dwarf.debug_abbrev.reader().clone();
        table.skip(offset)?;
        table.truncate(table.len().min(LONGEST_ABBREVIATIONS))?;
        let abbreviations = Arc::new(DebugAbbrev::from(table).abbreviations(gimli::DebugAbbrevOffset(0))?);
        self.last = Some((offset, Arc::clone(&abbreviations)));
        Ok(abbreviations)
    }
}

/// Opens units by their number and keeps the last of them open.
#[derive(Debug)]
pub(super) struct OpenUnits<'d, 'a> {
    dwarf: &'d Dwarf<'a>,
    index: &'d UnitIndex,
    effort: Rc<Effort>,
    abbreviations: AbbreviationCache,
    open: HashMap<usize, Rc<OpenUnit<'a>>>,
    order: VecDeque<usize>,
    /// Those of the file that is shared with others.
    common: Option<Box<Self>>,
}

impl<'d, 'a> OpenUnits<'d, 'a> {
    pub(super) fn new(dwarf: &'d Dwarf<'a>, index: &'d UnitIndex, effort: Rc<Effort>) -> Self {
        let (open, order) = (HashMap::new(), VecDeque::new());
        Self {
            dwarf,
            index,
            effort,
            abbreviations: AbbreviationCache::default(),
            open,
            order,
            common: None,
        }
    }

    /// With the units of the file that `dwarf` shares with others.
    pub(super) fn with_common(mut self, index: Option<&'d UnitIndex>) -> Self {
        let common = self.dwarf.sup().zip(index);
        self.common = common.map(|(dwarf, index)| Box::new(Self::new(dwarf, index, Rc::clone(&self.effort))));
        self
    }

    pub(super) fn common(&mut self) -> Option<&mut Self> {
        self.common.as_deref_mut()
    }

    pub(super) fn dwarf(&self) -> &'d Dwarf<'a> {
        self.dwarf
    }

    pub(super) fn index(&self) -> &'d UnitIndex {
        self.index
    }

    pub(super) fn effort(&self) -> &Effort {
        &self.effort
    }

    pub(super) fn lowest_address(&self) -> u64 {
        self.index.lowest_address
    }

    /// The unit with this number.
    pub(super) fn open(&mut self, number: usize) -> Result<Rc<OpenUnit<'a>>> {
        if let Some(unit) = self.open.get(&number) {
            return Ok(Rc::clone(unit));
        }
        let offset = self.index.offsets.get(number).ok_or(Error::NoEntryAtGivenOffset(0))?;
        let header = self.dwarf.unit_header(DebugInfoOffset(*offset as usize))?;
        let unit = Rc::new(OpenUnit::open(
            self.dwarf,
            header,
            &mut self.abbreviations,
            &self.effort,
        )?);
        if self.order.len() >= OPEN_UNITS
            && let Some(oldest) = self.order.pop_front()
        {
            self.open.remove(&oldest);
        }
        self.order.push_back(number);
        self.open.insert(number, Rc::clone(&unit));
        Ok(unit)
    }
}
