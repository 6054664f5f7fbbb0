//! Page faults of watched processes: which of them are chosen, the record of one, and what is counted.
//!
//! A fault is chosen by a hash of the number of its page. At a level, one page of 2^level is chosen, and what a level chooses
//! is a subset of what each lower level does: whoever keeps pages can raise the level later by dropping those that it would
//! not have chosen. The kernel follows the rate of faults by itself ([`Pace`]): it must not wait for the daemon when a
//! process touches a gigabyte at once.
//!
//! A record is a [`FaultHeader`] followed by a CPU sample's record ([`crate::cpu`]) without kernel frames.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// log2 of the bytes of a page (`PAGE_SHIFT` of x86-64).
pub const PAGE_SHIFT: u32 = 12;
/// Bytes of a page.
pub const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;
/// Highest level: one page of a million, 4 GiB.
pub const MAX_LEVEL: u32 = 20;
/// Levels that are added for a fault that only reads: it maps what is there already, and memory grows by it only in files.
pub const READ_LEVELS: u32 = 3;
/// Time over which chosen pages are counted.
pub const PACE_NS: u64 = 10_000_000_000;
/// Chosen pages of a process within that time from which on its level rises: a process that goes on at one rate has from half as
/// many to as many.
pub const PROCESS_QUOTA: u32 = 400;
/// The same of all processes together that have just executed one program.
pub const PROGRAM_QUOTA: u32 = 120;
/// The same of all processes of a CPU.
pub const CPU_QUOTA: u32 = 1800;
/// Paces of processes. Those whose ids differ by a multiple of it share one, and its quota.
pub const PROCESS_PACES: u32 = 1 << 14;
/// Paces of what processes have just begun to run, behind those of processes.
pub const PROGRAM_PACES: u32 = 1 << 8;
/// Bytes of the ring of chosen faults.
pub const FAULT_RING_BYTES: u32 = 1 << 20;
/// Bytes of the ring of events that are rare.
pub const EVENT_RING_BYTES: u32 = 1 << 12;

/// Bits of the error code of a page fault (arch/x86/include/asm/trap_pf.h), as the record has them.
pub mod fault {
    /// The page was there: the access was not allowed. Without it, nothing was mapped.
    pub const PRESENT: u32 = 1;
    /// A write.
    pub const WRITE: u32 = 2;
    /// In user mode; without it the kernel touched the page for the process, as in `read`.
    pub const USER: u32 = 4;
    /// The bits above.
    pub const KNOWN: u32 = 7;
}

/// What is known of a chosen fault beside its stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FaultHeader {
    /// Number of the page: its runtime address divided by [`PAGE_BYTES`].
    pub page: u64,
    /// At which level it was chosen.
    pub level: u32,
    /// Bits of [`fault`].
    pub code: u32,
}

/// A process that the kernel is about to kill because memory ran out. The record of the ring of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OomVictim {
    /// When it was chosen: `CLOCK_MONOTONIC` in nanoseconds.
    pub time_ns: u64,
    /// Its thread group; 0 where the kernel told only of a thread.
    pub pid: u32,
    /// The thread that the kernel named; 0 if `pid` is told.
    pub tid: u32,
}

