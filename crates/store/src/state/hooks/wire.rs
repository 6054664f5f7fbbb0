//! Runs of hooks to and from the shapes that they are written in.

use std::time::Duration;

use profiler_alerts::{AlertId, Comparison};
use profiler_hooks::{
    Boot, Cause, Change, Chosen, Effect, Identity, Knob, Mode, Place, PutBack, Run, RunId, Side, Stage, Step, TargetId,
    Undo, UndoReason, Verdict, Watched,
};
use profiler_readings::{Moment, Subject};

use super::{
    super::{
        StateError, from_ns, to_ns,
        wire::{self, bad},
    },
    ends::{read_phase, write_phase},
    shapes::{
        WrittenCause, WrittenChange, WrittenEffect, WrittenMoment, WrittenPlace, WrittenRun, WrittenSide, WrittenStep,
        WrittenSubject, WrittenTarget, WrittenUndo, WrittenWatched,
    },
};

/// A run as it is written.
pub(super) fn write_run(run: &Run) -> Result<String, StateError> {
    let written = WrittenRun {
        hook: run.hook.to_string(),
        kind: run.kind.to_string(),
        cause: write_cause(&run.cause),
        boot: format!("{:032x}", run.boot.0),
        mode: run.mode.name().to_owned(),
        phase: write_phase(&run.phase),
        target: run.target.as_ref().map(write_target),
        before: run.before.as_ref().map(write_side),
        after: run.after.as_ref().map(write_side),
        effect: run.effect.map(write_effect),
        changes: run.changes.iter().map(write_change).collect(),
        undo: write_undo(run.undo),
        said: run.said.clone(),
        steps: run.steps.iter().map(write_step).collect(),
    };
    serde_json::to_string(&written).map_err(|error| bad("a run of a hook", &error.to_string()))
}

/// The run that is written so.
pub(super) fn read_run(id: RunId, json: &str) -> Result<Run, StateError> {
    let written: WrittenRun = serde_json::from_str(json).map_err(|_not_json| bad("a run of a hook", json))?;
    let boot = u128::from_str_radix(&written.boot, 16).map_err(|_not_hex| bad("a start of the host", &written.boot))?;
    let kind = written.kind.parse();
    Ok(Run {
        id,
        hook: written.hook.into(),
        kind: kind.map_err(|_unknown| bad("a kind of hook", &written.kind))?,
        cause: read_cause(written.cause)?,
        boot: Boot(boot),
        mode: named(Mode::ALL, Mode::name, "a mode", &written.mode)?,
        phase: read_phase(written.phase)?,
        target: written.target.map(read_target),
        before: written.before.map(read_side),
        after: written.after.map(read_side),
        effect: written.effect.map(read_effect).transpose()?,
        changes: written.changes.into_iter().map(read_change).collect::<Result<_, _>>()?,
        undo: read_undo(written.undo)?,
        said: written.said,
        steps: written.steps.into_iter().map(read_step).collect::<Result<_, _>>()?,
    })
}

/// Finds what has a name.
pub(super) fn named<T: Copy>(
    all: impl IntoIterator<Item = T>,
    name_of: impl Fn(T) -> &'static str,
    what: &'static str,
    name: &str,
) -> Result<T, StateError> {
    let mut all = all.into_iter();
    all.find(|one| name_of(*one) == name).ok_or_else(|| bad(what, name))
}

pub(super) fn stage(name: &str) -> Result<Stage, StateError> {
    named(Stage::ALL, Stage::name, "a stage", name)
}

pub(super) fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn write_moment(moment: Moment) -> WrittenMoment {
    WrittenMoment {
        time_ns: to_ns(moment.time),
        since_boot_ns: nanoseconds(moment.since_boot),
    }
}

fn read_moment(written: &WrittenMoment) -> Moment {
    Moment {
        time: from_ns(written.time_ns),
        since_boot: Duration::from_nanos(written.since_boot_ns),
    }
}

fn write_subject(subject: &Subject) -> WrittenSubject {
    WrittenSubject {
        scope: subject.scope().name().to_owned(),
        name: subject.to_string(),
        start_ticks: match subject {
            Subject::Process { start_ticks, .. } => *start_ticks,
            _ => 0,
        },
    }
}

fn read_subject(written: WrittenSubject) -> Result<Subject, StateError> {
    wire::read_subject(&written.scope, written.name, written.start_ticks)
}

fn write_watched(watched: &Watched) -> WrittenWatched {
    WrittenWatched {
        metric: watched.metric.name().to_owned(),
        subject: write_subject(&watched.subject),
        wrong: watched.wrong.name().to_owned(),
    }
}

fn read_watched(written: WrittenWatched) -> Result<Watched, StateError> {
    let metric = written.metric.parse();
    let sides = [Comparison::Above, Comparison::Below];
    Ok(Watched {
        metric: metric.map_err(|_unknown| bad("a reading", &written.metric))?,
        subject: read_subject(written.subject)?,
        wrong: named(sides, Comparison::name, "a comparison", &written.wrong)?,
    })
}

fn write_cause(cause: &Cause) -> WrittenCause {
    match cause {
        Cause::Alert { alert, limit, watched } => WrittenCause::Alert {
            alert: alert.to_string(),
            limit: limit.clone(),
            watched: write_watched(watched),
        },
        Cause::Request {
            uid,
            dry_run,
            about,
            watched,
        } => WrittenCause::Request {
            uid: *uid,
            dry_run: *dry_run,
            about: write_subject(about),
            watched: watched.as_ref().map(write_watched),
        },
    }
}

