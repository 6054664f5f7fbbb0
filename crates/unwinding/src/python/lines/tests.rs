//! Line tables against what the interpreters that made them say of them: recorded, and of those that are here.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use profiler_tests::{interpreters, not_run::skip};

use super::*;

/// Files of the standard library that each interpreter compiles: all of them if this variable is set.
const ALL: &str = "PROFILER_TEST_ALL_LINES";
const FEW_FILES: &str = "12";

fn format_of(minor: u32) -> LineFormat {
    match minor {
        ..=9 => LineFormat::Pairs,
        10 => LineFormat::Ranges,
        _ => LineFormat::Locations,
    }
}

/// Holds what `lines.py` said of one code object against the decoder. The number of offsets that were looked at.
fn check(minor: u32, said: &str) -> u32 {
    let fields: Vec<&str> = said.split(' ').collect();
    let [name, first_line, length, table, runs] = fields[..] else {
        panic!("{said}");
    };
    let length: u32 = length.parse().unwrap();
    let table: Vec<u8> = (0..table.len() / 2)
        .map(|at| u8::from_str_radix(&table[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let lines = Lines::decode(format_of(minor), &table, first_line.parse().unwrap(), length);
    assert_eq!(lines.end(), length, "{name} of 3.{minor}");
    let mut runs: Vec<(u32, Option<u32>)> = runs
        .split(',')
        .filter_map(|run| {
            let (start, line) = run.split_once(':')?;
            // From 3.11 on, a module begins in line 0, which there is not.
            let line = line.parse().ok().filter(|line| *line != 0);
            Some((start.parse().unwrap(), line))
        })
        .collect();
    runs.push((length, None));
    let mut looked_at = 0;
    for pair in runs.windows(2) {
        for offset in (pair[0].0..pair[1].0).step_by(2) {
            assert_eq!(lines.at(offset), pair[0].1, "offset {offset} of {name} of 3.{minor}");
            looked_at += 1;
        }
    }
    assert_eq!(lines.at(length), None);
    looked_at
}

#[test]
fn recorded_tables() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/lines");
    for minor in 8..=15 {
        let recorded = fs::read_to_string(format!("{folder}/3.{minor}.txt")).unwrap();
        let looked_at: u32 = recorded.lines().map(|said| check(minor, said)).sum();
        assert!(looked_at > 500, "{looked_at} of 3.{minor}");
    }
}

#[test]
fn tables_of_the_standard_library() {
    let script = include_str!("../../../tests/python/lines.py");
    let files = if env::var_os(ALL).is_some() {
        "1000000"
    } else {
        FEW_FILES
    };
    let found = interpreters::all();
    for (name, reason) in &found.broken {
        skip(&format!("{name}: {reason}"));
    }
    for interpreter in &found.interpreters {
        let mut command = interpreter.command();
        command.args(["-W", "ignore", "-c", script, files]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (mut codes, mut looked_at) = (0, 0);
        for said in BufReader::new(child.stdout.take().unwrap()).lines() {
            looked_at += u64::from(check(interpreter.version.minor, &said.unwrap()));
            codes += 1;
        }
        assert!(child.wait().unwrap().success(), "{}", interpreter.name);
        println!(
            "{}: {codes} code objects, {looked_at} offsets, all as it says",
            interpreter.name
        );
        assert!(codes > 50, "{}", interpreter.name);
    }
}

#[test]
fn no_line_of_what_is_not_covered() {
    for format in [LineFormat::Ranges, LineFormat::Locations] {
        let lines = Lines::decode(format, &[], 7, 20);
        assert_eq!((lines.at(0), lines.end()), (None, 0));
    }
    let lines = Lines::decode(LineFormat::Pairs, &[], 7, 20);
    assert_eq!((lines.at(18), lines.at(20)), (Some(7), None));
}

#[test]
fn damaged_locations_end_the_table() {
    let check = |table: &[u8], expect: &[(u32, u32)], end: u32| {
        let lines = Lines::decode(LineFormat::Locations, table, 7, 20);
        assert_eq!((&lines.runs[..], lines.end()), (expect, end), "{table:x?}");
    };
    // A short entry of two units, then one whose column is cut off.
    check(&[0x81, 0x00, 0x80], &[(0, 7)], 4);
    // Highest bit missing.
    check(&[0x81, 0x00, 0x01, 0x00], &[(0, 7)], 4);
    // A number of lines that never ends.
    check(
        &[0x81, 0x00, 0xe8, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f],
        &[(0, 7)],
        4,
    );
    // Back behind the first line of the file: no line.
    check(&[0xe8, 0x3f, 0x81, 0x00], &[(0, 0)], 6);
}

#[test]
fn any_bytes_are_taken_apart() {
    let mut state = 1_u32;
    for length in 0..200 {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        for format in [LineFormat::Pairs, LineFormat::Ranges, LineFormat::Locations] {
            let lines = Lines::decode(format, &bytes, u32::MAX, 1 << 20);
            assert!(lines.runs.is_sorted_by_key(|(start, _)| *start));
        }
    }
}
