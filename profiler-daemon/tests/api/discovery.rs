//! What a client can find out about the server: services, health, status, configuration, processes.

use std::collections::BTreeSet;

use profiler_daemon::health::{Part, PartState};
use profiler_proto::v1::{
    GetConfigRequest, GetStatusRequest, ListProcessesRequest, PartState as SentState,
    process_service_client::ProcessServiceClient, status_service_client::StatusServiceClient,
};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    double::process,
    server::{CONFIGURATION, Server},
};

const SERVICES: [&str; 11] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "profiler.v1.AlertService",
    "profiler.v1.GrowthService",
    "profiler.v1.MemoryService",
    "profiler.v1.MetricsService",
    "profiler.v1.ProcessService",
    "profiler.v1.ProfileService",
    "profiler.v1.StatusService",
    "profiler.v1.WatchService",
];

#[tokio::test]
async fn reflection_v1_lists_our_services() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = Server::start();
    let ask = |message| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let requests = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("profiler.v1.Profile".to_owned())),
    ]);
    let mut client = ServerReflectionClient::new(server.client().await);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.next().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services")
    };
    let listed: BTreeSet<String> = list.service.into_iter().map(|service| service.name).collect();
    let expected = SERVICES
        .into_iter()
        .filter(|name| !name.contains("v1alpha"))
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, expected);
    let Some(MessageResponse::FileDescriptorResponse(file)) = answers.next().await.unwrap().unwrap().message_response
    else {
        panic!("no file for a message of ours")
    };
    assert!(!file.file_descriptor_proto.is_empty());
}

