//! Names of compiled programs against those that binutils gives.
#![cfg(test)]
#![forbid(unsafe_code)]

mod support;

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use profiler_symbolizer::{Limits, ObjectSymbols, demangle};

use self::support::{FileSource, Workshop, is_available, output};

/// A frame as both sides give it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    function: String,
    file: String,
    line: u32,
}

/// Every `step`th address of the functions of a program, by its symbol table.
fn addresses(program: &Path, step: usize) -> Vec<u64> {
    let symbols = output(Command::new("nm").args(["--defined-only", "--print-size"]).arg(program));
    let mut addresses = Vec::new();
    for line in symbols.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [start, size, "t" | "T" | "w" | "W", _] = fields[..] {
            let (start, size) = (
                u64::from_str_radix(start, 16).unwrap(),
                u64::from_str_radix(size, 16).unwrap(),
            );
            addresses.extend((start..start + size).step_by(step));
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// What binutils says: for each address its frames, innermost first.
fn expected(program: &Path, addresses: &[u64]) -> Vec<Vec<Named>> {
    let mut command = Command::new("addr2line");
    command
        .args(["-a", "-f", "-i", "-e"])
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let lines: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()).unwrap());
    let result = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8_lossy(&result.stdout).into_owned();
    let mut frames: Vec<Vec<Named>> = Vec::new();
    let mut lines = text.lines();
    while let Some(function) = lines.next() {
        if function.starts_with("0x") {
            frames.push(Vec::new());
            continue;
        }
        let place = lines.next().unwrap();
        let place = place.split(" (discriminator").next().unwrap();
        let (file, line) = place.rsplit_once(':').unwrap();
        let file = if file == "??" { "" } else { file };
        let (function, file) = (demangle(function.as_bytes()), normalized(file));
        frames.last_mut().unwrap().push(Named {
            function,
            file,
            line: line.parse().unwrap_or(0),
        });
    }
    frames
}

/// A path without `.` and `..`.
fn normalized(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn resolved(program: &Path, addresses: &[u64]) -> Vec<Vec<Named>> {
    let source = FileSource::open(program);
    let mut symbols = ObjectSymbols::load(&source, &Limits::default()).unwrap();
    assert!(symbols.functions_error().is_none());
    let resolution = symbols.resolve(&source, addresses);
    assert_eq!(resolution.debug_error, None);
    let frames = resolution.frames.iter().map(|frames| {
        let (outermost, inlined) = frames.split_last().unwrap();
        assert!(!outermost.inlined && inlined.iter().all(|frame| frame.inlined));
        let named = frames.iter().map(|frame| Named {
            function: frame.function.to_string(),
            file: normalized(&frame.file),
            line: frame.line,
        });
        named.collect()
    });
    frames.collect()
}

/// Every address of the program must have the names, files and lines that binutils gives, at every level.
fn check_against_binutils(program: &Path) {
    let addresses = addresses(program, 3);
    assert!(addresses.len() > 100, "{} addresses", addresses.len());
    let (expected, resolved) = (expected(program, &addresses), resolved(program, &addresses));
    assert_eq!(expected.len(), addresses.len());
    let mut differing = 0;
    for ((address, expected), resolved) in addresses.iter().zip(&expected).zip(&resolved) {
        if !agree(expected, resolved) {
            differing += 1;
            if differing <= 10 {
                println!("{address:#x}\n  expected {expected:#?}\n  resolved {resolved:#?}");
            }
        }
    }
    let inlined = resolved.iter().filter(|frames| frames.len() > 1).count();
    println!(
        "{}: {} addresses, {inlined} with inlined calls",
        program.display(),
        addresses.len()
    );
    assert_eq!(
        differing,
        0,
        "of {} addresses of {}",
        addresses.len(),
        program.display()
    );
    assert!(inlined > 0);
}

/// Whether both say the same, but for what binutils is known not to say.
fn agree(expected: &[Named], resolved: &[Named]) -> bool {
    let last = expected.len().saturating_sub(1);
    let outermost = expected.last().map(|frame| &frame.function);
    expected.len() == resolved.len()
        && expected
            .iter()
            .zip(resolved)
            .enumerate()
            .all(|(level, (expected, resolved))| {
                // Binutils takes the symbol for functions without a linkage name, as we do, but for the innermost frame
                // instead of the outermost, which has it.
                let identifier = expected.function.split('<').next().unwrap_or_default();
                let same_function = expected.function == resolved.function
                    || (level == last && resolved.function.contains(identifier))
                    || (level == 0 && Some(&expected.function) == outermost && !resolved.function.is_empty());
                // Where no line is known it prints the name of the unit as the file.
                let same_file = expected.file == resolved.file || expected.line == 0;
                same_function && same_file && expected.line == resolved.line
            })
}

fn check(compiler: &str, source: &str, options: &[&str]) {
    let workshop = Workshop::new();
    if is_available("addr2line")
        && is_available("nm")
        && let Some(program) = workshop.compile(compiler, source, options)
    {
        check_against_binutils(&program);
    }
}

#[test]
fn c_with_dwarf_5() {
    check("cc", "calls.c", &["-O2", "-gdwarf-5"]);
}

#[test]
fn c_with_dwarf_4() {
    check("cc", "calls.c", &["-O2", "-gdwarf-4"]);
}

#[test]
fn c_with_dwarf_3() {
    check("cc", "calls.c", &["-O2", "-gdwarf-3", "-gstrict-dwarf"]);
}

#[test]
fn c_with_compressed_sections() {
    check("cc", "calls.c", &["-O2", "-g", "-gz=zlib"]);
}

#[test]
fn cpp() {
    check("g++", "shapes.cpp", &["-O2", "-g"]);
}

#[test]
fn cpp_not_optimized() {
    check("g++", "shapes.cpp", &["-O1", "-g"]);
}

#[test]
fn rust_with_legacy_names() {
    check("rustc", "service.rs", &["-O", "-g"]);
}

#[test]
fn rust_with_v0_names() {
    check("rustc", "service.rs", &["-O", "-g", "-Csymbol-mangling-version=v0"]);
}

#[test]
fn rust_with_lines_only() {
    check("rustc", "service.rs", &["-O", "-Cdebuginfo=line-tables-only"]);
}
