//! From one row of call frame information to the rule of a [`Row`].
//!
//! A rule says how to find the caller's stack pointer, return address and `rbp`. What does not fit is an
//! [`UnsupportedRule`], never an approximation: a stack that ends is better than one that goes on wrongly.

use gimli::{CfaRule, FrameDescriptionEntry, Register, RegisterRule, UnwindTableRow, X86_64};
use profiler_common::row::{self, RbpRule, Row};

use crate::compile::Storage;
use crate::expression::{self, RBP, RETURN_ADDRESS, RSP, Value};
use crate::function::{Bytes, Parser};

/// Where a call leaves the return address, from the canonical frame address.
const RETURN_ADDRESS_OFFSET: i64 = -8;

/// What of a function's description a row cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum UnsupportedRule {
    /// The frame's address is based on another register than those of [`row::CfaRule`].
    CfaRegister = 0,
    /// The frame's address is an expression of another form.
    CfaExpression = 1,
    /// The offset of the frame's address is no multiple of 8 or too large.
    CfaOffset = 2,
    /// The return address does not lie just below the frame's address.
    ReturnAddress = 3,
    /// The caller's stack pointer is another than the frame's address: code that switches stacks.
    StackPointer = 4,
    /// The instructions are damaged or of an unknown kind.
    Malformed = 5,
}

impl UnsupportedRule {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::CfaRegister,
        Self::CfaExpression,
        Self::CfaOffset,
        Self::ReturnAddress,
        Self::StackPointer,
        Self::Malformed,
    ];

    /// The kind in words of metrics: lower case with underscores.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CfaRegister => "cfa_register",
            Self::CfaExpression => "cfa_expression",
            Self::CfaOffset => "cfa_offset",
            Self::ReturnAddress => "return_address",
            Self::StackPointer => "stack_pointer",
            Self::Malformed => "malformed",
        }
    }
}

/// The rule for the code that `row` covers, as a [`Row`] at offset 0.
pub(crate) fn translate(
    parser: &Parser<'_>,
    entry: &FrameDescriptionEntry<Bytes<'_>>,
    row: &UnwindTableRow<usize, Storage>,
) -> Result<Row, UnsupportedRule> {
    if entry.is_signal_trampoline() {
        return Ok(Row::marker(0, row::CfaRule::SignalFrame));
    }
    if entry.cie().return_address_register() != RETURN_ADDRESS {
        return Err(UnsupportedRule::ReturnAddress);
    }
    match row.register(RETURN_ADDRESS) {
        Some(RegisterRule::Undefined) => return Ok(Row::marker(0, row::CfaRule::Root)),
        Some(RegisterRule::Offset(RETURN_ADDRESS_OFFSET)) => {}
        _ => return Err(UnsupportedRule::ReturnAddress),
    }
    match row.register(RSP) {
        // By definition the frame's address is the stack pointer before the call.
        None | Some(RegisterRule::ValOffset(0)) => {}
        Some(_) => return Err(UnsupportedRule::StackPointer),
    }
    let (cfa_rule, cfa_offset) = cfa(parser, row.cfa())?;
    let (rbp_rule, rbp_offset) = rbp(parser, row.register(RBP));
    Row::new(0, cfa_rule, cfa_offset, rbp_rule, rbp_offset)
        // An offset of rbp that does not fit costs only the frames that need rbp.
        .or_else(|| Row::new(0, cfa_rule, cfa_offset, RbpRule::Lost, 0))
        .ok_or(UnsupportedRule::CfaOffset)
}

fn cfa(parser: &Parser<'_>, rule: &CfaRule<usize>) -> Result<(row::CfaRule, i64), UnsupportedRule> {
    let value = match rule {
        CfaRule::RegisterAndOffset { register, offset } => Value::RegisterPlus(*register, *offset),
        CfaRule::Expression(expression) => {
            let expression = expression
                .get(parser.eh_frame())
                .map_err(|_error| UnsupportedRule::Malformed)?;
            expression::recognize(expression).ok_or(UnsupportedRule::CfaExpression)?
        }
    };
    match value {
        Value::RegisterPlus(register, offset) => {
            let rule = cfa_register(register).ok_or(UnsupportedRule::CfaRegister)?;
            Ok((rule, offset))
        }
        Value::DerefPlus(RBP, offset, 0) => Ok((row::CfaRule::DerefRbp, offset)),
        Value::DerefPlus(RSP, offset, 8) => Ok((row::CfaRule::DerefRspPlus8, offset)),
        Value::Plt { threshold: 11 } => Ok((row::CfaRule::Plt, 0)),
        Value::Plt { threshold: 10 } => Ok((row::CfaRule::Plt10, 0)),
        Value::DerefPlus(..) | Value::Plt { .. } => Err(UnsupportedRule::CfaExpression),
    }
}

fn cfa_register(register: Register) -> Option<row::CfaRule> {
    match register {
        RSP => Some(row::CfaRule::Rsp),
        RBP => Some(row::CfaRule::Rbp),
        X86_64::R10 => Some(row::CfaRule::R10),
        X86_64::R13 => Some(row::CfaRule::R13),
        X86_64::RAX => Some(row::CfaRule::Rax),
        X86_64::R11 => Some(row::CfaRule::R11),
        _ => None,
    }
}

fn rbp(parser: &Parser<'_>, rule: Option<RegisterRule<usize>>) -> (RbpRule, i64) {
    match rule {
        // The ABI makes every function preserve rbp: what is not mentioned has not been touched.
        None | Some(RegisterRule::SameValue | RegisterRule::Register(RBP)) => (RbpRule::Same, 0),
        Some(RegisterRule::Offset(offset)) => (RbpRule::AtCfa, offset),
        Some(RegisterRule::Expression(expression)) => {
            match expression.get(parser.eh_frame()).ok().and_then(expression::recognize) {
                Some(Value::RegisterPlus(RBP, offset)) => (RbpRule::AtRbp, offset),
                _ => (RbpRule::Lost, 0),
            }
        }
        Some(_) => (RbpRule::Lost, 0),
    }
}
