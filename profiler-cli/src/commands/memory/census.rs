//! `memory census`: the objects of a Python process by type, and which of them become more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read as _, Write as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use profiler_proto::v1::{Census, CensusDifference, CensusRequest, CensusResponse, TypeChange, TypeCount};

use super::{
    document::{KeptCensus, document},
    report,
};
use crate::{
    args::{CensusArgs, Connection},
    client::Client,
    commands::connect,
    error::CliError,
    output::{bytes_text, write_json},
    span::span_text,
};

/// Types that people are shown.
const DEFAULT_TOP: u32 = 20;
/// Types named of those that are not compared.
const NAMED_TYPES: usize = 3;
/// Largest file with a census that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Takes a census, or compares two.
pub(crate) async fn run(connection: &Connection, args: &CensusArgs) -> Result<ExitCode, CliError> {
    if let Some([before, after]) = args.compare.as_deref() {
        return compare(args, before, after);
    }
    let client = connect(connection).await?;
    match args.watch {
        Some(interval) => watch(&client, args, interval).await,
        None => once(&client, args).await,
    }
}

async fn once(client: &Client, args: &CensusArgs) -> Result<ExitCode, CliError> {
    let response = client.census(request(args, args.diff)).await?;
    if args.diff && response.difference.is_none() {
        return Err(CliError::NoEarlierCensus {
            pid: args.pid.unwrap_or_default(),
        });
    }
    show(args, &response)?;
    Ok(ExitCode::SUCCESS)
}

async fn watch(client: &Client, args: &CensusArgs, interval: Duration) -> Result<ExitCode, CliError> {
    client.census(request(args, false)).await?;
    // Who reads JSON need not be told.
    if !args.json {
        let mut messages = anstream::stderr().lock();
        writeln!(
            messages,
            "the first census is taken; what changed is shown every {}",
            span_text(interval)
        )?;
    }
    loop {
        tokio::time::sleep(interval).await;
        let response = client.census(request(args, true)).await?;
        if args.json {
            let mut out = io::stdout().lock();
            serde_json::to_writer(&mut out, &document(&response))?;
            out.write_all(b"\n")?;
            out.flush()?;
        } else {
            show(args, &response)?;
            writeln!(anstream::stdout().lock())?;
        }
    }
}

fn request(args: &CensusArgs, compare: bool) -> CensusRequest {
    let most_types = match (args.top, args.json) {
        (Some(top), _) => top,
        (None, true) => 0,
        (None, false) => DEFAULT_TOP,
    };
    CensusRequest {
        pid: args.pid.unwrap_or_default(),
        compare,
        holders: compare,
        most_types,
    }
}

fn show(args: &CensusArgs, response: &CensusResponse) -> Result<(), CliError> {
    if args.json {
        return write_json(&document(response));
    }
    let census = response.census.clone().unwrap_or_default();
    let mut out = anstream::stdout().lock();
    match &response.difference {
        Some(difference) => report::write_difference(&mut out, difference)?,
        None => report::write_census(&mut out, &census)?,
    }
    report::write_quality(&mut out, &census)
}

fn compare(args: &CensusArgs, before: &Path, after: &Path) -> Result<ExitCode, CliError> {
    let [mut before, mut after] = [read(before)?, read(after)?];
    let not_compared = [
        leave_out(&before, "before", &mut after, "after"),
        leave_out(&after, "after", &mut before, "before"),
    ];
    let top = args.top.unwrap_or(if args.json { u32::MAX } else { DEFAULT_TOP });
    let difference = difference(&before, &after, top as usize);
    let of_before = before.partial.iter();
    after
        .partial
        .extend(of_before.map(|reason| format!("the census before did not show all: {reason}")));
    after.partial.extend(not_compared.into_iter().flatten());
    let response = CensusResponse {
        difference: Some(difference),
        census: Some(after),
    };
    show(args, &response)?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a census that `--json` wrote.
fn read(path: &Path) -> Result<Census, CliError> {
    let failed = |source| CliError::ReadFile {
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(failed(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is larger than any census",
        )));
    }
    let kept: KeptCensus = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    Ok(kept.into())
}

/// Leaves out of a census the types that another one does not list, if that one does not list all it has: they may have been
/// there as well, and are neither new nor gone. Says so if there are any.
fn leave_out(shortened: &Census, its_name: &str, other: &mut Census, other_name: &str) -> Option<String> {
    if shortened.unlisted_types == 0 && shortened.further_objects == 0 {
        return None;
    }
    let listed: BTreeSet<&str> = shortened.types.iter().map(|count| &*count.name).collect();
    let is_unlisted = |count: &mut TypeCount| !listed.contains(&*count.name);
    let mut left_out: Vec<TypeCount> = other.types.extract_if(.., is_unlisted).collect();
    left_out.sort_by_key(|count| std::cmp::Reverse(count.bytes));
    let largest = left_out.iter().take(NAMED_TYPES);
    let largest: Vec<String> = largest
        .map(|count| format!("{} with {}", count.name, bytes_text(count.bytes)))
        .collect();
    let text = format!(
        "not all types of the census {other_name} are compared: the one {its_name} does not list {} of them (taken without --top, \
         it lists all that it has); the largest: {}",
        left_out.len(),
        largest.join(", ")
    );
    (!left_out.is_empty()).then_some(text)
}

