//! Readings held against limits, evaluation by evaluation.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_readings::{Gap, Metric, Moment, Subject};

use crate::{
    Alert, EndReason, Held, InvalidSilence, Limit, Phase, Silence, SilenceId, Stored,
    limited::Limited,
    track::{Live, Missing, Seen, Track},
};

/// Most silences at a time.
const MAX_SILENCES: usize = 1000;

/// How readings are held against limits, whatever the limits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Live alerts of one limit; further subjects are refused and counted. No limit takes the room of another.
    pub max_alerts_per_limit: usize,
    /// For how long a service, a process or another subject that comes and goes must be missing before it is gone.
    pub gone_after: Duration,
    /// What a pause between two evaluations counts for at most: what happened in a longer one, nobody saw.
    pub longest_step: Duration,
    /// For how long the daemon may have been away before a pending alert is dropped.
    pub longest_absence: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_alerts_per_limit: 100,
            gone_after: Duration::from_secs(30),
            longest_step: Duration::from_secs(10),
            longest_absence: Duration::from_secs(120),
        }
    }
}

/// The newest value of a subject, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// What was measured; of a counter, its rate a second.
    pub metric: Metric,
    /// Of whom.
    pub subject: Subject,
    /// The value in the unit of the metric.
    pub value: Result<f64, Gap>,
}

/// What became of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// It began: the reading is beyond the level. What runs now is evidence.
    Pending,
    /// It fires.
    Firing,
    /// It fired under a silence, which ended.
    Unsilenced,
    /// It fires no longer.
    Resolved,
    /// It was pending and never fired.
    Dropped,
}

/// One change of one alert, in the order in which they happen.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// What happened.
    pub change: Change,
    /// The alert after it, as it is to be kept.
    pub stored: Stored,
    /// Whether sinks are to be told. Only of what fires without a silence, and of the end of what they were told. What is to
    /// be told is best queued, where it outlives the daemon, before the alert is recorded as told: a daemon that is killed in
    /// between tells it twice then, and not never.
    pub notify: bool,
}

/// How many alerts there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Alerts that are pending.
    pub pending: usize,
    /// Alerts that fire.
    pub firing: usize,
    /// Of these, alerts that nobody was told of, because of a silence.
    pub silenced: usize,
    /// Readings beyond a limit that had no room for one more alert, since the start.
    pub refused: u64,
}

/// Holds readings against limits. It is fed once in each evaluation period.
#[derive(Debug)]
pub struct Evaluator {
    settings: Settings,
    limits: Vec<Limited>,
    by_metric: HashMap<Metric, Vec<usize>>,
    /// Silences, each with its end by the clock that nobody sets.
    silences: Vec<(Silence, Duration)>,
    /// When the evaluation before was.
    evaluated: Option<Duration>,
    /// Evaluations so far.
    evaluations: u64,
    refused: u64,
}

