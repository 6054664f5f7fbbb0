//! A comparison as a flame graph: as wide as after, coloured by what changed.
//!
//! Only what the test of a [`Comparison`] calls a change has a colour; the rest is grey, however different it looks. What is
//! gone has no width: it is listed below the picture.

use std::io::{self, Write};

use super::{
    BOUNDS, HEADER_COLUMNS, LINE_HEIGHT, MARGIN, PLOT_WIDTH, ROW_HEIGHT, TITLE_COLUMNS,
    label::columns,
    layout::{Bar, Layout, Subject, lay_out},
    name,
    parts::{beginning_of_header, wrapped, write_controls, write_group, write_head, write_line, write_tail},
    place, shade_of,
};
use crate::{
    Node, Tree,
    compare::{Change, Comparison, DifferenceNode, Direction, Party, SideFacts},
    number::{counted, percent, thousands},
    render::{RenderError, function_name},
    utc,
};

/// Width of a value of 1, so that rounding cannot be seen.
const SCALE: f64 = 1e9;
/// Changes of at least this share of all CPU time have the next stronger colour.
const STEPS: [f64; 3] = [0.02, 0.05, 0.1];
/// Colours of what grew and of what shrank, the stronger the later, and of what did neither.
const STYLES: &str = "\
.g0 { fill: hsl(12, 85%, 84%); }
.g1 { fill: hsl(10, 86%, 74%); }
.g2 { fill: hsl(8, 84%, 64%); }
.g3 { fill: hsl(4, 78%, 54%); }
.s0 { fill: hsl(208, 75%, 85%); }
.s1 { fill: hsl(210, 74%, 75%); }
.s2 { fill: hsl(212, 70%, 64%); }
.s3 { fill: hsl(214, 66%, 54%); }
.z0 { fill: #dcdfe3; }
.z1 { fill: #e2e5e9; }
.z2 { fill: #d6dade; }
.r { fill: #eceff3; }
.plot .g3 + text, .plot .s3 + text { fill: #ffffff; }
";
/// Stacks named below the picture.
const MAX_GONE: usize = 20;

/// Writes the comparison of a target, which is named by `title`, as an SVG flame graph.
pub fn write_difference(comparison: &Comparison, title: &str, out: impl Write) -> Result<(), RenderError> {
    let tree = tree(comparison);
    if tree.samples() == 0 {
        return Err(RenderError::NoSamples);
    }
    let mut out = io::BufWriter::new(out);
    write_document(comparison, &tree, title, &mut out)?;
    out.flush()?;
    Ok(())
}

/// What there is after, its nodes numbered by the comparison's.
fn tree(comparison: &Comparison) -> Tree {
    let width = |value: f64| (value * SCALE).round() as u64;
    let mut totals: Vec<u64> = comparison.nodes.iter().map(|node| width(node.total.after)).collect();
    let mut called = vec![0_u64; totals.len()];
    // Rounding must not make a caller narrower than what it calls.
    for (index, node) in comparison.nodes.iter().enumerate().rev() {
        totals[index] = totals[index].max(called[index]);
        if let Some(parent) = node.parent {
            let called = &mut called[parent as usize];
            *called = called.saturating_add(totals[index]);
        }
    }
    let mut numbers: Vec<Option<u32>> = Vec::with_capacity(totals.len());
    let mut nodes: Vec<Node> = Vec::new();
    for (index, node) in comparison.nodes.iter().enumerate() {
        if totals[index] == 0 {
            numbers.push(None);
            continue;
        }
        numbers.push(Some(nodes.len() as u32));
        nodes.push(Node {
            parent: node.parent.and_then(|parent| numbers[parent as usize]),
            frame: index as u32,
            process: node.party.unwrap_or(0),
            self_samples: totals[index] - called[index],
            total_samples: totals[index],
        });
    }
    Tree { nodes }
}

fn write_document(comparison: &Comparison, tree: &Tree, title: &str, out: &mut dyn Write) -> io::Result<()> {
    let layout = lay_out(comparison.parties.len().max(1), tree, BOUNDS);
    let notes = notes(comparison, &layout);
    let gone = gone(comparison);
    let legend_y = 44 + LINE_HEIGHT * (notes.len() as u32 + 1);
    let plot_y = legend_y + 2 * LINE_HEIGHT;
    let plot_height = layout.rows * ROW_HEIGHT;
    let below = plot_y + plot_height + LINE_HEIGHT;
    let height = below + LINE_HEIGHT * gone.len() as u32;

    write_head(out, height, STYLES)?;
    let title = name(title);
    let heading = beginning_of_header(&format!("{title}: what changed"), TITLE_COLUMNS);
    write_line(out, "title", 26, &heading)?;
    write_line(out, "subtitle", 46, &subtitle(comparison))?;
    for (note, number) in notes.iter().zip(0..) {
        write_line(out, "note", 46 + LINE_HEIGHT * (number + 1), note)?;
    }
    write_legend(out, legend_y + 12)?;
    write_line(out, "details", legend_y + 12 + LINE_HEIGHT, "")?;
    write_controls(out, legend_y + 12)?;
    writeln!(
        out,
        r#"<svg class="plot" x="{MARGIN}" y="{plot_y}" width="{PLOT_WIDTH}" height="{plot_height}">"#
    )?;
    for bar in &layout.bars {
        write_bar(out, comparison, &title, &layout, bar)?;
    }
    writeln!(out, "</svg>")?;
    for (line, number) in gone.iter().zip(0..) {
        write_line(out, "gone", below + LINE_HEIGHT * number, line)?;
    }
    write_tail(out)
}

/// When, and how much of it all.
fn subtitle(comparison: &Comparison) -> String {
    let side = |side: &SideFacts| {
        format!(
            "{} in {}",
            utc::range(side.start, side.end),
            counted(side.blocks as u64, "block")
        )
    };
    let text = format!(
        "before {}  ·  after {}",
        side(&comparison.before),
        side(&comparison.after)
    );
    beginning_of_header(&text, HEADER_COLUMNS)
}

fn notes(comparison: &Comparison, layout: &Layout) -> Vec<String> {
    let mut lines = vec![comparison.to_string()];
    lines.push(format!("before: {}", comparison.before.quality));
    lines.push(format!("after: {}", comparison.after.quality));
    if comparison.cut_samples > 0 {
        lines.push(format!(
            "{} cut: too many different stacks",
            counted(comparison.cut_samples, "stack")
        ));
    }
    if layout.hidden > 0 {
        let smallest = percent(1, BOUNDS.smallest_share, 2);
        let hidden = counted(layout.hidden as u64, "bar");
        let most = thousands(BOUNDS.bars as u64);
        lines.push(format!(
            "{hidden} not drawn (below {smallest}, or beyond the {most} widest)"
        ));
    }
    lines.iter().flat_map(|line| wrapped(line, HEADER_COLUMNS)).collect()
}

fn write_legend(out: &mut dyn Write, y: u32) -> io::Result<()> {
    let [small, medium, large] = STEPS.map(|step| format!("≥ {:.0} %", step * 100.0));
    let entries = [
        ("s3", format!("shrank {large}")),
        ("s2", medium.clone()),
        ("s1", small.clone()),
        ("s0", "less".to_owned()),
        ("z0", "no significant change".to_owned()),
        ("g0", "grew less".to_owned()),
        ("g1", small),
        ("g2", medium),
        ("g3", format!("{large} of all CPU time")),
    ];
    let mut x = MARGIN as u32;
    for (style, text) in entries {
        writeln!(
            out,
            r#"<rect class="{style}" x="{x}" y="{}" width="12" height="12"/>"#,
            y - 10
        )?;
        writeln!(out, r#"<text class="legend" x="{}" y="{y}">{text}</text>"#, x + 17)?;
        x += 17 + 8 * columns(&text) as u32 + 14;
    }
    Ok(())
}

/// What was there before and is not any more: where each part of the tree that is gone begins. A caller whose own end cannot
/// be told from chance does not hide what it called.
fn gone(comparison: &Comparison) -> Vec<String> {
    let is_gone = |node: &DifferenceNode| node.total.after == 0.0 && node.total.direction == Some(Direction::Shrank);
    // Whether each place, or one that it was called from, is gone.
    let mut in_gone: Vec<bool> = Vec::with_capacity(comparison.nodes.len());
    let mut nodes: Vec<&DifferenceNode> = Vec::new();
    for node in &comparison.nodes {
        let is_told = node.parent.is_some_and(|parent| in_gone[parent as usize]);
        if is_gone(node) && !is_told {
            nodes.push(node);
        }
        in_gone.push(is_told || is_gone(node));
    }
    nodes.sort_by(|left, right| right.total.before.total_cmp(&left.total.before));
    let line = |node: &&DifferenceNode| {
        let names = comparison.path(node).map(|frame| name(&function_name(frame)));
        let path = names.collect::<Vec<_>>().join(" → ");
        let before = comparison.settings.measure.text(node.total.before);
        beginning_of_header(&format!("gone: {before} before: {path}"), HEADER_COLUMNS)
    };
    let mut lines: Vec<String> = nodes.iter().take(MAX_GONE).map(line).collect();
    if nodes.len() > MAX_GONE {
        lines.push(format!("gone: {} more", thousands((nodes.len() - MAX_GONE) as u64)));
    }
    lines
}

/// The style of a change.
fn style_of(comparison: &Comparison, change: &Change, name: &str) -> String {
    let Some(direction) = change.direction else {
        return format!("z{}", shade_of(name, 3));
    };
    let share = change.difference().abs() / comparison.whole_in_measure();
    let step = STEPS.iter().filter(|step| share >= **step).count();
    match direction {
        Direction::Grew => format!("g{step}"),
        Direction::Shrank => format!("s{step}"),
    }
}

/// Both sides, and how sure the difference is.
fn facts(comparison: &Comparison, change: &Change) -> String {
    let text = |value| comparison.settings.measure.text(value);
    let mut facts = format!("before {}, after {}", text(change.before), text(change.after));
    if let Some(test) = change.test {
        let (low, high) = test.interval;
        let verdict = match change.direction {
            Some(Direction::Grew) => "grew",
            Some(Direction::Shrank) => "shrank",
            None => "no significant change",
        };
        facts.push_str(&format!(
            "; {verdict}: {:+.2} to {:+.2} points",
            low * 100.0,
            high * 100.0
        ));
    }
    facts
}

fn write_bar(out: &mut dyn Write, comparison: &Comparison, title: &str, layout: &Layout, bar: &Bar) -> io::Result<()> {
    let (text, style, facts) = match bar.subject {
        Subject::Everything(_) => {
            let whole = format!(
                "before {:.2} CPUs, after {:.2} CPUs",
                comparison.whole.before, comparison.whole.after
            );
            (format!("all of {title}"), "r".to_owned(), whole)
        }
        Subject::Process(party) => match comparison.parties.get(party as usize) {
            Some(party) if comparison.nodes.iter().any(|node| node.party.is_some()) => {
                let name = name(party.party.name());
                let style = style_of(comparison, &party.change, &name);
                let noun = match party.party {
                    Party::Service(_) => "service",
                    Party::Program(_) => "program",
                    Party::Process(_) => "process",
                };
                (format!("{noun} {name}"), style, facts(comparison, &party.change))
            }
            _ => {
                let whole = &comparison.whole;
                let facts = format!("before {:.2} CPUs, after {:.2} CPUs", whole.before, whole.after);
                (title.to_owned(), "r".to_owned(), facts)
            }
        },
        Subject::Function(index) => {
            let node = &comparison.nodes[index as usize];
            let frame = &comparison.frames[node.frame as usize];
            let name = name(&frame.function);
            let style = style_of(comparison, &node.total, &name);
            let facts = format!("{}\n{}", facts(comparison, &node.total), place(frame, 1));
            (name, style, facts)
        }
    };
    write_group(out, layout.samples, bar, &style, &text, &facts)
}

#[cfg(test)]
mod tests;
