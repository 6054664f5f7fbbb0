//! Profiles for the tests of this crate.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proptest::prelude::*;

use crate::{
    Frame, FrameKind, ProcessLabel, Profile, ProfileBuilder, Quality,
    compare::{Comparer, Comparison, Measure, Scope, Settings, Side},
};

/// 2026-03-01T12:00:00Z.
pub(crate) const NOON: Duration = Duration::from_secs(1_772_366_400);
pub(crate) const PERIOD: Duration = Duration::from_nanos(10_101_010);

fn noon() -> SystemTime {
    UNIX_EPOCH + NOON
}

pub(crate) fn builder() -> ProfileBuilder {
    ProfileBuilder::new(PERIOD, noon(), noon() + Duration::from_secs(60))
}

pub(crate) fn process(name: &str, pid: u32) -> ProcessLabel {
    ProcessLabel {
        pid,
        start: noon() - Duration::from_secs(3_600),
        name: Arc::from(name),
        service: Arc::from(""),
    }
}

/// `k:read`, `i:push`, `p:handler`, `u:libfoo+0x10`, `main`, each with `:LINE` for a known line.
pub(crate) fn frame(text: &str) -> Frame {
    let (kind, rest) = match text.split_once(':') {
        Some(("k", rest)) => (FrameKind::Kernel, rest),
        Some(("i", rest)) => (FrameKind::Inlined, rest),
        Some(("p", rest)) => (FrameKind::Python, rest),
        Some(("u", rest)) => (FrameKind::Unnamed, rest),
        Some(("c", rest)) => (FrameKind::Interpreter, rest),
        Some(("t", rest)) => (FrameKind::Thread, rest),
        _ => (FrameKind::Native, text),
    };
    let with_line = rest
        .rsplit_once(':')
        .and_then(|(function, line)| Some((function, line.parse().ok()?)));
    let (function, line) = with_line.unwrap_or((rest, 0));
    let (module, file) = match kind {
        FrameKind::Kernel => ("[kernel]", ""),
        FrameKind::Python => ("handlers", "app/handlers.py"),
        FrameKind::Unnamed => ("libfoo.so.1", ""),
        FrameKind::Interpreter => ("python3.11", ""),
        FrameKind::Thread => ("", ""),
        FrameKind::Native | FrameKind::Inlined => ("web", if line > 0 { "src/main.rs" } else { "" }),
    };
    Frame {
        kind,
        function: Arc::from(function),
        module: Arc::from(module),
        file: Arc::from(file),
        line,
    }
}

/// Process name, its id, frames root first, samples.
pub(crate) fn profile(stacks: &[(&str, u32, &[&str], u64)]) -> Profile {
    let mut builder = builder();
    for (name, pid, frames, count) in stacks {
        let process = process(name, *pid);
        builder.add(
            &process,
            &Arc::from(*name),
            frames.iter().map(|text| frame(text)),
            *count,
        );
        builder.add_process_quality(
            &process,
            &Quality {
                samples: *count,
                rooted: *count,
                ..Quality::default()
            },
        );
    }
    builder.build()
}

/// A service with every kind of frame.
pub(crate) fn service() -> Profile {
    profile(&[
        (
            "web",
            7,
            &["_start", "main:10", "serve:20", "i:poll:30", "p:handler:5", "k:read"],
            60,
        ),
        (
            "web",
            7,
            &["_start", "main:10", "serve:20", "i:poll:31", "p:handler:6"],
            30,
        ),
        ("web", 7, &["_start", "main:11", "serve:20", "u:libfoo.so.1+0x10"], 9),
        ("web", 7, &["_start", "k:page_fault"], 1),
    ])
}

/// Blocks of two seconds with the same counts each, at 100 Hz.
pub(crate) fn blocks(stacks: &[(&[&str], u64)], count: u32) -> Vec<Profile> {
    let process = process("web", 7);
    let length = Duration::from_secs(2);
    let block = |number: u32| {
        let start = noon() + length * number;
        let mut builder = ProfileBuilder::new(Duration::from_millis(10), start, start + length);
        for (stack, samples) in stacks {
            let frames = stack.iter().map(|text| frame(text));
            builder.add(&process, &Arc::from("web"), frames, *samples);
        }
        builder.build()
    };
    (0..count).map(block).collect()
}

