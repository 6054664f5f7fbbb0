//! What was taken in, tested block against block.

use std::cmp::Reverse;

use super::{
    CONFIDENCE, Change, Comparison, Direction, FunctionChange, MIN_BLOCKS, MIN_RELATIVE, MIN_SHARE, Measure, POWER,
    PartyChange, Scope, SideFacts, Test,
    blocks::Blocks,
    collect::{ABOVE_ROOTS, Comparer, Observed},
    nodes::{self, Costs},
    statistics::{Difference, Sample, rejected},
};

/// For so many of ten functions the smallest change that is told would have been found.
const NINE_OF_TEN: f64 = 0.9;
/// What is not tested has no row.
const NO_ROW: u32 = u32::MAX;

/// Both sides and what their values are parts of.
pub(super) struct Sides {
    measure: Measure,
    before: Blocks,
    after: Blocks,
}

impl Sides {
    fn new(comparer: &Comparer) -> Self {
        let measure = comparer.settings.measure;
        Self {
            measure,
            before: Blocks::of(&comparer.before.windows, measure),
            after: Blocks::of(&comparer.after.windows, measure),
        }
    }

    /// A quantity on both sides, untested.
    pub(super) fn change(&self, (before_ns, after_ns): (u64, u64)) -> Change {
        Change {
            before: self.before.mean(before_ns, self.measure),
            after: self.after.mean(after_ns, self.measure),
            ..Change::default()
        }
    }

    /// All CPU time in the unit of the measure.
    fn whole(&self) -> f64 {
        match self.measure {
            Measure::Cores => {
                let whole = self.change((self.before.cpu_ns(), self.after.cpu_ns()));
                whole.before.max(whole.after)
            }
            Measure::Share => 1.0,
        }
    }

    /// The smallest difference that matters.
    fn floor(&self) -> f64 {
        MIN_SHARE * self.whole()
    }

    /// Whether a quantity may change by enough to matter. This depends on what both sides have together, not on how they
    /// differ, so that it does not favour chance differences.
    fn matters(&self, quantity: (u64, u64)) -> bool {
        let change = self.change(quantity);
        quantity != (0, 0) && change.before + change.after >= self.floor()
    }

    /// Tests a row of CPU times, blocks before first.
    fn difference(&self, row: &[u64], measure: Measure) -> Option<Difference> {
        let (before, after) = row.split_at(self.before.all());
        let first = self.before.values(before, measure);
        let second = self.after.values(after, measure);
        if first.len() < MIN_BLOCKS || second.len() < MIN_BLOCKS {
            return None;
        }
        let sum = |row: &[u64]| row.iter().fold(0_u64, |sum, value| sum.saturating_add(*value));
        let first = Sample {
            mean: self.before.mean(sum(before), measure),
            values: &first,
            unit: self.before.unit(measure),
        };
        let second = Sample {
            mean: self.after.mean(sum(after), measure),
            values: &second,
            unit: self.after.unit(measure),
        };
        Some(Difference::between(&first, &second))
    }
}

/// CPU time by block of what is tested.
struct Rows {
    width: usize,
    row_of: Vec<u32>,
    values: Vec<u64>,
}

impl Rows {
    /// Rows for those of the quantities that matter.
    fn new(sides: &Sides, quantities: &[(u64, u64)]) -> Self {
        let width = sides.before.all() + sides.after.all();
        let mut rows = 0;
        let row_of = quantities.iter().map(|quantity| {
            if !sides.matters(*quantity) {
                return NO_ROW;
            }
            rows += 1;
            rows - 1
        });
        let row_of = row_of.collect();
        Self {
            width,
            row_of,
            values: vec![0; rows as usize * width],
        }
    }

    fn add(&mut self, index: usize, column: usize, cpu_ns: u64) {
        if self.row_of[index] != NO_ROW {
            let cell = &mut self.values[self.row_of[index] as usize * self.width + column];
            *cell = cell.saturating_add(cpu_ns);
        }
    }

    fn get(&self, index: usize) -> Option<&[u64]> {
        let row = self.row_of[index];
        (row != NO_ROW).then(|| &self.values[row as usize * self.width..][..self.width])
    }

    /// The tests of all rows, by index.
    fn differences(&self, sides: &Sides) -> Vec<Option<Difference>> {
        let test = |index| sides.difference(self.get(index)?, sides.measure);
        (0..self.row_of.len()).map(test).collect()
    }
}

