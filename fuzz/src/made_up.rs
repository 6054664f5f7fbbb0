//! Small profiles made of any bytes, with names chosen by an enemy.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arbitrary::{Arbitrary, Result, Unstructured};
use profiler_profile::{Frame, FrameKind, ProcessLabel, Profile, ProfileBuilder, PythonQuality, Quality};

const MAX_NAMES: usize = 8;
const MAX_FRAMES: usize = 16;
const MAX_STACKS: usize = 24;
const MAX_DEPTH: usize = 40;

/// 2026-03-01T12:00:00Z.
pub(crate) const NOON: Duration = Duration::from_secs(1_772_366_400);

/// A profile of a few names that are used again and again.
pub(crate) fn profile(input: &mut Unstructured<'_>) -> Result<Profile> {
    let names = some(input, MAX_NAMES, |input| Ok(Arc::from(<&str>::arbitrary(input)?)))?;
    let name = |input: &mut Unstructured<'_>| -> Result<Arc<str>> {
        match names.is_empty() {
            true => Ok(Arc::default()),
            false => Ok(Arc::clone(input.choose(&names)?)),
        }
    };
    let frames = some(input, MAX_FRAMES, |input| {
        Ok(Frame {
            kind: *input.choose(&[
                FrameKind::Kernel,
                FrameKind::Native,
                FrameKind::Inlined,
                FrameKind::Python,
                FrameKind::Unnamed,
            ])?,
            function: name(input)?,
            module: name(input)?,
            file: name(input)?,
            line: *input.choose(&[0, 1, 77, u32::MAX])?,
        })
    })?;
    let (start, end) = (time(input)?, time(input)?);
    let period = Duration::from_nanos(u64::from(u32::arbitrary(input)?) << input.int_in_range(0..=32)?);
    let mut builder = ProfileBuilder::new(period, start, end);
    for _ in 0..input.int_in_range(0..=MAX_STACKS)? {
        let process = ProcessLabel {
            pid: u32::from(u8::arbitrary(input)? & 3),
            start: UNIX_EPOCH,
            name: name(input)?,
            service: name(input)?,
        };
        let thread = name(input)?;
        let stack = some(input, MAX_DEPTH, |input| Ok(input.choose(&frames)?.clone()))?;
        // Now and then so many that sums do not fit.
        let count = u64::from(u16::arbitrary(input)?) << input.choose(&[0, 0, 0, 8, 56])?;
        builder.add(&process, &thread, stack.into_iter(), count);
        let quality = Quality {
            samples: count,
            rooted: count / 2,
            stopped: [(name(input)?.to_string(), count - count / 2)].into(),
            lost: [(name(input)?.to_string(), count)].into(),
            user_frames: count,
            named_user_frames: count / 3,
            incomplete_kernel_stacks: count / 5,
            python: PythonQuality {
                samples: count,
                with_frames: count / 7,
                stopped: [(name(input)?.to_string(), count - count / 7)].into(),
            },
            pages: None,
        };
        if input.ratio(3, 4)? {
            builder.add_process_quality(&process, &quality);
        } else {
            builder.quality_mut().merge(&quality);
        }
    }
    Ok(builder.build())
}

fn time(input: &mut Unstructured<'_>) -> Result<SystemTime> {
    let offset = Duration::from_millis(u64::from(u32::arbitrary(input)?));
    Ok(UNIX_EPOCH + *input.choose(&[NOON, Duration::ZERO, Duration::from_secs(1 << 40)])? + offset)
}

fn some<'a, T>(
    input: &mut Unstructured<'a>,
    most: usize,
    mut one: impl FnMut(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = input.int_in_range(0..=most)?;
    (0..count).map(|_| one(input)).collect()
}
