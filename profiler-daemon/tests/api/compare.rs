//! Two spans of time compared.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use profiler_daemon::{command::FlushError, processes};
use profiler_profile::{Frame, FrameKind, ProcessLabel, Profile, ProfileBuilder, Quality};
use profiler_proto::v1::{
    ChangeDirection, CompareMeasure, CompareProfilesRequest, Comparison, ProfileSelector, compared_party::Party,
    profile_selector::Target, profile_service_client::ProfileServiceClient,
};
use prost_types::Timestamp;
use tonic::{Code, Status, transport::Channel};

use crate::{double::process, server::Server};

const SECOND: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(5);

/// A window of services, each with so many samples of one function.
fn window(ended_ago: Duration, services: &[(&str, u32, &str, u64)]) -> Profile {
    let end = SystemTime::now() - ended_ago;
    let mut builder = ProfileBuilder::new(Duration::from_millis(10), end - WINDOW, end);
    for (service, pid, function, count) in services {
        let label = ProcessLabel {
            pid: *pid,
            start: SystemTime::UNIX_EPOCH + SECOND,
            name: "svc".into(),
            service: (*service).into(),
        };
        let frame = |function: &str, line| Frame {
            kind: FrameKind::Native,
            function: function.into(),
            module: "svc".into(),
            file: "main.rs".into(),
            line,
        };
        let stack = [frame("main", 7), frame(function, 9)];
        builder.add(&label, &Arc::from("main"), stack.into_iter(), *count);
        let quality = Quality {
            samples: *count,
            rooted: *count,
            ..Quality::default()
        };
        builder.add_process_quality(&label, &quality);
    }
    builder.build()
}

/// Six windows from 70 s to 40 s ago, and as many from 40 s ago on in which `burn` of the service `web` has come up.
fn fill(server: &Server) {
    let mut store = server.store.lock().expect("the store");
    for number in (0..12).rev() {
        let mut services = vec![("web", 7, "work", 200), ("db", 8, "scan", 150), ("", 9, "idle", 30)];
        if number < 6 {
            services.push(("web", 7, "burn", 100));
        }
        store.insert(window(WINDOW * number + 10 * SECOND, &services), processes::uptime());
    }
}

fn selector(target: Target, from: u64, to: u64) -> Option<ProfileSelector> {
    let ago = |seconds: u64| Some(Timestamp::from(SystemTime::now() - SECOND * seconds as u32));
    Some(ProfileSelector {
        target: Some(target),
        kind: 0,
        start_time: ago(from),
        end_time: if to == 0 { None } else { ago(to) },
    })
}

fn request(target: &Target) -> CompareProfilesRequest {
    CompareProfilesRequest {
        before: selector(target.clone(), 70, 40),
        after: selector(target.clone(), 40, 0),
        ..CompareProfilesRequest::default()
    }
}

async fn compare(
    client: &mut ProfileServiceClient<Channel>,
    request: CompareProfilesRequest,
) -> Result<Comparison, Status> {
    let answer = client.compare_profiles(request).await?;
    Ok(answer.into_inner().comparison.expect("a comparison"))
}

/// The functions that changed in themselves.
fn changed(comparison: &Comparison) -> Vec<(&str, ChangeDirection)> {
    let functions = comparison.functions.iter();
    let changed = functions.filter_map(|function| {
        let direction = function.own.as_ref()?.direction();
        let name = comparison.strings[function.frame.as_ref()?.function as usize].as_str();
        (direction != ChangeDirection::Unspecified).then_some((name, direction))
    });
    changed.collect()
}

#[tokio::test]
async fn what_came_up_in_a_service_is_named() {
    let server = Server::start();
    fill(&server);
    let mut client = ProfileServiceClient::new(server.client().await);
    for target in [Target::Pid(7), Target::Service("web".to_owned())] {
        let comparison = compare(&mut client, request(&target)).await.unwrap();
        assert_eq!(changed(&comparison), [("burn", ChangeDirection::Grew)], "{target:?}");
        let burn = &comparison.functions[0];
        let own = burn.own.as_ref().unwrap();
        assert!(own.before == 0.0 && (own.after - 0.2).abs() < 0.001, "{own:?}");
        let test = own.test.as_ref().unwrap();
        assert!(test.low > 0.1 && test.high < 0.3 && test.p_value < 0.001, "{test:?}");
        assert_eq!(burn.party, None);
        let (before, after) = (comparison.before.as_ref().unwrap(), comparison.after.as_ref().unwrap());
        assert_eq!((before.blocks, after.blocks), (6, 6));
        assert_eq!(
            (
                before.quality.as_ref().unwrap().samples,
                after.quality.as_ref().unwrap().samples
            ),
            (1200, 1800)
        );
        assert_eq!(comparison.parties.len(), 1);
        assert_eq!(comparison.nodes.len(), 3);
    }
    // The last span reaches until now.
    assert_eq!(server.script.lock().flushes, 2);
    let shares = CompareProfilesRequest {
        measure: CompareMeasure::Share.into(),
        ..request(&Target::Service("web".to_owned()))
    };
    let shares = compare(&mut client, shares).await.unwrap();
    // One took a third of the time from the other.
    let mut changed = changed(&shares);
    changed.sort_by_key(|(name, _)| *name);
    let expected = [("burn", ChangeDirection::Grew), ("work", ChangeDirection::Shrank)];
    assert_eq!(changed, expected);
}

