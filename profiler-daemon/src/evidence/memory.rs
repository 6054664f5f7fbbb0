//! What is kept with an alert about memory, besides what is kept with any: whether memory grows, which code touched first what
//! grew, and, of a process that was killed, what it last did.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use profiler_alerts::{size_in_words, span_in_words};
use profiler_profile::{PageKind, visible};
use profiler_readings::{Metric, Subject, Trend};
use profiler_store::{GrowthAnswer, GrowthQuery, Owner, Span, Store, Target};

use super::{Breach, KeptProfile, Track, lines::MAX_NAME_BYTES};
use crate::readings::{Board, GrowthReport, RoomLimit};

/// What a process that was killed did last: so much time before.
pub const LAST_WORDS: Duration = Duration::from_secs(60);
/// Verdicts that are kept, those that grow fastest first.
const MAX_VERDICTS: usize = 20;
/// Verdicts that are told.
const MAX_TOLD: usize = 3;
/// What a verdict of which little is certain rounds to.
const ROUND_BYTES: f64 = 1024.0;

/// What memory did.
#[derive(Clone, Debug, Default)]
pub struct MemoryEvidence {
    /// Verdicts on whom the alert is about; of the host, on those that grow.
    pub growth: Vec<GrowthReport>,
    /// Of a process that was killed: its name and service, and what it did in its last minute.
    pub victim: Option<Victim>,
    /// Code that touched first what was still there, in bytes.
    pub grown: Option<KeptProfile>,
    /// What could not be had, and why.
    pub missing: Vec<String>,
}

/// A process that was killed because memory ran out.
#[derive(Clone, Debug, Default)]
pub struct Victim {
    /// What is known of it.
    pub owner: Option<Owner>,
    /// What ran in it.
    pub ran: Option<KeptProfile>,
}

/// Whether a limit is about memory.
pub fn concerns_memory(metric: Metric) -> bool {
    use Metric as M;
    matches!(
        metric,
        M::HostMemoryUsed
            | M::HostMemoryAvailable
            | M::HostMemoryAnonymous
            | M::HostMemoryPressure
            | M::HostMemoryPressureTime
            | M::HostMemoryStalled
            | M::HostMemoryStalledTime
            | M::HostSwapUsed
            | M::HostOomKills
            | M::ServiceMemory
            | M::ServiceMemoryAnonymous
            | M::ServiceMemoryFile
            | M::ServiceMemoryShared
            | M::ServiceMemoryProportional
            | M::ServiceMemoryGrowth
            | M::ServiceMemoryRoom
            | M::ServiceMemoryLimitUsed
            | M::ServiceSwap
            | M::ServiceOomKills
            | M::ProcessMemory
            | M::ProcessMemoryAnonymous
            | M::ProcessMemoryFile
            | M::ProcessMemoryShared
            | M::ProcessMemoryProportional
            | M::ProcessMemoryGrowth
            | M::ProcessSwap
            | M::ProcessOomKilled
            | M::ControlGroupMemory
            | M::ControlGroupWorkingSet
            | M::ControlGroupMemoryLimitUsed
            | M::ControlGroupSwap
            | M::ControlGroupMemoryLowEvents
            | M::ControlGroupMemoryHighEvents
            | M::ControlGroupMemoryMaxEvents
            | M::ControlGroupOomEvents
            | M::ControlGroupOomKills
    )
}

/// Takes what memory did around a breach. `pages` tells which code touched the pages that are still there.
pub fn gather(
    store: &Mutex<Store>,
    board: &Board,
    breach: &Breach,
    pages: impl FnOnce(GrowthQuery) -> Result<GrowthAnswer, String>,
) -> MemoryEvidence {
    let mut evidence = MemoryEvidence {
        growth: verdicts(board, &breach.subject),
        ..MemoryEvidence::default()
    };
    if breach.metric == Metric::ProcessOomKilled {
        evidence.victim = Some(Victim {
            owner: owner(board, &breach.subject),
            ran: last_words(store, &breach.subject, breach.end),
        });
    }
    match target(&breach.subject) {
        None => evidence.missing.push(match breach.subject {
            Subject::ControlGroup(_) => {
                "which code grew: which processes are of a control group is not known".to_owned()
            }
            _ => "which code grew: it is nobody's whose pages are followed".to_owned(),
        }),
        Some(target) => {
            let query = GrowthQuery {
                target,
                span: Span {
                    start: None,
                    end: breach.end,
                },
                kind: PageKind::Anonymous,
            };
            match pages(query) {
                Ok(answer) if answer.growth.stacks.is_empty() => {
                    let why = "which code grew: no page that it touched was followed".to_owned();
                    evidence.missing.push(why);
                }
                Ok(answer) => evidence.grown = Some(super::heaviest(answer.growth)),
                Err(why) => evidence.missing.push(format!("which code grew: {why}")),
            }
        }
    }
    evidence
}

fn target(subject: &Subject) -> Option<Target> {
    match subject {
        Subject::Host => Some(Target::Everything),
        Subject::Service(name) => Some(Target::Service(name.clone())),
        Subject::Process { pid, .. } => Some(Target::Process(*pid)),
        _ => None,
    }
}

fn owner(board: &Board, subject: &Subject) -> Option<Owner> {
    let series = board.series();
    series
        .series()
        .find(|series| series.subject == subject)
        .and_then(|series| series.owner.cloned())
}

