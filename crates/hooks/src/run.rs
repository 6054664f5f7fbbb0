//! A run of a hook, from the proposal to its end: what is kept of it, whole after each step.

use std::{fmt, str::FromStr, sync::Arc};

use profiler_alerts::AlertId;
use profiler_readings::{Moment, Subject};

use crate::{Change, Effect, Kind, Mode, Outcome, Phase, Side, Stage, TargetId, Undo, Verdict, Watched, target::cut};

/// Longest text of others that is kept with a run, in bytes.
const MAX_TEXT_BYTES: usize = 4096;
/// Steps that are kept of a run. A run has fewer; only settings that can hardly be put back make more.
const MAX_STEPS: usize = 32;

/// One run. It is shown as sixteen hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for RunId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// Which start of the host: identities of processes and groups, and times since the start, are of one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Boot(pub u128);

/// Why a hook is to run.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// An alert fires.
    Alert {
        /// Which.
        alert: AlertId,
        /// The name of its limit.
        limit: String,
        /// The reading that is beyond the limit.
        watched: Watched,
    },
    /// Somebody asked.
    Request {
        /// Their user.
        uid: u32,
        /// Whether they only want to know what would be done.
        dry_run: bool,
        /// Whom they mean.
        about: Subject,
        /// The reading to judge by.
        watched: Option<Watched>,
    },
}

impl Cause {
    /// Whom the run is about.
    pub fn about(&self) -> &Subject {
        match self {
            Self::Alert { watched, .. } => &watched.subject,
            Self::Request { about, .. } => about,
        }
    }

    /// The reading that it is judged by.
    pub fn watched(&self) -> Option<&Watched> {
        match self {
            Self::Alert { watched, .. } => Some(watched),
            Self::Request { watched, .. } => watched.as_ref(),
        }
    }

    /// The alert that it is about.
    pub fn alert(&self) -> Option<AlertId> {
        match self {
            Self::Alert { alert, .. } => Some(*alert),
            Self::Request { .. } => None,
        }
    }

    /// Whether only what would be done is asked for.
    pub(crate) fn is_dry_run(&self) -> bool {
        matches!(self, Self::Request { dry_run: true, .. })
    }
}

/// One step of a run, as it is shown and audited.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// When.
    pub at: Moment,
    /// What the run was at from then on.
    pub stage: Stage,
    /// What there is to say of it; may hold what others wrote, not escaped.
    pub note: String,
}

/// Whom a run acts on, as it is kept: no arguments and no environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Who.
    pub id: TargetId,
    /// What they are called.
    pub name: String,
}

/// A run as it is at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Which one; later runs have greater ones.
    pub id: RunId,
    /// The name of the hook.
    pub hook: Arc<str>,
    /// What the hook did when the run began.
    pub kind: Kind,
    /// Why it runs.
    pub cause: Cause,
    /// During which start of the host.
    pub boot: Boot,
    /// How far it goes.
    pub mode: Mode,
    /// Where it is on its way.
    pub phase: Phase,
    /// Whom it acts on, once somebody was chosen. From then on it counts as a run.
    pub target: Option<Chosen>,
    /// What was, before.
    pub before: Option<Side>,
    /// What is, after.
    pub after: Option<Side>,
    /// What changed.
    pub effect: Option<Effect>,
    /// Settings that it changed or was about to change.
    pub changes: Vec<Change>,
    /// Where they are on their way back.
    pub undo: Undo,
    /// What whoever did it said, not escaped: the beginning of the output of a command, what was collected.
    pub said: String,
    /// Its steps, the newest last.
    pub steps: Vec<Step>,
}

impl Run {
    /// A proposal.
    pub(crate) fn new(id: RunId, hook: &Arc<str>, kind: Kind, cause: Cause, boot: Boot, now: Moment) -> Self {
        let mut run = Self {
            id,
            hook: Arc::clone(hook),
            kind,
            cause,
            boot,
            mode: Mode::Observe,
            phase: Phase::At(Stage::Proposed),
            target: None,
            before: None,
            after: None,
            effect: None,
            changes: Vec::new(),
            undo: Undo::Nothing,
            said: String::new(),
            steps: Vec::new(),
        };
        run.note(Stage::Proposed, String::new(), now);
        run
    }

    /// When it was proposed.
    pub fn began(&self) -> Option<Moment> {
        self.steps.first().map(|step| step.at)
    }

    /// When it ended, if it has.
    pub fn ended(&self) -> Option<Moment> {
        let ended = self.steps.iter().find(|step| step.stage == Stage::Ended);
        ended.map(|step| step.at)
    }

    /// When its target was chosen, which is when it began to count as a run.
    pub fn counted(&self) -> Option<Moment> {
        let after_choice = self.steps.iter().find(|step| step.stage > Stage::Guard);
        after_choice.map(|step| step.at).filter(|_| self.target.is_some())
    }

    /// What it is at.
    pub fn stage(&self) -> Stage {
        match &self.phase {
            Phase::At(stage) => *stage,
            Phase::Over(_) => Stage::Ended,
        }
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::At(_) => None,
            Phase::Over(outcome) => Some(outcome),
        }
    }

    /// Whether it went wrong by the hook's own doing, or may have: such hooks wait longer and longer.
    pub fn has_failed(&self) -> bool {
        let Some(outcome) = self.outcome() else { return false };
        match outcome {
            Outcome::Refused(_) | Outcome::Observed | Outcome::DryRun => false,
            Outcome::Kept => self.is_worse(),
            Outcome::Undone => true,
            Outcome::Failed { during, .. } | Outcome::TimedOut { during } => *during >= Stage::Prepare,
            Outcome::Gone { during } => *during >= Stage::Apply,
            Outcome::Interrupted { during } => *during == Stage::Apply,
        }
    }

    /// Whether the readings are worse than before.
    pub fn is_worse(&self) -> bool {
        self.effect.is_some_and(|effect| effect.verdict == Verdict::Worse)
    }

    /// Goes on to a stage.
    pub(crate) fn enter(&mut self, stage: Stage, note: String, now: Moment) {
        self.phase = Phase::At(stage);
        self.note(stage, note, now);
    }

    /// Ends.
    pub(crate) fn end(&mut self, outcome: Outcome, now: Moment) {
        let note = match &outcome {
            Outcome::Refused(refusal) => refusal.to_string(),
            Outcome::Failed { reason, .. } => reason.clone(),
            _ => String::new(),
        };
        self.phase = Phase::Over(outcome);
        self.note(Stage::Ended, note, now);
    }

    /// Adds a step. When there are too many, the newest takes the place of the one before.
    pub(crate) fn note(&mut self, stage: Stage, note: String, now: Moment) {
        if self.steps.len() >= MAX_STEPS {
            self.steps.pop();
        }
        self.steps.push(Step {
            at: now,
            stage,
            note: bounded(note),
        });
    }
}

/// A text of others, cut where it is too long.
pub(crate) fn bounded(mut text: String) -> String {
    let length = cut(&text, MAX_TEXT_BYTES).len();
    text.truncate(length);
    text
}
