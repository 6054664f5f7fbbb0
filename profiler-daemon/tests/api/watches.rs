//! Watches: how they begin, what they tell, and that they always end.

use std::{path::PathBuf, time::Duration};

use profiler_daemon::{
    command::{MappedError, WatchError, WatchProgress, WatchStart},
    kernel::records::Pid,
};
use profiler_proto::v1::{
    LeaseWatchRequest, WatchMappingsRequest, WatchProcessRequest, watch_service_client::WatchServiceClient,
};
use tokio_stream::StreamExt;
use tonic::Code;

use crate::{
    double::{Script, Seen},
    server::Server,
};

#[tokio::test]
async fn progress_until_the_process_exits() {
    let server = Server::start();
    server.script.lock().watch = Ok(WatchStart { already_watched: true });
    server.script.lock().progress = Some(WatchProgress {
        samples: 5,
        rooted_samples: 4,
        exited: false,
    });
    let mut client = WatchServiceClient::new(server.client().await);
    let mut stream = client
        .watch_process(WatchProcessRequest { pid: 7 })
        .await
        .unwrap()
        .into_inner();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(
        (first.samples, first.rooted_samples, first.exited, first.already_watched),
        (5, 4, false, true)
    );
    server.script.lock().progress = Some(WatchProgress {
        samples: 9,
        rooted_samples: 8,
        exited: true,
    });
    let rest: Vec<_> = stream.map(Result::unwrap).collect().await;
    let last = rest.last().unwrap();
    assert_eq!((last.samples, last.exited), (9, true));
    assert!(last.elapsed.unwrap().nanos > 0 || last.elapsed.unwrap().seconds > 0);
    server
        .script
        .until("the watch has ended", |script| {
            matches!(script.seen.last(), Some(Seen::End(_)))
        })
        .await;
}

#[tokio::test]
async fn a_process_of_which_nothing_is_known_any_more_has_exited() {
    let server = Server::start();
    server.script.lock().progress = Some(WatchProgress {
        samples: 5,
        rooted_samples: 4,
        exited: false,
    });
    let mut client = WatchServiceClient::new(server.client().await);
    let mut stream = client
        .watch_process(WatchProcessRequest { pid: 7 })
        .await
        .unwrap()
        .into_inner();
    assert!(!stream.next().await.unwrap().unwrap().exited);
    server.script.lock().progress = None;
    let rest: Vec<_> = stream.map(Result::unwrap).collect().await;
    assert_eq!(rest.last().map(|last| (last.samples, last.exited)), Some((5, true)));
}

#[tokio::test]
async fn a_stream_that_is_dropped_ends_its_watch() {
    let server = Server::start();
    let mut client = WatchServiceClient::new(server.client().await);
    let mut stream = client
        .watch_process(WatchProcessRequest { pid: 7 })
        .await
        .unwrap()
        .into_inner();
    stream.next().await.unwrap().unwrap();
    let seen = server.script.lock().seen.clone();
    let [Seen::Watch(Pid(7), Some(id))] = seen.as_slice() else {
        panic!("{seen:?}")
    };
    drop(stream);
    let end = Seen::End(*id);
    server
        .script
        .until("the watch has ended", |script| script.seen.contains(&end))
        .await;
}

#[tokio::test]
async fn a_client_that_is_gone_ends_its_watch() {
    let server = Server::start();
    let channel = server.client().await;
    let mut client = WatchServiceClient::new(channel);
    let stream = client.watch_process(WatchProcessRequest { pid: 7 }).await.unwrap();
    // The connection goes with its last user, as when a client is killed.
    drop((client, stream));
    server
        .script
        .until("the watch has ended", |script| {
            matches!(script.seen.last(), Some(Seen::End(_)))
        })
        .await;
}

#[tokio::test]
async fn a_watch_ends_even_if_the_queue_is_full_by_then() {
    let server = Server::start();
    let mut client = WatchServiceClient::new(server.client().await);
    let stream = client.watch_process(WatchProcessRequest { pid: 7 }).await.unwrap();
    // Other askers take all that is left of the queue.
    let mut places = Vec::new();
    while let Ok(place) = server.engine.reserve() {
        places.push(place);
    }
    drop(stream);
    server
        .script
        .until("the watch has ended", |script| {
            matches!(script.seen.last(), Some(Seen::End(_)))
        })
        .await;
    drop(places);
}

