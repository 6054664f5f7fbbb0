//! Simulated services whose truth is known.

use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::{FrameKind, Profile, ProfileBuilder, fixtures};

const PERIOD: Duration = Duration::from_nanos(6_666_667);
const SAMPLES_PER_SECOND: usize = 150;
const BLOCK: Duration = Duration::from_secs(2);

/// Numbers that look random and are the same in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Neighbouring seeds begin alike.
        for _ in 0..8 {
            random.unit();
        }
        random
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Of the standard normal distribution, closely enough.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// A service of one busy thread with some fifty functions, whose samples follow each other: a function that was seen is
/// likely to be seen again, and phases of some seconds prefer one half of the functions.
struct Service {
    random: Random,
    name: &'static str,
    running: usize,
    phase: f64,
    /// How likely a function is seen again in the next sample.
    persistence: f64,
    /// Part of the samples that go to [`Service::INJECTED`] instead.
    injected: f64,
}

impl Service {
    const FUNCTIONS: usize = 50;
    const INJECTED: usize = 20;

    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            name: "web",
            running: 0,
            phase: 0.0,
            // A test that takes samples for independent then accuses in six of ten comparisons, as it does of real ones.
            persistence: 0.33,
            injected: 0.0,
        }
    }

    /// The function that runs at the next sample. `sums` are running sums of weights.
    fn next(&mut self, sums: &[f64]) -> usize {
        if self.random.unit() < self.injected {
            return Self::INJECTED;
        }
        if self.random.unit() >= self.persistence {
            let at = self.random.unit() * sums[sums.len() - 1];
            self.running = sums.partition_point(|sum| *sum <= at).min(sums.len() - 1);
        }
        self.running
    }

    /// The weights 1, 1/2, 1/3 … as programs have them, tilted by the phase, summed up.
    fn sums(&self) -> Vec<f64> {
        let mut sum = 0.0;
        let weight = |function: usize| {
            let tilt = if function.is_multiple_of(2) {
                self.phase
            } else {
                -self.phase
            };
            sum += (1.0 + tilt) / (function + 1) as f64;
            sum
        };
        (0..Self::FUNCTIONS).map(weight).collect()
    }

    /// The next block.
    fn block(&mut self, number: u32) -> Profile {
        self.phase = (0.3 * self.phase + 0.05 * self.random.normal()).clamp(-0.5, 0.5);
        let process = ProcessLabel {
            service: self.name.into(),
            ..fixtures::process(self.name, 7)
        };
        let start = UNIX_EPOCH + BLOCK * number;
        let sums = self.sums();
        let mut counts = [0; Self::FUNCTIONS];
        for _ in 0..SAMPLES_PER_SECOND * BLOCK.as_secs() as usize {
            counts[self.next(&sums)] += 1;
        }
        let mut builder = ProfileBuilder::new(PERIOD, start, start + BLOCK);
        for (function, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let stack = [
                "main".to_owned(),
                format!("handle_{}", function % 7),
                format!("work_{function}"),
            ];
            builder.add(
                &process,
                &"t".into(),
                stack.iter().map(|text| fixtures::frame(text)),
                count,
            );
        }
        builder.build()
    }

    fn blocks(&mut self, count: u32) -> Vec<Profile> {
        (0..count).map(|number| self.block(number)).collect()
    }
}

fn settings(measure: Measure, scope: Scope) -> Settings {
    Settings {
        measure,
        scope,
        level: 0.05,
    }
}

fn compare_with(settings: Settings, before: &[Profile], after: &[Profile]) -> Comparison {
    let mut comparer = Comparer::new(settings);
    for window in before {
        comparer.add(Side::Before, window);
    }
    for window in after {
        comparer.add(Side::After, window);
    }
    comparer.finish()
}

fn compare(before: &[Profile], after: &[Profile]) -> Comparison {
    compare_with(settings(Measure::Cores, Scope::Target), before, after)
}

fn flagged(comparison: &Comparison) -> Vec<(String, Direction)> {
    let changed = comparison.functions.iter().filter(|function| function.is_significant());
    changed
        .map(|function| {
            let direction = function.own.direction.or(function.total.direction).unwrap();
            (function.frame.function.to_string(), direction)
        })
        .collect()
}

