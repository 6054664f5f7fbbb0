//! Which alerts hooks had their turn for: never twice for one.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use profiler_alerts::AlertId;

use crate::Refusal;

/// Turns that are remembered. Those of alerts that are over are forgotten first, and nothing else is.
const MAX_FIRINGS: usize = 10_000;

type Turn = (Arc<str>, AlertId);

/// Turns that were taken.
#[derive(Debug, Default)]
pub(super) struct Firings {
    /// Each with whether its alert is over.
    taken: BTreeMap<Turn, bool>,
    /// In the order in which they were taken.
    order: VecDeque<Turn>,
}

impl Firings {
    /// Takes the turn of a hook for an alert.
    ///
    /// # Errors
    /// It is taken, or too many are.
    pub(super) fn take(&mut self, hook: &Arc<str>, alert: AlertId) -> Result<(), Refusal> {
        let turn = (Arc::clone(hook), alert);
        if self.taken.contains_key(&turn) {
            return Err(Refusal::AlreadyProposed);
        }
        if self.order.len() >= MAX_FIRINGS {
            let place = self.order.iter().position(|turn| self.taken.get(turn) == Some(&true));
            let forgotten = place.and_then(|place| self.order.remove(place));
            self.taken.remove(&forgotten.ok_or(Refusal::TooManyAlerts)?);
        }
        self.note(turn);
        Ok(())
    }

    /// A turn was taken before the daemon was started.
    pub(super) fn restore(&mut self, hook: &Arc<str>, alert: AlertId) {
        self.note((Arc::clone(hook), alert));
    }

    fn note(&mut self, turn: Turn) {
        if self.taken.insert(turn.clone(), false).is_none() {
            self.order.push_back(turn);
        }
    }

    /// Alerts that are not known to be over.
    pub(super) fn live(&self) -> impl Iterator<Item = AlertId> {
        let live = self.taken.iter().filter(|(_, is_over)| !**is_over);
        live.map(|((_, alert), _)| *alert)
    }

    /// An alert is over: its turns may be forgotten.
    pub(super) fn end(&mut self, alert: AlertId) {
        for ((_, of), is_over) in &mut self.taken {
            *is_over |= *of == alert;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_of_live_alerts_are_never_forgotten() {
        let mut firings = Firings::default();
        let hook: Arc<str> = "hook".into();
        for number in 0..MAX_FIRINGS as u64 {
            assert_eq!(firings.take(&hook, AlertId(number)), Ok(()));
        }
        assert_eq!(firings.take(&hook, AlertId(3)), Err(Refusal::AlreadyProposed));
        assert_eq!(firings.take(&hook, AlertId(u64::MAX)), Err(Refusal::TooManyAlerts));
        firings.end(AlertId(5));
        assert_eq!(firings.take(&hook, AlertId(u64::MAX)), Ok(()));
        assert_eq!(firings.take(&hook, AlertId(u64::MAX)), Err(Refusal::AlreadyProposed));
        assert_eq!(firings.take(&hook, AlertId(4)), Err(Refusal::AlreadyProposed));
        assert_eq!((firings.order.len(), firings.taken.len()), (MAX_FIRINGS, MAX_FIRINGS));
        // Another hook has turns of its own, as long as there is room.
        assert_eq!(firings.take(&"other".into(), AlertId(4)), Err(Refusal::TooManyAlerts));
    }
}
