//! What is known of registers and of the stack at one instruction, in terms of the call that led there.

use iced_x86::{Instruction, OpKind, Register};
use profiler_common::row::{CfaRule, RbpRule, Row};

/// What a call leaves between the frame's address and the stack pointer: the return address.
const RETURN_ADDRESS_BYTES: i32 = 8;
/// Bytes below the stack pointer that nobody writes to meanwhile.
const RED_ZONE_BYTES: i32 = 128;
/// Words on the stack that are remembered at one time.
const MAX_SLOTS: usize = 12;
/// Farthest from the frame's address that anything is followed.
const MAX_DISTANCE: i32 = 1 << 26;

/// General registers, by their number in instructions.
pub(super) mod number {
    pub(crate) const RAX: usize = 0;
    pub(crate) const RCX: usize = 1;
    pub(crate) const RDX: usize = 2;
    pub(crate) const RBX: usize = 3;
    pub(crate) const RSP: usize = 4;
    pub(crate) const RBP: usize = 5;
    pub(crate) const RSI: usize = 6;
    pub(crate) const RDI: usize = 7;
    pub(crate) const R8: usize = 8;
    pub(crate) const R9: usize = 9;
    pub(crate) const R10: usize = 10;
    pub(crate) const R11: usize = 11;
    pub(crate) const R13: usize = 13;
}

/// What a register or a word on the stack holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Value {
    /// Anything.
    #[default]
    Unknown,
    /// What `rbp` held when the function was called.
    CallersRbp,
    /// The frame's address plus this.
    Frame(i32),
    /// What the stack pointer was when it was last aligned, plus this.
    Aligned(i32),
}

impl Value {
    /// The value with something added to it.
    pub(super) fn plus(self, addend: i64) -> Self {
        let moved = |distance: i32| {
            let sum = i64::from(distance).checked_add(addend)?;
            i32::try_from(sum).ok().filter(|sum| sum.abs() <= MAX_DISTANCE)
        };
        match self {
            Self::Frame(distance) => moved(distance).map_or(Self::Unknown, Self::Frame),
            Self::Aligned(distance) => moved(distance).map_or(Self::Unknown, Self::Aligned),
            Self::CallersRbp if addend == 0 => self,
            Self::CallersRbp | Self::Unknown => Self::Unknown,
        }
    }

    /// How far this address is above another of the same kind.
    fn above(self, other: Self) -> Option<i32> {
        match (self, other) {
            (Self::Frame(one), Self::Frame(other)) | (Self::Aligned(one), Self::Aligned(other)) => Some(one - other),
            _ => None,
        }
    }
}

/// A word on the stack, and what is known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Slot {
    address: Value,
    content: Value,
}

/// What is known at one instruction, before it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    registers: [Value; 16],
    /// The first ones are in use, in the order in which they were written.
    slots: [Slot; MAX_SLOTS],
}

impl State {
    /// At the first instruction of a function.
    pub(super) fn at_entry() -> Self {
        let mut registers = [Value::Unknown; 16];
        registers[number::RSP] = Value::Frame(-RETURN_ADDRESS_BYTES);
        registers[number::RBP] = Value::CallersRbp;
        Self {
            registers,
            slots: [Slot::default(); MAX_SLOTS],
        }
    }

    pub(super) fn register(&self, register: usize) -> Value {
        self.registers.get(register).copied().unwrap_or_default()
    }

    pub(super) fn set(&mut self, register: usize, value: Value) {
        if let Some(known) = self.registers.get_mut(register) {
            *known = value;
        }
    }

    pub(super) fn forget(&mut self, registers: &[usize]) {
        for register in registers {
            self.set(*register, Value::Unknown);
        }
    }

    /// Whether a return, or a jump to another function, is right here.
    pub(super) fn may_leave(&self) -> bool {
        self.register(number::RSP) == Value::Frame(-RETURN_ADDRESS_BYTES)
            && self.register(number::RBP) == Value::CallersRbp
    }

