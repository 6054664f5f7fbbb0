//! The pprof format: a gzip-compressed `google.perftools.profiles.Profile`.
//!
//! Each sample has two values, `samples/count` and `cpu/nanoseconds`, of which the last is shown by default (`first_touch/bytes`
//! and `growth/bytes` where it is of memory), and the
//! labels `pid`, `process`, `thread` and, where it is known, `gil` (`held` or `released`). Inlined functions are lines of the location that they were inlined into. Frames
//! carry no addresses here, so locations have none; there is one mapping for each object. The quality line is a comment.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use flate2::{Compression, GzBuilder};
use prost::Message;

use super::{MAX_TABLE_NAME_BYTES, RenderError, buffered, table_name};
use crate::{Frame, FrameKind, Gil, Profile, Stack, functions::Numbering, tree::Ranks, utc, visible};

mod messages;

/// Writes the profile as gzip-compressed pprof.
pub fn write(profile: &Profile, out: impl Write) -> Result<(), RenderError> {
    buffered(profile, out, |out| write_compressed(Encoder::new(profile, None), out))
}

/// Writes both values of a profile of memory, `first_touch/bytes` and `growth/bytes`, of which the last is shown by default.
pub fn write_memory(growth: &Profile, first_touch: &Profile, out: impl Write) -> Result<(), RenderError> {
    let most = if growth.samples() > 0 { growth } else { first_touch };
    let (both, first_touch) = growth.beside(first_touch);
    buffered(most, out, |out| {
        write_compressed(Encoder::new(&both, Some(&first_touch)), out)
    })
}

fn write_compressed(encoder: Encoder<'_>, out: &mut dyn Write) -> io::Result<()> {
    let bytes = encoder.encode().encode_to_vec();
    // No time and no system in the header: the same profile gives the same bytes.
    let mut compressed = GzBuilder::new()
        .operating_system(255)
        .write(out, Compression::default());
    compressed.write_all(&bytes)?;
    compressed.finish()?;
    Ok(())
}

/// Fills the tables of the message as samples refer to them. Ids of tables start at 1, indices of text at 0.
struct Encoder<'a> {
    profile: &'a Profile,
    /// The other value, if it has two.
    first_touch: Option<&'a HashMap<Stack, u64>>,
    message: messages::Profile,
    strings: HashMap<String, i64>,
    /// By object name.
    mappings: Numbering<&'a str>,
    /// By name and file.
    functions: Numbering<(&'a str, &'a str)>,
    /// By frames, the outermost first.
    locations: Numbering<&'a [u32]>,
}

/// Text that every profile refers to.
struct Labels {
    pid: i64,
    process: i64,
    thread: i64,
    gil: i64,
}

impl<'a> Encoder<'a> {
    fn new(profile: &'a Profile, first_touch: Option<&'a HashMap<Stack, u64>>) -> Self {
        Self {
            profile,
            first_touch,
            message: messages::Profile::default(),
            strings: HashMap::new(),
            mappings: Numbering::new(),
            functions: Numbering::new(),
            locations: Numbering::new(),
        }
    }

    fn encode(mut self) -> messages::Profile {
        self.string("");
        self.header();
        let labels = Labels {
            pid: self.string("pid"),
            process: self.string("process"),
            thread: self.string("thread"),
            gil: self.string("gil"),
        };
        self.main_object();
        for (stack, count) in sorted_stacks(self.profile, self.first_touch.is_some()) {
            let sample = self.sample(stack, count, &labels);
            self.message.sample.push(sample);
        }
        self.message
    }

    fn header(&mut self) {
        let (first, second) = match self.first_touch {
            Some(_) => (("first_touch", "bytes"), ("growth", "bytes")),
            None if self.profile.measure().is_bytes() => (("space", "bytes"), (self.profile.measure().name(), "bytes")),
            None => (("samples", "count"), ("cpu", "nanoseconds")),
        };
        let mut value_type = |(name, unit): (&str, &str)| messages::ValueType {
            r#type: self.string(name),
            unit: self.string(unit),
        };
        let samples = value_type(first);
        let cpu = value_type(second);
        let comment = self.string(&self.profile.summary());
        let (start, end) = (utc::unix_nanos(self.profile.start), utc::unix_nanos(self.profile.end));
        let message = &mut self.message;
        message.default_sample_type = cpu.r#type;
        message.sample_type = vec![samples, cpu.clone()];
        message.period_type = Some(cpu);
        message.period = clamped(self.profile.period.as_nanos());
        message.time_nanos = start;
        message.duration_nanos = end.saturating_sub(start).max(0);
        message.comment = vec![comment];
    }

    /// Readers take the first mapping for the program: the object of the same name as the busiest process.
    fn main_object(&mut self) {
        let mut samples = vec![0_u64; self.profile.processes.len()];
        for (stack, count) in &self.profile.stacks {
            let process = &mut samples[stack.process as usize];
            *process = process.saturating_add(*count);
        }
        let processes = Ranks::of_processes(self.profile);
        let busiest = processes
            .sorted
            .iter()
            .rev()
            .max_by_key(|index| samples[**index as usize]);
        let Some(busiest) = busiest else { return };
        let name = &self.profile.processes[*busiest as usize].name;
        // The kernel cuts the names of processes.
        let frames = Ranks::of_frames(self.profile);
        let mut objects = frames.sorted.iter().map(|index| &self.profile.frames[*index as usize]);
        let object = objects.find(|frame| !name.is_empty() && frame.module.starts_with(&**name));
        if let Some(frame) = object {
            self.mapping(frame);
        }
    }

