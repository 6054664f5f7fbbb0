//! The report for people.

use std::io::Write;

use profiler_profile::{
    Frame, FrameKind,
    compare::{Change, Comparison, Direction, FunctionChange, Measure, Party, SideFacts},
};

use crate::{
    error::CliError,
    output::{BAD_STYLE, Cell, GOOD_STYLE, HEADING_STYLE, Table, printable, thousands},
    span::{span_text, time_text},
};

/// Rows of a table; JSON has them all.
const MAX_ROWS: usize = 20;
/// Most bytes shown of a name.
const MAX_NAME_BYTES: usize = 160;

/// Writes what changed.
pub(super) fn write(out: &mut impl Write, title: &str, comparison: &Comparison) -> Result<(), CliError> {
    writeln!(
        out,
        "{HEADING_STYLE}{}{HEADING_STYLE:#}",
        printable(title, MAX_NAME_BYTES)
    )?;
    for (name, side, cores) in [
        ("before", &comparison.before, comparison.whole.before),
        ("after", &comparison.after, comparison.whole.after),
    ] {
        writeln!(out, "{name:<7} {}", side_text(side, cores))?;
    }
    writeln!(out)?;
    writeln!(out, "{comparison}")?;
    write_parties(out, comparison)?;
    let own: Vec<&FunctionChange> = significant(comparison, |function| &function.own);
    write_functions(out, comparison, "in the function itself", &own, |function| {
        &function.own
    })?;
    let total: Vec<&FunctionChange> = significant(comparison, |function| &function.total);
    // What changed in itself is told already.
    let total: Vec<&FunctionChange> = total
        .into_iter()
        .filter(|function| function.own.direction.is_none())
        .collect();
    write_functions(out, comparison, "with what it calls", &total, |function| {
        &function.total
    })?;
    writeln!(out)?;
    for line in endings(comparison) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// The lines that end every report of a comparison: how far each side can be trusted.
pub(super) fn endings(comparison: &Comparison) -> Vec<String> {
    let mut lines = vec![
        format!("before: {}", comparison.before.quality),
        format!("after: {}", comparison.after.quality),
    ];
    if comparison.cut_samples > 0 {
        let cut = thousands(comparison.cut_samples);
        lines.push(format!("{cut} stacks were cut: there are too many different ones"));
    }
    lines
}

fn side_text(side: &SideFacts, cores: f64) -> String {
    if side.blocks == 0 && side.length.is_zero() {
        return "nothing is kept".to_owned();
    }
    format!(
        "{} – {}, {} in {} blocks, {cores:.2} CPUs busy",
        time_text(side.start),
        time_text(side.end),
        span_text(side.length),
        side.blocks
    )
}

fn significant(comparison: &Comparison, change: fn(&FunctionChange) -> &Change) -> Vec<&FunctionChange> {
    let mut functions: Vec<&FunctionChange> = comparison
        .functions
        .iter()
        .filter(|function| change(function).direction.is_some())
        .collect();
    functions.sort_by(|left, right| change(right).difference().total_cmp(&change(left).difference()));
    functions
}

/// Services, programs or processes that changed.
fn write_parties(out: &mut impl Write, comparison: &Comparison) -> Result<(), CliError> {
    let changed = comparison
        .parties
        .iter()
        .filter(|party| party.change.direction.is_some());
    let changed: Vec<_> = changed.take(MAX_ROWS).collect();
    if comparison.parties.len() < 2 || changed.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Table::new(headings(comparison.settings.measure, "WHO"));
    for party in changed {
        let name = match &party.party {
            Party::Service(name) => format!("service {name}"),
            Party::Program(name) => format!("program {name}"),
            Party::Process(process) => format!("{} (pid {})", process.name, process.pid),
        };
        table.row(row(&party.change, &name));
    }
    table.write(out)?;
    Ok(())
}

fn write_functions(
    out: &mut impl Write,
    comparison: &Comparison,
    what: &str,
    functions: &[&FunctionChange],
    change: fn(&FunctionChange) -> &Change,
) -> Result<(), CliError> {
    if functions.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{HEADING_STYLE}{what}{HEADING_STYLE:#}")?;
    let mut table = Table::new(headings(comparison.settings.measure, "FUNCTION"));
    for function in functions.iter().take(MAX_ROWS) {
        let party = function.party.and_then(|party| comparison.parties.get(party as usize));
        let owner = party.map_or(String::new(), |party| format!("{}: ", party.party.name()));
        table.row(row(change(function), &format!("{owner}{}", name(&function.frame))));
    }
    table.write(out)?;
    if functions.len() > MAX_ROWS {
        writeln!(out, "and {} more, in --json", functions.len() - MAX_ROWS)?;
    }
    Ok(())
}

fn headings(measure: Measure, last: &str) -> Vec<Cell> {
    let whole = match measure {
        Measure::Cores => "% OF A CPU",
        Measure::Share => "% OF CPU TIME",
    };
    vec![
        Cell::number(whole.to_owned()),
        Cell::number("95 % INTERVAL".to_owned()),
        Cell::number("BEFORE".to_owned()),
        Cell::number("AFTER".to_owned()),
        Cell::text(last),
    ]
}

fn row(change: &Change, name: &str) -> Vec<Cell> {
    let style = match change.direction {
        Some(Direction::Grew) => BAD_STYLE,
        _ => GOOD_STYLE,
    };
    let interval = change.test.map_or(String::new(), |test| {
        let (low, high) = test.interval;
        format!("{:+.2} to {:+.2}", low * 100.0, high * 100.0)
    });
    vec![
        Cell::number(format!("{:+.2}", change.difference() * 100.0)).styled(style),
        Cell::number(interval),
        Cell::number(format!("{:.2}", change.before * 100.0)),
        Cell::number(format!("{:.2}", change.after * 100.0)),
        Cell::long(name),
    ]
}

/// A function with what tells it from others of its name.
fn name(frame: &Frame) -> String {
    let place = match frame.kind {
        FrameKind::Python if !frame.file.is_empty() => &frame.file,
        _ => &frame.module,
    };
    if place.is_empty() {
        frame.function.to_string()
    } else {
        format!("{} ({place})", frame.function)
    }
}
