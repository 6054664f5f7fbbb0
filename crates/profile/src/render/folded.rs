//! Folded stacks: `process;frame;frame count`, one stack a line, root first.
//!
//! Python functions have the end of their file's path, as `get (http/client.py)`. Kernel frames end in `_[k]`, inlined ones in `_[i]`, as tools of this format expect. A semicolon, which separates
//! frames, becomes a colon in names. Frames of one function at different lines are one.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use super::{MAX_REPEATED_NAME_BYTES, RenderError, buffered, function_name, path_to};
use crate::{Frame, FrameKind, Profile, compare::Comparison, visible};

/// Writes the profile as folded stacks.
pub fn write(profile: &Profile, out: impl Write) -> Result<(), RenderError> {
    buffered(profile, out, |out| write_lines(profile, out))
}

fn write_lines(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let tree = profile.function_tree();
    let names: Vec<String> = profile.frames.iter().map(frame_name).collect();
    for (index, node) in tree.nodes.iter().enumerate().filter(|(_, node)| node.self_samples > 0) {
        let process = &profile.processes[node.process as usize];
        write!(out, "{}", name(&process.name))?;
        for frame in path_to(&tree, index) {
            write!(out, ";{}", names[frame as usize])?;
        }
        writeln!(out, " {}", node.self_samples)?;
    }
    Ok(())
}

/// Writes the comparison of a target, which is named by `title`: `target;frame;frame before after`, one stack a line, in
/// millionths of the measure (microseconds of CPU a second, or of the CPU time), so that spans of different length compare.
pub fn write_difference(comparison: &Comparison, title: &str, out: impl Write) -> Result<(), RenderError> {
    let mut out = io::BufWriter::new(out);
    let millionths = |value: f64| (value * 1e6).round() as u64;
    let mut is_empty = true;
    for node in &comparison.nodes {
        let (before, after) = (millionths(node.own.0), millionths(node.own.1));
        if (before, after) == (0, 0) {
            continue;
        }
        is_empty = false;
        let party = node.party.and_then(|party| comparison.parties.get(party as usize));
        let root = party.map_or(title, |party| party.party.name());
        write!(out, "{}", name(root))?;
        for frame in comparison.path(node) {
            write!(out, ";{}", frame_name(frame))?;
        }
        writeln!(out, " {before} {after}")?;
    }
    if is_empty {
        return Err(RenderError::NoSamples);
    }
    out.flush()?;
    Ok(())
}

fn frame_name(frame: &Frame) -> String {
    let suffix = match frame.kind {
        FrameKind::Kernel => "_[k]",
        FrameKind::Inlined => "_[i]",
        FrameKind::Native | FrameKind::Python | FrameKind::Unnamed | FrameKind::Interpreter | FrameKind::Thread => "",
    };
    format!("{}{suffix}", name(&function_name(frame)))
}

fn name(name: &str) -> Cow<'_, str> {
    let shown = visible(name, MAX_REPEATED_NAME_BYTES);
    if shown.contains(';') {
        Cow::Owned(shown.replace(';', ":"))
    } else {
        shown
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::fixtures;

    fn render(profile: &Profile) -> String {
        let mut out = Vec::new();
        write(profile, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// What a reader of the format makes of it.
    fn parse(text: &str) -> HashMap<Vec<&str>, u64> {
        let mut counts = HashMap::new();
        for line in text.lines() {
            let (stack, count) = line.rsplit_once(' ').unwrap();
            *counts.entry(stack.split(';').collect()).or_default() += count.parse::<u64>().unwrap();
        }
        counts
    }

    #[test]
    fn kinds_processes_and_lines() {
        let profile = fixtures::profile(&[
            ("web", 1, &["main", "i:push", "k:read"], 3),
            ("web", 2, &["main"], 2),
            ("db", 3, &["main:7", "[u8; 4]::fmt"], 1),
            ("db", 3, &["main:9", "[u8; 4]::fmt"], 1),
        ]);
        assert_eq!(
            render(&profile),
            "web;main;push_[i];read_[k] 3\nweb;main 2\ndb;main;[u8: 4]::fmt 2\n"
        );
    }

    #[test]
    fn both_sides_of_a_comparison() {
        let mut out = Vec::new();
        write_difference(&fixtures::comparison(), "web;x", &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let expected = [
            "main;old",
            "main;same",
            "main;fresh (app/handlers.py)",
            "main;fresh (app/handlers.py);read_[k]",
        ];
        for stack in expected {
            assert!(
                text.lines().any(|line| line.starts_with(&format!("web:x;{stack} "))),
                "{stack}: {text}"
            );
        }
        assert!(text.contains("main;same 500000 500000\n"), "{text}");
        assert!(text.contains("main;old 200000 0\n"), "{text}");
    }

    #[test]
    fn hostile_names_stay_on_their_line_and_short() {
        let profile = fixtures::hostile();
        let text = render(&profile);
        assert_eq!(parse(&text).values().sum::<u64>(), profile.samples());
        for line in text.lines() {
            let frames: Vec<&str> = line.rsplit_once(' ').unwrap().0.split(';').collect();
            assert!(
                frames.iter().all(|frame| !frame.is_empty() && frame.len() < 1_100),
                "{line}"
            );
        }
    }

    proptest! {
        #[test]
        fn parsed_back_it_holds_the_same_counts(profile in fixtures::any_profile()) {
            prop_assume!(profile.samples() > 0);
            let text = render(&profile);
            let mut expected: HashMap<Vec<String>, u64> = HashMap::new();
            for (stack, count) in profile.stacks.iter().filter(|(_, count)| **count > 0) {
                let process = name(&profile.processes[stack.process as usize].name).into_owned();
                let frames = stack.frames.iter().map(|frame| frame_name(&profile.frames[*frame as usize]));
                *expected.entry(std::iter::once(process).chain(frames).collect()).or_default() += count;
            }
            let parsed = parse(&text);
            let parsed = parsed.into_iter().map(|(stack, count)| {
                (stack.into_iter().map(str::to_owned).collect(), count)
            }).collect::<HashMap<Vec<String>, u64>>();
            prop_assert_eq!(parsed, expected);
        }
    }
}
