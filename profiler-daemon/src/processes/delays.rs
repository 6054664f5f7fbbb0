//! What could not be read now: files that do not answer, and what is to be tried again.

use super::{
    owner::Processes,
    process::{Identification, Now},
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
            if let Some(image) = self.images.get_mut(&id).filter(|image| image.is_running()) {
                image.identification = Identification::NotAsked;
                self.decide(id, now);
            }
        }
    }
}
