//! A flame graph as one self-contained SVG file: callers above, what they call below, as wide as their samples.
//!
//! Kernel, native, inlined, Python and unnamed frames have colours of their own, with a legend of their shares. Title, span
//! of time and the quality line stand above the bars. Names shrink to their last parts before they are cut. The script
//! searches and zooms; the file is whole without it, and nothing of a profile gets into it. Bars that are too narrow to
//! see are left out, and so are the narrowest of too many; a note counts them.

use std::io::{self, Write};

use self::{
    layout::{Bar, Bounds, Layout, Subject, lay_out},
    parts::{beginning_of_header, wrapped, write_controls, write_group, write_head, write_line, write_tail},
};
use super::{MAX_REPEATED_NAME_BYTES, RenderError, buffered, kind_name};
use crate::{
    Frame, FrameKind, Measure, ProcessLabel, Profile,
    functions::{FunctionKey, Functions},
    number::{counted, percent, thousands},
    pages::mebibytes,
    tree::merged,
    utc, visible,
};

mod difference;
mod label;
mod layout;
mod parts;

pub use difference::write_difference;

/// Bars narrower than a tenth of a pixel are left out; as there, so the file stays below some megabytes.
const BOUNDS: Bounds = Bounds {
    smallest_share: 10_000,
    bars: 10_000,
    rows: 1_024,
};
/// Longest file or object name in a tooltip.
const MAX_PLACE_BYTES: usize = 256;

const WIDTH: f64 = 1_200.0;
const MARGIN: f64 = 10.0;
const PLOT_WIDTH: f64 = WIDTH - 2.0 * MARGIN;
/// Bars narrower than this have no outline, which would hide their colour.
const THIN_PIXELS: f64 = 4.0;
const ROW_HEIGHT: u32 = 17;
const LINE_HEIGHT: u32 = 18;
/// Columns of text that fit across the picture at its narrowest.
const HEADER_COLUMNS: usize = 160;
/// Columns of the title, whose letters are larger.
const TITLE_COLUMNS: usize = 90;
/// Stands before the kinds: a sample belongs to the kind of its innermost frame.
const LEGEND_TITLE: &str = "own time:";
/// The same where a sample is a page.
const MEMORY_LEGEND_TITLE: &str = "touched by:";
/// Shades of each colour, so that neighbours are told apart.
const SHADES: u32 = 6;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The kinds in the order of the legend, with the letter of their style and their colour: hue, saturation, lightness.
const COLOURS: [(FrameKind, char, u32, u32, u32); 7] = [
    (FrameKind::Kernel, 'k', 212, 62, 74),
    (FrameKind::Native, 'n', 17, 82, 73),
    (FrameKind::Inlined, 'i', 46, 85, 74),
    (FrameKind::Python, 'p', 158, 44, 68),
    (FrameKind::Unnamed, 'u', 220, 6, 80),
    (FrameKind::Interpreter, 'c', 192, 26, 77),
    (FrameKind::Thread, 't', 268, 30, 84),
];

/// Writes the profile as an SVG flame graph.
pub fn write(profile: &Profile, out: impl Write) -> Result<(), RenderError> {
    buffered(profile, out, |out| write_document(profile, out))
}

fn write_document(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let functions = Functions::group(profile, FunctionKey::drawn);
    let layout = lay_out(profile.processes.len(), &merged(profile, &functions), BOUNDS);
    let notes = notes(profile, &layout);
    let legend_y = 44 + LINE_HEIGHT * (notes.len() as u32 + 1);
    let plot_y = legend_y + 2 * LINE_HEIGHT - 8;
    let plot_height = layout.rows * ROW_HEIGHT;
    let height = plot_y + plot_height + MARGIN as u32;

    write_head(out, height, &colour_styles())?;
    let title = beginning_of_header(&title(profile), TITLE_COLUMNS);
    write_line(out, "title", 26, &title)?;
    write_line(out, "subtitle", 46, &subtitle(profile, &layout))?;
    for (note, number) in notes.iter().zip(0..) {
        write_line(out, "note", 46 + LINE_HEIGHT * (number + 1), note)?;
    }
    write_legend(out, profile, legend_y + 12)?;
    write_line(out, "details", legend_y + 12 + LINE_HEIGHT, "")?;
    write_controls(out, legend_y + 12)?;
    writeln!(
        out,
        r#"<svg class="plot" x="{MARGIN}" y="{}" width="{PLOT_WIDTH}" height="{plot_height}">"#,
        plot_y + 8
    )?;
    let names: Vec<String> = profile
        .frames
        .iter()
        .map(|frame| visible(&frame.function, MAX_REPEATED_NAME_BYTES).into_owned())
        .collect();
    for bar in &layout.bars {
        write_bar(out, profile, &functions, &names, &layout, bar)?;
    }
    writeln!(out, "</svg>")?;
    write_tail(out)
}

