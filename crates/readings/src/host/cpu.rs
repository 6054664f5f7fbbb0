//! What the CPUs spend their time on, from `/proc/stat`.

use std::{collections::BTreeMap, path::Path};

use super::Part;
use crate::{
    Metric, Reading, Subject,
    file::{KernelFile, ReadError},
    source::Moment,
    text::{lines, next_number, number, words},
};

/// Most CPUs that are read: the most that x86 kernels are built for.
const MAX_CORES: usize = 8192;
/// Ticks by which the kernel corrects its own counters downwards: idle time and waits of a CPU that sleeps are estimates,
/// and a guest's time is subtracted from its host's. A larger fall means that counting began again.
const CORRECTION_TICKS: u64 = 100;

/// Ticks by what they were spent on. A guest's are no part of the user's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ticks {
    pub(crate) user: u64,
    pub(crate) nice: u64,
    pub(crate) system: u64,
    pub(crate) idle: u64,
    pub(crate) waiting: u64,
    pub(crate) interrupts: u64,
    pub(crate) stolen: u64,
    pub(crate) guest: u64,
}

impl Ticks {
    /// The numbers after the name of a line `cpu`: user, nice, system, idle, iowait, irq, softirq, steal, guest and
    /// guest_nice, the last two of them contained in the first two.
    fn parse<'text>(mut words: impl Iterator<Item = &'text [u8]>) -> Option<Self> {
        let mut next = || next_number(&mut words);
        let (user, nice, system, idle, waiting) = (next()?, next()?, next()?, next()?, next()?);
        let interrupts = next()?.checked_add(next()?)?;
        let stolen = next()?;
        let (guest, guest_nice) = (next().unwrap_or(0), next().unwrap_or(0));
        Some(Self {
            user: user.saturating_sub(guest),
            nice: nice.saturating_sub(guest_nice),
            system,
            idle,
            waiting,
            interrupts,
            stolen,
            guest: guest.checked_add(guest_nice)?,
        })
    }

    fn fields(&self) -> [u64; 8] {
        [
            self.user,
            self.nice,
            self.system,
            self.idle,
            self.waiting,
            self.interrupts,
            self.stolen,
            self.guest,
        ]
    }

    /// The share of each kind in what passed since `before`, or none if nothing did or counting began again.
    pub(crate) fn shares_since(&self, before: &Self) -> Option<Shares> {
        let (mut passed, mut total) = ([0_f64; 8], 0_f64);
        for ((passed, now), before) in passed.iter_mut().zip(self.fields()).zip(before.fields()) {
            if before.saturating_sub(now) > CORRECTION_TICKS {
                return None;
            }
            *passed = now.saturating_sub(before) as f64;
            total += *passed;
        }
        if total == 0.0 {
            return None;
        }
        let [_, _, _, idle, waiting, ..] = passed;
        let busy = (total - idle - waiting) / total;
        let [user, nice, system, _, waiting, interrupts, stolen, guest] = passed.map(|passed| passed / total);
        Some(Shares {
            busy: busy.clamp(0.0, 1.0),
            user,
            nice,
            system,
            waiting,
            interrupts,
            stolen,
            guest,
        })
    }
}

/// What the time of an interval was spent on, each 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shares {
    pub(crate) busy: f64,
    user: f64,
    nice: f64,
    system: f64,
    waiting: f64,
    interrupts: f64,
    pub(crate) stolen: f64,
    pub(crate) guest: f64,
}

/// What `/proc/stat` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuCounters {
    pub(crate) all: Ticks,
    /// CPUs that are online, by their number.
    pub(crate) cores: BTreeMap<u32, Ticks>,
    pub(crate) left_out: u64,
    context_switches: Option<u64>,
    forks: Option<u64>,
    running: Option<u64>,
    blocked: Option<u64>,
}

/// The text of `/proc/stat`.
pub(crate) fn parse_cpu(text: &[u8]) -> Option<CpuCounters> {
    let mut counters = CpuCounters::default();
    let mut all = None;
    for line in lines(text) {
        // The numbers of interrupts are most of the file, and nothing here needs them.
        if line.starts_with(b"intr") || line.starts_with(b"softirq") {
            continue;
        }
        let mut words = words(line);
        match words.next().unwrap_or_default() {
            b"cpu" => all = Some(Ticks::parse(words)?),
            b"ctxt" => counters.context_switches = next_number(&mut words),
            b"processes" => counters.forks = next_number(&mut words),
            b"procs_running" => counters.running = next_number(&mut words),
            b"procs_blocked" => counters.blocked = next_number(&mut words),
            name => {
                let Some(digits) = name.strip_prefix(b"cpu") else {
                    continue;
                };
                let core = u32::try_from(number(digits)?).ok()?;
                if counters.cores.len() < MAX_CORES {
                    counters.cores.insert(core, Ticks::parse(words)?);
                } else {
                    counters.left_out += 1;
                }
            }
        }
    }
    counters.all = all?;
    Some(counters)
}

/// Reads `/proc/stat`.
#[derive(Debug)]
pub(super) struct Cpu {
    file: KernelFile,
    buffer: Vec<u8>,
    before: Option<CpuCounters>,
}

impl Cpu {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            file: KernelFile::new(root.join("proc/stat")),
            buffer: Vec::new(),
            before: None,
        }
    }
}

