//! Where Python frames belong among the native frames of a stack.
//!
//! In: the native frames with their stack pointers, and the entries of the Python stack, both innermost first. Out: runs of
//! Python frames with the native frame that each stands before. The two were walked apart. An anchor tells the
//! part of the stack that the native frame uses which ran the Python frames before it; interpreters without anchors
//! run each Python frame in an evaluation loop of its own, so that the loops are counted. Whatever cannot be placed keeps its
//! order and stands at the root's end: no frame is lost, and none is put where it is not known to belong.

use std::ops::Range;

use profiler_common::python::{ANCHOR, PythonEntry};

use crate::kernel::records::UserFrames;

/// How Python frames and native frames are brought together.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Placement<'a> {
    /// By anchors.
    Anchors,
    /// By counting the frames of the evaluation loop, whose code lies at these runtime addresses.
    EvaluationLoops(&'a [Range<u64>]),
}

/// Python frames that stand side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// They are inner to the native frame with this index, and outer to the one before it. The number of native frames if they
    /// are outer to all.
    pub(super) before: usize,
    /// Which entries they are. Never an anchor.
    pub(super) entries: Range<usize>,
}

/// Places all Python frames. The groups are in the order of their frames.
pub(super) fn place(user: UserFrames<'_>, python: &[PythonEntry], how: Placement<'_>, groups: &mut Vec<Group>) {
    groups.clear();
    match how {
        Placement::Anchors => by_anchors(user, python, groups),
        Placement::EvaluationLoops(code) => by_count(user, python, code, groups),
    }
}

fn by_anchors(user: UserFrames<'_>, python: &[PythonEntry], groups: &mut Vec<Group>) {
    // Groups from here on wait for the next that is placed.
    let mut waiting = 0;
    let mut from = 0;
    let mut start = 0;
    for (index, entry) in python.iter().enumerate() {
        if entry.instruction != ANCHOR {
            continue;
        }
        let entries = start..index;
        start = index + 1;
        // The outermost anchor of some interpreters has no frames and lies elsewhere.
        if entries.is_empty() {
            continue;
        }
        groups.push(Group {
            before: user.len(),
            entries,
        });
        if let Some(frame) = (from..user.len()).find(|frame| uses(user, *frame, entry.address)) {
            for group in &mut groups[waiting..] {
                group.before = frame;
            }
            waiting = groups.len();
            from = frame;
        }
    }
    if start < python.len() {
        groups.push(Group {
            before: user.len(),
            entries: start..python.len(),
        });
    }
}

/// Whether an address lies in the part of the stack that a frame uses. Of the outermost frame nobody knows how far that
/// reaches.
fn uses(user: UserFrames<'_>, frame: usize, address: u64) -> bool {
    let ends = user.stack_pointer(frame).zip(user.stack_pointer(frame + 1));
    ends.is_some_and(|(start, end)| (start..end).contains(&address))
}

