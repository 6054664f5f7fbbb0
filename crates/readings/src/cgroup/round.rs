//! One round: what the folders of the groups say, and what of it is a service's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    hierarchy::{Hierarchy, levels},
    kills::Kills,
    level::{Memory, Quota, read_cpu_seconds},
};
use crate::{Metric, Reading, Subject, file::ReadError, source::Moment, text};

/// A group of this round and the services that have processes in it.
pub(super) type Groups<'a> = BTreeMap<&'a [u8], BTreeSet<&'a Arc<str>>>;

/// How a round went. A group that was removed is no failure.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) left_out: u64,
    any: bool,
    error: Option<ReadError>,
}

impl Outcome {
    fn take<T>(&mut self, result: Result<T, ReadError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.any = true;
                Some(value)
            }
            Err(error) if error.is_gone() => None,
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }

    pub(super) fn finish(self) -> Result<u64, ReadError> {
        match self.error {
            Some(error) if !self.any => Err(error),
            _ => Ok(self.left_out),
        }
    }
}

/// One round of reading.
pub(super) struct Round<'a> {
    pub(super) now: Moment,
    pub(super) buffer: &'a mut Vec<u8>,
    pub(super) out: &'a mut Vec<Reading>,
}

impl Round<'_> {
    fn push(&mut self, path: &[u8], values: impl IntoIterator<Item = (Metric, Option<f64>)>) {
        let subject = Subject::ControlGroup(text::path_name(path));
        let known = values.into_iter().filter_map(|(metric, value)| Some((metric, value?)));
        let now = self.now;
        self.out
            .extend(known.map(|(metric, value)| now.reading(metric, subject.clone(), value)));
    }

    /// Adds the values of services, each the worst that its groups have.
    fn push_worst(&mut self, metric: Metric, values: BTreeMap<&Arc<str>, f64>) {
        let now = self.now;
        let readings = values
            .into_iter()
            .map(|(service, value)| now.reading(metric, Subject::Service(Arc::clone(service)), value));
        self.out.extend(readings);
    }

    pub(super) fn memory(
        &mut self,
        hierarchy: &Hierarchy,
        groups: &Groups<'_>,
        kills: &mut Kills,
        outcome: &mut Outcome,
    ) {
        let mut known: BTreeMap<&[u8], Option<Memory>> = BTreeMap::new();
        let mut services = BTreeMap::new();
        let mut rooms: BTreeMap<&Arc<str>, u64> = BTreeMap::new();
        for (&path, members) in groups {
            let (mut limits, mut swap_limit): (Option<Limits>, Option<u64>) = (None, None);
            for level in levels(path) {
                let memory = *known.entry(level).or_insert_with(|| {
                    outcome.take(Memory::read(
                        &hierarchy.folder(level),
                        hierarchy.is_unified,
                        self.buffer,
                    ))
                });
                let here = memory.and_then(|memory| {
                    let limit = memory.limit?;
                    Some(Limits {
                        lowest: limit,
                        used: memory.limit_used()?,
                        room: limit.saturating_sub(memory.working_set),
                    })
                });
                limits = limits.into_iter().chain(here).reduce(Limits::tighter);
                let of_swap = memory.and_then(|memory| memory.swap.limit);
                swap_limit = swap_limit.into_iter().chain(of_swap).min();
            }
            let Some(memory) = known.get(path).copied().flatten() else {
                continue;
            };
            let count = |value: Option<u64>| value.map(|value| value as f64);
            let used = limits.map(|limits| limits.used);
            let values = [
                (Metric::ControlGroupMemory, count(Some(memory.usage))),
                (Metric::ControlGroupWorkingSet, count(Some(memory.working_set))),
                (
                    Metric::ControlGroupMemoryLimit,
                    count(limits.map(|limits| limits.lowest)),
                ),
                (Metric::ControlGroupMemoryLimitUsed, used),
                (Metric::ControlGroupSwap, count(memory.swap.usage)),
                (Metric::ControlGroupSwapLimit, count(swap_limit)),
                (Metric::ControlGroupMemoryLowEvents, count(memory.events.low)),
                (Metric::ControlGroupMemoryHighEvents, count(memory.events.high)),
                (Metric::ControlGroupMemoryMaxEvents, count(memory.events.max)),
                (Metric::ControlGroupOomEvents, count(memory.events.oom)),
                (Metric::ControlGroupOomKills, count(memory.events.oom_kills)),
            ];
            self.push(path, values);
            for &service in members {
                if let Some(used) = used {
                    raise(services.entry(service).or_insert(used), used);
                }
                if let Some(Limits { room, .. }) = limits {
                    let least = rooms.entry(service).or_insert(room);
                    *least = room.min(*least);
                }
                if let Some(killed) = memory.events.oom_kills {
                    let is_counted = kills.add(service, path, killed, self.now.since_boot);
                    outcome.left_out += u64::from(!is_counted);
                }
            }
        }
        self.push_worst(Metric::ServiceMemoryLimitUsed, services);
        let rooms = rooms.into_iter().map(|(service, room)| (service, room as f64));
        self.push_worst(Metric::ServiceMemoryRoom, rooms.collect());
        self.push_kills(kills);
    }

    fn push_kills(&mut self, kills: &mut Kills) {
        let now = self.now;
        self.out.extend(kills.totals(now.since_boot).map(|(service, total)| {
            let subject = Subject::Service(Arc::clone(service));
            now.reading(Metric::ServiceOomKills, subject, total as f64)
        }));
    }

    pub(super) fn quotas(
        &mut self,
        hierarchy: &Hierarchy,
        groups: &Groups<'_>,
        before: &mut BTreeMap<Box<[u8]>, (u64, u64)>,
        outcome: &mut Outcome,
    ) {
        let mut known: BTreeMap<&[u8], Option<(Quota, Option<f64>)>> = BTreeMap::new();
        let mut services = BTreeMap::new();
        for (&path, members) in groups {
            let (mut cores, mut throttled): (Option<f64>, Option<f64>) = (None, None);
            for level in levels(path) {
                let entry = known.entry(level).or_insert_with(|| {
                    let quota = Quota::read(&hierarchy.folder(level), hierarchy.is_unified, self.buffer);
                    let quota = outcome.take(quota)?;
                    Some((quota, throttled_since(&quota, before.get(level))))
                });
                let Some((quota, share)) = *entry else { continue };
                cores = lower(cores, quota.cores);
                throttled = higher(throttled, share);
            }
            let Some((quota, _)) = known.get(path).copied().flatten() else {
                continue;
            };
            let throttling = quota.throttling;
            let values = [
                (Metric::ControlGroupCpuLimit, cores),
                (Metric::ControlGroupThrottled, throttled),
                (
                    Metric::ControlGroupPeriods,
                    throttling.map(|counts| counts.periods as f64),
                ),
                (
                    Metric::ControlGroupThrottledPeriods,
                    throttling.map(|counts| counts.throttled as f64),
                ),
                (
                    Metric::ControlGroupThrottledTime,
                    throttling.map(|counts| counts.seconds),
                ),
            ];
            self.push(path, values);
            for &service in members {
                if let Some(throttled) = throttled {
                    raise(services.entry(service).or_insert(throttled), throttled);
                }
            }
        }
        *before = known
            .into_iter()
            .filter_map(|(path, known)| {
                let counts = known?.0.throttling?;
                Some((path.into(), (counts.periods, counts.throttled)))
            })
            .collect();
        self.push_worst(Metric::ServiceCpuThrottled, services);
    }

    pub(super) fn cpu_time(&mut self, hierarchy: &Hierarchy, groups: &Groups<'_>, outcome: &mut Outcome) {
        for &path in groups.keys() {
            let seconds = read_cpu_seconds(&hierarchy.folder(path), hierarchy.is_unified, self.buffer);
            let seconds = outcome.take(seconds);
            self.push(path, [(Metric::ControlGroupCpuTime, seconds)]);
        }
    }
}

/// What the limits on memory of a group and those above it leave it.
#[derive(Clone, Copy)]
struct Limits {
    lowest: u64,
    used: f64,
    room: u64,
}

impl Limits {
    fn tighter(self, other: Self) -> Self {
        Self {
            lowest: self.lowest.min(other.lowest),
            used: self.used.max(other.used),
            room: self.room.min(other.room),
        }
    }
}

/// The share of the periods since the last round that were throttled, of a group with a quota. One that did not run was not
/// throttled.
fn throttled_since(quota: &Quota, before: Option<&(u64, u64)>) -> Option<f64> {
    let (_, now, before) = (quota.cores?, quota.throttling?, before?);
    let periods = now.periods.checked_sub(before.0)?;
    let throttled = now.throttled.checked_sub(before.1)?;
    match periods {
        0 => Some(0.0),
        _ => Some((throttled as f64 / periods as f64).min(1.0)),
    }
}

fn raise(highest: &mut f64, value: f64) {
    *highest = highest.max(value);
}

fn higher(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

fn lower(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::min)
}