impl Part for Cpu {
    fn read(&mut self, now: Moment, out: &mut Vec<Reading>) -> Result<u64, ReadError> {
        // What is not read now leaves a hole, not an average over the hole.
        let before = self.before.take();
        let counters = self.file.parse(&mut self.buffer, parse_cpu)?;
        if let Some(before) = before {
            push_shares(&before, &counters, now, out);
        }
        let values = [
            (Metric::HostContextSwitches, counters.context_switches),
            (Metric::HostForks, counters.forks),
            (Metric::HostTasksRunning, counters.running),
            (Metric::HostTasksBlocked, counters.blocked),
        ];
        let known = values.into_iter().filter_map(|(metric, value)| Some((metric, value?)));
        out.extend(known.map(|(metric, value)| now.of_host(metric, value as f64)));
        let left_out = counters.left_out;
        self.before = Some(counters);
        Ok(left_out)
    }
}

fn push_shares(before: &CpuCounters, counters: &CpuCounters, now: Moment, out: &mut Vec<Reading>) {
    if let Some(shares) = counters.all.shares_since(&before.all) {
        let values = [
            (Metric::HostCpuBusy, shares.busy),
            (Metric::HostCpuUser, shares.user),
            (Metric::HostCpuNice, shares.nice),
            (Metric::HostCpuSystem, shares.system),
            (Metric::HostCpuInterrupts, shares.interrupts),
            (Metric::HostCpuWaiting, shares.waiting),
            (Metric::HostCpuStolen, shares.stolen),
            (Metric::HostCpuGuest, shares.guest),
        ];
        out.extend(values.map(|(metric, value)| now.of_host(metric, value)));
    }
    for (&core, ticks) in &counters.cores {
        let shares = before.cores.get(&core).and_then(|before| ticks.shares_since(before));
        let Some(shares) = shares else { continue };
        let subject = Subject::Core(core);
        out.push(now.reading(Metric::CoreCpuBusy, subject.clone(), shares.busy));
        out.push(now.reading(Metric::CoreCpuInterrupts, subject, shares.interrupts));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    fn ticks(text: &str) -> Ticks {
        Ticks::parse(words(text.as_bytes())).unwrap()
    }

    #[test]
    fn guests_are_counted_once() {
        let ticks = ticks("100 50 10 20 5 1 2 7 30 20");
        assert_eq!((ticks.user, ticks.nice, ticks.guest), (70, 30, 50));
        assert_eq!(ticks.interrupts, 3);
        let shares = ticks.shares_since(&Ticks::default()).unwrap();
        let total = 100.0 + 50.0 + 10.0 + 20.0 + 5.0 + 3.0 + 7.0;
        assert!((shares.busy - (total - 25.0) / total).abs() < 1e-12);
        assert!((shares.guest - 50.0 / total).abs() < 1e-12);
    }

    #[test]
    fn time_that_was_stolen_is_busy_and_waits_are_not() {
        let shares = ticks("0 0 0 50 25 0 0 25").shares_since(&Ticks::default()).unwrap();
        assert_eq!((shares.busy, shares.waiting, shares.stolen), (0.25, 0.25, 0.25));
    }

    #[test]
    fn counters_that_fall_are_a_correction_or_a_new_start() {
        let before = ticks("1000 0 0 1000 50 0 0 0");
        let corrected = ticks("1010 0 0 1090 48 0 0 0").shares_since(&before).unwrap();
        assert_eq!((corrected.busy, corrected.waiting), (0.1, 0.0));
        assert_eq!(ticks("10 0 0 1000 50 0 0 0").shares_since(&before), None);
        assert_eq!(before.shares_since(&before), None, "nothing passed");
    }

    #[test]
    fn what_the_kernel_does_not_write_is_refused() {
        for text in [
            "",
            "cpu0 1 2 3 4 5 6 7 8 9 10\n",
            "cpu  1 2 3 4 5 6 7\n",
            "cpu  1 2 3 4 5 6 7 -8\n",
            "cpu  1 2 3 4 5 6 7 18446744073709551616\n",
            "cpu  1 2 3 4 5 6 7 8\ncpux 1 2 3 4 5 6 7 8\n",
        ] {
            assert_eq!(parse_cpu(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn shares_are_shares(before in prop::array::uniform8(any::<u64>()), after in prop::array::uniform8(any::<u64>())) {
            let of = |[user, nice, system, idle, waiting, interrupts, stolen, guest]: [u64; 8]| Ticks {
                user, nice, system, idle, waiting, interrupts, stolen, guest,
            };
            if let Some(shares) = of(after).shares_since(&of(before)) {
                let parts = [shares.user, shares.nice, shares.system, shares.waiting, shares.interrupts, shares.stolen, shares.guest];
                assert!(parts.iter().all(|part| (0.0..=1.0).contains(part)));
                assert!((0.0..=1.0).contains(&shares.busy));
                assert!(parts.iter().sum::<f64>() <= 1.0 + 1e-9);
            }
        }

        #[test]
        fn no_text_panics(text in "(cpu[0-9 ]{0,60}\n|ctxt [0-9]{0,25}\n|[a-z 0-9]{0,40}\n){0,12}") {
            let _ = parse_cpu(text.as_bytes());
        }
    }
}
