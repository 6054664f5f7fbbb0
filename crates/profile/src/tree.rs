//! Stacks merged from their roots on.

use crate::{
    Frame, ProcessLabel, Profile,
    functions::{FunctionKey, Functions},
};

/// A place in the tree of stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Index of the caller in the tree; none for the outermost frame of a stack.
    pub parent: Option<u32>,
    /// Index of the frame in the profile.
    pub frame: u32,
    /// Index of the process in the profile.
    pub process: u32,
    /// Samples whose innermost frame this is.
    pub self_samples: u64,
    /// Those and the samples of everything called from here.
    pub total_samples: u64,
}

/// The stacks of a profile merged from their roots on, each process apart, its threads together.
///
/// The same samples give the same tree, however the profile came to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Callers before what they call, depth first; what one function calls in the order of names.
    pub nodes: Vec<Node>,
}

impl Tree {
    /// Samples of the whole tree.
    pub fn samples(&self) -> u64 {
        let roots = self.nodes.iter().filter(|node| node.parent.is_none());
        roots.fold(0, |total, node| total.saturating_add(node.total_samples))
    }
}

impl Profile {
    /// The merged tree, in which frames at different lines are different places.
    pub fn tree(&self) -> Tree {
        merged(self, &Functions::by_line(self))
    }

    /// The merged tree of functions. A node refers to the frame of its function's line with the most samples.
    pub fn function_tree(&self) -> Tree {
        merged(self, &Functions::group(self, FunctionKey::drawn))
    }
}

/// Numbers of things in their order, and the things by number.
pub(crate) struct Ranks {
    pub(crate) rank: Vec<u32>,
    pub(crate) sorted: Vec<u32>,
}

impl Ranks {
    fn sort<K: Ord>(count: usize, key: impl Fn(u32) -> K) -> Self {
        let mut sorted: Vec<u32> = (0..count as u32).collect();
        sorted.sort_by_key(|index| key(*index));
        let mut rank = vec![0; count];
        for (position, index) in sorted.iter().enumerate() {
            rank[*index as usize] = position as u32;
        }
        Self { rank, sorted }
    }

    /// Frames in the order of their names.
    pub(crate) fn of_frames(profile: &Profile) -> Self {
        let key = |index: u32| {
            let Frame {
                kind,
                function,
                module,
                file,
                line,
            } = &profile.frames[index as usize];
            (&**function, *kind, &**module, &**file, *line)
        };
        Self::sort(profile.frames.len(), key)
    }

    /// Processes in the order of their ids.
    pub(crate) fn of_processes(profile: &Profile) -> Self {
        let key = |index: u32| {
            let ProcessLabel {
                pid,
                start,
                name,
                service,
            } = &profile.processes[index as usize];
            (*pid, *start, &**name, &**service)
        };
        Self::sort(profile.processes.len(), key)
    }
}

/// A stack in terms of ranks, so that sorting brings common beginnings together.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Path {
    process: u32,
    frames: Box<[u32]>,
    count: u64,
}