fn by_count(user: UserFrames<'_>, python: &[PythonEntry], code: &[Range<u64>], groups: &mut Vec<Group>) {
    let is_loop = |(index, address): &(usize, u64)| {
        // Return addresses may lie behind the function that calls.
        let instruction = address.wrapping_sub(u64::from(*index > 0));
        code.iter().any(|range| range.contains(&instruction))
    };
    let loops = || user.addresses().enumerate().filter(is_loop).map(|(index, _)| index);
    // One that was just entered has not made its Python frame the current one yet.
    let just_entered = usize::from(loops().next() == Some(0) && loops().count() == python.len() + 1);
    let mut places = loops().skip(just_entered);
    for (index, entry) in python.iter().enumerate() {
        if entry.instruction != ANCHOR {
            groups.push(Group {
                before: places.next().unwrap_or(user.len()),
                entries: index..index + 1,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Native frames by name and stack pointer, Python entries as frames or `@address`; both innermost first.
    fn check(native: &[(&str, u64)], python: &str, expected: &str) {
        check_placed(native, python, Placement::Anchors, expected);
    }

    fn check_placed(native: &[(&str, u64)], python: &str, how: Placement<'_>, expected: &str) {
        let address = |name: &str, index: usize| {
            let base = if name.starts_with("eval") { 0x1000 } else { 0x9000 };
            base + 0x10 * index as u64
        };
        let words: Vec<u64> = native
            .iter()
            .enumerate()
            .flat_map(|(index, (name, stack_pointer))| [address(name, index), *stack_pointer])
            .collect();
        let names: Vec<&str> = python.split_whitespace().collect();
        let entry = |name: &&str| match name.strip_prefix('@') {
            Some(address) => PythonEntry {
                address: address.parse().unwrap(),
                instruction: ANCHOR,
                check: 0,
            },
            None => PythonEntry::default(),
        };
        let entries: Vec<PythonEntry> = names.iter().map(entry).collect();
        let mut groups = Vec::new();
        place(UserFrames::with_stack_pointers(&words), &entries, how, &mut groups);
        assert!(
            groups.is_sorted_by_key(|group| (group.before, group.entries.start)),
            "{groups:?}"
        );
        let mut merged = Vec::new();
        for index in 0..=native.len() {
            for group in groups.iter().filter(|group| group.before == index) {
                merged.extend(&names[group.entries.clone()]);
            }
            merged.extend(native.get(index).map(|(name, _)| *name));
        }
        assert_eq!(merged.join(" "), expected, "{python}");
    }

    const CALLED: [(&str, u64); 6] = [
        ("memcpy", 100),
        ("call", 110),
        ("eval1", 200),
        ("sort", 300),
        ("eval2", 400),
        ("main", 500),
    ];

    #[test]
    fn each_group_stands_before_the_loop_that_ran_it() {
        check(&CALLED, "f g @250 h @450", "memcpy call f g eval1 sort h eval2 main");
        // At the very ends of what a frame uses.
        check(&CALLED, "f @200 h @499", "memcpy call f eval1 sort h eval2 main");
        // An anchor without frames, as outermost ones are.
        check(&CALLED, "f g @250 h @450 @7", "memcpy call f g eval1 sort h eval2 main");
        check(&CALLED, "", "memcpy call eval1 sort eval2 main");
    }

    #[test]
    fn loops_without_a_group_stay() {
        // A greenlet: the Python chain ends where it was started, the native one goes on.
        check(&CALLED, "f @250", "memcpy call f eval1 sort eval2 main");
        check(&CALLED, "h @450", "memcpy call eval1 sort h eval2 main");
    }

    #[test]
    fn what_the_native_stack_does_not_reach_stands_at_the_root() {
        check(&CALLED[..4], "f g @250 h @450 i @900", "memcpy call f g eval1 sort h i");
        check(&[], "f g @250 h @450", "f g h");
        // Frames whose anchor was not reached.
        check(&CALLED, "f @250 h i", "memcpy call f eval1 sort eval2 main h i");
    }

    #[test]
    fn a_group_that_lies_nowhere_stands_by_the_next_that_does() {
        check(&CALLED, "f @7 h @450", "memcpy call eval1 sort f h eval2 main");
        // Groups never change their order, whatever their anchors say.
        check(&CALLED, "f @450 h @250", "memcpy call eval1 sort f eval2 main h");
    }

    #[test]
    fn another_stack_in_between() {
        // A handler on a stack of its own, at higher addresses than the thread's.
        let switched = [
            ("handler", 900),
            ("eval1", 950),
            ("trampoline", 990),
            ("work", 300),
            ("eval2", 400),
            ("main", 500),
        ];
        check(
            &switched,
            "f @960 g @450",
            "handler f eval1 trampoline work g eval2 main",
        );
    }

    #[test]
    fn two_groups_of_one_frame_keep_their_order() {
        check(
            &CALLED,
            "f @210 g @220 h @450",
            "memcpy call f g eval1 sort h eval2 main",
        );
    }

    #[test]
    fn loops_are_counted_where_there_are_no_anchors() {
        let code = [0x1000..0x1008, 0x1010..0x1100];
        let counted = Placement::EvaluationLoops(&code);
        check_placed(&CALLED, "f g", counted, "memcpy call f eval1 sort g eval2 main");
        check_placed(&CALLED, "f g h", counted, "memcpy call f eval1 sort g eval2 main h");
        check_placed(&CALLED, "f", counted, "memcpy call f eval1 sort eval2 main");
        check_placed(&CALLED[2..], "g", counted, "eval1 sort g eval2 main");
        check_placed(&CALLED[2..], "f g", counted, "f eval1 sort g eval2 main");
        check_placed(&[], "f g", counted, "f g");
    }

    #[test]
    fn without_stack_pointers_nothing_is_placed() {
        let mut groups = Vec::new();
        let entries = [PythonEntry::default(); 2];
        place(
            UserFrames::addresses_only(&[1, 2, 3]),
            &entries,
            Placement::Anchors,
            &mut groups,
        );
        assert_eq!(
            groups,
            [Group {
                before: 3,
                entries: 0..2
            }]
        );
    }

    proptest::proptest! {
        #[test]
        fn every_frame_is_placed_once(
            words in proptest::collection::vec(0..40_u64, 0..40),
            entries in proptest::collection::vec((0..40_u64, proptest::bool::ANY), 0..40),
        ) {
            let entries: Vec<PythonEntry> = entries
                .iter()
                .map(|(address, anchor)| PythonEntry {
                    address: *address,
                    instruction: if *anchor { ANCHOR } else { 0 },
                    check: 1,
                })
                .collect();
            let code = [0..20, 30..31];
            for how in [Placement::Anchors, Placement::EvaluationLoops(&code)] {
                let user = UserFrames::with_stack_pointers(&words);
                let mut groups = Vec::new();
                place(user, &entries, how, &mut groups);
                let placed: Vec<usize> = groups.iter().flat_map(|group| group.entries.clone()).collect();
                let frames: Vec<usize> = (0..entries.len()).filter(|index| entries[*index].instruction != ANCHOR).collect();
                proptest::prop_assert_eq!(placed, frames);
                proptest::prop_assert!(groups.is_sorted_by_key(|group| group.before));
                proptest::prop_assert!(groups.iter().all(|group| group.before <= user.len()));
            }
        }
    }
}
