//! Counts raw samples, and turns the counts of an interval into a [`StackWindow`].
//!
//! A sample is counted by its addresses as they are, together with the program that it was taken in and the time since
//! when that program's mappings had not changed. What the addresses mean is looked up once for each distinct stack, when
//! the window is taken: by then the records of what was mapped just before the sample have arrived as well. Bounded in
//! stacks and in bytes; what does not fit is counted as lost.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use profiler_common::{python::PythonStop, stop::StopReason};
use profiler_profile::Gil;

use super::{
    codes::PythonCodes,
    limits::WindowLimits,
    moment::Moment,
    python_frames::{self, PythonFrames, Shape},
    python_tally::PythonTally,
    window::{Location, RawStack, StackWindow, WindowProcess},
};
use crate::{
    kernel::records::{MARKED_GENERATION, RawSample, UserFrames},
    processes::{Image, ImageId, Processes, PythonWalk, Stamp, walker_tables::WalkerTables},
};

/// Reason of loss: the window had no room for another stack.
pub const LOST_WINDOW_FULL: &str = "window_full";
/// Reason of loss: the process of the sample is not known.
pub const LOST_UNKNOWN_PROCESS: &str = "unknown_process";

/// What an entry costs beside its key.
const ENTRY_BYTES: usize = 64;
/// Words of a key before its frames.
const KEY_HEADER: usize = 3;

#[derive(Clone, Copy, Debug)]
struct Count {
    samples: u64,
    /// When the first of them was taken: all of them saw the same mappings.
    time_ns: u64,
    /// Tells it from other stacks of the window.
    number: u32,
}

/// What becomes of a sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    /// Why its user stack ended, as far as it is sure.
    pub(super) stop: StopReason,
    /// The program it was taken in, and the number of its stack in the window; `None` if it was lost.
    pub(super) place: Option<(ImageId, u32)>,
}

/// Counts the samples of the current interval.
#[derive(Debug)]
pub struct Aggregator {
    period: Duration,
    limits: WindowLimits,
    begun: Moment,
    /// Keys are the image, the time of its mappings' last change, the thread's name and the [`Shape`] of the rest in one word,
    /// then the kernel's addresses, the Python frames by where they belong, and the user's addresses.
    stacks: HashMap<Box<[u64]>, Count>,
    bytes: usize,
    stops: HashMap<ImageId, BTreeMap<StopReason, u64>>,
    /// Samples whose kernel stack is not whole.
    incomplete_kernel_stacks: HashMap<ImageId, u64>,
    threads: HashMap<Box<[u8]>, u32>,
    thread_names: Vec<Arc<str>>,
    python: PythonFrames,
    python_tallies: HashMap<ImageId, PythonTally>,
    /// Since the start, by number.
    python_stops: [u64; PythonStop::ALL.len()],
    lost: BTreeMap<String, u64>,
    key: Vec<u64>,
}

impl Aggregator {
    /// An empty window from `begun` on. One sample stands for `period`. Python functions are found among `codes`.
    pub fn new(period: Duration, limits: WindowLimits, begun: Moment, codes: PythonCodes) -> Self {
        Self {
            period,
            limits,
            begun,
            stacks: HashMap::new(),
            bytes: 0,
            stops: HashMap::new(),
            incomplete_kernel_stacks: HashMap::new(),
            threads: HashMap::new(),
            thread_names: Vec::new(),
            python: PythonFrames::new(codes),
            python_tallies: HashMap::new(),
            python_stops: [0; PythonStop::ALL.len()],
            lost: BTreeMap::new(),
            key: Vec::new(),
        }
    }

    /// Counts a sample, and says why its user stack ended as far as it is sure.
    pub fn on_sample<T: WalkerTables>(&mut self, sample: &RawSample<'_>, processes: &mut Processes<T>) -> StopReason {
        let (frames, stop) = processes.verified(sample);
        let rooted = matches!(stop, StopReason::Root | StopReason::NoUserRegisters);
        let stamp = processes.count_sample(sample.pid, sample.time_ns, rooted);
        let counted = self.count(sample, (frames, stop), stamp, processes);
        if let Some((id, _)) = counted.place
            && let Some(image) = processes.image(id)
            && self.tally_python(id, image, sample)
        {
            image.counts.add_python();
        }
        stop
    }

