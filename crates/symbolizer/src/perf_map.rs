//! Functions that a process generated and named itself, in the text that `perf` reads from `/tmp/perf-PID.map`.
//!
//! One function a line: start and size in hexadecimal, and a name, which may hold anything. A compiler appends what it makes
//! and does not say what it has freed, so a later line takes the addresses of the earlier ones under it. Lines that are not
//! of this form are passed over, and what is kept is bounded in bytes.

use std::{collections::BTreeMap, sync::Arc};

/// Longest name that is kept.
const LONGEST_NAME: usize = 1 << 10;
/// What a function costs beside its name: an entry of a tree with room to grow, and reference counts.
const FUNCTION_BYTES: usize = 96;

#[derive(Clone, Debug)]
struct Generated {
    end: u64,
    name: Arc<str>,
}

/// Generated functions by runtime address.
#[derive(Debug)]
pub struct PerfMap {
    functions: BTreeMap<u64, Generated>,
    bytes: usize,
    max_bytes: usize,
    is_full: bool,
}

impl PerfMap {
    /// An empty map that takes no more than about so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            functions: BTreeMap::new(),
            bytes: 0,
            max_bytes,
            is_full: false,
        }
    }

    /// Takes over the whole lines at the start of a text, and returns how many bytes those are.
    pub fn extend(&mut self, text: &[u8]) -> usize {
        let mut taken = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let Some(content) = line.strip_suffix(b"\n") else { break };
            taken += line.len();
            if let Some((start, end, name)) = parse_line(content) {
                self.insert(start, end, name);
            }
        }
        taken
    }

    /// The name of the function at an address.
    pub fn find(&self, runtime_address: u64) -> Option<&Arc<str>> {
        let (_, function) = self.functions.range(..=runtime_address).next_back()?;
        (runtime_address < function.end).then_some(&function.name)
    }

    /// Whether functions were left out because there is no room.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }

    fn insert(&mut self, start: u64, end: u64, name: &[u8]) {
        let before = self.functions.range_mut(..start).next_back();
        let mut rest = None;
        if let Some((_, outer)) = before.filter(|(_, outer)| outer.end > start) {
            rest = (outer.end > end).then(|| outer.clone());
            outer.end = start;
        }
        while let Some((&inner, _)) = self.functions.range(start..end).next() {
            if let Some(function) = self.functions.remove(&inner) {
                self.bytes -= FUNCTION_BYTES + function.name.len();
                rest = (function.end > end).then_some(function);
            }
        }
        if let Some(rest) = rest {
            self.add(end, rest);
        }
        let name = String::from_utf8_lossy(&name[..name.len().min(LONGEST_NAME)]).into();
        self.add(start, Generated { end, name });
    }

    fn add(&mut self, start: u64, function: Generated) {
        let bytes = FUNCTION_BYTES + function.name.len();
        if self.bytes + bytes > self.max_bytes {
            self.is_full = true;
            return;
        }
        self.bytes += bytes;
        self.functions.insert(start, function);
    }
}

/// `START SIZE NAME`, numbers in hexadecimal, with or without `0x`.
fn parse_line(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut fields = line.splitn(3, |byte| *byte == b' ');
    let mut number = || {
        let text = str::from_utf8(fields.next()?).ok()?;
        u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
    };
    let (start, size) = (number()?, number()?);
    let end = start.checked_add(size).filter(|end| *end > start)?;
    let name = fields.next()?.trim_ascii();
    (!name.is_empty()).then_some((start, end, name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(text: &str) -> PerfMap {
        let mut map = PerfMap::new(1 << 20);
        assert_eq!(map.extend(text.as_bytes()), text.len());
        map
    }

    #[test]
    fn lines_as_compilers_write_them() {
        let map = map(
            "1000 20 py::f:/a b.py\n0x2000 0x10 LazyCompile:~g\r\n3000 10 \n4000 0 h\nx y z\n\n\
                       ffffffffffffffff 2 over\n5000 8 \u{1b}[31m<b>\n",
        );
        let name = |address| map.find(address).map(|name| &**name);
        assert_eq!(name(0xfff), None);
        assert_eq!(name(0x1000), Some("py::f:/a b.py"));
        assert_eq!(name(0x101f), Some("py::f:/a b.py"));
        assert_eq!(name(0x1020), None);
        assert_eq!(name(0x2008), Some("LazyCompile:~g"));
        assert_eq!((name(0x3000), name(0x4000), name(u64::MAX)), (None, None, None));
        assert_eq!(name(0x5000), Some("\u{1b}[31m<b>"));
    }

    #[test]
    fn a_line_that_is_being_written_waits() {
        let mut map = PerfMap::new(1 << 20);
        assert_eq!(map.extend(b"1000 10 a\n2000 10 lon"), 10);
        assert!(map.find(0x2000).is_none());
        assert_eq!(map.extend(b"2000 10 longer\n"), 15);
        assert_eq!(map.find(0x2000).map(|name| &**name), Some("longer"));
    }

    #[test]
    fn it_stays_within_its_bytes() {
        let mut map = PerfMap::new(10_000);
        for number in 0..10_000_u64 {
            map.extend(format!("{:x} 10 function\n", number * 16).as_bytes());
        }
        assert!(map.is_full() && map.memory_bytes() <= 10_000);
        assert!(map.find(0).is_some() && map.find(9_999 * 16).is_none());
        // What is replaced gives its room back.
        map.extend(b"0 ffffff all\n");
        assert_eq!(map.memory_bytes(), FUNCTION_BYTES + 3);
    }

    proptest! {
        /// Each address belongs to the last line over it.
        #[test]
        fn later_lines_win(lines in proptest::collection::vec((0_u64..60, 1_u64..30), 0..40)) {
            let mut map = PerfMap::new(1 << 20);
            for (number, (start, size)) in lines.iter().enumerate() {
                map.extend(format!("{start:x} {size:x} f{number}\n").as_bytes());
            }
            for address in 0..100 {
                let over = |(start, size): &(u64, u64)| (*start..start + size).contains(&address);
                let expected = lines.iter().rposition(over).map(|number| format!("f{number}"));
                prop_assert_eq!(map.find(address).map(|name| name.to_string()), expected, "{}", address);
            }
            let used: usize = map.functions.values().map(|function| FUNCTION_BYTES + function.name.len()).sum();
            prop_assert_eq!(used, map.memory_bytes());
        }

        #[test]
        fn no_text_breaks_it(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut map = PerfMap::new(1 << 10);
            prop_assert!(map.extend(&text) <= text.len());
            prop_assert!(map.memory_bytes() <= 1 << 10);
        }
    }
}
