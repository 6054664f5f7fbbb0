//! The function around an address, and the calls that were inlined there.

use gimli::{AttributeValue, EntriesRaw, Result, UnitOffset, constants as dw};

use super::{
    Dwarf,
    units::{OpenUnit, Ranges},
};
use crate::{effort::Effort, paged::PagedReader};

/// Calls inlined into each other at one address; compilers stay far below.
const DEEPEST_INLINING: usize = 256;

/// Entries around an entry that are kept in mind.
const DEEPEST_NESTING: usize = 256;
/// Work for one attribute, beside its bytes.
const ATTRIBUTE_EFFORT: u64 = 2;
/// Work for looking up one range.
const RANGE_EFFORT: u64 = 16;

/// A function, or a call that was inlined, around an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    /// The entry that describes it, in its unit.
    pub(super) entry: UnitOffset<usize>,
    /// Where the call is that was inlined: a file of the unit, and a line; 0 if unknown.
    pub(super) call_file: u64,
    pub(super) call_line: u32,
    pub(super) inlined: bool,
}

/// The entries that an entry being read lies in.
struct Enclosing {
    depth: isize,
    entry: UnitOffset<usize>,
    /// Whether it is around one of the addresses.
    matched: bool,
}

/// Finds the scopes around each of `targets`, which are sorted; outermost first.
pub(super) fn find<'a>(
    dwarf: &Dwarf<'a>,
    open_unit: &OpenUnit<'a>,
    lowest_address: u64,
    effort: &Effort,
    targets: &[u64],
) -> Result<Vec<Vec<Scope>>> {
    let unit = &open_unit.unit;
    let mut chains: Vec<Vec<Scope>> = vec![Vec::new(); targets.len()];
    let mut enclosing: Vec<Enclosing> = Vec::new();
    let mut entries = unit.header.entries_raw(&unit.abbreviations, None)?;
    let mut covered = Vec::new();
    while !entries.is_empty() {
        let depth = entries.next_depth();
        let entry = entries.next_offset();
        let Some(abbreviation) = entries.read_abbreviation()? else {
            continue;
        };
        let attributes = abbreviation.attributes();
        // Attributes can take no bytes, so reading them does not pay for them.
        if !effort.spend(1 + ATTRIBUTE_EFFORT * attributes.len() as u64) {
            return Err(gimli::Error::Io);
        }
        while enclosing.pop_if(|outer| outer.depth >= depth).is_some() {}
        let inlined = match abbreviation.tag() {
            dw::DW_TAG_subprogram => false,
            // Within a function that is not around any address no inlined call can be.
            dw::DW_TAG_inlined_subroutine if enclosing.last().is_some_and(|outer| outer.matched) => true,
            _ => {
                entries.skip_attributes(attributes)?;
                continue;
            }
        };
        let (ranges, call_file, call_line) = read_attributes(&mut entries, attributes)?;
        covered.clear();
        if !ranges.is_empty() {
            // Ranges that cannot be read leave out this function, not the unit.
            let result = ranges.for_each(dwarf, unit, lowest_address, |start, end| {
                let first = targets.partition_point(|target| *target < start);
                let count = targets[first..].partition_point(|target| *target < end);
                covered.extend(first..first + count);
                effort.spend(RANGE_EFFORT + count as u64)
            });
            if result.is_err() && effort.is_spent() {
                return result.map(|()| chains);
            }
        }
        let scope = Scope {
            entry,
            call_file,
            call_line,
            inlined,
        };
        let mut matched = false;
        if !inlined && !effort.spend((covered.len() * enclosing.len()) as u64) {
            return Err(gimli::Error::Io);
        }
        for target in &covered {
            matched |= add_scope(&mut chains[*target], scope, &enclosing);
        }
        if abbreviation.has_children() && enclosing.len() < DEEPEST_NESTING {
            enclosing.push(Enclosing { depth, entry, matched });
        }
    }
    Ok(chains)
}

/// Adds the scope to the chain of an address if it belongs there.
fn add_scope(chain: &mut Vec<Scope>, scope: Scope, enclosing: &[Enclosing]) -> bool {
    let is_open = |outer: &Scope| enclosing.iter().any(|candidate| candidate.entry == outer.entry);
    let belongs = match chain.last() {
        None => !scope.inlined,
        // An inlined call lies directly in the scope found last; of two that overlap the first counts.
        Some(last) if scope.inlined => {
            enclosing.last().is_some_and(|outer| outer.entry == last.entry) && chain.len() < DEEPEST_INLINING
        }
        // A function within a function has code of its own.
        Some(_) => chain.first().is_some_and(is_open),
    };
    if belongs {
        if !scope.inlined {
            chain.clear();
        }
        chain.push(scope);
    }
    belongs
}

fn read_attributes<'a>(
    entries: &mut EntriesRaw<'_, PagedReader<'a>>,
    attributes: &[gimli::AttributeSpecification],
) -> Result<(Ranges<'a>, u64, u32)> {
    let mut ranges = Ranges::default();
    let (mut call_file, mut call_line) = (0, 0);
    for specification in attributes {
        let attribute = entries.read_attribute(*specification)?;
        let value = attribute.value();
        match attribute.name() {
            dw::DW_AT_call_file => {
                call_file = match value {
                    AttributeValue::FileIndex(index) => index,
                    value => value.udata_value().unwrap_or(0),
                };
            }
            dw::DW_AT_call_line => {
                call_line = value
                    .udata_value()
                    .and_then(|line| u32::try_from(line).ok())
                    .unwrap_or(0);
            }
            name => ranges.take(name, &value),
        }
    }
    Ok((ranges, call_file, call_line))
}
