//! How often hooks may run: in all, on one target, and after failures. Durations are times since the host was started.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{Refusal, Settings, TargetId};

/// Targets that are left alone at a time; with more, nothing runs.
const MAX_COOLING: usize = 4096;
/// Shortest time after a failure.
const MIN_BACK_OFF: Duration = Duration::from_secs(60);
/// Longest time after failures, unless the hook's own cooldown is longer.
const MAX_BACK_OFF: Duration = Duration::from_secs(86_400);

/// Failures of a hook, one after the other.
#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    until: Duration,
}

/// What ran, as far as it keeps others from running.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When each run stops counting, the first first.
    counted: VecDeque<Duration>,
    cooling: BTreeMap<(Arc<str>, TargetId), Duration>,
    failures: BTreeMap<Arc<str>, Failures>,
}

/// What is left until a time.
fn left(until: Duration, now: Duration) -> Option<Duration> {
    until.checked_sub(now).filter(|left| !left.is_zero())
}

impl Pace {
    /// Whether a run of a hook may begin.
    pub(crate) fn may_begin(&self, hook: &str, settings: &Settings, now: Duration) -> Result<(), Refusal> {
        if let Some(failures) = self.failures.get(hook)
            && let Some(wait) = left(failures.until, now)
        {
            return Err(Refusal::BackedOff {
                failures: failures.count,
                wait,
            });
        }
        let mut counting = self.counted.iter().filter_map(|until| left(*until, now));
        let count = counting.clone().count();
        if count < settings.max_runs {
            return Ok(());
        }
        let wait = counting.nth(count - settings.max_runs).unwrap_or(settings.per);
        Err(Refusal::RateLimited { wait })
    }

    /// Whether a hook may act on a target.
    pub(crate) fn may_act(&mut self, hook: &Arc<str>, target: TargetId, now: Duration) -> Result<(), Refusal> {
        self.cooling.retain(|_, until| *until > now);
        if let Some(until) = self.cooling.get(&(Arc::clone(hook), target)) {
            return Err(Refusal::CoolingDown {
                wait: until.saturating_sub(now),
            });
        }
        if self.cooling.len() >= MAX_COOLING {
            let first = self.cooling.values().min().copied().unwrap_or(now);
            return Err(Refusal::RateLimited {
                wait: first.saturating_sub(now),
            });
        }
        Ok(())
    }

    /// Counts a run whose target was chosen so long ago.
    pub(crate) fn count(&mut self, ago: Duration, settings: &Settings, now: Duration) {
        self.counted.retain(|until| *until > now);
        if let Some(rest) = left(settings.per, ago) {
            let until = now.saturating_add(rest);
            let place = self.counted.partition_point(|other| *other <= until);
            self.counted.insert(place, until);
        }
    }

    /// Leaves a target alone for what is left of a time that began so long ago.
    pub(crate) fn cool(
        &mut self,
        hook: &Arc<str>,
        target: TargetId,
        (cooldown, ago): (Duration, Duration),
        now: Duration,
    ) {
        if let Some(rest) = left(cooldown, ago) {
            self.cooling
                .insert((Arc::clone(hook), target), now.saturating_add(rest));
        }
    }

    /// Takes note of how a run of a hook ended, so long ago.
    pub(crate) fn settle(
        &mut self,
        hook: &Arc<str>,
        has_failed: bool,
        (cooldown, ago): (Duration, Duration),
        now: Duration,
    ) {
        if !has_failed {
            self.failures.remove(hook);
            return;
        }
        let failures = self
            .failures
            .entry(Arc::clone(hook))
            .or_insert(Failures { count: 0, until: now });
        let factor = 1_u32.checked_shl(failures.count).unwrap_or(u32::MAX);
        let base = cooldown.max(MIN_BACK_OFF);
        let wait = base.saturating_mul(factor).min(MAX_BACK_OFF.max(base));
        failures.count = failures.count.saturating_add(1);
        failures.until = now.saturating_add(wait.saturating_sub(ago));
    }

