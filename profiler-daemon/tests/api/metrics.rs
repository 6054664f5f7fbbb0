//! Readings over the API: what is kept is what is answered, within bounds.

use std::time::{Duration, SystemTime};

use profiler_daemon::readings::Board;
use profiler_proto::v1::{
    GetRangeRequest, GetSnapshotRequest, ListMetricsRequest, ReadingSelector, Scope, WatchReadingsRequest,
    metrics_service_client::MetricsServiceClient,
};
use profiler_readings::{Metric, Reading, Subject};
use profiler_store::Owner;
use tonic::{Code, transport::Channel};

use crate::server::Server;

const SECOND: Duration = Duration::from_secs(1);

fn process(pid: u32) -> Subject {
    Subject::Process { pid, start_ticks: 7 }
}

fn reading(metric: Metric, subject: Subject, value: f64) -> Reading {
    Reading {
        metric,
        subject,
        value,
        time: SystemTime::now(),
    }
}

/// A server with readings of the last ten seconds, none of them two and three seconds ago.
async fn server() -> (Server, MetricsServiceClient<Channel>) {
    let server = Server::start();
    let now = Board::now().steady;
    for ago in (0..10_u32).rev().filter(|ago| !(2..=3).contains(ago)) {
        let value = f64::from(10 - ago);
        let readings = [
            reading(Metric::HostCpuBusy, Subject::Host, value / 100.0),
            reading(Metric::ProcessCpu, process(1), value),
            reading(Metric::ProcessCpu, process(2), value),
            reading(Metric::ServiceCpu, Subject::Service("shop".into()), value),
            reading(Metric::HostContextSwitches, Subject::Host, 1000.0 * value),
        ];
        server.readings.put(&readings, now - SECOND * ago);
    }
    let owner = |service: &str| Owner {
        name: "python".into(),
        service: service.into(),
    };
    for (pid, service) in [(1, "shop"), (2, "other")] {
        server.readings.series().set_owner(&process(pid), &owner(service));
    }
    let client = MetricsServiceClient::new(server.client().await);
    (server, client)
}

async fn names(client: &mut MetricsServiceClient<Channel>, selector: ReadingSelector) -> Vec<(String, String, u32)> {
    let request = GetSnapshotRequest {
        selector: Some(selector),
    };
    let readings = client
        .get_snapshot(request)
        .await
        .expect("readings")
        .into_inner()
        .readings;
    let name = |reading: profiler_proto::v1::Reading| {
        let subject = reading.subject.expect("a subject");
        (reading.metric, subject.name, subject.pid)
    };
    readings.into_iter().map(name).collect()
}

#[tokio::test]
async fn the_latest_readings_are_selected() {
    let (_server, mut client) = server().await;
    let name = |metric: &str, name: &str, pid| (metric.to_owned(), name.to_owned(), pid);
    let all = names(&mut client, ReadingSelector::default()).await;
    assert_eq!(all.len(), 5);
    let service = ReadingSelector {
        service: "shop".to_owned(),
        ..ReadingSelector::default()
    };
    assert_eq!(
        names(&mut client, service.clone()).await,
        [
            name("service_cpu_cores", "shop", 0),
            name("process_cpu_cores", "python", 1)
        ]
    );
    let process = ReadingSelector {
        scopes: vec![Scope::Process.into()],
        ..service
    };
    assert_eq!(
        names(&mut client, process).await,
        [name("process_cpu_cores", "python", 1)]
    );
    let pid = ReadingSelector {
        pid: 2,
        ..ReadingSelector::default()
    };
    assert_eq!(names(&mut client, pid).await, [name("process_cpu_cores", "python", 2)]);
    let subject = ReadingSelector {
        subject: "shop".to_owned(),
        metrics: vec!["service_cpu_cores".to_owned(), "host_cpu_busy_ratio".to_owned()],
        ..ReadingSelector::default()
    };
    assert_eq!(
        names(&mut client, subject).await,
        [name("service_cpu_cores", "shop", 0)]
    );
    let wrong = GetSnapshotRequest {
        selector: Some(ReadingSelector {
            metrics: vec!["host\x1b[2J".to_owned()],
            ..ReadingSelector::default()
        }),
    };
    let status = client.get_snapshot(wrong).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(!status.message().contains('\x1b'), "{}", status.message());
}

