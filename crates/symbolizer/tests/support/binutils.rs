//! What binutils says of a program, and the program's file as the symbolizer reads it.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
};

use profiler_symbolizer::{ReadAt, demangle};

/// A file, read with `pread`.
#[derive(Debug)]
pub(crate) struct FileSource {
    file: File,
    length: u64,
}

impl FileSource {
    pub(crate) fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let length = file.metadata().unwrap().len();
        Self { file, length }
    }
}

impl ReadAt for FileSource {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, offset)
    }
}

/// The output of a command that must succeed.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A frame as both sides give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) function: String,
    pub(crate) file: String,
    pub(crate) line: u32,
}

/// Addresses compared in one program; binutils takes a second for as many.
const MOST_ADDRESSES: usize = 20_000;

/// Every `step`th address, or fewer, of the functions of a program, by its symbol table.
pub(crate) fn addresses(program: &Path, step: usize) -> Vec<u64> {
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
    // Not a divisor of the usual alignments, so that all parts of functions are met.
    let thinned = addresses.len().div_ceil(MOST_ADDRESSES) | 1;
    addresses.into_iter().step_by(thinned).collect()
}

/// What binutils says: for each address its frames, innermost first.
pub(crate) fn expected(program: &Path, addresses: &[u64]) -> Vec<Vec<Named>> {
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
pub(crate) fn normalized(path: &str) -> String {
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
