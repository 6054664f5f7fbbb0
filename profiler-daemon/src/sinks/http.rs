//! A small HTTP client: one request on one connection, through a proxy or not, over TLS or not.
//!
//! What comes back is read within bounds; redirects are not followed, because they would carry secrets elsewhere. How long it
//! may take is the caller's business.

use std::{fmt, io, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode, Uri,
    body::Incoming,
    client::conn::http1,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use profiler_config::Endpoint;
use profiler_profile::visible;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OnceCell,
    task::JoinSet,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject as _},
    },
};

use super::{mailbox::DeliveryError, peer::Peer};
use crate::secrets::{self, FileError, Secret};

/// What is read of an answer.
const MAX_ANSWER_BYTES: usize = 4 << 10;
/// What is shown of it.
const MAX_SHOWN_BYTES: usize = 200;
const USER_AGENT: &str = concat!("profiler-daemon/", env!("CARGO_PKG_VERSION"));

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error("no address: {url}")]
    Address { url: String },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the headers_file holds what is no header")]
    Header,
    #[error("{host}: {source}")]
    Connect { host: String, source: io::Error },
    #[error("{host} is no name for TLS: {source}")]
    Name { host: String, source: InvalidDnsNameError },
    #[error("TLS cannot be used: {reason}")]
    Tls { reason: String },
    #[error("the proxy answered {status}")]
    Proxy { status: StatusCode },
    #[error("{source}")]
    Exchange {
        #[from]
        source: hyper::Error,
    },
}

/// A connection, whatever it goes through.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Connection = TokioIo<Box<dyn Stream>>;

