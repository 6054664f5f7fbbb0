//! The TCP port: nothing without the token, and with it the roles that the configuration gives.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, time::Duration};

use profiler_config::Tcp;
use profiler_daemon::{api::http::TcpDoor, readings::Board};
use profiler_proto::v1::{
    GetSnapshotRequest, QueryProfileRequest, metrics_service_client::MetricsServiceClient,
    profile_service_client::ProfileServiceClient,
};
use profiler_readings::{Metric, Reading, Subject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};
use tonic::{Code, Request, Status, transport::Endpoint};

use crate::server::Server;

pub(crate) const TOKEN: &str = "0123456789abcdef-token";

/// A port of a server with one reading.
pub(crate) async fn port(server: &Server, allow_profile: bool) -> (SocketAddr, watch::Sender<bool>) {
    let token_file = server.directory.path().join("token");
    fs::write(&token_file, format!("{TOKEN}\n")).expect("a token can be written");
    fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600)).expect("its mode can be set");
    let config = Tcp {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        token_file,
        allow_profile,
        ..Tcp::default()
    };
    serve(server, config).await
}

/// The port that this configuration says.
pub(crate) async fn serve(server: &Server, config: Tcp) -> (SocketAddr, watch::Sender<bool>) {
    let door = TcpDoor::open(&config).await;
    let door = door.expect("a port").expect("an address is configured");
    let address = door.address().expect("it listens");
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(door.serve(std::sync::Arc::clone(&server.context), stopping));
    let now = Board::now();
    let reading = Reading {
        metric: Metric::HostCpuBusy,
        subject: Subject::Host,
        value: 0.25,
        time: now.wall,
    };
    server.readings.put(&[reading], now.steady);
    (address, stop)
}

/// Shows the token with a request.
pub(crate) fn with_token(mut request: Request<()>) -> Result<Request<()>, Status> {
    let value = format!("Bearer {TOKEN}").parse().expect("a header");
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}

/// The answer to a request over HTTP/1.1.
async fn scrape(address: SocketAddr, authorization: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).await.expect("it listens");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(30), read).await;
    read.expect("an answer in time").expect("an answer in words");
    answer
}

#[tokio::test]
async fn prometheus_reads_with_the_token_only() {
    let server = Server::start();
    let (address, _stop) = port(&server, false).await;
    let answer = scrape(address, &format!("Authorization: Bearer {TOKEN}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("profiler_host_cpu_busy_ratio 0.25"), "{answer}");
    assert!(answer.contains("profiler_build_info{version=\"1.2.3\"} 1"), "{answer}");
    for state in ["pending", "firing"] {
        let series = format!("profiler_alerts{{limit=\"host_cpu\",severity=\"warning\",state=\"{state}\"}} 0\n");
        assert!(answer.contains(&series), "{answer}");
    }
    for wrong in [
        "",
        "Authorization: Bearer 0123456789abcdef-other\r\n",
        "Authorization: Basic x\r\n",
    ] {
        let answer = scrape(address, wrong).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(!answer.contains("profiler_"), "{answer}");
    }
}

#[tokio::test]
async fn a_token_gives_its_roles_over_grpc() {
    for (allow_profile, expected) in [(false, Code::PermissionDenied), (true, Code::InvalidArgument)] {
        let server = Server::start();
        let (address, _stop) = port(&server, allow_profile).await;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let snapshot = GetSnapshotRequest::default;
        let refused = MetricsServiceClient::new(channel.clone())
            .get_snapshot(snapshot())
            .await;
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
        let mut client = MetricsServiceClient::with_interceptor(channel.clone(), with_token);
        let readings = client.get_snapshot(snapshot()).await.unwrap().into_inner().readings;
        assert_eq!(readings.len(), 1);
        // A query that makes no sense, if it may be asked at all.
        let mut client = ProfileServiceClient::with_interceptor(channel, with_token);
        let status = client.query_profile(QueryProfileRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), expected, "{status}");
        if !allow_profile {
            assert!(
                status.message().contains("callers of the TCP port may not profile"),
                "{status}"
            );
        }
    }
}

#[tokio::test]
async fn nothing_is_told_without_the_token_whatever_is_asked_for() {
    let server = Server::start();
    let (address, _stop) = port(&server, false).await;
    for (path, found) in [("/metrics", "200"), ("/", "404"), ("/profiler.v1.Other/Get", "404")] {
        let ask = |authorization: String| async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer.split_whitespace().nth(1).unwrap_or_default().to_owned()
        };
        assert_eq!(ask(String::new()).await, "401", "{path}");
        assert_eq!(ask(format!("Authorization: Bearer {TOKEN}\r\n")).await, found, "{path}");
    }
}

/// One that asks without end and reads no refusal must not keep its place: nothing else ever looks at its patience.
#[tokio::test]
async fn a_stranger_that_reads_nothing_loses_its_connection() {
    let server = Server::start();
    let (address, _stop) = port(&server, false).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let requests = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let refused = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    let closed = tokio::time::timeout(Duration::from_secs(60), refused).await;
    assert!(closed.is_ok(), "it keeps its connection");
}
