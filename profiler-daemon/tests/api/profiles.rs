//! Queries for profiles.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_daemon::{
    command::{FlushError, WatchState},
    processes,
};
use profiler_profile::{Frame, FrameKind, ProcessLabel, Profile, ProfileBuilder, Quality};
use profiler_proto::v1::{
    self, ProfileSelector, QueryPprofRequest, QueryProfileRequest, profile_selector::Target,
    profile_service_client::ProfileServiceClient,
};
use prost_types::Timestamp;
use tonic::{Code, Status, transport::Channel};

use crate::{double::process, server::Server};

const SECOND: Duration = Duration::from_secs(1);

/// A window of one process of the service `web` that ended some time ago.
fn window(pid: u32, count: u64, ended_ago: Duration) -> Profile {
    let end = SystemTime::now() - ended_ago;
    let label = ProcessLabel {
        pid,
        start: SystemTime::UNIX_EPOCH + SECOND,
        name: "svc".into(),
        service: "web".into(),
    };
    let frame = |function: &str| Frame {
        kind: FrameKind::Native,
        function: function.into(),
        module: "svc".into(),
        file: "main.rs".into(),
        line: 7,
    };
    let mut builder = ProfileBuilder::new(Duration::from_millis(10), end - SECOND, end);
    builder.add(
        &label,
        &Arc::from("main"),
        [frame("main"), frame("work")].into_iter(),
        count,
    );
    builder.add_process_quality(
        &label,
        &Quality {
            samples: count,
            rooted: count,
            ..Quality::default()
        },
    );
    builder.quality_mut().lost.insert("busy".to_owned(), 1);
    builder.build()
}

fn of(target: Target) -> ProfileSelector {
    ProfileSelector {
        target: Some(target),
        ..ProfileSelector::default()
    }
}

fn pid(pid: u32) -> ProfileSelector {
    of(Target::Pid(pid))
}

async fn query(client: &mut ProfileServiceClient<Channel>, selector: ProfileSelector) -> Result<v1::Profile, Status> {
    let answer = client
        .query_profile(QueryProfileRequest {
            selector: Some(selector),
            view: None,
        })
        .await?;
    Ok(answer.into_inner().profile.expect("a profile"))
}

fn samples(profile: &v1::Profile) -> u64 {
    profile.nodes.iter().map(|node| node.self_samples).sum()
}

fn put(server: &Server, profile: Profile) {
    server
        .store
        .lock()
        .expect("the store")
        .insert(profile, processes::uptime());
}

#[tokio::test]
async fn a_query_until_now_flushes_and_merges() {
    let server = Server::start();
    put(&server, window(7, 5, 10 * SECOND));
    put(&server, window(7, 3, 2 * SECOND));
    put(&server, window(8, 100, 2 * SECOND));
    let mut client = ProfileServiceClient::new(server.client().await);
    let profile = query(&mut client, pid(7)).await.unwrap();
    assert_eq!((samples(&profile), profile.processes.len()), (8, 1));
    assert_eq!(server.script.lock().flushes, 1);
    let quality = profile.quality.unwrap();
    assert_eq!(
        (quality.samples, quality.rooted_samples, quality.lost_samples["busy"]),
        (8, 8, 3)
    );
    assert_eq!(profile.period.unwrap().nanos, 10_000_000);
    let service = query(&mut client, of(Target::Service("web".to_owned()))).await.unwrap();
    assert_eq!(samples(&service), 108);
}

#[tokio::test]
async fn a_query_of_the_past_does_not_flush() {
    let server = Server::start();
    put(&server, window(7, 5, 500 * SECOND));
    put(&server, window(7, 3, 2 * SECOND));
    let mut client = ProfileServiceClient::new(server.client().await);
    let end = Timestamp::from(SystemTime::now() - 300 * SECOND);
    let selector = ProfileSelector {
        end_time: Some(end),
        ..pid(7)
    };
    assert_eq!(samples(&query(&mut client, selector).await.unwrap()), 5);
    assert_eq!(server.script.lock().flushes, 0);
}

#[tokio::test]
async fn queries_at_the_same_time_share_a_flush() {
    let server = Server::start();
    put(&server, window(7, 5, 2 * SECOND));
    server.script.lock().flush_time = Duration::from_millis(300);
    let channel = server.client().await;
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let mut client = ProfileServiceClient::new(channel.clone());
            tokio::spawn(async move { samples(&query(&mut client, pid(7)).await.expect("a profile")) })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), 5);
    }
    // The first, and one for those that came while it went on; a slow machine may take one more.
    let flushes = server.script.lock().flushes;
    assert!((1..=4).contains(&flushes), "{flushes} flushes");
}

