//! The DWARF expressions that a row can stand for.
//!
//! Compilers, linkers and hand-written assembly use a handful of expressions in call frame information. Each is
//! recognized by its operations, not by its bytes, and anything else is left unrecognized.

use gimli::{Encoding, Expression, Format, Operation, Register, UnitOffset};

use crate::function::Bytes;

/// DWARF number of `rbp`.
pub(crate) const RBP: Register = gimli::X86_64::RBP;
/// DWARF number of `rsp`.
pub(crate) const RSP: Register = gimli::X86_64::RSP;
/// DWARF number of the column for the return address.
pub(crate) const RETURN_ADDRESS: Register = gimli::X86_64::RA;

/// Operations in the longest expression that is recognized.
const MAX_OPERATIONS: usize = 9;

/// What a recognized expression computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// `register + offset`.
    RegisterPlus(Register, i64),
    /// `*(register + offset) + addend`, 8 bytes read.
    DerefPlus(Register, i64, u64),
    /// `rsp + 8`, and 8 more where the low four bits of `rip` are at least `threshold`: the stubs of a procedure linkage
    /// table, which push twice before they jump.
    Plt {
        /// The first offset in a stub of 16 bytes after its push.
        threshold: u64,
    },
}

/// What an expression computes, if a row could say it.
pub(crate) fn recognize(expression: Expression<Bytes<'_>>) -> Option<Value> {
    let encoding = Encoding {
        address_size: 8,
        format: Format::Dwarf32,
        version: 5,
    };
    let mut operations = Vec::with_capacity(MAX_OPERATIONS);
    let mut remaining = expression.operations(encoding);
    while let Some(operation) = remaining.next().ok()? {
        if operations.len() == MAX_OPERATIONS {
            return None;
        }
        operations.push(operation);
    }
    match *operations {
        [
            Operation::RegisterOffset {
                register: RSP,
                offset: 8,
                base_type: UnitOffset(0),
            },
            Operation::RegisterOffset {
                register: RETURN_ADDRESS,
                offset: 0,
                base_type: UnitOffset(0),
            },
            Operation::UnsignedConstant { value: 15 },
            Operation::And,
            Operation::UnsignedConstant { value: threshold },
            Operation::Ge,
            Operation::UnsignedConstant { value: 3 },
            Operation::Shl,
            Operation::Plus,
        ] => Some(Value::Plt { threshold }),
        [
            Operation::RegisterOffset {
                register,
                offset,
                base_type: UnitOffset(0),
            },
        ] => Some(Value::RegisterPlus(register, offset)),
        [
            Operation::RegisterOffset {
                register,
                offset,
                base_type: UnitOffset(0),
            },
            Operation::Deref {
                base_type: UnitOffset(0),
                size: 8,
                space: false,
            },
        ] => Some(Value::DerefPlus(register, offset, 0)),
        [
            Operation::RegisterOffset {
                register,
                offset,
                base_type: UnitOffset(0),
            },
            Operation::Deref {
                base_type: UnitOffset(0),
                size: 8,
                space: false,
            },
            Operation::PlusConstant { value },
        ] => Some(Value::DerefPlus(register, offset, value)),
        _ => None,
    }
}
