//! What lies between the daemon and a receiver: TLS and proxies.

use std::{
    io::{BufReader, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use profiler_config::{Endpoint, SinkTarget};
use profiler_daemon::sinks::{DeliveryError, TestError};
use tempfile::{TempDir, tempdir};

use crate::{
    double::{endpoint, sink, start},
    receiver::{Receiver, read_request},
};

/// The certificate of who made that of the receiver, in a file that nobody else can write.
fn authority(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, include_bytes!("ca.pem")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&path, mode).unwrap();
    path
}

async fn try_to_tell(folder: &TempDir, endpoint: Endpoint) -> Result<(), TestError> {
    let dispatcher = start(folder.path(), &[sink("ops", SinkTarget::Webhook(endpoint))]);
    dispatcher.test("ops").await
}

fn reason(result: Result<(), TestError>) -> String {
    match result {
        Err(TestError::Delivery(DeliveryError::Failed { reason })) => reason,
        other => panic!("{other:?}"),
    }
}

/// A proxy that remembers the first line of each request. It passes on bytes for `CONNECT`, and answers anything else.
fn proxy() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    proxy_for(None)
}

/// The same, for those only who show this.
fn proxy_for(whom: Option<&'static str>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let own = Arc::clone(&lines);
    // Ends with the test program.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = read_request(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
            own.lock().unwrap().push(request.line.clone());
            let shown = request.headers.get("proxy-authorization").map(String::as_str);
            if shown != whom {
                let answer = format!("HTTP/1.1 407 Who are you\r\nConnection: close\r\n\r\nno {shown:?}");
                stream.write_all(answer.as_bytes()).unwrap();
                continue;
            }
            match request.line.strip_prefix("CONNECT ") {
                Some(rest) => {
                    let target = TcpStream::connect(rest.split(' ').next().unwrap()).unwrap();
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                    pass_on(stream, target);
                }
                None => stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .unwrap(),
            }
        }
    });
    (address, lines)
}

fn pass_on(one: TcpStream, other: TcpStream) {
    for (mut from, mut to) in [(one.try_clone().unwrap(), other.try_clone().unwrap()), (other, one)] {
        std::thread::spawn(move || {
            std::io::copy(&mut from, &mut to).unwrap_or_default();
            to.shutdown(Shutdown::Write).unwrap_or_default();
        });
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let folder = tempdir().unwrap();
    let receiver = Receiver::start_tls();
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{}/hook", receiver.address.port());
        let mut trusting = endpoint(&url);
        trusting.ca_file = Some(authority(&folder));
        try_to_tell(&folder, trusting).await.unwrap();
        // The system knows no such authority.
        let error = reason(try_to_tell(&folder, endpoint(&url)).await);
        assert!(error.contains("certificate"), "{error}");
    }
    assert_eq!(receiver.requests().len(), 2);
    let mut wrong = endpoint("https://localhost:1/");
    wrong.ca_file = Some("/no/such/file".into());
    wrong.url = format!("https://localhost:{}/", receiver.address.port());
    let error = reason(try_to_tell(&folder, wrong).await);
    assert!(error.contains("/no/such/file"), "{error}");
}

#[tokio::test]
async fn a_proxy_is_gone_through() {
    let folder = tempdir().unwrap();
    let (address, lines) = proxy();
    let mut plain = endpoint("http://ops.invalid/hook?x=1");
    plain.proxy = Some(format!("http://{address}"));
    try_to_tell(&folder, plain).await.unwrap();

    let receiver = Receiver::start_tls();
    let port = receiver.address.port();
    let mut secure = endpoint(&format!("https://127.0.0.1:{port}/hook"));
    secure.proxy = Some(format!("http://{address}"));
    secure.ca_file = Some(authority(&folder));
    try_to_tell(&folder, secure).await.unwrap();
    assert_eq!(receiver.requests()[0].line, "POST /hook HTTP/1.1");
    assert_eq!(
        *lines.lock().unwrap(),
        [
            "POST http://ops.invalid/hook?x=1 HTTP/1.1".to_owned(),
            format!("CONNECT 127.0.0.1:{port} HTTP/1.1")
        ]
    );
}

/// Whoever is at the other end of a connection through it never sees what the proxy is shown.
#[tokio::test]
async fn a_proxy_is_told_who_asks() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("user");
    std::fs::write(&file, "Aladdin:open sesame\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (address, lines) = proxy_for(Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
    let receiver = Receiver::start_tls();
    let mut plain = endpoint("http://ops.invalid/hook");
    let mut secure = endpoint(&format!("https://127.0.0.1:{}/hook", receiver.address.port()));
    secure.ca_file = Some(authority(&folder));
    for endpoint in [&mut plain, &mut secure] {
        endpoint.proxy = Some(format!("http://{address}"));
        let error = reason(try_to_tell(&folder, endpoint.clone()).await);
        assert!(error.contains("407 Proxy Authentication Required"), "{error}");
        endpoint.proxy_auth_file = Some(file.clone());
        try_to_tell(&folder, endpoint.clone()).await.unwrap();
    }
    assert_eq!(lines.lock().unwrap().len(), 4);
    let told = receiver.requests();
    assert_eq!((told.len(), told[0].line.as_str()), (1, "POST /hook HTTP/1.1"));
    assert!(
        !told[0].headers.contains_key("proxy-authorization"),
        "{:?}",
        told[0].headers
    );
    // A wrong password is shown nowhere, also where the proxy repeats it.
    std::fs::write(&file, "Aladdin:close sesame\n").unwrap();
    let error = reason(try_to_tell(&folder, plain.clone()).await);
    assert!(error.contains("407") && error.contains("[secret]"), "{error}");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
    let error = reason(try_to_tell(&folder, plain).await);
    assert!(error.contains("lets others at it"), "{error}");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named() {
    let folder = tempdir().unwrap();
    let proxy = Receiver::start();
    proxy.answer(&["407 Who are you\r\n\r\n"]);
    let mut secure = endpoint("https://ops.invalid/hook");
    secure.proxy = Some(format!("http://{}", proxy.address));
    let error = reason(try_to_tell(&folder, secure).await);
    assert_eq!(error, "the proxy answered 407 Proxy Authentication Required");
    let mut nowhere = endpoint("https://ops.invalid/hook");
    nowhere.proxy = Some("http://127.0.0.1:1".to_owned());
    let error = reason(try_to_tell(&folder, nowhere).await);
    assert!(error.starts_with("127.0.0.1:1: "), "{error}");
}