/// How often a test that takes each sample for a draw of its own calls something significant.
fn naive_flags(before: &[Profile], after: &[Profile]) -> bool {
    let count = |windows: &[Profile]| {
        let mut counts = std::collections::HashMap::<String, f64>::new();
        for window in windows {
            for row in window.top(usize::MAX) {
                *counts.entry(row.function.to_string()).or_default() += row.self_samples as f64;
            }
        }
        counts
    };
    let (before, after) = (count(before), count(after));
    let (first, second): (f64, f64) = (before.values().sum(), after.values().sum());
    before.iter().any(|(function, count)| {
        let other = after.get(function).copied().unwrap_or_default();
        let common = (count + other) / (first + second);
        let error = (common * (1.0 - common) * (1.0 / first + 1.0 / second)).sqrt();
        // Bonferroni's correction of 5 % for 50 functions.
        (count / first - other / second).abs() / error > 3.29
    })
}

#[test]
fn what_did_not_change_is_not_accused() {
    const SPLITS: u64 = 200;
    let (mut of_cores, mut of_shares, mut naive) = (0, 0, 0);
    for seed in 0..SPLITS {
        let blocks = Service::new(seed).blocks(16);
        let (before, after) = blocks.split_at(8);
        let accuses = |measure| {
            let comparison = compare_with(settings(measure, Scope::Target), before, after);
            u64::from(!flagged(&comparison).is_empty())
        };
        of_cores += accuses(Measure::Cores);
        of_shares += accuses(Measure::Share);
        naive += u64::from(naive_flags(before, after));
    }
    assert!(
        of_cores * 20 <= SPLITS && of_shares * 20 <= SPLITS,
        "{of_cores} and {of_shares} of {SPLITS} splits"
    );
    // The samples depend on each other as those of real programs do, or this would mean nothing.
    assert!(
        naive * 2 >= SPLITS,
        "even the naive test accuses in {naive} splits only"
    );
}

#[test]
fn three_percent_are_seen_in_sixteen_seconds() {
    const RUNS: u64 = 40;
    for measure in [Measure::Cores, Measure::Share] {
        let (mut found, mut others) = (0, 0);
        for seed in 0..RUNS {
            let mut service = Service::new(1_000 + seed);
            let before = service.blocks(8);
            service.injected = 0.03;
            let after = service.blocks(8);
            let comparison = compare_with(settings(measure, Scope::Target), &before, &after);
            let flagged = flagged(&comparison);
            let name = format!("work_{}", Service::INJECTED);
            let is_injected =
                |(function, direction): &(String, Direction)| *function == name && *direction == Direction::Grew;
            found += usize::from(flagged.iter().any(is_injected));
            // Its caller grew too.
            let caller = format!("handle_{}", Service::INJECTED % 7);
            let is_other = |(function, _): &&(String, Direction)| *function != name && *function != caller;
            others += usize::from(flagged.iter().any(|function| is_other(&function)));
        }
        assert!(found >= 30, "{measure:?}: found in {found} of {RUNS}");
        assert!(others <= 4, "{measure:?}: others accused in {others} of {RUNS}");
    }
}

/// What is promised to be seen is seen in most cases.
#[test]
fn the_smallest_change_is_true() {
    let mut promised = Vec::new();
    for seed in 0..20 {
        let blocks = Service::new(5_000 + seed).blocks(16);
        promised.push(compare(&blocks[..8], &blocks[8..]).smallest_share.unwrap());
    }
    promised.sort_by(f64::total_cmp);
    let promised = promised[promised.len() / 2];
    assert!((0.01..0.10).contains(&promised), "{promised}");
    let mut found = 0;
    for seed in 0..40 {
        let mut service = Service::new(6_000 + seed);
        let before = service.blocks(8);
        service.injected = promised;
        let comparison = compare(&before, &service.blocks(8));
        let name = format!("work_{}", Service::INJECTED);
        found += u64::from(flagged(&comparison).contains(&(name, Direction::Grew)));
    }
    assert!(found >= 30, "{:.1} % were found in {found} of 40", promised * 100.0);
}

