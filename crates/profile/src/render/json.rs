//! The profile as JSON in a shape of our own, for scripts.
//!
//! ```json
//! {
//!   "format": "profiler.profile.v1",
//!   "kind": "cpu",
//!   "start_time": "2026-03-01T12:00:00.000Z",
//!   "end_time": "2026-03-01T12:01:00.000Z",
//!   "period_ns": 10101010,
//!   "processes": [{"pid": 7, "start_time": "2026-03-01T11:00:00.000Z", "name": "web", "service": ""}],
//!   "frames": [{"kind": "native", "function": "main", "module": "web", "file": "src/main.rs", "line": 3}],
//!   "nodes": [{"parent": null, "process": 0, "frame": 0, "self": 1, "total": 1}],
//!   "quality": {
//!     "samples": 1, "rooted": 1, "stopped": {}, "lost": {}, "user_frames": 1, "named_user_frames": 1,
//!     "incomplete_kernel_stacks": 0, "python": {"samples": 0, "with_frames": 0, "stopped": {}},
//!     "summary": "1 sample, 0 lost, 100 % with a proven root, 100 % of user frames named"
//!   }
//! }
//! ```
//!
//! `nodes` is the merged tree, callers before what they call: `parent` is an index into `nodes`, `null` for the outermost
//! frame of a stack; `process` and `frame` are indices into their tables. `self` and `total` are samples, each of which
//! stands for `period_ns`. A frame's `kind` is `kernel`, `native`, `inlined` (into its parent), `python`, `interpreter`
//! (native code that runs Python), `thread` (the root of its stacks), or `unnamed` (`function` is then `module+0xoffset`);
//! unknown strings are empty, an unknown line is 0.
//!
//! A profile of memory has the kind `memory`, a `value` (`growth` or `first_touch`), the `unit` `bytes`, in which `self` and
//! `total` are then, and in its quality `memory`: how well they are known.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;

use super::{RenderError, buffered, kind_name, table_name};
use crate::{PageKind, Profile, Quality, tree::Ranks, utc};

/// Name and version of the shape.
const FORMAT: &str = "profiler.profile.v1";

#[derive(Serialize)]
struct Document {
    format: &'static str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'static str>,
    start_time: String,
    end_time: String,
    period_ns: u64,
    processes: Vec<ProcessRow>,
    frames: Vec<FrameRow>,
    nodes: Vec<NodeRow>,
    quality: QualityRow,
}

#[derive(Serialize)]
struct ProcessRow {
    pid: u32,
    start_time: String,
    name: String,
    service: String,
}

#[derive(Serialize)]
struct FrameRow {
    kind: &'static str,
    function: String,
    module: String,
    file: String,
    line: u32,
}

#[derive(Serialize)]
struct NodeRow {
    parent: Option<u32>,
    process: u32,
    frame: u32,
    #[serde(rename = "self")]
    self_samples: u64,
    #[serde(rename = "total")]
    total_samples: u64,
}

#[derive(Serialize)]
struct QualityRow {
    samples: u64,
    rooted: u64,
    stopped: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
    user_frames: u64,
    named_user_frames: u64,
    incomplete_kernel_stacks: u64,
    python: PythonRow,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<MemoryRow>,
    summary: String,
}

#[derive(Serialize)]
struct MemoryRow {
    pages: &'static str,
    growth_bytes: u64,
    growth_error_bytes: u64,
    first_touch_bytes: u64,
    other_growth_bytes: u64,
    chosen_pages: u64,
    lowest_level: u32,
    highest_level: u32,
}

#[derive(Serialize)]
struct PythonRow {
    samples: u64,
    with_frames: u64,
    stopped: BTreeMap<String, u64>,
}

/// Writes the profile as JSON.
pub fn write(profile: &Profile, out: impl Write) -> Result<(), RenderError> {
    buffered(profile, out, |out| {
        serde_json::to_writer(&mut *out, &document(profile)).map_err(io::Error::from)?;
        writeln!(out)
    })
}

