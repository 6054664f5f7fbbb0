//! Objects that lie: nothing may panic, run for long or take memory without end.
#![cfg(test)]
#![forbid(unsafe_code)]

mod support;

use std::{
    fs, io,
    time::{Duration, Instant},
};

use profiler_symbolizer::{DebugError, ElfError, Limits, ObjectSymbols, ReadAt};

use self::support::Workshop;

/// Work for one batch here: little, so that what runs into it does so in time.
const EFFORT: u64 = 2_000_000;

/// Pseudo-random numbers that are the same in each run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Changes some bytes, each in a way that breaks parsers: small and huge numbers, flipped bits, copied blocks.
fn mutate(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    for _ in 0..1 + numbers.below(12) {
        let at = numbers.below(bytes.len());
        match numbers.below(6) {
            0 => bytes[at] ^= 1 << numbers.below(8),
            1 => bytes[at] = numbers.next() as u8,
            2 => bytes[at] = 0xff,
            3 => bytes[at] = 0,
            4 => {
                let length = numbers.below(64).min(bytes.len() - at);
                let from = numbers.below(bytes.len() - length);
                bytes.copy_within(from..from + length, at);
            }
            _ => {
                let length = 8.min(bytes.len() - at);
                let value = [u64::MAX, 1 << 63, 1 << 32, 0x7fff_ffff][numbers.below(4)];
                bytes[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
            }
        }
    }
    if numbers.below(20) == 0 {
        bytes.truncate(numbers.below(bytes.len()) + 1);
    }
}

/// Loads and resolves; only that it ends matters.
fn digest(bytes: &[u8], addresses: &[u64]) -> usize {
    let limits = Limits {
        effort: EFFORT,
        functions: 1 << 16,
        unit_ranges: 1 << 12,
        ..Limits::default()
    };
    let Ok(mut object) = ObjectSymbols::load(&bytes.to_vec(), &limits) else {
        return 0;
    };
    let resolution = object.resolve(&bytes.to_vec(), addresses);
    assert_eq!(resolution.frames.len(), addresses.len());
    assert!(object.memory_bytes() < 8 << 20);
    resolution.frames.iter().map(|frames| frames.len()).sum()
}

/// Mutates parts of the program that starts with `focus`, and all of it.
fn survive(program: &[u8], sections: &[(usize, usize)], seed: u64, time: Duration) {
    let mut numbers = Numbers(seed);
    let start = Instant::now();
    let (mut runs, mut frames, mut slowest) = (0, 0, Duration::ZERO);
    while start.elapsed() < time {
        let mut bytes = program.to_vec();
        // Headers and debug sections are small parts of the file: aim at them most of the time.
        match numbers.below(4) {
            0 => mutate(&mut bytes, &mut numbers),
            1 => {
                let mut head = bytes[..64].to_vec();
                mutate(&mut head, &mut numbers);
                bytes[..head.len()].copy_from_slice(&head);
            }
            _ => {
                let (offset, size) = sections[numbers.below(sections.len())];
                let mut section = bytes[offset..offset + size].to_vec();
                mutate(&mut section, &mut numbers);
                bytes[offset..offset + section.len()].copy_from_slice(&section);
            }
        }
        let addresses: Vec<u64> = (0..64).map(|_| numbers.next() % 0x8000).collect();
        let one = Instant::now();
        frames += digest(&bytes, &addresses);
        slowest = slowest.max(one.elapsed());
        runs += 1;
    }
    println!("{runs} mutations, {frames} frames, slowest {slowest:?}");
    assert!(runs > 20 && frames > 0);
}

/// Offsets and sizes of the sections that hold symbols and debug information, and the section headers themselves.
fn interesting_sections(program: &[u8]) -> Vec<(usize, usize)> {
    let number = |at: usize, length: usize| {
        program[at..at + length]
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | usize::from(*byte))
    };
    let (table, count) = (number(40, 8), number(60, 2));
    let mut sections = vec![(table, count * 64)];
    for index in 0..count {
        let header = table + index * 64;
        let (kind, flags) = (number(header + 4, 4), number(header + 8, 8));
        let (offset, size) = (number(header + 24, 8), number(header + 32, 8));
        // Not loaded and with bytes (debug information, symbols, names), or dynamic symbols, notes and relocations.
        if size > 0 && kind != 8 && (flags & 2 == 0 || matches!(kind, 4 | 7 | 11)) {
            sections.push((offset, size));
        }
    }
    sections
}

