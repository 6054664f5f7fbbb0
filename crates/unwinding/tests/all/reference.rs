//! A complete unwinder by the book, to hold the walker against: it tracks every register and evaluates every rule and
//! expression of the call frame information, signal trampolines included, with gimli.

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EvaluationResult, Expression, FrameDescriptionEntry, LittleEndian,
    Location, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection, UnwindTableRow, Value, X86_64,
};
use profiler_unwinding::CallFrames;

type Bytes<'a> = gimli::EndianSlice<'a, LittleEndian>;

/// Registers by DWARF number; `None` where a caller's value cannot be known.
pub(crate) type Registers = [Option<u64>; 17];

pub(crate) const RIP: usize = 16;
pub(crate) const RSP: usize = 7;
pub(crate) const RBP: usize = 6;
/// rbx, rbp, r12 to r15: what functions preserve unless they say otherwise.
const PRESERVED: [usize; 6] = [3, RBP, 12, 13, 14, 15];

/// One object at one place in a process.
#[derive(Debug)]
pub(crate) struct ReferenceModule<'a> {
    eh_frame: EhFrame<Bytes<'a>>,
    bases: BaseAddresses,
    functions: Vec<FrameDescriptionEntry<Bytes<'a>>>,
}

/// Where a step by the book leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The caller's registers, and whether its instruction was interrupted rather than having made a call.
    Caller {
        registers: Box<Registers>,
        interrupted: bool,
    },
    /// The outermost frame.
    Root,
    /// No function is described here.
    NoFunction,
    /// Memory or a register that is needed is not known.
    Unknown,
}

impl<'a> ReferenceModule<'a> {
    pub(crate) fn new(call_frames: &CallFrames<'a>) -> Self {
        let mut eh_frame = EhFrame::new(call_frames.bytes(), LittleEndian);
        eh_frame.set_address_size(8);
        let bases = BaseAddresses::default().set_eh_frame(call_frames.link_address());
        let mut functions = Vec::new();
        let mut entries = eh_frame.entries(&bases);
        while let Ok(Some(entry)) = entries.next() {
            if let CieOrFde::Fde(partial) = entry {
                functions.push(partial.parse(EhFrame::cie_from_offset).unwrap());
            }
        }
        functions.sort_by_key(FrameDescriptionEntry::initial_address);
        Self {
            eh_frame,
            bases,
            functions,
        }
    }

    /// Unwinds one frame whose instruction lies at `link_address`.
    pub(crate) fn step(&self, link_address: u64, registers: &Registers, read: &dyn Fn(u64) -> Option<u64>) -> Step {
        let after = self
            .functions
            .partition_point(|entry| entry.initial_address() <= link_address);
        let Some(entry) = self.functions[..after]
            .last()
            .filter(|entry| entry.contains(link_address))
        else {
            return Step::NoFunction;
        };
        let mut context = UnwindContext::new();
        let row = entry
            .unwind_info_for_address(&self.eh_frame, &self.bases, &mut context, link_address)
            .unwrap();
        if row.register(X86_64::RA) == Some(RegisterRule::Undefined) {
            return Step::Root;
        }
        match self.caller(row, registers, read) {
            Some(registers) => Step::Caller {
                registers: Box::new(registers),
                interrupted: entry.is_signal_trampoline(),
            },
            None => Step::Unknown,
        }
    }

    fn caller(
        &self,
        row: &UnwindTableRow<usize>,
        registers: &Registers,
        read: &dyn Fn(u64) -> Option<u64>,
    ) -> Option<Registers> {
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                registers[usize::from(register.0)]?.wrapping_add(*offset as u64)
            }
            CfaRule::Expression(expression) => self.evaluate(expression, None, registers, read)?,
        };
        let mut caller = [None; 17];
        for number in PRESERVED {
            caller[number] = registers[number];
        }
        caller[RSP] = Some(cfa);
        for (register, rule) in row.registers() {
            let number = usize::from(register.0);
            if number >= caller.len() {
                continue;
            }
            caller[number] = match rule {
                RegisterRule::Undefined => None,
                RegisterRule::SameValue => registers[number],
                RegisterRule::Offset(offset) => read(cfa.wrapping_add(*offset as u64)),
                RegisterRule::ValOffset(offset) => Some(cfa.wrapping_add(*offset as u64)),
                RegisterRule::Register(Register(source)) => registers[usize::from(*source)],
                RegisterRule::Expression(expression) => {
                    self.evaluate(expression, Some(cfa), registers, read).and_then(read)
                }
                RegisterRule::ValExpression(expression) => self.evaluate(expression, Some(cfa), registers, read),
                other => panic!("a rule without a meaning on x86-64: {other:?}"),
            };
        }
        caller[RIP]?;
        Some(caller)
    }

    fn evaluate(
        &self,
        expression: &UnwindExpression<usize>,
        initial: Option<u64>,
        registers: &Registers,
        read: &dyn Fn(u64) -> Option<u64>,
    ) -> Option<u64> {
        let expression: Expression<Bytes<'a>> = expression.get(&self.eh_frame).unwrap();
        let encoding = gimli::Encoding {
            address_size: 8,
            format: gimli::Format::Dwarf32,
            version: 5,
        };
        let mut evaluation = expression.evaluation(encoding);
        if let Some(initial) = initial {
            evaluation.set_initial_value(initial);
        }
        let mut result = evaluation.evaluate().unwrap();
        loop {
            result = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = registers[usize::from(register.0)]?;
                    evaluation.resume_with_register(Value::Generic(value)).unwrap()
                }
                EvaluationResult::RequiresMemory { address, size: 8, .. } => {
                    evaluation.resume_with_memory(Value::Generic(read(address)?)).unwrap()
                }
                other => panic!("an expression that asks for {other:?}"),
            };
        }
        match evaluation.result()[..] {
            [
                gimli::Piece {
                    location: Location::Address { address },
                    ..
                },
            ] => Some(address),
            ref other => panic!("an expression that results in {other:?}"),
        }
    }
}
