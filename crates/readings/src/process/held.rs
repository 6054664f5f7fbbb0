//! What processes and services hold, for the verdict on whether it grows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{ProcessId, tracked::Tracked};
use crate::{
    Reading, Subject, SubjectGrowth,
    growth::Growth,
    source::{HostFacts, Moment},
};

/// What the processes of a service hold together.
#[derive(Debug)]
struct Held {
    bytes: u64,
    /// Some process could not be read, and a sum without it would be wrong.
    lacks_some: bool,
    /// When the oldest of them started.
    oldest: Duration,
}

/// Has what is held followed.
#[derive(Debug, Default)]
pub(super) struct HeldMemory {
    growth: Growth,
    /// Services of the last round, and when that was.
    services: BTreeSet<Arc<str>>,
    last_round: Duration,
}

impl HeldMemory {
    /// Takes one round. Gives how many subjects were left out.
    pub(super) fn add(&mut self, now: Moment, processes: &BTreeMap<ProcessId, Tracked>, facts: HostFacts) -> u64 {
        let mut left_out = 0;
        let mut services: BTreeMap<&Arc<str>, Held> = BTreeMap::new();
        for (&id, tracked) in processes.iter().filter(|(_, tracked)| !tracked.is_gone()) {
            let bytes = tracked.held_bytes();
            if let Some(bytes) = bytes {
                left_out += u64::from(!self.growth.note(&id.subject(), now.since_boot, bytes));
            }
            let Some(service) = &tracked.service else { continue };
            let held = services.entry(service).or_insert(Held {
                bytes: 0,
                lacks_some: false,
                oldest: Duration::MAX,
            });
            held.bytes = held.bytes.saturating_add(bytes.unwrap_or(0));
            held.lacks_some |= bytes.is_none();
            held.oldest = held.oldest.min(id.started(facts));
        }
        for (&service, held) in &services {
            let subject = Subject::Service(Arc::clone(service));
            // A service none of whose processes is of the round before was started anew.
            if !self.services.contains(service) || held.oldest > self.last_round {
                self.growth.forget(&subject);
            }
            if !held.lacks_some {
                left_out += u64::from(!self.growth.note(&subject, now.since_boot, held.bytes));
            }
        }
        self.services = services.into_keys().cloned().collect();
        self.last_round = now.since_boot;
        left_out
    }

    /// Gives verdicts if a minute is over. Whether it did.
    pub(super) fn judge(&mut self, now: Moment, out: &mut Vec<Reading>) -> bool {
        self.growth.judge(now, out)
    }

    /// The newest verdicts, by subject.
    pub(super) fn verdicts(&self) -> impl Iterator<Item = &SubjectGrowth> {
        self.growth.verdicts()
    }
}
