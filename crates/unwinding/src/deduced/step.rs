//! What one instruction does to what is known, and where it leads.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::state::{State, Value, number, register_number, whole_register};

/// What a call may change: all that a function need not preserve.
const VOLATILE: [usize; 9] = [
    number::RAX,
    number::RCX,
    number::RDX,
    number::RSI,
    number::RDI,
    number::R8,
    number::R9,
    number::R10,
    number::R11,
];
/// What instructions change without naming it.
const IMPLICIT: [usize; 7] = [
    number::RAX,
    number::RCX,
    number::RDX,
    number::RBX,
    number::RSI,
    number::RDI,
    number::R11,
];
/// More than any instruction writes without saying how much.
const MAX_WRITTEN_BYTES: i32 = 1 << 14;

/// Where an instruction leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To the one behind it.
    Behind,
    /// To the one behind it, or to an address.
    Either(u64),
    /// To an address.
    Jump(u64),
    /// To an address that is not known.
    Elsewhere,
    /// To the caller.
    Return,
    /// Nowhere: a trap.
    Nowhere,
    /// Nobody knows: what follows cannot be told.
    Unknown,
}

/// Runs an instruction on what is known before it.
pub(super) fn step(instruction: &Instruction, state: &mut State) -> Next {
    if instruction.is_invalid() {
        return Next::Unknown;
    }
    match instruction.mnemonic() {
        Mnemonic::Ret if instruction.op_count() == 0 => return Next::Return,
        Mnemonic::Ret | Mnemonic::Retf | Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq | Mnemonic::Xbegin => {
            return Next::Unknown;
        }
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 | Mnemonic::Int3 | Mnemonic::Hlt => return Next::Nowhere,
        Mnemonic::Jmp if is_near(instruction) => return Next::Jump(instruction.near_branch_target()),
        Mnemonic::Jmp => return Next::Elsewhere,
        Mnemonic::Call => {
            state.overwrite_below_stack();
            state.forget(&VOLATILE);
        }
        _ if is_near(instruction) => {
            // Loops count down a register.
            state.forget(&[number::RCX]);
            return Next::Either(instruction.near_branch_target());
        }
        Mnemonic::Push => push(instruction, state),
        Mnemonic::Pop => pop(instruction, state),
        Mnemonic::Pushfq => move_stack(state, -8),
        Mnemonic::Popfq => move_stack(state, 8),
        Mnemonic::Leave => {
            state.set(number::RSP, state.register(number::RBP));
            pop_into(state, number::RBP);
        }
        Mnemonic::Mov => copy(instruction, state),
        Mnemonic::Lea => {
            let address = state.address(instruction);
            write(instruction, state, 0, address);
        }
        Mnemonic::Add => add(instruction, state, 1),
        Mnemonic::Sub => add(instruction, state, -1),
        Mnemonic::And => align(instruction, state),
        Mnemonic::Cmp
        | Mnemonic::Test
        | Mnemonic::Bt
        | Mnemonic::Nop
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetchw => {}
        _ => other(instruction, state),
    }
    Next::Behind
}

fn is_near(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::NearBranch64
}

fn move_stack(state: &mut State, bytes: i64) {
    state.set(number::RSP, state.register(number::RSP).plus(bytes));
    if bytes < 0 {
        state.store(state.register(number::RSP), Value::Unknown);
    }
}

fn push(instruction: &Instruction, state: &mut State) {
    let pushed = whole_register(instruction, 0).map_or(Value::Unknown, |register| state.register(register));
    // With a prefix it can be two bytes.
    let is_whole = matches!(
        instruction.code(),
        Code::Push_r64 | Code::Push_rm64 | Code::Pushq_imm8 | Code::Pushq_imm32
    );
    let stack = state.register(number::RSP).plus(-8);
    state.set(number::RSP, if is_whole { stack } else { Value::Unknown });
    state.store(state.register(number::RSP), pushed);
}

fn pop(instruction: &Instruction, state: &mut State) {
    if !matches!(instruction.code(), Code::Pop_r64 | Code::Pop_rm64) {
        return state.forget(&[number::RSP]);
    }
    match whole_register(instruction, 0) {
        Some(register) => pop_into(state, register),
        None => move_stack(state, 8),
    }
}

fn pop_into(state: &mut State, register: usize) {
    let stack = state.register(number::RSP);
    let popped = state.load(stack);
    state.set(number::RSP, stack.plus(8));
    state.set(register, popped);
}

