//! Every format read back, and where it goes.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use prost::Message as _;
use serde_json::Value;

use crate::{
    fake_daemon::{FakeDaemon, Script},
    messages::{discovered, pprof, profile, quality},
    program,
};

fn daemon() -> FakeDaemon {
    FakeDaemon::start(Script {
        processes: Ok(vec![discovered()]),
        profile: Ok(profile()),
        pprof: Ok(profiler_proto::v1::QueryPprofResponse {
            pprof: pprof(),
            quality: Some(quality()),
            samples: 65,
        }),
        ..Script::default()
    })
}

fn fetch(format: &str) -> Vec<u8> {
    program::run(&daemon(), ["flamegraph", "--pid", "4242", "--format", format])
        .expect_success()
        .stdout
}

#[test]
fn folded() {
    let text = String::from_utf8(fetch("folded")).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let expected = [
        "checkout;main;do_syscall_64_[k] 5",
        "checkout;main;work 20",
        "checkout;main;work;sum_[i] 40",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn json() {
    let document: Value = serde_json::from_slice(&fetch("json")).unwrap();
    assert_eq!(document["quality"]["samples"], 65);
    assert_eq!(document["processes"][0]["pid"], 4242);
    let nodes = document["nodes"].as_array().unwrap();
    let sum: u64 = nodes.iter().map(|node| node["self"].as_u64().unwrap()).sum();
    assert_eq!(sum, 65);
    let lines: Vec<u64> = document["frames"]
        .as_array()
        .unwrap()
        .iter()
        .map(|frame| frame["line"].as_u64().unwrap())
        .collect();
    assert!(lines.contains(&12) && lines.contains(&20), "{lines:?}");
}

#[test]
fn speedscope() {
    let document: Value = serde_json::from_slice(&fetch("speedscope")).unwrap();
    assert_eq!(
        document["$schema"],
        "https://www.speedscope.app/file-format-schema.json"
    );
    let frames: Vec<&str> = document["shared"]["frames"]
        .as_array()
        .unwrap()
        .iter()
        .map(|frame| frame["name"].as_str().unwrap())
        .collect();
    assert!(frames.iter().any(|name| name.contains("do_syscall_64")), "{frames:?}");
    let samples = document["profiles"][0]["samples"].as_array().unwrap();
    let weights = document["profiles"][0]["weights"].as_array().unwrap();
    assert_eq!((samples.len(), weights.len()), (3, 3));
}

#[test]
fn svg() {
    let text = String::from_utf8(fetch("svg")).unwrap();
    let options = roxmltree::ParsingOptions {
        allow_dtd: true,
        ..Default::default()
    };
    let document = roxmltree::Document::parse_with_options(&text, options).unwrap();
    assert_eq!(document.root_element().tag_name().name(), "svg");
    for name in ["checkout", "4242", "do_syscall_64", "65 samples"] {
        assert!(text.contains(name), "{name} is missing");
    }
}

/// As much of a pprof profile as shows that it is one.
#[derive(Clone, PartialEq, prost::Message)]
struct Pprof {
    #[prost(message, repeated, tag = "2")]
    sample: Vec<PprofSample>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PprofSample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[test]
fn pprof_keeps_the_names_of_threads() {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&fetch("pprof")[..])
        .read_to_end(&mut bytes)
        .unwrap();
    let read = Pprof::decode(&bytes[..]).unwrap();
    let samples: i64 = read.sample.iter().map(|sample| sample.value[0]).sum();
    assert_eq!((samples, read.sample[0].location_id.len()), (65, 2));
    assert!(
        read.string_table.iter().any(|string| string == "worker-1"),
        "{:?}",
        read.string_table
    );
}

#[test]
fn the_name_of_the_file_tells_the_format() {
    let daemon = daemon();
    for (name, beginning) in [
        ("a.svg", &b"<?xml"[..]),
        ("a.folded", b"checkout;"),
        ("a.pb.gz", &[0x1f, 0x8b]),
        ("a.speedscope.json", b"{\"$schema\""),
        ("a.json", b"{\"format\""),
        ("no_extension", b"<?xml"),
    ] {
        let outcome = program::run(&daemon, ["flamegraph", "--pid", "4242", "-o", name]).expect_success();
        assert!(outcome.stdout.is_empty());
        assert!(
            outcome.stderr.starts_with(&format!("wrote {name}\n")),
            "{}",
            outcome.stderr
        );
        let written = fs::read(daemon.directory().join(name)).unwrap();
        assert!(
            written.starts_with(beginning),
            "{name}: {}",
            String::from_utf8_lossy(&written[..40])
        );
    }
    // What was asked for goes before what the name says, and an old file is replaced as a whole.
    program::run(
        &daemon,
        ["flamegraph", "--pid", "4242", "-o", "a.svg", "--format", "folded"],
    )
    .expect_success();
    let written = fs::read_to_string(daemon.directory().join("a.svg")).unwrap();
    assert!(
        written.starts_with("checkout;") && written.lines().count() == 3,
        "{written}"
    );
}

#[test]
fn open_shows_a_file() {
    let daemon = daemon();
    let bin = daemon.directory().join("bin");
    fs::create_dir(&bin).unwrap();
    let opener = bin.join("xdg-open");
    let opened = daemon.directory().join("opened");
    fs::write(
        &opener,
        format!(
            "#!/bin/sh\nprintf %s \"$1\" > '{0}.new' && mv '{0}.new' '{0}'\n",
            opened.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&opener, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let run = |path: &str| {
        let mut command = program::command(&daemon);
        let output = command
            .args(["flamegraph", "--pid", "4242", "--open"])
            .env("PATH", path)
            .output()
            .unwrap();
        program::Outcome::from(output).expect_success()
    };
    let outcome = run(&path);
    assert!(outcome.stdout.is_empty() && outcome.stderr.starts_with("wrote flamegraph-checkout-4242.svg"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !opened.exists() {
        assert!(Instant::now() < deadline, "xdg-open was not run");
        std::thread::sleep(Duration::from_millis(10));
    }
    let shown = fs::read_to_string(&opened).unwrap();
    assert!(
        shown.starts_with('/') && shown.ends_with("/flamegraph-checkout-4242.svg"),
        "{shown}"
    );

    // A host without a desktop still has its file.
    let outcome = run("/nonexistent");
    assert!(
        outcome.stderr.contains("note: cannot run xdg-open"),
        "{}",
        outcome.stderr
    );
    assert!(daemon.directory().join("flamegraph-checkout-4242-1.svg").exists());
}

#[test]
fn a_part_of_the_samples_is_told_as_one() {
    let all = profiler_proto::v1::Quality {
        samples: 1_000,
        ..quality()
    };
    let daemon = FakeDaemon::start(Script {
        processes: Ok(vec![discovered()]),
        profile: Ok(profiler_proto::v1::Profile {
            quality: Some(all.clone()),
            ..profile()
        }),
        pprof: Ok(profiler_proto::v1::QueryPprofResponse {
            pprof: pprof(),
            quality: Some(all),
            samples: 65,
        }),
        ..Script::default()
    });
    for format in ["json", "pprof"] {
        let outcome =
            program::run(&daemon, ["flamegraph", "--pid", "4242", "--gil", "--format", format]).expect_success();
        assert!(
            outcome
                .stderr
                .starts_with("65 of 1,000 samples shown; of all: 1,000 samples,"),
            "{format}: {}",
            outcome.stderr
        );
    }
}
