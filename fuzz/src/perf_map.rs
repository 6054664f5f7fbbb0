//! Any bytes as the text of a perf map, whole and as a compiler that is still writing it would leave it.
//!
//! The first byte says how much room there is, the second how long the parts are.

use profiler_symbolizer::PerfMap;

/// Longest name that is kept.
const LONGEST_NAME: usize = 1 << 10;
/// Room for every function of one input.
const ALL: usize = 1 << 20;
/// Addresses asked for in one input.
const MAX_ADDRESSES: usize = 64;

/// Runs one input.
pub fn run(data: &[u8]) {
    let [room, part_bytes, text @ ..] = data else { return };
    let max_bytes = match room & 1 {
        0 => ALL,
        _ => usize::from(*room) * 16,
    };
    let mut whole = PerfMap::new(max_bytes);
    let taken = whole.extend(text);
    let lines = &text[..text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1)];
    assert_eq!(taken, lines.len());
    assert!(whole.memory_bytes() <= max_bytes);
    let parts = in_parts(text, usize::from(*part_bytes) + 1, max_bytes);
    let written = written(lines);
    assert!(max_bytes < ALL || !whole.is_full());
    let ends = written.iter().flat_map(|(start, end, _)| [*start, *end]);
    for address in ends.take(MAX_ADDRESSES).chain([0, u64::MAX]) {
        for address in [address.wrapping_sub(1), address] {
            let name = whole.find(address).map(|name| &**name);
            assert_eq!(name, parts.find(address).map(|name| &**name));
            let over = |(start, end, _): &&(u64, u64, String)| (*start..*end).contains(&address);
            if !whole.is_full() {
                // The last line over an address names it.
                let last = written.iter().rfind(over).map(|(_, _, name)| &**name);
                assert_eq!(name, last, "{address:#x}");
            } else if let Some(name) = name {
                assert!(written.iter().filter(over).any(|(_, _, other)| other == name));
            }
        }
    }
}

/// The map of a reader that comes back for the rest.
fn in_parts(text: &[u8], part_bytes: usize, max_bytes: usize) -> PerfMap {
    let mut map = PerfMap::new(max_bytes);
    let (mut taken, mut seen) = (0, 0);
    while seen < text.len() {
        seen = text.len().min(seen + part_bytes);
        taken += map.extend(&text[taken..seen]);
    }
    map
}

/// Every function in order, read plainly: two numbers and a name, apart by one blank each.
fn written(lines: &[u8]) -> Vec<(u64, u64, String)> {
    let mut functions = Vec::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.splitn(3, |byte| *byte == b' ').collect();
        let [start, size, name] = fields[..] else { continue };
        let (Some(start), Some(size)) = (number(start), number(size)) else {
            continue;
        };
        let name = name.trim_ascii();
        if let (Some(end), false) = (start.checked_add(size), size == 0 || name.is_empty()) {
            let name = String::from_utf8_lossy(&name[..name.len().min(LONGEST_NAME)]);
            functions.push((start, end, name.into_owned()));
        }
    }
    functions
}

/// Hexadecimal digits, with or without `0x`, and a sign as the standard library allows it.
fn number(text: &[u8]) -> Option<u64> {
    let digits = text.strip_prefix(b"0x").unwrap_or(text);
    let digits = digits.strip_prefix(b"+").unwrap_or(digits);
    if digits.is_empty() {
        return None;
    }
    let mut number = 0_u64;
    for digit in digits {
        let value = char::from(*digit).to_digit(16)?;
        number = number.checked_mul(16)?.checked_add(u64::from(value))?;
    }
    Some(number)
}
