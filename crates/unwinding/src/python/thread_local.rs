//! Where a variable of the thread lies, by the code that reads it: the function that returns it is exported, it is not.
//!
//! Comes in: an object. Goes out: one of the forms in which compilers reach such variables (ELF Handling For Thread-Local
//! Storage, section 4): at a constant distance from the thread pointer, or by words of the global offset table, which hold
//! their values in the process only.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use object::read::ReadRef;

use super::error::PythonError;
use super::image::Image;

/// Returns the state of the calling thread, whether it has the GIL or not.
const FUNCTION: &str = "PyGILState_GetThisThreadState";
/// Most bytes of it that are read: it does nothing else.
const MAX_BYTES: u64 = 128;
/// Most jumps that are followed.
const MAX_JUMPS: usize = 2;

/// How the variable is reached. Addresses are link addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThreadLocal {
    /// At this distance from the thread pointer.
    Constant(i64),
    /// The distance is a word of the global offset table.
    InitialExec { word: u64, displacement: i64 },
    /// Two words of the global offset table give the module and the offset in its block.
    Dynamic { words: u64, displacement: i64 },
    /// The second of two words is the distance, if the block was there when the program started.
    Descriptor { words: u64, displacement: i64 },
}

/// Reads how the thread state is reached.
pub(super) fn find<'data, R: ReadRef<'data>>(image: &Image<'data, R>) -> Result<ThreadLocal, PythonError> {
    let mut address = image.required(FUNCTION)?.link_address;
    for _ in 0..=MAX_JUMPS {
        // A function at the very end of its segment is shorter.
        let code = [MAX_BYTES, 64, 32, 16]
            .iter()
            .find_map(|length| image.bytes(address, *length))
            .ok_or(PythonError::Unreadable { what: FUNCTION })?;
        match read(code, address) {
            Some(Found::Variable(variable)) => return Ok(variable),
            Some(Found::Jump(target)) => address = target,
            None => break,
        }
    }
    Err(PythonError::NoThreadState {
        reason: "PyGILState_GetThisThreadState reads no variable of the thread in a known way",
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Variable(ThreadLocal),
    Jump(u64),
}

/// What the code has done up to an instruction.
#[derive(Clone, Copy, Debug, Default)]
enum Progress {
    #[default]
    Nothing,
    /// An address in the object is in a register.
    Address(Register, u64),
    /// A word of the object is in a register.
    Word(Register, u64),
    /// `__tls_get_addr` was called for these two words: the block's address is in `rax`.
    Block(u64),
    /// A descriptor's function was called: a distance is in `rax`.
    Distance(u64),
}

fn read(code: &[u8], address: u64) -> Option<Found> {
    let decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut progress = Progress::default();
    for instruction in decoder {
        if instruction.is_invalid() || instruction.mnemonic() == Mnemonic::Ret {
            return None;
        }
        if instruction.mnemonic() == Mnemonic::Jmp {
            return is_near(&instruction).then(|| Found::Jump(instruction.near_branch_target()));
        }
        if let Some(variable) = variable(&instruction, progress) {
            return Some(Found::Variable(variable));
        }
        progress = advance(&instruction, progress);
    }
    None
}

/// Whether this instruction reads the variable.
fn variable(instruction: &Instruction, progress: Progress) -> Option<ThreadLocal> {
    let is_load = instruction.mnemonic() == Mnemonic::Mov && instruction.op1_kind() == OpKind::Memory;
    if !is_load || instruction.memory_index() != Register::None {
        return None;
    }
    let displacement = instruction.memory_displacement64().cast_signed();
    let base = instruction.memory_base();
    if instruction.segment_prefix() == Register::FS {
        return match progress {
            // Variables lie below the thread pointer. Above it is the thread's own header, of which compilers read the
            // stack protector's canary.
            _ if base == Register::None && displacement < 0 => Some(ThreadLocal::Constant(displacement)),
            Progress::Word(register, word) if base == register => Some(ThreadLocal::InitialExec { word, displacement }),
            Progress::Distance(words) if base == Register::RAX => Some(ThreadLocal::Descriptor { words, displacement }),
            _ => None,
        };
    }
    match progress {
        Progress::Block(words) if base == Register::RAX => Some(ThreadLocal::Dynamic { words, displacement }),
        _ => None,
    }
}

fn advance(instruction: &Instruction, progress: Progress) -> Progress {
    let target = instruction.op0_register();
    let is_relative = instruction.is_ip_rel_memory_operand();
    match (instruction.mnemonic(), progress) {
        (Mnemonic::Lea, _) if is_relative => Progress::Address(target, instruction.ip_rel_memory_address()),
        (Mnemonic::Mov, _) if is_relative && instruction.op1_kind() == OpKind::Memory => {
            Progress::Word(target, instruction.ip_rel_memory_address())
        }
        (Mnemonic::Call, Progress::Address(Register::RDI, words)) => Progress::Block(words),
        (Mnemonic::Call, Progress::Address(Register::RAX, words)) if instruction.memory_base() == Register::RAX => {
            Progress::Distance(words)
        }
        (Mnemonic::Call, _) => Progress::Nothing,
        // Frames are set up, alignment is kept.
        _ => progress,
    }
}

/// Whether an instruction's target is in it.
pub(super) fn is_near(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::NearBranch64
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: u64 = 0x1000;

    fn check(code: &[u8], expect: Option<Found>) {
        assert_eq!(read(code, ADDRESS), expect, "{code:x?}");
    }

    #[test]
    fn constant_distance() {
        // endbr64; mov rax, fs:-40; ret
        let code = [
            0xf3, 0x0f, 0x1e, 0xfa, 0x64, 0x48, 0x8b, 0x04, 0x25, 0xd8, 0xff, 0xff, 0xff, 0xc3,
        ];
        check(&code, Some(Found::Variable(ThreadLocal::Constant(-40))));
    }

    #[test]
    fn the_canary_is_no_variable() {
        // sub rsp, 24; mov rax, fs:40; ret
        let code = [
            0x48, 0x83, 0xec, 0x18, 0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0, 0xc3,
        ];
        check(&code, None);
    }

    #[test]
    fn by_a_word_of_the_table() {
        // mov rax, [rip + 0x10]; mov rax, fs:[rax]; ret
        let code = [0x48, 0x8b, 0x05, 0x10, 0, 0, 0, 0x64, 0x48, 0x8b, 0x00, 0xc3];
        let expect = ThreadLocal::InitialExec {
            word: ADDRESS + 7 + 0x10,
            displacement: 0,
        };
        check(&code, Some(Found::Variable(expect)));
    }

    #[test]
    fn by_module_and_offset() {
        // push rbp; mov rbp, rsp; lea rdi, [rip + 0x20]; data16 call …; mov rax, [rax + 0x28]
        let code = [
            0x55, 0x48, 0x89, 0xe5, 0x48, 0x8d, 0x3d, 0x20, 0, 0, 0, 0x66, 0xe8, 0, 1, 0, 0, 0x48, 0x8b, 0x40, 0x28,
            0xc3,
        ];
        let expect = ThreadLocal::Dynamic {
            words: ADDRESS + 11 + 0x20,
            displacement: 0x28,
        };
        check(&code, Some(Found::Variable(expect)));
    }

    #[test]
    fn by_a_descriptor() {
        // lea rax, [rip + 0x20]; call [rax]; mov rax, fs:[rax + 8]
        let code = [
            0x48, 0x8d, 0x05, 0x20, 0, 0, 0, 0xff, 0x10, 0x64, 0x48, 0x8b, 0x40, 0x08, 0xc3,
        ];
        let expect = ThreadLocal::Descriptor {
            words: ADDRESS + 7 + 0x20,
            displacement: 8,
        };
        check(&code, Some(Found::Variable(expect)));
    }

    #[test]
    fn jumps_and_what_is_none() {
        check(&[0xe9, 0x0b, 0, 0, 0], Some(Found::Jump(ADDRESS + 0x10)));
        check(&[0xff, 0xe0], None);
        check(&[0x06, 0x06], None);
        check(&[], None);
        // A block whose address nobody read: call …; mov rax, [rax]
        check(&[0xe8, 0, 0, 0, 0, 0x48, 0x8b, 0, 0xc3], None);
    }
}
