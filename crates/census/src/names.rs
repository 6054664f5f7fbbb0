//! Names of types and keys: text of the process, which may be anything.

use profiler_unwinding::python::ProcessMemory;

/// Most bytes of a name that are kept.
pub(crate) const MAX_NAME_BYTES: usize = 128;
/// Most characters of a key.
const MAX_KEY_CHARACTERS: usize = 64;
/// Ends a name that was cut.
const CUT: char = '…';
const PAGE_BYTES: u64 = 4096;

/// The name of a type: bytes up to a zero. `None` if there are none, or they are no UTF-8.
pub(crate) fn of_type(memory: &(impl ProcessMemory + ?Sized), address: u64) -> Option<String> {
    let mut bytes = [0; MAX_NAME_BYTES];
    // What lies on the next page may not be there.
    let on_page = usize::try_from(PAGE_BYTES - address % PAGE_BYTES)
        .ok()?
        .min(MAX_NAME_BYTES);
    let (first, rest) = bytes.split_at_mut(on_page);
    if !memory.read(address, first) {
        return None;
    }
    if !first.contains(&0) && !rest.is_empty() && !memory.read(address.wrapping_add(first.len() as u64), rest) {
        return None;
    }
    let end = bytes.iter().position(|byte| *byte == 0);
    let name = &bytes[..end.unwrap_or(MAX_NAME_BYTES)];
    let text = match str::from_utf8(name) {
        Ok(text) => text,
        // A character may be cut at the end.
        Err(error) if end.is_none() && error.error_len().is_none() => {
            str::from_utf8(&name[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let mut text = text.to_owned();
    if end.is_none() {
        text.push(CUT);
    }
    (!text.is_empty()).then_some(text)
}

/// A key or another short `str`.
pub(crate) fn of_key(
    memory: &(impl ProcessMemory + ?Sized),
    interpreter: &crate::Interpreter,
    address: u64,
) -> Option<String> {
    interpreter.strings.text(memory, address, MAX_KEY_CHARACTERS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made::Memory;

    fn name(text: &[u8]) -> Option<String> {
        let mut memory = Memory::default();
        memory.put(0x2_0f80, text);
        of_type(&memory, 0x2_0f80)
    }

    #[test]
    fn names_are_text_within_bounds() {
        assert_eq!(name(b"dict\0").as_deref(), Some("dict"));
        assert_eq!(name("größe\0".as_bytes()).as_deref(), Some("größe"));
        // What steers a terminal is escaped by whoever shows it.
        assert_eq!(name(b"a\x1b[2J\0").as_deref(), Some("a\x1b[2J"));
        for bad in [&b"\0"[..], b"\xff\0", b"a\xc3\0"] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
        // Up to the end of the page, behind which nothing is mapped.
        let mut memory = Memory::default();
        memory.put(0x2_0ffb, b"list\0");
        assert_eq!(of_type(&memory, 0x2_0ffb).as_deref(), Some("list"));
        memory.put(0x2_0ffb, b"lists");
        assert_eq!(of_type(&memory, 0x2_0ffb), None);
        let long = "é".repeat(200);
        let found = name(long.as_bytes()).unwrap();
        assert!(found.len() <= MAX_NAME_BYTES + CUT.len_utf8() && found.ends_with("é…"));
    }
}
