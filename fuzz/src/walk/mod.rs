//! A made-up process, walked.
//!
//! Half of the processes have tables as the daemon writes them: each step must then lead where the plain reading of the
//! tables in [`reference`] leads. The others have tables of any content: the walk must end, and touch nothing but what
//! is its own.

mod process;
mod reference;

use arbitrary::{Arbitrary, Result, Unstructured};
use profiler_common::{
    limits::MAX_USER_FRAMES,
    process::Relocation,
    stop::StopReason,
    walk::{MAX_STEPS, Walk, flags, step},
};

use process::{CODE, Process, STACK};
use reference::{Expected, expected};

/// Eight bytes of the stack are read at most so often in one step: three registers of a signal frame.
const MAX_READS: usize = 3;
/// Rows looked at in one step: a page has at most `2^16`.
const MAX_ROWS: usize = 17;

/// Runs one input.
pub fn run(data: &[u8]) {
    // An input that is too short describes nothing.
    let _described = walk(&mut Unstructured::new(data));
}

fn walk(input: &mut Unstructured<'_>) -> Result<()> {
    let sound = bool::arbitrary(input)?;
    let mut process = if sound {
        Process::sound(input)?
    } else {
        Process::unsound(input)?
    };
    let mut walk = start(input, &process, sound)?;
    let mut steps = 0;
    let mut goes_on = true;
    while goes_on && steps < MAX_STEPS {
        steps += 1;
        let before = walk;
        let frames = process.frames.len();
        let expected = sound.then(|| expected(&before, &process));
        process.start_step();
        goes_on = step(&mut walk, &mut process);
        check_step(&before, &walk, goes_on, &process, frames);
        if let Some(expected) = expected {
            check_expected(&expected, &before, &walk, goes_on, &process, frames);
        }
    }
    // It ends by itself or, since only translated addresses take more steps than there are frames, after these.
    assert!(process.frames.len() <= MAX_USER_FRAMES);
    Ok(())
}

fn start(input: &mut Unstructured<'_>, process: &Process, sound: bool) -> Result<Walk> {
    let any = process.own.end.wrapping_sub(process.own.start);
    Ok(Walk {
        ip: process.code_address(u16::arbitrary(input)?),
        sp: STACK + u64::from(u8::arbitrary(input)?) * 8,
        bp: STACK + u64::from(u8::arbitrary(input)?) * 8,
        r10: STACK + u64::from(u8::arbitrary(input)?) * 8,
        r11: STACK + u64::from(u8::arbitrary(input)?) * 8,
        r13: u64::arbitrary(input)?,
        rax: STACK + u64::from(u8::arbitrary(input)?) * 8,
        first_mapping: process.own.start,
        mapping_count: any,
        mapping_hint: if sound {
            process.own.start
        } else {
            u32::arbitrary(input)?
        },
        // Interrupted in most cases, as every walk in the kernel begins.
        flags: *input.choose(&[
            flags::INTERRUPTED,
            flags::INTERRUPTED,
            flags::INTERRUPTED | flags::AFTER_SYSCALL,
            0,
        ])?,
        relocation: relocation(input)?,
        stop: StopReason::DepthLimit as u32,
        ..Walk::default()
    })
}

/// How far a process lies from the one whose tables it borrows: mostly it borrows none.
fn relocation(input: &mut Unstructured<'_>) -> Result<Relocation> {
    if input.ratio(3, 4)? {
        return Ok(Relocation::NONE);
    }
    let mut near = |start: u64| Ok(start.wrapping_add(u64::from(u16::arbitrary(input)?) * 16));
    let (program_start, vdso_start) = (near(CODE)?, near(CODE)?);
    Ok(Relocation {
        is_used: 1,
        program_start,
        program_end: near(program_start)?,
        program_distance: near(0)?,
        vdso_start,
        vdso_end: near(vdso_start)?,
        vdso_distance: near(0x8_0000_u64.wrapping_neg())?,
        other_distance: near(0)?,
    })
}

/// What holds for each step, whatever the tables say.
fn check_step(before: &Walk, after: &Walk, goes_on: bool, process: &Process, frames: usize) {
    let pushed = process.frames.len() - frames;
    assert!(pushed <= 1 && after.frames as usize == process.frames.len());
    assert!(pushed == 0 || process.frames.last() == Some(&before.ip));
    let seen = process.seen.borrow();
    assert!(seen.reads <= MAX_READS && seen.rows.len() <= MAX_ROWS, "{seen:?}");
    let own = |index: &u32| index.wrapping_sub(before.first_mapping) < before.mapping_count;
    let hint = |index: &u32| *index == before.mapping_hint || *index == before.first_mapping.wrapping_sub(1);
    assert!(seen.mappings.iter().all(|index| own(index) || hint(index)), "{seen:?}");
    if let Some(page) = seen.page {
        let in_page = |index: &u32| index.wrapping_sub(page.first()) < page.count();
        assert!(seen.rows.iter().all(in_page), "{seen:?}");
    } else {
        assert!(seen.rows.is_empty());
    }
    if goes_on {
        assert_eq!(after.stop, StopReason::DepthLimit as u32);
        let translated = after.flags & flags::UPROBE_TRANSLATED != 0;
        assert!(pushed == 1 || translated && before.flags & flags::UPROBE_TRANSLATED == 0);
        // The way to the caller leads up; only a signal may have switched stacks.
        let left_signal = after.flags & flags::INTERRUPTED != 0;
        assert!(
            translated || left_signal || after.sp > before.sp,
            "{before:x?} to {after:x?}"
        );
    } else {
        let reason = StopReason::from_number(after.stop as u8);
        assert!(reason.is_some_and(|reason| reason != StopReason::Running), "{after:?}");
    }
}

fn check_expected(expected: &Expected, before: &Walk, after: &Walk, goes_on: bool, process: &Process, frames: usize) {
    let recorded = process.frames.len() > frames;
    let found = if !goes_on {
        Expected::Stop {
            reason: after.stop as u8,
            recorded,
        }
    } else if !recorded {
        Expected::Translated { ip: after.ip }
    } else {
        Expected::Moved {
            ip: after.ip,
            sp: after.sp,
            bp: (after.flags & flags::BP_LOST == 0).then_some(after.bp),
            interrupted: after.flags & flags::INTERRUPTED != 0,
        }
    };
    assert_eq!(found, *expected, "from {before:x?}");
}
