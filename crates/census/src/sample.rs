//! A few of many addresses, chosen by the addresses themselves: so that two samples of nearly the same objects are nearly
//! the same.

use std::collections::{BinaryHeap, HashSet};

/// Addresses kept of one type.
pub(crate) const SAMPLE: usize = 64;

/// The addresses with the lowest hashes among those offered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    lowest: BinaryHeap<(u64, u64)>,
}

impl Sample {
    /// Offers an address.
    pub(crate) fn offer(&mut self, address: u64) {
        let hash = mixed(address);
        if self.lowest.len() < SAMPLE {
            self.lowest.push((hash, address));
        } else if let Some(mut highest) = self.lowest.peek_mut()
            && hash < highest.0
        {
            *highest = (hash, address);
        }
    }

    /// The addresses, in the order of their hashes.
    pub(crate) fn into_addresses(self) -> Vec<u64> {
        let sorted = self.lowest.into_sorted_vec();
        sorted.into_iter().map(|(_, address)| address).collect()
    }
}

/// Addresses of a sample that were not among those of an earlier one, and are known not to have been: whatever has a higher
/// hash than all that the earlier one kept may have been there unseen.
pub(crate) fn new_addresses(before: &[u64], after: &[u64]) -> Vec<u64> {
    let bound = match before.last() {
        Some(last) if before.len() >= SAMPLE => mixed(*last),
        _ => u64::MAX,
    };
    let known: HashSet<u64> = before.iter().copied().collect();
    let is_new = |address: &u64| !known.contains(address) && mixed(*address) <= bound;
    after.iter().copied().filter(is_new).collect()
}

/// Spreads the bits of an address (the finalizer of SplitMix64).
fn mixed(address: u64) -> u64 {
    let mut hash = address.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(addresses: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut sample = Sample::default();
        addresses.for_each(|address| sample.offer(address));
        sample.into_addresses()
    }

    #[test]
    fn new_addresses_are_told_from_those_that_were_there() {
        let address = |index: u64| 0x7f00_0000_0000 + index * 64;
        let before = sample((0..10_000).map(address));
        let after = sample((0..40_000).map(address));
        assert_eq!((before.len(), after.len()), (SAMPLE, SAMPLE));
        let new = new_addresses(&before, &after);
        assert!(new.iter().all(|found| *found >= address(10_000)));
        // Three quarters of all are new, and of those that are sampled about as many.
        assert!((34..=60).contains(&new.len()), "{}", new.len());
        assert_eq!(new_addresses(&after, &after), [0; 0]);
        assert_eq!(new_addresses(&[], &after), after);
        // What is left of many shows nothing new.
        assert_eq!(new_addresses(&after, &before), [0; 0]);
    }
}
