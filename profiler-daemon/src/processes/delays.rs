//! What could not be read now: files that do not answer, and what is to be tried again.

use super::{
    clock::Now,
    owner::Processes,
    process::{Identification, ImageId},
    upkeep::{DELAY_NS, MAX_DELAYED},
    walker_tables::WalkerTables,
};
use crate::health::{Part, PartState};

impl<T: WalkerTables> Processes<T> {
    /// Tells of files that do not answer.
    pub(super) fn relieve_builder(&mut self, now: Now) {
        let (subjects, standing) = self.builder.relieve(now.instant);
        let state = match subjects.first() {
            None => PartState::Active,
            Some(first) => {
                let others = match subjects.len() - 1 {
                    0 => String::new(),
                    others => format!(" and {others} more"),
                };
                let effect = if standing > 0 {
                    "no other file is read until they answer"
                } else {
                    "other files are read meanwhile"
                };
                PartState::Failed {
                    reason: format!("reading {first}{others} takes too long: {effect}"),
                    remedy: "Look at the file system that it lies on.".to_owned(),
                }
            }
        };
        self.health.report(Part::UnwindTables, state);
    }

    /// Asks the builder again for what it could not read for a reason that passes.
    pub(super) fn retry_delayed(&mut self, now: Now) {
        while let Some((_, object)) = self.delayed.pop_front_if(|(due_ns, _)| *due_ns <= now.monotonic_ns) {
            if let Some(job) = self.job_of(&object, None) {
                self.submit(job);
            } else {
                self.objects.forget(&object);
            }
        }
        while let Some((_, id)) = self
            .unidentified
            .pop_front_if(|(due_ns, _)| *due_ns <= now.monotonic_ns)
        {
            let Some(image) = self.images.get_mut(&id).filter(|image| image.is_running()) else {
                continue;
            };
            if image.identity().is_some() {
                self.identify_again(id, now);
            } else {
                image.identification = Identification::NotAsked;
                self.decide(id, now);
            }
        }
    }

    /// Asks the builder what an image is that it was asked about before, soon if it takes no job now. What is known of it
    /// stays until then.
    pub(super) fn identify_again(&mut self, id: ImageId, now: Now) {
        let Some(pid) = self.images.get(&id).map(|image| image.pid) else {
            return;
        };
        if !self.submit_identification(id, pid) {
            self.put_off_identification(id, now);
        }
    }

    pub(super) fn put_off_identification(&mut self, id: ImageId, now: Now) {
        if self.unidentified.len() < MAX_DELAYED {
            self.unidentified
                .push_back((now.monotonic_ns.saturating_add(DELAY_NS), id));
        }
    }
}