#[tokio::test]
async fn a_span_has_its_gaps_and_its_rates() {
    let (_server, mut client) = server().await;
    let now = SystemTime::now();
    let request = GetRangeRequest {
        selector: Some(ReadingSelector {
            scopes: vec![Scope::Host.into()],
            ..ReadingSelector::default()
        }),
        start_time: Some((now - SECOND * 30).into()),
        end_time: None,
        step: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        quantiles: vec![0.5],
    };
    let range = client.get_range(request.clone()).await.unwrap().into_inner();
    assert_eq!(range.series.len(), 2);
    let [cpu, switches] = &range.series[..] else {
        panic!("{range:?}")
    };
    assert_eq!((cpu.metric.as_str(), cpu.steps.len()), ("host_cpu_busy_ratio", 8));
    let last = cpu.steps.last().unwrap();
    assert!((last.last - 0.1).abs() < 1e-6, "{last:?}");
    assert!((cpu.quantiles[0] - 0.04).abs() < 1e-6, "{cpu:?}");
    // Two seconds are missing, and the counter went on in them.
    assert_eq!(
        (switches.metric.as_str(), switches.steps.len()),
        ("host_context_switches_total", 7)
    );
    for step in &switches.steps {
        assert!((step.mean - 1000.0).abs() < 1.0, "{step:?}");
    }
    let gone = GetRangeRequest {
        start_time: Some((now - SECOND * 3000).into()),
        end_time: Some((now - SECOND * 2000).into()),
        ..request.clone()
    };
    assert!(client.get_range(gone).await.unwrap().into_inner().series.is_empty());
    let wrong = GetRangeRequest {
        quantiles: vec![2.0],
        ..request
    };
    assert_eq!(client.get_range(wrong).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_answer_has_its_bound() {
    let (server, mut client) = server().await;
    let now = Board::now().steady;
    for pid in 10..110 {
        server
            .readings
            .put(&[reading(Metric::ProcessCpu, process(pid), 1.0)], now);
    }
    let request = |step| GetRangeRequest {
        step: Some(prost_types::Duration {
            seconds: step,
            nanos: 0,
        }),
        ..GetRangeRequest::default()
    };
    let status = client.get_range(request(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("a longer step"), "{status}");
    assert_eq!(
        client.get_range(request(60)).await.unwrap().into_inner().series.len(),
        105
    );
}

#[tokio::test]
async fn what_can_be_measured_is_listed() {
    let (_server, mut client) = server().await;
    let metrics = client
        .list_metrics(ListMetricsRequest {})
        .await
        .unwrap()
        .into_inner()
        .metrics;
    assert_eq!(metrics.len(), Metric::ALL.len());
    let cpu = metrics
        .iter()
        .find(|metric| metric.name == "process_cpu_cores")
        .unwrap();
    assert_eq!((cpu.series, cpu.scope()), (2, Scope::Process));
}

#[tokio::test]
async fn a_stream_goes_on_until_the_server_ends() {
    let (server, mut client) = server().await;
    let request = || WatchReadingsRequest {
        selector: Some(ReadingSelector {
            metrics: vec!["host_cpu_busy_ratio".to_owned()],
            ..ReadingSelector::default()
        }),
        interval: None,
    };
    let mut stream = client.watch_readings(request()).await.unwrap().into_inner();
    for value in [0.5, 0.6] {
        let now = Board::now().steady;
        server
            .readings
            .put(&[reading(Metric::HostCpuBusy, Subject::Host, value)], now + SECOND);
        // The first may have been made before.
        let message = stream.message().await.unwrap().unwrap();
        assert_eq!(message.readings.len(), 1);
    }
    let mut others = Vec::new();
    for _ in 0..15 {
        others.push(client.watch_readings(request()).await.unwrap());
    }
    let refused = client.watch_readings(request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    // Whoever leaves makes room.
    others.clear();
    for attempt in 0.. {
        if client.watch_readings(request()).await.is_ok() {
            break;
        }
        assert!(attempt < 300, "no room after 30 s");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    server.stop().await.unwrap();
    let ended = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
    };
    assert_eq!(ended.unwrap().code(), Code::Unavailable);
}
