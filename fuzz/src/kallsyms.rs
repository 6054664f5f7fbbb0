//! Any bytes as the text of `/proc/kallsyms`, whole and in parts.
//!
//! The first byte says how long the parts are.

use profiler_symbolizer::{KernelSymbols, KernelSymbolsBuilder, KernelSymbolsError};

const USUAL_START: u64 = 0xffff_ffff_8100_0000;

/// Runs one input.
pub fn run(data: &[u8]) {
    let [part_bytes, text @ ..] = data else { return };
    let whole = KernelSymbols::parse(text);
    let parts = parse_in_parts(text, usize::from(*part_bytes) + 1);
    let (whole, parts) = match (whole, parts) {
        (Ok(whole), Ok(parts)) => (whole, parts),
        (whole, parts) => {
            assert_eq!(whole.err(), parts.err());
            return;
        }
    };
    assert_eq!(whole.len(), parts.len());
    assert!(!whole.is_empty() && whole.len() <= text.len());
    let listed = text.split(|byte| !byte.is_ascii_hexdigit());
    let addresses = listed.filter_map(|digits| u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
    for address in addresses.take(256).chain([0, 1, USUAL_START, u64::MAX]) {
        for address in [address.wrapping_sub(1), address, address.wrapping_add(1)] {
            let symbol = whole.resolve(address);
            assert_eq!(symbol, parts.resolve(address));
            if let Some(symbol) = symbol {
                assert!(!symbol.name.is_empty() && !symbol.name.contains(|c: char| c.is_ascii_whitespace()));
            }
        }
    }
}

fn parse_in_parts(text: &[u8], bytes: usize) -> Result<KernelSymbols, KernelSymbolsError> {
    let mut builder = KernelSymbolsBuilder::default();
    for part in text.chunks(bytes) {
        builder.add(part)?;
    }
    builder.build()
}