/// What changed, by growth of bytes.
fn difference(before: &Census, after: &Census, top: usize) -> CensusDifference {
    let mut changes: BTreeMap<&str, TypeChange> = BTreeMap::new();
    let new = |name: &str| TypeChange {
        name: name.to_owned(),
        ..TypeChange::default()
    };
    for count in &before.types {
        let change = changes.entry(&count.name).or_insert_with(|| new(&count.name));
        (change.objects_before, change.bytes_before) = (count.objects, count.bytes);
    }
    for count in &after.types {
        let change = changes.entry(&count.name).or_insert_with(|| new(&count.name));
        (change.objects_after, change.bytes_after) = (count.objects, count.bytes);
    }
    let mut changes: Vec<TypeChange> = changes.into_values().collect();
    changes.retain(|change| (change.objects_before, change.bytes_before) != (change.objects_after, change.bytes_after));
    changes.sort_by_key(|change| std::cmp::Reverse(i128::from(change.bytes_after) - i128::from(change.bytes_before)));
    let unlisted_changes = changes.len().saturating_sub(top) as u32;
    changes.truncate(top);
    CensusDifference {
        earlier_time: before.time,
        changes,
        unlisted_changes,
        other_blocks_before: before.other_blocks,
        other_blocks_after: after.other_blocks,
        other_bytes_before: before.other_bytes,
        other_bytes_after: after.other_bytes,
        holders: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn census(types: &[(&str, u64, u64)]) -> Census {
        Census {
            pid: 7,
            python_version: "3.12.1".to_owned(),
            types: types
                .iter()
                .map(|(name, objects, bytes)| TypeCount {
                    name: (*name).to_owned(),
                    objects: *objects,
                    bytes: *bytes,
                })
                .collect(),
            other_blocks: 5,
            other_bytes: u64::MAX,
            ..Census::default()
        }
    }

    fn written(census: Census) -> Census {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let response = CensusResponse {
            census: Some(census),
            difference: None,
        };
        let json = serde_json::to_vec(&document(&response)).unwrap();
        file.write_all(&json).unwrap();
        read(file.path()).unwrap()
    }

    #[test]
    fn files_are_compared_by_type() {
        let before = written(census(&[("dict", 1, 64), ("a\x1b", 3, 9), ("same", 1, 1)]));
        let after = written(census(&[("dict", 60_001, u64::MAX), ("same", 1, 1)]));
        assert_eq!(before.other_bytes, u64::MAX);
        let found = difference(&before, &after, 1);
        assert_eq!((found.changes.len(), found.unlisted_changes), (1, 1));
        assert_eq!(
            (&*found.changes[0].name, found.changes[0].objects_after),
            ("dict", 60_001)
        );
        assert_eq!(difference(&after, &before, 9).changes[0].name, "a\x1b");
    }

    #[test]
    fn types_that_may_be_unlisted_are_neither_new_nor_gone() {
        let all = || census(&[("dict", 9, 900), ("list", 8, 800), ("a\x1b", 7, 700), ("str", 2, 5)]);
        let mut short = census(&[("dict", 5, 500)]);
        assert_eq!(leave_out(&short, "before", &mut all(), "after"), None, "it lists all");
        short.unlisted_types = 3;
        let short = written(short);
        let mut after = all();
        let told = leave_out(&short, "before", &mut after, "after").unwrap();
        assert!(
            told.starts_with("not all types of the census after are compared: the one before does not list 3 of them")
                && told.ends_with("list with 800 B, a\x1b with 700 B, str with 5 B"),
            "{told}"
        );
        let found = difference(&short, &after, 9);
        assert_eq!((found.changes.len(), found.unlisted_changes), (1, 0));
        assert_eq!(
            (found.changes[0].bytes_before, found.changes[0].bytes_after),
            (500, 900)
        );
        assert_eq!(leave_out(&short, "before", &mut after, "after"), None);
        // What was not told apart has no names either.
        let mut merged = census(&[("dict", 5, 500), ("list", 8, 800), ("str", 2, 5)]);
        merged.further_objects = 4;
        let told = leave_out(&written(merged), "after", &mut all(), "before").unwrap();
        assert!(
            told.contains("the census before") && told.contains("not list 1 of"),
            "{told}"
        );
    }

    #[test]
    fn what_is_no_census_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"{\"pid\": 7}").unwrap();
        assert!(matches!(read(file.path()), Err(CliError::ReadFile { .. })));
        assert!(matches!(
            read(Path::new("/nonexistent")),
            Err(CliError::ReadFile { .. })
        ));
    }
}