/// The process, or the service, or how many there are.
fn title(profile: &Profile) -> String {
    let mut processes = profile.processes.iter();
    let count = profile.processes.len();
    match processes.next() {
        Some(process) if count == 1 && !process.service.is_empty() && process.service != process.name => {
            format!("{}  ·  {}", process_name(process), name(&process.service))
        }
        Some(process) if count == 1 => process_name(process),
        Some(process) if !process.service.is_empty() && processes.all(|other| other.service == process.service) => {
            format!("{} ({} processes)", name(&process.service), thousands(count as u64))
        }
        _ => format!("{} processes", thousands(count as u64)),
    }
}

fn process_name(process: &ProcessLabel) -> String {
    format!("{} (pid {})", name(&process.name), process.pid)
}

fn name(name: &str) -> String {
    visible(name, MAX_PLACE_BYTES).into_owned()
}

/// What was measured, when and how densely.
fn subtitle(profile: &Profile, layout: &Layout) -> String {
    let span = profile.end.duration_since(profile.start).unwrap_or_default();
    if let Some(what) = bytes_title(profile) {
        return format!(
            "{what} {}  ·  {}",
            mebibytes(layout.samples),
            utc::range(profile.start, profile.end)
        );
    }
    let period = profile.period.as_secs_f64();
    let mut subtitle = format!(
        "CPU time {:.2} s  ·  {}  ·  {:.1} s",
        period * layout.samples as f64,
        utc::range(profile.start, profile.end),
        span.as_secs_f64()
    );
    if period > 0.0 {
        subtitle.push_str(&format!(" at {:.0} Hz", period.recip()));
    }
    subtitle
}

/// What the bytes of a profile of memory are; `None` for CPU time.
fn bytes_title(profile: &Profile) -> Option<&'static str> {
    match profile.measure() {
        Measure::CpuTime => None,
        Measure::Growth => Some("memory touched first here and still there:"),
        Measure::FirstTouch => Some("memory touched first here, there or not:"),
        Measure::Mapped => Some("memory asked for here, given back or not:"),
    }
}

/// The quality line, and what the picture leaves out.
fn notes(profile: &Profile, layout: &Layout) -> Vec<String> {
    let mut notes = wrapped(&profile.summary(), HEADER_COLUMNS);
    if layout.hidden > 0 {
        let smallest = percent(1, BOUNDS.smallest_share, 2);
        let (hidden, most) = (counted(layout.hidden as u64, "bar"), thousands(BOUNDS.bars as u64));
        notes.push(format!(
            "{hidden} not drawn (below {smallest}, or beyond the {most} widest)"
        ));
    }
    notes
}

