//! Any bytes as each message that a client may send, against a small store; and as a profile that a daemon may send.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arbitrary::Unstructured;
use profiler_daemon::fuzzing::{check_lease, check_pid, check_query, profile_message};
use profiler_profile::render::{folded, svg};
use profiler_proto::v1;
use profiler_store::{Limits, Store};
use prost::Message;

use crate::{cli_convert, made_up, render};

/// The longest lease of a watch.
const LONGEST_LEASE: Duration = Duration::from_secs(60);
/// A profile with more stacks than this is converted, and not also rendered.
const RENDERED_STACKS: usize = 200;

/// Runs one input.
pub fn run(data: &[u8]) {
    if let Ok(request) = v1::QueryProfileRequest::decode(data) {
        query(request.selector);
    }
    if let Ok(message) = v1::Comparison::decode(data) {
        comparison(message);
    }
    if let Ok(request) = v1::QueryPprofRequest::decode(data) {
        query(request.selector);
    }
    if let Ok(request) = v1::ListProcessesRequest::decode(data) {
        pid(request.pid.unwrap_or(0));
    }
    if let Ok(request) = v1::WatchProcessRequest::decode(data) {
        pid(request.pid);
    }
    if let Ok(request) = v1::LeaseWatchRequest::decode(data) {
        pid(request.pid);
        if let Ok(lease) = check_lease(request.duration) {
            assert!(!lease.is_zero() && lease <= LONGEST_LEASE, "{lease:?}");
        }
    }
    // Requests without fields: whatever is in them is passed over, or is no message at all.
    drop((v1::GetStatusRequest::decode(data), v1::GetConfigRequest::decode(data)));
    if let Ok(profile) = v1::Profile::decode(data) {
        answer(profile, data.len() as u8);
    }
}

fn pid(pid: u32) {
    assert_eq!(check_pid(pid).is_ok(), pid != 0);
}

fn now() -> SystemTime {
    UNIX_EPOCH + made_up::NOON
}

/// Reads a selector and asks the store.
fn query(selector: Option<v1::ProfileSelector>) {
    let (target, span) = match check_query(selector, now()) {
        Ok(query) => query,
        Err(reason) => {
            assert!(!reason.is_empty() && !reason.contains('\n'));
            return;
        }
    };
    assert!(
        span.end <= now() && span.start.is_none_or(|start| start < span.end),
        "{span:?}"
    );
    match store().select(target, span).merge() {
        Ok(answer) => drop(profile_message(&answer.profile).encode_to_vec()),
        Err(mismatch) => panic!("{mismatch}"),
    }
}

/// Windows of one minute before and at noon.
fn store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| {
        let mut store = Store::new(Limits {
            retention: Duration::from_secs(900),
            max_bytes: 1 << 20,
        });
        let bytes: Vec<u8> = (0..1_000_u32).map(|index| (index * 7 + index / 9) as u8).collect();
        for minute in 0..5 {
            let profile = made_up::profile(&mut Unstructured::new(&bytes));
            let Ok(mut profile) = profile else {
                panic!("no profile from {} bytes", bytes.len())
            };
            profile.start = now() - Duration::from_secs(60 * (5 - minute));
            profile.end = profile.start + Duration::from_secs(60);
            store.insert(profile, Duration::ZERO);
        }
        store
    })
}

/// What the command line makes of a profile from a daemon that it does not trust either, and shows in one way.
fn answer(message: v1::Profile, way: u8) {
    let nodes = message.nodes.len();
    let samples = message
        .nodes
        .iter()
        .map(|node| u128::from(node.self_samples))
        .sum::<u128>();
    let Ok(profile) = cli_convert::profile(message) else {
        return;
    };
    assert!(profile.stacks.len() <= nodes);
    assert_eq!(u128::from(profile.samples()), samples);
    if profile.stacks.len() <= RENDERED_STACKS {
        render::check(&profile, way);
    }
}

/// What a daemon says of two spans: whatever is in it, it is refused or drawn.
fn comparison(message: v1::Comparison) {
    let places = message.nodes.len();
    let Ok(comparison) = cli_convert::comparison::comparison(message) else {
        return;
    };
    assert!(comparison.nodes.len() <= places);
    if places <= RENDERED_STACKS {
        let mut out = Vec::new();
        // Nothing to draw is no fault.
        drop(svg::write_difference(&comparison, "a <b> & c", &mut out));
        drop(folded::write_difference(&comparison, "a <b> & c", &mut out));
        assert!(String::from_utf8(out).is_ok());
    }
}
