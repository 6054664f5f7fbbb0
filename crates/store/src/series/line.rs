//! The values of one series, in runs of equal length of which the oldest is dropped.

use std::{collections::VecDeque, time::Duration};

/// Values of one run.
pub(super) const RUN: usize = 60;
/// What an allocator adds to a block.
const BLOCK_BYTES: usize = 16;
/// What the values of a run take.
const OFFSET_BYTES: usize = RUN * size_of::<f32>() + BLOCK_BYTES;

/// A value and when it was read.
pub(super) type Timed = (Duration, f64);

/// What became of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is kept.
    Kept,
    /// It is older than the last one, or cannot be kept as a number.
    Late,
}

/// A run of values, one for each interval. Times are told by its place, so a value takes four bytes.
#[derive(Clone, Debug)]
struct Run {
    /// Its place among all runs since the start. A counter that begins again begins another run at the same place.
    number: u64,
    /// Of a counter, the first value of the run, from which the others differ little; of a gauge, zero.
    base: f64,
    /// What is to be added to the base, rounded down, so that a counter that stands still never seems to go back; a missing
    /// value is not a number. Without them every value is the base: what does not change costs nothing.
    offsets: Option<Box<[f32; RUN]>>,
}

impl Run {
    fn new(number: u64, base: f64) -> Self {
        Self {
            number,
            base,
            offsets: Some(Box::new([f32::NAN; RUN])),
        }
    }

    fn get(&self, index: usize) -> Option<f64> {
        let offset = match &self.offsets {
            Some(offsets) => *offsets.get(index)?,
            None => 0.0,
        };
        (!offset.is_nan()).then(|| self.base + f64::from(offset))
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.offsets.as_ref().map_or(0, |_| OFFSET_BYTES)
    }

    /// Keeps the same in less memory, where nothing more is written.
    fn seal(&mut self) {
        if let Some(offsets) = &self.offsets
            && let [first, rest @ ..] = offsets.as_slice()
            && rest.iter().all(|offset| offset == first)
        {
            self.base += f64::from(*first);
            self.offsets = None;
        }
    }
}

/// The values of one series.
#[derive(Clone, Debug)]
pub(super) struct Line {
    is_counter: bool,
    interval_ms: u64,
    /// When in its interval the source is read.
    phase_ms: u64,
    runs: VecDeque<Run>,
    run_bytes: usize,
    /// The last value as it was written, and its slot.
    last: Option<(u64, f64)>,
}

impl Line {
    /// A series without values, which gets one every `interval`, the first of them at `first`.
    pub(super) fn new(is_counter: bool, interval: Duration, first: Duration) -> Self {
        let interval_ms = millis(interval).max(1);
        Self {
            is_counter,
            interval_ms,
            phase_ms: millis(first) % interval_ms,
            runs: VecDeque::new(),
            run_bytes: 0,
            last: None,
        }
    }

    /// Time between two values.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// Whether the values only go up.
    pub(super) fn is_counter(&self) -> bool {
        self.is_counter
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// An estimate of the memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + BLOCK_BYTES + self.run_bytes
    }

    /// The same after its first value.
    pub(super) fn bytes_with_one_value(&self) -> usize {
        self.bytes() + size_of::<Run>() + OFFSET_BYTES
    }

    /// Writes a value. The nearest slot takes it: a source is read a moment early or late.
    pub(super) fn write(&mut self, at: Duration, value: f64) -> Written {
        let since_phase = millis(at).saturating_sub(self.phase_ms);
        let slot = since_phase.saturating_add(self.interval_ms / 2) / self.interval_ms;
        if self.last.is_some_and(|(last, _)| slot < last) || !(self.is_counter || (value as f32).is_finite()) {
            return Written::Late;
        }
        let (number, index) = (slot / RUN as u64, (slot % RUN as u64) as usize);
        let begins_again = self.is_counter && self.last.is_some_and(|(_, last)| value < last);
        if begins_again || self.runs.back().is_none_or(|run| run.number != number) {
            if let Some(run) = self.runs.back_mut() {
                let before = run.bytes();
                run.seal();
                self.run_bytes -= before - run.bytes();
            }
            let run = Run::new(number, if self.is_counter { value } else { 0.0 });
            self.run_bytes += run.bytes();
            self.runs.push_back(run);
        }
        // Only runs that are no longer written have no offsets.
        if let Some(run) = self.runs.back_mut()
            && let Some(offsets) = &mut run.offsets
        {
            offsets[index] = if self.is_counter {
                rounded_down(value - run.base)
            } else {
                value as f32
            };
        }
        self.last = Some((slot, value));
        Written::Kept
    }

