//! The file format of speedscope: one profile of sampled stacks for each process.
//!
//! Follows its `file-format-schema.json`, profiles of type `sampled`. Weights are nanoseconds of CPU time, or bytes. The time axis
//! is an order, not time: samples are sorted by stack. Frames of one function at different lines are one.

use std::io::{self, Write};

use serde::Serialize;

use super::{RenderError, buffered, path_to, table_name};
use crate::{Frame, ProcessLabel, Profile, Tree, functions::Numbering, utc};

const SCHEMA: &str = "https://www.speedscope.app/file-format-schema.json";

#[derive(Serialize)]
struct Document {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: &'static str,
    name: String,
    #[serde(rename = "activeProfileIndex")]
    active_profile_index: usize,
    shared: Shared,
    profiles: Vec<SampledProfile>,
}

#[derive(Serialize)]
struct Shared {
    frames: Vec<FrameRow>,
}

#[derive(Serialize)]
struct FrameRow {
    name: String,
    /// Source file, or the object where that is not known: speedscope colours by it.
    #[serde(skip_serializing_if = "String::is_empty")]
    file: String,
}

#[derive(Serialize)]
struct SampledProfile {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    unit: &'static str,
    #[serde(rename = "startValue")]
    start_value: u64,
    #[serde(rename = "endValue")]
    end_value: u64,
    samples: Vec<Vec<u32>>,
    weights: Vec<u64>,
}

/// Writes the profile as a file for speedscope.
pub fn write(profile: &Profile, out: impl Write) -> Result<(), RenderError> {
    buffered(profile, out, |out| {
        serde_json::to_writer(&mut *out, &document(profile)).map_err(io::Error::from)?;
        writeln!(out)
    })
}

fn document(profile: &Profile) -> Document {
    let tree = profile.function_tree();
    let mut numbering = Numbering::new();
    let mut frames = Vec::new();
    let mut profiles: Vec<SampledProfile> = Vec::new();
    let mut samples_of: Vec<u64> = Vec::new();
    let mut current = None;
    let unit = match profile.measure().is_bytes() {
        true => "bytes",
        false => "nanoseconds",
    };
    for (index, node) in tree.nodes.iter().enumerate().filter(|(_, node)| node.self_samples > 0) {
        // The nodes of a process follow each other.
        if current != Some(node.process) {
            current = Some(node.process);
            profiles.push(process_profile(&profile.processes[node.process as usize], unit));
            samples_of.push(0);
        }
        let stack = numbered_stack(&tree, index, profile, &mut numbering, &mut frames);
        let weight = match profile.measure().is_bytes() {
            true => node.self_samples,
            false => nanoseconds(profile, node.self_samples),
        };
        if let (Some(process), Some(samples)) = (profiles.last_mut(), samples_of.last_mut()) {
            process.samples.push(stack);
            process.weights.push(weight);
            process.end_value = process.end_value.saturating_add(weight);
            *samples = samples.saturating_add(node.self_samples);
        }
    }
    let busiest = (0..samples_of.len())
        .rev()
        .max_by_key(|index| samples_of[*index])
        .unwrap_or(0);
    Document {
        schema: SCHEMA,
        exporter: concat!("profiler ", env!("CARGO_PKG_VERSION")),
        name: format!("{}; {}", utc::range(profile.start, profile.end), profile.summary()),
        active_profile_index: busiest,
        shared: Shared { frames },
        profiles,
    }
}

fn process_profile(process: &ProcessLabel, unit: &'static str) -> SampledProfile {
    SampledProfile {
        kind: "sampled",
        name: format!("{} (pid {})", table_name(&process.name), process.pid),
        unit,
        start_value: 0,
        end_value: 0,
        samples: Vec::new(),
        weights: Vec::new(),
    }
}

fn numbered_stack(
    tree: &Tree,
    node: usize,
    profile: &Profile,
    numbering: &mut Numbering<u32>,
    frames: &mut Vec<FrameRow>,
) -> Vec<u32> {
    let number = |frame: u32| {
        let (number, new) = numbering.number(frame);
        if new {
            frames.push(frame_row(&profile.frames[frame as usize]));
        }
        number
    };
    path_to(tree, node).into_iter().map(number).collect()
}

fn frame_row(frame: &Frame) -> FrameRow {
    let file = if frame.file.is_empty() {
        &frame.module
    } else {
        &frame.file
    };
    FrameRow {
        name: visible_name(&frame.function),
        file: table_name(file),
    }
}

fn visible_name(name: &str) -> String {
    crate::visible(name, super::MAX_TABLE_NAME_BYTES).into_owned()
}

fn nanoseconds(profile: &Profile, samples: u64) -> u64 {
    u64::try_from(profile.period.as_nanos().saturating_mul(u128::from(samples))).unwrap_or(u64::MAX)
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
    fn one_profile_for_each_process() {
        let profile = fixtures::profile(&[
            ("web", 1, &["main:1", "work"], 3),
            ("web", 1, &["main:2", "work"], 2),
            ("db", 2, &["main", "query"], 7),
        ]);
        let value = render(&profile);
        let period = profile.period.as_nanos() as u64;
        assert_eq!(value["profiles"].as_array().unwrap().len(), 2);
        assert_eq!(value["profiles"][0]["name"], "web (pid 1)");
        assert_eq!(value["profiles"][0]["weights"], serde_json::json!([5 * period]));
        assert_eq!(value["profiles"][1]["endValue"], 7 * period);
        assert_eq!(value["activeProfileIndex"], 1);
    }

    proptest! {
        #[test]
        fn weights_and_indices_fit(profile in prop_oneof![fixtures::any_profile(), Just(fixtures::hostile())]) {
            prop_assume!(profile.samples() > 0);
            let value = render(&profile);
            let frames = value["shared"]["frames"].as_array().unwrap();
            prop_assert!(frames.iter().all(|frame| !frame["name"].as_str().unwrap().is_empty()));
            let mut total = 0;
            for process in value["profiles"].as_array().unwrap() {
                let weights: Vec<u64> =
                    process["weights"].as_array().unwrap().iter().map(|weight| weight.as_u64().unwrap()).collect();
                let samples = process["samples"].as_array().unwrap();
                prop_assert_eq!(samples.len(), weights.len());
                prop_assert_eq!(process["endValue"].as_u64().unwrap(), weights.iter().sum::<u64>());
                for frame in samples.iter().flat_map(|sample| sample.as_array().unwrap()) {
                    prop_assert!((frame.as_u64().unwrap() as usize) < frames.len());
                }
                total += weights.iter().sum::<u64>();
            }
            prop_assert_eq!(total, nanoseconds(&profile, profile.samples()));
        }
    }
}