/// Tests that are corrected together: the places of those that were rejected in the slice, and how many there were.
fn settle(sides: &Sides, changes: &mut [(&mut Change, Option<Difference>)], level: f64) {
    let p_values: Vec<f64> = changes
        .iter()
        .filter_map(|(_, test)| Some(test.as_ref()?.p_value))
        .collect();
    let mut rejected = rejected(&p_values, level).into_iter();
    for (change, difference) in changes {
        let Some(difference) = difference else { continue };
        let is_rejected = rejected.next() == Some(true);
        let size = difference.value.abs();
        let margin = difference.margin(CONFIDENCE);
        change.test = Some(Test {
            interval: (difference.value - margin, difference.value + margin),
            p_value: difference.p_value,
        });
        if is_rejected && size >= sides.floor() && size >= MIN_RELATIVE * change.before {
            let grew = difference.value > 0.0;
            change.direction = Some(if grew { Direction::Grew } else { Direction::Shrank });
        }
    }
}

/// Compares what was taken in.
pub(super) fn compare(comparer: Comparer) -> Comparison {
    let sides = Sides::new(&comparer);
    let costs = Costs::of(&comparer);
    let mut rows = AllRows {
        own: Rows::new(&sides, &costs.function_own),
        total: Rows::new(&sides, &costs.function_total),
        places: Rows::new(&sides, &costs.place_total),
        parties: Rows::new(&sides, &costs.parties),
    };
    rows.fill(&comparer, &sides);
    let whole = whole(&comparer);
    let (parties, party_ranks) = parties(&comparer, &sides, &costs, &rows.parties);
    let (functions, smallest) = functions(&comparer, &sides, &costs, &rows, &party_ranks);
    let mut place_changes: Vec<Change> = costs.place_total.iter().map(|cost| sides.change(*cost)).collect();
    let tests = rows.places.differences(&sides);
    drop(rows);
    let mut tested: Vec<_> = place_changes.iter_mut().zip(tests).collect();
    settle(&sides, &mut tested, comparer.settings.level);
    let (nodes, frames) = nodes::tree(&comparer, &sides, &costs, &place_changes, &party_ranks);
    Comparison {
        settings: comparer.settings,
        before: facts(comparer.before, &sides.before),
        after: facts(comparer.after, &sides.after),
        whole,
        smallest_share: smallest.map(|smallest| smallest / sides.whole()),
        parties,
        functions,
        frames,
        nodes,
        cut_samples: comparer.cut_samples,
    }
}

fn facts(observed: Observed, blocks: &Blocks) -> SideFacts {
    SideFacts {
        start: observed.start,
        end: observed.end,
        length: blocks.length(),
        blocks: blocks.count(),
        quality: observed.quality,
    }
}

struct AllRows {
    own: Rows,
    total: Rows,
    places: Rows,
    parties: Rows,
}

impl AllRows {
    fn fill(&mut self, comparer: &Comparer, sides: &Sides) {
        let after_offset = sides.before.all();
        for (observed, blocks, offset) in [
            (&comparer.before, &sides.before, 0),
            (&comparer.after, &sides.after, after_offset),
        ] {
            for entry in &observed.entries {
                let column = offset + blocks.of_window(entry.window);
                let leaf = &comparer.places[entry.place as usize];
                self.own.add(leaf.function as usize, column, entry.cpu_ns);
                let mut at = entry.place;
                while at != ABOVE_ROOTS {
                    let place = &comparer.places[at as usize];
                    self.places.add(at as usize, column, entry.cpu_ns);
                    if !place.repeats {
                        self.total.add(place.function as usize, column, entry.cpu_ns);
                    }
                    at = place.caller;
                }
            }
            for (number, window) in (0..).zip(&observed.windows) {
                for (party, cpu_ns) in &window.parties {
                    let column = offset + blocks.of_window(number);
                    self.parties.add(*party as usize, column, *cpu_ns);
                }
            }
        }
    }
}

/// Everything together. Of shares, it would always be all.
fn whole(comparer: &Comparer) -> Change {
    let before = Blocks::of(&comparer.before.windows, Measure::Cores);
    let after = Blocks::of(&comparer.after.windows, Measure::Cores);
    let sides = Sides {
        measure: Measure::Cores,
        before,
        after,
    };
    let mut change = sides.change((sides.before.cpu_ns(), sides.after.cpu_ns()));
    let row: Vec<u64> = [sides.before.cpu_by_block(), sides.after.cpu_by_block()].concat();
    let difference = sides.difference(&row, Measure::Cores);
    settle(&sides, &mut [(&mut change, difference)], comparer.settings.level);
    change
}