    /// Drops runs that ended before `oldest`.
    pub(super) fn expire(&mut self, oldest: Duration) {
        while self.runs.front().is_some_and(|run| self.end(run) <= oldest) {
            self.drop_oldest();
        }
    }

    /// Drops the oldest run.
    pub(super) fn drop_oldest(&mut self) {
        if let Some(run) = self.runs.pop_front() {
            self.run_bytes -= run.bytes();
        }
    }

    /// When the oldest run ended, if there is another one.
    pub(super) fn oldest_spare_end(&self) -> Option<Duration> {
        let oldest = self.runs.front().filter(|_| self.runs.len() > 1)?;
        Some(self.end(oldest))
    }

    /// The last value as it was written.
    pub(super) fn latest(&self) -> Option<(Duration, f64)> {
        let (slot, value) = self.last.filter(|_| !self.is_empty())?;
        Some((self.time(slot), value))
    }

    /// Increase of a counter a second between its last two values.
    pub(super) fn latest_rate(&self) -> Option<f64> {
        if !self.is_counter {
            return None;
        }
        let (slot, value) = self.last?;
        let before = self.slots_before(slot).next()?;
        let elapsed = self.time(slot).checked_sub(self.time(before.0))?;
        (!elapsed.is_zero()).then(|| increase(before.1, value) / elapsed.as_secs_f64())
    }

    /// Values from the first moment to the last, both included, with the value before them, in their order.
    pub(super) fn values(&self, from: Duration, to: Duration) -> (Option<Timed>, Vec<Timed>) {
        let from_slot = self.slot_at_or_after(from);
        let first = self.runs.partition_point(|run| self.end(run) <= from);
        let runs = self
            .runs
            .range(first..)
            .take_while(|run| self.time(run.number * RUN as u64) <= to);
        let values = runs.flat_map(slots).filter(|(slot, _)| *slot >= from_slot);
        let timed = values.map(|(slot, value)| (self.time(slot), value));
        let before = self.slots_before(from_slot).next();
        (
            before.map(|(slot, value)| (self.time(slot), value)),
            timed.take_while(|(time, _)| *time <= to).collect(),
        )
    }

    /// Values of slots before this one, the newest first.
    fn slots_before(&self, slot: u64) -> impl Iterator<Item = (u64, f64)> {
        let runs = self
            .runs
            .iter()
            .rev()
            .skip_while(move |run| run.number > slot / RUN as u64);
        runs.flat_map(|run| slots(run).rev())
            .filter(move |(other, _)| *other < slot)
    }

    fn time(&self, slot: u64) -> Duration {
        Duration::from_millis(slot.saturating_mul(self.interval_ms).saturating_add(self.phase_ms))
    }

    fn slot_at_or_after(&self, at: Duration) -> u64 {
        let since_phase = at.saturating_sub(Duration::from_millis(self.phase_ms));
        let slot = since_phase
            .as_nanos()
            .div_ceil(u128::from(self.interval_ms) * 1_000_000);
        u64::try_from(slot).unwrap_or(u64::MAX)
    }

    fn end(&self, run: &Run) -> Duration {
        self.time((run.number + 1) * RUN as u64)
    }
}

/// The values of a run with their slots.
fn slots(run: &Run) -> impl DoubleEndedIterator<Item = (u64, f64)> {
    let first = run.number * RUN as u64;
    (0..RUN).filter_map(move |index| Some((first + index as u64, run.get(index)?)))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The greatest value of seven digits that is not above this one.
fn rounded_down(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) > value {
        nearest.next_down()
    } else {
        nearest
    }
}

/// What a counter counted between two values. One that is less than before began again at zero.
pub(super) fn increase(before: f64, after: f64) -> f64 {
    if after >= before {
        after - before
    } else {
        after.max(0.0)
    }
}
