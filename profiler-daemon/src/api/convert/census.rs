//! Censuses as messages.

use profiler_census::{Change, Holder, Holders, TypeCount};
use profiler_proto::v1;

use super::duration;
use crate::census::Taken;

/// A census, and what differs from the one before. At most so many types and changes are listed.
pub(in crate::api) fn census(taken: &Taken, most: usize) -> v1::CensusResponse {
    let census = &taken.census;
    let (listed, rest) = census.types.split_at(census.types.len().min(most));
    let sum = |number: fn(&TypeCount) -> u64| rest.iter().map(number).fold(0, u64::saturating_add);
    let difference = taken.difference.as_ref().map(|(difference, time)| {
        // What shrank most is as telling as what grew most.
        let changes = &difference.changes;
        let shrunk = (most / 4).min(changes.len());
        let (first, last) = match changes.len() > most {
            true => (&changes[..most - shrunk], &changes[changes.len() - shrunk..]),
            false => (&changes[..], &changes[..0]),
        };
        let [other_blocks_before, other_blocks_after] = difference.other_blocks;
        let [other_bytes_before, other_bytes_after] = difference.other_bytes;
        v1::CensusDifference {
            earlier_time: Some((*time).into()),
            changes: first.iter().chain(last).map(change).collect(),
            unlisted_changes: (changes.len() - first.len() - last.len()) as u32,
            other_blocks_before,
            other_blocks_after,
            other_bytes_before,
            other_bytes_after,
            holders: taken.holders.iter().map(holders).collect(),
        }
    });
    let message = v1::Census {
        pid: taken.pid.0,
        time: Some(taken.time.into()),
        python_version: taken.python.clone(),
        types: listed.iter().map(type_count).collect(),
        unlisted_types: rest.len() as u32,
        unlisted_objects: sum(|count| count.objects),
        unlisted_bytes: sum(|count| count.bytes),
        further_objects: census.further_objects,
        further_bytes: census.further_bytes,
        other_blocks: census.other_blocks,
        other_bytes: census.other_bytes,
        pools: census.pools,
        torn_pools: census.torn_pools,
        partial: taken.partial.clone(),
        memory_bytes_read: taken.cost.memory_bytes,
        pagemap_bytes_read: taken.cost.pagemap_bytes,
        duration: Some(duration(taken.cost.duration)),
        busy: Some(duration(taken.cost.busy)),
    };
    v1::CensusResponse {
        census: Some(message),
        difference,
    }
}

fn type_count(count: &TypeCount) -> v1::TypeCount {
    v1::TypeCount {
        name: count.name.to_string(),
        objects: count.objects,
        bytes: count.bytes,
    }
}

fn change(change: &Change) -> v1::TypeChange {
    let [objects_before, objects_after] = change.objects;
    let [bytes_before, bytes_after] = change.bytes;
    v1::TypeChange {
        name: change.name.to_string(),
        objects_before,
        objects_after,
        bytes_before,
        bytes_after,
    }
}

fn holders(holders: &Holders) -> v1::TypeHolders {
    v1::TypeHolders {
        name: holders.name.to_string(),
        searched: holders.searched,
        without_holder: holders.without,
        chains: holders.holders.iter().map(chain).collect(),
    }
}

fn chain(holder: &Holder) -> v1::HolderChain {
    v1::HolderChain {
        steps: holder.steps.iter().map(ToString::to_string).collect(),
        objects: holder.objects,
        rooted: holder.is_rooted,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use profiler_census::{Census, Difference, Step};

    use super::*;
    use crate::{census::Cost, kernel::records::Pid};

    fn census_of(counts: &[(&str, u64)]) -> Census {
        Census {
            types: counts
                .iter()
                .map(|(name, objects)| TypeCount::new(*name, *objects, objects * 64))
                .collect(),
            other_blocks: 9,
            other_bytes: 90,
            pools: 3,
            ..Census::default()
        }
    }

    #[test]
    fn a_census_is_told_with_what_is_left_out() {
        let before = census_of(&[("str", 50), ("gone", 40), ("less", 30)]);
        let after = census_of(&[("dict", 70), ("str", 60), ("list", 20), ("less", 10), ("set", 5)]);
        let taken = Taken {
            pid: Pid(7),
            start_ticks: 1,
            program: 1,
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(60),
            python: "3.12.1".to_owned(),
            difference: Some((Difference::between(&before, &after), SystemTime::UNIX_EPOCH)),
            census: Arc::new(after),
            holders: vec![Holders {
                name: "dict".into(),
                searched: 64,
                holders: vec![Holder {
                    steps: vec![
                        Step::Global {
                            module: "app".to_owned(),
                            name: "LEAK".to_owned(),
                        },
                        Step::Container {
                            kind: "list".to_owned(),
                            items: 60_000,
                        },
                    ],
                    objects: 63,
                    is_rooted: true,
                }],
                without: 1,
            }],
            partial: Vec::new(),
            cost: Cost::default(),
        };
        let answer = census(&taken, 4);
        let counted = answer.census.unwrap();
        assert_eq!(counted.types.len(), 4);
        assert_eq!(
            (counted.unlisted_types, counted.unlisted_objects, counted.unlisted_bytes),
            (1, 5, 320)
        );
        let difference = answer.difference.unwrap();
        let names: Vec<&str> = difference.changes.iter().map(|change| &*change.name).collect();
        assert_eq!(names, ["dict", "list", "str", "gone"]);
        assert_eq!(difference.unlisted_changes, 2);
        let chain = &difference.holders[0].chains[0];
        assert_eq!(chain.steps, ["module app, global LEAK", "list of 60000 items"]);
        assert_eq!(census(&taken, usize::MAX).difference.unwrap().changes.len(), 6);
        assert_eq!(census(&taken, 0).census.unwrap().unlisted_types, 5);
    }
}