#[test]
fn slow_phases_are_not_changes() {
    let mut false_alarms = 0;
    for seed in 0..60 {
        let mut service = Service::new(9_000 + seed);
        service.persistence = 0.8;
        let blocks = service.blocks(60);
        false_alarms += u64::from(!flagged(&compare(&blocks[..30], &blocks[30..])).is_empty());
    }
    assert!(false_alarms <= 3, "{false_alarms} of 60 splits");
}

#[test]
fn a_function_that_appears_is_named_with_its_callers() {
    let before = fixtures::blocks(&[(&["main", "old"], 100)], 6);
    let after = fixtures::blocks(&[(&["main", "old"], 100), (&["main", "fresh", "deep:3"], 50)], 6);
    let comparison = compare(&before, &after);
    let grew: Vec<_> = comparison.changed(Direction::Grew).collect();
    let names: Vec<&str> = grew.iter().map(|function| &*function.frame.function).collect();
    assert_eq!(names, ["deep", "fresh", "main"]);
    let deep = grew[0];
    assert_eq!((deep.own.before, deep.total.before), (0.0, 0.0));
    assert_eq!(deep.own.after, 0.25);
    let interval = deep.own.test.unwrap().interval;
    assert!(
        interval.0 > 0.1 && interval.0 < 0.25 && interval.1 > 0.25,
        "{interval:?}"
    );
    // What calls it did not change itself, and what was there before did not at all.
    assert_eq!((grew[1].own.direction, grew[2].own.direction), (None, None));
    assert_eq!(comparison.changed(Direction::Shrank).count(), 0);
    assert_eq!(comparison.whole.direction, Some(Direction::Grew));
    assert_eq!(comparison.parties[0].change.direction, Some(Direction::Grew));
    assert!(comparison.to_string().starts_with("3 functions grew; "), "{comparison}");
    // The other way round it is gone.
    let reverse = compare(&after, &before);
    assert_eq!(reverse.changed(Direction::Shrank).count(), 3);
    let gone = reverse
        .nodes
        .iter()
        .find(|node| &*reverse.frames[node.frame as usize].function == "deep")
        .unwrap();
    assert_eq!((gone.total.after, gone.total.direction), (0.0, Some(Direction::Shrank)));
}

#[test]
fn blocks_without_variance_are_no_certainty() {
    let before = fixtures::blocks(&[(&["main", "a"], 100), (&["main", "b"], 7)], 4);
    let same = compare(&before, &before);
    assert!(flagged(&same).is_empty());
    assert!(same.to_string().starts_with("no change found; "), "{same}");
    let one_more = fixtures::blocks(&[(&["main", "a"], 100), (&["main", "b"], 9)], 4);
    assert!(flagged(&compare(&before, &one_more)).is_empty());
    let few = fixtures::blocks(&[(&["main", "a"], 1)], 4);
    let unseen = compare(&few, &few).to_string();
    assert_eq!(
        unseen,
        "no change found; too little was sampled to see less than a doubling"
    );
    let many_more = fixtures::blocks(&[(&["main", "a"], 100), (&["main", "b"], 60)], 4);
    assert!(flagged(&compare(&before, &many_more)).contains(&("b".to_owned(), Direction::Grew)));
}

#[test]
fn too_few_blocks_say_so() {
    let stacks: &[(&[&str], u64)] = &[(&["main", "a"], 100)];
    let more: &[(&[&str], u64)] = &[(&["main", "a"], 200)];
    let comparison = compare(&fixtures::blocks(stacks, 1), &fixtures::blocks(more, 1));
    assert_eq!(
        comparison.to_string(),
        "not enough to compare: 1 block before and 1 block after, and each side needs 3"
    );
    assert!(flagged(&comparison).is_empty() && comparison.smallest_share.is_none());
    // What there is can still be shown.
    let own = comparison.functions[0].own;
    assert_eq!((own.before, own.after, own.test), (0.5, 1.0, None));
    assert_eq!(compare(&[], &[]).nodes, []);
    let one_side = compare(&[], &fixtures::blocks(more, 6));
    assert!(!one_side.is_enough() && one_side.whole.after == 1.0);
}

