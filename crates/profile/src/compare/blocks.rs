//! Windows of one side joined into blocks: long enough that neighbours hardly depend on each other, many enough for a test.

use std::time::Duration;

use super::{Measure, collect::Window};

/// Shorter blocks depend on each other.
const MIN_LENGTH: Duration = Duration::from_secs(2);
/// More blocks tell no more.
const MAX_COUNT: u32 = 32;

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Of its windows that count.
    length: Duration,
    samples: u64,
    cpu_ns: u64,
}

/// The blocks of one side.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    blocks: Vec<Block>,
    of_window: Vec<u32>,
    /// Of all windows.
    length: Duration,
    /// Blocks that can be compared: a share of nothing cannot.
    count: usize,
}

impl Blocks {
    pub(super) fn of(windows: &[Window], measure: Measure) -> Self {
        // Of idle time there are no shares: it makes no block long enough.
        let counted = |window: &Window| match measure {
            Measure::Share if window.cpu_ns == 0 => Duration::ZERO,
            Measure::Cores | Measure::Share => window.length,
        };
        let sum = Duration::saturating_add;
        let all = windows.iter().map(counted).fold(Duration::ZERO, sum);
        let shortest = MIN_LENGTH.max(all / MAX_COUNT);
        let mut blocks: Vec<Block> = Vec::new();
        let mut of_window = Vec::with_capacity(windows.len());
        let mut left = all;
        for window in windows {
            // What is left must not become a block that is too short.
            let is_complete = blocks.last().is_none_or(|block| block.length >= shortest);
            if is_complete && (left >= shortest || blocks.is_empty()) {
                blocks.push(Block::default());
            }
            left = left.saturating_sub(counted(window));
            of_window.push(blocks.len() as u32 - 1);
            if let Some(block) = blocks.last_mut() {
                block.length = block.length.saturating_add(counted(window));
                block.samples = block.samples.saturating_add(window.samples);
                block.cpu_ns = block.cpu_ns.saturating_add(window.cpu_ns);
            }
        }
        let count = blocks.iter().filter(|block| block.is_comparable(measure)).count();
        Self {
            blocks,
            of_window,
            length: windows.iter().map(|window| window.length).fold(Duration::ZERO, sum),
            count,
        }
    }

    /// Blocks, those that cannot be compared too.
    pub(super) fn all(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that can be compared.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn of_window(&self, window: u32) -> usize {
        self.of_window[window as usize] as usize
    }

    /// Time that the windows cover, idle or not.
    pub(super) fn length(&self) -> Duration {
        self.length
    }

    pub(super) fn cpu_ns(&self) -> u64 {
        self.blocks
            .iter()
            .fold(0, |sum, block| sum.saturating_add(block.cpu_ns))
    }

    pub(super) fn cpu_by_block(&self) -> Vec<u64> {
        self.blocks.iter().map(|block| block.cpu_ns).collect()
    }

    /// CPU time over all blocks as the measure has it.
    pub(super) fn mean(&self, cpu_ns: u64, measure: Measure) -> f64 {
        let whole = match measure {
            Measure::Cores => self.length().as_nanos() as f64,
            Measure::Share => self.cpu_ns() as f64,
        };
        if whole > 0.0 { cpu_ns as f64 / whole } else { 0.0 }
    }

    /// CPU time by block as the measure has it, of those that can be compared.
    pub(super) fn values(&self, cpu_ns: &[u64], measure: Measure) -> Vec<f64> {
        let comparable = self
            .blocks
            .iter()
            .zip(cpu_ns)
            .filter(|(block, _)| block.is_comparable(measure));
        comparable
            .map(|(block, cpu_ns)| *cpu_ns as f64 / block.whole_ns(measure))
            .collect()
    }

    /// What one sample adds to the value of a block, on average.
    pub(super) fn unit(&self, measure: Measure) -> f64 {
        let samples = self
            .blocks
            .iter()
            .fold(0_u64, |sum, block| sum.saturating_add(block.samples));
        if samples == 0 {
            return 0.0;
        }
        let per_sample = self.mean(self.cpu_ns(), measure) / samples as f64;
        per_sample * self.count as f64
    }
}

impl Block {
    fn is_comparable(&self, measure: Measure) -> bool {
        self.whole_ns(measure) > 0.0
    }

    /// What values are parts of.
    fn whole_ns(&self, measure: Measure) -> f64 {
        match measure {
            Measure::Cores => self.length.as_nanos() as f64,
            Measure::Share => self.cpu_ns as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(windows: &[u64]) -> Vec<u64> {
        let windows: Vec<Window> = windows
            .iter()
            .map(|milliseconds| Window {
                length: Duration::from_millis(*milliseconds),
                samples: 1,
                cpu_ns: 10_000_000,
                parties: std::collections::HashMap::new(),
            })
            .collect();
        let blocks = Blocks::of(&windows, Measure::Cores);
        assert_eq!(blocks.of_window.len(), windows.len());
        blocks
            .blocks
            .iter()
            .map(|block| block.length.as_millis() as u64)
            .collect()
    }

    #[test]
    fn windows_are_joined_until_they_are_long_enough() {
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[300]), [300]);
        assert_eq!(lengths(&[5_000; 6]), [5_000; 6]);
        assert_eq!(lengths(&[1_000; 7]), [2_000, 2_000, 3_000]);
        assert_eq!(lengths(&[5_000, 200, 5_000, 1_500]), [5_000, 6_700]);
        assert_eq!(lengths(&[5_000, 5_000, 200]), [5_000, 5_200]);
        // Five minutes are thirty blocks of ten seconds.
        assert_eq!(lengths(&[5_000; 60]), [10_000; 30]);
    }

    #[test]
    fn values_are_of_the_measure() {
        let window = |samples: u64| Window {
            length: Duration::from_secs(2),
            samples,
            cpu_ns: samples * 10_000_000,
            parties: std::collections::HashMap::new(),
        };
        let windows = [window(100), window(0), window(300)];
        let cores = Blocks::of(&windows, Measure::Cores);
        assert_eq!(cores.count(), 3);
        let row = [500_000_000, 0, 1_500_000_000];
        assert_eq!(cores.values(&row, Measure::Cores), [0.25, 0.0, 0.75]);
        assert!((cores.mean(2_000_000_000, Measure::Cores) - 1.0 / 3.0).abs() < 1e-12);
        // A sample of 10 ms in two seconds.
        assert!((cores.unit(Measure::Cores) - 0.005).abs() < 1e-12);
        let share = Blocks::of(&windows, Measure::Share);
        assert_eq!((share.count(), share.length()), (2, Duration::from_secs(6)));
        assert_eq!([0, 1, 2].map(|window| share.of_window(window)), [0, 1, 1]);
        assert_eq!(share.values(&[500_000_000, 1_500_000_000], Measure::Share), [0.5, 0.5]);
        assert!((share.unit(Measure::Share) - 1.0 / 200.0).abs() < 1e-12);
    }
}
