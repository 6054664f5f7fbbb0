//! The states of sources, as parts of the daemon.

use std::{collections::BTreeMap, sync::Arc};

use profiler_readings::{Source, SourceReport, SourceState};

use crate::health::{Health, Part, PartState};

/// Tells how sources do. One that is well from the start is not named: the status is not to list a dozen lines of it.
#[derive(Debug)]
pub(super) struct Reports {
    health: Arc<Health>,
    told: BTreeMap<Source, SourceState>,
}

impl Reports {
    /// Nothing was told yet.
    pub(super) fn new(health: Arc<Health>) -> Self {
        Self {
            health,
            told: BTreeMap::new(),
        }
    }

    /// Tells what is new.
    pub(super) fn tell<'a>(&mut self, reports: impl Iterator<Item = SourceReport<'a>>) {
        for SourceReport {
            source, state, remedy, ..
        } in reports
        {
            let is_new = match self.told.get(&source) {
                Some(told) => told != state,
                None => *state != SourceState::Active,
            };
            if is_new {
                self.told.insert(source, state.clone());
                self.health.report(Part::ReadingsOf(source), part_state(state, remedy));
            }
        }
    }
}

fn part_state(state: &SourceState, remedy: &str) -> PartState {
    match state {
        SourceState::Active => PartState::Active,
        SourceState::Absent { reason } => PartState::Disabled { reason: reason.clone() },
        SourceState::Late { reason } => PartState::Late {
            reason: reason.clone(),
            remedy: remedy.to_owned(),
        },
        SourceState::Unsupported { reason } => PartState::Unsupported {
            reason: reason.clone(),
            remedy: remedy.to_owned(),
        },
        SourceState::Failed { reason } => PartState::Failed {
            reason: reason.clone(),
            remedy: remedy.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_well_is_named_until_it_is() {
        let health = Arc::new(Health::new());
        let mut reports = Reports::new(Arc::clone(&health));
        let mut tell = |source, state: &SourceState| {
            let report = SourceReport {
                source,
                state,
                remedy: "look",
                left_out: 0,
            };
            reports.tell([report].into_iter());
            health.state(Part::ReadingsOf(source))
        };
        let failed = SourceState::Failed {
            reason: "/proc/stat: EIO".to_owned(),
        };
        assert_eq!(tell(Source::Memory, &SourceState::Active), None);
        let state = tell(Source::Cpu, &failed);
        assert!(matches!(state, Some(PartState::Failed { reason, .. }) if reason == "/proc/stat: EIO"));
        assert_eq!(tell(Source::Cpu, &SourceState::Active), Some(PartState::Active));
        let unsupported = SourceState::Unsupported {
            reason: "no /proc/pressure".to_owned(),
        };
        assert!(matches!(
            tell(Source::Pressure, &unsupported),
            Some(PartState::Unsupported { remedy, .. }) if remedy == "look"
        ));
        let late = SourceState::Late {
            reason: "GPU-1 does not answer".to_owned(),
        };
        assert!(matches!(tell(Source::Gpu, &late), Some(PartState::Late { remedy, .. }) if remedy == "look"));
        let absent = SourceState::Absent {
            reason: "no NVIDIA GPU".to_owned(),
        };
        assert!(matches!(tell(Source::Gpu, &absent), Some(PartState::Disabled { .. })));
    }
}
