//! Where each bar of the picture lies, in samples and rows. Bounded: what is too small to see, or too much, is left out.

use crate::Tree;

/// What a bar stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// All processes, by their number.
    Everything(usize),
    /// A process, by its index.
    Process(u32),
    /// A function, by the index of the frame that stands for it.
    Function(u32),
}

/// A bar: so many samples wide, so many samples from the left edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bar {
    pub(super) subject: Subject,
    pub(super) start: u64,
    pub(super) width: u64,
    /// Row from the top.
    pub(super) row: u32,
    pub(super) self_samples: u64,
}

/// What a picture may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bars of less than one in so many samples are left out.
    pub(super) smallest_share: u64,
    pub(super) bars: usize,
    pub(super) rows: u32,
}

/// All bars of a picture.
#[derive(Debug)]
pub(super) struct Layout {
    /// Callers before what they call, from left to right.
    pub(super) bars: Vec<Bar>,
    pub(super) rows: u32,
    pub(super) samples: u64,
    /// Bars that were left out.
    pub(super) hidden: usize,
}

/// Lays out a tree of functions below its process, or below all of so many processes.
pub(super) fn lay_out(process_count: usize, tree: &Tree, bounds: Bounds) -> Layout {
    let samples = tree.samples();
    let mut bars = place(process_count, tree, samples);
    let all = bars.len();
    bars.retain(|bar| {
        let visible = u128::from(bar.width) * u128::from(bounds.smallest_share) >= u128::from(samples);
        bar.width > 0 && bar.row < bounds.rows && visible
    });
    if bars.len() > bounds.bars {
        // A caller is at least as wide as what it calls, and above it: what stays hangs together.
        bars.sort_by_key(|bar| (std::cmp::Reverse(bar.width), bar.row, bar.start));
        bars.truncate(bounds.bars);
        bars.sort_by_key(|bar| (bar.start, bar.row));
    }
    let rows = bars.iter().map(|bar| bar.row + 1).max().unwrap_or(0);
    Layout {
        hidden: all - bars.len(),
        bars,
        rows,
        samples,
    }
}

fn place(process_count: usize, tree: &Tree, samples: u64) -> Vec<Bar> {
    let mut processes: Vec<(u32, u64)> = Vec::new();
    for node in tree.nodes.iter().filter(|node| node.parent.is_none()) {
        match processes.last_mut() {
            Some((process, total)) if *process == node.process => *total = total.saturating_add(node.total_samples),
            _ => processes.push((node.process, node.total_samples)),
        }
    }
    let mut bars = Vec::with_capacity(tree.nodes.len() + processes.len() + 1);
    let several = processes.len() > 1;
    if several {
        let subject = Subject::Everything(processes.len());
        bars.push(Bar {
            subject,
            start: 0,
            width: samples,
            row: 0,
            self_samples: 0,
        });
    }
    let process_row = u32::from(several);
    let mut process_bars = vec![0; process_count];
    let mut start = 0_u64;
    for (process, width) in processes {
        process_bars[process as usize] = bars.len();
        bars.push(Bar {
            subject: Subject::Process(process),
            start,
            width,
            row: process_row,
            self_samples: 0,
        });
        start = start.saturating_add(width);
    }
    let first_node = bars.len();
    // Where the next thing that each bar calls begins.
    let mut free: Vec<u64> = bars.iter().map(|bar| bar.start).collect();
    for node in &tree.nodes {
        let caller = match node.parent {
            Some(parent) => first_node + parent as usize,
            None => process_bars[node.process as usize],
        };
        let (start, row) = (free[caller], bars[caller].row + 1);
        free[caller] = start.saturating_add(node.total_samples);
        free.push(start);
        let subject = Subject::Function(node.frame);
        bars.push(Bar {
            subject,
            start,
            width: node.total_samples,
            row,
            self_samples: node.self_samples,
        });
    }
    bars
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures;

    const UNBOUNDED: Bounds = Bounds {
        smallest_share: u64::MAX,
        bars: usize::MAX,
        rows: u32::MAX,
    };

    fn assert_hangs_together(layout: &Layout) {
        for bar in layout.bars.iter().filter(|bar| bar.row > 0) {
            let under = |caller: &&Bar| {
                caller.row + 1 == bar.row
                    && caller.start <= bar.start
                    && bar.start + bar.width <= caller.start + caller.width
            };
            assert_eq!(layout.bars.iter().filter(under).count(), 1, "{bar:?}");
        }
    }

    #[test]
    fn one_process_is_the_first_row() {
        let profile = fixtures::profile(&[("web", 1, &["main", "a"], 3), ("web", 1, &["main", "b"], 2)]);
        let layout = lay_out(profile.processes.len(), &profile.function_tree(), UNBOUNDED);
        let shape: Vec<_> = layout.bars.iter().map(|bar| (bar.row, bar.start, bar.width)).collect();
        assert_eq!(shape, [(0, 0, 5), (1, 0, 5), (2, 0, 3), (2, 3, 2)]);
        assert_eq!((layout.rows, layout.samples, layout.hidden), (3, 5, 0));
    }

    #[test]
    fn equal_bars_beyond_the_bound_are_cut_from_below() {
        let names: Vec<String> = (0..50).map(|number| format!("f{number:02}")).collect();
        let stacks: Vec<[&str; 2]> = names.iter().map(|name| ["main", name.as_str()]).collect();
        let stacks: Vec<(&str, u32, &[&str], u64)> = stacks.iter().map(|stack| ("web", 1, &stack[..], 1)).collect();
        let profile = fixtures::profile(&stacks);
        let layout = lay_out(
            profile.processes.len(),
            &profile.function_tree(),
            Bounds { bars: 10, ..UNBOUNDED },
        );
        assert_eq!((layout.bars.len(), layout.hidden), (10, 42));
        assert_hangs_together(&layout);
    }

    proptest! {
        #[test]
        fn bars_lie_within_their_callers(
            profile in fixtures::any_profile(),
            smallest_share in prop_oneof![Just(1_u64), 2..50_u64, Just(u64::MAX)],
            bars in 1..60_usize,
            rows in 1..8_u32,
        ) {
            prop_assume!(profile.samples() > 0);
            let tree = profile.function_tree();
            let layout = lay_out(profile.processes.len(), &tree, Bounds { smallest_share, bars, rows });
            prop_assert!(layout.bars.len() <= bars && layout.rows <= rows);
            prop_assert_eq!(layout.bars[0].width, profile.samples());
            assert_hangs_together(&layout);
            let whole = lay_out(profile.processes.len(), &tree, UNBOUNDED);
            assert_hangs_together(&whole);
            prop_assert_eq!(whole.bars.iter().map(|bar| bar.self_samples).sum::<u64>(), profile.samples());
        }
    }
}