#[tokio::test]
async fn reflection_v1alpha_lists_our_services() {
    use tonic_reflection::pb::v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = Server::start();
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request,
    };
    let mut client = ServerReflectionClient::new(server.client().await);
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.next().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services")
    };
    let listed: BTreeSet<String> = list.service.into_iter().map(|service| service.name).collect();
    let expected = SERVICES
        .into_iter()
        .filter(|name| !name.contains("reflection.v1."))
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn services_that_need_samples_serve_while_there_are_any() {
    let server = Server::start();
    let mut client = HealthClient::new(server.client().await);
    let mut check = async |service: &str, expected: ServingStatus| {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        // A change reaches the service by a task of its own.
        for _ in 0..1000 {
            let status = client.check(request.clone()).await.unwrap().into_inner().status();
            if status == expected {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{service} is not {expected:?}");
    };
    check("", ServingStatus::Serving).await;
    check("profiler.v1.StatusService", ServingStatus::Serving).await;
    check("profiler.v1.ProcessService", ServingStatus::Serving).await;
    check("profiler.v1.ProfileService", ServingStatus::NotServing).await;
    server.health.report(Part::Sampling, PartState::Active);
    check("profiler.v1.ProfileService", ServingStatus::Serving).await;
    check("profiler.v1.WatchService", ServingStatus::Serving).await;
    let failed = PartState::Failed {
        reason: "x".to_owned(),
        remedy: String::new(),
    };
    server.health.report(Part::Sampling, failed);
    check("profiler.v1.WatchService", ServingStatus::NotServing).await;
    check("", ServingStatus::Serving).await;
    let unknown = client
        .check(HealthCheckRequest {
            service: "x".to_owned(),
        })
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn the_status_tells_parts_counters_and_cost() {
    let server = Server::start();
    let unsupported = PartState::Unsupported {
        reason: "no BTF".to_owned(),
        remedy: "another kernel".to_owned(),
    };
    server.health.report(Part::KernelSymbols, unsupported);
    server.health.report(Part::Sampling, PartState::Active);
    let mut report = profiler_daemon::budget::Report::default();
    report.kernel.bytes = 5;
    server.health.budget.put(report);
    {
        let mut script = server.script.lock();
        script.status.sample_hz = 99;
        script.status.walker_loop = "bpf_loop".to_owned();
        script.status.runs = 12;
        script.status.lost.insert("ring_full".to_owned(), 3);
        script.status.watched_processes = 4;
        script.status.missed_ticks = 6;
    }
    let mut client = StatusServiceClient::new(server.client().await);
    let status = client.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (status.version.as_str(), status.kernel_release.as_str()),
        ("1.2.3", "6.1.0-test")
    );
    assert_eq!(
        (status.watched_processes, status.start_time.unwrap().seconds),
        (4, 1_700_000_000)
    );
    let names: Vec<_> = status
        .parts
        .iter()
        .map(|part| (part.name.as_str(), part.state()))
        .collect();
    assert_eq!(
        names,
        [
            ("sampling", SentState::Active),
            ("kernel_symbols", SentState::Unsupported)
        ]
    );
    assert_eq!(
        (status.parts[1].reason.as_str(), status.parts[1].remedy.as_str()),
        ("no BTF", "another kernel")
    );
    let sampling = status.sampling.unwrap();
    assert_eq!(
        (sampling.sample_hz, sampling.runs, sampling.lost["ring_full"]),
        (99, 12, 3)
    );
    assert_eq!(sampling.missed_ticks, 6);
    assert!(status.budget.is_none(), "no caps where nothing is sampled");
    let cost = status.cost.unwrap();
    assert_eq!(cost.kernel_bytes, 5);
    assert!(cost.resident_anon_bytes > 0 && cost.daemon_cpu.unwrap().nanos > 0);
    assert_eq!(status.store.unwrap().capacity_bytes, 1 << 24);
    assert_eq!(status.api.unwrap().connections, 1);
}

#[tokio::test]
async fn the_status_comes_even_if_the_loop_has_ended() {
    let server = Server::start();
    server.health.report(Part::Sampling, PartState::Active);
    server.engine_task.abort();
    let mut client = StatusServiceClient::new(server.client().await);
    let status = client.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert!(status.sampling.is_none());
    assert_eq!(
        (status.parts[0].name.as_str(), status.parts[0].state()),
        ("sampling", SentState::Failed)
    );
    assert_eq!(status.parts[0].reason, "the sampling loop has ended");
}

#[tokio::test]
async fn the_configuration_in_force() {
    let server = Server::start();
    let mut client = StatusServiceClient::new(server.client().await);
    let config = client.get_config(GetConfigRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (config.toml.as_str(), config.files),
        (CONFIGURATION, vec!["/etc/profiler/config.toml".to_owned()])
    );
}

#[tokio::test]
async fn hostile_names_pass_unharmed() {
    let hostile = "a\n\x1b[31m<b>\"\u{202e}\0\u{fffd};";
    let server = Server::start();
    {
        let mut one = process(7);
        one.name = hostile.into();
        one.executable = hostile.to_owned();
        one.command_line = vec![hostile.to_owned(), "x".repeat(1 << 20)];
        one.service = hostile.into();
        one.limitations = vec![hostile.to_owned()];
        server.script.lock().processes = vec![one, process(8)];
    }
    let mut client = ProcessServiceClient::new(server.client().await);
    let listed = client
        .list_processes(ListProcessesRequest { pid: None })
        .await
        .unwrap()
        .into_inner()
        .processes;
    assert_eq!(listed.iter().map(|one| one.pid).collect::<Vec<_>>(), [7, 8]);
    let one = &listed[0];
    for text in [
        &one.name,
        &one.executable,
        &one.command_line[0],
        &one.service,
        &one.limitations[0],
    ] {
        assert_eq!(text, hostile);
    }
    assert_eq!(one.command_line[1].len(), 1 << 20);
}

#[tokio::test]
async fn one_process_or_none() {
    let server = Server::start();
    server.script.lock().processes = vec![process(7), process(8)];
    let mut client = ProcessServiceClient::new(server.client().await);
    let one = client
        .list_processes(ListProcessesRequest { pid: Some(8) })
        .await
        .unwrap()
        .into_inner()
        .processes;
    assert_eq!(
        (one.len(), one[0].pid, one[0].runtime()),
        (1, 8, profiler_proto::v1::Runtime::Rust)
    );
    let gone = client
        .list_processes(ListProcessesRequest { pid: Some(9) })
        .await
        .unwrap_err();
    assert_eq!((gone.code(), gone.message()), (Code::NotFound, "there is no process 9"));
    let zero = client
        .list_processes(ListProcessesRequest { pid: Some(0) })
        .await
        .unwrap_err();
    assert_eq!(zero.code(), Code::InvalidArgument);
}
