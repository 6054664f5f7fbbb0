//! Interpreters that lie, and memory that is anything.

use profiler_unwinding::python::{InterpreterObject, Libc, PythonError};

use crate::made::{self, MadeUp, RUNTIME};

const MINORS: std::ops::RangeInclusive<u8> = 8..=15;

fn read(file: &[u8]) -> Result<InterpreterObject, PythonError> {
    InterpreterObject::read(file).map(Option::unwrap)
}

/// A word of the debug offsets, written over.
fn with_word(minor: u8, index: usize, value: u64) -> Vec<u8> {
    let mut file = made::interpreter(minor);
    made::put(&mut file, RUNTIME + 8 * index, &value.to_le_bytes());
    file
}

#[test]
fn versions_are_told_by_content() {
    for minor in MINORS {
        let object = read(&made::interpreter(minor)).unwrap();
        assert_eq!((object.version.major, object.version.minor), (3, minor));
        assert_eq!(object.version.micro.is_some(), minor >= 11);
        assert_eq!(object.libc, Some(Libc::Glibc));
    }
}

#[test]
fn stated_offsets_are_bounded() {
    for minor in 13..=15 {
        // Of a frame, of a code object, of a thread, of the runtime.
        for (index, value) in [(33, 4096), (40, 4096), (24, 1 << 40), (5, u64::MAX)] {
            let index = match (index, minor) {
                (33, 14) => 36,
                (33, 15) => 44,
                (40, 14) => 45,
                (40, 15) => 53,
                (24, 14) => 27,
                (24, 15) => 30,
                (index, _) => index,
            };
            let refused = read(&with_word(minor, index, value));
            assert!(
                matches!(refused, Err(PythonError::OffsetTooLarge { value: stated, .. }) if stated == value),
                "{minor}, {index}: {refused:?}"
            );
        }
    }
}

#[test]
fn a_version_stated_twice_differs() {
    let forged = read(&with_word(13, 1, 0x030e_02f0));
    assert!(matches!(forged, Err(PythonError::VersionsDiffer { .. })), "{forged:?}");
    let forged = read(&with_word(13, 1, u64::MAX));
    assert_eq!(forged, Err(PythonError::VersionUnknown));
    // Without its cookie it states nothing, and no table is known.
    let forged = read(&with_word(13, 0, 0));
    assert!(
        matches!(forged, Err(PythonError::VersionUnsupported { .. })),
        "{forged:?}"
    );
}

#[test]
fn offsets_in_memory_are_those_of_the_file() {
    let file = made::interpreter(14);
    let object = read(&file).unwrap();
    let check = |memory: &[u8], expect: PythonError| {
        let memory = MadeUp {
            object: memory,
            bytes: &[],
            words: &[],
        };
        assert_eq!(object.layout(0, Libc::Glibc, &memory).unwrap_err(), expect);
    };
    check(&with_word(14, 40, 64), PythonError::HeaderDiffers);
    check(&file[..RUNTIME], PythonError::HeaderDiffers);
    // What comes next, the key, was never used.
    check(&file, PythonError::NotRunning);
    let nothing = MadeUp {
        object: &[],
        bytes: &[],
        words: &[],
    };
    let nowhere = object.layout(1 << 40, Libc::Glibc, &nothing);
    let unreadable = PythonError::Unreadable {
        what: "the debug offsets in memory",
    };
    assert_eq!(nowhere.unwrap_err(), unreadable);
}

#[test]
fn a_process_that_is_still_being_linked_is_to_be_looked_at_again() {
    for minor in MINORS {
        let file = made::interpreter(minor);
        let object = read(&file).unwrap();
        let linked = made::running(minor);
        let unlinked = [&linked[..], &[(made::CODE_MEMBERS, 0)]].concat();
        let layout = |words: &[(u64, u64)]| {
            let memory = MadeUp {
                object: &file,
                bytes: &[],
                words,
            };
            object.layout(0, Libc::Glibc, &memory)
        };
        let error = layout(&unlinked).unwrap_err();
        assert!(matches!(error, PythonError::Unreadable { .. }), "3.{minor}: {error}");
        assert!(error.is_transient(), "3.{minor}: {error}");
        assert!(layout(&linked).is_ok(), "3.{minor}");
    }
}

#[test]
fn any_memory_is_taken_apart() {
    let mut numbers = Numbers(1);
    for minor in MINORS {
        let file = made::interpreter(minor);
        let object = read(&file).unwrap();
        let words = made::running(minor);
        for round in 0..60 {
            let bytes: Vec<u8> = (0..512 - round).flat_map(|_| numbers.next().to_le_bytes()).collect();
            let memory = MadeUp {
                object: &file,
                bytes: &bytes,
                words: &words,
            };
            let layout = object.layout(0, Libc::Glibc, &memory).unwrap();
            assert!(layout.validate(&memory, &[1]).is_err());
            for address in [0x1_0000, 0x4_0008, numbers.next()] {
                assert!(layout.read_code(&memory, address, 0).is_err());
                layout.walk_stack(&memory, address);
            }
        }
    }
}

/// Numbers that look as if by chance: most of them small, or addresses within the memory; now and then anything.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let value = self.0 >> 32;
        match value % 8 {
            0 => self.0,
            1..=4 => (value >> 3 & 0xf_ffff) & !7,
            5 => 1 | (value >> 3 & 31) << 32,
            _ => value >> 3 & 0xff,
        }
    }
}
