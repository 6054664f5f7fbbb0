//! Evidence in a few lines of text, for sinks that show nothing else.

use std::collections::HashMap;

use profiler_profile::{
    Frame, FrameKind, Profile, View,
    compare::{FunctionChange, Party},
    visible,
};

use super::Evidence;

/// Functions and stacks that are told.
const MAX_FUNCTIONS: usize = 5;
const MAX_STACKS: usize = 5;
const MAX_GROWN: usize = 3;
/// Frames of a stack that are told, the innermost.
const MAX_FRAMES: usize = 6;
/// Most bytes told of a name.
pub(super) const MAX_NAME_BYTES: usize = 120;
/// Parts at the end of a Python file's path that tell it from others.
const PATH_PARTS: usize = 2;

/// What grew, or that nothing did, and the stacks that took most of the time.
pub fn lines(evidence: &Evidence) -> Vec<String> {
    let about_memory = evidence
        .memory
        .as_ref()
        .map(|memory| super::memory::lines(memory, &evidence.breach, &evidence.readings));
    let mut lines = about_memory.unwrap_or_default();
    lines.extend(about_cpu(evidence));
    lines
}

/// The CPU that grew, and the stacks that took most of it.
fn about_cpu(evidence: &Evidence) -> Vec<String> {
    let mut lines: Vec<String> = evidence.accused().take(MAX_FUNCTIONS).map(accusation).collect();
    if lines.is_empty() {
        lines.extend(evidence.grown().take(MAX_FUNCTIONS).map(|party| {
            let (before, after) = (party.change.before * 100.0, party.change.after * 100.0);
            format!(
                "{} grew from {before:.1} to {after:.1} % of a CPU",
                party_name(&party.party)
            )
        }));
    }
    if lines.is_empty() {
        lines.push(match evidence.comparison.smallest_share {
            Some(_) => format!("nothing that was sampled grew: {}", evidence.comparison),
            // Nothing was tested: it says what is missing.
            None => evidence.comparison.to_string(),
        });
    }
    if let Some(kept) = &evidence.during {
        lines.extend(heaviest(&kept.profile, kept.left_out, " %", MAX_STACKS));
    }
    lines
}

fn accusation((party, function): (&Party, &FunctionChange)) -> String {
    let (change, what) = match function.own.direction {
        Some(_) => (&function.own, ""),
        None => (&function.total, " with what it calls"),
    };
    let interval = change.test.map_or(String::new(), |test| {
        let (low, high) = test.interval;
        format!(" ({:+.1} to {:+.1})", low * 100.0, high * 100.0)
    });
    format!(
        "{}: {}{what} grew from {:.1} to {:.1} % of a CPU{interval}",
        party_name(party),
        function_name(&function.frame),
        change.before * 100.0,
        change.after * 100.0,
    )
}

/// Stacks by what they touched first of the memory that is still there.
pub(super) fn grown(profile: &Profile, left_out: u64) -> Vec<String> {
    heaviest(profile, left_out, " % of what grew", MAX_GROWN)
}

/// Stacks by what they cost, all lines and threads of a service together.
fn heaviest(profile: &Profile, left_out: u64, of: &str, most: usize) -> Vec<String> {
    let shown = profile.clone().view(View::default());
    let all = shown.samples().saturating_add(left_out);
    let mut counts: HashMap<(&str, Vec<String>), u64> = HashMap::new();
    for (stack, count) in &shown.stacks {
        let process = &shown.processes[stack.process as usize];
        let owner = if process.service.is_empty() {
            &process.name
        } else {
            &process.service
        };
        let innermost = &stack.frames[stack.frames.len().saturating_sub(MAX_FRAMES)..];
        let names = innermost
            .iter()
            .map(|frame| function_name(&shown.frames[*frame as usize]));
        let sum = counts.entry((owner, names.collect())).or_default();
        *sum = sum.saturating_add(*count);
    }
    let mut sorted: Vec<_> = counts.into_iter().collect();
    sorted
        .sort_by(|(left, left_count), (right, right_count)| right_count.cmp(left_count).then_with(|| left.cmp(right)));
    let line = |((owner, names), count): ((&str, Vec<String>), u64)| {
        let share = count as f64 * 100.0 / all.max(1) as f64;
        format!(
            "{share:.1}{of} {}: {}",
            visible(owner, MAX_NAME_BYTES),
            names.join(" > ")
        )
    };
    sorted.into_iter().take(most).map(line).collect()
}

fn party_name(party: &Party) -> String {
    visible(party.name(), MAX_NAME_BYTES).into_owned()
}

/// A function, that of Python with the end of its file's path.
fn function_name(frame: &Frame) -> String {
    let name = visible(&frame.function, MAX_NAME_BYTES);
    if frame.kind != FrameKind::Python || frame.file.is_empty() {
        return name.into_owned();
    }
    let start = frame.file.rmatch_indices('/').take(PATH_PARTS).last();
    let start = start.map_or(0, |(slash, _)| slash + 1);
    format!("{name} ({})", visible(&frame.file[start..], MAX_NAME_BYTES))
}
