//! The states of sources, as parts of the daemon, and how much of each is left out.

use std::{collections::BTreeMap, sync::Arc};

use profiler_readings::{Source, SourceReport, SourceState};

use super::Board;
use crate::health::{Health, Part, PartState};

/// Tells how sources do. One that is well from the start is not named: the status is not to list a dozen lines of it.
#[derive(Debug)]
pub(super) struct Reports {
    health: Arc<Health>,
    board: Arc<Board>,
    told: BTreeMap<Source, SourceState>,
}

impl Reports {
    /// Nothing was told yet.
    pub(super) fn new(health: Arc<Health>, board: Arc<Board>) -> Self {
        Self {
            health,
            board,
            told: BTreeMap::new(),
        }
    }

    /// Tells what is new.
    pub(super) fn tell<'a>(&mut self, reports: impl Iterator<Item = SourceReport<'a>>) {
        for SourceReport {
            source,
            state,
            remedy,
            left_out,
        } in reports
        {
            let before = self.board.note_left_out(source, left_out);
            if before == 0 && left_out > 0 {
                tracing::warn!(%source, left_out, "there is more to read than is read; the rest is left out");
            }
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
    use profiler_store::SeriesLimits;

    use super::*;

    fn board() -> Arc<Board> {
        Arc::new(Board::new(SeriesLimits {
            retention: std::time::Duration::ZERO,
            max_bytes: 0,
        }))
    }

    #[test]
    fn what_is_left_out_is_counted_until_it_is_not() {
        let board = board();
        let mut reports = Reports::new(Arc::new(Health::new()), Arc::clone(&board));
        for (left_out, expected) in [
            (0, vec![]),
            (3, vec![(Source::Processes, 3)]),
            (1, vec![(Source::Processes, 1)]),
            (0, vec![]),
        ] {
            let report = SourceReport {
                source: Source::Processes,
                state: &SourceState::Active,
                remedy: "",
                left_out,
            };
            reports.tell([report].into_iter());
            assert_eq!(board.left_out(), expected);
        }
    }

    #[test]
    fn only_what_is_not_well_is_named_until_it_is() {
        let health = Arc::new(Health::new());
        let mut reports = Reports::new(Arc::clone(&health), board());
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
