//! The stack walker: one step from a frame to its caller, over a [`Target`] that reads memory and tables.
//!
//! In: registers, mappings, rows, user memory. Out: addresses, innermost first, and a [`StopReason`]. The same source
//! runs in the kernel, where a step is the body of a verified loop, and on the host under test. It therefore indexes
//! nothing itself: every access goes through the target, which checks it.

use crate::{
    limits::{MAX_USER_FRAMES, PAGE_SHIFT},
    process::{Mapping, Relocation, kind},
    row::{CfaRule, Page, RbpRule, Row},
    stop::StopReason,
};

/// Where a walk stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Walk {
    /// Instruction pointer of the current frame.
    pub ip: u64,
    /// Its stack pointer.
    pub sp: u64,
    /// Its frame pointer register, whatever it holds.
    pub bp: u64,
    /// Registers that only the innermost frame's rules may use.
    pub r10: u64,
    /// See [`Walk::r10`].
    pub r11: u64,
    /// See [`Walk::r10`].
    pub r13: u64,
    /// See [`Walk::r10`].
    pub rax: u64,
    /// Address of the signal frame that the current frame's registers came from; 0 if they are in this struct.
    pub signal_frame: u64,
    /// Index of the process's first mapping.
    pub first_mapping: u32,
    /// Number of its mappings.
    pub mapping_count: u32,
    /// Index of the mapping that held the previous frame: the next one is likely in it, too.
    pub mapping_hint: u32,
    /// Frames found so far.
    pub frames: u32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Uretprobe return addresses replaced so far.
    pub uprobe_returns: u32,
    /// [`StopReason`] as a number.
    pub stop: u32,
    /// Always zero.
    pub reserved: u32,
    /// How far the parts of the process lie from where its mappings say.
    pub relocation: Relocation,
}

/// Bits of [`Walk::flags`].
pub mod flags {
    /// The instruction pointer is that of an interrupted instruction, not a return address.
    pub const INTERRUPTED: u32 = 1;
    /// The frame pointer register of the current frame is not known.
    pub const BP_LOST: u32 = 2;
    /// The instruction pointer was translated out of the uprobes page.
    pub const UPROBE_TRANSLATED: u32 = 4;
    /// The instruction pointer is behind a system call's instruction, which may be the last of its function.
    pub const AFTER_SYSCALL: u32 = 8;
}

/// Iterations that a walk may need at most: one a frame, and some that only translate an address.
pub const MAX_STEPS: u32 = MAX_USER_FRAMES as u32 + 32;

/// Most that a frame pointer may lie above the stack pointer in code without rows.
const MAX_FRAME_BYTES: u64 = 1 << 20;
/// Steps of the search for a mapping: `2^13` is [`crate::limits::MAX_MAPPINGS_PER_PROCESS`].
const MAPPING_SEARCH_STEPS: u32 = 14;
/// Steps of the search for a row in a page of `2^16` addresses.
const ROW_SEARCH_STEPS: u32 = 17;

/// Offsets in the kernel's `struct rt_sigframe` from the stack pointer at the trampoline, x86-64: `struct ucontext`
/// begins there, `uc_mcontext` at 40 (arch/x86/include/uapi/asm/sigcontext.h).
mod sigframe {
    pub(super) const R10: u64 = 56;
    pub(super) const R11: u64 = 64;
    pub(super) const R13: u64 = 80;
    pub(super) const RBP: u64 = 120;
    pub(super) const RAX: u64 = 144;
    pub(super) const RSP: u64 = 160;
    pub(super) const RIP: u64 = 168;
}

/// What a walk reads from and writes to.
pub trait Target {
    /// Eight bytes of user memory.
    fn read(&self, runtime_address: u64) -> Option<u64>;
    /// The mapping at an index of the array of all mappings.
    fn mapping(&self, index: u32) -> Option<&Mapping>;
    /// The page at an index of the array of all pages.
    fn page(&self, index: u32) -> Option<Page>;
    /// The row at an index of all rows.
    fn row(&self, index: u32) -> Option<Row>;
    /// Records the address and the stack pointer of frame number `index`.
    fn push(&mut self, index: u32, ip: u64, sp: u64);
    /// The original of an instruction that is being single-stepped in the uprobes page.
    fn uprobe_instruction(&self, ip: u64) -> Option<u64>;
    /// The original of the `index`-th return address that a uretprobe replaced, innermost first.
    fn uprobe_return(&mut self, index: u32) -> Option<u64>;
}

