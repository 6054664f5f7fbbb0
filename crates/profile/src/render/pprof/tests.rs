//! What a reader of the format gets.

use std::{
    collections::{BTreeMap, HashSet},
    io::Read,
};

use proptest::prelude::*;

use super::*;
use crate::fixtures;

fn render(profile: &Profile) -> messages::Profile {
    let mut out = Vec::new();
    write(profile, &mut out).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&out[..]).read_to_end(&mut bytes).unwrap();
    messages::Profile::decode(&bytes[..]).unwrap()
}

fn text(message: &messages::Profile, index: i64) -> &str {
    &message.string_table[index as usize]
}

/// Function names of a sample, a list for each location, innermost first.
fn functions<'a>(message: &'a messages::Profile, sample: &messages::Sample) -> Vec<Vec<&'a str>> {
    let name = |line: &messages::Line| text(message, message.function[line.function_id as usize - 1].name);
    let location = |id: &u64| message.location[*id as usize - 1].line.iter().map(name).collect();
    sample.location_id.iter().map(location).collect()
}

/// The rules that the format's own reader checks before it accepts a profile.
fn assert_valid(message: &messages::Profile) {
    assert_eq!(message.string_table[0], "");
    let ids = |ids: Vec<u64>| assert!(ids.iter().zip(1..).all(|(id, expected)| *id == expected));
    ids(message.mapping.iter().map(|mapping| mapping.id).collect());
    ids(message.location.iter().map(|location| location.id).collect());
    ids(message.function.iter().map(|function| function.id).collect());
    assert_eq!(
        message.string_table.iter().collect::<HashSet<_>>().len(),
        message.string_table.len()
    );
    for location in &message.location {
        assert!(location.mapping_id as usize <= message.mapping.len());
        assert!(!location.line.is_empty());
        for line in &location.line {
            let function = &message.function[line.function_id as usize - 1];
            assert!(!text(message, function.name).is_empty());
        }
    }
    for sample in &message.sample {
        assert_eq!(sample.value.len(), message.sample_type.len());
        assert!(!sample.location_id.is_empty());
        assert!(
            sample
                .location_id
                .iter()
                .all(|id| (1..=message.location.len() as u64).contains(id))
        );
        assert!(sample.label.iter().all(|label| (label.str == 0) != (label.num == 0)));
    }
}

#[test]
fn header_and_inlined_functions() {
    let message = render(&fixtures::service());
    assert_valid(&message);
    let types: Vec<_> = message
        .sample_type
        .iter()
        .map(|kind| (text(&message, kind.r#type), text(&message, kind.unit)))
        .collect();
    assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
    assert_eq!(text(&message, message.default_sample_type), "cpu");
    assert_eq!(message.period, fixtures::PERIOD.as_nanos() as i64);
    assert_eq!(message.time_nanos, fixtures::NOON.as_nanos() as i64);
    assert_eq!(message.duration_nanos, 60_000_000_000);
    assert!(text(&message, message.comment[0]).starts_with("100 samples, 0 lost"));

    let sample = message.sample.iter().find(|sample| sample.value[0] == 60).unwrap();
    assert_eq!(
        functions(&message, sample),
        [
            vec!["read"],
            vec!["handler"],
            vec!["poll", "serve"],
            vec!["main"],
            vec!["_start"]
        ]
    );
    assert_eq!(sample.value[1], 60 * message.period);
    let labels: BTreeMap<_, _> = sample
        .label
        .iter()
        .map(|label| (text(&message, label.key), (text(&message, label.str), label.num)))
        .collect();
    assert_eq!(
        labels,
        [("pid", ("", 7)), ("process", ("web", 0)), ("thread", ("web", 0))].into()
    );
}

#[test]
fn objects_say_what_is_known_of_them() {
    let message = render(&fixtures::service());
    let known = |name: &str| {
        let mapping = message
            .mapping
            .iter()
            .find(|mapping| text(&message, mapping.filename) == name)
            .unwrap();
        (
            mapping.has_functions,
            mapping.has_filenames,
            mapping.has_line_numbers,
            mapping.has_inline_frames,
        )
    };
    assert_eq!(
        text(&message, message.mapping[0].filename),
        "web",
        "the program comes first"
    );
    assert_eq!(known("web"), (true, true, true, true));
    assert_eq!(known("[kernel]"), (true, false, false, false));
    assert_eq!(known("libfoo.so.1"), (true, false, false, false));
}

#[test]
fn hostile_names_are_clean_and_bounded() {
    let message = render(&fixtures::hostile());
    for string in &message.string_table {
        assert!(
            string.len() <= MAX_TABLE_NAME_BYTES && !string.contains(char::is_control),
            "{string:?}"
        );
    }
    assert!(
        message
            .sample
            .iter()
            .all(|sample| sample.label.iter().all(|label| label.key != 0))
    );
}

proptest! {
    #[test]
    fn counts_and_stacks_are_kept(profile in fixtures::any_profile()) {
        prop_assume!(profile.samples() > 0);
        let message = render(&profile);
        assert_valid(&message);
        let mut expected: BTreeMap<(u32, String, Vec<String>), i64> = BTreeMap::new();
        for (stack, count) in profile.stacks.iter().filter(|(_, count)| **count > 0) {
            let process = &profile.processes[stack.process as usize];
            let name = |frame: &u32| visible(&profile.frames[*frame as usize].function, 100).into_owned();
            let key = (process.pid, profile.threads[stack.thread as usize].to_string(), stack.frames.iter().rev().map(name).collect());
            *expected.entry(key).or_default() += *count as i64;
        }
        let mut parsed: BTreeMap<(u32, String, Vec<String>), i64> = BTreeMap::new();
        for sample in &message.sample {
            let label = |key: &str| sample.label.iter().find(|label| text(&message, label.key) == key);
            let thread = label("thread").map_or("", |label| text(&message, label.str));
            let names = functions(&message, sample).concat().into_iter().map(str::to_owned).collect();
            let key = (label("pid").unwrap().num as u32, thread.to_owned(), names);
            *parsed.entry(key).or_default() += sample.value[0];
            prop_assert_eq!(sample.value[1], sample.value[0] * message.period);
        }
        prop_assert_eq!(parsed, expected);
    }
}
