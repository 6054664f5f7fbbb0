//! What the files of interpreters say, and files that are none or that lie.

use std::fs;
use std::path::{Path, PathBuf};

use profiler_tests::not_run::skip;
use profiler_unwinding::python::{InterpreterObject, PythonError};

/// Objects of Debian's releases below the folder of interpreters: path in it, version, and whether parts of the evaluation
/// loop lie apart from it, where that is for good.
const OBJECTS: [(&str, &str, Option<bool>); 5] = [
    ("bullseye/usr/bin/python3.9", "3.9", Some(true)),
    ("bookworm/usr/bin/python3.11", "3.11.2", Some(true)),
    ("trixie/usr/bin/python3.13", "3.13.5", Some(true)),
    // These are built anew now and then.
    ("forky/usr/bin/python3.14", "3.14", None),
    ("forky/usr/lib/x86_64-linux-gnu/libpython3.15.so.1.0", "3.15", None),
];

fn root(path: &str) -> PathBuf {
    profiler_tests::interpreters::root_of(&profiler_tests::interpreters::folder(), path)
}

/// An interpreter that there is everywhere this is tested.
fn any_interpreter() -> Option<(PathBuf, Vec<u8>)> {
    let path = Path::new("/usr/bin/python3").canonicalize().ok()?;
    let file = fs::read(&path).ok()?;
    Some((path, file))
}

fn read(file: &[u8]) -> Result<Option<InterpreterObject>, PythonError> {
    InterpreterObject::read(file)
}

#[test]
fn parts_of_the_evaluation_loop() {
    for (path, version, has_parts) in OBJECTS {
        let Ok(file) = fs::read(root(path)) else {
            skip(&format!("{path} is not here"));
            continue;
        };
        let object = read(&file).unwrap().unwrap();
        assert!(object.version.to_string().starts_with(version), "{}", object.version);
        let sizes: Vec<u64> = object.eval_ranges.iter().map(|range| range.end - range.start).collect();
        println!("{path}: {}, parts of {sizes:?} bytes", object.version);
        if let Some(has_parts) = has_parts {
            assert_eq!(sizes.len() > 1, has_parts, "{path}: {sizes:?}");
        }
        let all: u64 = sizes.iter().sum();
        assert!((30_000..200_000).contains(&all), "{path}: {sizes:?}");
    }
}

#[test]
fn other_programs_are_none() {
    for path in ["/bin/sh", "/proc/self/exe"] {
        assert_eq!(read(&fs::read(path).unwrap()), Ok(None), "{path}");
    }
    assert!(matches!(read(b"#!/bin/sh"), Err(PythonError::Object(_))));
    assert!(matches!(read(&[]), Err(PythonError::Object(_))));
}

#[test]
fn an_interpreter_cut_anywhere_is_refused_or_whole() {
    let Some((path, file)) = any_interpreter() else {
        skip("there is no /usr/bin/python3");
        return;
    };
    let whole = read(&file).unwrap();
    assert!(whole.is_some(), "{}", path.display());
    for sixteenth in 0..16 {
        let cut = &file[..file.len() / 16 * sixteenth];
        // Section headers, which come last, are not needed.
        match read(cut) {
            Ok(object) => assert!(object.is_none() || object == whole, "{sixteenth}"),
            Err(error) => println!("{sixteenth}/16: {error}"),
        }
    }
}

/// A version that an object states, written over.
fn with_version(version: u32) -> Option<Result<Option<InterpreterObject>, PythonError>> {
    let (_, mut file) = any_interpreter()?;
    let object = read(&file).unwrap().unwrap();
    let hex = 0x0300_00f0 | u32::from(object.version.minor) << 16 | u32::from(object.version.micro?) << 8;
    // It stands in the constants, and from 3.13 on behind the cookie too.
    let (old, new) = (hex.to_le_bytes(), version.to_le_bytes());
    let mut found = 0;
    for at in 0..file.len() - 4 {
        if file[at..].starts_with(&old) {
            file[at..at + 4].copy_from_slice(&new);
            found += 1;
        }
    }
    assert!(found > 0);
    Some(read(&file))
}

#[test]
fn versions_that_are_not_known_are_refused() {
    let check = |version: u32, expect: &str| {
        let Some(found) = with_version(version) else {
            skip("there is no /usr/bin/python3 that states its version");
            return;
        };
        assert_eq!(found.unwrap_err().to_string(), expect);
    };
    check(0x0310_00f0, "Python 3.16.0 is not known (3.8 to 3.15 are)");
    check(0x0400_00f0, "Python 4.0.0 is not known (3.8 to 3.15 are)");
    check(
        0x030e_00b2,
        "Python 3.14.0b2 is a pre-release, whose structures may be any",
    );
    check(
        0,
        "an interpreter of unknown version: older than 3.8, or its version cannot be read",
    );
}