impl Evaluator {
    /// Without limits.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            limits: Vec::new(),
            by_metric: HashMap::new(),
            silences: Vec::new(),
            evaluated: None,
            evaluations: 0,
            refused: 0,
        }
    }

    /// Holds readings against these limits from now on. Alerts of limits that stay go on, by the new levels; those of
    /// limits that are no more end.
    pub fn set_limits(&mut self, limits: impl IntoIterator<Item = Arc<Limit>>, now: Moment) -> Vec<Transition> {
        let mut old: HashMap<String, Limited> = std::mem::take(&mut self.limits)
            .into_iter()
            .map(|limited| (limited.limit.name.clone(), limited))
            .collect();
        let mut ended = Vec::new();
        for limit in limits {
            let mut tracks = old.remove(&limit.name).map(|old| old.tracks).unwrap_or_default();
            let is_same = |alert: &Alert| alert.limit.metric == limit.metric && limit.applies_to(&alert.subject);
            for (subject, track) in &mut tracks {
                if !limit.applies_to(subject) || !track.live().all(|live| is_same(&live.alert)) {
                    ended.extend(track.end(EndReason::LimitRemoved, now));
                }
                for live in track.live_mut() {
                    live.alert.limit = Arc::clone(&limit);
                }
            }
            tracks.retain(|subject, _| limit.applies_to(subject));
            self.limits.push(Limited { limit, tracks, live: 0 });
        }
        let mut removed: Vec<Limited> = old.into_values().collect();
        removed.sort_by(|one, other| one.limit.name.cmp(&other.limit.name));
        for track in removed.iter_mut().flat_map(|limited| limited.tracks.values_mut()) {
            ended.extend(track.end(EndReason::LimitRemoved, now));
        }
        self.by_metric.clear();
        for (index, limited) in self.limits.iter().enumerate() {
            self.by_metric.entry(limited.limit.metric).or_default().push(index);
        }
        self.announce(ended, now)
    }

    /// Holds the newest values against the limits. There must be one observation of each subject that is there, for each
    /// metric with a limit, also where the sampler failed (as [`Gap::NoData`]) and where it runs less often than this:
    /// a service, process, control group, disk, interface or file system that none is about is taken for gone, a host, CPU
    /// or GPU for one whose data are missing. A value that is no finite number is missing.
    pub fn evaluate(&mut self, observations: &[Observation], now: Moment) -> Vec<Transition> {
        let elapsed = self.elapsed(now);
        self.evaluations += 1;
        self.silences.retain(|(_, ends)| *ends > now.since_boot);
        for limited in &mut self.limits {
            limited.live = limited.tracks.values().flat_map(Track::live).count();
        }
        let mut changes = Vec::new();
        for observation in observations {
            let seen = match observation.value {
                Ok(value) if !value.is_finite() => Seen::Missing(Missing::NoData),
                Ok(value) => Seen::Value(value),
                Err(Gap::NoData) => Seen::Missing(Missing::NoData),
                Err(Gap::Unsupported) => Seen::Missing(Missing::Unsupported),
            };
            for &index in self.by_metric.get(&observation.metric).into_iter().flatten() {
                let Some(limited) = self.limits.get_mut(index) else {
                    continue;
                };
                if limited.limit.applies_to(&observation.subject) {
                    let evaluation = (self.evaluations, now, elapsed);
                    self.refused += limited.see(&observation.subject, seen, &self.settings, evaluation, &mut changes);
                }
            }
        }
        for limited in &mut self.limits {
            let evaluation = (self.evaluations, now, elapsed);
            self.refused += limited.miss(&self.settings, evaluation, &mut changes);
        }
        let mut transitions = self.announce(changes, now);
        transitions.extend(self.unsilence(now));
        transitions
    }

    fn elapsed(&mut self, now: Moment) -> Duration {
        let before = self.evaluated.replace(now.since_boot);
        let elapsed = before.map_or(Duration::ZERO, |before| now.since_boot.saturating_sub(before));
        elapsed.min(self.settings.longest_step)
    }

    /// Every live alert as it is to be kept.
    pub fn save(&self, now: SystemTime) -> Vec<Stored> {
        let live = self.tracks().flat_map(Track::live);
        live.map(|live| live.stored(now)).collect()
    }

    /// Takes live alerts back after a restart, before the first evaluation and after [`Self::set_limits`]. What fires goes on firing, and
    /// nobody is told a second time; what is pending goes on from where it was, unless that was too long ago. Returns what
    /// ended meanwhile.
    pub fn restore(&mut self, stored: impl IntoIterator<Item = Stored>, now: Moment) -> Vec<Transition> {
        self.evaluated = Some(now.since_boot);
        let mut ended = Vec::new();
        for mut stored in stored {
            if stored.alert.phase.is_over() {
                continue;
            }
            let away = now
                .time
                .duration_since(stored.saved)
                .unwrap_or_else(|error| error.duration());
            let is_short = away <= self.settings.longest_absence;
            let same = |limited: &&mut Limited| {
                limited.limit.name == stored.alert.limit.name
                    && limited.limit.metric == stored.alert.limit.metric
                    && limited.limit.applies_to(&stored.alert.subject)
            };
            let reason = match self.limits.iter_mut().find(same) {
                None => EndReason::LimitRemoved,
                Some(_) if stored.alert.phase == Phase::Pending && !is_short => EndReason::Interrupted,
                Some(limited) => {
                    if !is_short {
                        stored.held = Held::default();
                    }
                    stored.alert.limit = Arc::clone(&limited.limit);
                    let track = limited.tracks.entry(stored.alert.subject.clone()).or_default();
                    // Of two with one fingerprint the first is right: they come in the order in which they were kept.
                    let _is_new = track.put_back(stored);
                    continue;
                }
            };
            let live = Live {
                alert: stored.alert,
                held: stored.held,
            };
            ended.push(live.end(reason, now));
        }
        self.announce(ended, now)
    }

    /// Whether there can be such a silence, and there is room for it.
    ///
    /// # Errors
    /// Why not.
    pub fn check_silence(&self, silence: &Silence) -> Result<(), InvalidSilence> {
        silence.check()?;
        let others = self.silences().filter(|other| other.id != silence.id);
        if others.count() >= MAX_SILENCES {
            return Err(InvalidSilence::TooMany);
        }
        Ok(())
    }

    /// Keeps alerts that it matches from being told, until its end.
    ///
    /// # Errors
    /// There can be no such silence, or there are too many.
    pub fn add_silence(&mut self, silence: Silence, now: Moment) -> Result<(), InvalidSilence> {
        self.check_silence(&silence)?;
        self.silences.retain(|(other, _)| other.id != silence.id);
        // The clock on the wall is asked once: a step of it afterwards ends no silence.
        if let Ok(left) = silence.until.duration_since(now.time) {
            self.silences.push((silence, now.since_boot.saturating_add(left)));
        }
        Ok(())
    }

    /// Ends a silence. Whether there was one.
    pub fn remove_silence(&mut self, id: SilenceId) -> bool {
        let before = self.silences.len();
        self.silences.retain(|(silence, _)| silence.id != id);
        self.silences.len() != before
    }

    /// The silences that hold.
    pub fn silences(&self) -> impl Iterator<Item = &Silence> {
        self.silences.iter().map(|(silence, _)| silence)
    }

    /// The silence that keeps an alert from being told.
    pub fn silence_of(&self, alert: &Alert) -> Option<&Silence> {
        if self.silences.is_empty() {
            return None;
        }
        let labels = alert.labels();
        self.silences().find(|silence| silence.matches(&labels))
    }

    /// The live alerts, by limit and subject.
    pub fn alerts(&self) -> impl Iterator<Item = &Alert> {
        self.tracks().flat_map(Track::live).map(|live| &live.alert)
    }

    /// The limits in force.
    pub fn limits(&self) -> impl Iterator<Item = &Arc<Limit>> {
        self.limits.iter().map(|limited| &limited.limit)
    }

    /// How many alerts there are.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            refused: self.refused,
            ..Counts::default()
        };
        for alert in self.alerts() {
            match alert.phase {
                Phase::Firing { .. } => {
                    counts.firing += 1;
                    counts.silenced += usize::from(!alert.told);
                }
                _ => counts.pending += 1,
            }
        }
        counts
    }

    fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.limits.iter().flat_map(|limited| limited.tracks.values())
    }

    fn live_mut(&mut self, like: &Alert) -> Option<&mut Live> {
        let limited = self
            .limits
            .iter_mut()
            .find(|limited| limited.limit.name == like.limit.name)?;
        let track = limited.tracks.get_mut(&like.subject)?;
        track.live_mut().find(|live| live.alert.id == like.id)
    }

    /// Decides who hears of changes.
    fn announce(&mut self, changes: Vec<(Change, Live)>, now: Moment) -> Vec<Transition> {
        let mut transitions = Vec::with_capacity(changes.len());
        for (change, mut live) in changes {
            let notify = match change {
                Change::Firing => self.silence_of(&live.alert).is_none(),
                Change::Resolved => live.alert.told,
                Change::Pending | Change::Dropped | Change::Unsilenced => false,
            };
            if change == Change::Firing {
                live.alert.told = notify;
                if let Some(kept) = self.live_mut(&live.alert) {
                    kept.alert.told = notify;
                }
            }
            transitions.push(Transition {
                change,
                stored: live.stored(now.time),
                notify,
            });
        }
        transitions
    }

    /// What fires, and nobody was told because of a silence that is over.
    fn unsilence(&mut self, now: Moment) -> Vec<Transition> {
        let untold: Vec<Alert> = self
            .alerts()
            .filter(|alert| matches!(alert.phase, Phase::Firing { .. }) && !alert.told)
            .filter(|alert| self.silence_of(alert).is_none())
            .cloned()
            .collect();
        let mut transitions = Vec::new();
        for alert in untold {
            if let Some(live) = self.live_mut(&alert) {
                live.alert.told = true;
                transitions.push(Transition {
                    change: Change::Unsilenced,
                    stored: live.stored(now.time),
                    notify: true,
                });
            }
        }
        transitions
    }
}

impl Live {
    fn stored(&self, saved: SystemTime) -> Stored {
        Stored {
            alert: self.alert.clone(),
            held: self.held,
            saved,
        }
    }
}
