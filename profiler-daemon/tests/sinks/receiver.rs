//! A web server that remembers what it was sent and answers what it was told to.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// For how long something may take on a loud machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Method, target and version.
    pub(crate) line: String,
    /// By name in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The status of the first alert of a webhook, and its limit.
    pub(crate) fn told(&self) -> String {
        let body = self.json();
        let alert = &body["alerts"][0];
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        format!("{} {}", text(&alert["labels"]["alertname"]), text(&alert["status"]))
    }
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    answers: Mutex<VecDeque<String>>,
    delay: Mutex<Duration>,
    is_over: AtomicBool,
}

/// A web server that ends with its test.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Receiver {
    /// Listens on a port of its own.
    pub(crate) fn start() -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").unwrap(), None)
    }

    /// Listens on this port.
    pub(crate) fn start_at(address: SocketAddr) -> Self {
        Self::listen(TcpListener::bind(address).unwrap(), None)
    }

    /// Listens with the certificate of this folder.
    pub(crate) fn start_tls() -> Self {
        let chain = CertificateDer::pem_slice_iter(include_bytes!("server.pem"));
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Self::listen(TcpListener::bind("127.0.0.1:0").unwrap(), Some(Arc::new(config)))
    }

    fn listen(listener: TcpListener, tls: Option<Arc<ServerConfig>>) -> Self {
        let shared = Arc::new(Shared::default());
        let address = listener.local_addr().unwrap();
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let (shared, tls) = (Arc::clone(&own), tls.clone());
                let stream = stream.unwrap();
                std::thread::spawn(move || match tls {
                    Some(config) => {
                        let connection = ServerConnection::new(config).unwrap();
                        shared.serve(StreamOwned::new(connection, stream));
                    }
                    None => shared.serve(stream),
                });
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// What is answered to requests, one after the other; after that `200`.
    pub(crate) fn answer(&self, answers: &[&str]) {
        let mut queue = self.shared.answers.lock().unwrap();
        queue.extend(answers.iter().map(|answer| (*answer).to_owned()));
    }

    /// Answers only after a while.
    pub(crate) fn be_slow(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap() = delay;
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Waits for so many requests.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Request> {
        wait_until("requests", || self.requests().len() >= count);
        self.requests()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // It looks up when the next one comes.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn serve(&self, stream: impl Read + Write) {
        let mut reader = BufReader::new(stream);
        // Who only knocks says nothing, and who trusts no certificate goes.
        let Some(request) = read_request(&mut reader) else {
            return;
        };
        self.requests.lock().unwrap().push(request);
        let delay = *self.delay.lock().unwrap();
        std::thread::sleep(delay);
        let answer = self.answers.lock().unwrap().pop_front();
        let answer = answer.unwrap_or_else(|| "200 OK\r\n\r\n".to_owned());
        // Who does not wait is not answered.
        let stream = reader.get_mut();
        let head = format!(
            "HTTP/1.1 {}",
            answer.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
        );
        if stream.write_all(head.as_bytes()).is_ok() {
            stream.flush().unwrap_or_default();
        }
    }
}

/// Reads one request with a body of a stated length.
pub(crate) fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        match header.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let line = line.trim_end().to_owned();
    Some(Request { line, headers, body })
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "no {what} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
