//! What happens when too much is asked, and how the server ends.

use std::time::{Duration, Instant};

use profiler_daemon::{
    api::{self, MAX_STREAM_WATCHES},
    command::COMMAND_QUEUE,
};
use profiler_proto::v1::{
    GetStatusRequest, ListProcessesRequest, WatchProcessRequest, process_service_client::ProcessServiceClient,
    status_service_client::StatusServiceClient, watch_service_client::WatchServiceClient,
};
use tokio::{io::AsyncReadExt, net::UnixStream};
use tokio_stream::StreamExt;
use tonic::Code;

use crate::server::{Server, connect};

#[tokio::test]
async fn a_full_queue_is_told_and_counted() {
    let server = Server::start();
    let mut processes = ProcessServiceClient::new(server.client().await);
    let mut places = Vec::new();
    while let Ok(place) = server.engine.reserve() {
        places.push(place);
    }
    assert_eq!(places.len(), COMMAND_QUEUE);
    let refused = processes
        .list_processes(ListProcessesRequest { pid: None })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused.message().starts_with("the sampling loop is busy"),
        "{}",
        refused.message()
    );
    drop(places);
    assert!(
        processes
            .list_processes(ListProcessesRequest { pid: None })
            .await
            .is_ok()
    );
    let mut status = StatusServiceClient::new(server.client().await);
    let status = status.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    // One of them ended the test's own loop above.
    assert_eq!(status.api.unwrap().refused_commands, 2);
}

#[tokio::test]
async fn watches_by_streams_are_bounded() {
    let server = Server::start();
    let mut streams = Vec::new();
    let mut clients = Vec::new();
    for _ in 0..MAX_STREAM_WATCHES.div_ceil(16) {
        clients.push(WatchServiceClient::new(server.client().await));
    }
    for number in 0..MAX_STREAM_WATCHES {
        let client = &mut clients[number / 16];
        streams.push(client.watch_process(WatchProcessRequest { pid: 7 }).await.unwrap());
    }
    let refused = clients[0]
        .watch_process(WatchProcessRequest { pid: 7 })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let mut status = StatusServiceClient::new(server.client().await);
    let status = status.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.api.unwrap().refused_watches, 1);
    streams.pop();
    // Its place is free as soon as the server has seen that it is gone.
    for _ in 0..1000 {
        if clients[0].watch_process(WatchProcessRequest { pid: 7 }).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no place became free");
}

#[tokio::test]
async fn connections_are_bounded() {
    let server = Server::start();
    let mut open = Vec::new();
    // One more than may be open is closed by the server before it says anything.
    let refused = loop {
        assert!(open.len() < 1000, "connections are not bounded");
        let mut stream = UnixStream::connect(server.path()).await.unwrap();
        let mut byte = [0];
        match tokio::time::timeout(Duration::from_secs(10), stream.read(&mut byte)).await {
            Ok(Ok(1)) => open.push(stream),
            Ok(other) => break other,
            Err(_) => panic!("neither served nor closed"),
        }
    };
    assert!(matches!(refused, Ok(0) | Err(_)), "{refused:?}");
    assert_eq!(open.len(), 64);
    open.pop();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut status = StatusServiceClient::new(server.client().await);
    let status = status.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    let api = status.api.unwrap();
    assert_eq!((api.connections, api.refused_connections), (64, 1));
}

#[tokio::test]
async fn the_server_ends_with_streams_open() {
    let server = Server::start();
    let path = server.path();
    let mut client = WatchServiceClient::new(server.client().await);
    let mut stream = client
        .watch_process(WatchProcessRequest { pid: 7 })
        .await
        .unwrap()
        .into_inner();
    stream.next().await.unwrap().unwrap();
    let begin = Instant::now();
    let rest = tokio::spawn(async move { stream.collect::<Vec<_>>().await });
    server.stop().await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(20));
    let rest = rest.await.unwrap();
    let error = rest.last().unwrap().as_ref().unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::Unavailable, "the daemon is stopping")
    );
    assert!(!path.exists(), "the socket is removed");
}

#[tokio::test]
async fn the_server_ends_although_a_client_does_not_read() {
    let server = Server::start();
    let silent = UnixStream::connect(server.path()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stop().await.unwrap();
    drop(silent);
}

#[tokio::test]
async fn a_live_server_keeps_its_socket_and_a_dead_one_is_replaced() {
    let server = Server::start();
    let path = server.path();
    let error = api::bind(&path, None).unwrap_err().to_string();
    assert!(
        error.contains(&format!("process {} already serves", std::process::id())),
        "{error}"
    );
    assert!(connect(&path).await.is_ok());
    let Server { directory, .. } = server;
    drop(std::os::unix::net::UnixListener::bind(directory.path().join("stale.sock")).unwrap());
    assert!(api::bind(&directory.path().join("stale.sock"), None).is_ok());
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    use profiler_proto::v1::{
        ProfileSelector, QueryProfileRequest, profile_selector::Target, profile_service_client::ProfileServiceClient,
    };
    let server = Server::start();
    let mut client = ProfileServiceClient::new(server.client().await);
    let target = Some(Target::Service("x".repeat(100_000)));
    let selector = Some(ProfileSelector {
        target,
        ..ProfileSelector::default()
    });
    let error = client
        .query_profile(QueryProfileRequest { selector, view: None })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange, "{error:?}");
}