#[test]
fn a_change_too_small_to_matter_is_none() {
    let before = fixtures::blocks(&[(&["main", "a"], 20_000)], 30);
    let after = fixtures::blocks(&[(&["main", "a"], 21_000), (&["main", "b"], 90)], 30);
    // 5 % more of one, and 0.4 % of all in another: both sure, neither of weight.
    let comparison = compare(&before, &after);
    assert!(flagged(&comparison).is_empty(), "{:?}", flagged(&comparison));
    let a = &comparison.functions[0];
    assert!(a.own.test.unwrap().p_value < 1e-6);
}

#[test]
fn more_load_is_no_change_of_shares() {
    let stacks: &[(&[&str], u64)] = &[(&["main", "a"], 60), (&["main", "b"], 30)];
    let loaded: &[(&[&str], u64)] = &[(&["main", "a"], 120), (&["main", "b"], 60)];
    let (before, after) = (fixtures::blocks(stacks, 8), fixtures::blocks(loaded, 8));
    assert_eq!(flagged(&compare(&before, &after)).len(), 3);
    let shares = compare_with(settings(Measure::Share, Scope::Target), &before, &after);
    assert!(flagged(&shares).is_empty());
    assert_eq!(shares.whole.direction, Some(Direction::Grew));
    // Blocks in which nothing ran have no shares.
    let mut with_idle = after.clone();
    with_idle.extend(fixtures::blocks(&[], 4));
    let shares = compare_with(settings(Measure::Share, Scope::Target), &before, &with_idle);
    assert_eq!(shares.after.blocks, 8);
    assert!(flagged(&shares).is_empty());
}

#[test]
fn idle_time_counts_in_cores() {
    let burning: &[(&[&str], u64)] = &[(&["main", "burn"], 400)];
    let idle = |count| fixtures::blocks(&[], count);
    // Ten minutes in which nothing ran, then one in which it burns.
    let comparison = compare(&idle(300), &fixtures::blocks(burning, 30));
    assert_eq!((comparison.whole.before, comparison.whole.after), (0.0, 2.0));
    assert_eq!(flagged(&comparison)[0], ("burn".to_owned(), Direction::Grew));
    assert_eq!(comparison.before.length, BLOCK * 300);
    let reverse = compare(&fixtures::blocks(burning, 30), &idle(300));
    assert_eq!(flagged(&reverse)[0], ("burn".to_owned(), Direction::Shrank));
    // A burst in each six seconds is a third of what one that goes on is.
    let bursts = |count: u32| -> Vec<Profile> {
        let of_three = || [fixtures::blocks(burning, 1), idle(2)].concat();
        (0..count).flat_map(|_| of_three()).collect()
    };
    let comparison = compare(&bursts(10), &fixtures::blocks(burning, 30));
    let own = comparison.functions[0].own;
    assert!((own.before - 2.0 / 3.0).abs() < 1e-9 && own.after == 2.0, "{own:?}");
    assert_eq!(own.direction, Some(Direction::Grew));
}

#[test]
fn idle_time_takes_no_blocks_from_shares() {
    // A minute of work in an hour: of blocks of that hour, one would hold all of it.
    type Stacks<'a> = &'a [(&'a [&'a str], u64)];
    let (old, new): (Stacks<'_>, Stacks<'_>) = (&[(&["old"], 300)], &[(&["new"], 300)]);
    let hour = |stacks| {
        [
            fixtures::blocks(&[], 900),
            fixtures::blocks(stacks, 30),
            fixtures::blocks(&[], 870),
        ]
        .concat()
    };
    let of_shares = settings(Measure::Share, Scope::Target);
    let comparison = compare_with(of_shares, &hour(old), &hour(new));
    assert_eq!((comparison.before.blocks, comparison.after.blocks), (30, 30));
    assert_eq!(comparison.before.length, Duration::from_secs(3_600));
    assert_eq!(comparison.changed(Direction::Grew).count(), 1, "{comparison}");
    assert_eq!(compare_with(of_shares, &[], &fixtures::blocks(&[], 5)).after.blocks, 0);
}