    /// Forgets the failures of hooks that are no more.
    pub(crate) fn keep_hooks(&mut self, is_there: impl Fn(&str) -> bool) {
        self.failures.retain(|hook, _| is_there(hook));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn settings() -> Settings {
        Settings {
            max_runs: 2,
            per: seconds(100),
            ..Settings::default()
        }
    }

    #[test]
    fn no_span_of_time_has_more_runs_than_may_be() {
        let (settings, mut pace) = (settings(), Pace::default());
        pace.count(Duration::ZERO, &settings, seconds(10));
        assert_eq!(pace.may_begin("a", &settings, seconds(20)), Ok(()));
        pace.count(Duration::ZERO, &settings, seconds(20));
        let wait = |now: u64| match pace.may_begin("a", &settings, seconds(now)) {
            Err(Refusal::RateLimited { wait }) => wait.as_secs(),
            other => panic!("{other:?}"),
        };
        assert_eq!((wait(20), wait(109)), (90, 1));
        assert_eq!(pace.may_begin("a", &settings, seconds(110)), Ok(()));
        // One that was longer ago ends earlier, whenever it is counted.
        pace.count(seconds(60), &settings, seconds(110));
        pace.count(seconds(100), &settings, seconds(110));
        let refused = pace.may_begin("a", &settings, seconds(110));
        assert_eq!(refused, Err(Refusal::RateLimited { wait: seconds(10) }));
        let none = Settings {
            max_runs: 0,
            ..settings
        };
        assert_eq!(
            Pace::default().may_begin("a", &none, seconds(1)),
            Err(Refusal::RateLimited { wait: seconds(100) })
        );
    }

    #[test]
    fn a_target_is_left_alone_by_the_same_hook() {
        let mut pace = Pace::default();
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        pace.cool(&one, TargetId::Group(1), (seconds(60), seconds(20)), seconds(100));
        pace.cool(&one, TargetId::Group(3), (seconds(60), seconds(60)), seconds(100));
        let wait = Refusal::CoolingDown { wait: seconds(40) };
        assert_eq!(pace.may_act(&one, TargetId::Group(1), seconds(100)), Err(wait));
        assert_eq!(pace.may_act(&one, TargetId::Group(2), seconds(100)), Ok(()));
        assert_eq!(pace.may_act(&one, TargetId::Group(3), seconds(100)), Ok(()));
        assert_eq!(pace.may_act(&other, TargetId::Group(1), seconds(100)), Ok(()));
        assert_eq!(pace.may_act(&one, TargetId::Group(1), seconds(140)), Ok(()));
    }

    #[test]
    fn more_targets_than_can_be_remembered_are_not_acted_on() {
        let mut pace = Pace::default();
        let hook: Arc<str> = "hook".into();
        for id in 0..MAX_COOLING as u64 {
            pace.cool(
                &hook,
                TargetId::Group(id),
                (seconds(60 + id), Duration::ZERO),
                seconds(0),
            );
        }
        let new = TargetId::Group(u64::MAX);
        assert_eq!(
            pace.may_act(&hook, new, seconds(1)),
            Err(Refusal::RateLimited { wait: seconds(59) })
        );
        assert_eq!(pace.may_act(&hook, new, seconds(60)), Ok(()));
    }

    #[test]
    fn failures_in_a_row_double_the_wait() {
        let (settings, mut pace) = (settings(), Pace::default());
        let hook: Arc<str> = "hook".into();
        let mut waits = Vec::new();
        for _ in 0..40 {
            pace.settle(&hook, true, (seconds(600), Duration::ZERO), seconds(5));
            match pace.may_begin("hook", &settings, seconds(5)) {
                Err(Refusal::BackedOff { wait, .. }) => waits.push(wait.as_secs()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(waits[..3], [600, 1200, 2400]);
        assert_eq!(waits[39], 86_400);
        assert_eq!(pace.may_begin("other", &settings, seconds(5)), Ok(()));
        pace.settle(&hook, false, (seconds(600), Duration::ZERO), seconds(5));
        assert_eq!(pace.may_begin("hook", &settings, seconds(5)), Ok(()));
        pace.settle(&hook, true, (Duration::ZERO, seconds(70)), seconds(5));
        assert_eq!(pace.may_begin("hook", &settings, seconds(5)), Ok(()));
        pace.settle(&hook, true, (Duration::ZERO, Duration::ZERO), seconds(5));
        let wait = Refusal::BackedOff {
            failures: 2,
            wait: seconds(120),
        };
        assert_eq!(pace.may_begin("hook", &settings, seconds(5)), Err(wait));
        pace.keep_hooks(|_| false);
        assert_eq!(pace.may_begin("hook", &settings, seconds(5)), Ok(()));
    }
}
