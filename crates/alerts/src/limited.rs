//! One limit, and those whose readings are held against it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use profiler_readings::{Moment, Subject};

use crate::{
    AlertKind, Change, Limit, Settings,
    limit::Side,
    track::{Live, Missing, Seen, Step, Track, comes_and_goes},
};

/// Subjects that are remembered for each limit: those with alerts, those whose readings are missing, and those that are
/// always there (CPUs, GPUs), to miss them when they are not.
const MAX_KNOWN_SUBJECTS: usize = 4096;

/// A limit and those it is held against.
#[derive(Debug)]
pub(crate) struct Limited {
    pub(crate) limit: Arc<Limit>,
    pub(crate) tracks: BTreeMap<Subject, Track>,
    /// Live alerts at the begin of the evaluation, and those that began in it.
    pub(crate) live: usize,
}

/// The number of an evaluation, its time, and the time since the one before.
pub(crate) type Evaluation = (u64, Moment, Duration);

impl Limited {
    /// Takes what was seen of a subject. How many alerts were refused.
    pub(crate) fn see(
        &mut self,
        subject: &Subject,
        seen: Seen,
        settings: &Settings,
        (number, now, elapsed): Evaluation,
        changes: &mut Vec<(Change, Live)>,
    ) -> u64 {
        let step = Step {
            limit: &self.limit,
            subject,
            settings,
            now,
            elapsed,
            has_room: self.live < settings.max_alerts_per_limit,
        };
        let is_known = self.tracks.contains_key(subject);
        if !is_known && self.tracks.len() >= MAX_KNOWN_SUBJECTS {
            return u64::from(matches!(seen, Seen::Value(value) if self.limit.side(value) == Side::Beyond));
        }
        let mut fresh = Track::default();
        let track = self.tracks.get_mut(subject).unwrap_or(&mut fresh);
        if track.seen_in == number {
            return 0;
        }
        track.seen_in = number;
        let outcome = track.step(seen, &step);
        if !is_known && !fresh.is_idle(subject.scope()) {
            self.tracks.insert(subject.clone(), fresh);
        }
        self.live += begun(&outcome.changes);
        changes.extend(outcome.changes);
        u64::from(outcome.refused)
    }

    /// Follows the subjects that nothing was seen of, and forgets those there is nothing to say of.
    pub(crate) fn miss(
        &mut self,
        settings: &Settings,
        (number, now, elapsed): Evaluation,
        changes: &mut Vec<(Change, Live)>,
    ) -> u64 {
        let mut refused = 0;
        for (subject, track) in &mut self.tracks {
            if track.seen_in == number {
                continue;
            }
            let step = Step {
                limit: &self.limit,
                subject,
                settings,
                now,
                elapsed,
                has_room: self.live < settings.max_alerts_per_limit,
            };
            let why = if comes_and_goes(subject.scope()) {
                Missing::Gone
            } else {
                Missing::NoData
            };
            let outcome = track.step(Seen::Missing(why), &step);
            self.live += begun(&outcome.changes);
            refused += u64::from(outcome.refused);
            changes.extend(outcome.changes);
        }
        self.tracks.retain(|subject, track| !track.is_idle(subject.scope()));
        refused
    }
}

/// Alerts that began: with their first reading, or, of missing ones, by firing at once.
fn begun(changes: &[(Change, Live)]) -> usize {
    let begins = |(change, live): &&(Change, Live)| match live.alert.kind {
        AlertKind::Limit => *change == Change::Pending,
        AlertKind::NoData => *change == Change::Firing,
    };
    changes.iter().filter(begins).count()
}
