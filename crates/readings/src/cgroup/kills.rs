//! Kills for want of memory in the groups of each service. Groups come and go with every restart; the count only rises.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::MAX_GROUPS;

/// How long after a service's last process its count is kept.
const KEPT_EMPTY: Duration = Duration::from_secs(600);
/// Most services that are kept.
const MAX_SERVICES: usize = 4096;

/// Counts of all services.
#[derive(Debug, Default)]
pub(super) struct Kills {
    services: BTreeMap<Arc<str>, OfService>,
}

#[derive(Debug, Default)]
struct OfService {
    total: u64,
    /// What each group counted, and when it was seen last.
    groups: BTreeMap<Box<[u8]>, (u64, Duration)>,
    seen: Duration,
}

impl Kills {
    /// Adds what a group of a service counted since it was last seen. What it counted before it was first seen is of the
    /// past. False if there are too many services for another.
    pub(super) fn add(&mut self, service: &Arc<str>, group: &[u8], killed: u64, now: Duration) -> bool {
        if !self.services.contains_key(service) && self.services.len() >= MAX_SERVICES {
            return false;
        }
        let OfService { total, groups, seen } = self.services.entry(Arc::clone(service)).or_default();
        *seen = now;
        let before = groups.insert(group.into(), (killed, now));
        let passed = before.map_or(0, |(before, _)| killed.saturating_sub(before));
        *total = total.saturating_add(passed);
        if groups.len() > MAX_GROUPS {
            // Of a round there are no more: the one that was not seen for longest is gone.
            let gone = groups.iter().min_by_key(|(_, (_, seen))| *seen);
            if let Some(gone) = gone.map(|(group, _)| group.clone()) {
                groups.remove(&gone);
            }
        }
        true
    }

    /// The counts of the services that had a process lately.
    pub(super) fn totals(&mut self, now: Duration) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.services
            .retain(|_, service| now.saturating_sub(service.seen) < KEPT_EMPTY);
        self.services.iter().map(|(name, service)| (name, service.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_was_restarted_often_goes_on_counting() {
        let service: Arc<str> = "web".into();
        let mut kills = Kills::default();
        for restart in 0..2 * MAX_GROUPS as u64 {
            // The newest group comes first in the order of names.
            let group = format!("/{:08}", 99_999_999 - restart);
            let second = |part| Duration::from_secs(10 * restart + part);
            assert!(kills.add(&service, group.as_bytes(), 0, second(0)));
            assert!(kills.add(&service, group.as_bytes(), 1, second(5)));
        }
        let now = Duration::from_secs(20 * MAX_GROUPS as u64);
        assert_eq!(
            kills.totals(now).collect::<Vec<_>>(),
            [(&service, 2 * MAX_GROUPS as u64)]
        );
        assert_eq!(kills.services[&service].groups.len(), MAX_GROUPS);
    }

    #[test]
    fn services_are_bounded_and_forgotten() {
        let mut kills = Kills::default();
        let name = |number: usize| -> Arc<str> { format!("job-{number}").into() };
        for number in 0..MAX_SERVICES {
            assert!(kills.add(&name(number), b"/jobs", 1, Duration::ZERO));
        }
        assert!(!kills.add(&name(MAX_SERVICES), b"/jobs", 1, Duration::ZERO));
        assert!(kills.add(&name(0), b"/jobs", 2, Duration::from_secs(300)));
        assert_eq!(kills.totals(KEPT_EMPTY).collect::<Vec<_>>(), [(&name(0), 1)]);
        assert!(kills.add(&name(MAX_SERVICES), b"/jobs", 1, KEPT_EMPTY));
    }
}