/// Spreads the number of a page over all 64 bits (the finalizer of MurmurHash3).
#[inline(always)]
pub const fn page_hash(page: u64, salt: u64) -> u64 {
    let mut hash = page ^ salt;
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

/// The salt of a process: not all processes choose the same pages.
#[inline(always)]
pub const fn process_salt(salt: u64, pid: u32) -> u64 {
    salt ^ (pid as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Whether a level chooses a page of this hash.
#[inline(always)]
pub const fn is_chosen(hash: u64, level: u32) -> bool {
    hash >> 1 <= (u64::MAX >> 1) >> (level & 63)
}

/// Follows the rate of chosen pages: the level rises with each quota that is used up, and falls when the rate does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Pace {
    /// When the time began over which is counted.
    pub begun_ns: u64,
    /// Pages chosen in that time, as many as would have been at the level of now.
    pub chosen: u32,
    /// The level.
    pub level: u32,
}

/// Index of the pace that a process follows once the daemon has seen it.
#[inline(always)]
pub const fn process_pace(pid: u32) -> u32 {
    pid % PROCESS_PACES
}

/// Index of the pace that all follow together who have just executed a program, by the generation of the entry made then:
/// a program that is run a thousand times a second, and touches its hundred pages each time, would have all of them chosen.
#[inline(always)]
pub const fn program_pace(generation: u32) -> u32 {
    PROCESS_PACES + generation % PROGRAM_PACES
}

/// How many pages are chosen by the pace of an index within [`PACE_NS`] before its level rises.
#[inline(always)]
pub const fn pace_quota(index: u32) -> u32 {
    // Without a branch, which the compiler would have all that follows depend on.
    let is_program = (index >= PROCESS_PACES) as u32;
    PROCESS_QUOTA - is_program * (PROCESS_QUOTA - PROGRAM_QUOTA)
}

impl Pace {
    /// Takes note of the time: when the counting time is over, the level falls as far as the rate allows.
    #[inline(always)]
    pub fn turn(&mut self, now_ns: u64, quota: u32) {
        let elapsed_ns = now_ns.wrapping_sub(self.begun_ns);
        if elapsed_ns < PACE_NS {
            return;
        }
        // What it would have been at a lower level is doubled by each. Where nothing was seen for several such times, the rate
        // was lower than can be told from one.
        let mut would_be = self.chosen;
        if would_be == 0 || elapsed_ns >= 4 * PACE_NS {
            would_be = 1;
        }
        let mut step = 0;
        while step < 8 {
            step += 1;
            if self.level > 0 && would_be <= quota / 4 {
                self.level -= 1;
                would_be *= 2;
            }
        }
        self.begun_ns = now_ns;
        self.chosen = 0;
    }

    /// Counts a chosen page.
    #[inline(always)]
    pub fn choose(&mut self, quota: u32) {
        self.chosen += 1;
        if self.chosen >= quota && self.level < MAX_LEVEL {
            self.level += 1;
            self.chosen /= 2;
        }
    }
}

/// What the programs for page faults count, per CPU. Each fault that they see of a watched process is counted as one of the
/// outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum FaultCounter {
    /// Not chosen.
    Passed = 0,
    /// Chosen, and written to the ring.
    Delivered = 1,
    /// Lost: the ring was full.
    RingFull = 2,
    /// Lost: the program's state was in use on this CPU.
    Busy = 3,
    /// Lost: a map that must exist did not.
    Internal = 4,
    /// Not an outcome: events that found no room in their ring, or could not be read.
    EventLost = 5,
}

impl FaultCounter {
    /// Every counter, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Passed,
        Self::Delivered,
        Self::RingFull,
        Self::Busy,
        Self::Internal,
        Self::EventLost,
    ];

    /// The counter in words of the command line and of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Delivered => "delivered",
            Self::RingFull => "ring_full",
            Self::Busy => "busy",
            Self::Internal => "internal",
            Self::EventLost => "event_lost",
        }
    }

    /// Whether the count is of chosen faults that were lost.
    pub const fn is_loss(self) -> bool {
        matches!(self, Self::RingFull | Self::Busy | Self::Internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{MARKED_GENERATION, TEMPLATE_GENERATION};

    #[test]
    fn levels_are_nested_and_halve() {
        let mut counts = [0_u32; 12];
        for page in 0x0007_f000_0000..0x0007_f000_0000 + (1_u64 << 18) {
            let hash = page_hash(page, 0x1234);
            let mut chosen = true;
            for (level, count) in counts.iter_mut().enumerate() {
                let now = is_chosen(hash, level as u32);
                assert!(chosen || !now, "a level chooses what a lower one does not");
                chosen = now;
                *count += u32::from(now);
            }
        }
        assert_eq!(counts[0], 1 << 18);
        for (level, count) in counts.iter().enumerate() {
            let expected = f64::from(1_u32 << 18) / f64::from(1_u32 << level);
            let deviation = (f64::from(*count) - expected).abs() / expected.sqrt();
            assert!(level == 0 || deviation < 4.0, "level {level}: {count} of {expected}");
        }
        assert_ne!(process_salt(7, 1), process_salt(7, 2));
    }

    /// Runs faults at a rate for so many seconds, and returns how many were chosen, and what they stand for.
    fn run(pace: &mut Pace, from_ns: &mut u64, rate: u64, seconds: u64) -> (u64, u64) {
        let (mut chosen, mut estimate) = (0, 0);
        for fault in 0..rate * seconds {
            *from_ns += 1_000_000_000 / rate;
            pace.turn(*from_ns, PROCESS_QUOTA);
            if is_chosen(page_hash(*from_ns ^ fault, 99), pace.level) {
                estimate += 1 << pace.level;
                pace.choose(PROCESS_QUOTA);
                chosen += 1;
            }
        }
        (chosen, estimate)
    }

    #[test]
    fn the_level_follows_the_rate() {
        let (mut pace, mut now_ns) = (Pace::default(), 1);
        let (chosen, estimate) = run(&mut pace, &mut now_ns, 5, 100);
        assert_eq!((chosen, estimate, pace.level), (500, 500, 0));
        for rate in [100, 3_000, 200_000] {
            run(&mut pace, &mut now_ns, rate, 10);
            let seconds = 20;
            let (chosen, estimate) = run(&mut pace, &mut now_ns, rate, seconds);
            assert!(chosen <= 44 * seconds, "{chosen} at {rate} a second");
            let faults = (rate * seconds) as f64;
            let error = (estimate as f64 - faults).abs() / faults;
            assert!(error < 0.25, "{estimate} of {faults}");
        }
        let high = pace.level;
        run(&mut pace, &mut now_ns, 2, 40);
        assert!(pace.level < high && pace.level <= 4, "{} after {high}", pace.level);
        run(&mut pace, &mut now_ns, 2, 20);
        assert_eq!(pace.level, 0);
    }

    #[test]
    fn a_burst_is_bounded() {
        let (mut pace, mut now_ns) = (Pace::default(), 1);
        let (chosen, estimate) = run(&mut pace, &mut now_ns, 300_000, 1);
        assert!(chosen < 5_000, "{chosen}");
        assert!((estimate as f64 / 300_000.0 - 1.0).abs() < 0.2, "{estimate}");
    }

    #[test]
    fn who_has_just_begun_shares_a_pace_with_who_runs_the_same() {
        assert_eq!(process_pace(7), process_pace(7 + PROCESS_PACES));
        assert_ne!(process_pace(7), process_pace(8));
        for pid in [0, 1, PROCESS_PACES - 1, u32::MAX] {
            assert_eq!(pace_quota(process_pace(pid)), PROCESS_QUOTA, "{pid}");
        }
        let pending = program_pace(MARKED_GENERATION);
        for generation in [MARKED_GENERATION, TEMPLATE_GENERATION | 7, u32::MAX] {
            let index = program_pace(generation);
            assert!((PROCESS_PACES..PROCESS_PACES + PROGRAM_PACES).contains(&index));
            assert_eq!(pace_quota(index), PROGRAM_QUOTA);
            assert_eq!(index == pending, generation == MARKED_GENERATION, "{generation}");
        }
    }

    #[test]
    fn counters_have_names_and_numbers() {
        for (index, counter) in FaultCounter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
            assert!(!counter.name().is_empty());
        }
        assert!(!FaultCounter::Delivered.is_loss() && FaultCounter::Busy.is_loss());
    }
}
