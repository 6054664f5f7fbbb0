//! What differs between two censuses.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use crate::counts::{Census, TypeCount};

/// What became of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: Arc<str>,
    /// Objects before and after.
    pub objects: [u64; 2],
    /// Their bytes before and after.
    pub bytes: [u64; 2],
}

impl Change {
    /// Objects more.
    pub fn more_objects(&self) -> i64 {
        signed(self.objects)
    }

    /// Bytes more.
    pub fn more_bytes(&self) -> i64 {
        signed(self.bytes)
    }
}

/// Two censuses of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Types of which the number or the bytes changed: by growth of bytes, the most first.
    pub changes: Vec<Change>,
    /// The same of what holds no object.
    pub other_blocks: [u64; 2],
    /// Bytes of those.
    pub other_bytes: [u64; 2],
}

impl Difference {
    /// From one census to the next.
    pub fn between(before: &Census, after: &Census) -> Self {
        let mut all: BTreeMap<&Arc<str>, [Option<&TypeCount>; 2]> = BTreeMap::new();
        for (side, census) in [before, after].into_iter().enumerate() {
            for count in &census.types {
                all.entry(&count.name).or_default()[side] = Some(count);
            }
        }
        let change = |(name, sides): (&Arc<str>, [Option<&TypeCount>; 2])| Change {
            name: Arc::clone(name),
            objects: sides.map(|count| count.map_or(0, |count| count.objects)),
            bytes: sides.map(|count| count.map_or(0, |count| count.bytes)),
        };
        let mut changes: Vec<Change> = all
            .into_iter()
            .map(change)
            .filter(|change| change.objects[0] != change.objects[1] || change.bytes[0] != change.bytes[1])
            .collect();
        changes.sort_by_key(|change| Reverse((change.more_bytes(), change.more_objects())));
        Self {
            changes,
            other_blocks: [before.other_blocks, after.other_blocks],
            other_bytes: [before.other_bytes, after.other_bytes],
        }
    }

    /// Types that grew, the most first.
    pub fn grown(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().take_while(|change| change.more_bytes() > 0)
    }
}

fn signed([before, after]: [u64; 2]) -> i64 {
    let magnitude = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    magnitude(after).saturating_sub(magnitude(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(counts: &[(&str, u64, u64)]) -> Census {
        Census {
            types: counts
                .iter()
                .map(|(name, objects, bytes)| TypeCount::new(*name, *objects, *bytes))
                .collect(),
            ..Census::default()
        }
    }

    #[test]
    fn growth_comes_first_and_what_stays_is_left_out() {
        let before = census(&[("dict", 10, 640), ("str", 5, 320), ("int", 7, 224), ("gone", 2, 64)]);
        let after = census(&[("dict", 30, 1920), ("str", 5, 320), ("int", 6, 192), ("new", 1, 6400)]);
        let difference = Difference::between(&before, &after);
        let found: Vec<_> = difference
            .changes
            .iter()
            .map(|change| (&*change.name, change.more_objects(), change.more_bytes()))
            .collect();
        assert_eq!(
            found,
            [
                ("new", 1, 6400),
                ("dict", 20, 1280),
                ("int", -1, -32),
                ("gone", -2, -64)
            ]
        );
        assert_eq!(difference.grown().count(), 2);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let before = census(&[("a", 0, 0), ("b", u64::MAX, u64::MAX)]);
        let after = census(&[("a", u64::MAX, u64::MAX), ("b", 0, 0)]);
        let difference = Difference::between(&before, &after);
        assert_eq!(difference.changes[0].more_bytes(), i64::MAX);
        assert_eq!(difference.changes[1].more_bytes(), -i64::MAX);
    }
}
