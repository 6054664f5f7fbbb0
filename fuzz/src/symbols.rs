//! Any bytes as an object whose addresses are to be named: symbol tables, procedure linkage tables, DWARF.
//!
//! The addresses are the usual ones of small programs, and what the last bytes of the input make.

use profiler_symbolizer::{Limits, ObjectSymbols, Resolution};

/// Little, so that what abuses it is met within one input.
const LIMITS: Limits = Limits {
    functions: 1 << 12,
    symbol_bytes: 1 << 20,
    unit_ranges: 1 << 10,
    debug_bytes: 1 << 20,
    decompressed_bytes: 1 << 20,
    effort: 1 << 20,
};
/// What the tables of one object may take under these limits.
const MAX_TABLE_BYTES: usize = 8 << 20;
/// What one symbol may be long: the longest name, each byte replaced, and `@plt`.
const LONGEST_FUNCTION: usize = 3 * (8 << 10) + 4;
/// Directory of the compilation, of the file, and the file itself, each byte replaced.
const LONGEST_FILE: usize = 3 * 3 * (4 << 10) + 2;

/// Runs one input.
pub fn run(data: &[u8]) {
    let source = data.to_vec();
    let Ok(mut object) = ObjectSymbols::load(&source, &LIMITS) else {
        return;
    };
    assert!(object.function_count() <= 2 * LIMITS.functions && object.memory_bytes() <= MAX_TABLE_BYTES);
    if let Some(link) = object.debug_link(&source) {
        assert!(!link.file_name.contains(&0));
    }
    assert!(object.build_id(&source).is_none_or(|id| (1..=64).contains(&id.len())));
    let addresses = addresses(data);
    let batch = object.resolve(&source, &addresses);
    check(&batch, addresses.len());
    assert!(object.memory_bytes() <= MAX_TABLE_BYTES);
    object.forget_units();
    let again = object.resolve(&source, &addresses);
    assert_eq!((&again.frames, &again.debug_error), (&batch.frames, &batch.debug_error));
    if batch.debug_error.is_none() {
        // An address has the same name alone as among others.
        for (address, frames) in addresses.iter().zip(&batch.frames).take(4) {
            let alone = object.resolve(&source, &[*address]);
            assert_eq!((&alone.frames[0], &alone.debug_error), (frames, &None), "{address:#x}");
        }
    }
    object.ignore_debug_info();
    let plain = object.resolve(&source, &addresses);
    assert_eq!(plain.debug_error, None);
    check(&plain, addresses.len());
}

fn addresses(data: &[u8]) -> Vec<u64> {
    let mut addresses: Vec<u64> = data
        .rchunks_exact(4)
        .take(6)
        .map(|bytes| bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
        .collect();
    addresses.extend((0..64).map(|index| 0x380 + index * 9));
    addresses.extend((0..16).map(|index| 0x1300 + index * 5));
    addresses.extend([0, 0x40_0180, 0x40_0190, u64::MAX]);
    addresses
}

fn check(resolution: &Resolution, addresses: usize) {
    assert_eq!(resolution.frames.len(), addresses);
    for frame in resolution.frames.iter().flat_map(|frames| frames.iter()) {
        assert!(
            frame.function.len() <= LONGEST_FUNCTION,
            "{} bytes",
            frame.function.len()
        );
        assert!(frame.file.len() <= LONGEST_FILE, "{} bytes", frame.file.len());
    }
}
