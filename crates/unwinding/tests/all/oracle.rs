//! What call frame information says, by gimli, applied to made-up registers and memory.
//!
//! The oracle shares no code with the compiler beyond gimli: it evaluates the rules and expressions themselves, and holds
//! the outcome against that of the walker with the compiled rows.

use std::cell::Cell;

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameOffset, EndianSlice, EvaluationResult, Expression, FrameDescriptionEntry,
    LittleEndian, Location, ReaderOffset, Register, RegisterRule, UnwindContext, UnwindContextStorage, UnwindSection,
    UnwindTableRow, Value, X86_64,
};
use profiler_common::process::{Mapping, kind};
use profiler_common::row::{CfaRule as RowCfa, Page, RbpRule, Row};
use profiler_common::stop::StopReason;
use profiler_common::walk::{self, Target, Walk};
use profiler_unwinding::{CallFrames, RowTable};

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// As much room as the compiler allows itself, so that both give up on the same functions.
struct Storage;

impl<T: ReaderOffset> UnwindContextStorage<T> for Storage {
    type Rules = [(Register, RegisterRule<T>); 32];
    type Stack = Box<[UnwindTableRow<T, Self>; 16]>;
}

/// The registers that walks begin with.
const REGISTERS: Walk = Walk {
    ip: 0,
    sp: 0x7000_0000_0000,
    bp: 0x7000_0000_1230,
    r10: 0x7000_0000_2340,
    r11: 0x7000_0000_3450,
    r13: 0x7000_0000_4560,
    rax: 0x7000_0000_5670,
    signal_frame: 0,
    first_mapping: 0,
    mapping_count: 1,
    mapping_hint: 0,
    frames: 0,
    flags: walk::flags::INTERRUPTED,
    uprobe_returns: 0,
    stop: 0,
    reserved: 0,
    relocation: profiler_common::process::Relocation::NONE,
};

/// Made-up memory: every word is a plausible stack address that depends on where it is read.
fn memory(address: u64) -> u64 {
    0x7000_0000_0000 + (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & 0xff_fff8) + 8
}

/// What one step of unwinding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Caller { ip: u64, sp: u64, bp: Option<u64> },
    Stop(StopReason),
}

/// Holds every row boundary of every function, the address after it and the last one before the next against gimli.
/// Returns the number of addresses compared.
pub(crate) fn check_against_gimli(call_frames: &CallFrames<'_>, table: &RowTable) -> usize {
    let mut eh_frame = EhFrame::new(call_frames.bytes(), LittleEndian);
    eh_frame.set_address_size(8);
    let bases = BaseAddresses::default().set_eh_frame(call_frames.link_address());
    let mut functions: Vec<_> = functions(call_frames.bytes(), &eh_frame, &bases)
        .into_iter()
        .filter_map(|entry| loaded_end(call_frames, &entry).map(|end| (entry, end)))
        .collect();
    functions.sort_by_key(|(entry, _)| entry.initial_address());
    let mut context = UnwindContext::<_, Storage>::new_in();
    let mut checked = 0;
    let mut end_before = 0;
    for (entry, end) in &functions {
        let end = *end;
        let mut check = |address: u64, expected: Outcome, inexact: bool| {
            if address >= end_before && address < end {
                compare(table, address, expected, inexact, entry);
                checked += 1;
            }
        };
        let mut next = entry.initial_address();
        if let Ok(mut rows) = entry.rows(&eh_frame, &bases, &mut context) {
            while let Ok(Some(row)) = rows.next_row() {
                let (start, row_end) = (next, row.end_address());
                next = next.max(row_end);
                if start >= row_end {
                    continue;
                }
                for address in [start, start + 1, row_end - 1] {
                    if address < row_end {
                        let (expected, inexact) = expected(&eh_frame, entry, row, address);
                        check(address, expected, inexact);
                    }
                }
            }
        }
        if next < end {
            check(next, Outcome::Stop(StopReason::UnsupportedRule), false);
            check(end - 1, Outcome::Stop(StopReason::UnsupportedRule), false);
        }
        end_before = end_before.max(end);
    }
    checked + check_gaps(table, &functions)
}

/// Where the code of a function ends that is loaded: in the segment that begins last before it. `None` if it has none.
fn loaded_end(call_frames: &CallFrames<'_>, entry: &FrameDescriptionEntry<Bytes<'_>>) -> Option<u64> {
    let start = entry.initial_address();
    let end = start.checked_add(entry.len()).filter(|end| *end > start)?;
    let mut segments = call_frames.segments().executable().iter().rev();
    let segment = segments.find(|segment| segment.link_address <= start)?;
    segment
        .link_range()
        .contains(&start)
        .then(|| end.min(segment.link_range().end))
}

