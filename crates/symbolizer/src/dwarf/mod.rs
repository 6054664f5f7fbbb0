//! Inlined calls, files and lines from DWARF, versions 2 to 5.
//!
//! Works on batches of addresses: each compilation unit that holds some of them is read once, front to back, and only
//! what concerns these addresses is kept. Nothing is built that grows with the debug information but the [`UnitIndex`].
//! Split DWARF (`.dwo`, `.dwp`) is not followed: its units give lines, and functions come from the symbol table.

mod lines;
mod names;
mod scopes;
mod sections;
mod units;

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use self::{
    lines::Line,
    names::{FunctionName, FunctionNames},
    scopes::Scope,
    units::OpenUnits,
};
pub(crate) use self::{
    sections::{Inflated, open},
    units::UnitIndex,
};
use crate::{effort::Effort, object_symbols::Frame, paged::PagedReader};

pub(crate) type Dwarf<'a> = gimli::Dwarf<PagedReader<'a>>;

/// Why debug information was not used, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DebugError {
    /// The work for one batch was used up.
    #[error("the debug information takes more work than is allowed for one batch")]
    EffortSpent,
    /// The debug sections are larger than is read.
    #[error("debug sections of {bytes} bytes are more than the limit of {limit}")]
    TooLarge {
        /// Bytes in the file.
        bytes: u64,
        /// How many are accepted.
        limit: u64,
    },
    /// Compressed sections are larger than is held in memory.
    #[error("compressed debug sections of {bytes} bytes are more than the limit of {limit}")]
    CompressedTooLarge {
        /// Bytes after decompression.
        bytes: u64,
        /// How many are accepted.
        limit: u64,
    },
    /// There are more ranges of compilation units than are kept.
    #[error("more than {limit} address ranges of compilation units")]
    TooManyRanges {
        /// How many are accepted.
        limit: usize,
    },
    /// A section cannot be decompressed.
    #[error("section {section} cannot be decompressed: {reason}")]
    Decompress {
        /// Name of the section.
        section: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The information contradicts itself or is of an unknown form.
    #[error("malformed debug information: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
}

impl DebugError {
    /// Whether the next batch would come to the same end, at the same cost.
    pub fn is_lasting(&self) -> bool {
        !matches!(self, Self::Malformed { .. })
    }

    fn new(error: gimli::Error, effort: &Effort) -> Self {
        if effort.is_spent() {
            Self::EffortSpent
        } else {
            Self::Malformed {
                reason: error.to_string(),
            }
        }
    }
}

/// Resolves a batch of addresses, sorted and without doubles, and calls `found` for each with its place in the batch
/// and its frames, innermost first. `function_at` names the function around an address from the symbol table.
///
/// The second index is that of the file which the debug information shares with others, if `dwarf` has one.
///
/// What was found before an error is good; the first error is returned.
pub(crate) fn resolve(
    dwarf: &Dwarf<'_>,
    (index, common): (&UnitIndex, Option<&UnitIndex>),
    addresses: &[u64],
    effort: &Rc<Effort>,
    mut function_at: impl FnMut(u64) -> Option<Arc<str>>,
    mut found: impl FnMut(usize, Vec<Frame>),
) -> Option<DebugError> {
    let mut by_unit: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, address) in addresses.iter().enumerate() {
        if let Some(unit) = index.find(*address) {
            by_unit.entry(unit).or_default().push(place);
        }
    }
    let mut units = OpenUnits::new(dwarf, index, Rc::clone(effort)).with_common(common);
    let mut names = FunctionNames::default();
    let mut first_error = None;
    for (unit_number, places) in by_unit {
        if effort.is_spent() {
            break;
        }
        let targets: Vec<u64> = places.iter().map(|place| addresses[*place]).collect();
        let mut chains = vec![Vec::new(); targets.len()];
        let mut lines = vec![None; targets.len()];
        let result = resolve_unit(
            &mut units,
            &mut names,
            unit_number,
            effort,
            &targets,
            &mut chains,
            &mut lines,
        );
        first_error = first_error.or(result.err().map(|error| DebugError::new(error, effort)));
        for (((place, address), chain), line) in places.iter().zip(&targets).zip(chains).zip(lines) {
            let frames = frames(chain, line, || function_at(*address));
            if !frames.is_empty() {
                found(*place, frames);
            }
        }
    }
    if effort.is_spent() {
        Some(DebugError::EffortSpent)
    } else {
        first_error
    }
}

/// A scope with everything that is said about it.
#[derive(Clone, Debug)]
struct NamedScope {
    function: Option<FunctionName>,
    call: Line,
    inlined: bool,
}

fn resolve_unit(
    units: &mut OpenUnits<'_, '_>,
    names: &mut FunctionNames,
    unit_number: usize,
    effort: &Effort,
    targets: &[u64],
    chains: &mut [Vec<NamedScope>],
    lines: &mut [Option<Line>],
) -> gimli::Result<()> {
    let unit = units.open(unit_number)?;
    let mut program = lines::Program::open(units.dwarf(), &unit);
    let scopes = scopes::find(units.dwarf(), &unit, units.lowest_address(), effort, targets)?;
    for (chain, scopes) in chains.iter_mut().zip(scopes) {
        for Scope {
            entry,
            call_file,
            call_line,
            inlined,
            ..
        } in scopes
        {
            let function = names.name(units, unit_number, entry);
            let call = Line {
                file: program.file(units.dwarf(), &unit, call_file),
                line: call_line,
            };
            chain.push(NamedScope {
                function,
                call,
                inlined,
            });
        }
    }
    program.run(units.dwarf(), &unit, effort, targets, lines)
}

/// The frames of one address from its scopes, outermost first, and the line of its instruction.
fn frames(
    mut chain: Vec<NamedScope>,
    line: Option<Line>,
    function_from_symbols: impl FnOnce() -> Option<Arc<str>>,
) -> Vec<Frame> {
    // The outermost function has a symbol, which is better than a name without its namespace.
    let from_debug_info = chain.first().and_then(|outermost| outermost.function.clone());
    if from_debug_info.as_ref().is_none_or(|name| !name.is_whole)
        && let Some(text) = function_from_symbols()
        && from_debug_info.is_none_or(|name| !is_clone_of(&text, &name.text))
    {
        let function = Some(FunctionName { text, is_whole: true });
        match chain.first_mut() {
            Some(outermost) => outermost.function = function,
            None => chain.push(NamedScope {
                function,
                call: Line::default(),
                inlined: false,
            }),
        }
    }
    let mut line = line.unwrap_or_default();
    let mut frames = Vec::with_capacity(chain.len());
    for scope in chain.into_iter().rev() {
        let here = std::mem::replace(&mut line, scope.call);
        // A call whose name is lost is left out; what it called keeps its own place.
        if let Some(function) = scope.function {
            frames.push(Frame {
                function: function.text,
                unnamed: false,
                file: here.file,
                line: here.line,
                inlined: scope.inlined,
            });
        }
    }
    frames
}

/// Whether a symbol is a part or a copy that the compiler made of a function: `main.cold` of `main`.
fn is_clone_of(symbol: &str, function: &str) -> bool {
    symbol
        .strip_prefix(function)
        .is_some_and(|suffix| suffix.starts_with('.'))
}
