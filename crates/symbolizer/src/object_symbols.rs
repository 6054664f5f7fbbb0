//! Names of the code of one object.

use std::{collections::HashMap, rc::Rc, sync::Arc};

use crate::{
    demangle::demangle,
    dwarf::{self, DebugError, Inflated, UnitIndex},
    effort::Effort,
    elf::{self, CommonLink, DebugLink, ElfError, Layout},
    functions::{FunctionTable, NameRef, Names},
    limits::Limits,
    source::ReadAt,
    unnamed::UnnamedFunctions,
};

/// Starts of the names of the sections that are needed after an object was loaded, beside its code.
const KEPT_SECTIONS: [&[u8]; 6] = [
    b".debug_",
    b".zdebug_",
    b".eh_frame",
    b".gnu_debuglink",
    b".gnu_debugaltlink",
    b".note.gnu.build-id",
];

/// One function at one line, as far as the object tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Demangled name. As found in the object: it may hold anything. `+0xoffset` if it has none.
    pub function: Arc<str>,
    /// No symbol names the function: it is known only to begin at the link address that [`Frame::function`] holds.
    pub unnamed: bool,
    /// Path of the source file; empty if unknown.
    pub file: Arc<str>,
    /// Line; 0 if unknown.
    pub line: u32,
    /// The compiler inlined this function into the one that the next frame names.
    pub inlined: bool,
}

/// The names of a batch of addresses.
#[derive(Debug)]
pub struct Resolution {
    /// For each address of the batch, in its order: frames, innermost first; empty if nothing names the address.
    pub frames: Vec<Arc<[Frame]>>,
    /// Why debug information was not used, or not for every address. The function table was used instead.
    pub debug_error: Option<DebugError>,
}

/// What names the code of one object: small tables in memory, everything else in the file.
#[derive(Debug)]
pub struct ObjectSymbols {
    layout: Layout,
    functions: FunctionTable,
    /// Why there is no function table.
    functions_error: Option<ElfError>,
    units: Option<UnitIndex>,
    inflated: Inflated,
    limits: Limits,
}

impl ObjectSymbols {
    /// Reads the headers and the symbol tables of an object.
    ///
    /// # Errors
    ///
    /// When it is no ELF object of 64 bits, or its headers cannot be read. Symbol tables that cannot be read are no error
    /// here but tell their own ([`ObjectSymbols::functions_error`]).
    pub fn load(source: &dyn ReadAt, limits: &Limits) -> Result<Self, ElfError> {
        let mut layout = Layout::read(source)?;
        let (functions, functions_error) = match FunctionTable::read(source, &layout, limits) {
            Ok(functions) => (functions, None),
            Err(error) => (FunctionTable::default(), Some(error)),
        };
        layout.keep(|section| {
            let name = &section.name;
            section.is_code() || KEPT_SECTIONS.iter().any(|start| name.starts_with(start))
        });
        Ok(Self {
            layout,
            functions,
            functions_error,
            units: None,
            inflated: Inflated::default(),
            limits: *limits,
        })
    }

    /// Names a batch of addresses. `source` must give the bytes that the object was loaded from.
    ///
    /// The first batch also reads which compilation unit describes which addresses, if the object has debug information, and
    /// decompresses that where it is compressed; [`ObjectSymbols::forget_units`] and [`ObjectSymbols::forget_inflated`] free
    /// that again.
    pub fn resolve(&mut self, source: &dyn ReadAt, link_addresses: &[u64]) -> Resolution {
        self.resolve_with(source, None, link_addresses)
    }

    /// The same for an object whose debug information refers to a file that it shares with others
    /// ([`ObjectSymbols::common_link`]): that file's own symbols and bytes.
    pub fn resolve_with<'a>(
        &mut self,
        source: &'a dyn ReadAt,
        common: Option<(&mut Self, &'a dyn ReadAt)>,
        link_addresses: &[u64],
    ) -> Resolution {
        let effort = Rc::new(Effort::new(self.limits.effort));
        let mut sorted = link_addresses.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut found: Vec<Option<Arc<[Frame]>>> = vec![None; sorted.len()];
        let Self {
            layout,
            functions,
            units,
            inflated,
            limits,
            ..
        } = self;
        let mut table_names = TableNames::new(functions, source, limits);
        let resolve = || {
            let Some(mut dwarf) = dwarf::open(source, layout, limits, &effort, inflated)? else {
                return Ok(None);
            };
            let units = indexed(units, &dwarf, layout, limits, &effort)?;
            let mut common_units = None;
            if let Some((common, source)) = common
                && let Some(of_common) = dwarf::open(source, &common.layout, limits, &effort, &mut common.inflated)?
            {
                common_units = Some(indexed(&mut common.units, &of_common, &common.layout, limits, &effort)?);
                dwarf.set_sup(of_common);
            }
            Ok(dwarf::resolve(
                &dwarf,
                (units, common_units),
                &sorted,
                &effort,
                |address| table_names.name(address),
                |place, frames| found[place] = Some(frames.into()),
            ))
        };
        let debug_error = resolve().unwrap_or_else(Some);
        let unnamed = UnnamedFunctions::read(source, layout);
        for (frames, address) in found.iter_mut().zip(&sorted) {
            if frames.is_some() {
                continue;
            }
            let named = table_names.name(*address).map(|function| (function, false));
            let function = named.or_else(|| {
                let start = unnamed?.start_of(source, *address)?;
                Some((format!("+{start:#x}").into(), true))
            });
            *frames = function.map(|(function, unnamed)| {
                [Frame {
                    function,
                    unnamed,
                    file: Arc::default(),
                    line: 0,
                    inlined: false,
                }]
                .into()
            });
        }
        let frames = link_addresses.iter().map(|address| {
            let place = sorted.binary_search(address).ok();
            place.and_then(|place| found[place].clone()).unwrap_or_default()
        });
        Resolution {
            frames: frames.collect(),
            debug_error,
        }
    }