/// The verdicts on a subject: a service with its processes, a process with its service, and of anything else whoever grows.
fn verdicts(board: &Board, subject: &Subject) -> Vec<GrowthReport> {
    let reports = board.growth();
    let service_of = |report: &GrowthReport| match &report.growth.subject {
        Subject::Service(name) => Some(name.clone()),
        _ => report.owner.as_ref().map(|owner| owner.service.clone()),
    };
    let own = reports.iter().find(|report| report.growth.subject == *subject);
    let is_meant = |report: &&GrowthReport| match subject {
        Subject::Service(name) => service_of(report).as_ref() == Some(name),
        Subject::Process { .. } => {
            let of_service = |name| report.growth.subject == Subject::Service(name);
            report.growth.subject == *subject || own.and_then(service_of).is_some_and(of_service)
        }
        _ => report.growth.verdict.trend == Trend::Growing,
    };
    let mut meant: Vec<GrowthReport> = reports.iter().filter(is_meant).cloned().collect();
    let pace = |report: &GrowthReport| report.growth.verdict.pace.map_or(f64::NEG_INFINITY, |pace| pace.value);
    // Whom it is about goes first.
    meant.sort_by(|one, other| {
        let is_other = |report: &GrowthReport| report.growth.subject != *subject;
        is_other(one)
            .cmp(&is_other(other))
            .then_with(|| pace(other).total_cmp(&pace(one)))
    });
    meant.truncate(MAX_VERDICTS);
    meant
}

/// What ran in a process in its last minute.
fn last_words(store: &Mutex<Store>, subject: &Subject, end: SystemTime) -> Option<KeptProfile> {
    let Subject::Process { pid, .. } = subject else {
        return None;
    };
    let span = Span {
        start: end.checked_sub(LAST_WORDS),
        end,
    };
    let selection = store
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .select(Target::Process(*pid), span);
    let profile = selection.merge().ok()?.profile;
    (profile.samples() > 0).then(|| super::heaviest(profile))
}

/// What is told of it.
pub(super) fn lines(evidence: &MemoryEvidence, breach: &Breach, readings: &[Track]) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(victim), Subject::Process { pid, .. }) = (&evidence.victim, &breach.subject) {
        let shown = |name: &str| visible(name, MAX_NAME_BYTES).into_owned();
        let name = match &victim.owner {
            Some(owner) if owner.service.is_empty() => format!("process {pid} ({})", shown(&owner.name)),
            Some(owner) => format!("process {pid} ({} of {})", shown(&owner.name), shown(&owner.service)),
            None => format!("process {pid}"),
        };
        let held = readings
            .iter()
            .filter(|track| track.metric == Metric::ProcessMemory && track.subject == breach.subject)
            .filter_map(|track| track.range.buckets.iter().rev().find(|bucket| bucket.last > 0.0))
            .map(|bucket| format!("; {} were resident when it was last read", size_in_words(bucket.last)))
            .next();
        lines.push(format!(
            "{name} was killed because memory ran out{}",
            held.unwrap_or_default()
        ));
    }
    lines.extend(evidence.growth.iter().take(MAX_TOLD).map(sentence));
    if let Some(grown) = &evidence.grown {
        lines.extend(super::lines::grown(&grown.profile, grown.left_out));
    }
    lines.extend(evidence.missing.iter().map(|missing| format!("not known: {missing}")));
    lines
}

/// A verdict in a sentence.
fn sentence(report: &GrowthReport) -> String {
    let (growth, verdict) = (&report.growth, &report.growth.verdict);
    let shown = |name: &str| visible(name, MAX_NAME_BYTES).into_owned();
    let who = match (&growth.subject, &report.owner) {
        (Subject::Process { pid, .. }, Some(owner)) => format!("memory of process {pid} ({})", shown(&owner.name)),
        (Subject::Process { pid, .. }, None) => format!("memory of process {pid}"),
        (subject, _) => format!("memory of {}", shown(&subject.to_string())),
    };
    let Some(pace) = verdict.pace else {
        let followed = span_in_words(verdict.followed);
        return format!("{who}: whether it grows is not known yet, it was followed for {followed}");
    };
    let an_hour = |bytes: f64| size_in_words((bytes / ROUND_BYTES).round() * ROUND_BYTES);
    let how = match verdict.trend {
        Trend::Growing => "grows by",
        Trend::Shrinking => "shrinks, it changes by",
        Trend::Steady | Trend::NotEnoughData => "is steady, it changes by",
    };
    let room = report.room.and_then(|room| {
        let [lasts, _] = room.lasts?;
        let of = match room.limit {
            RoomLimit::ControlGroup => "to the limit of its control group",
            RoomLimit::Host => "that the host has left",
        };
        let minutes = Duration::from_secs(lasts.as_secs() / 60 * 60);
        Some(format!(
            "; the {} {of} last for {}",
            an_hour(room.bytes as f64),
            span_in_words(minutes)
        ))
    });
    format!(
        "{who} {how} {} an hour ({} to {}) over {}{}",
        an_hour(pace.value),
        an_hour(pace.low),
        an_hour(pace.high),
        span_in_words(pace.span),
        room.unwrap_or_default()
    )
}