    /// Counts a stack that was taken for another reason than that time had passed: it is none of the process's samples.
    pub(super) fn on_event<T: WalkerTables>(
        &mut self,
        sample: &RawSample<'_>,
        processes: &mut Processes<T>,
    ) -> Counted {
        let verified = processes.verified(sample);
        let stamp = processes.stamp(sample.pid, sample.time_ns);
        let counted = self.count(sample, verified, stamp, processes);
        if let Some((id, _)) = counted.place
            && let Some(image) = processes.image(id)
        {
            self.tally_python(id, image, sample);
        }
        counted
    }

    /// Counts a stack of which so many frames are sure.
    fn count<T: WalkerTables>(
        &mut self,
        sample: &RawSample<'_>,
        (frames, stop): (usize, StopReason),
        stamp: Option<Stamp>,
        processes: &mut Processes<T>,
    ) -> Counted {
        let lost = Counted { stop, place: None };
        let Some(stamp) = stamp else {
            self.add_lost(LOST_UNKNOWN_PROCESS, 1);
            return lost;
        };
        let user_frames = sample.user.first(frames);
        if sample.generation == MARKED_GENERATION {
            processes.note_outdated(sample.pid, sample.time_ns);
        }
        let thread = self.thread(sample.thread_name);
        self.python_stops[sample.python_stop as usize] += 1;
        self.key.clear();
        self.key.extend([stamp.image.0, stamp.changed_ns, 0]);
        self.key.extend_from_slice(sample.kernel_frames);
        let groups = match processes.image(stamp.image) {
            Some(image) if !sample.python.is_empty() => self.python_groups(image, sample, user_frames),
            _ => 0,
        };
        self.key.extend(user_frames.addresses());
        let shape = Shape {
            kernel_frames: sample.kernel_frames.len(),
            groups,
            gil: gil(sample.has_gil),
        };
        self.key[KEY_HEADER - 1] = u64::from(thread) << 32 | u64::from(shape.to_bits());
        let number = if let Some(count) = self.stacks.get_mut(self.key.as_slice()) {
            count.samples += 1;
            count.number
        } else {
            let bytes = self.key.len() * size_of::<u64>() + ENTRY_BYTES;
            if self.stacks.len() >= self.limits.max_stacks || self.bytes + bytes > self.limits.max_bytes {
                self.add_lost(LOST_WINDOW_FULL, 1);
                return lost;
            }
            self.bytes += bytes;
            let number = self.stacks.len() as u32;
            self.stacks.insert(
                self.key.as_slice().into(),
                Count {
                    samples: 1,
                    time_ns: sample.time_ns,
                    number,
                },
            );
            number
        };
        if sample.kernel_stack_incomplete {
            *self.incomplete_kernel_stacks.entry(stamp.image).or_default() += 1;
        }
        *self.stops.entry(stamp.image).or_default().entry(stop).or_default() += 1;
        Counted {
            stop,
            place: Some((stamp.image, number)),
        }
    }

    /// One sample stands for `period` from now on. The window must be empty.
    pub fn set_period(&mut self, period: Duration) {
        self.period = period;
    }

    /// Counts samples that were lost.
    pub fn add_lost(&mut self, reason: &str, count: u64) {
        if count == 0 {
            return;
        }
        match self.lost.get_mut(reason) {
            Some(lost) => *lost += count,
            None => {
                self.lost.insert(reason.to_owned(), count);
            }
        }
    }

    /// Ends the window at `now` and begins the next.
    pub fn take<T: WalkerTables>(&mut self, now: Moment, processes: &Processes<T>) -> StackWindow {
        self.take_with(now, processes, |_, _| {})
    }

    /// The same; `each` is told the number and the stack of each that is in the window.
    pub(super) fn take_with<T: WalkerTables>(
        &mut self,
        now: Moment,
        processes: &Processes<T>,
        mut each: impl FnMut(u32, &RawStack),
    ) -> StackWindow {
        let mut by_image: HashMap<ImageId, WindowProcess> = HashMap::new();
        for (key, count) in std::mem::take(&mut self.stacks) {
            let id = ImageId(key[0]);
            let Some(image) = processes.image(id) else {
                // It ended so long ago that it was forgotten.
                let lost = count.samples;
                self.stops.remove(&id);
                self.add_lost(LOST_UNKNOWN_PROCESS, lost);
                continue;
            };
            let process = by_image.entry(id).or_insert_with(|| WindowProcess {
                label: image.label(),
                start_ticks: image.start_ticks(),
                stacks: HashMap::new(),
                stops: self.stops.remove(&id).unwrap_or_default(),
                incomplete_kernel_stacks: self.incomplete_kernel_stacks.remove(&id).unwrap_or_default(),
                python: self.python_tallies.remove(&id).unwrap_or_default(),
            });
            let stack = resolve(&key, count.time_ns, image, &self.thread_names);
            each(count.number, &stack);
            *process.stacks.entry(stack).or_default() += count.samples;
        }
        let mut processes: Vec<WindowProcess> = by_image.into_values().collect();
        processes.sort_by_key(|process| (process.label.pid, process.label.start));
        let begun = std::mem::replace(&mut self.begun, now);
        self.bytes = 0;
        self.stops.clear();
        self.incomplete_kernel_stacks.clear();
        self.python_tallies.clear();
        self.threads.clear();
        self.thread_names.clear();
        let lost = std::mem::take(&mut self.lost);
        StackWindow {
            period: self.period,
            start: now.start_of_interval(&begun),
            end: now.time,
            processes,
            codes: self.python.take(),
            lost,
        }
    }

