//! The TCP port with TLS: who has no certificate, or not the right one, is not let in.
#![allow(
    clippy::unwrap_used,
    reason = "a test program: the settings for tests do not reach its helpers"
)]

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use profiler_config::Tcp;
use profiler_daemon::{
    api::http::{TcpDoor, TcpError, TlsError},
    health::{Part, PartState},
};
use profiler_proto::v1::{GetSnapshotRequest, metrics_service_client::MetricsServiceClient};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};
use tonic::transport::{Endpoint, Uri};

use crate::{http, server::Server};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who signs certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
struct Identity {
    certificate: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self {
            pem: params.self_signed(&key).unwrap().pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for this purpose, good until the beginning of this year.
    fn sign(&self, purpose: ExtendedKeyUsagePurpose, until: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        Identity {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A file that only its owner can read.
fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A server with TLS, and who signed its certificate.
struct Scene {
    server: Server,
    authority: Authority,
    config: Tcp,
}

impl Scene {
    fn new() -> Self {
        let server = Server::start();
        let authority = Authority::new("ours");
        let own = authority.sign(ExtendedKeyUsagePurpose::ServerAuth, 4000);
        let folder = server.directory.path();
        let config = Tcp {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            certificate_file: write(folder, "server.pem", &own.certificate),
            key_file: write(folder, "server.key", &own.key),
            client_ca_file: write(folder, "clients.pem", &authority.pem),
            ..Tcp::default()
        };
        Self {
            server,
            authority,
            config,
        }
    }

    /// What a caller with this certificate trusts and shows.
    fn client(&self, identity: Option<&Identity>, protocol: &[u8]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.authority.pem.as_bytes()).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    /// The answer to a scrape, or why there is none.
    async fn scrape(&self, address: SocketAddr, identity: Option<&Identity>, token: &str) -> io::Result<String> {
        let client = self.client(identity, b"http/1.1");
        let ask = async {
            let mut stream = connect(&client, address).await?;
            let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        tokio::time::timeout(PATIENCE, ask).await.expect("an answer in time")
    }
}

async fn connect(client: &TlsConnector, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    client.connect(ServerName::try_from("localhost").unwrap(), stream).await
}

#[tokio::test]
async fn only_who_has_a_certificate_of_the_authority_is_let_in() {
    let scene = Scene::new();
    let (address, _stop) = http::serve(&scene.server, scene.config.clone()).await;
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let right = scene.authority.sign(client.clone(), 4000);
    let answer = scene.scrape(address, Some(&right), "").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("profiler_tls_handshakes_failed_total 0\n"), "{answer}");

    // One of another authority with the same name, too.
    let others = ["theirs", "ours"].map(|name| Authority::new(name).sign(client.clone(), 4000));
    let expired = scene.authority.sign(client, 2001);
    let of_a_server = scene.authority.sign(ExtendedKeyUsagePurpose::ServerAuth, 4000);
    let wrong = others.iter().chain([&expired, &of_a_server]).map(Some);
    for identity in wrong.chain([None]) {
        let told = scene.scrape(address, identity, "").await;
        assert!(told.is_err(), "{told:?}");
    }
    // Nor who speaks no TLS.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut told = Vec::new();
    // It may be cut off, or told in TLS that it is wrong.
    drop(plain.read_to_end(&mut told).await);
    assert!(!String::from_utf8_lossy(&told).contains("HTTP"), "{told:?}");

    let answer = scene.scrape(address, Some(&right), "").await.unwrap();
    assert!(answer.contains("profiler_tls_handshakes_failed_total 6\n"), "{answer}");
}

#[tokio::test]
async fn a_token_is_asked_for_inside_of_tls_where_one_is_named() {
    let mut scene = Scene::new();
    scene.config.token_file = write(scene.server.directory.path(), "token", http::TOKEN);
    let token = format!("Authorization: Bearer {}\r\n", http::TOKEN);
    let right = scene.authority.sign(ExtendedKeyUsagePurpose::ClientAuth, 4000);
    let (address, _stop) = http::serve(&scene.server, scene.config.clone()).await;
    for (identity, shown, status) in [
        (Some(&right), token.as_str(), Some("200")),
        (Some(&right), "", Some("401")),
        (None, token.as_str(), None),
    ] {
        let answer = scene.scrape(address, identity, shown).await.ok();
        let told = answer.as_deref().and_then(|answer| answer.split(' ').nth(1));
        assert_eq!(told, status, "{answer:?}");
    }
    // With the token alone, and TLS only against those who listen in.
    scene.config.client_ca_file = PathBuf::new();
    let (address, _stop) = http::serve(&scene.server, scene.config.clone()).await;
    let answer = scene.scrape(address, None, &token).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn grpc_is_spoken_inside_of_tls() {
    let scene = Scene::new();
    let (address, _stop) = http::serve(&scene.server, scene.config.clone()).await;
    let right = scene.authority.sign(ExtendedKeyUsagePurpose::ClientAuth, 4000);
    let client = scene.client(Some(&right), b"h2");
    let connector = tower::service_fn(move |_: Uri| {
        let client = client.clone();
        async move { connect(&client, address).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let mut client = MetricsServiceClient::new(channel);
    let snapshot = client.get_snapshot(GetSnapshotRequest::default());
    assert_eq!(snapshot.await.unwrap().into_inner().readings.len(), 1);
}

/// One who connects and says nothing must not keep others out: shaking hands is done beside them.
#[tokio::test]
async fn a_caller_that_does_not_shake_hands_keeps_nobody_waiting() {
    let scene = Scene::new();
    let (address, _stop) = http::serve(&scene.server, scene.config.clone()).await;
    let right = scene.authority.sign(ExtendedKeyUsagePurpose::ClientAuth, 4000);
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let answer = scene.scrape(address, Some(&right), "").await.unwrap();
    assert!(answer.contains("profiler_tls_handshakes_failed_total 0\n"), "{answer}");
}

#[tokio::test]
async fn files_that_others_can_reach_or_that_are_not_what_they_should_be_are_refused() {
    let scene = Scene::new();
    let refused = async |change: &dyn Fn(&mut Tcp)| {
        let mut config = scene.config.clone();
        change(&mut config);
        TcpDoor::open(&config).await.expect_err("it is refused")
    };
    let folder = scene.server.directory.path();
    let with_mode = |name: &str, from: &Path, mode| {
        let path = write(folder, name, &fs::read_to_string(from).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let open_key = with_mode("open.key", &scene.config.key_file, 0o644);
    let error = refused(&|config| config.key_file = open_key.clone()).await.to_string();
    assert!(error.contains("open.key") && error.contains("chmod 640"), "{error}");
    let open_ca = with_mode("open.pem", &scene.config.client_ca_file, 0o666);
    let error = refused(&|config| config.client_ca_file = open_ca.clone())
        .await
        .to_string();
    assert!(error.contains("open.pem") && error.contains("chmod 644"), "{error}");
    let other_key = write(folder, "other.key", &KeyPair::generate().unwrap().serialize_pem());
    let error = refused(&|config| config.key_file = other_key.clone()).await;
    assert!(matches!(error, TcpError::Tls(TlsError::Unusable { .. })), "{error}");
    let error = refused(&|config| config.certificate_file = config.key_file.clone()).await;
    assert!(error.to_string().contains("no certificate in PEM"), "{error}");
    let error = refused(&|config| config.client_ca_file = PathBuf::new()).await;
    assert!(matches!(error, TcpError::Open), "{error}");
}

/// Waits until it is so: files are looked at every few seconds.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let waited = tokio::time::timeout(2 * PATIENCE, wait).await;
    waited.unwrap_or_else(|_elapsed| panic!("{what} in time"));
}

#[tokio::test]
async fn certificates_and_tokens_that_are_replaced_count_without_a_restart() {
    const NEXT: &str = "fedcba9876543210-token";
    let mut scene = Scene::new();
    let folder = scene.server.directory.path().to_owned();
    scene.config.token_file = write(&folder, "token", http::TOKEN);
    scene.config.client_ca_file = PathBuf::new();
    let (address, _stop) = http::serve(&scene.server, scene.config.clone()).await;
    let shown = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let status = async |scene: &Scene, token: &str| {
        let answer = scene.scrape(address, None, &shown(token)).await.ok();
        answer.and_then(|answer| answer.split(' ').nth(1).map(str::to_owned))
    };
    assert_eq!(status(&scene, http::TOKEN).await.as_deref(), Some("200"));

    // As a tool that renews certificates does: each file in the place of the one before, one after the other.
    let replace = |name: &str, text: &str| {
        let new = write(&folder, "new", text);
        fs::rename(new, folder.join(name)).unwrap();
    };
    let before = std::mem::replace(&mut scene.authority, Authority::new("the next"));
    let renewed = scene.authority.sign(ExtendedKeyUsagePurpose::ServerAuth, 4000);
    replace("server.pem", &renewed.certificate);
    let health = Arc::clone(&scene.server.health);
    let tells_of = |file: &str| {
        let state = health.state(Part::Tcp);
        matches!(state, Some(PartState::Failed { reason, .. }) if reason.contains(file))
    };
    until("a certificate without its key is told of", async || {
        tells_of("server.pem")
    })
    .await;
    replace("server.key", &renewed.key);
    until("who trusts the new authority is served", async || {
        status(&scene, http::TOKEN).await.as_deref() == Some("200")
    })
    .await;
    assert_eq!(health.state(Part::Tcp), Some(PartState::Active));

    replace("token", NEXT);
    until("the new token counts", async || {
        status(&scene, NEXT).await.as_deref() == Some("200")
    })
    .await;
    assert_eq!(
        status(&scene, http::TOKEN).await.as_deref(),
        Some("401"),
        "the old one does not"
    );
    let next = std::mem::replace(&mut scene.authority, before);
    assert_eq!(status(&scene, NEXT).await, None, "nor does the old certificate");
    scene.authority = next;

    // What is of no use changes nothing, and neither does a file that is gone.
    replace("token", "short");
    until("a token that is none is told of", async || tells_of("16 to 4096")).await;
    replace("token", NEXT);
    fs::remove_file(folder.join("server.pem")).unwrap();
    until("a file that is gone is told of", async || tells_of("server.pem")).await;
    assert_eq!(status(&scene, NEXT).await.as_deref(), Some("200"));
}
