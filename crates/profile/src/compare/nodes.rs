//! The merged tree of both sides, in an order that depends on names only.

use std::cmp::Reverse;

use indexmap::IndexSet;

use super::{
    Change, DifferenceNode, Scope,
    collect::{ABOVE_ROOTS, Comparer, Observed},
    evaluate::Sides,
};
use crate::Frame;

/// CPU time before and after, in nanoseconds.
pub(super) type Cost = (u64, u64);

/// CPU time of everything on both sides.
pub(super) struct Costs {
    pub(super) place_own: Vec<Cost>,
    pub(super) place_total: Vec<Cost>,
    pub(super) function_own: Vec<Cost>,
    pub(super) function_total: Vec<Cost>,
    pub(super) parties: Vec<Cost>,
}

impl Costs {
    pub(super) fn of(comparer: &Comparer) -> Self {
        let places = &comparer.places;
        let mut place_own = vec![Cost::default(); places.len()];
        let mut parties = vec![Cost::default(); comparer.parties.len()];
        let mut take = |observed: &Observed, add: fn(&mut Cost, u64)| {
            for entry in &observed.entries {
                add(&mut place_own[entry.place as usize], entry.cpu_ns);
            }
            for (party, cpu_ns) in observed.windows.iter().flat_map(|window| &window.parties) {
                add(&mut parties[*party as usize], *cpu_ns);
            }
        };
        take(&comparer.before, |cost, cpu_ns| cost.0 = cost.0.saturating_add(cpu_ns));
        take(&comparer.after, |cost, cpu_ns| cost.1 = cost.1.saturating_add(cpu_ns));
        let mut place_total = place_own.clone();
        // Callers come first, so that what they call is summed up by then.
        for (index, place) in places.iter().enumerate().rev() {
            if place.caller != ABOVE_ROOTS {
                let called = place_total[index];
                add(&mut place_total[place.caller as usize], called);
            }
        }
        let mut function_own = vec![Cost::default(); comparer.functions.len()];
        let mut function_total = function_own.clone();
        for (index, place) in places.iter().enumerate() {
            add(&mut function_own[place.function as usize], place_own[index]);
            if !place.repeats {
                add(&mut function_total[place.function as usize], place_total[index]);
            }
        }
        Self {
            place_own,
            place_total,
            function_own,
            function_total,
            parties,
        }
    }
}

fn add(cost: &mut Cost, other: Cost) {
    *cost = (cost.0.saturating_add(other.0), cost.1.saturating_add(other.1));
}

/// The tree as it is told, and its frames. `totals` are by place, `party_ranks` by party.
pub(super) fn tree(
    comparer: &Comparer,
    sides: &Sides,
    costs: &Costs,
    totals: &[Change],
    party_ranks: &[u32],
) -> (Vec<DifferenceNode>, IndexSet<Frame>) {
    let places = &comparer.places;
    let mut sorted: Vec<u32> = (0..comparer.frames.len() as u32).collect();
    let name = |index: u32| {
        let frame = &comparer.frames[index as usize];
        (&frame.function, frame.kind, &frame.module, &frame.file)
    };
    sorted.sort_by(|left, right| name(*left).cmp(&name(*right)));
    let mut frame_ranks = vec![0_u32; sorted.len()];
    for (rank, index) in (0..).zip(&sorted) {
        frame_ranks[*index as usize] = rank;
    }
    let party = |owner: u32| match comparer.settings.scope {
        Scope::Target => None,
        Scope::Host => Some(party_ranks[owner as usize]),
    };
    // Siblings lie together, the last of them first, as a stack of what is to be visited wants them.
    let mut order: Vec<u32> = (0..places.len() as u32).collect();
    order.sort_by_key(|index| {
        let place = &places[*index as usize];
        let rank = frame_ranks[place.frame as usize];
        (place.caller, Reverse((party(place.owner), rank)))
    });
    let called_by = |caller: u32| {
        let start = order.partition_point(|index| places[*index as usize].caller < caller);
        let end = order.partition_point(|index| places[*index as usize].caller <= caller);
        &order[start..end]
    };
    let mut nodes: Vec<DifferenceNode> = Vec::with_capacity(places.len());
    let mut waiting: Vec<(u32, Option<u32>)> = called_by(ABOVE_ROOTS).iter().map(|place| (*place, None)).collect();
    while let Some((index, parent)) = waiting.pop() {
        let place = &places[index as usize];
        let own = sides.change(costs.place_own[index as usize]);
        let number = nodes.len() as u32;
        nodes.push(DifferenceNode {
            parent,
            frame: frame_ranks[place.frame as usize],
            party: party(place.owner),
            own: (own.before, own.after),
            total: totals[index as usize],
        });
        waiting.extend(called_by(index).iter().map(|called| (*called, Some(number))));
    }
    let frames = sorted
        .iter()
        .map(|index| comparer.frames[*index as usize].clone())
        .collect();
    (nodes, frames)
}