fn document(profile: &Profile) -> Document {
    let (frames, processes) = (Ranks::of_frames(profile), Ranks::of_processes(profile));
    let process_row = |index: &u32| {
        let process = &profile.processes[*index as usize];
        ProcessRow {
            pid: process.pid,
            start_time: utc::rfc3339(process.start),
            name: table_name(&process.name),
            service: table_name(&process.service),
        }
    };
    let frame_row = |index: &u32| {
        let frame = &profile.frames[*index as usize];
        FrameRow {
            kind: kind_name(frame.kind),
            function: table_name(&frame.function),
            module: table_name(&frame.module),
            file: table_name(&frame.file),
            line: frame.line,
        }
    };
    let node_row = |node: &crate::Node| NodeRow {
        parent: node.parent,
        process: processes.rank[node.process as usize],
        frame: frames.rank[node.frame as usize],
        self_samples: node.self_samples,
        total_samples: node.total_samples,
    };
    let is_bytes = profile.measure().is_bytes();
    Document {
        format: FORMAT,
        kind: if is_bytes { "memory" } else { "cpu" },
        value: is_bytes.then(|| profile.measure().name()),
        unit: is_bytes.then_some("bytes"),
        start_time: utc::rfc3339(profile.start),
        end_time: utc::rfc3339(profile.end),
        period_ns: u64::try_from(profile.period.as_nanos()).unwrap_or(u64::MAX),
        processes: processes.sorted.iter().map(process_row).collect(),
        frames: frames.sorted.iter().map(frame_row).collect(),
        nodes: profile.tree().nodes.iter().map(node_row).collect(),
        quality: quality_row(&profile.quality, profile.summary()),
    }
}

fn quality_row(quality: &Quality, summary: String) -> QualityRow {
    let names = |counts: &BTreeMap<String, u64>| {
        counts
            .iter()
            .map(|(reason, count)| (table_name(reason), *count))
            .collect::<BTreeMap<_, _>>()
    };
    QualityRow {
        samples: quality.samples,
        rooted: quality.rooted,
        stopped: names(&quality.stopped),
        lost: names(&quality.lost),
        user_frames: quality.user_frames,
        named_user_frames: quality.named_user_frames,
        incomplete_kernel_stacks: quality.incomplete_kernel_stacks,
        python: PythonRow {
            samples: quality.python.samples,
            with_frames: quality.python.with_frames,
            stopped: names(&quality.python.stopped),
        },
        memory: quality.pages.map(|pages| MemoryRow {
            pages: match pages.kind {
                PageKind::Anonymous => "anonymous",
                PageKind::Copied => "copied",
                PageKind::File => "file",
            },
            growth_bytes: pages.growth,
            growth_error_bytes: pages.growth_error,
            first_touch_bytes: pages.first_touch,
            other_growth_bytes: pages.other_growth,
            chosen_pages: pages.pages,
            lowest_level: pages.levels.0,
            highest_level: pages.levels.1,
        }),
        summary,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::fixtures;

    fn render(profile: &Profile) -> Value {
        let mut out = Vec::new();
        write(profile, &mut out).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn the_documented_example_is_true() {
        let mut profile = fixtures::profile(&[("web", 7, &["main:3"], 1)]);
        profile.quality = Quality {
            samples: 1,
            rooted: 1,
            user_frames: 1,
            named_user_frames: 1,
            ..Quality::default()
        };
        let documented: String = include_str!("json.rs")
            .lines()
            .skip_while(|line| !line.contains("```json"))
            .skip(1)
            .take_while(|line| !line.contains("```"))
            .map(|line| line.trim_start_matches("//!"))
            .collect();
        assert_eq!(render(&profile), serde_json::from_str::<Value>(&documented).unwrap());
    }

    #[test]
    fn hostile_names_are_readable() {
        let profile = fixtures::hostile();
        let value = render(&profile);
        assert_eq!(value["quality"]["samples"], profile.quality.samples);
        assert_eq!(value["frames"].as_array().unwrap().len(), profile.frames.len());
    }

    proptest! {
        #[test]
        fn the_tree_holds_all_samples(profile in fixtures::any_profile()) {
            prop_assume!(profile.samples() > 0);
            let value = render(&profile);
            let nodes = value["nodes"].as_array().unwrap();
            let sum = |nodes: &mut dyn Iterator<Item = &Value>, key: &str| {
                nodes.map(|node| node[key].as_u64().unwrap()).sum::<u64>()
            };
            prop_assert_eq!(sum(&mut nodes.iter(), "self"), profile.samples());
            prop_assert_eq!(sum(&mut nodes.iter().filter(|node| node["parent"].is_null()), "total"), profile.samples());
            for (index, node) in nodes.iter().enumerate() {
                prop_assert!(node["parent"].as_u64().is_none_or(|parent| (parent as usize) < index));
            }
        }
    }
}
