//! A small profile with hostile names, rendered and read back as a reader would, or sent across the API.
//!
//! The first byte chooses one way, so that each input is quick; the others describe the profile.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    sync::OnceLock,
};

use arbitrary::Unstructured;
use flate2::read::GzDecoder;
use profiler_daemon::fuzzing::profile_message;
use profiler_profile::{
    Profile,
    render::{RenderError, folded, json, pprof, speedscope, svg},
};
use profiler_proto::v1;
use prost::Message;

use crate::{cli_convert, made_up};

#[path = "../../crates/profile/src/render/pprof/messages.rs"]
mod messages;

/// Elements and their attributes.
type Markup = BTreeMap<String, BTreeSet<String>>;
/// Process, frames, and their samples.
type Counts = BTreeMap<(u32, Vec<String>), u64>;

/// Writes a profile in one format.
type Writer = fn(&Profile, &mut Vec<u8>) -> Result<(), RenderError>;

/// What may be done with a profile. How many samples it has, the reader knows otherwise.
const WAYS: [fn(&Profile); 6] = [
    |profile| check_svg(&text(render(profile, |profile, out| svg::write(profile, out)))),
    |profile| {
        check_folded(
            &text(render(profile, |profile, out| folded::write(profile, out))),
            profile.samples(),
        )
    },
    |profile| {
        check_json(
            &text(render(profile, |profile, out| json::write(profile, out))),
            profile.samples(),
        )
    },
    |profile| check_speedscope(&text(render(profile, |profile, out| speedscope::write(profile, out)))),
    |profile| check_pprof(&render(profile, |profile, out| pprof::write(profile, out))),
    check_crossing,
];

/// Runs one input.
pub fn run(data: &[u8]) {
    let [way, described @ ..] = data else { return };
    let Ok(mut profile) = made_up::profile(&mut Unstructured::new(described)) else {
        return;
    };
    // Half of the ways are gone by a part of it.
    if usize::from(*way) / WAYS.len() % 2 == 1
        && let Some(process) = profile.processes.last()
    {
        let part = profile.filter(|other| other == process);
        assert!(part.processes.iter().all(|other| other == process));
        profile = part;
    }
    check(&profile, *way);
    profile.top(10);
}

/// Renders in one format and reads what comes out.
pub(crate) fn check(profile: &Profile, way: u8) {
    let way = WAYS[usize::from(way) % WAYS.len()];
    if profile.samples() > 0 {
        way(profile);
    } else {
        let mut out = Vec::new();
        assert!(matches!(svg::write(profile, &mut out), Err(RenderError::NoSamples)));
        check_crossing(profile);
    }
}

/// The bytes, the same ones each time.
fn render(profile: &Profile, write: Writer) -> Vec<u8> {
    let (mut out, mut again) = (Vec::new(), Vec::new());
    for out in [&mut out, &mut again] {
        if let Err(error) = write(profile, out) {
            panic!("{error} for {} samples", profile.samples());
        }
    }
    assert!(out == again, "two renderings differ");
    out
}

/// No character that steers a terminal or reorders text.
fn text(bytes: Vec<u8>) -> String {
    let Ok(text) = String::from_utf8(bytes) else {
        panic!("not UTF-8")
    };
    let hidden = |c: char| {
        c != '\n' && c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    assert!(!text.contains(hidden), "{:?}", text.matches(hidden).next());
    text
}

/// Well-formed, and with no element or attribute that a harmless profile does not have.
fn check_svg(text: &str) {
    static KNOWN: OnceLock<Markup> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let mut known = Markup::new();
        let text = self::text(render(&harmless(), |profile, out| svg::write(profile, out)));
        each_mark(&text, |element, attribute| {
            known
                .entry(element.to_owned())
                .or_default()
                .insert(attribute.to_owned());
        });
        known
    });
    each_mark(text, |element, attribute| {
        let is_known = known
            .get(element)
            .is_some_and(|attributes| attributes.contains(attribute));
        assert!(is_known, "{attribute:?} of {element}");
    });
    assert_eq!(text.matches("<script").count(), 1);
}

