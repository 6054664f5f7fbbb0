//! What every picture is made of: its frame, lines of text, and bars.

use std::io::{self, Write};

use super::{
    MARGIN, PLOT_WIDTH, ROW_HEIGHT, SCRIPT, STYLE, THIN_PIXELS, WIDTH,
    label::{beginning, columns, fitted, short},
    layout::Bar,
};

/// The beginning of a document of this height, with the styles of its bars.
pub(super) fn write_head(out: &mut dyn Write, height: u32, styles: &str) -> io::Result<()> {
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" version="1.1" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">"#
    )?;
    writeln!(out, "<style>\n{STYLE}{styles}</style>")?;
    writeln!(out, r##"<rect width="100%" height="100%" fill="#ffffff"/>"##)
}

/// What the script makes visible: search and reset, and at `found_y` how much was found.
pub(super) fn write_controls(out: &mut dyn Write, found_y: u32) -> io::Result<()> {
    let right = WIDTH - MARGIN;
    writeln!(
        out,
        r#"<text class="button search right hidden" x="{right}" y="26" text-anchor="end">Search (/)</text>"#
    )?;
    writeln!(
        out,
        r#"<text class="button reset right hidden" x="{right}" y="46" text-anchor="end">Reset (Esc)</text>"#
    )?;
    writeln!(
        out,
        r#"<text class="matched right" x="{right}" y="{}" text-anchor="end"></text>"#,
        found_y
    )
}

/// The script, and the end of the document.
pub(super) fn write_tail(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "<script><![CDATA[\n{SCRIPT}]]></script>\n</svg>")
}

/// A bar with its tooltip, of which `text` is the first line, and as much of that as fits on it. `whole` is as wide as the
/// picture.
pub(super) fn write_group(
    out: &mut dyn Write,
    whole: u64,
    bar: &Bar,
    style: &str,
    text: &str,
    facts: &str,
) -> io::Result<()> {
    let short = short(text);
    write!(out, "<g")?;
    if let Some(short) = &short {
        write!(out, r#" data-s="{}""#, escaped(short))?;
    }
    let share = |samples: u64| samples as f64 * 100.0 / whole as f64;
    let (start, width) = (decimal(share(bar.start)), decimal(share(bar.width)));
    let y = bar.row * ROW_HEIGHT;
    write!(out, "><title>{}\n{}</title>", escaped(text), escaped(facts))?;
    let pixels = share(bar.width) / 100.0 * PLOT_WIDTH;
    let thin = if pixels < THIN_PIXELS { " thin" } else { "" };
    write!(
        out,
        r#"<rect class="{style}{thin}" x="{start}%" y="{y}" width="{width}%" height="{}"/>"#,
        ROW_HEIGHT - 1
    )?;
    if let Some(label) = fitted(text, short.as_deref().unwrap_or(text), pixels) {
        write!(
            out,
            r#"<text x="{start}%" dx="3" y="{}.5">{}</text>"#,
            y + 12,
            escaped(&label)
        )?;
    }
    writeln!(out, "</g>")
}

/// Lines of at most so many columns, broken between words where there are any.
pub(super) fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if columns(line) + 1 + columns(word) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(beginning_of_header(word, room)),
        }
    }
    lines
}

pub(super) fn beginning_of_header(text: &str, room: usize) -> String {
    if columns(text) <= room {
        text.to_owned()
    } else {
        beginning(text, room)
    }
}

pub(super) fn write_line(out: &mut dyn Write, class: &str, y: u32, text: &str) -> io::Result<()> {
    writeln!(
        out,
        r#"<text class="{class}" x="{MARGIN}" y="{y}">{}</text>"#,
        escaped(text)
    )
}

/// Six decimals: the width of a sample among a hundred million, so that zooming stays exact.
pub(super) fn decimal(number: f64) -> String {
    let text = format!("{number:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text between tags or within a quoted attribute.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}
