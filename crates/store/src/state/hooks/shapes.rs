//! The shapes that runs of hooks are written in: JSON in a column. What is told by a name is written by it.

use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
pub(super) struct WrittenRun {
    pub(super) hook: String,
    pub(super) kind: String,
    pub(super) cause: WrittenCause,
    pub(super) boot: String,
    pub(super) mode: String,
    pub(super) phase: WrittenPhase,
    pub(super) target: Option<WrittenTarget>,
    pub(super) before: Option<WrittenSide>,
    pub(super) after: Option<WrittenSide>,
    pub(super) effect: Option<WrittenEffect>,
    pub(super) changes: Vec<WrittenChange>,
    pub(super) undo: WrittenUndo,
    pub(super) said: String,
    pub(super) steps: Vec<WrittenStep>,
}

#[derive(Deserialize, Serialize)]
pub(super) struct WrittenMoment {
    pub(super) time_ns: i64,
    pub(super) since_boot_ns: u64,
}

#[derive(Deserialize, Serialize)]
pub(super) struct WrittenSubject {
    pub(super) scope: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) start_ticks: u64,
}

#[derive(Deserialize, Serialize)]
pub(super) struct WrittenWatched {
    pub(super) metric: String,
    pub(super) subject: WrittenSubject,
    pub(super) wrong: String,
}

#[derive(Deserialize, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub(super) enum WrittenCause {
    Alert {
        alert: String,
        limit: String,
        watched: WrittenWatched,
    },
    Request {
        uid: u32,
        dry_run: bool,
        about: WrittenSubject,
        watched: Option<WrittenWatched>,
    },
}

#[derive(Deserialize, Serialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub(super) enum WrittenPhase {
    At { stage: String },
    Refused { refusal: WrittenRefusal },
    Observed,
    DryRun,
    Kept,
    Undone,
    Failed { during: String, reason: String },
    TimedOut { during: String },
    Gone { during: String },
    Interrupted { during: String },
}

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct WrittenRefusal {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failures: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wait_ns: Option<u64>,
}

#[derive(Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum WrittenTarget {
    Host { name: String },
    Process { pid: u32, start_ticks: u64, name: String },
    Group { id: u64, name: String },
}

#[derive(Deserialize, Serialize)]
pub(super) struct WrittenSide {
    pub(super) mean: Option<f64>,
    pub(super) blocks: Vec<f64>,
    pub(super) resident_bytes: Option<u64>,
}

#[derive(Deserialize, Serialize)]
pub(super) struct WrittenEffect {
    pub(super) before: Option<f64>,
    pub(super) after: Option<f64>,
    pub(super) interval: Option<(f64, f64)>,
    pub(super) verdict: String,
}

#[derive(Deserialize, Serialize)]
pub(super) struct WrittenChange {
    pub(super) knob: String,
    #[serde(flatten)]
    pub(super) place: WrittenPlace,
    pub(super) before: String,
    pub(super) ours: String,
}

#[derive(Deserialize, Serialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub(super) enum WrittenPlace {
    Thread {
        pid: u32,
        start_ticks: u64,
        tid: u32,
        thread_start_ticks: u64,
    },
    Group {
        id: u64,
        path: String,
    },
}

#[derive(Deserialize, Serialize)]
#[serde(tag = "undo", rename_all = "snake_case")]
pub(super) enum WrittenUndo {
    Nothing,
    Held {
        until: WrittenMoment,
    },
    Underway {
        reason: String,
        attempts: u32,
    },
    Done {
        reason: String,
        restored: u32,
        others: u32,
        gone: u32,
    },
}

#[derive(Deserialize, Serialize)]
pub(super) struct WrittenStep {
    pub(super) at: WrittenMoment,
    pub(super) stage: String,
    pub(super) note: String,
}
