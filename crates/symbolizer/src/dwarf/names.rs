//! Names of functions from their entries.

use std::{collections::HashMap, sync::Arc};

use gimli::{AttributeValue, Error, Reader, Result, UnitOffset, constants as dw};

use super::units::OpenUnits;
use crate::demangle::demangle;

/// References followed from a copy of a function to the entry that names it; compilers need three.
const LONGEST_CHAIN: usize = 16;
/// Longest name that is read; a longer one is left out.
const LONGEST_NAME: usize = 8 << 10;
/// Names kept for one batch.
const MAX_NAMES: usize = 1 << 16;

/// Names found so far in one batch.
#[derive(Debug, Default)]
pub(super) struct FunctionNames {
    by_entry: HashMap<(usize, UnitOffset<usize>), Option<FunctionName>>,
}

/// A name as the debug information has it.
#[derive(Clone, Debug)]
pub(super) struct FunctionName {
    pub(super) text: Arc<str>,
    /// It is the name that the linker knows, or the language has no other: nothing is missing from it. Else it lacks
    /// everything around the function: namespaces, types, parameters.
    pub(super) is_whole: bool,
}

/// Where to look next for a name.
enum Next {
    InUnit(UnitOffset<usize>),
    Elsewhere(gimli::DebugInfoOffset<usize>),
    /// In the file that is shared with others.
    InCommon(gimli::DebugInfoOffset<usize>),
}

impl FunctionNames {
    /// The name of the function that an entry describes; `None` if it has none that can be read.
    pub(super) fn name(
        &mut self,
        units: &mut OpenUnits<'_, '_>,
        unit: usize,
        entry: UnitOffset<usize>,
    ) -> Option<FunctionName> {
        if let Some(name) = self.by_entry.get(&(unit, entry)) {
            return name.clone();
        }
        let name = find(units, unit, entry).ok().flatten();
        let name = name.map(|(name, is_whole)| FunctionName {
            text: demangle(&name).into(),
            is_whole,
        });
        if self.by_entry.len() < MAX_NAMES {
            self.by_entry.insert((unit, entry), name.clone());
        }
        name
    }
}

/// The linkage name, or else the plain name, of the entry or of the one it is a copy of, and whether it is whole.
fn find(
    units: &mut OpenUnits<'_, '_>,
    mut unit: usize,
    mut entry: UnitOffset<usize>,
) -> Result<Option<(Vec<u8>, bool)>> {
    let mut plain = None;
    for _ in 0..LONGEST_CHAIN {
        let open = units.open(unit)?;
        let mut entries = open.unit.entries_raw(Some(entry))?;
        let Some(abbreviation) = entries.read_abbreviation()? else {
            break;
        };
        if !units.effort().spend(abbreviation.attributes().len() as u64) {
            return Err(Error::Io);
        }
        let mut next = None;
        for specification in abbreviation.attributes() {
            let attribute = entries.read_attribute(*specification)?;
            match attribute.name() {
                dw::DW_AT_linkage_name | dw::DW_AT_MIPS_linkage_name => {
                    if let Some(name) = text(units.dwarf().attr_string(&open.unit, attribute.value())) {
                        return Ok(Some((name, true)));
                    }
                }
                dw::DW_AT_name if plain.is_none() => {
                    let name = text(units.dwarf().attr_string(&open.unit, attribute.value()));
                    plain = name.map(|name| (name, open.has_plain_names));
                }
                dw::DW_AT_abstract_origin | dw::DW_AT_specification => {
                    next = match attribute.value() {
                        AttributeValue::UnitRef(offset) => Some(Next::InUnit(offset)),
                        AttributeValue::DebugInfoRef(offset) => Some(Next::Elsewhere(offset)),
                        AttributeValue::DebugInfoRefSup(offset) => Some(Next::InCommon(offset)),
                        _ => None,
                    };
                }
                _ => {}
            }
        }
        match next {
            Some(Next::InUnit(offset)) => entry = offset,
            Some(Next::Elsewhere(offset)) => (unit, entry) = place(units, offset)?,
            Some(Next::InCommon(offset)) => {
                let Some(common) = units.common() else { break };
                let (unit, entry) = place(common, offset)?;
                // That file refers to no other: this does not come here again.
                let found = find(common, unit, entry)?;
                return Ok(found.filter(|(_, is_whole)| *is_whole || plain.is_none()).or(plain));
            }
            None => break,
        }
    }
    Ok(plain)
}

/// The unit of an entry, and the entry in it.
fn place(units: &mut OpenUnits<'_, '_>, offset: gimli::DebugInfoOffset<usize>) -> Result<(usize, UnitOffset<usize>)> {
    let none = Error::NoEntryAtGivenOffset(offset.0 as u64);
    let unit = units.index().unit_at(offset).ok_or(none)?;
    let entry = offset.to_unit_offset(&units.open(unit)?.unit.header).ok_or(none)?;
    Ok((unit, entry))
}

fn text<R: Reader<Offset = usize>>(value: Result<R>) -> Option<Vec<u8>> {
    let value = value.ok().filter(|value| value.len() <= LONGEST_NAME)?;
    value
        .to_slice()
        .ok()
        .map(|bytes| bytes.into_owned())
        .filter(|bytes| !bytes.is_empty())
}