/// Records the current frame and moves to its caller. Returns whether there is one; if not, [`Walk::stop`] says why.
#[inline(always)]
pub fn step<T: Target>(walk: &mut Walk, target: &mut T) -> bool {
    let interrupted = walk.flags & flags::INTERRUPTED != 0;
    // A return address may lie past the end of its function (after a call that does not return).
    let before = !interrupted || walk.flags & flags::AFTER_SYSCALL != 0;
    let pc = if before { walk.ip.wrapping_sub(1) } else { walk.ip };
    walk.flags &= !flags::AFTER_SYSCALL;
    let pc = walk.relocation.translate(pc);
    let index = find_mapping(walk, target, pc);
    let mapping = match target.mapping(index) {
        Some(mapping)
            if pc >= mapping.start
                && pc < mapping.end
                && index.wrapping_sub(walk.first_mapping) < walk.mapping_count =>
        {
            mapping
        }
        _ => return outside_mappings(walk, target, index),
    };
    walk.mapping_hint = index;
    let mapping_kind = mapping.kind;
    let link_address = pc.wrapping_sub(mapping.bias);
    let page_index = mapping.page_base.wrapping_add((link_address >> PAGE_SHIFT) as u32);
    if mapping_kind == kind::UPROBES {
        return leave_uprobes_page(walk, target, interrupted);
    }
    if !record(walk, target) {
        return false;
    }
    match mapping_kind {
        kind::ROWS => {}
        kind::FRAME_POINTERS => return follow_frame_pointer(walk, target),
        _ => return stop(walk, StopReason::Pending),
    }
    let Some(page) = target.page(page_index) else {
        return stop(walk, StopReason::PageNotLoaded);
    };
    if page == Page::NOT_LOADED {
        return stop(walk, StopReason::PageNotLoaded);
    }
    let row = find_row(target, page, link_address as u16);
    apply(walk, target, row, interrupted)
}

/// The address before a return address lies in no mapping. The trampoline of uretprobes is the first thing in its page, so
/// that this is how it is met; anything else ends the walk.
#[inline(always)]
fn outside_mappings<T: Target>(walk: &mut Walk, target: &mut T, index_before: u32) -> bool {
    let index = index_before.wrapping_add(1);
    if walk.flags & flags::INTERRUPTED == 0
        && index.wrapping_sub(walk.first_mapping) < walk.mapping_count
        && let Some(mapping) = target.mapping(index)
        && mapping.kind == kind::UPROBES
        && mapping.start == walk.ip
    {
        return leave_uprobes_page(walk, target, false);
    }
    record(walk, target) && stop(walk, StopReason::NoMapping)
}

/// Ends the walk.
#[inline(always)]
fn stop(walk: &mut Walk, reason: StopReason) -> bool {
    walk.stop = reason as u32;
    false
}

/// Records the current frame; false, with the reason, if no more fit.
#[inline(always)]
fn record<T: Target>(walk: &mut Walk, target: &mut T) -> bool {
    if walk.frames >= MAX_USER_FRAMES as u32 {
        return stop(walk, StopReason::DepthLimit);
    }
    target.push(walk.frames, walk.ip, walk.sp);
    walk.frames += 1;
    walk.flags &= !flags::UPROBE_TRANSLATED;
    true
}

