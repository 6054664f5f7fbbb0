//! Where runs are on their way, and how they ended, to and from the shapes that they are written in.

use std::time::Duration;

use profiler_hooks::{Outcome, Phase, Refusal, Stage};

use super::{
    super::{StateError, wire::bad},
    shapes::{WrittenPhase, WrittenRefusal},
    wire::{nanoseconds, stage},
};

pub(super) fn write_phase(phase: &Phase) -> WrittenPhase {
    let name = |stage: &Stage| stage.name().to_owned();
    match phase {
        Phase::At(stage) => WrittenPhase::At { stage: name(stage) },
        Phase::Over(outcome) => match outcome {
            Outcome::Refused(refusal) => WrittenPhase::Refused {
                refusal: write_refusal(refusal),
            },
            Outcome::Observed => WrittenPhase::Observed,
            Outcome::DryRun => WrittenPhase::DryRun,
            Outcome::Kept => WrittenPhase::Kept,
            Outcome::Undone => WrittenPhase::Undone,
            Outcome::Failed { during, reason } => WrittenPhase::Failed {
                during: name(during),
                reason: reason.clone(),
            },
            Outcome::TimedOut { during } => WrittenPhase::TimedOut { during: name(during) },
            Outcome::Gone { during } => WrittenPhase::Gone { during: name(during) },
            Outcome::Interrupted { during } => WrittenPhase::Interrupted { during: name(during) },
        },
    }
}

pub(super) fn read_phase(written: WrittenPhase) -> Result<Phase, StateError> {
    let outcome = match written {
        WrittenPhase::At { stage: name } => return Ok(Phase::At(stage(&name)?)),
        WrittenPhase::Refused { refusal } => Outcome::Refused(read_refusal(refusal)?),
        WrittenPhase::Observed => Outcome::Observed,
        WrittenPhase::DryRun => Outcome::DryRun,
        WrittenPhase::Kept => Outcome::Kept,
        WrittenPhase::Undone => Outcome::Undone,
        WrittenPhase::Failed { during, reason } => Outcome::Failed {
            during: stage(&during)?,
            reason,
        },
        WrittenPhase::TimedOut { during } => Outcome::TimedOut {
            during: stage(&during)?,
        },
        WrittenPhase::Gone { during } => Outcome::Gone {
            during: stage(&during)?,
        },
        WrittenPhase::Interrupted { during } => Outcome::Interrupted {
            during: stage(&during)?,
        },
    };
    Ok(Phase::Over(outcome))
}

fn write_refusal(refusal: &Refusal) -> WrittenRefusal {
    let mut written = WrittenRefusal {
        name: refusal.name().to_owned(),
        ..WrittenRefusal::default()
    };
    match refusal {
        Refusal::Paused { by } => written.by = Some(by.clone()),
        Refusal::UserNotAllowed { uid } => written.uid = Some(*uid),
        Refusal::RateLimited { wait } | Refusal::CoolingDown { wait } => written.wait_ns = Some(nanoseconds(*wait)),
        Refusal::BackedOff { failures, wait } => {
            written.failures = Some(*failures);
            written.wait_ns = Some(nanoseconds(*wait));
        }
        // Its name is all there is.
        _ => {}
    }
    written
}

fn read_refusal(written: WrittenRefusal) -> Result<Refusal, StateError> {
    let wait = written.wait_ns.map(Duration::from_nanos);
    let found = match written.name.as_str() {
        "paused" => written.by.map(|by| Refusal::Paused { by }),
        "user_not_allowed" => written.uid.map(|uid| Refusal::UserNotAllowed { uid }),
        "rate_limited" => wait.map(|wait| Refusal::RateLimited { wait }),
        "cooling_down" => wait.map(|wait| Refusal::CoolingDown { wait }),
        "backed_off" => written
            .failures
            .zip(wait)
            .map(|(failures, wait)| Refusal::BackedOff { failures, wait }),
        name => Refusal::PLAIN.into_iter().find(|refusal| refusal.name() == name),
    };
    found.ok_or_else(|| bad("a refusal", &written.name))
}