#[tokio::test]
async fn of_a_whole_host_only_the_service_that_changed_is_accused() {
    let server = Server::start();
    fill(&server);
    let mut client = ProfileServiceClient::new(server.client().await);
    let comparison = compare(&mut client, request(&Target::Everything(true))).await.unwrap();
    assert_eq!(changed(&comparison), [("burn", ChangeDirection::Grew)]);
    assert_eq!(comparison.functions[0].party, Some(0));
    let parties: Vec<_> = comparison
        .parties
        .iter()
        .map(|party| party.party.clone().unwrap())
        .collect();
    let service = |name: &str| Party::Service(name.to_owned());
    assert_eq!(
        parties,
        [service("web"), service("db"), Party::Program("svc".to_owned())]
    );
    let grew = |index: usize| comparison.parties[index].change.as_ref().unwrap().direction();
    assert_eq!(grew(0), ChangeDirection::Grew);
    assert_eq!(
        (grew(1), grew(2)),
        (ChangeDirection::Unspecified, ChangeDirection::Unspecified)
    );
}

#[tokio::test]
async fn requests_that_make_no_sense() {
    let server = Server::start();
    let mut client = ProfileServiceClient::new(server.client().await);
    let web = || Target::Service("web".to_owned());
    let valid = request(&web());
    let without_start = |mut selector: Option<ProfileSelector>| {
        if let Some(selector) = &mut selector {
            selector.start_time = None;
        }
        selector
    };
    for (request, message) in [
        (CompareProfilesRequest::default(), "before is missing"),
        (
            CompareProfilesRequest {
                after: None,
                ..valid.clone()
            },
            "after is missing",
        ),
        (
            CompareProfilesRequest {
                before: without_start(valid.before.clone()),
                ..valid.clone()
            },
            "before.start_time is missing",
        ),
        (
            CompareProfilesRequest {
                before: selector(web(), 70, 30),
                ..valid.clone()
            },
            "the spans before and after overlap",
        ),
        (
            CompareProfilesRequest {
                before: selector(web(), 30, 20),
                ..valid.clone()
            },
            "the spans before and after overlap",
        ),
        (
            CompareProfilesRequest {
                measure: 9,
                ..valid.clone()
            },
            "measure 9 is not known",
        ),
        (
            CompareProfilesRequest {
                before: selector(Target::Everything(false), 70, 40),
                ..valid.clone()
            },
            "selector.pid or selector.service is missing",
        ),
    ] {
        let error = compare(&mut client, request).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::InvalidArgument, message));
    }
    assert_eq!(server.script.lock().flushes, 0);
}

#[tokio::test]
async fn too_little_is_told_and_nothing_is_explained() {
    let server = Server::start();
    let mut client = ProfileServiceClient::new(server.client().await);
    let error = compare(&mut client, request(&Target::Pid(9))).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::NotFound, "there is no process 9")
    );
    server.script.lock().processes = vec![process(7)];
    let comparison = compare(&mut client, request(&Target::Pid(7))).await.unwrap();
    assert_eq!((comparison.functions.len(), comparison.before.unwrap().blocks), (0, 0));
    {
        let mut store = server.store.lock().expect("the store");
        for ago in [50, 20] {
            store.insert(window(SECOND * ago, &[("web", 7, "work", 5)]), processes::uptime());
        }
    }
    let comparison = compare(&mut client, request(&Target::Pid(7))).await.unwrap();
    let (before, after) = (comparison.before.unwrap(), comparison.after.unwrap());
    assert_eq!((before.blocks, after.blocks, comparison.needed_blocks), (1, 1, 3));
    assert_eq!((comparison.smallest_share, comparison.nodes.len()), (None, 2));
    // What was sampled before is still worth an answer.
    server.script.lock().flush = Err(FlushError::NotSampling {
        reason: "no BTF".to_owned(),
    });
    assert!(compare(&mut client, request(&Target::Pid(7))).await.is_ok());
    let error = compare(&mut client, request(&Target::Pid(10))).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}
