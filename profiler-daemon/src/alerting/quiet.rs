//! The quiet time before the alerts that are pending.
//!
//! An alert may be pending for longer than windows are kept, and the time of day may be set meanwhile. So it is noted by the
//! clock that nobody sets when an alert began, and the windows of the quiet time before it are held once the store is about
//! to forget them; until then holding them would only cost. What is held is bounded: beyond that an alert has what the store
//! still has when it fires. Of one that never fires nothing is left.

use std::{
    collections::BTreeMap,
    sync::PoisonError,
    time::{Duration, SystemTime},
};

use profiler_alerts::{Alert, AlertId};
use profiler_readings::{Metric, Source};
use profiler_store::{Selection, Span};

use super::EVALUATION;
use crate::{
    api::SharedStore,
    evidence::{Course, MAX_QUIET, memory::LAST_WORDS},
};

/// The part of the room for windows that may be held besides.
const HELD_PART: usize = 4;
/// While windows are only held, nobody sees when that was.
const NOT_SHOWN: Span = Span {
    start: None,
    end: SystemTime::UNIX_EPOCH,
};

/// An alert that is pending.
#[derive(Debug)]
struct Pending {
    /// So far.
    course: Course,
    /// It was tried to hold its quiet time.
    is_tried: bool,
}

/// The quiet time of each pending alert.
#[derive(Debug)]
pub(super) struct QuietTimes {
    store: SharedStore,
    pending: BTreeMap<AlertId, Pending>,
}

impl QuietTimes {
    /// Nothing is pending yet.
    pub(super) fn new(store: SharedStore) -> Self {
        Self {
            store,
            pending: BTreeMap::new(),
        }
    }

    /// An alert is pending since now, by the clock that nobody sets.
    pub(super) fn begin(&mut self, alert: &Alert, now: Duration) {
        let began = now.saturating_sub(led_up(alert.limit.metric));
        let course = Course {
            quiet_until: began.saturating_sub(seen_late(alert.limit.metric)),
            began,
            until: now,
            held: None,
        };
        let pending = Pending {
            course,
            is_tried: false,
        };
        self.pending.insert(alert.id, pending);
    }

    /// It is pending no more. Its course until now; none of an alert that an earlier daemon saw begin.
    pub(super) fn end(&mut self, id: AlertId, now: Duration) -> Option<Course> {
        let Pending { course, .. } = self.pending.remove(&id)?;
        Some(Course { until: now, ..course })
    }

    /// Memory of what is held.
    pub(super) fn held_bytes(&self) -> usize {
        let held = self.pending.values().filter_map(|pending| pending.course.held.as_ref());
        held.map(Selection::memory_bytes).sum()
    }

    /// Holds what the store will forget soon. To be called in each evaluation.
    pub(super) fn hold(&mut self) {
        if self.pending.values().all(|pending| pending.is_tried) {
            return;
        }
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(forgotten) = store.forgotten_until() else {
            return;
        };
        let most = store.status().capacity_bytes / HELD_PART;
        let mut held = self.held_bytes();
        for pending in self.pending.values_mut().filter(|pending| !pending.is_tried) {
            // One window may displace many: what is next to be forgotten is held, too.
            let oldest = pending.course.quiet_until.saturating_sub(MAX_QUIET);
            if forgotten + MAX_QUIET < oldest {
                continue;
            }
            pending.is_tried = true;
            let selection = pending.course.quiet(&store, NOT_SHOWN);
            let bytes = selection.memory_bytes();
            if bytes > 0 && held + bytes <= most {
                held += bytes;
                pending.course.held = Some(selection);
            }
        }
    }
}

/// By how much a breach may have begun before it was seen.
pub(super) fn seen_late(metric: Metric) -> Duration {
    Source::of(metric).interval() + EVALUATION
}

/// What of the time before a breach belongs to it: of a process that was killed, what it did is what it did before.
pub(super) fn led_up(metric: Metric) -> Duration {
    match metric {
        Metric::ProcessOomKilled => LAST_WORDS,
        _ => Duration::ZERO,
    }
}
