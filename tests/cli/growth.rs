//! Flame graphs of memory: what is asked for, and that every format says that it is bytes.

use profiler_proto::v1::{MemoryQuality, Profile, Quality, SampleKind};
use serde_json::Value;

use crate::{
    fake_daemon::{FakeDaemon, Script, WatchStep},
    messages::{discovered, profile, quality, report},
    program::{self, Outcome},
};

/// The profile of the fixtures in mebibytes, and how well they are known.
fn grown(kind: SampleKind) -> Profile {
    let mut grown = profile();
    for node in &mut grown.nodes {
        node.self_samples <<= 20;
    }
    Profile {
        kind: kind.into(),
        period: None,
        quality: Some(Quality {
            memory: Some(MemoryQuality {
                growth_bytes: 65 << 20,
                growth_error_bytes: 2 << 20,
                first_touch_bytes: 300 << 20,
                other_growth_bytes: 3 << 20,
                pages: 65,
                lowest_level: 0,
                highest_level: 4,
            }),
            ..quality()
        }),
        ..grown
    }
}

fn daemon(kind: SampleKind) -> FakeDaemon {
    FakeDaemon::start(Script {
        processes: Ok(vec![discovered()]),
        profile: Ok(grown(kind)),
        ..Script::default()
    })
}

/// Runs `flamegraph --kind memory` with more options, and returns what it wrote, what it said, and what it asked for.
fn fetch(kind: SampleKind, options: &[&str]) -> (String, String, (i32, bool)) {
    let daemon = daemon(kind);
    let arguments = [&["flamegraph", "--pid", "4242", "--kind", "memory"], options].concat();
    let outcome = program::run(&daemon, arguments).expect_success();
    let asked = daemon.seen().queries[0].selector.clone();
    let written = String::from_utf8(outcome.stdout).unwrap();
    (written, outcome.stderr, (asked.kind, asked.start_time.is_some()))
}

#[test]
fn without_a_span_all_that_is_kept_is_shown_with_its_error() {
    let (folded, said, asked) = fetch(SampleKind::MemoryGrowth, &["--format", "folded"]);
    assert_eq!(asked, (SampleKind::MemoryGrowth.into(), false));
    assert!(
        folded.contains(&format!("checkout;main;work {}\n", 20 << 20)),
        "{folded}"
    );
    let expected = "grew by 65.0 MiB ± 3.0 % (standard error; 65 pages, one of 1 to 16), 300.0 MiB touched first, beside them \
                    3.0 MiB of copies, files and shared memory, ";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn values_and_pages_are_asked_for() {
    for (options, kind) in [
        (&["--value", "first-touch"][..], SampleKind::MemoryFirstTouch),
        (&["--pages", "file"], SampleKind::FileGrowth),
        (
            &["--pages", "file", "--value", "first-touch"],
            SampleKind::FileFirstTouch,
        ),
        (&["--pages", "copied"], SampleKind::CopiedGrowth),
        (
            &["--pages", "copied", "--value", "first-touch"],
            SampleKind::CopiedFirstTouch,
        ),
    ] {
        let options = [options, &["--format", "json", "--last", "5m"]].concat();
        let (json, _, asked) = fetch(kind, &options);
        assert_eq!(asked, (kind.into(), true), "{options:?}");
        let document: Value = serde_json::from_str(&json).unwrap();
        let value = if options.contains(&"first-touch") {
            "first_touch"
        } else {
            "growth"
        };
        assert_eq!(
            (&document["kind"], &document["value"], &document["unit"]),
            (&"memory".into(), &value.into(), &"bytes".into())
        );
        assert_eq!(document["quality"]["memory"]["growth_error_bytes"], 2 << 20);
    }
}

#[test]
fn pictures_and_speedscope_are_in_bytes() {
    let (svg, ..) = fetch(SampleKind::MemoryGrowth, &["--format", "svg"]);
    assert!(svg.contains("memory touched first here and still there: 65.0 MiB") && svg.contains("itself 20.0 MiB"));
    assert!(!svg.contains("CPU time") && !svg.contains(" samples, "), "{svg}");
    let (speedscope, ..) = fetch(SampleKind::MemoryGrowth, &["--format", "speedscope"]);
    let document: Value = serde_json::from_str(&speedscope).unwrap();
    assert_eq!(document["profiles"][0]["unit"], "bytes");
    assert_eq!(document["profiles"][0]["endValue"], 65 << 20);
}

#[test]
fn who_holds_a_lock_is_no_question_of_memory() {
    let outcome = program::run(
        &daemon(SampleKind::MemoryGrowth),
        ["flamegraph", "--pid", "4242", "--kind", "memory", "--gil"],
    );
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("--gil is of CPU time"), "{}", outcome.stderr);
}

