//! Bytes that nobody meant as an object: never a panic, never more than the limits allow.

use std::time::{Duration, Instant};

use profiler_unwinding::{BuildId, CallFrames, Limits, Segments, compile};
use proptest::prelude::*;

use crate::oracle::check_against_gimli;
use crate::support::{CODE, CODE_BYTES, EhFrame, Object, check_layout, real_objects, usual_start};

/// Small enough that random input meets them.
const LIMITS: Limits = Limits {
    max_eh_frame_bytes: 1 << 20,
    max_functions: 3000,
    max_rows: 5000,
    max_pages: 12,
    max_undescribed_bytes: 1 << 20,
    max_work_bytes: 1 << 20,
};

/// Compiles; what comes out must be as the walker needs it, and must say what gimli says where `meaning` is asked for.
fn check(file: &[u8], meaning: bool) {
    let Ok(call_frames) = CallFrames::read(file, &LIMITS) else {
        return;
    };
    let Ok(table) = call_frames.compile(&LIMITS) else {
        return;
    };
    check_layout(&table, &LIMITS);
    if meaning {
        check_against_gimli(&call_frames, &table);
    }
}

/// A call frame instruction: mostly of a known kind with plausible operands, sometimes any bytes.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let register = prop_oneof![4 => 0u8..18, 1 => any::<u8>().prop_map(|byte| byte & 0x7f)];
    let expression = prop_oneof![
        Just(vec![0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22]),
        Just(vec![0x76, 0x70, 0x06]),
        Just(vec![0x77, 0x18, 0x06, 0x23, 8]),
        Just(vec![0x76, 0x78]),
        prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop_oneof![
        6 => (0x40u8..0x80).prop_map(|advance| vec![advance]),
        1 => any::<[u8; 2]>().prop_map(|by| vec![0x03, by[0], by[1]]),
        4 => (register.clone(), 0u8..0x80).prop_map(|(register, offset)| vec![0x0c, register, offset]),
        3 => register.clone().prop_map(|register| vec![0x0d, register]),
        3 => (0u8..0x80).prop_map(|offset| vec![0x0e, offset]),
        3 => (0u8..18, 0u8..0x80).prop_map(|(register, offset)| vec![0x80 | register, offset]),
        2 => (0u8..18).prop_map(|register| vec![0xc0 | register]),
        2 => (0x06u8..0x09, register.clone()).prop_map(|(kind, register)| vec![kind, register]),
        1 => (register.clone(), register.clone()).prop_map(|(to, from)| vec![0x09, to, from]),
        3 => (0x0au8..0x0c).prop_map(|kind| vec![kind]),
        2 => expression.clone().prop_map(|bytes| [vec![0x0f, bytes.len() as u8], bytes].concat()),
        2 => (prop_oneof![Just(0x10u8), Just(0x16)], register, expression)
            .prop_map(|(kind, register, bytes)| [vec![kind, register, bytes.len() as u8], bytes].concat()),
        1 => any::<[u8; 2]>().prop_map(Vec::from),
    ]
}