fn copy(instruction: &Instruction, state: &mut State) {
    let is_word = |operand| whole_register(instruction, operand);
    let value = match instruction.op1_kind() {
        OpKind::Register => is_word(1).map_or(Value::Unknown, |register| state.register(register)),
        OpKind::Memory if is_word(0).is_some() => state.load(state.address(instruction)),
        _ => Value::Unknown,
    };
    write(instruction, state, 0, value);
}

/// `add` and `sub` of a constant.
fn add(instruction: &Instruction, state: &mut State, sign: i64) {
    let changed = whole_register(instruction, 0).zip(instruction.try_immediate(1).ok());
    let value = changed.map_or(Value::Unknown, |(register, addend)| {
        let addend = addend.cast_signed().checked_mul(sign);
        addend.map_or(Value::Unknown, |addend| state.register(register).plus(addend))
    });
    write(instruction, state, 0, value);
}

/// `and rsp, -64`.
fn align(instruction: &Instruction, state: &mut State) {
    let mask = instruction.try_immediate(1).map_or(0, u64::cast_signed);
    let is_alignment = mask < 0 && mask.unsigned_abs().is_power_of_two() && mask <= -8;
    let is_stack = whole_register(instruction, 0) == Some(number::RSP);
    let value = match state.register(number::RSP) {
        Value::Frame(_) if is_stack && is_alignment => Value::Aligned(0),
        _ => Value::Unknown,
    };
    if value == Value::Aligned(0) {
        state.overwrite_below_stack();
    }
    write(instruction, state, 0, value);
}

/// Any other instruction: what it may write is not known any more.
fn other(instruction: &Instruction, state: &mut State) {
    let operands = instruction.op_count();
    let is_explicit = |kind| {
        matches!(
            kind,
            OpKind::Register
                | OpKind::Memory
                | OpKind::Immediate8
                | OpKind::Immediate8to64
                | OpKind::Immediate8to32
                | OpKind::Immediate32
                | OpKind::Immediate32to64
        )
    };
    if operands < 2 || !(0..operands).all(|operand| is_explicit(instruction.op_kind(operand))) {
        state.forget(&IMPLICIT);
    }
    match instruction.mnemonic() {
        Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Mulx => write(instruction, state, 1, Value::Unknown),
        Mnemonic::Cmpxchg => state.forget(&[number::RAX]),
        // They move the stack pointer, or run what cannot be seen.
        Mnemonic::Enter | Mnemonic::Pushf | Mnemonic::Popf | Mnemonic::Int | Mnemonic::Int1 => {
            state.forget(&[number::RSP, number::RBP]);
        }
        _ => {}
    }
    if operands > 0 {
        write(instruction, state, 0, Value::Unknown);
    }
}

/// Writes to an operand.
fn write(instruction: &Instruction, state: &mut State, operand: u32, value: Value) {
    match instruction.op_kind(operand) {
        OpKind::Register => {
            if let Some((register, bytes)) = register_number(instruction.op_register(operand)) {
                state.set(register, if bytes == 8 { value } else { Value::Unknown });
            }
        }
        OpKind::Memory => {
            let address = state.address(instruction);
            match written_bytes(instruction) {
                8 => state.store(address, value),
                bytes => state.overwrite(address, bytes),
            }
        }
        _ => {}
    }
}

/// How many bytes an instruction may write to memory: as many as the register that it writes has.
fn written_bytes(instruction: &Instruction) -> i32 {
    let register = (1..instruction.op_count()).find_map(|operand| {
        let register = instruction.op_register(operand);
        (instruction.op_kind(operand) == OpKind::Register && register != Register::None).then_some(register)
    });
    let Some(register) = register else {
        // A constant, or no other operand at all: those that name none may save all registers.
        return if instruction.op_count() > 1 {
            8
        } else {
            MAX_WRITTEN_BYTES
        };
    };
    let is_one_of = |first: Register| (register as usize).wrapping_sub(first as usize) < 32;
    match register_number(register) {
        Some((_, bytes)) => bytes.into(),
        None if is_one_of(Register::XMM0) => 16,
        None if is_one_of(Register::YMM0) => 32,
        None if is_one_of(Register::ZMM0) => 64,
        None => MAX_WRITTEN_BYTES,
    }
}