fn survive_program(compiler: &str, source: &str, options: &[&str], seed: u64) {
    let workshop = Workshop::new();
    if let Some(path) = workshop.compile(compiler, source, options) {
        let program = fs::read(path).unwrap();
        assert!(digest(&program, &(0x1000..0x2000).collect::<Vec<u64>>()) > 0);
        survive(&program, &interesting_sections(&program), seed, Duration::from_secs(3));
    }
}

#[test]
fn mutated_dwarf_5() {
    survive_program("cc", "calls.c", &["-O2", "-g"], 1);
}

#[test]
fn mutated_dwarf_4() {
    survive_program("cc", "calls.c", &["-O2", "-gdwarf-4"], 2);
}

#[test]
fn mutated_compressed() {
    survive_program("cc", "calls.c", &["-O2", "-g", "-gz=zlib"], 3);
}

#[test]
fn mutated_cpp() {
    survive_program("g++", "shapes.cpp", &["-O2", "-g"], 4);
}

/// A sparse file that claims a length far beyond memory, with a plausible start.
struct Sparse {
    start: Vec<u8>,
    length: u64,
}

impl ReadAt for Sparse {
    fn len(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.length.saturating_sub(offset) as usize);
        buffer[..count].fill(0);
        let known = self.start.read_at(offset, &mut buffer[..count])?;
        Ok(known.max(count))
    }
}

