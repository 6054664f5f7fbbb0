//! Censuses for people.

use std::{cmp::Ordering, io::Write, time::Duration};

use profiler_proto::v1::{Census, CensusDifference, TypeHolders};

use crate::{
    error::CliError,
    output::{
        BAD_STYLE, Cell, GOOD_STYLE, HEADING_STYLE, NOTE_STYLE, Table, bytes_text, percent, printable, thousands,
    },
    span::span_text,
};

/// Most bytes shown of one step of a chain, and of a reason.
const MAX_STEP_BYTES: usize = 160;
const MAX_REASON_BYTES: usize = 400;

/// The types of a census.
pub(super) fn write_census(out: &mut impl Write, census: &Census) -> Result<(), CliError> {
    let right = |heading: &str| Cell::number(heading.to_owned());
    let mut table = Table::new(vec![
        Cell::text("TYPE"),
        right("OBJECTS"),
        right("BYTES"),
        right("SHARE"),
    ]);
    let total = totals(census).1.saturating_add(census.other_bytes);
    let row = |name: &str, objects: u64, bytes: u64| {
        vec![
            Cell::text(name),
            Cell::number(thousands(objects)),
            Cell::number(bytes_text(bytes)),
            Cell::number(percent(bytes, total)),
        ]
    };
    for count in &census.types {
        table.row(row(&count.name, count.objects, count.bytes));
    }
    if census.unlisted_types > 0 {
        let name = format!("({} other types)", thousands(census.unlisted_types.into()));
        table.row(row(&name, census.unlisted_objects, census.unlisted_bytes));
    }
    if census.further_objects > 0 {
        table.row(row(
            "(types not told apart)",
            census.further_objects,
            census.further_bytes,
        ));
    }
    table.row(row("(tables, items, buffers)", census.other_blocks, census.other_bytes));
    table.write(out)?;
    Ok(())
}

/// What changed, and who holds what is new.
pub(super) fn write_difference(out: &mut impl Write, difference: &CensusDifference) -> Result<(), CliError> {
    let right = |heading: &str| Cell::number(heading.to_owned());
    let mut table = Table::new(vec![
        Cell::text("TYPE"),
        right("OBJECTS"),
        right("CHANGE"),
        right("BYTES"),
        right("CHANGE"),
    ]);
    let row = |name: &str, objects: [u64; 2], bytes: [u64; 2]| {
        let style = match bytes[1].cmp(&bytes[0]) {
            Ordering::Greater => BAD_STYLE,
            Ordering::Less => GOOD_STYLE,
            Ordering::Equal => NOTE_STYLE,
        };
        vec![
            Cell::text(name),
            Cell::number(thousands(objects[1])),
            Cell::number(signed(objects, thousands)).styled(style),
            Cell::number(bytes_text(bytes[1])),
            Cell::number(signed(bytes, bytes_text)).styled(style),
        ]
    };
    for change in &difference.changes {
        let objects = [change.objects_before, change.objects_after];
        table.row(row(&change.name, objects, [change.bytes_before, change.bytes_after]));
    }
    table.row(row(
        "(tables, items, buffers)",
        [difference.other_blocks_before, difference.other_blocks_after],
        [difference.other_bytes_before, difference.other_bytes_after],
    ));
    table.write(out)?;
    if difference.unlisted_changes > 0 {
        writeln!(out, "and {} types more", thousands(difference.unlisted_changes.into()))?;
    }
    for holders in &difference.holders {
        write_holders(out, holders)?;
    }
    Ok(())
}

fn write_holders(out: &mut impl Write, holders: &TypeHolders) -> Result<(), CliError> {
    let (name, style) = (printable(&holders.name, MAX_STEP_BYTES), HEADING_STYLE);
    writeln!(
        out,
        "\n{style}who holds new objects of {name}{style:#}, by {} of them:",
        holders.searched
    )?;
    let searched = u64::from(holders.searched);
    for chain in &holders.chains {
        let share = percent(chain.objects.into(), searched);
        let steps: Vec<_> = chain.steps.iter().map(|step| printable(step, MAX_STEP_BYTES)).collect();
        let beginning = if chain.rooted { "" } else { "not found, then " };
        writeln!(out, "  {share:>6}  {beginning}{}", steps.join(" > "))?;
    }
    if holders.without_holder > 0 {
        let share = percent(holders.without_holder.into(), searched);
        writeln!(
            out,
            "  {share:>6}  not found: a local variable, C code, or an object of more than 512 bytes"
        )?;
    }
    Ok(())
}

/// Of whom, how much was read, and what is missing.
pub(super) fn write_quality(out: &mut impl Write, census: &Census) -> Result<(), CliError> {
    let (objects, bytes) = totals(census);
    let version = printable(&census.python_version, MAX_STEP_BYTES);
    writeln!(
        out,
        "\nprocess {}, Python {version}: {} objects in {}, {} other blocks in {}, of {} pools",
        census.pid,
        thousands(objects),
        bytes_text(bytes),
        thousands(census.other_blocks),
        bytes_text(census.other_bytes),
        thousands(census.pools),
    )?;
    let span = |span: Option<prost_types::Duration>| {
        let span = span.and_then(|span| Duration::try_from(span).ok());
        span.map(span_text)
    };
    if let (Some(duration), Some(busy)) = (span(census.duration), span(census.busy)) {
        let read = bytes_text(census.memory_bytes_read);
        writeln!(out, "{read} read in {duration}, {busy} of it on a CPU")?;
    }
    for reason in &census.partial {
        let style = NOTE_STYLE;
        writeln!(out, "{style}partial:{style:#} {}", printable(reason, MAX_REASON_BYTES))?;
    }
    Ok(())
}

fn totals(census: &Census) -> (u64, u64) {
    let start = (
        census.unlisted_objects.saturating_add(census.further_objects),
        census.unlisted_bytes.saturating_add(census.further_bytes),
    );
    census.types.iter().fold(start, |(objects, bytes), count| {
        (objects.saturating_add(count.objects), bytes.saturating_add(count.bytes))
    })
}

fn signed([before, after]: [u64; 2], text: fn(u64) -> String) -> String {
    match after.cmp(&before) {
        Ordering::Greater => format!("+{}", text(after - before)),
        Ordering::Less => format!("-{}", text(before - after)),
        Ordering::Equal => "0".to_owned(),
    }
}
