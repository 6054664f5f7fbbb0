//! A profile as bytes, for people and for other tools. One module a format; each owns its wire shapes.
//!
//! All formats show names through [`visible()`], so that nothing from a target steers whoever reads them.
//! The same samples give the same bytes, however the profile came to be.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use thiserror::Error;

use crate::{Frame, FrameKind, Profile, Tree, visible};

pub mod folded;
pub mod json;
pub mod pprof;
pub mod speedscope;
pub mod svg;

/// Longest name in formats that repeat a name for each stack.
const MAX_REPEATED_NAME_BYTES: usize = 1_024;
/// Longest name in formats that hold each name once.
const MAX_TABLE_NAME_BYTES: usize = 4_096;

/// Parts at the end of a Python file's path that tell it from others.
const PATH_PARTS: usize = 2;

/// Why there is no rendering.
#[derive(Debug, Error)]
pub enum RenderError {
    /// There is nothing to show.
    #[error("the profile holds no samples")]
    NoSamples,
    /// The output does not take it.
    #[error("the rendering could not be written")]
    Write {
        /// What the output said.
        #[from]
        source: io::Error,
    },
}

/// Writes through a buffer, unless there is nothing to show.
fn buffered(
    profile: &Profile,
    out: impl Write,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), RenderError> {
    if profile.samples() == 0 {
        return Err(RenderError::NoSamples);
    }
    let mut out = io::BufWriter::new(out);
    write(&mut out)?;
    out.flush()?;
    Ok(())
}

/// The frames from the root to a node of the tree.
fn path_to(tree: &Tree, node: usize) -> Vec<u32> {
    let mut frames = vec![tree.nodes[node].frame];
    let mut parent = tree.nodes[node].parent;
    while let Some(index) = parent {
        frames.push(tree.nodes[index as usize].frame);
        parent = tree.nodes[index as usize].parent;
    }
    frames.reverse();
    frames
}

/// A name for formats with tables; what is unknown stays empty.
fn table_name(name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        visible(name, MAX_TABLE_NAME_BYTES).into_owned()
    }
}

/// A function's name where no file stands beside it: that of a Python function with the end of its file's path, as
/// `Client.get (http/client.py)`, since many have the same name.
fn function_name(frame: &Frame) -> Cow<'_, str> {
    if frame.kind != FrameKind::Python || frame.file.is_empty() {
        return Cow::Borrowed(&frame.function);
    }
    let parts = frame.file.rmatch_indices('/');
    let start = parts.take(PATH_PARTS).last().map_or(0, |(slash, _)| slash + 1);
    // A path of so few parts is shown whole.
    let whole = frame.file.matches('/').count() < PATH_PARTS;
    let end = if whole { &*frame.file } else { &frame.file[start..] };
    Cow::Owned(format!("{} ({end})", frame.function))
}

/// The kind of a frame in words.
pub fn kind_name(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Kernel => "kernel",
        FrameKind::Native => "native",
        FrameKind::Inlined => "inlined",
        FrameKind::Python => "python",
        FrameKind::Unnamed => "unnamed",
        FrameKind::Interpreter => "interpreter",
        FrameKind::Thread => "thread",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn render_all(profile: &Profile) -> Vec<(&'static str, Result<Vec<u8>, RenderError>)> {
        type Format = fn(&Profile, &mut Vec<u8>) -> Result<(), RenderError>;
        let formats: [(&'static str, Format); 5] = [
            ("folded", |profile, out| folded::write(profile, out)),
            ("json", |profile, out| json::write(profile, out)),
            ("pprof", |profile, out| pprof::write(profile, out)),
            ("speedscope", |profile, out| speedscope::write(profile, out)),
            ("svg", |profile, out| svg::write(profile, out)),
        ];
        let render = |format: Format| {
            let mut out = Vec::new();
            format(profile, &mut out).map(|()| out)
        };
        formats
            .into_iter()
            .map(|(name, format)| (name, render(format)))
            .collect()
    }

    #[test]
    fn no_samples_is_an_error_in_every_format() {
        let mut zero_counts = fixtures::profile(&[("a", 1, &["main"], 0)]);
        zero_counts.quality.samples = 0;
        for profile in [fixtures::profile(&[]), zero_counts] {
            for (format, result) in render_all(&profile) {
                assert!(matches!(result, Err(RenderError::NoSamples)), "{format}");
            }
        }
    }

    #[test]
    fn a_full_disk_is_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let profile = fixtures::service();
        assert!(matches!(svg::write(&profile, Full), Err(RenderError::Write { .. })));
        assert!(matches!(folded::write(&profile, Full), Err(RenderError::Write { .. })));
        assert!(matches!(pprof::write(&profile, Full), Err(RenderError::Write { .. })));
        assert!(matches!(json::write(&profile, Full), Err(RenderError::Write { .. })));
        assert!(matches!(
            speedscope::write(&profile, Full),
            Err(RenderError::Write { .. })
        ));
    }

    #[test]
    fn the_order_of_merging_does_not_show() {
        let (left, right) = (fixtures::service(), fixtures::hostile());
        let mut one = left.clone();
        one.merge(&right).unwrap();
        let mut other = right;
        other.merge(&left).unwrap();
        for ((format, one), (_, other)) in render_all(&one).into_iter().zip(render_all(&other)) {
            assert!(one.unwrap() == other.unwrap(), "{format}");
        }
    }

    #[test]
    fn nothing_steers_the_reader() {
        let texts = render_all(&fixtures::hostile())
            .into_iter()
            .filter(|(format, _)| *format != "pprof");
        for (format, bytes) in texts {
            let mut bytes = bytes.unwrap();
            bytes.retain(|byte| *byte != b'\n');
            let text = String::from_utf8(bytes).unwrap();
            for hidden in [
                '\x1b', '\0', '\r', '\t', '\u{7f}', '\u{9b}', '\u{202e}', '\u{200f}', '\u{feff}', '\u{ffff}',
            ] {
                assert!(!text.contains(hidden), "{format} {hidden:?}");
            }
        }
    }
}