/// An object of one section of each given kind, all of them as large as the file.
fn sparse_object(sections: &[(&str, u32, u64)], length: u64) -> Sparse {
    let mut names = vec![0];
    let mut headers = vec![[0; 64]];
    let mut header = |name: u32, kind: u32, flags: u64, offset: u64, size: u64| {
        let mut bytes = [0; 64];
        bytes[0..4].copy_from_slice(&name.to_le_bytes());
        bytes[4..8].copy_from_slice(&kind.to_le_bytes());
        bytes[8..16].copy_from_slice(&flags.to_le_bytes());
        bytes[24..32].copy_from_slice(&offset.to_le_bytes());
        bytes[32..40].copy_from_slice(&size.to_le_bytes());
        headers.push(bytes);
    };
    for (name, kind, flags) in sections {
        header(names.len() as u32, *kind, *flags, 4096, length - 4096);
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    header(0, 3, 0, 2048, names.len() as u64);
    let mut start = vec![0; 4096];
    start[..6].copy_from_slice(b"\x7fELF\x02\x01");
    start[18] = 62;
    start[40..48].copy_from_slice(&64_u64.to_le_bytes());
    start[58..60].copy_from_slice(&64_u16.to_le_bytes());
    start[60..62].copy_from_slice(&(headers.len() as u16).to_le_bytes());
    start[62..64].copy_from_slice(&(headers.len() as u16 - 1).to_le_bytes());
    start[64..64 + headers.len() * 64].copy_from_slice(headers.as_flattened());
    start[2048..2048 + names.len()].copy_from_slice(&names);
    Sparse { start, length }
}

const SYMTAB: u32 = 2;
const PROGBITS: u32 = 1;
const COMPRESSED: u64 = 1 << 11;

#[test]
fn huge_symbol_table() {
    let object = sparse_object(&[(".symtab", SYMTAB, 0)], 1 << 42);
    let mut object = (ObjectSymbols::load(&object, &Limits::default()).unwrap(), object);
    assert!(matches!(
        object.0.functions_error(),
        Some(ElfError::TooMany {
            what: "bytes of symbols",
            ..
        })
    ));
    assert!(
        object
            .0
            .resolve(&object.1, &[0, 4096, u64::MAX])
            .frames
            .iter()
            .all(|frames| frames.is_empty())
    );
}

#[test]
fn huge_compressed_section() {
    let mut object = sparse_object(&[(".debug_info", PROGBITS, COMPRESSED)], 1 << 42);
    object.start.resize(4096 + 24, 0);
    object.start[4096] = 1;
    object.start[4096 + 8..4096 + 16].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    let limits = Limits {
        debug_bytes: u64::MAX,
        ..Limits::default()
    };
    let mut symbols = ObjectSymbols::load(&object, &limits).unwrap();
    let resolution = symbols.resolve(&object, &[4096]);
    assert!(
        matches!(resolution.debug_error, Some(DebugError::CompressedTooLarge { .. })),
        "{resolution:?}"
    );
}

#[test]
fn huge_debug_sections_cost_effort_only() {
    let names = [
        ".debug_info",
        ".debug_abbrev",
        ".debug_line",
        ".debug_str",
        ".debug_rnglists",
    ];
    let object = sparse_object(&names.map(|name| (name, PROGBITS, 0)), 1 << 42);
    let limits = Limits {
        debug_bytes: u64::MAX,
        ..Limits::default()
    };
    let mut symbols = ObjectSymbols::load(&object, &limits).unwrap();
    let resolution = symbols.resolve(&object, &(0..1000).collect::<Vec<u64>>());
    assert!(resolution.frames.iter().all(|frames| frames.is_empty()));
}

#[test]
fn debug_sections_beyond_the_limit_are_not_read() {
    let object = sparse_object(&[(".debug_info", PROGBITS, 0)], 1 << 42);
    let limits = Limits {
        debug_bytes: 1 << 40,
        ..Limits::default()
    };
    let mut symbols = ObjectSymbols::load(&object, &limits).unwrap();
    let error = symbols.resolve(&object, &[0]).debug_error.unwrap();
    assert_eq!(
        error,
        DebugError::TooLarge {
            bytes: (1 << 42) - 4096,
            limit: 1 << 40
        }
    );
    assert!(error.is_lasting());
    symbols.ignore_debug_info();
    assert_eq!(symbols.resolve(&object, &[0]).debug_error, None);
}

/// Bytes written as the tables of DWARF are.
#[derive(Default)]
struct Dwarf {
    info: Vec<u8>,
    abbreviations: Vec<u8>,
    ranges: Vec<u8>,
}

impl Dwarf {
    /// An object with code at 0x1000–0x3000 and these sections.
    fn object(&self) -> Vec<u8> {
        let parts: [(&str, u64, &[u8]); 4] = [
            (".text", 6, &[0; 0x2000]),
            (".debug_info", 0, &self.info),
            (".debug_abbrev", 0, &self.abbreviations),
            (".debug_ranges", 0, &self.ranges),
        ];
        let mut names = vec![0];
        let mut bytes = vec![0; 4096];
        let mut headers = vec![0; 64];
        for (name, flags, content) in parts {
            let mut header = [0; 64];
            header[0..4].copy_from_slice(&(names.len() as u32).to_le_bytes());
            header[4..8].copy_from_slice(&PROGBITS.to_le_bytes());
            header[8..16].copy_from_slice(&u64::to_le_bytes(flags));
            header[16..24].copy_from_slice(&(if flags == 0 { 0_u64 } else { 0x1000 }).to_le_bytes());
            header[24..32].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
            headers.extend_from_slice(&header);
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            bytes.extend_from_slice(content);
        }
        let mut header = [0; 64];
        header[4..8].copy_from_slice(&3_u32.to_le_bytes());
        header[24..32].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(names.len() as u64).to_le_bytes());
        headers.extend_from_slice(&header);
        bytes.extend_from_slice(&names);
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18] = 62;
        let table = bytes.len() as u64;
        bytes[40..48].copy_from_slice(&table.to_le_bytes());
        bytes[58..60].copy_from_slice(&64_u16.to_le_bytes());
        bytes[60..62].copy_from_slice(&6_u16.to_le_bytes());
        bytes[62..64].copy_from_slice(&5_u16.to_le_bytes());
        bytes.extend_from_slice(&headers);
        bytes
    }

    /// A unit of version 4 with these entries.
    fn unit(&mut self, entries: &[u8]) {
        self.info.extend_from_slice(&(entries.len() as u32 + 7).to_le_bytes());
        self.info.extend_from_slice(&[4, 0, 0, 0, 0, 0, 8]);
        self.info.extend_from_slice(entries);
    }
}