#[test]
fn recursion_and_inlining_count_once() {
    let before = fixtures::blocks(
        &[(&["main", "walk:1", "walk:2", "i:push"], 40), (&["main", "push"], 10)],
        4,
    );
    let comparison = compare(&before, &before);
    let find = |name: &str| {
        let mut found = comparison
            .functions
            .iter()
            .filter(|function| &*function.frame.function == name);
        (found.next().unwrap(), found.count())
    };
    let (walk, others) = find("walk");
    assert_eq!((walk.own.before, walk.total.before, others), (0.0, 0.2, 0));
    let (push, others) = find("push");
    assert_eq!((push.own.before, push.frame.kind, others), (0.25, FrameKind::Native, 0));
    // The tree keeps both ways to get there.
    let places = comparison
        .nodes
        .iter()
        .map(|node| &*comparison.frames[node.frame as usize].function);
    assert_eq!(places.collect::<Vec<_>>(), ["main", "push", "walk", "walk", "push"]);
}

#[test]
fn each_service_of_a_host_is_judged_by_itself() {
    let mut quiet = Service::new(77);
    let mut guilty = Service::new(78);
    guilty.name = "batch";
    let both = |quiet: &mut Service, guilty: &mut Service, count: u32| -> Vec<Profile> {
        let pairs = quiet.blocks(count).into_iter().zip(guilty.blocks(count));
        pairs
            .map(|(mut block, other)| {
                block.merge(&other).unwrap();
                block
            })
            .collect()
    };
    let before = both(&mut quiet, &mut guilty, 20);
    guilty.injected = 0.4;
    let after = both(&mut quiet, &mut guilty, 8);
    let comparison = compare_with(settings(Measure::Cores, Scope::Host), &before, &after);
    let grew: Vec<&FunctionChange> = comparison.changed(Direction::Grew).collect();
    let party = |function: &FunctionChange| comparison.parties[function.party.unwrap() as usize].party.clone();
    assert_eq!(&*grew[0].frame.function, format!("work_{}", Service::INJECTED));
    assert!(
        grew.iter()
            .all(|function| party(function) == Party::Service("batch".into()))
    );
    assert_eq!(comparison.parties.len(), 2);
    for node in &comparison.nodes {
        let parent = node.parent.map(|parent| &comparison.nodes[parent as usize]);
        assert!(parent.is_none_or(|parent| parent.party == node.party));
    }
}

#[test]
fn the_tree_holds_everything_and_can_be_pruned() {
    let mut service = Service::new(3);
    let (before, after) = (service.blocks(4), service.blocks(4));
    let mut comparison = compare(&before, &after);
    let again = compare(&before, &after);
    assert!(comparison == again, "the same samples give the same comparison");
    let own: f64 = comparison.nodes.iter().map(|node| node.own.1).sum();
    assert!((own - comparison.whole.after).abs() < 1e-9);
    for (index, node) in comparison.nodes.iter().enumerate() {
        assert!(node.parent.is_none_or(|parent| (parent as usize) < index));
    }
    let all = comparison.nodes.len();
    comparison.prune(0.02);
    assert!(
        comparison.nodes.len() < all * 2 / 3 && comparison.nodes.len() > 5,
        "{all}"
    );
    for (index, node) in comparison.nodes.iter().enumerate() {
        assert!(node.parent.is_none_or(|parent| (parent as usize) < index));
        assert!(node.total.before.max(node.total.after) >= 0.02 * comparison.whole_in_measure());
    }
    assert_eq!(&*comparison.frames[comparison.nodes[0].frame as usize].function, "main");
}

#[test]
fn rates_of_different_periods_are_the_same_time() {
    let stacks: &[(&[&str], u64)] = &[(&["main", "a"], 100)];
    let before = fixtures::blocks(stacks, 6);
    let mut after = fixtures::blocks(&[(&["main", "a"], 25)], 6);
    for window in &mut after {
        window.period *= 4;
    }
    let comparison = compare(&before, &after);
    assert_eq!((comparison.whole.before, comparison.whole.after), (0.5, 0.5));
    assert!(flagged(&comparison).is_empty());
}