/// Runs `flamegraph --kind memory --exact` with more options against a daemon whose process exits soon.
fn exact(profile: Profile, options: &[&str]) -> (FakeDaemon, Outcome) {
    let daemon = FakeDaemon::start(Script {
        processes: Ok(vec![discovered()]),
        profile: Ok(profile),
        watch: Ok(vec![WatchStep::Report(report(9, true)), WatchStep::End]),
        ..Script::default()
    });
    let arguments = ["flamegraph", "--pid", "4242", "--kind", "memory", "--exact"];
    let outcome = program::run(&daemon, [&arguments[..], options].concat());
    (daemon, outcome)
}

#[test]
fn calls_for_memory_are_recorded_and_told_one_by_one() {
    let mapped = Profile {
        quality: Some(Quality {
            memory: Some(MemoryQuality {
                first_touch_bytes: 65 << 20,
                pages: 65,
                ..MemoryQuality::default()
            }),
            lost_samples: [("over_quota".to_owned(), 5)].into(),
            ..quality()
        }),
        ..grown(SampleKind::MemoryMapped)
    };
    let (daemon, outcome) = exact(mapped, &["--format", "svg"]);
    let outcome = outcome.expect_success();
    let seen = daemon.seen();
    // Although the daemon watches it by itself.
    assert_eq!((&seen.watched[..], &seen.mappings[..]), (&[4242][..], &[4242][..]));
    let selector = seen.queries[0].selector.clone();
    assert_eq!(selector.kind, i32::from(SampleKind::MemoryMapped));
    assert!(selector.start_time.is_some() && selector.end_time.is_some());
    let expected = "65.0 MiB asked for in 65 calls, 70 seen = 65 delivered + 5 lost (5 over_quota), ";
    assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    assert!(
        outcome
            .text()
            .contains("memory asked for here, given back or not: 65.0 MiB")
    );

    let nothing = Profile {
        nodes: Vec::new(),
        quality: Some(Quality::default()),
        ..grown(SampleKind::MemoryMapped)
    };
    let (_, outcome) = exact(nothing, &["--format", "svg"]);
    assert_eq!(outcome.code, Some(3));
    let expected = "it asked the kernel for no 128 KiB or more at once during the recording";
    assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
}

#[test]
fn exact_stacks_are_of_one_process_from_now_on() {
    let daemon = daemon(SampleKind::MemoryMapped);
    for (arguments, said) in [
        (&["--pid", "4242", "--exact"][..], "add --kind memory"),
        (
            &["--service", "checkout", "--kind", "memory", "--exact"],
            "cannot be used with",
        ),
        (
            &["--pid", "4242", "--kind", "memory", "--exact", "--last", "5m"],
            "cannot be used with",
        ),
        (
            &["--pid", "4242", "--kind", "memory", "--exact", "--duration", "1h"],
            "--exact is for 10 min 0 s at most, not for 1 h 0 min",
        ),
    ] {
        let outcome = program::run(&daemon, [&["flamegraph"], arguments].concat());
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(said), "{arguments:?}: {}", outcome.stderr);
    }
    assert!(daemon.seen().mappings.is_empty());
}
