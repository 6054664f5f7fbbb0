//! A real Prometheus reads the daemon over TCP, and our rules hold over what it reads.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use profiler_tests::{
    daemon::Host,
    programs::{Running, wait_for},
    prometheus,
};
use serde_json::Value;

use crate::{host, skip};

const TOKEN: &str = "of-the-tests-0123456789";
const TOKEN_FILE: &str = "token";
/// How long Prometheus may take to start, to scrape and to evaluate, on two CPUs that others use as well.
const SCRAPED_WITHIN: Duration = Duration::from_secs(120);
/// How long an answer may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn prometheus_scrapes_with_the_token_and_rules_hold() {
    let Some(host) = host() else { return };
    let (server, promtool) = match (prometheus::find("prometheus"), prometheus::find("promtool")) {
        (Ok(server), Ok(promtool)) => (server, promtool),
        (Err(reason), _) | (_, Err(reason)) => return skip(&reason),
    };
    let (ours, theirs) = (free_port(), free_port());
    let daemon = host.daemon(&served_at(&host, ours));
    let unasked = wait_for("the port", SCRAPED_WITHIN, || get(ours, "/metrics", ""));
    assert!(unasked.starts_with("HTTP/1.1 401"), "{unasked}");
    let text = wait_for("readings", SCRAPED_WITHIN, || {
        let text = scrape(ours)?;
        text.contains("profiler_host_cpu_busy_ratio").then_some(text)
    });
    judged_fit(&promtool, &text);

    let _prometheus = start(&host, &server, ours, theirs);
    let value = |query: &str| -> Option<String> {
        let query = query.replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
        let answer = get(theirs, &format!("/api/v1/query?query={query}"), "")?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let document: Value = serde_json::from_str(body).ok()?;
        Some(document["data"]["result"][0]["value"][1].as_str()?.to_owned())
    };
    let cpus = wait_for("a series recorded by a rule", SCRAPED_WITHIN, || {
        value("test:cpus:count")
    });
    assert!(cpus.parse::<u32>().is_ok_and(|cpus| cpus > 0), "{cpus}");
    // One scrape that comes late is enough for us to seem down for a moment.
    wait_for("a scrape that shows us up and well", SCRAPED_WITHIN, || {
        let is_up = value("up{job=\"profiler\"}").as_deref() == Some("1");
        let has_alerts = value("profiler_alerts{state=\"firing\"}").is_some();
        (is_up && has_alerts && value("ALERTS{alertname=\"ProfilerDown\"}").is_none()).then_some(())
    });
    drop(daemon);
    let state = || value("ALERTS{alertname=\"ProfilerDown\",alertstate=\"pending\"}");
    assert_eq!(wait_for("the alert of our absence", SCRAPED_WITHIN, state), "1");
}

/// An address that nobody listens on.
pub(crate) fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// The section of a configuration that has the daemon serve at an address, to who shows the token. That is put into a file here.
pub(crate) fn served_at(host: &Host, listen: SocketAddr) -> String {
    let token = host.path(TOKEN_FILE);
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    format!("[tcp]\nlisten = \"{listen}\"\ntoken_file = {token:?}\n")
}

/// What the daemon says there of readings and of itself; nothing if nobody answers.
pub(crate) fn scrape(address: SocketAddr) -> Option<String> {
    let answer = get(address, "/metrics", &format!("Authorization: Bearer {TOKEN}\r\n"))?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    Some(body.to_owned())
}

/// Prometheus on `listen`, scraping the daemon, with our rules and one that counts CPUs.
fn start(host: &Host, program: &Path, daemon: SocketAddr, listen: SocketAddr) -> Running {
    let rules = host.path("rules.yml");
    let recording = "groups: [{name: test, rules: [{record: \"test:cpus:count\", expr: \"count(profiler_core_cpu_busy_ratio)\"}]}]\n";
    fs::write(&rules, recording).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("packaging/prometheus-rules.yml");
    let config = host.path("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: [\"{}\", \"{}\"]\n\
         scrape_configs:\n\
         - job_name: profiler\n  \
           authorization: {{credentials_file: \"{}\"}}\n  \
           static_configs: [{{targets: [\"{daemon}\"]}}]\n",
        rules.display(),
        shipped.display(),
        host.path(TOKEN_FILE).display()
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(program);
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", host.path("tsdb").display()))
        .arg(format!("--web.listen-address={listen}"))
        .arg("--log.level=error");
    Running::start_silent(&mut command)
}

/// What a page of HTTP says, with its headers; nothing if nobody answers.
fn get(address: SocketAddr, path: &str, authorization: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWERED_WITHIN).ok()?;
    stream.set_read_timeout(Some(ANSWERED_WITHIN)).ok()?;
    // Without chunks, which 1.0 does not have.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.replacen("HTTP/1.0", "HTTP/1.1", 1))
}

fn judged_fit(promtool: &Path, text: &str) {
    let mut judge = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    judge.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = judge.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}
