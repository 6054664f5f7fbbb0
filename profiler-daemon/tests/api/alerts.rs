//! Alerts over the API: from a reading beyond its limit to whoever asks, and who may silence.

use std::time::{Duration, SystemTime};

use profiler_daemon::readings::Board;
use profiler_proto::v1::{
    Alert, AlertPhase, CreateSilenceRequest, ExpireSilenceRequest, GetAlertRequest, GetAlertResponse,
    ListAlertsRequest, ListLimitsRequest, ListSilencesRequest, Matcher, Scope, Unit, WatchAlertsRequest,
    alert_service_client::AlertServiceClient,
};
use profiler_readings::{Metric, Reading, Subject};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::{http, server::Server};

async fn server() -> (Server, AlertServiceClient<Channel>) {
    let server = Server::start();
    let client = AlertServiceClient::new(server.client().await);
    (server, client)
}

/// The host's CPU is this busy now.
fn busy(server: &Server, share: f64) {
    let reading = Reading {
        metric: Metric::HostCpuBusy,
        subject: Subject::Host,
        value: share,
        time: SystemTime::now(),
    };
    server.readings.put(&[reading], Board::now().steady);
}

/// Waits for the next evaluations until the alert is in this state.
async fn alert_in(phase: AlertPhase, server: &Server, share: f64, client: &mut AlertServiceClient<Channel>) -> Alert {
    for _ in 0..200 {
        busy(server, share);
        let request = ListAlertsRequest {
            include_ended: true,
            ..ListAlertsRequest::default()
        };
        let alerts = client.list_alerts(request).await.expect("alerts").into_inner().alerts;
        if let Some(alert) = alerts.into_iter().find(|alert| alert.phase() == phase) {
            return alert;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no alert became {phase:?}");
}

/// Waits until evidence was gathered.
async fn evidence_of(id: &str, client: &mut AlertServiceClient<Channel>) -> GetAlertResponse {
    for _ in 0..200 {
        let request = GetAlertRequest {
            id: id.to_owned(),
            with_evidence: true,
        };
        let answer = client.get_alert(request).await.expect("an alert").into_inner();
        if answer.evidence.is_some() {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no evidence was gathered");
}

#[tokio::test]
async fn a_reading_beyond_its_limit_is_an_alert_until_it_is_back() {
    let (server, mut client) = server().await;
    let limits = client
        .list_limits(ListLimitsRequest {})
        .await
        .unwrap()
        .into_inner()
        .limits;
    assert_eq!(limits.len(), 1);
    assert!(limits[0].meaning.contains("above 70 %"), "{}", limits[0].meaning);
    let mut changes = client.watch_alerts(WatchAlertsRequest {}).await.unwrap().into_inner();
    let firing = alert_in(AlertPhase::Firing, &server, 0.95, &mut client).await;
    assert_eq!(
        (firing.limit.as_str(), firing.metric.as_str()),
        ("host_cpu", "host_cpu_busy_ratio")
    );
    assert_eq!((firing.latest, firing.unit()), (Some(0.95), Unit::Ratio));
    assert_eq!(
        firing.subject.as_ref().map(|subject| subject.scope()),
        Some(Scope::Host)
    );
    assert_eq!(firing.labels["alertname"], "host_cpu");
    let one = evidence_of(&firing.id, &mut client).await;
    assert_eq!(one.alert.unwrap().id, firing.id);
    assert!(one.findings[0].contains("not enough to compare"), "{:?}", one.findings);
    let evidence = one.evidence.unwrap();
    assert!(evidence.comparison.is_some());
    let metrics: Vec<&str> = evidence.readings.iter().map(|series| &*series.metric).collect();
    assert_eq!(metrics, ["host_cpu_busy_ratio"]);
    let resolved = alert_in(AlertPhase::Resolved, &server, 0.1, &mut client).await;
    assert_eq!(
        (resolved.id.as_str(), resolved.end_reason.as_str()),
        (firing.id.as_str(), "recovered")
    );
    let mut seen = Vec::new();
    while seen.last().is_none_or(|change| change != "resolved") {
        let message = changes.message().await.unwrap().expect("the stream goes on");
        assert_eq!(message.alert.map(|alert| alert.id), Some(firing.id.clone()));
        seen.push(message.change);
    }
    assert_eq!(seen, ["pending", "firing", "resolved"]);
}

#[tokio::test]
async fn what_was_found_is_told_to_those_who_may_profile() {
    let (server, mut client) = server().await;
    let firing = alert_in(AlertPhase::Firing, &server, 0.95, &mut client).await;
    assert!(!evidence_of(&firing.id, &mut client).await.findings.is_empty());
    for (allow_profile, told) in [(false, false), (true, true)] {
        let (address, _stop) = http::port(&server, allow_profile).await;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let request = GetAlertRequest {
            id: firing.id.clone(),
            with_evidence: false,
        };
        let mut client = AlertServiceClient::with_interceptor(channel, http::with_token);
        let answer = client.get_alert(request).await.unwrap().into_inner();
        assert_eq!(answer.alert.unwrap().id, firing.id);
        assert_eq!(!answer.findings.is_empty(), told, "{:?}", answer.findings);
    }
}

#[tokio::test]
async fn an_alert_that_is_not_kept_and_an_id_that_is_none_are_told_apart() {
    let (_server, mut client) = server().await;
    let mut get = async |id: &str| {
        let request = GetAlertRequest {
            id: id.to_owned(),
            with_evidence: false,
        };
        client.get_alert(request).await.unwrap_err()
    };
    assert_eq!(get("00000000000000ff").await.code(), Code::NotFound);
    for wrong in ["", "host_cpu", "+ff", "123456789abcdef01"] {
        assert_eq!(get(wrong).await.code(), Code::InvalidArgument, "{wrong:?}");
    }
}

#[tokio::test]
async fn silences_are_made_listed_and_ended() {
    let (server, mut client) = server().await;
    let request = |label: &str, seconds| CreateSilenceRequest {
        matchers: vec![Matcher {
            label: label.to_owned(),
            value: "host_cpu".to_owned(),
            negated: false,
        }],
        duration: Some(prost_types::Duration { seconds, nanos: 0 }),
        comment: "load test".to_owned(),
    };
    let made = client
        .create_silence(request("alertname", 3600))
        .await
        .unwrap()
        .into_inner();
    let silence = made.silence.unwrap();
    assert!(silence.created_by.starts_with("uid "), "{}", silence.created_by);
    let alert = alert_in(AlertPhase::Firing, &server, 0.95, &mut client).await;
    assert!(alert.silenced);
    let list = |mut client: AlertServiceClient<Channel>| async move {
        client
            .list_silences(ListSilencesRequest {})
            .await
            .unwrap()
            .into_inner()
            .silences
    };
    assert_eq!(list(client.clone()).await, std::slice::from_ref(&silence));
    let expire = ExpireSilenceRequest { id: silence.id };
    client.expire_silence(expire).await.unwrap();
    assert!(list(client.clone()).await.is_empty());
    assert_eq!(client.expire_silence(expire).await.unwrap_err().code(), Code::NotFound);
    for refused in [
        request("alertname", 0),
        request("alertname", -5),
        request("alertname", 400 * 24 * 3600),
        CreateSilenceRequest {
            matchers: Vec::new(),
            ..request("alertname", 60)
        },
    ] {
        assert_eq!(
            client.create_silence(refused).await.unwrap_err().code(),
            Code::InvalidArgument
        );
    }
}