/// Tells each element, with no attribute first and then with each of its own.
fn each_mark(text: &str, mut tell: impl FnMut(&str, &str)) {
    let document = match roxmltree::Document::parse(text) {
        Ok(document) => document,
        Err(error) => panic!("{error}\n{text}"),
    };
    for node in document.descendants().filter(|node| node.is_element()) {
        let element = node.tag_name().name();
        tell(element, "");
        node.attributes().for_each(|attribute| tell(element, attribute.name()));
    }
}

/// A profile with every kind of frame, wide and narrow bars, a long name, a note about bars left out.
fn harmless() -> Profile {
    use profiler_profile::{Frame, FrameKind, ProcessLabel, ProfileBuilder, PythonQuality, Quality};
    use std::time::{Duration, UNIX_EPOCH};
    let mut builder = ProfileBuilder::new(
        Duration::from_millis(10),
        UNIX_EPOCH,
        UNIX_EPOCH + Duration::from_secs(60),
    );
    let process = ProcessLabel {
        pid: 7,
        start: UNIX_EPOCH,
        name: "web".into(),
        service: "web.service".into(),
    };
    let kinds = [
        FrameKind::Kernel,
        FrameKind::Native,
        FrameKind::Inlined,
        FrameKind::Python,
        FrameKind::Unnamed,
    ];
    for (kind, count) in kinds.into_iter().zip([1, 20, 300, 4_000, 50_000]) {
        let frames = ["main", "a::b::c", "a_function_with_a_name_that_is_long"].map(|function| Frame {
            kind,
            function: function.into(),
            module: "web".into(),
            file: "src/main.rs".into(),
            line: 3,
        });
        builder.add(&process, &"worker".into(), frames.into_iter(), count);
    }
    let quality = Quality {
        samples: 54_321,
        rooted: 54_000,
        stopped: [("no_row".to_owned(), 321)].into(),
        lost: [("ring_full".to_owned(), 3)].into(),
        user_frames: 9,
        named_user_frames: 8,
        incomplete_kernel_stacks: 7,
        python: PythonQuality::default(),
        pages: None,
    };
    builder.add_process_quality(&process, &quality);
    builder.build()
}

fn check_folded(text: &str, samples: u64) {
    let mut total = 0_u64;
    let mut stacks = BTreeSet::new();
    for line in text.split_terminator('\n') {
        let Some((stack, count)) = line.rsplit_once(' ') else {
            panic!("no count in {line:?}")
        };
        assert!(stack.contains(';'), "no frame in {line:?}");
        match count.parse::<u64>() {
            Ok(count) if count > 0 => total = total.saturating_add(count),
            other => panic!("{other:?} in {line:?}"),
        }
        stacks.insert(stack);
    }
    assert_eq!(total, samples);
    assert!(!stacks.is_empty());
}

fn check_json(text: &str, samples: u64) {
    let document = parsed(text);
    let count = |table: &str| document[table].as_array().map_or(0, Vec::len);
    let (processes, frames) = (count("processes"), count("frames"));
    let mut total = 0_u64;
    for (index, node) in document["nodes"].as_array().into_iter().flatten().enumerate() {
        let number = |field: &str| node[field].as_u64();
        assert!(number("process").is_some_and(|process| (process as usize) < processes));
        assert!(number("frame").is_some_and(|frame| (frame as usize) < frames));
        assert!(node["parent"].is_null() || number("parent").is_some_and(|parent| (parent as usize) < index));
        assert!(number("self") <= number("total"));
        total = total.saturating_add(number("self").unwrap_or(0));
    }
    assert_eq!(total, samples);
}