    /// The address that an operand in memory has; unknown if it depends on more than one register.
    pub(super) fn address(&self, instruction: &Instruction) -> Value {
        let is_plain = instruction.memory_index() == Register::None
            && !matches!(instruction.segment_prefix(), Register::FS | Register::GS);
        match register_number(instruction.memory_base()).filter(|(_, size)| *size == 8 && is_plain) {
            Some((base, _)) => self
                .register(base)
                .plus(instruction.memory_displacement64().cast_signed()),
            None => Value::Unknown,
        }
    }

    /// What a word on the stack holds.
    pub(super) fn load(&self, address: Value) -> Value {
        let found = self
            .slots
            .iter()
            .find(|slot| slot.address == address && address != Value::Unknown);
        found.map_or(Value::Unknown, |slot| slot.content)
    }

    /// Notes that a word was written.
    pub(super) fn store(&mut self, address: Value, content: Value) {
        self.overwrite(address, 8);
        if address == Value::Unknown || content == Value::Unknown {
            return;
        }
        // Without room it is as if the word were not known.
        if let Some(free) = self.slots.iter_mut().find(|slot| slot.address == Value::Unknown) {
            *free = Slot { address, content };
        }
    }

    /// Notes that bytes were written.
    pub(super) fn overwrite(&mut self, address: Value, bytes: i32) {
        self.keep(|slot| {
            slot.address
                .above(address)
                .is_none_or(|above| above >= bytes || above <= -8)
        });
    }

    /// Notes that everything below the stack pointer may be written. A stack pointer that was aligned, or moved by an unknown
    /// number of bytes, lies below what was in the frame before.
    pub(super) fn overwrite_below_stack(&mut self) {
        let stack = self.register(number::RSP);
        self.keep(|slot| slot.address.above(stack).is_none_or(|above| above >= 0));
    }

    /// Only what is known here and there.
    #[must_use]
    pub(super) fn meet(mut self, other: &Self) -> Self {
        for (one, other) in self.registers.iter_mut().zip(&other.registers) {
            if one != other {
                *one = Value::Unknown;
            }
        }
        self.keep(|slot| other.slots.contains(slot));
        self
    }

    fn keep(&mut self, is_kept: impl Fn(&Slot) -> bool) {
        let mut kept = [Slot::default(); MAX_SLOTS];
        let slots = self.slots.iter().filter(|slot| slot.address != Value::Unknown);
        for (place, slot) in kept.iter_mut().zip(slots.filter(|slot| is_kept(slot))) {
            *place = *slot;
        }
        self.slots = kept;
    }

    /// The rule for this instruction.
    pub(super) fn rule(&self) -> Row {
        let rule = self.frame_rule().and_then(|(cfa, offset)| {
            let (rbp, rbp_offset) = self.rbp_rule();
            Row::new(0, cfa, offset.into(), rbp, rbp_offset.into())
        });
        rule.unwrap_or(Row::marker(0, CfaRule::Unsupported))
    }

    fn frame_rule(&self) -> Option<(CfaRule, i32)> {
        let based = |rule, register| match self.register(register) {
            Value::Frame(distance) => Some((rule, -distance)),
            _ => None,
        };
        based(CfaRule::Rsp, number::RSP)
            .or_else(|| based(CfaRule::Rbp, number::RBP))
            .or_else(|| self.kept_on_stack())
            // Known in the innermost frame only.
            .or_else(|| based(CfaRule::R10, number::R10))
            .or_else(|| based(CfaRule::R13, number::R13))
            .or_else(|| based(CfaRule::R11, number::R11))
            .or_else(|| based(CfaRule::Rax, number::RAX))
    }

    /// Where the frame's address, or the stack pointer at the call, was left on the stack.
    fn kept_on_stack(&self) -> Option<(CfaRule, i32)> {
        let at = |register: usize, content: Value| {
            let slot = self.slots.iter().find(|slot| slot.content == content)?;
            slot.address.above(self.register(register))
        };
        let by_stack = at(number::RSP, Value::Frame(-RETURN_ADDRESS_BYTES)).filter(|above| *above >= 0);
        by_stack
            .map(|above| (CfaRule::DerefRspPlus8, above))
            .or_else(|| Some((CfaRule::DerefRbp, at(number::RBP, Value::Frame(0))?)))
    }