fn resolve_within_effort(dwarf: &Dwarf, expected: Option<DebugError>) {
    let object = dwarf.object();
    let limits = Limits {
        effort: EFFORT,
        ..Limits::default()
    };
    let mut symbols = ObjectSymbols::load(&object, &limits).unwrap();
    let start = Instant::now();
    let resolution = symbols.resolve(&object, &(0x1000..0x3000).step_by(16).collect::<Vec<u64>>());
    println!(
        "{:?} in {:?}, {} bytes held",
        resolution.debug_error,
        start.elapsed(),
        symbols.memory_bytes()
    );
    assert_eq!(resolution.debug_error, expected);
    assert!(symbols.memory_bytes() < 16 << 20);
}

/// Thousands of units that all refer to one long list of ranges: quadratic for whoever expands it.
#[test]
fn many_units_share_one_list_of_ranges() {
    let mut dwarf = Dwarf::default();
    // 1: compile unit without children, DW_AT_ranges as section offset.
    dwarf
        .abbreviations
        .extend_from_slice(&[1, 0x11, 0, 0x55, 0x17, 0, 0, 0]);
    for index in 0..20_000_u64 {
        let start = 0x1000 + index % 64 * 128;
        dwarf.ranges.extend_from_slice(&start.to_le_bytes());
        dwarf.ranges.extend_from_slice(&(start + 1).to_le_bytes());
    }
    dwarf.ranges.extend_from_slice(&[0; 16]);
    for _ in 0..20_000 {
        dwarf.unit(&[1, 0, 0, 0, 0]);
    }
    resolve_within_effort(
        &dwarf,
        Some(DebugError::TooManyRanges {
            limit: Limits::default().unit_ranges,
        }),
    );
}

/// Functions that all claim the same long list of ranges.
#[test]
fn many_functions_share_one_list_of_ranges() {
    let mut dwarf = Dwarf::default();
    // 1: compile unit with children, low_pc and high_pc; 2: subprogram with ranges.
    dwarf
        .abbreviations
        .extend_from_slice(&[1, 0x11, 1, 0x11, 0x01, 0x12, 0x06, 0, 0]);
    dwarf
        .abbreviations
        .extend_from_slice(&[2, 0x2e, 0, 0x55, 0x17, 0, 0, 0]);
    for index in 0..20_000_u64 {
        dwarf.ranges.extend_from_slice(&(0x1001 + index % 0x1000).to_le_bytes());
        dwarf.ranges.extend_from_slice(&(0x1002 + index % 0x1000).to_le_bytes());
    }
    dwarf.ranges.extend_from_slice(&[0; 16]);
    let mut entries = vec![1];
    entries.extend_from_slice(&0x1000_u64.to_le_bytes());
    entries.extend_from_slice(&0x2000_u32.to_le_bytes());
    entries.extend_from_slice(&[2, 0, 0, 0, 0].repeat(50_000));
    dwarf.unit(&entries);
    resolve_within_effort(&dwarf, Some(DebugError::EffortSpent));
}

/// Entries of one byte with very many attributes that take no bytes.
#[test]
fn attributes_without_bytes() {
    let mut dwarf = Dwarf::default();
    dwarf
        .abbreviations
        .extend_from_slice(&[1, 0x11, 1, 0x11, 0x01, 0x12, 0x06, 0, 0]);
    dwarf.abbreviations.extend_from_slice(&[2, 0x2e, 0]);
    // DW_AT_external as DW_FORM_flag_present.
    dwarf.abbreviations.extend_from_slice(&[0x3f, 0x19].repeat(50_000));
    dwarf.abbreviations.extend_from_slice(&[0, 0, 0]);
    let mut entries = vec![1];
    entries.extend_from_slice(&0x1000_u64.to_le_bytes());
    entries.extend_from_slice(&0x2000_u32.to_le_bytes());
    entries.extend_from_slice(&[2].repeat(500_000));
    dwarf.unit(&entries);
    resolve_within_effort(&dwarf, Some(DebugError::EffortSpent));
}