/// Parties in the order of their changes, and the place in that order of each.
fn parties(comparer: &Comparer, sides: &Sides, costs: &Costs, rows: &Rows) -> (Vec<PartyChange>, Vec<u32>) {
    let mut changes: Vec<Change> = costs.parties.iter().map(|cost| sides.change(*cost)).collect();
    let mut tested: Vec<_> = changes.iter_mut().zip(rows.differences(sides)).collect();
    settle(sides, &mut tested, comparer.settings.level);
    let mut order: Vec<u32> = (0..comparer.parties.len() as u32).collect();
    let key = |index: u32| {
        let change = &changes[index as usize];
        let is_significant = change.direction.is_some();
        let size = if is_significant {
            change.difference().abs()
        } else {
            change.before.max(change.after)
        };
        (Reverse(is_significant), -size)
    };
    order.sort_by(|left, right| {
        let (left_rank, left_size) = key(*left);
        let (right_rank, right_size) = key(*right);
        left_rank
            .cmp(&right_rank)
            .then(left_size.total_cmp(&right_size))
            .then_with(|| {
                comparer.parties[*left as usize]
                    .order()
                    .cmp(&comparer.parties[*right as usize].order())
            })
    });
    let mut ranks = vec![0; order.len()];
    for (rank, index) in order.iter().enumerate() {
        ranks[*index as usize] = rank as u32;
    }
    let change = |index: &u32| PartyChange {
        party: comparer.parties[*index as usize].clone(),
        change: changes[*index as usize],
    };
    let changes = order.iter().map(change);
    let used = changes.filter(|party| party.change.before > 0.0 || party.change.after > 0.0);
    (used.collect(), ranks)
}

/// Functions that matter in the order of their changes, and the smallest change that nine of ten would have shown.
fn functions(
    comparer: &Comparer,
    sides: &Sides,
    costs: &Costs,
    rows: &AllRows,
    party_ranks: &[u32],
) -> (Vec<FunctionChange>, Option<f64>) {
    let level = comparer.settings.level;
    let own = rows.own.differences(sides);
    let mut total = rows.total.differences(sides);
    for (index, test) in total.iter_mut().enumerate() {
        // What calls nothing is tested once: a second time would only make all tests stricter.
        if costs.function_total[index] == costs.function_own[index] {
            *test = None;
        }
    }
    let mut changes: Vec<(usize, FunctionChange)> = Vec::new();
    for (index, function) in comparer.functions.iter().enumerate() {
        if rows.own.get(index).is_none() && rows.total.get(index).is_none() {
            continue;
        }
        let party = match comparer.settings.scope {
            Scope::Target => None,
            Scope::Host => Some(party_ranks[function.owner as usize]),
        };
        let change = FunctionChange {
            party,
            frame: function.frame.clone(),
            own: sides.change(costs.function_own[index]),
            total: sides.change(costs.function_total[index]),
        };
        changes.push((index, change));
    }
    changes.sort_by(|(_, left), (_, right)| (left.party, &left.frame).cmp(&(right.party, &right.frame)));
    let mut smallest: Vec<f64> = Vec::new();
    // What one party did must not make its neighbour's chance differences pass.
    for family in changes.chunk_by_mut(|(_, left), (_, right)| left.party == right.party) {
        let tests: usize = family
            .iter()
            .map(|(index, _)| usize::from(own[*index].is_some()) + usize::from(total[*index].is_some()))
            .sum();
        let alone = level / tests.max(1) as f64;
        let own_tests = family.iter().filter_map(|(index, _)| own[*index]);
        smallest.extend(own_tests.map(|test| test.smallest(alone, POWER)));
        let mut tested: Vec<(&mut Change, Option<Difference>)> = Vec::with_capacity(2 * family.len());
        for (index, change) in family {
            tested.push((&mut change.own, own[*index]));
            tested.push((&mut change.total, total[*index]));
        }
        settle(sides, &mut tested, level);
    }
    let finished = |(index, mut change): (usize, FunctionChange)| {
        if costs.function_total[index] == costs.function_own[index] {
            change.total = change.own;
        }
        change
    };
    let mut changes: Vec<FunctionChange> = changes.into_iter().map(finished).collect();
    changes.sort_by(by_change);
    smallest.sort_by(f64::total_cmp);
    let at = (smallest.len() as f64 * NINE_OF_TEN) as usize;
    let smallest = smallest.get(at.min(smallest.len().saturating_sub(1)));
    (changes, smallest.map(|smallest| smallest.max(sides.floor())))
}

/// What changed in itself before what changed by what it calls, and that before the rest; the larger change first.
fn by_change(left: &FunctionChange, right: &FunctionChange) -> std::cmp::Ordering {
    let key = |function: &FunctionChange| {
        let FunctionChange { own, total, .. } = function;
        if own.direction.is_some() {
            (0, own.difference().abs())
        } else if total.direction.is_some() {
            (1, total.difference().abs())
        } else {
            (2, own.before.max(own.after))
        }
    };
    let ((left_rank, left_size), (right_rank, right_size)) = (key(left), key(right));
    left_rank
        .cmp(&right_rank)
        .then(right_size.total_cmp(&left_size))
        .then_with(|| (left.party, &left.frame).cmp(&(right.party, &right.frame)))
}