/// Index of the last mapping that begins at or before `pc`; anything if there is none.
#[inline(always)]
fn find_mapping<T: Target>(walk: &Walk, target: &T, pc: u64) -> u32 {
    if let Some(mapping) = target.mapping(walk.mapping_hint)
        && pc >= mapping.start
        && pc < mapping.end
    {
        return walk.mapping_hint;
    }
    let mut low = walk.first_mapping;
    let mut high = walk.first_mapping.wrapping_add(walk.mapping_count);
    let mut steps = 0;
    while steps < MAPPING_SEARCH_STEPS && low < high {
        steps += 1;
        let middle = low + ((high - low) >> 1);
        match target.mapping(middle) {
            Some(mapping) if mapping.start <= pc => low = middle + 1,
            _ => high = middle,
        }
    }
    low.wrapping_sub(1)
}

/// The row in force at an offset in a page.
#[inline(always)]
fn find_row<T: Target>(target: &T, page: Page, page_offset: u16) -> Row {
    let mut row = Row::marker(0, CfaRule::Gap);
    let mut low = page.first();
    let mut high = low.wrapping_add(page.count());
    let mut steps = 0;
    while steps < ROW_SEARCH_STEPS && low < high {
        steps += 1;
        let middle = low + ((high - low) >> 1);
        match target.row(middle) {
            Some(found) if found.page_offset() <= page_offset => {
                row = found;
                low = middle + 1;
            }
            Some(_) => high = middle,
            None => break,
        }
    }
    row
}

/// Moves to the caller as the row says.
#[inline(always)]
fn apply<T: Target>(walk: &mut Walk, target: &mut T, row: Row, interrupted: bool) -> bool {
    let rule = row.cfa_rule();
    if rule == CfaRule::Root as u8 {
        return stop(walk, StopReason::Root);
    }
    if rule == CfaRule::Gap as u8 {
        return stop(walk, StopReason::NoRow);
    }
    if rule == CfaRule::SignalFrame as u8 {
        return leave_signal_frame(walk, target);
    }
    let offset = row.cfa_offset() as u64;
    let cfa = match canonical_frame_address(walk, target, rule, offset, interrupted) {
        Ok(cfa) => cfa,
        Err(reason) => return stop(walk, reason),
    };
    if cfa <= walk.sp {
        return stop(walk, StopReason::NotAdvancing);
    }
    let Some(return_address) = target.read(cfa.wrapping_sub(8)) else {
        return stop(walk, StopReason::ReadFailed);
    };
    let rbp_rule = row.rbp_rule();
    let lost = walk.flags & flags::BP_LOST != 0;
    if rbp_rule == RbpRule::Lost as u8 || lost && rbp_rule == RbpRule::AtRbp as u8 {
        walk.flags |= flags::BP_LOST;
    } else if rbp_rule != RbpRule::Same as u8 {
        let base = if rbp_rule == RbpRule::AtCfa as u8 { cfa } else { walk.bp };
        let Some(bp) = target.read(base.wrapping_add(row.rbp_offset() as u64)) else {
            return stop(walk, StopReason::ReadFailed);
        };
        walk.bp = bp;
        walk.flags &= !flags::BP_LOST;
    }
    if return_address == 0 {
        return stop(walk, StopReason::ZeroReturnAddress);
    }
    walk.sp = cfa;
    walk.ip = return_address;
    walk.flags &= !flags::INTERRUPTED;
    true
}