/// Right behind each function that no other follows, and in front of the first, there must be nothing.
fn check_gaps(table: &RowTable, functions: &[(FrameDescriptionEntry<Bytes<'_>>, u64)]) -> usize {
    let mut checked = 0;
    let mut end_before = 0;
    for (entry, end) in functions {
        let start = entry.initial_address();
        // What is long enough to hold functions may have rows that were deduced from them.
        let is_padding = start.saturating_sub(end_before) < 64;
        if start > end_before && end_before > 0 && is_padding {
            for address in [end_before, start - 1] {
                // Outside the pages there is no row either.
                if let Some(row) = table.find(address) {
                    assert!(
                        row.cfa_rule() == RowCfa::Gap as u8 || is_of_linkage_table(row),
                        "{address:#x} is described by no function: {row:?}"
                    );
                    checked += 1;
                }
            }
        }
        end_before = end_before.max(*end);
    }
    checked
}

/// Whether a row may belong to a procedure linkage table, which gets rows where nothing describes it.
fn is_of_linkage_table(row: Row) -> bool {
    let first = row.cfa_rule() == RowCfa::Rsp as u8 && matches!(row.cfa_offset(), 16 | 24);
    (first || row.cfa_rule() == RowCfa::Plt as u8) && row.rbp_rule() == RbpRule::Same as u8
}

/// Every function whose entry gimli can read. Its own iterator ends at the first that it cannot.
fn functions<'a>(
    bytes: &[u8],
    eh_frame: &EhFrame<Bytes<'a>>,
    bases: &BaseAddresses,
) -> Vec<FrameDescriptionEntry<Bytes<'a>>> {
    let word = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word));
    let mut functions = Vec::new();
    let mut at = 0;
    while let Some(length) = word(at) {
        let (body, length) = match length {
            u32::MAX => {
                let long = bytes.get(at + 4..).and_then(|rest| rest.first_chunk());
                (at + 12, long.map_or(u64::MAX, |long| u64::from_le_bytes(*long)))
            }
            length => (at + 4, u64::from(length)),
        };
        if length > bytes.len().saturating_sub(body) as u64 {
            break;
        }
        if length >= 4 && word(body) != Some(0) {
            functions.extend(eh_frame.fde_from_offset(bases, EhFrameOffset(at), EhFrame::cie_from_offset));
        }
        at = body + length as usize;
    }
    functions
}

fn compare(table: &RowTable, address: u64, expected: Outcome, inexact: bool, entry: &FrameDescriptionEntry<Bytes<'_>>) {
    let found = by_rows(table, address);
    // Rules that rows cannot hold may end a walk, as long as the row says so.
    let refused = inexact && found == Outcome::Stop(StopReason::UnsupportedRule);
    let same = match (found, expected) {
        // The compiler may give up rbp alone.
        (Outcome::Caller { ip, sp, bp: None }, Outcome::Caller { ip: ip2, sp: sp2, .. }) if inexact => {
            (ip, sp) == (ip2, sp2)
        }
        _ => found == expected,
    };
    assert!(
        same || refused,
        "{address:#x} in the function at {:#x}: row {:?} leads to {found:x?}, gimli to {expected:x?}",
        entry.initial_address(),
        table.find(address)
    );
}

/// The outcome by gimli's row, and whether a row may fall short of it.
fn expected(
    eh_frame: &EhFrame<Bytes<'_>>,
    entry: &FrameDescriptionEntry<Bytes<'_>>,
    row: &UnwindTableRow<usize, Storage>,
    address: u64,
) -> (Outcome, bool) {
    if entry.is_signal_trampoline() {
        let at = |offset: u64| memory(REGISTERS.sp + offset);
        return (
            Outcome::Caller {
                ip: at(168),
                sp: at(160),
                bp: Some(at(120)),
            },
            false,
        );
    }
    let unsupported = (Outcome::Stop(StopReason::UnsupportedRule), false);
    match row.register(X86_64::RA) {
        Some(RegisterRule::Undefined) if entry.cie().return_address_register() == X86_64::RA => {
            return (Outcome::Stop(StopReason::Root), false);
        }
        Some(RegisterRule::Offset(-8)) if entry.cie().return_address_register() == X86_64::RA => {}
        _ => return unsupported,
    }
    if !matches!(row.register(X86_64::RSP), None | Some(RegisterRule::ValOffset(0))) {
        return unsupported;
    }
    let evaluate = |expression: Expression<Bytes<'_>>, initial| evaluate(expression, initial, address);
    let (cfa, mut inexact) = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            let fits = offset % 8 == 0 && (-(1 << 26)..1 << 26).contains(offset);
            (known(*register).map(|value| value.wrapping_add(*offset as u64)), !fits)
        }
        CfaRule::Expression(expression) => (expression.get(eh_frame).ok().and_then(|e| evaluate(e, None)), true),
    };
    let Some(cfa) = cfa else { return unsupported };
    let bp = match row.register(X86_64::RBP) {
        None | Some(RegisterRule::SameValue) => Some(REGISTERS.bp),
        Some(RegisterRule::Offset(offset)) => {
            inexact |= offset % 8 != 0 || !(-(1 << 18)..1 << 18).contains(&offset);
            Some(memory(cfa.wrapping_add(offset as u64)))
        }
        Some(RegisterRule::Expression(expression)) => {
            inexact = true;
            expression
                .get(eh_frame)
                .ok()
                .and_then(|e| evaluate(e, Some(cfa)))
                .map(memory)
        }
        Some(RegisterRule::Register(X86_64::RBP)) => Some(REGISTERS.bp),
        Some(_) => None,
    };
    if cfa <= REGISTERS.sp {
        return (Outcome::Stop(StopReason::NotAdvancing), inexact);
    }
    (
        Outcome::Caller {
            ip: memory(cfa - 8),
            sp: cfa,
            bp,
        },
        inexact,
    )
}