#[tokio::test]
async fn calls_for_memory_are_taken_while_their_stream_is_open() {
    let server = Server::start();
    let mut client = WatchServiceClient::new(server.client().await);
    let request = WatchMappingsRequest { pid: 7 };
    let stream = client.watch_mappings(request).await.unwrap();
    let seen = server.script.lock().seen.clone();
    let [Seen::Watch(Pid(7), Some(watched)), Seen::TakeMapped(Pid(7), taken)] = seen[..] else {
        panic!("{seen:?}")
    };
    assert_eq!(watched, taken);
    drop(stream);
    let has_ended = |script: &Script| script.seen.last() == Some(&Seen::End(taken));
    server.script.until("it has ended", has_ended).await;
}

#[tokio::test]
async fn calls_for_memory_that_are_refused_leave_no_watch() {
    let server = Server::start();
    let mut client = WatchServiceClient::new(server.client().await);
    let taken = MappedError::Taken { pid: Pid(9) };
    let refused = MappedError::Refused {
        reason: "no such tracepoint".to_owned(),
    };
    for (error, code) in [(taken, Code::ResourceExhausted), (refused, Code::FailedPrecondition)] {
        server.script.lock().mapped = Err(error.clone());
        let status = client
            .watch_mappings(WatchMappingsRequest { pid: 7 })
            .await
            .unwrap_err();
        assert_eq!((status.code(), status.message()), (code, error.to_string().as_str()));
        server
            .script
            .until("the watch has ended", |script| {
                matches!(script.seen.last(), Some(Seen::End(_)))
            })
            .await;
    }
    server.script.lock().watch = Err(WatchError::NoSuchProcess { pid: Pid(7) });
    let status = client
        .watch_mappings(WatchMappingsRequest { pid: 7 })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let status = client
        .watch_mappings(WatchMappingsRequest { pid: 0 })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let server = Server::start();
    let mut client = WatchServiceClient::new(server.client().await);
    let pid = Pid(7);
    let denied = WatchError::PermissionDenied {
        pid,
        path: PathBuf::from("/proc/7/maps"),
        reason: "no".to_owned(),
    };
    for (error, code) in [
        (WatchError::NoSuchProcess { pid }, Code::NotFound),
        (WatchError::KernelThread { pid }, Code::InvalidArgument),
        (WatchError::Compat32 { pid }, Code::InvalidArgument),
        (denied, Code::FailedPrecondition),
        (
            WatchError::Unsupported {
                reason: "no BTF".to_owned(),
            },
            Code::Unavailable,
        ),
        (WatchError::TooManyProcesses { limit: 3 }, Code::ResourceExhausted),
        (WatchError::OwnProcess { pid }, Code::FailedPrecondition),
    ] {
        server.script.lock().watch = Err(error.clone());
        let stream = client.watch_process(WatchProcessRequest { pid: 7 }).await.unwrap_err();
        assert_eq!((stream.code(), stream.message()), (code, error.to_string().as_str()));
        let lease = client
            .lease_watch(LeaseWatchRequest { pid: 7, duration: None })
            .await
            .unwrap_err();
        assert_eq!((lease.code(), lease.message()), (code, error.to_string().as_str()));
    }
    let zero = client.watch_process(WatchProcessRequest { pid: 0 }).await.unwrap_err();
    assert_eq!(zero.code(), Code::InvalidArgument);
    assert_eq!(zero.message(), "process 0 is no process: it is the kernel's idle loop");
}

#[tokio::test]
async fn leases_are_at_most_a_minute() {
    let server = Server::start();
    let mut client = WatchServiceClient::new(server.client().await);
    for (seconds, expected) in [(None, 60), (Some(5), 5), (Some(3600), 60)] {
        let duration = seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
        let lease = client
            .lease_watch(LeaseWatchRequest { pid: 7, duration })
            .await
            .unwrap()
            .into_inner();
        assert!(lease.expire_time.is_some());
        let asked = server.script.lock().lease.unwrap();
        let expected = Duration::from_secs(expected);
        assert!(
            asked <= expected && asked + Duration::from_secs(5) > expected,
            "{seconds:?} gave {asked:?}"
        );
    }
}