/// The stack pointer before the call to the current frame's function.
#[inline(always)]
fn canonical_frame_address<T: Target>(
    walk: &Walk,
    target: &T,
    rule: u8,
    offset: u64,
    interrupted: bool,
) -> Result<u64, StopReason> {
    if rule == CfaRule::Rsp as u8 {
        return Ok(walk.sp.wrapping_add(offset));
    }
    if rule == CfaRule::Plt as u8 || rule == CfaRule::Plt10 as u8 {
        let threshold = if rule == CfaRule::Plt as u8 { 11 } else { 10 };
        let pushed = if walk.ip & 15 >= threshold { 8 } else { 0 };
        return Ok(walk.sp.wrapping_add(8 + pushed));
    }
    if rule == CfaRule::DerefRspPlus8 as u8 {
        return match target.read(walk.sp.wrapping_add(offset)) {
            Some(value) => Ok(value.wrapping_add(8)),
            None => Err(StopReason::ReadFailed),
        };
    }
    if rule == CfaRule::Rbp as u8 || rule == CfaRule::DerefRbp as u8 {
        if walk.flags & flags::BP_LOST != 0 {
            return Err(StopReason::RegisterUnknown);
        }
        let address = walk.bp.wrapping_add(offset);
        if rule == CfaRule::Rbp as u8 {
            return Ok(address);
        }
        return target.read(address).ok_or(StopReason::ReadFailed);
    }
    if rule > CfaRule::R11 as u8 || rule == CfaRule::Unsupported as u8 {
        return Err(StopReason::UnsupportedRule);
    }
    if !interrupted {
        return Err(StopReason::RegisterUnknown);
    }
    let (known, in_signal_frame) = if rule == CfaRule::R10 as u8 {
        (walk.r10, sigframe::R10)
    } else if rule == CfaRule::R13 as u8 {
        (walk.r13, sigframe::R13)
    } else if rule == CfaRule::Rax as u8 {
        (walk.rax, sigframe::RAX)
    } else {
        (walk.r11, sigframe::R11)
    };
    let register = if walk.signal_frame == 0 {
        known
    } else {
        target
            .read(walk.signal_frame.wrapping_add(in_signal_frame))
            .ok_or(StopReason::ReadFailed)?
    };
    Ok(register.wrapping_add(offset))
}

/// Moves from a signal trampoline to the code that the signal interrupted. Its stack may be another one.
#[inline(always)]
fn leave_signal_frame<T: Target>(walk: &mut Walk, target: &T) -> bool {
    let frame = walk.sp;
    let (Some(sp), Some(ip), Some(bp)) = (
        target.read(frame.wrapping_add(sigframe::RSP)),
        target.read(frame.wrapping_add(sigframe::RIP)),
        target.read(frame.wrapping_add(sigframe::RBP)),
    ) else {
        return stop(walk, StopReason::ReadFailed);
    };
    walk.sp = sp;
    walk.ip = ip;
    walk.bp = bp;
    walk.signal_frame = frame;
    walk.flags = flags::INTERRUPTED;
    true
}

/// Moves to the caller by the frame pointer, in code that has no rows.
#[inline(always)]
fn follow_frame_pointer<T: Target>(walk: &mut Walk, target: &T) -> bool {
    if walk.flags & flags::BP_LOST != 0 {
        return stop(walk, StopReason::RegisterUnknown);
    }
    let frame = walk.bp;
    if frame == 0 {
        return stop(walk, StopReason::FramePointerEnd);
    }
    if frame & 7 != 0 || frame < walk.sp || frame - walk.sp > MAX_FRAME_BYTES {
        return stop(walk, StopReason::FramePointerImplausible);
    }
    let (Some(bp), Some(return_address)) = (target.read(frame), target.read(frame.wrapping_add(8))) else {
        return stop(walk, StopReason::ReadFailed);
    };
    if return_address == 0 {
        return stop(walk, StopReason::FramePointerEnd);
    }
    walk.bp = bp;
    walk.sp = frame.wrapping_add(16);
    walk.ip = return_address;
    walk.flags &= !flags::INTERRUPTED;
    true
}

/// Replaces an address in the uprobes page by the one it stands for; the next step records that one.
#[inline(always)]
fn leave_uprobes_page<T: Target>(walk: &mut Walk, target: &mut T, interrupted: bool) -> bool {
    if walk.flags & flags::UPROBE_TRANSLATED != 0 {
        return record(walk, target) && stop(walk, StopReason::Uprobe);
    }
    let original = if interrupted {
        target.uprobe_instruction(walk.ip)
    } else {
        let index = walk.uprobe_returns;
        walk.uprobe_returns = index.wrapping_add(1);
        target.uprobe_return(index)
    };
    let Some(original) = original else {
        return record(walk, target) && stop(walk, StopReason::Uprobe);
    };
    walk.ip = original;
    walk.flags |= flags::UPROBE_TRANSLATED;
    true
}
