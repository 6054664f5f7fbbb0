//! Any bytes as a record of perf's rings: one byte of type, two of `misc`, the body.

use profiler_daemon::{
    fuzzing::parse_lifecycle,
    kernel::records::{Lifecycle, LifecycleEvent},
};

/// `sample_id_all` for TID and TIME.
const TRAILER_BYTES: usize = 16;

/// Runs one input.
pub fn run(data: &[u8]) {
    let [kind, misc_low, misc_high, body @ ..] = data else {
        return;
    };
    let misc = u16::from_le_bytes([*misc_low, *misc_high]);
    match parse_lifecycle(u32::from(*kind), misc, body) {
        Ok(Some(lifecycle)) => check(&lifecycle, body),
        Ok(None) => {}
        Err(error) => {
            assert_eq!((error.kind, error.length), (u32::from(*kind), body.len() + 8));
            // Nothing that is longer than every layout is malformed.
            assert!(body.len() < 64 + TRAILER_BYTES, "{error}");
        }
    }
}

fn check(lifecycle: &Lifecycle, body: &[u8]) {
    assert!(body.ends_with(&lifecycle.time_ns.to_le_bytes()));
    let fields = &body[..body.len() - TRAILER_BYTES];
    let is_text =
        |text: &[u8]| !text.contains(&0) && (text.is_empty() || fields.windows(text.len()).any(|at| at == text));
    let is_named = |number: u32| fields.as_chunks::<4>().0.contains(&number.to_le_bytes());
    let sound = match &lifecycle.event {
        LifecycleEvent::Fork { pid, parent } => pid != parent && is_named(pid.0) && is_named(parent.0),
        LifecycleEvent::Thread { pid } => is_named(pid.0),
        LifecycleEvent::Exec { pid, name } => is_named(pid.0) && is_text(name),
        LifecycleEvent::Rename { pid, tid, name } => is_named(pid.0) && is_named(*tid) && is_text(name),
        LifecycleEvent::Exit { pid } => is_named(pid.0),
        LifecycleEvent::Map { pid, mapping } => is_named(pid.0) && mapping.length > 0 && is_text(&mapping.path),
        LifecycleEvent::Lost { .. } => true,
    };
    assert!(sound, "{lifecycle:?}");
}
