//! GPUs through the whole daemon, where there are none: the library that stands in for NVIDIA's answers what a file says.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use profiler_tests::{
    daemon::Daemon,
    programs::{compile_c, wait_for},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{host, only, start, wait_until_watched};

/// Where only root can change anything: the daemon loads no library from elsewhere.
const TRUSTED: &str = "/var/lib";
const CARD: &str = "GPU-of-the-tests";
const SERVICE: &str = "trainer";
const LIMIT: &str = "trainer_gpu_memory";
/// What the library answers when a card fell off the bus.
const GPU_IS_LOST: u32 = 15;
/// How long what takes seconds may take, on two CPUs that others use as well.
const SOON: Duration = Duration::from_secs(60);

/// The library, with what it answers beside it.
struct Library {
    folder: TempDir,
    path: PathBuf,
}

impl Library {
    fn compile() -> Self {
        let folder = TempDir::with_prefix_in("profiler-nvml-", TRUSTED).unwrap();
        let path = compile_c(
            folder.path(),
            "../../fake-nvml/nvml",
            "libnvidia-ml.so.1",
            &["-shared", "-fPIC"],
        );
        Self { folder, path }
    }

    /// Answers this from now on, in one step.
    fn answer(&self, answers: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, answers).unwrap();
        fs::rename(new, self.folder.path().join("libnvidia-ml.so.1.answers")).unwrap();
    }
}

/// What a command that appends was told.
fn told(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let documents = serde_json::Deserializer::from_str(&text).into_iter();
    documents.map_while(Result::ok).collect()
}

fn gpu_state(daemon: &Daemon) -> Option<Value> {
    let status = daemon.status();
    let parts = status["parts"].as_array().unwrap();
    parts.iter().find(|part| part["name"] == "gpu").cloned()
}

/// The newest value of a metric, as it is asked for over gRPC.
fn reading(daemon: &Daemon, metric: &str, subject: &str) -> Option<f64> {
    let output = daemon.cli(&["metrics", metric, "--subject", subject, "--json"]);
    let document: Value = serde_json::from_str(&output.stdout).ok()?;
    document["readings"][0]["value"].as_f64()
}

#[test]
fn a_service_that_fills_a_card_is_named_also_when_the_card_is_lost() {
    let Some(host) = host() else { return };
    let library = Library::compile();
    let program = host.rust("deep");
    let running = start(&program, &[]);
    let answers = format!(
        "cards 1\n0.uuid {CARD}\n0.utilization 37\n0.memory_busy 12\n0.total 85899345920\n0.used 21474836480\n\
         0.processes {}:17179869184\n",
        running.pid()
    );
    library.answer(&answers);
    let notes = host.path("told.json");
    fs::write(&notes, "").unwrap();
    let config = format!(
        "{}[[targets.services]]\nname = \"{SERVICE}\"\nexecutables = [{program:?}]\n[gpu]\nlibrary = {:?}\n\
         [limits.{LIMIT}]\nreading = \"service_gpu_memory_bytes\"\nabove = \"1GiB\"\nfor = \"2s\"\nno_data_after = \"15s\"\n\
         severity = \"critical\"\n\
         [sinks.file]\nkind = \"command\"\nmin_severity = \"critical\"\nargv = [\"/usr/bin/tee\", \"-a\", {notes:?}]\n",
        only(97, "deep"),
        library.path,
    );
    let daemon = host.daemon(&config);
    wait_until_watched(&daemon, running.pid());
    let busy = wait_for("reading of the card", SOON, || {
        reading(&daemon, "gpu_utilization_ratio", CARD)
    });
    assert_eq!(busy, 0.37);
    let firing = wait_for("the alert", SOON, || told(&notes).first().cloned());
    assert_eq!(
        (
            &firing["limit"],
            &firing["status"],
            &firing["scope"],
            &firing["subject"]
        ),
        (&LIMIT.into(), &"firing".into(), &"service".into(), &SERVICE.into()),
        "{firing:#}"
    );
    assert_eq!(firing["value"], 17_179_869_184.0);
    assert_eq!(
        reading(&daemon, "service_gpu_memory_bytes", SERVICE),
        Some(17_179_869_184.0)
    );

    library.answer(&format!("{answers}0.result {GPU_IS_LOST}\n"));
    let state = wait_for("the loss", SOON, || {
        gpu_state(&daemon).filter(|state| state["state"] == "failed")
    });
    let reason = state["reason"].as_str().unwrap();
    assert!(
        reason.starts_with(&format!("GPU {CARD}: device fell off the bus")),
        "{reason}"
    );
    assert!(state["remedy"].as_str().unwrap().contains("Xid"), "{state}");
    // A service that is not read is not gone: the loss is told of, and the alert fires on.
    let loss = wait_for("word of the missing readings", SOON, || told(&notes).get(1).cloned());
    assert_eq!(
        (&loss["labels"]["kind"], &loss["status"], &loss["subject"]),
        (&"no_data".into(), &"firing".into(), &SERVICE.into()),
        "{loss:#}"
    );
    let alerts = daemon.json(&["alerts", "--limit", LIMIT, "--json"]);
    let mut live: Vec<_> = alerts["alerts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|alert| (alert["kind"].as_str().unwrap(), alert["phase"].as_str().unwrap()))
        .collect();
    live.sort_unstable();
    assert_eq!(live, [("limit", "firing"), ("no_data", "firing")]);
    assert_eq!(told(&notes).len(), 2, "of no end");
    let log = daemon.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("fell off the bus")).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
}