/// A comparison of one target in which functions came, went and stayed.
pub(crate) fn comparison() -> Comparison {
    let before = blocks(
        &[
            (&["main", "same"], 100),
            (&["main", "old", "older"], 60),
            (&["main", "old"], 40),
        ],
        6,
    );
    let fresh: &[&str] = &["main", "p:fresh"];
    let read: &[&str] = &["main", "p:fresh", "k:read"];
    let after = blocks(&[(&["main", "same"], 100), (fresh, 50), (read, 10)], 6);
    let mut comparer = Comparer::new(Settings {
        measure: Measure::Cores,
        scope: Scope::Target,
        level: 0.05,
    });
    for window in &before {
        comparer.add(Side::Before, window);
    }
    for window in &after {
        comparer.add(Side::After, window);
    }
    comparer.finish()
}

/// Names that attack whoever shows them.
pub(crate) fn hostile() -> Profile {
    let names = [
        "<script>alert(1)</script>".to_owned(),
        "\"' onload=\"alert(1)\" x='".to_owned(),
        "]]>&amp;&#0;<![CDATA[".to_owned(),
        "\x1b[2J\x1b]0;owned\x07".to_owned(),
        "line\nfeed\r\n;semi;colon 12".to_owned(),
        "\0\x01\x02\x7f\u{80}\u{9b}".to_owned(),
        "\u{202e}gnp.exe\u{200f}\u{2066}\u{feff}\u{ffff}".to_owned(),
        "x".repeat(10_000),
        "\u{1f980}".repeat(3_000),
        "<".repeat(10_000),
        String::new(),
        " ".to_owned(),
    ];
    let mut builder = builder();
    for (number, name) in names.iter().enumerate() {
        let label = ProcessLabel {
            service: Arc::from(name.as_str()),
            ..process(name, 7)
        };
        let text: Arc<str> = Arc::from(name.as_str());
        let frames = names.iter().cycle().skip(number).take(number + 3).map(|name| Frame {
            kind: [FrameKind::Native, FrameKind::Inlined, FrameKind::Kernel][number % 3],
            function: Arc::from(name.as_str()),
            module: Arc::clone(&text),
            file: Arc::clone(&text),
            line: u32::MAX,
        });
        builder.add(&label, &text, frames, 1 + number as u64);
        let stopped = [(name.clone(), 1)].into();
        let quality = Quality {
            samples: 1 + number as u64,
            stopped,
            ..Quality::default()
        };
        builder.add_process_quality(&label, &quality);
    }
    builder.build()
}

/// Profiles of a few processes and functions, so that they share much.
pub(crate) fn any_profile() -> impl Strategy<Value = Profile> {
    let kinds = [
        FrameKind::Kernel,
        FrameKind::Native,
        FrameKind::Inlined,
        FrameKind::Python,
        FrameKind::Unnamed,
        FrameKind::Interpreter,
    ];
    let functions = ["main", "a::b<[u8; 2]>", "a b", "x;y 3", "", "\u{1b}[0m", "recurse"];
    let frame = (
        proptest::sample::select(kinds.to_vec()),
        proptest::sample::select(functions.to_vec()),
        0..3_u32,
        0..2_u32,
    );
    let frame = frame.prop_map(|(kind, function, line, module)| Frame {
        kind,
        function: Arc::from(function),
        module: Arc::from(["web", "libc.so.6"][module as usize]),
        file: Arc::from(["", "src/a.rs"][module as usize]),
        line,
    });
    let stack = (
        1..4_u32,
        0..3_usize,
        proptest::collection::vec(frame, 0..12),
        0..1_000_u64,
    );
    proptest::collection::vec(stack, 0..40).prop_map(|stacks| {
        let mut builder = builder();
        for (pid, thread, frames, count) in stacks {
            let process = process(["web", "db;", "web"][pid as usize - 1], pid);
            let thread = Arc::from(["main", "worker", ""][thread]);
            builder.add(&process, &thread, frames.into_iter(), count);
            let quality = Quality {
                samples: count,
                rooted: count,
                ..Quality::default()
            };
            builder.add_process_quality(&process, &quality);
        }
        builder.build()
    })
}