/// Functions anywhere around the code, in any order, of any length.
fn functions() -> impl Strategy<Value = EhFrame> {
    let instructions = || prop::collection::vec(instruction(), 0..12).prop_map(|list| list.concat());
    let function = (
        CODE - 64..CODE + CODE_BYTES + 64,
        0u32..0x3_0000,
        any::<bool>(),
        instructions(),
    );
    let near = (CODE..CODE + 512, 0u32..256, any::<bool>(), instructions());
    let any_function = prop_oneof![1 => function, 4 => near];
    (
        prop::collection::vec(any_function, 0..24),
        instructions(),
        any::<bool>(),
    )
        .prop_map(|(functions, common_instructions, signal)| {
            let mut eh_frame = EhFrame::default();
            let usual = eh_frame.common("zR", 16, &usual_start());
            let augmentation = if signal { "zRS" } else { "zR" };
            let odd = eh_frame.common(augmentation, 16, &[usual_start(), common_instructions].concat());
            for (start, bytes, is_odd, instructions) in functions {
                eh_frame.function(if is_odd { odd } else { usual }, start, bytes, &instructions);
            }
            eh_frame
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_functions_say_what_gimli_says(eh_frame in functions()) {
        check(&Object::new(&eh_frame).file(), true);
    }

    #[test]
    fn random_bytes_as_a_table(bytes in prop::collection::vec(any::<u8>(), 0..2000), stripped: bool) {
        let mut object = Object::new(&EhFrame { bytes });
        object.section_headers = !stripped;
        object.eh_frame_hdr = stripped;
        check(&object.file(), false);
    }

    #[test]
    fn damaged_functions(eh_frame in functions(), changes in prop::collection::vec((any::<u16>(), any::<u8>()), 1..8)) {
        let mut object = Object::new(&eh_frame);
        for (at, byte) in changes {
            let at = usize::from(at) % object.eh_frame.len();
            object.eh_frame[at] = byte;
        }
        check(&object.file(), false);
    }

    #[test]
    fn random_bytes_as_a_file(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 62, 0];
        file.extend(bytes);
        check(&file, false);
    }
}

/// A generator whose numbers are the same on every run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Where damage is likely to matter: the ELF header, the tables of headers, `.eh_frame` itself, or anywhere.
fn place(numbers: &mut Numbers, file: &[u8], table: &std::ops::Range<usize>) -> usize {
    let sections = u64::from_le_bytes(file[40..48].try_into().unwrap_or_default()) as usize;
    match numbers.below(5) {
        0 => numbers.below(64),
        1 => 64 + numbers.below(56 * 14),
        2 if sections < file.len() => sections + numbers.below(file.len() - sections),
        3 => table.start + numbers.below(table.len()),
        _ => numbers.below(file.len()),
    }
}

/// Where in the file the table lies.
fn table_range(file: &[u8]) -> std::ops::Range<usize> {
    let call_frames = CallFrames::read(file, &Limits::default()).unwrap();
    let start = call_frames.bytes().as_ptr() as usize - file.as_ptr() as usize;
    start..start + call_frames.bytes().len()
}

#[test]
fn damaged_real_objects() {
    const TIME: Duration = Duration::from_secs(4);
    let mut numbers = Numbers(0x5eed);
    let objects: Vec<_> = real_objects()
        .into_iter()
        .filter(|object| object.bytes.len() < 1 << 20)
        .collect();
    let tables: Vec<_> = objects.iter().map(|object| table_range(&object.bytes)).collect();
    let start = Instant::now();
    let mut rounds = 0u32;
    while start.elapsed() < TIME && rounds < 3000 {
        let index = rounds as usize % objects.len();
        let (object, range) = (&objects[index], &tables[index]);
        let mut file = object.bytes.clone();
        for _ in 0..=numbers.below(8) {
            let at = place(&mut numbers, &object.bytes, range).min(file.len() - 1);
            file[at] = match numbers.below(4) {
                0 => 0,
                1 => 0xff,
                2 => file[at] ^ (1 << numbers.below(8)),
                _ => numbers.next() as u8,
            };
        }
        if numbers.below(8) == 0 {
            file.truncate(numbers.below(file.len()));
        }
        check(&file, false);
        if let Ok(segments) = Segments::parse(&*file) {
            for segment in segments.executable() {
                // Whatever the headers say, a mapping at the segment's start belongs to some segment.
                assert!(
                    segments
                        .bias(numbers.next() & !4095, segment.file_offset & !4095)
                        .is_some()
                );
            }
            segments.bias(numbers.next(), numbers.next());
        }
        // Only the absence of a panic is asked for.
        let _outcome = BuildId::read(&*file);
        rounds += 1;
    }
    println!("{rounds} damaged objects in {:?}", start.elapsed());
    assert!(rounds >= 20, "only {rounds} rounds in {TIME:?}");
}

#[test]
fn every_truncation_of_a_small_object() {
    let file = Object::new(&EhFrame::of_function(16, &[])).file();
    for length in 0..file.len() {
        check(&file[..length], false);
    }
    assert!(compile(&*file, &LIMITS).is_ok());
}