    fn rbp_rule(&self) -> (RbpRule, i32) {
        if self.register(number::RBP) == Value::CallersRbp {
            return (RbpRule::Same, 0);
        }
        let (stack, rbp) = (self.register(number::RSP), self.register(number::RBP));
        let saved = self.slots.iter().filter(|slot| slot.content == Value::CallersRbp);
        let rules = saved.filter_map(|slot| match slot.address {
            // What lies further below the stack pointer may be overwritten by a signal.
            Value::Frame(_) if slot.address.above(stack).is_some_and(|above| above < -RED_ZONE_BYTES) => None,
            Value::Frame(distance) => Some((RbpRule::AtCfa, distance)),
            _ => Some((RbpRule::AtRbp, slot.address.above(rbp)?)),
        });
        rules.min_by_key(|(rule, _)| *rule as u8).unwrap_or((RbpRule::Lost, 0))
    }
}

/// Number of the general register that this is the whole or a part of, and the bytes of the part.
pub(super) fn register_number(register: Register) -> Option<(usize, u8)> {
    // The decoder's registers come in this order: those of one byte (with `ah` to `bh` among them), of two, four and eight.
    let index = |first: Register| (register as usize).wrapping_sub(first as usize);
    if index(Register::RAX) < 16 {
        return Some((index(Register::RAX), 8));
    }
    if index(Register::EAX) < 16 {
        return Some((index(Register::EAX), 4));
    }
    if index(Register::AX) < 16 {
        return Some((index(Register::AX), 2));
    }
    match index(Register::AL) {
        byte @ 0..4 => Some((byte, 1)),
        byte @ 4..20 => Some((byte - 4, 1)),
        _ => None,
    }
}

/// The whole general register that an operand is.
pub(super) fn whole_register(instruction: &Instruction, operand: u32) -> Option<usize> {
    let (register, bytes) = (instruction.op_kind(operand) == OpKind::Register)
        .then(|| register_number(instruction.op_register(operand)))
        .flatten()?;
    (bytes == 8).then_some(register)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_registers() {
        for (register, expected) in [
            (Register::RAX, Some((0, 8))),
            (Register::RSP, Some((4, 8))),
            (Register::R15, Some((15, 8))),
            (Register::EBP, Some((5, 4))),
            (Register::R8W, Some((8, 2))),
            (Register::BH, Some((3, 1))),
            (Register::SPL, Some((4, 1))),
            (Register::R15L, Some((15, 1))),
            (Register::XMM5, None),
            (Register::RIP, None),
            (Register::None, None),
        ] {
            assert_eq!(register_number(register), expected, "{register:?}");
        }
    }

    #[test]
    fn only_what_both_ways_agree_on() {
        let mut one = State::at_entry();
        one.set(number::R10, Value::Frame(0));
        one.store(Value::Frame(-16), Value::CallersRbp);
        let mut other = one;
        other.set(number::R10, Value::Frame(-8));
        other.overwrite(Value::Frame(-12), 4);
        let met = one.meet(&other);
        assert_eq!(met, State::at_entry());
        assert_eq!(one.meet(&one), one);
    }

    #[test]
    fn words_are_forgotten_when_a_part_of_them_is_written() {
        for (address, bytes, is_kept) in [
            (-24, 8, true),
            (-24, 9, false),
            (-9, 1, false),
            (-8, 8, true),
            (-200, 64, true),
        ] {
            let mut state = State::at_entry();
            state.store(Value::Frame(-16), Value::CallersRbp);
            state.overwrite(Value::Frame(address), bytes);
            assert_eq!(
                state.load(Value::Frame(-16)) == Value::CallersRbp,
                is_kept,
                "{address} {bytes}"
            );
        }
    }
}