/// The kinds that occur, each with the share of samples whose innermost frame it is.
fn write_legend(out: &mut dyn Write, profile: &Profile, y: u32) -> io::Result<()> {
    let innermost = |kind: FrameKind| {
        let stacks = profile.stacks.iter().filter(|(stack, _)| {
            stack
                .frames
                .last()
                .is_some_and(|frame| profile.frames[*frame as usize].kind == kind)
        });
        stacks.fold(0_u64, |total, (_, count)| total.saturating_add(*count))
    };
    let title = if profile.measure().is_bytes() {
        MEMORY_LEGEND_TITLE
    } else {
        LEGEND_TITLE
    };
    write_line(out, "legend", y, title)?;
    let mut x = MARGIN as u32 + 8 * title.len() as u32;
    for (kind, letter, ..) in COLOURS {
        if !profile.frames.iter().any(|frame| frame.kind == kind) {
            continue;
        }
        let text = format!(
            "{} {}",
            kind_title(kind),
            percent(innermost(kind), profile.samples(), 1)
        );
        writeln!(
            out,
            r#"<rect class="{letter}0" x="{x}" y="{}" width="12" height="12"/>"#,
            y - 10
        )?;
        writeln!(out, r#"<text class="legend" x="{}" y="{y}">{text}</text>"#, x + 17)?;
        x += 17 + 8 * text.len() as u32 + 14;
    }
    Ok(())
}

fn kind_title(kind: FrameKind) -> &'static str {
    if kind == FrameKind::Python {
        "Python"
    } else {
        kind_name(kind)
    }
}

fn colour_styles() -> String {
    let shade = |letter, hue, saturation, lightness, shade: u32| {
        let (hue, lightness) = (hue + shade % 3 * 4, lightness + shade / 3 * 5);
        format!(".{letter}{shade} {{ fill: hsl({hue}, {saturation}%, {lightness}%); }}\n")
    };
    let kinds = COLOURS.iter().flat_map(|(_, letter, hue, saturation, lightness)| {
        (0..SHADES).map(move |number| shade(letter, hue, saturation, *lightness, number))
    });
    kinds.chain([".r { fill: #e3e7ec; }\n".to_owned()]).collect()
}

fn style_of(frame: &Frame) -> String {
    let letter = COLOURS
        .iter()
        .find(|(kind, ..)| *kind == frame.kind)
        .map_or('u', |(_, letter, ..)| *letter);
    format!("{letter}{}", shade_of(&frame.function, SHADES))
}

/// One of so many shades: the same function has the same in every picture.
fn shade_of(function: &str, shades: u32) -> u32 {
    // FNV-1a.
    let hash = function.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (hash >> 8) % shades
}

fn write_bar(
    out: &mut dyn Write,
    profile: &Profile,
    functions: &Functions,
    names: &[String],
    layout: &Layout,
    bar: &Bar,
) -> io::Result<()> {
    let is_bytes = profile.measure().is_bytes();
    let cost = if is_bytes {
        format!("{}, {}", mebibytes(bar.width), percent(bar.width, layout.samples, 2))
    } else {
        let total_seconds = profile.period.as_secs_f64() * bar.width as f64;
        format!(
            "{}, {}, {total_seconds:.2} s",
            counted(bar.width, "sample"),
            percent(bar.width, layout.samples, 2)
        )
    };
    let (text, style, facts) = match bar.subject {
        Subject::Everything(processes) => (format!("all ({processes} processes)"), "r".to_owned(), cost),
        Subject::Process(process) => (process_name(&profile.processes[process as usize]), "r".to_owned(), cost),
        Subject::Function(index) => {
            let frame = &profile.frames[index as usize];
            let own = format!(
                "itself {}, {}",
                if is_bytes {
                    mebibytes(bar.self_samples)
                } else {
                    thousands(bar.self_samples)
                },
                percent(bar.self_samples, layout.samples, 2)
            );
            let place = place(frame, functions.lines[index as usize]);
            (
                names[index as usize].clone(),
                style_of(frame),
                format!("{cost}; {own}\n{place}"),
            )
        }
    };
    write_group(out, layout.samples, bar, &style, &text, &facts)
}

/// Kind, object and source line of a function.
fn place(frame: &Frame, lines: u32) -> String {
    let mut place = kind_title(frame.kind).to_owned();
    if !frame.module.is_empty() {
        place.push_str(" in ");
        place.push_str(&name(&frame.module));
    }
    if !frame.file.is_empty() {
        place.push('\n');
        place.push_str(&name(&frame.file));
        if frame.line > 0 {
            place.push_str(&format!(":{}", frame.line));
        }
        if lines > 1 {
            place.push_str(&format!(" (most of {lines} lines)"));
        }
    }
    place
}

#[cfg(test)]
mod tests;