    /// Samples counted so far in the current window.
    pub fn samples(&self) -> u64 {
        self.stacks.values().map(|count| count.samples).sum()
    }

    /// Python stacks since the start by why their walk ended; those of processes that run no Python are not counted.
    pub fn python_stops(&self) -> impl Iterator<Item = (PythonStop, u64)> {
        let counted = PythonStop::ALL.into_iter().zip(self.python_stops);
        counted.filter(|(stop, count)| *stop != PythonStop::NotPython && *count > 0)
    }

    /// Counts what became of the Python stack of a sample. Returns whether it has Python frames.
    fn tally_python(&mut self, id: ImageId, image: &Image, sample: &RawSample<'_>) -> bool {
        let walk = image.python_walk();
        walk != PythonWalk::NoPython && self.python_tallies.entry(id).or_default().add(walk, sample)
    }

    /// Adds the Python frames of a sample to the key, and returns how many groups they are.
    fn python_groups(&mut self, image: &Image, sample: &RawSample<'_>, user: UserFrames<'_>) -> usize {
        let Some(interpreter) = image.interpreter() else {
            return 0;
        };
        self.python
            .write(sample.pid, interpreter, user, sample.python, &mut self.key)
    }

    fn thread(&mut self, name: &[u8]) -> u32 {
        if let Some(&index) = self.threads.get(name) {
            return index;
        }
        let is_full = self.thread_names.len() >= self.limits.max_thread_names;
        let name = if is_full { &b"[other threads]"[..] } else { name };
        if let (true, Some(&index)) = (is_full, self.threads.get(name)) {
            return index;
        }
        let index = self.thread_names.len() as u32;
        self.thread_names.push(String::from_utf8_lossy(name).into());
        self.threads.insert(name.into(), index);
        index
    }
}

fn gil(has_gil: Option<bool>) -> Gil {
    match has_gil {
        None => Gil::Unknown,
        Some(true) => Gil::Held,
        Some(false) => Gil::Released,
    }
}

/// The stack of a key, its addresses looked up in the image as it was at a time.
fn resolve(key: &[u64], time_ns: u64, image: &Image, thread_names: &[Arc<str>]) -> RawStack {
    let thread = key[KEY_HEADER - 1] >> 32;
    let shape = Shape::from_bits(key[KEY_HEADER - 1] as u32);
    let (kernel, rest) = key[KEY_HEADER..].split_at(shape.kernel_frames);
    let (groups, addresses) = python_frames::read(shape.groups, rest);
    // Where the thread was, and where a signal struck, the address is that of an instruction that was about to run. All
    // others are return addresses; the call before may belong to another function or line.
    let mut is_interrupted = true;
    let mut groups = groups.into_iter().peekable();
    let mut user: Vec<Location> = Vec::with_capacity(rest.len());
    for (index, &address) in addresses.iter().enumerate() {
        while let Some((_, frames)) = groups.next_if(|(before, _)| *before <= index) {
            user.extend(frames);
        }
        let instruction = if is_interrupted {
            address
        } else {
            address.wrapping_sub(1)
        };
        let resolved = image.resolve(instruction, time_ns);
        is_interrupted = resolved.is_signal_frame;
        user.push(resolved.location);
    }
    user.extend(groups.flat_map(|(_, frames)| frames));
    let thread = thread_names
        .get(thread as usize)
        .cloned()
        .unwrap_or_else(|| Arc::from(""));
    RawStack {
        thread,
        gil: shape.gil,
        kernel: kernel.into(),
        user: user.into(),
    }
}

#[cfg(test)]
mod tests;