fn read_cause(written: WrittenCause) -> Result<Cause, StateError> {
    Ok(match written {
        WrittenCause::Alert { alert, limit, watched } => Cause::Alert {
            alert: alert.parse::<AlertId>().map_err(|_not_hex| bad("an alert", &alert))?,
            limit,
            watched: read_watched(watched)?,
        },
        WrittenCause::Request {
            uid,
            dry_run,
            about,
            watched,
        } => Cause::Request {
            uid,
            dry_run,
            about: read_subject(about)?,
            watched: watched.map(read_watched).transpose()?,
        },
    })
}

fn write_target(chosen: &Chosen) -> WrittenTarget {
    let name = chosen.name.clone();
    match chosen.id {
        TargetId::Host => WrittenTarget::Host { name },
        TargetId::Process(Identity { pid, start_ticks }) => WrittenTarget::Process { pid, start_ticks, name },
        TargetId::Group(id) => WrittenTarget::Group { id, name },
    }
}

fn read_target(written: WrittenTarget) -> Chosen {
    let (id, name) = match written {
        WrittenTarget::Host { name } => (TargetId::Host, name),
        WrittenTarget::Process { pid, start_ticks, name } => (TargetId::Process(Identity { pid, start_ticks }), name),
        WrittenTarget::Group { id, name } => (TargetId::Group(id), name),
    };
    Chosen { id, name }
}

fn write_side(side: &Side) -> WrittenSide {
    WrittenSide {
        mean: side.mean,
        blocks: side.blocks.clone(),
        resident_bytes: side.resident_bytes,
    }
}

fn read_side(written: WrittenSide) -> Side {
    Side {
        mean: written.mean,
        blocks: written.blocks,
        resident_bytes: written.resident_bytes,
    }
}

fn write_effect(effect: Effect) -> WrittenEffect {
    WrittenEffect {
        before: effect.before,
        after: effect.after,
        interval: effect.interval,
        verdict: effect.verdict.name().to_owned(),
    }
}

fn read_effect(written: WrittenEffect) -> Result<Effect, StateError> {
    Ok(Effect {
        before: written.before,
        after: written.after,
        interval: written.interval,
        verdict: named(Verdict::ALL, Verdict::name, "a verdict", &written.verdict)?,
    })
}

fn write_change(change: &Change) -> WrittenChange {
    let place = match &change.place {
        Place::Thread { process, thread } => WrittenPlace::Thread {
            pid: process.pid,
            start_ticks: process.start_ticks,
            tid: thread.pid,
            thread_start_ticks: thread.start_ticks,
        },
        Place::Group { id, path } => WrittenPlace::Group {
            id: *id,
            path: path.to_string(),
        },
    };
    WrittenChange {
        knob: change.knob.name().to_owned(),
        place,
        before: change.before.clone(),
        ours: change.ours.clone(),
    }
}

fn read_change(written: WrittenChange) -> Result<Change, StateError> {
    let place = match written.place {
        WrittenPlace::Thread {
            pid,
            start_ticks,
            tid,
            thread_start_ticks,
        } => Place::Thread {
            process: Identity { pid, start_ticks },
            thread: Identity {
                pid: tid,
                start_ticks: thread_start_ticks,
            },
        },
        WrittenPlace::Group { id, path } => Place::Group { id, path: path.into() },
    };
    Ok(Change {
        place,
        knob: named(Knob::ALL, Knob::name, "a setting", &written.knob)?,
        before: written.before,
        ours: written.ours,
    })
}

fn write_undo(undo: Undo) -> WrittenUndo {
    match undo {
        Undo::Nothing => WrittenUndo::Nothing,
        Undo::Held { until } => WrittenUndo::Held {
            until: write_moment(until),
        },
        Undo::Underway { reason, attempts } => WrittenUndo::Underway {
            reason: reason.name().to_owned(),
            attempts,
        },
        Undo::Done { reason, put_back } => WrittenUndo::Done {
            reason: reason.name().to_owned(),
            restored: put_back.restored,
            others: put_back.others,
            gone: put_back.gone,
        },
    }
}

fn read_undo(written: WrittenUndo) -> Result<Undo, StateError> {
    let reason = |name: &str| named(UndoReason::ALL, UndoReason::name, "a reason to put back", name);
    Ok(match written {
        WrittenUndo::Nothing => Undo::Nothing,
        WrittenUndo::Held { until } => Undo::Held {
            until: read_moment(&until),
        },
        WrittenUndo::Underway { reason: name, attempts } => Undo::Underway {
            reason: reason(&name)?,
            attempts,
        },
        WrittenUndo::Done {
            reason: name,
            restored,
            others,
            gone,
        } => Undo::Done {
            reason: reason(&name)?,
            put_back: PutBack { restored, others, gone },
        },
    })
}

fn write_step(step: &Step) -> WrittenStep {
    WrittenStep {
        at: write_moment(step.at),
        stage: step.stage.name().to_owned(),
        note: step.note.clone(),
    }
}

fn read_step(written: WrittenStep) -> Result<Step, StateError> {
    Ok(Step {
        at: read_moment(&written.at),
        stage: stage(&written.stage)?,
        note: written.note,
    })
}