/// The tree of the frames that stand for each function.
pub(crate) fn merged(profile: &Profile, functions: &Functions) -> Tree {
    let frames = Ranks::of_frames(profile);
    let processes = Ranks::of_processes(profile);
    let rank_of = |frame: &u32| frames.rank[functions.representative[*frame as usize] as usize];
    let path = |(stack, count): (&crate::Stack, &u64)| Path {
        process: processes.rank[stack.process as usize],
        frames: stack.frames.iter().map(rank_of).collect(),
        count: *count,
    };
    let mut paths: Vec<Path> = profile.stacks.iter().map(path).collect();
    paths.sort_unstable();

    let mut nodes: Vec<Node> = Vec::new();
    // The nodes from the root to the innermost frame of the previous stack.
    let mut open: Vec<u32> = Vec::new();
    let mut previous: Option<&Path> = None;
    for path in &paths {
        let common = match previous {
            Some(previous) if previous.process == path.process => previous
                .frames
                .iter()
                .zip(&path.frames)
                .take_while(|(left, right)| left == right)
                .count(),
            _ => 0,
        };
        open.truncate(common);
        for rank in &path.frames[common..] {
            let node = Node {
                parent: open.last().copied(),
                frame: frames.sorted[*rank as usize],
                process: processes.sorted[path.process as usize],
                self_samples: 0,
                total_samples: 0,
            };
            open.push(nodes.len() as u32);
            nodes.push(node);
        }
        if let Some(leaf) = open.last() {
            let leaf = &mut nodes[*leaf as usize];
            leaf.self_samples = leaf.self_samples.saturating_add(path.count);
        }
        previous = Some(path);
    }
    for index in (0..nodes.len()).rev() {
        let node = &mut nodes[index];
        node.total_samples = node.total_samples.saturating_add(node.self_samples);
        let total = node.total_samples;
        if let Some(parent) = node.parent {
            let parent = &mut nodes[parent as usize];
            parent.total_samples = parent.total_samples.saturating_add(total);
        }
    }
    Tree { nodes }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures;

    /// Depth, name, own and total samples of each node.
    fn outline(profile: &Profile, tree: &Tree) -> Vec<(usize, String, u64, u64)> {
        let mut depths: Vec<usize> = Vec::new();
        let row = |node: &Node| {
            let depth = node.parent.map_or(0, |parent| depths[parent as usize] + 1);
            depths.push(depth);
            let name = profile.frames[node.frame as usize].function.to_string();
            (depth, name, node.self_samples, node.total_samples)
        };
        tree.nodes.iter().map(row).collect()
    }

    fn rows(rows: &[(usize, &str, u64, u64)]) -> Vec<(usize, String, u64, u64)> {
        rows.iter()
            .map(|(depth, name, own, total)| (*depth, (*name).to_owned(), *own, *total))
            .collect()
    }

    #[test]
    fn common_beginnings_are_one() {
        let profile = fixtures::profile(&[
            ("web", 2, &["main", "b"], 3),
            ("web", 2, &["main", "a", "c"], 2),
            ("web", 2, &["main"], 1),
            ("web", 1, &["main", "b"], 5),
        ]);
        assert_eq!(
            outline(&profile, &profile.tree()),
            rows(&[
                (0, "main", 0, 5),
                (1, "b", 5, 5),
                (0, "main", 1, 6),
                (1, "a", 0, 2),
                (2, "c", 2, 2),
                (1, "b", 3, 3)
            ])
        );
    }

    #[test]
    fn lines_are_places_of_their_own_or_not() {
        let profile = fixtures::profile(&[("web", 1, &["main:1", "a"], 1), ("web", 1, &["main:2", "a"], 2)]);
        assert_eq!(profile.tree().nodes.len(), 4);
        let tree = profile.function_tree();
        assert_eq!(outline(&profile, &tree), rows(&[(0, "main", 0, 3), (1, "a", 3, 3)]));
        assert_eq!(
            profile.frames[tree.nodes[0].frame as usize].line, 2,
            "the line with the most samples"
        );
    }

    #[test]
    fn a_sample_without_frames_is_not_lost() {
        let profile = fixtures::profile(&[("web", 1, &[], 4)]);
        assert_eq!(outline(&profile, &profile.tree()), rows(&[(0, "[no stack]", 4, 4)]));
    }

    #[test]
    fn very_deep_stacks_are_no_problem() {
        let names: Vec<String> = (0..100_000).map(|depth| format!("f{}", depth % 7)).collect();
        let frames: Vec<&str> = names.iter().map(String::as_str).collect();
        let profile = fixtures::profile(&[("web", 1, &frames, 2)]);
        assert_eq!(profile.tree().nodes.len(), 100_000);
        assert_eq!(profile.function_tree().samples(), 2);
    }

    proptest! {
        #[test]
        fn totals_are_kept(profile in fixtures::any_profile()) {
            for tree in [profile.tree(), profile.function_tree()] {
                prop_assert_eq!(tree.samples(), profile.samples());
                prop_assert_eq!(tree.nodes.iter().map(|node| node.self_samples).sum::<u64>(), profile.samples());
                let mut called = vec![0; tree.nodes.len()];
                for (index, node) in tree.nodes.iter().enumerate() {
                    if let Some(parent) = node.parent {
                        prop_assert!((parent as usize) < index);
                        prop_assert_eq!(tree.nodes[parent as usize].process, node.process);
                        called[parent as usize] += node.total_samples;
                    }
                }
                for (node, called) in tree.nodes.iter().zip(called) {
                    prop_assert_eq!(node.total_samples, node.self_samples + called);
                }
            }
        }

        #[test]
        fn siblings_are_distinct(profile in fixtures::any_profile()) {
            let tree = profile.tree();
            let mut places: Vec<_> = tree.nodes.iter().map(|node| (node.parent, node.process, node.frame)).collect();
            places.sort_unstable();
            places.dedup();
            prop_assert_eq!(places.len(), tree.nodes.len());
        }
    }
}
