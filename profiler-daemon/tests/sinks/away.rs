//! Sinks that are away, slow, changed or gone.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use profiler_alerts::Severity;
use profiler_config::Sink;
use profiler_daemon::sinks::{SinkState, Status};
use tempfile::tempdir;

use crate::{
    double::{names, notification, start, status, webhook},
    receiver::{Receiver, Request, wait_until},
};

fn told(requests: &[Request]) -> Vec<String> {
    requests.iter().map(Request::told).collect()
}

#[test]
fn a_sink_that_comes_back_is_told_everything_once_and_in_order() {
    let folder = tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let dispatcher = start(folder.path(), &[webhook("ops", &format!("http://{address}/hook"))]);
    let to = names(&["ops"]);
    dispatcher.notify(&notification("a", Status::Firing), &to);
    dispatcher.notify(&notification("b", Status::Firing), &to);
    wait_until("failure", || {
        let status = status(&dispatcher, "ops");
        status.counts.retried >= 2 && matches!(status.state, SinkState::Failed { .. })
    });
    let receiver = Receiver::start_at(address);
    dispatcher.notify(&notification("a", Status::Resolved), &to);
    let requests = receiver.wait_for(3);
    assert_eq!(told(&requests), ["a firing", "b firing", "a resolved"]);
    wait_until("success", || status(&dispatcher, "ops").queued == 0);
    let status = status(&dispatcher, "ops");
    assert_eq!((status.state, status.counts.sent), (SinkState::Active, 3));
    assert_eq!(receiver.requests().len(), 3);
}

#[test]
fn what_was_not_told_is_told_after_a_restart() {
    let folder = tempdir().unwrap();
    let receiver = Receiver::start();
    receiver.answer(&["503 Away\r\n\r\n"; 1000]);
    let sinks = [webhook("ops", &receiver.url()), webhook("gone", &receiver.url())];
    let dispatcher = start(folder.path(), &sinks);
    dispatcher.notify(&notification("a", Status::Firing), &names(&["ops", "gone"]));
    dispatcher.notify(&notification("b", Status::Firing), &names(&["ops"]));
    wait_until("failure", || status(&dispatcher, "ops").counts.retried > 0);
    drop(dispatcher);

    let receiver = Receiver::start();
    let dispatcher = start(folder.path(), &[webhook("ops", &receiver.url())]);
    assert_eq!(told(&receiver.wait_for(2)), ["a firing", "b firing"]);
    wait_until("success", || status(&dispatcher, "ops").queued == 0);
    drop(dispatcher);

    // What was told, and what was for a sink that is no more, is forgotten.
    let dispatcher = start(folder.path(), &sinks);
    assert_eq!(
        status(&dispatcher, "ops").queued + status(&dispatcher, "gone").queued,
        0
    );
}

#[test]
fn a_slow_sink_delays_neither_another_nor_who_notifies() {
    let folder = tempdir().unwrap();
    let (slow, quick) = (Receiver::start(), Receiver::start());
    slow.be_slow(Duration::from_secs(20));
    let patient = Sink {
        timeout: Duration::from_secs(1),
        ..webhook("slow", &slow.url())
    };
    let dispatcher = start(folder.path(), &[patient, webhook("quick", &quick.url())]);
    let begin = Instant::now();
    for limit in ["a", "b", "c"] {
        dispatcher.notify(&notification(limit, Status::Firing), &names(&["slow", "quick"]));
    }
    quick.wait_for(3);
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    wait_until("timeout", || {
        let state = status(&dispatcher, "slow").state;
        matches!(state, SinkState::Failed { reason, .. } if reason == "no answer within 1 s")
    });
}

#[test]
fn a_sink_hears_what_it_wants_to_hear() {
    let folder = tempdir().unwrap();
    let receiver = Receiver::start();
    let picky = Sink {
        min_severity: Severity::Warning,
        ..webhook("picky", &receiver.url())
    };
    let off = Sink {
        enabled: false,
        ..webhook("off", &receiver.url())
    };
    let dispatcher = start(folder.path(), &[picky, off]);
    let to = names(&["picky", "off", "no such sink"]);
    dispatcher.notify(&notification("info", Status::Firing), &to);
    let mut warning = (*notification("warning", Status::Firing)).clone();
    warning.severity = profiler_daemon::sinks::Severity::Warning;
    dispatcher.notify(&warning.into(), &to);
    assert_eq!(told(&receiver.wait_for(1)), ["warning firing"]);
    wait_until("success", || status(&dispatcher, "picky").counts.sent == 1);
    assert_eq!(dispatcher.statuses().len(), 1);
}

#[test]
fn a_changed_sink_goes_on_with_what_it_was_not_told() {
    let folder = tempdir().unwrap();
    let (before, after) = (Receiver::start(), Receiver::start());
    before.answer(&["500 Broken\r\n\r\n"; 1000]);
    let dispatcher = start(folder.path(), &[webhook("ops", &before.url())]);
    dispatcher.notify(&notification("a", Status::Firing), &names(&["ops"]));
    wait_until("failure", || status(&dispatcher, "ops").counts.retried > 0);
    dispatcher.set_sinks(&[webhook("ops", &after.url())]);
    assert_eq!(told(&after.wait_for(1)), ["a firing"]);
    wait_until("success", || status(&dispatcher, "ops").queued == 0);
    dispatcher.set_sinks(&[]);
    assert!(dispatcher.statuses().is_empty());
}

#[test]
fn what_has_no_room_is_counted() {
    let folder = tempdir().unwrap();
    let receiver = Receiver::start();
    receiver.answer(&["500 Broken\r\n\r\n"; 10_000]);
    let outbox = profiler_store::state::Outbox::open(folder.path()).unwrap();
    let mut settings = crate::double::settings();
    settings.capacity = 4;
    let sinks = [webhook("ops", &receiver.url())];
    let dispatcher = profiler_daemon::sinks::Dispatcher::start(&sinks, outbox, settings).unwrap();
    for number in 0..20 {
        let limit = format!("limit{number}");
        dispatcher.notify(&notification(&limit, Status::Firing), &names(&["ops"]));
        dispatcher.notify(&notification(&limit, Status::Resolved), &names(&["ops"]));
    }
    let status = status(&dispatcher, "ops");
    assert!(status.queued <= 4, "{status:?}");
    assert_eq!(status.queued as u64 + status.counts.dropped, 40, "{status:?}");
}

#[test]
fn a_sink_says_where_people_reach_us_now() {
    let folder = tempdir().unwrap();
    let receiver = Receiver::start();
    let sinks = [webhook("ops", &receiver.url())];
    let dispatcher = start(folder.path(), &sinks);
    dispatcher.notify(&notification("a", Status::Firing), &names(&["ops"]));
    assert_eq!(
        receiver.wait_for(1)[0].json()["externalURL"],
        "https://profiler.example"
    );
    wait_until("success", || status(&dispatcher, "ops").queued == 0);
    // Not even the same sink goes on by the old address.
    dispatcher.set_external_url("https://elsewhere.example");
    dispatcher.set_sinks(&sinks);
    dispatcher.notify(&notification("b", Status::Firing), &names(&["ops"]));
    assert_eq!(
        receiver.wait_for(2)[1].json()["externalURL"],
        "https://elsewhere.example"
    );
}