fn check_speedscope(text: &str) {
    let document = parsed(text);
    let frames = document["shared"]["frames"].as_array().map_or(0, Vec::len);
    let Some(profiles) = document["profiles"].as_array() else {
        panic!("no profiles")
    };
    let active = document["activeProfileIndex"].as_u64();
    assert!(active.is_some_and(|active| (active as usize) < profiles.len()));
    for profile in profiles {
        let list = |field: &str| profile[field].as_array().map_or(&[][..], Vec::as_slice);
        let (samples, weights) = (list("samples"), list("weights"));
        assert_eq!(samples.len(), weights.len());
        let end = weights
            .iter()
            .fold(0_u64, |sum, weight| sum.saturating_add(weight.as_u64().unwrap_or(0)));
        assert_eq!(profile["endValue"].as_u64(), Some(end));
        for frame in samples.iter().flat_map(|stack| stack.as_array().into_iter().flatten()) {
            assert!(frame.as_u64().is_some_and(|frame| (frame as usize) < frames));
        }
    }
}

fn parsed(text: &str) -> serde_json::Value {
    match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => panic!("{error}\n{text}"),
    }
}

fn check_pprof(compressed: &[u8]) {
    let mut bytes = Vec::new();
    if let Err(error) = GzDecoder::new(compressed).read_to_end(&mut bytes) {
        panic!("{error}");
    }
    let profile = match messages::Profile::decode(&*bytes) {
        Ok(profile) => profile,
        Err(error) => panic!("{error}"),
    };
    let is_text = |index: i64| usize::try_from(index).is_ok_and(|index| index < profile.string_table.len());
    assert!(profile.string_table.first().is_some_and(String::is_empty));
    assert!(profile.comment.iter().all(|comment| is_text(*comment)));
    let functions: BTreeSet<u64> = profile.function.iter().map(|function| function.id).collect();
    let mappings: BTreeSet<u64> = profile.mapping.iter().map(|mapping| mapping.id).chain([0]).collect();
    let locations: BTreeSet<u64> = profile.location.iter().map(|location| location.id).collect();
    assert!(!functions.contains(&0) && !locations.contains(&0));
    let named = |function: &messages::Function| is_text(function.name) && is_text(function.filename);
    assert!(profile.function.iter().all(named) && profile.mapping.iter().all(|mapping| is_text(mapping.filename)));
    for location in &profile.location {
        assert!(mappings.contains(&location.mapping_id) && !location.line.is_empty());
        assert!(location.line.iter().all(|line| functions.contains(&line.function_id)));
    }
    for sample in &profile.sample {
        assert!(sample.location_id.iter().all(|id| locations.contains(id)));
        assert_eq!(sample.value.len(), profile.sample_type.len());
        assert!(sample.value.iter().all(|value| *value >= 0));
        assert!(
            sample
                .label
                .iter()
                .all(|label| is_text(label.key) && is_text(label.str))
        );
    }
}

/// What the daemon sends, the command line reads: the same samples of the same frames.
fn check_crossing(profile: &Profile) {
    let sent = profile_message(profile).encode_to_vec();
    let received = match v1::Profile::decode(&*sent) {
        Ok(received) => received,
        Err(error) => panic!("{error}"),
    };
    match cli_convert::profile(received) {
        Ok(read) => {
            assert_eq!(counts(&read), counts(profile));
            assert_eq!(read.quality, profile.quality);
            assert_eq!(
                (read.period, read.start, read.end),
                (profile.period, profile.start, profile.end)
            );
        }
        // The command line counts exactly, the daemon up to what fits.
        Err(cli_convert::ProfileError::TooManySamples) => assert_eq!(profile.samples(), u64::MAX),
        Err(error) => panic!("{error}"),
    }
}

fn counts(profile: &Profile) -> Counts {
    let mut counts = Counts::new();
    for (stack, count) in profile.stacks.iter().filter(|(_, count)| **count > 0) {
        let frames = stack
            .frames
            .iter()
            .map(|frame| format!("{:?}", profile.frames[*frame as usize]));
        let process = format!("{:?}", profile.processes[stack.process as usize]);
        let known = counts
            .entry((
                profile.processes[stack.process as usize].pid,
                [process].into_iter().chain(frames).collect(),
            ))
            .or_default();
        *known = known.saturating_add(*count);
    }
    counts
}
