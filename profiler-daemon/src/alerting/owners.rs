//! Who a process is that an alert is about: its name and its service, also once it has ended.

use std::time::SystemTime;

use profiler_alerts::{Alert, AlertId};
use profiler_readings::Subject;
use profiler_store::{
    Owner,
    state::{Encoding, Evidence, State},
};

use crate::readings::Board;

/// What that is called among what is kept with an alert.
const KIND: &str = "process";
/// Between the two, neither of which can hold it.
const SEPARATOR: char = '\0';

/// What is known of the process: as it is read, or as it was when the alert fired. None of an alert about anything else.
pub(super) fn of(alert: &Alert, board: &Board, state: &State) -> Option<Owner> {
    match alert.subject {
        Subject::Process { .. } => read(alert, board).or_else(|| kept(alert.id, state)),
        _ => None,
    }
}

/// Keeps what is known of it with the alert, for when nobody reads it any more.
pub(super) fn keep(alert: &Alert, board: &Board, state: &mut State, made: SystemTime) {
    let Some(owner) = read(alert, board) else { return };
    let evidence = Evidence {
        kind: KIND.to_owned(),
        encoding: Encoding::Raw,
        made,
        body: format!("{}{SEPARATOR}{}", owner.name, owner.service).into_bytes(),
    };
    if let Err(error) = state.put_evidence(alert.id, &evidence) {
        tracing::warn!(alert = %alert.id, %error, "the name of a process is not kept");
    }
}

/// Only of processes that is known.
fn read(alert: &Alert, board: &Board) -> Option<Owner> {
    board.series().owner(&alert.subject).cloned()
}

fn kept(id: AlertId, state: &State) -> Option<Owner> {
    let body = state.evidence(id, KIND).ok().flatten()?.body;
    let text = String::from_utf8(body).ok()?;
    let (name, service) = text.split_once(SEPARATOR)?;
    Some(Owner {
        name: name.into(),
        service: service.into(),
    })
}
