//! Where a step leads, read off sound tables without any search: slow, plain, and apart from the walker's own code.

use std::ops::Range;

use profiler_common::{
    limits::MAX_USER_FRAMES,
    process::{Relocation, kind},
    row::{CfaRule, Page, RbpRule},
    stop::StopReason,
    walk::{Walk, flags},
};

use super::process::{PlainRow, Process};

/// Where a step leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// The walk ends.
    Stop { reason: u8, recorded: bool },
    /// The same frame once more, at its original address.
    Translated { ip: u64 },
    /// To the caller, or to what a signal interrupted. `bp` is none where it is lost.
    Moved {
        ip: u64,
        sp: u64,
        bp: Option<u64>,
        interrupted: bool,
    },
}

/// Offsets of registers in the kernel's signal frame.
const SIGNAL_R10: u64 = 56;
const SIGNAL_R11: u64 = 64;
const SIGNAL_R13: u64 = 80;
const SIGNAL_RBP: u64 = 120;
const SIGNAL_RAX: u64 = 144;
const SIGNAL_RSP: u64 = 160;
const SIGNAL_RIP: u64 = 168;

/// Frames above the stack pointer by more than this are none.
const MAX_FRAME_BYTES: u64 = 1 << 20;

/// Where the next step leads.
pub(super) fn expected(walk: &Walk, process: &Process) -> Expected {
    let interrupted = walk.flags & flags::INTERRUPTED != 0;
    let is_behind = !interrupted || walk.flags & flags::AFTER_SYSCALL != 0;
    let pc = relocated(walk.ip.wrapping_sub(u64::from(is_behind)), &walk.relocation);
    let own = process.own_mappings();
    let Some(mapping) = own.iter().find(|mapping| (mapping.start..mapping.end).contains(&pc)) else {
        let next = own.iter().find(|mapping| mapping.start > pc);
        let is_trampoline = next.is_some_and(|next| next.kind == kind::UPROBES && next.start == walk.ip);
        return if !interrupted && is_trampoline {
            leave_uprobes(walk, process, false)
        } else {
            recorded(walk, |_| Err(StopReason::NoMapping))
        };
    };
    if mapping.kind == kind::UPROBES {
        return leave_uprobes(walk, process, interrupted);
    }
    recorded(walk, |walk| match mapping.kind {
        kind::FRAME_POINTERS => by_frame_pointer(walk, process),
        kind::ROWS => {
            let link_address = pc.wrapping_sub(mapping.bias);
            let page = mapping.page_base.wrapping_add((link_address >> 16) as u32) as usize;
            match process.pages.get(page) {
                None | Some(&Page::NOT_LOADED) => Err(StopReason::PageNotLoaded),
                Some(_) => {
                    let mut rows = process.plain[page].iter();
                    let row = rows.rfind(|row| u64::from(row.page_offset) <= link_address & 0xffff);
                    row.map_or(Err(StopReason::NoRow), |row| by_row(walk, process, row, interrupted))
                }
            }
        }
        _ => Err(StopReason::Pending),
    })
}

/// Where an address of the process lies in the one that its tables were made for.
fn relocated(address: u64, relocation: &Relocation) -> u64 {
    let of = |range: Range<u64>, distance| range.contains(&address).then(|| address.wrapping_add(distance));
    if relocation.is_used == 0 {
        return address;
    }
    of(
        relocation.program_start..relocation.program_end,
        relocation.program_distance,
    )
    .or_else(|| of(relocation.vdso_start..relocation.vdso_end, relocation.vdso_distance))
    .unwrap_or_else(|| address.wrapping_add(relocation.other_distance))
}

/// The outcome for a frame that is recorded, if one more fits.
fn recorded(walk: &Walk, outcome: impl FnOnce(&Walk) -> Result<Expected, StopReason>) -> Expected {
    if walk.frames as usize == MAX_USER_FRAMES {
        return Expected::Stop {
            reason: StopReason::DepthLimit as u8,
            recorded: false,
        };
    }
    outcome(walk).unwrap_or_else(|reason| Expected::Stop {
        reason: reason as u8,
        recorded: true,
    })
}