/// Sends to one address.
pub(super) struct Client {
    endpoint: Endpoint,
    uri: Result<Uri, String>,
    tls: OnceCell<Arc<ClientConfig>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// A header that is not shown.
struct SecretHeader {
    name: HeaderName,
    prefix: &'static str,
    secret: Secret,
}

impl SecretHeader {
    fn value(&self) -> Result<HeaderValue, HttpError> {
        let text = format!("{}{}", self.prefix, self.secret.expose());
        let mut value = HeaderValue::from_str(&text).map_err(|_invalid| HttpError::Header)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// What is sent.
pub(super) struct Post {
    /// JSON.
    pub(super) body: Bytes,
    /// Headers beside those of every request.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Client {
    /// A client of this endpoint. `path` is added to the path of its address.
    pub(super) fn new(endpoint: &Endpoint, path: &str) -> Self {
        let url = match path {
            "" => endpoint.url.clone(),
            path => format!("{}{path}", endpoint.url.trim_end_matches('/')),
        };
        Self {
            endpoint: endpoint.clone(),
            uri: url.parse().map_err(|_invalid| url),
            tls: OnceCell::new(),
        }
    }

    /// Sends JSON. Any answer of the kind 2xx is success.
    pub(super) async fn post(&self, post: Post) -> Result<(), DeliveryError> {
        let failed = |error: HttpError| DeliveryError::Failed {
            reason: with_causes(&error),
        };
        let mut secrets = self.secrets().map_err(failed)?;
        let for_proxy = self.proxy_secret().map_err(failed)?;
        let (status, answer) = self
            .exchange(post, &secrets, for_proxy.as_ref())
            .await
            .map_err(failed)?;
        secrets.extend(for_proxy);
        judge(status, &answer, secrets.iter().map(|header| &header.secret))
    }

    fn secrets(&self) -> Result<Vec<SecretHeader>, HttpError> {
        let mut headers = Vec::new();
        if let Some(path) = &self.endpoint.token_file {
            headers.push(SecretHeader {
                name: header::AUTHORIZATION,
                prefix: "Bearer ",
                secret: secrets::first_line(path)?,
            });
        }
        if let Some(path) = &self.endpoint.headers_file {
            for (name, secret) in secrets::headers(path)? {
                headers.push(SecretHeader {
                    name: name.parse().map_err(|_invalid| HttpError::Header)?,
                    prefix: "",
                    secret,
                });
            }
        }
        Ok(headers)
    }

    fn proxy_secret(&self) -> Result<Option<SecretHeader>, HttpError> {
        let read = |path| -> Result<SecretHeader, HttpError> {
            Ok(SecretHeader {
                name: header::PROXY_AUTHORIZATION,
                prefix: "Basic ",
                secret: secrets::basic(path)?,
            })
        };
        self.endpoint.proxy_auth_file.as_deref().map(read).transpose()
    }

    async fn exchange(
        &self,
        post: Post,
        secrets: &[SecretHeader],
        for_proxy: Option<&SecretHeader>,
    ) -> Result<(StatusCode, Vec<u8>), HttpError> {
        let address = |url: &str| HttpError::Address { url: url.to_owned() };
        let uri = self.uri.as_ref().map_err(|url| address(url))?;
        let target = Peer::of(uri).ok_or_else(|| address(&uri.to_string()))?;
        let proxy = match &self.endpoint.proxy {
            Some(url) => Some(
                url.parse::<Uri>()
                    .ok()
                    .as_ref()
                    .and_then(Peer::of)
                    .ok_or_else(|| address(url))?,
            ),
            None => None,
        };
        let stream = self.connect(&target, proxy.as_ref(), for_proxy).await?;
        // A proxy is told the whole address, unless the connection goes through it unseen.
        let is_forwarded = proxy.is_some() && !target.is_tls;
        let shown_uri = match uri.path_and_query() {
            Some(path) if !is_forwarded => Uri::from(path.clone()),
            _ => uri.clone(),
        };
        let mut request = Request::new(Full::new(post.body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = shown_uri;
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(&target.authority).map_err(|_invalid| HttpError::Header)?;
        headers.insert(header::HOST, host);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.extend(post.headers);
        // Whom a connection goes to through a proxy never sees what that is shown.
        for secret in secrets.iter().chain(for_proxy.filter(|_| is_forwarded)) {
            headers.insert(secret.name.clone(), secret.value()?);
        }
        let (mut sender, connection) = http1::handshake(stream).await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let response = sender.send_request(request).await?;
        let status = response.status();
        // Who took it may be as slow as he likes to say more.
        let answer = match status.is_success() {
            true => Vec::new(),
            false => beginning(response.into_body()).await,
        };
        Ok((status, answer))
    }

    /// A connection to the target, or to a proxy that forwards to it.
    async fn connect(
        &self,
        target: &Peer,
        proxy: Option<&Peer>,
        for_proxy: Option<&SecretHeader>,
    ) -> Result<Connection, HttpError> {
        let first = proxy.unwrap_or(target);
        let tcp = TcpStream::connect((first.host.as_str(), first.port)).await;
        let tcp = tcp.map_err(|source| HttpError::Connect {
            host: first.authority.clone(),
            source,
        })?;
        let mut stream: Box<dyn Stream> = Box::new(tcp);
        if let Some(proxy) = proxy {
            if proxy.is_tls {
                stream = self.secure(stream, proxy).await?;
            }
            if target.is_tls {
                stream = tunnel(stream, target, for_proxy).await?;
            }
        }
        if target.is_tls {
            stream = self.secure(stream, target).await?;
        }
        Ok(TokioIo::new(stream))
    }

    async fn secure(&self, stream: Box<dyn Stream>, peer: &Peer) -> Result<Box<dyn Stream>, HttpError> {
        let name = ServerName::try_from(peer.host.clone()).map_err(|source| HttpError::Name {
            host: peer.host.clone(),
            source,
        })?;
        let config = self.tls.get_or_try_init(|| async { self.tls_config() }).await?;
        let secured = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
        let secured = secured.map_err(|source| HttpError::Connect {
            host: peer.authority.clone(),
            source,
        })?;
        Ok(Box::new(secured))
    }

    fn tls_config(&self) -> Result<Arc<ClientConfig>, HttpError> {
        let unusable = |reason: String| HttpError::Tls { reason };
        let mut roots = RootCertStore::empty();
        match &self.endpoint.ca_file {
            Some(path) => {
                let pem = secrets::certificates(path)?;
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    let certificate = certificate.map_err(|error| unusable(format!("{}: {error}", path.display())))?;
                    roots
                        .add(certificate)
                        .map_err(|error| unusable(format!("{}: {error}", path.display())))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err(unusable("there are no certificates to trust: set ca_file".to_owned()));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

/// Has a proxy pass bytes on to the target.
async fn tunnel(
    stream: Box<dyn Stream>,
    target: &Peer,
    for_proxy: Option<&SecretHeader>,
) -> Result<Box<dyn Stream>, HttpError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(connection.with_upgrades());
    let whole = format!("{}:{}", target.bracketed(), target.port);
    let invalid = || HttpError::Address { url: whole.clone() };
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(&whole)
        .header(header::HOST, &whole)
        .header(header::USER_AGENT, USER_AGENT)
        .body(Full::<Bytes>::default())
        .map_err(|_invalid| invalid())?;
    if let Some(secret) = for_proxy {
        request.headers_mut().insert(secret.name.clone(), secret.value()?);
    }
    let response = sender.send_request(request).await?;
    let status = response.status();
    if !status.is_success() {
        return Err(HttpError::Proxy { status });
    }
    let upgraded = hyper::upgrade::on(response).await?;
    Ok(Box::new(TokioIo::new(upgraded)))
}

/// The beginning of an answer; what does not come is not missed.
async fn beginning(mut body: Incoming) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            let room = MAX_ANSWER_BYTES - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
        }
        if bytes.len() == MAX_ANSWER_BYTES {
            break;
        }
    }
    bytes
}

/// What an answer means: what is wrong with the notification itself is never taken, everything else may change.
fn judge<'a>(
    status: StatusCode,
    answer: &[u8],
    secrets: impl Iterator<Item = &'a Secret>,
) -> Result<(), DeliveryError> {
    if status.is_success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(answer);
    let text = secrets.fold(text.into_owned(), |text, secret| secret.taken_out_of(&text));
    let reason = match text.trim() {
        "" => format!("answered {status}"),
        text => format!("answered {status}: {}", visible(text, MAX_SHOWN_BYTES)),
    };
    let is_final = matches!(
        status,
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY
    );
    Err(match is_final {
        true => DeliveryError::Refused { reason },
        false => DeliveryError::Failed { reason },
    })
}

/// What happened, and why: of a connection the second is what matters.
fn with_causes(error: &HttpError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    visible(&text, MAX_SHOWN_BYTES).into_owned()
}