    fn sample(&mut self, stack: &'a Stack, count: u64, labels: &Labels) -> messages::Sample {
        let process = &self.profile.processes[stack.process as usize];
        let values = match self.first_touch {
            Some(first_touch) => [first_touch.get(stack).copied().unwrap_or_default(), count].map(u128::from),
            None if self.profile.measure().is_bytes() => [count, count].map(u128::from),
            None => {
                let count = u128::from(count);
                [count, self.profile.period.as_nanos().saturating_mul(count)]
            }
        };
        let mut location_id: Vec<u64> = places(self.profile, &stack.frames)
            .map(|place| self.location(place))
            .collect();
        location_id.reverse();
        let process_name = self.string(&visible(&process.name, MAX_TABLE_NAME_BYTES));
        let thread_name = self.string(&table_name(&self.profile.threads[stack.thread as usize]));
        let text = |key, str| messages::Label { key, str, num: 0 };
        let pid = messages::Label {
            key: labels.pid,
            str: 0,
            num: i64::from(process.pid),
        };
        let mut label = vec![pid, text(labels.process, process_name)];
        if thread_name != 0 {
            label.push(text(labels.thread, thread_name));
        }
        let gil = match stack.gil {
            Gil::Unknown => None,
            Gil::Held => Some("held"),
            Gil::Released => Some("released"),
        };
        if let Some(gil) = gil {
            let value = self.string(gil);
            label.push(text(labels.gil, value));
        }
        messages::Sample {
            location_id,
            value: values.map(clamped).to_vec(),
            label,
        }
    }

    fn location(&mut self, place: &'a [u32]) -> u64 {
        let (number, new) = self.locations.number(place);
        let id = u64::from(number) + 1;
        if new {
            let frames: Vec<&'a Frame> = place
                .iter()
                .map(|index| &self.profile.frames[*index as usize])
                .collect();
            let mapping_id = frames.first().map_or(0, |outermost| self.mapping(outermost));
            let line = frames.iter().rev().map(|frame| self.line(frame)).collect();
            if let Some(mapping) = self.message.mapping.get_mut((mapping_id as usize).wrapping_sub(1)) {
                for frame in &frames {
                    mapping.has_filenames |= !frame.file.is_empty();
                    mapping.has_line_numbers |= frame.line > 0;
                    mapping.has_inline_frames |= frame.kind == FrameKind::Inlined;
                }
            }
            self.message.location.push(messages::Location { id, mapping_id, line });
        }
        id
    }

    /// The mapping of a frame's object; 0 where that is unknown.
    fn mapping(&mut self, frame: &'a Frame) -> u64 {
        // No object holds what has no machine code.
        if frame.module.is_empty() || matches!(frame.kind, FrameKind::Python | FrameKind::Thread) {
            return 0;
        }
        let (number, new) = self.mappings.number(&*frame.module);
        let id = u64::from(number) + 1;
        if new {
            let filename = self.string(&table_name(&frame.module));
            // Even of what has no symbol: without addresses, readers could not name it better and need not try.
            let has_functions = true;
            self.message.mapping.push(messages::Mapping {
                id,
                filename,
                has_functions,
                ..messages::Mapping::default()
            });
        }
        id
    }

    fn line(&mut self, frame: &'a Frame) -> messages::Line {
        let (number, new) = self.functions.number((&*frame.function, &*frame.file));
        let function_id = u64::from(number) + 1;
        if new {
            let name = self.string(&visible(&frame.function, MAX_TABLE_NAME_BYTES));
            let filename = self.string(&table_name(&frame.file));
            self.message.function.push(messages::Function {
                id: function_id,
                name,
                filename,
            });
        }
        messages::Line {
            function_id,
            line: i64::from(frame.line),
        }
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(index) = self.strings.get(text) {
            return *index;
        }
        let index = self.strings.len() as i64;
        self.strings.insert(text.to_owned(), index);
        self.message.string_table.push(text.to_owned());
        index
    }
}

/// A stack, root first, cut into places of the code: a function with what was inlined into it.
fn places<'a>(profile: &'a Profile, frames: &'a [u32]) -> impl Iterator<Item = &'a [u32]> {
    frames.chunk_by(|_, next| profile.frames[*next as usize].kind == FrameKind::Inlined)
}

/// Stacks with samples, in an order that does not depend on how the profile came to be.
fn sorted_stacks(profile: &Profile, also_empty: bool) -> Vec<(&Stack, u64)> {
    let (frames, processes) = (Ranks::of_frames(profile), Ranks::of_processes(profile));
    let mut stacks: Vec<(&Stack, u64)> = profile
        .stacks
        .iter()
        .filter(|(_, count)| also_empty || **count > 0)
        .map(|(stack, count)| (stack, *count))
        .collect();
    stacks.sort_by_cached_key(|(stack, _)| {
        let path: Box<[u32]> = stack.frames.iter().map(|frame| frames.rank[*frame as usize]).collect();
        (
            processes.rank[stack.process as usize],
            path,
            &*profile.threads[stack.thread as usize],
            stack.gil,
        )
    });
    stacks
}

fn clamped(value: u128) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