fn known(register: Register) -> Option<u64> {
    match register {
        X86_64::RSP => Some(REGISTERS.sp),
        X86_64::RBP => Some(REGISTERS.bp),
        X86_64::R10 => Some(REGISTERS.r10),
        X86_64::R11 => Some(REGISTERS.r11),
        X86_64::R13 => Some(REGISTERS.r13),
        X86_64::RAX => Some(REGISTERS.rax),
        _ => None,
    }
}

fn evaluate(expression: Expression<Bytes<'_>>, initial: Option<u64>, address: u64) -> Option<u64> {
    let encoding = gimli::Encoding {
        address_size: 8,
        format: gimli::Format::Dwarf32,
        version: 5,
    };
    let mut evaluation = expression.evaluation(encoding);
    evaluation.set_max_iterations(100);
    if let Some(initial) = initial {
        evaluation.set_initial_value(initial);
    }
    let mut result = evaluation.evaluate().ok()?;
    loop {
        result = match result {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = if register == X86_64::RA {
                    address
                } else {
                    known(register)?
                };
                evaluation.resume_with_register(Value::Generic(value)).ok()?
            }
            EvaluationResult::RequiresMemory { address, size: 8, .. } => {
                evaluation.resume_with_memory(Value::Generic(memory(address))).ok()?
            }
            _ => return None,
        };
    }
    match evaluation.result().first()?.location {
        Location::Address { address } => Some(address),
        _ => None,
    }
}

/// One step of the walker at a link address, with a bias of its own.
fn by_rows(table: &RowTable, link_address: u64) -> Outcome {
    const BIAS: u64 = 0;
    let link = table.link_range();
    let mut target = OneObject {
        mapping: Mapping {
            start: link.start,
            end: link.end,
            bias: BIAS,
            page_base: 0u32.wrapping_sub(table.first_page as u32),
            kind: kind::ROWS,
        },
        table,
        pushed: Cell::new(0),
    };
    let mut walk = Walk {
        ip: link_address,
        ..REGISTERS
    };
    let goes_on = walk::step(&mut walk, &mut target);
    assert_eq!(target.pushed.get(), link_address);
    if goes_on {
        let bp = (walk.flags & walk::flags::BP_LOST == 0).then_some(walk.bp);
        Outcome::Caller {
            ip: walk.ip,
            sp: walk.sp,
            bp,
        }
    } else {
        Outcome::Stop(StopReason::from_number(walk.stop as u8).unwrap())
    }
}

struct OneObject<'a> {
    mapping: Mapping,
    table: &'a RowTable,
    pushed: Cell<u64>,
}

impl Target for OneObject<'_> {
    fn read(&self, runtime_address: u64) -> Option<u64> {
        Some(memory(runtime_address))
    }

    fn mapping(&self, index: u32) -> Option<&Mapping> {
        (index == 0).then_some(&self.mapping)
    }

    fn page(&self, index: u32) -> Option<Page> {
        self.table.pages.get(index as usize).copied()
    }

    fn row(&self, index: u32) -> Option<Row> {
        self.table.rows.get(index as usize).copied()
    }

    fn push(&mut self, _index: u32, ip: u64, _sp: u64) {
        self.pushed.set(ip);
    }

    fn uprobe_instruction(&self, _ip: u64) -> Option<u64> {
        None
    }

    fn uprobe_return(&mut self, _index: u32) -> Option<u64> {
        None
    }
}
