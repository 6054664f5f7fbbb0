//! Generics, closures, traits and what the standard library inlines.

use std::{collections::HashMap, hint::black_box};

trait Weigh {
    fn weigh(&self) -> u64;
}

impl<T: AsRef<[u8]>> Weigh for T {
    #[inline(always)]
    fn weigh(&self) -> u64 {
        self.as_ref().iter().map(|byte| u64::from(*byte)).fold(7, |sum, byte| sum.rotate_left(3) ^ byte)
    }
}

struct Ring<const N: usize> {
    slots: [u64; N],
}

impl<const N: usize> Ring<N> {
    #[inline(never)]
    fn turn(&mut self, by: u64) -> u64 {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            *slot = slot.wrapping_mul(31).wrapping_add(by + index as u64);
        }
        self.slots.iter().copied().max().unwrap_or_default()
    }
}

#[inline(never)]
fn sorted(words: &[String]) -> Vec<u64> {
    let mut weights: Vec<u64> = words.iter().map(|word| word.weigh()).collect();
    weights.sort_by(|a, b| b.cmp(a));
    weights
}

mod nested {
    #[inline(never)]
    pub fn descend(depth: u32) -> u64 {
        if depth == 0 { 1 } else { descend(depth - 1) + super::black_box(u64::from(depth)) }
    }
}

fn main() {
    let words: Vec<String> = (0..200).map(|n| format!("word {n} of {}", n * n)).collect();
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for weight in sorted(&words) {
        *counts.entry(weight % 17).or_default() += 1;
    }
    let mut ring = Ring::<12> { slots: [1; 12] };
    println!("{:?} {} {}", counts.get(&3), ring.turn(5), nested::descend(black_box(9)));
}