#[tokio::test]
async fn nothing_found_is_explained() {
    let server = Server::start();
    let mut idle = process(7);
    idle.service = "idle".into();
    let mut unwatched = process(8);
    unwatched.watch_state = WatchState::NotWatched;
    unwatched.watch_reason = "not a Rust program".to_owned();
    unwatched.service = "other".into();
    server.script.lock().processes = vec![idle, unwatched];
    let mut client = ProfileServiceClient::new(server.client().await);
    let mut check = async |selector: ProfileSelector, expected: Result<u64, (Code, &str)>| {
        let answer = query(&mut client, selector.clone()).await;
        let answer = answer.map(|profile| samples(&profile));
        let answer = answer
            .as_ref()
            .map_err(|status| (status.code(), status.message()))
            .copied();
        assert_eq!(answer, expected, "{selector:?}");
    };
    check(pid(7), Ok(0)).await;
    check(of(Target::Service("idle".to_owned())), Ok(0)).await;
    check(pid(9), Err((Code::NotFound, "there is no process 9"))).await;
    let not_watched = "process 8 is not watched (not a Rust program): ask for a watch first";
    check(pid(8), Err((Code::FailedPrecondition, not_watched))).await;
    let no_service = "no process of the service \"none\\n\" is watched, and none was in the time that is kept";
    check(
        of(Target::Service("none\n".to_owned())),
        Err((Code::NotFound, no_service)),
    )
    .await;
    // A process that has exited is known as long as its samples are kept.
    put(&server, window(9, 5, 100 * SECOND));
    check(pid(9), Ok(5)).await;
    let start = Some(Timestamp::from(SystemTime::now() - 10 * SECOND));
    check(
        ProfileSelector {
            start_time: start,
            ..pid(9)
        },
        Ok(0),
    )
    .await;
}

#[tokio::test]
async fn without_sampling_what_is_kept_is_still_told() {
    let server = Server::start();
    server.script.lock().flush = Err(FlushError::NotSampling {
        reason: "no BTF".to_owned(),
    });
    put(&server, window(7, 5, 2 * SECOND));
    let mut client = ProfileServiceClient::new(server.client().await);
    assert_eq!(samples(&query(&mut client, pid(7)).await.unwrap()), 5);
    let error = query(&mut client, pid(8)).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::Unavailable, "sampling is not possible: no BTF")
    );
}

#[tokio::test]
async fn selectors_that_make_no_sense() {
    let server = Server::start();
    let mut client = ProfileServiceClient::new(server.client().await);
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let missing = client.query_profile(QueryProfileRequest::default()).await.unwrap_err();
    assert_eq!(
        (missing.code(), missing.message()),
        (Code::InvalidArgument, "selector is missing")
    );
    for selector in [
        ProfileSelector::default(),
        pid(0),
        of(Target::Service(String::new())),
        ProfileSelector { kind: 99, ..pid(7) },
        ProfileSelector {
            start_time: time(20),
            end_time: time(10),
            ..pid(7)
        },
        ProfileSelector {
            start_time: time(i64::from(u32::MAX)),
            ..pid(7)
        },
        ProfileSelector {
            start_time: Some(Timestamp {
                seconds: 1,
                nanos: i32::MAX,
            }),
            ..pid(7)
        },
    ] {
        let error = query(&mut client, selector.clone()).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{selector:?}: {error:?}");
        let request = QueryPprofRequest {
            selector: Some(selector),
            view: None,
        };
        assert_eq!(
            client.query_pprof(request).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
    assert_eq!(server.script.lock().flushes, 0);
}

#[tokio::test]
async fn pprof_is_compressed_and_comes_with_its_quality() {
    let server = Server::start();
    put(&server, window(7, 5, 2 * SECOND));
    let mut client = ProfileServiceClient::new(server.client().await);
    let answer = client
        .query_pprof(QueryPprofRequest {
            selector: Some(pid(7)),
            view: None,
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.pprof[..2], [0x1f, 0x8b]);
    assert_eq!(answer.quality.unwrap().samples, 5);
    server.script.lock().processes = vec![process(8)];
    let error = client
        .query_pprof(QueryPprofRequest {
            selector: Some(pid(8)),
            view: None,
        })
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::NotFound, "there are no samples in this time")
    );
}

#[tokio::test]
async fn a_profile_of_many_megabytes_arrives() {
    let server = Server::start();
    let end = SystemTime::now();
    let label = ProcessLabel {
        pid: 7,
        start: SystemTime::UNIX_EPOCH,
        name: "svc".into(),
        service: "".into(),
    };
    let mut builder = ProfileBuilder::new(Duration::from_millis(10), end - SECOND, end);
    for number in 0..5000 {
        let frame = Frame {
            kind: FrameKind::Native,
            function: format!("{number}{}", "x".repeat(2000)).into(),
            module: "svc".into(),
            file: "".into(),
            line: 0,
        };
        builder.add(&label, &Arc::from("main"), std::iter::once(frame), 1);
    }
    put(&server, builder.build());
    let channel = server.client().await;
    let mut client = ProfileServiceClient::new(channel).max_decoding_message_size(256 << 20);
    assert_eq!(samples(&query(&mut client, pid(7)).await.unwrap()), 5000);
}
