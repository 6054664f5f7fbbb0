//! The newest census of each of a few processes, for the next to be compared with.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use profiler_census::Census;

use super::Taken;
use crate::kernel::records::Pid;

/// An earlier census of the same process.
#[derive(Clone, Debug)]
pub(super) struct Earlier {
    pub(super) census: Arc<Census>,
    pub(super) time: SystemTime,
    /// Why it does not show all.
    pub(super) partial: Vec<String>,
    /// Whether what is not among it is new in the next; not so if it was there, and was not counted.
    pub(super) tells_new: bool,
}

impl Earlier {
    /// What must be said of all that is compared with it.
    pub(super) fn caveats(&self, with_holders: bool) -> Vec<String> {
        let reasons = self.partial.iter();
        let mut caveats: Vec<String> = reasons
            .map(|reason| format!("the census before did not show all: {reason}"))
            .collect();
        if with_holders && !self.tells_new {
            caveats.push("nobody was looked for who holds what is new: what was not shown before looks new".to_owned());
        }
        caveats
    }
}

/// Counts of the newest census of each of a few processes.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// By process, its start, and the program that it ran.
    censuses: BTreeMap<(Pid, u64, u64), (u64, Earlier)>,
    turn: u64,
}

impl Kept {
    /// Processes of which a census is kept.
    const MOST: usize = 4;

    pub(super) fn find(&self, pid: Pid, start_ticks: u64, program: u64) -> Option<Earlier> {
        self.censuses
            .get(&(pid, start_ticks, program))
            .map(|(_, earlier)| earlier.clone())
    }

    /// Keeps a census in place of the one before of the same process, or of the process that was not asked for longest.
    pub(super) fn keep(&mut self, taken: &Taken, earlier: Earlier) {
        self.turn += 1;
        let key = (taken.pid, taken.start_ticks, taken.program);
        // What runs under the same id now is another process, or another program.
        self.censuses.retain(|other, _| other.0 != taken.pid || *other == key);
        self.censuses.insert(key, (self.turn, earlier));
        while self.censuses.len() > Self::MOST {
            let oldest = self.censuses.iter().min_by_key(|(_, (turn, _))| *turn);
            let Some(key) = oldest.map(|(key, _)| *key) else { break };
            self.censuses.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::census::Cost;

    #[test]
    fn another_process_or_program_is_not_compared_with() {
        let taken = |pid, start_ticks, program| Taken {
            pid: Pid(pid),
            start_ticks,
            program,
            time: SystemTime::UNIX_EPOCH,
            python: String::new(),
            census: Arc::default(),
            difference: None,
            holders: Vec::new(),
            partial: Vec::new(),
            cost: Cost::default(),
        };
        let earlier = || Earlier {
            census: Arc::default(),
            time: SystemTime::UNIX_EPOCH,
            partial: Vec::new(),
            tells_new: true,
        };
        let mut kept = Kept::default();
        kept.keep(&taken(7, 1, 100), earlier());
        kept.keep(&taken(8, 1, 100), earlier());
        let finds = |kept: &Kept, pid, start, program| kept.find(Pid(pid), start, program).is_some();
        assert!(finds(&kept, 7, 1, 100));
        assert!(!finds(&kept, 7, 2, 100) && !finds(&kept, 7, 1, 101));
        kept.keep(&taken(7, 1, 101), earlier());
        assert!(!finds(&kept, 7, 1, 100), "it is over");
        assert!(finds(&kept, 7, 1, 101) && finds(&kept, 8, 1, 100));
    }

    #[test]
    fn what_was_not_counted_before_is_said_not_to_be_new() {
        let earlier = |partial: &[&str], tells_new| Earlier {
            census: Arc::default(),
            time: SystemTime::UNIX_EPOCH,
            partial: partial.iter().map(ToString::to_string).collect(),
            tells_new,
        };
        assert_eq!(earlier(&[], true).caveats(true), [""; 0]);
        let torn = earlier(&["1 pools changed whenever they were read"], true);
        let of_torn = "the census before did not show all: 1 pools changed whenever they were read";
        assert_eq!(torn.caveats(true), [of_torn]);
        let late = earlier(&["32 MiB were not looked at"], false);
        let of_late = "the census before did not show all: 32 MiB were not looked at";
        assert_eq!(late.caveats(false), [of_late]);
        assert_eq!(late.caveats(true)[0], of_late);
        assert!(late.caveats(true)[1].starts_with("nobody was looked for who holds what is new"));
    }
}