fn leave_uprobes(walk: &Walk, process: &Process, interrupted: bool) -> Expected {
    let index = if interrupted {
        walk.ip as u32 >> 4
    } else {
        walk.uprobe_returns
    };
    match process.original(index) {
        Some(ip) if walk.flags & flags::UPROBE_TRANSLATED == 0 => Expected::Translated { ip },
        _ => recorded(walk, |_| Err(StopReason::Uprobe)),
    }
}

fn by_frame_pointer(walk: &Walk, process: &Process) -> Result<Expected, StopReason> {
    if walk.flags & flags::BP_LOST != 0 {
        return Err(StopReason::RegisterUnknown);
    }
    let frame = walk.bp;
    if frame == 0 {
        return Err(StopReason::FramePointerEnd);
    }
    if !frame.is_multiple_of(8) || !(walk.sp..=walk.sp.saturating_add(MAX_FRAME_BYTES)).contains(&frame) {
        return Err(StopReason::FramePointerImplausible);
    }
    let bp = read(process, frame)?;
    match read(process, frame + 8)? {
        0 => Err(StopReason::FramePointerEnd),
        ip => Ok(Expected::Moved {
            ip,
            sp: frame + 16,
            bp: Some(bp),
            interrupted: false,
        }),
    }
}

fn by_row(walk: &Walk, process: &Process, row: &PlainRow, interrupted: bool) -> Result<Expected, StopReason> {
    let lost = walk.flags & flags::BP_LOST != 0;
    let bp = if lost {
        Err(StopReason::RegisterUnknown)
    } else {
        Ok(walk.bp)
    };
    let leaf = |known: u64, in_signal_frame: u64| match (interrupted, walk.signal_frame) {
        (false, _) => Err(StopReason::RegisterUnknown),
        (true, 0) => Ok(known),
        (true, frame) => read(process, frame.wrapping_add(in_signal_frame)),
    };
    let plus = |base: u64| base.wrapping_add_signed(row.cfa_offset);
    let stub = |threshold: u64| walk.sp.wrapping_add(if walk.ip % 16 >= threshold { 16 } else { 8 });
    let cfa = match row.cfa {
        CfaRule::Root => return Err(StopReason::Root),
        CfaRule::Gap => return Err(StopReason::NoRow),
        CfaRule::Unsupported => return Err(StopReason::UnsupportedRule),
        CfaRule::SignalFrame => {
            let at = |offset: u64| read(process, walk.sp.wrapping_add(offset));
            return Ok(Expected::Moved {
                sp: at(SIGNAL_RSP)?,
                ip: at(SIGNAL_RIP)?,
                bp: Some(at(SIGNAL_RBP)?),
                interrupted: true,
            });
        }
        CfaRule::Rsp => plus(walk.sp),
        CfaRule::Rbp => plus(bp?),
        CfaRule::Plt => stub(11),
        CfaRule::Plt10 => stub(10),
        CfaRule::DerefRbp => read(process, plus(bp?))?,
        CfaRule::DerefRspPlus8 => read(process, plus(walk.sp))?.wrapping_add(8),
        CfaRule::R10 => plus(leaf(walk.r10, SIGNAL_R10)?),
        CfaRule::R11 => plus(leaf(walk.r11, SIGNAL_R11)?),
        CfaRule::R13 => plus(leaf(walk.r13, SIGNAL_R13)?),
        CfaRule::Rax => plus(leaf(walk.rax, SIGNAL_RAX)?),
    };
    if cfa <= walk.sp {
        return Err(StopReason::NotAdvancing);
    }
    let ip = read(process, cfa - 8)?;
    let saved_at = |base: u64| read(process, base.wrapping_add_signed(row.rbp_offset)).map(Some);
    let bp = match row.rbp {
        RbpRule::Same => (!lost).then_some(walk.bp),
        RbpRule::AtCfa => saved_at(cfa)?,
        RbpRule::AtRbp if lost => None,
        RbpRule::AtRbp => saved_at(walk.bp)?,
        RbpRule::Lost => None,
    };
    if ip == 0 {
        return Err(StopReason::ZeroReturnAddress);
    }
    Ok(Expected::Moved {
        ip,
        sp: cfa,
        bp,
        interrupted: false,
    })
}

fn read(process: &Process, address: u64) -> Result<u64, StopReason> {
    process.word(address).ok_or(StopReason::ReadFailed)
}