    /// Frees what was read from debug information; the next batch reads it again.
    pub fn forget_units(&mut self) {
        self.units = None;
    }

    /// Frees debug sections that had to be decompressed; the next batch does it again.
    pub fn forget_inflated(&mut self) {
        self.inflated = Inflated::default();
    }

    /// Names from the function table only from now on: for an object whose debug information came to a lasting error.
    pub fn ignore_debug_info(&mut self) {
        self.layout
            .keep(|section| !section.name.starts_with(b".debug_") && !section.name.starts_with(b".zdebug_"));
        self.units = None;
        self.forget_inflated();
    }

    /// Why the object has no function table, if its symbol tables could not be read.
    pub fn functions_error(&self) -> Option<&ElfError> {
        self.functions_error.as_ref()
    }

    /// Number of functions that the symbol tables name, cut where they overlap.
    pub fn function_count(&self) -> usize {
        self.functions.len()
    }

    /// Whether the object itself has debug information.
    pub fn has_debug_info(&self) -> bool {
        self.layout
            .section(b".debug_info")
            .or_else(|| self.layout.section(b".zdebug_info"))
            .is_some()
    }

    /// The build id, if there is one. Any object can claim any: it is a hint, never an identity.
    pub fn build_id(&self, source: &dyn ReadAt) -> Option<Vec<u8>> {
        elf::build_id(source, &self.layout)
    }

    /// The file that is said to hold the debug information of this object.
    pub fn debug_link(&self, source: &dyn ReadAt) -> Option<DebugLink> {
        elf::debug_link(source, &self.layout)
    }

    /// The file that is said to hold what the debug information of this object shares with that of others.
    pub fn common_link(&self, source: &dyn ReadAt) -> Option<CommonLink> {
        elf::common_link(source, &self.layout)
    }

    /// Memory held between batches.
    pub fn memory_bytes(&self) -> usize {
        self.layout.memory_bytes() + self.functions.memory_bytes() + self.unit_bytes() + self.inflated_bytes()
    }

    /// The part of [`ObjectSymbols::memory_bytes`] that [`ObjectSymbols::forget_units`] frees.
    pub fn unit_bytes(&self) -> usize {
        self.units.as_ref().map_or(0, UnitIndex::memory_bytes)
    }

    /// The part of [`ObjectSymbols::memory_bytes`] that [`ObjectSymbols::forget_inflated`] frees.
    pub fn inflated_bytes(&self) -> usize {
        self.inflated.memory_bytes()
    }
}

/// The index of the units, read if it is not there yet.
fn indexed<'u>(
    units: &'u mut Option<UnitIndex>,
    dwarf: &dwarf::Dwarf<'_>,
    layout: &Layout,
    limits: &Limits,
    effort: &Effort,
) -> Result<&'u UnitIndex, DebugError> {
    match units {
        Some(units) => Ok(units),
        None => Ok(units.insert(UnitIndex::read(dwarf, layout.lowest_code_address(), limits, effort)?)),
    }
}

/// Names from the function table, each read once per batch.
struct TableNames<'a> {
    functions: &'a FunctionTable,
    names: Names<'a>,
    read: HashMap<NameRef, Option<Arc<str>>>,
}

impl<'a> TableNames<'a> {
    fn new(functions: &'a FunctionTable, source: &'a dyn ReadAt, limits: &Limits) -> Self {
        // An effort of its own: hostile debug information must not cost the names of the function table.
        let effort = Rc::new(Effort::new(limits.effort));
        Self {
            functions,
            names: functions.names(source, &effort),
            read: HashMap::new(),
        }
    }

    fn name(&mut self, link_address: u64) -> Option<Arc<str>> {
        let name = self.functions.find(link_address)?;
        let read = self.read.entry(name).or_insert_with(|| {
            let (bytes, is_stub) = self.names.read(name)?;
            let mut text = demangle(&bytes);
            if is_stub {
                text.push_str("@plt");
            }
            Some(text.into())
        });
        read.clone()
    }
}
