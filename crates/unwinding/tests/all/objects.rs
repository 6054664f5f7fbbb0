//! Finding the table and the segments in objects of every kind, and refusing the rest.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use object::elf::{SHT_NOBITS, SHT_X86_64_UNWIND};
use object::read::ReadCache;
use profiler_common::row::{CfaRule, RbpRule, Row};
use profiler_unwinding::{BuildId, CallFrames, CompileError, ElfError, Limits, Segment, Segments, compile};

use crate::support::{CODE, CODE_BYTES, EH_FRAME, EhFrame, LINKAGE, Object, rows_at, usual_start};

fn object() -> Object {
    Object::new(&EhFrame::of_function(16, &[]))
}

#[test]
fn the_table_is_found_by_either_header() {
    let by_section = object().compile().unwrap();
    let mut stripped = object();
    stripped.section_headers = false;
    assert_eq!(stripped.compile(), Err(CompileError::NoUnwindTable));
    stripped.eh_frame_hdr = true;
    assert_eq!(rows_at(&stripped.compile().unwrap()), rows_at(&by_section));
    let mut of_other_type = object();
    of_other_type.section_type = SHT_X86_64_UNWIND.0;
    assert_eq!(rows_at(&of_other_type.compile().unwrap()), rows_at(&by_section));
}

#[test]
fn without_section_headers_the_table_ends_at_its_terminator_or_with_the_segment() {
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zR", 16, &usual_start());
    eh_frame.function(common, CODE, 16, &[]);
    let used = eh_frame.bytes.len();
    eh_frame.terminator();
    eh_frame.function(common, CODE + 64, 16, &[]);
    let mut object = Object::new(&eh_frame);
    object.section_headers = false;
    object.eh_frame_hdr = true;
    let file = object.file();
    let call_frames = CallFrames::read(&*file, &Limits::default()).unwrap();
    assert_eq!(
        (call_frames.bytes(), call_frames.link_address()),
        (&eh_frame.bytes[..used], EH_FRAME)
    );
    assert_eq!(call_frames.compile(&Limits::default()).unwrap().statistics.functions, 1);
    // Whatever follows without a terminator is not taken for entries where their lengths make no sense.
    object.eh_frame.truncate(used);
    object.eh_frame.extend([0xf0; 8]);
    let file = object.file();
    let call_frames = CallFrames::read(&*file, &Limits::default()).unwrap();
    assert_eq!(call_frames.bytes(), &eh_frame.bytes[..used]);
    // A limit that falls within the table is an error, not a shorter table.
    let limits = Limits {
        max_eh_frame_bytes: used as u64 - 1,
        ..Limits::default()
    };
    assert!(matches!(
        CallFrames::read(&*file, &limits),
        Err(CompileError::TooLarge { .. })
    ));
}

#[test]
fn sections_without_usable_bytes_are_no_table() {
    assert_eq!(object().without_bytes().compile(), Err(CompileError::NoUnwindTable));
    for flags in [0, 2 | 1 << 11] {
        let mut object = object();
        object.section_flags = flags;
        assert_eq!(object.compile(), Err(CompileError::NoUnwindTable), "flags {flags:#x}");
        object.eh_frame_hdr = true;
        assert!(object.compile().is_ok(), "flags {flags:#x}");
    }
    let mut no_code = object();
    no_code.code.clear();
    assert_eq!(no_code.compile(), Err(CompileError::NoUnwindTable));
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut Vec<u8>), expected: &ElfError) {
    let mut file = object().file();
    change(&mut file);
    assert_eq!(
        compile(&*file, &Limits::default()),
        Err(CompileError::Elf(expected.clone()))
    );
    assert_eq!(Segments::parse(&*file).as_ref(), Err(expected));
    assert_eq!(BuildId::read(&*file).as_ref(), Err(expected));
}

#[test]
fn other_files_are_refused_with_the_reason() {
    check_refused(Vec::clear, &ElfError::NotElf);
    check_refused(|file| file.truncate(15), &ElfError::NotElf);
    check_refused(|file| file[1] = b'X', &ElfError::NotElf);
    check_refused(
        |file| file.truncate(63),
        &ElfError::Unreadable { part: "the ELF header" },
    );
    check_refused(|file| file[4] = 1, &ElfError::Class { class: 1 });
    check_refused(|file| file[5] = 2, &ElfError::ByteOrder { encoding: 2 });
    check_refused(|file| file[18] = 183, &ElfError::Machine { machine: 183 });
    let headers = ElfError::Unreadable {
        part: "the table of program headers",
    };
    check_refused(|file| file.truncate(100), &headers);
    check_refused(|file| file[54] = 55, &headers);
    check_refused(|file| file[39] = 0x80, &headers);
    check_refused(
        |file| file[56..58].fill(0xff),
        &ElfError::TooManyProgramHeaders { count: 0xffff },
    );
}

#[test]
fn segments_that_wrap_are_refused() {
    let mut object = object();
    object.code.push((u64::MAX - 15, 32));
    assert_eq!(
        object.compile(),
        Err(CompileError::Elf(ElfError::SegmentWraps {
            link_address: u64::MAX - 15,
            size: 32
        }))
    );
}

#[test]
fn limits_are_errors_and_exact() {
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zR", 16, &usual_start());
    for index in 0..4 {
        eh_frame.function(common, CODE + index * 0x1_0000, 16, &[]);
    }
    let file = Object::new(&eh_frame).file();
    let bytes = eh_frame.bytes.len() as u64;
    // The common entry is parsed once (20 bytes after its length); each function runs it and its own 16.
    let enough = Limits {
        max_eh_frame_bytes: bytes,
        max_functions: 4,
        max_rows: 8,
        max_pages: 4,
        max_undescribed_bytes: 1 << 20,
        max_work_bytes: 1000,
    };
    assert!(compile(&*file, &enough).is_ok());
    let less = |limits: Limits| compile(&*file, &limits);
    assert_eq!(
        less(Limits {
            max_eh_frame_bytes: bytes - 1,
            ..enough
        }),
        Err(CompileError::TooLarge {
            bytes,
            limit: bytes - 1
        })
    );
    assert_eq!(
        less(Limits {
            max_functions: 3,
            ..enough
        }),
        Err(CompileError::TooManyFunctions { limit: 3 })
    );
    assert_eq!(
        less(Limits { max_rows: 7, ..enough }),
        Err(CompileError::TooManyRows { limit: 7 })
    );
    assert_eq!(
        less(Limits { max_pages: 3, ..enough }),
        Err(CompileError::TooManyPages { limit: 3 })
    );
    assert_eq!(
        less(Limits {
            max_work_bytes: 100,
            ..enough
        }),
        Err(CompileError::TooMuchWork { limit: 100 })
    );
}

#[test]
fn small_functions_cannot_share_a_large_common_entry_without_limit() {
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zR", 16, &[usual_start(), vec![0; 100_000]].concat());
    for index in 0..10_000 {
        eh_frame.function(common, CODE + index * 16, 16, &[]);
    }
    // A hundred thousand bytes for each of ten thousand functions.
    assert_eq!(
        Object::new(&eh_frame).compile(),
        Err(CompileError::TooMuchWork {
            limit: Limits::default().max_work_bytes
        })
    );
}

/// A file that is mostly hole: its first bytes, zeros up to its length, and a count of what was read of it.
struct Sparse {
    start: Vec<u8>,
    length: u64,
    position: u64,
    bytes_read: Rc<Cell<u64>>,
}

impl Read for Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer
            .len()
            .min((self.length - self.position.min(self.length)) as usize);
        for byte in &mut buffer[..count] {
            *byte = usize::try_from(self.position)
                .ok()
                .and_then(|at| self.start.get(at))
                .copied()
                .unwrap_or(0);
            self.position += 1;
        }
        self.bytes_read.set(self.bytes_read.get() + count as u64);
        Ok(count)
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(position) => position,
            SeekFrom::End(0) => self.length,
            other => return Err(io::Error::other(format!("{other:?}"))),
        };
        Ok(self.position)
    }
}

#[track_caller]
fn check_sparse(object: &Object, change: impl FnOnce(&mut Vec<u8>), limits: &Limits) -> CompileError {
    let mut start = object.file();
    change(&mut start);
    let bytes_read = Rc::new(Cell::new(0));
    let file = Sparse {
        start,
        length: 4 << 30,
        position: 0,
        bytes_read: Rc::clone(&bytes_read),
    };
    let cache = ReadCache::new(file);
    let error = compile(&cache, limits).unwrap_err();
    assert!(
        bytes_read.get() < 6 << 20,
        "{} bytes read for {error}",
        bytes_read.get()
    );
    error
}

#[test]
fn a_huge_sparse_file_is_refused_before_it_is_read() {
    let limits = Limits {
        max_eh_frame_bytes: 1 << 20,
        ..Limits::default()
    };
    let mut claims = object();
    claims.claimed_bytes = Some(3 << 30);
    let too_large = CompileError::TooLarge {
        bytes: 3 << 30,
        limit: 1 << 20,
    };
    assert_eq!(check_sparse(&claims, |_| {}, &limits), too_large);
    // As many section headers as the field can count, all of them hole.
    let no_table = CompileError::NoUnwindTable;
    let sections_in_hole = |file: &mut Vec<u8>| {
        file[40..48].copy_from_slice(&(1u64 << 30).to_le_bytes());
        file[60..62].fill(0xff);
    };
    assert_eq!(check_sparse(&object(), sections_in_hole, &limits), no_table);
    // A segment that goes on for gigabytes behind the table, which has no end.
    let mut endless = Object::new(&EhFrame::default());
    endless.section_headers = false;
    endless.eh_frame_hdr = true;
    endless.eh_frame = vec![0xfc, 0xff, 0xff, 0x7f];
    let grow = |file: &mut Vec<u8>| file[64 + 32..64 + 40].copy_from_slice(&(2u64 << 30).to_le_bytes());
    assert!(matches!(
        check_sparse(&endless, grow, &limits),
        CompileError::TooLarge { limit: 0x10_0000, .. }
    ));
    // Code over all of the address space costs a directory no larger than allowed.
    let mut eh_frame = EhFrame::of_function(16, &[]);
    eh_frame.bytes.truncate(eh_frame.bytes.len() - 4);
    eh_frame.function(0, CODE + (3 << 29), 16, &[]);
    let mut wide = Object::new(&eh_frame);
    wide.code = vec![(CODE, 3 << 30)];
    let narrow = Limits {
        max_pages: 1 << 10,
        max_undescribed_bytes: 1 << 20,
        ..limits
    };
    assert_eq!(
        check_sparse(&wide, |_| {}, &narrow),
        CompileError::TooManyPages { limit: 1 << 10 }
    );
}

#[test]
fn a_cached_file_compiles_like_a_slice() {
    let file = object().file();
    let cache = ReadCache::new(io::Cursor::new(file.clone()));
    assert_eq!(compile(&cache, &Limits::default()), compile(&*file, &Limits::default()));
}

#[test]
fn biases_of_mappings() {
    let mut object = object();
    // As lld lays out: link addresses a page ahead of offsets, and two segments that share a page of the file.
    object.code = vec![(0x2000, 0x1ff0), (0x3ff0, 0x1000)];
    let mut file = object.file();
    for (index, ahead) in [(1, 0x1000u64), (2, 0x2000)] {
        let at = 64 + index * 56 + 16;
        let address = u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) + ahead;
        file[at..at + 8].copy_from_slice(&address.to_le_bytes());
    }
    let segments = Segments::parse(&*file).unwrap();
    assert_eq!(
        segments.executable(),
        [
            Segment {
                file_offset: 0x2000,
                link_address: 0x3000,
                size: 0x1ff0
            },
            Segment {
                file_offset: 0x3ff0,
                link_address: 0x5ff0,
                size: 0x1000
            },
        ]
    );
    let start = 0x7f00_0000_0000;
    assert_eq!(segments.bias(start, 0x2000), Some(start - 0x3000));
    // The page at 0x3000 holds the end of the first segment and the start of the second, whose mapping begins there.
    assert_eq!(segments.bias(start, 0x3000), Some(start - 0x5000));
    // A part of the second that begins later.
    assert_eq!(segments.bias(start, 0x4000), Some(start - 0x6000));
    assert_eq!(segments.bias(start, 0x1000), None);
    assert_eq!(segments.bias(start, 0x5000), None);
    assert_eq!(segments.bias(0x1000, 0x4000), Some(0x1000u64.wrapping_sub(0x6000)));
}

#[test]
fn position_dependent_programs_have_no_bias() {
    let mut object = object();
    object.code = vec![(0x40_1000, CODE_BYTES)];
    let mut file = object.file();
    file[64 + 56 + 8..64 + 56 + 16].copy_from_slice(&0x1000u64.to_le_bytes());
    assert_eq!(Segments::parse(&*file).unwrap().bias(0x40_1000, 0x1000), Some(0));
}

#[test]
fn equal_content_has_equal_ids_and_other_content_others() {
    let id = |object: &Object| {
        CallFrames::read(&*object.file(), &Limits::default())
            .unwrap()
            .content_id()
    };
    let original = id(&object());
    assert_eq!(id(&object()), original);
    let mut with_hdr = object();
    with_hdr.eh_frame_hdr = true;
    assert_eq!(id(&with_hdr), original, "headers that rows do not depend on");
    let mut other_bytes = object();
    *other_bytes.eh_frame.last_mut().unwrap() = 1;
    assert_ne!(id(&other_bytes), original);
    let mut other_code = object();
    other_code.code[0].1 += 1;
    assert_ne!(id(&other_code), original);
    let mut file = object().file();
    let sections = u64::from_le_bytes(file[40..48].try_into().unwrap()) as usize;
    file[sections + 64 + 16] ^= 0x10;
    let moved = CallFrames::read(&*file, &Limits::default()).unwrap().content_id();
    assert_ne!(moved, original);
    assert_eq!(original.to_string().len(), 64);
}

#[test]
fn section_of_another_kind_first() {
    let mut object = object();
    object.section_type = SHT_NOBITS.0;
    object.eh_frame_hdr = true;
    assert!(
        object.compile().is_ok(),
        "the bytes that the segment loads are there all the same"
    );
}

/// An object whose first segment is turned into a note segment that holds `notes`.
fn with_notes(notes: &[u8]) -> Vec<u8> {
    let mut file = object().file();
    let at = file.len() as u64;
    file.extend(notes);
    file[64] = 4;
    file[72..80].copy_from_slice(&at.to_le_bytes());
    file[96..104].copy_from_slice(&(notes.len() as u64).to_le_bytes());
    file[112..120].copy_from_slice(&4u64.to_le_bytes());
    file
}

fn note(name: &[u8], kind: u8, content: &[u8]) -> Vec<u8> {
    let mut note = vec![name.len() as u8, 0, 0, 0, content.len() as u8, 0, 0, 0, kind, 0, 0, 0];
    for part in [name, content] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

#[test]
fn build_ids_are_read_from_notes() {
    let read = |notes: &[u8]| BuildId::read(&*with_notes(notes)).unwrap();
    let id = [0xab, 0x01, 0xff, 0x10, 0x22];
    let found = read(&[note(b"GNU\0", 5, b"property"), note(b"GNU\0", 3, &id)].concat()).unwrap();
    assert_eq!((found.as_bytes(), found.to_string().as_str()), (&id[..], "ab01ff1022"));
    assert_eq!(read(&note(b"Go\0\0", 3, &id)), None);
    assert_eq!(read(&note(b"GNU\0", 1, &id)), None);
    assert_eq!(read(&note(b"GNU\0", 3, &[])), None);
    assert_eq!(read(&note(b"GNU\0", 3, &[1; 65])), None);
    assert_eq!(read(&note(b"GNU\0", 3, &id)[..14]), None);
    assert_eq!(BuildId::read(&*object().file()).unwrap(), None);
}

/// `push [rip]; jmp [rip]; nop` and three times `jmp [rip]; push …; jmp …`.
fn linkage() -> Vec<u8> {
    let first = [0xff, 0x35, 0, 0, 0, 0, 0xff, 0x25, 0, 0, 0, 0, 0x0f, 0x1f, 0x40, 0];
    let other = [0xff, 0x25, 0, 0, 0, 0, 0x68, 7, 0, 0, 0, 0xe9, 0, 0, 0, 0];
    [first, other, other, other].concat()
}

#[test]
fn a_linkage_table_that_nothing_describes_has_the_rules_of_its_form() {
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zR", 16, &usual_start());
    eh_frame.function(common, CODE, 16, &[]);
    eh_frame.function(common, LINKAGE + 64, 16, &[]);
    let mut object = Object::new(&eh_frame);
    object.linkage = linkage();
    let row = |cfa, offset| Row::new(0, cfa, offset, RbpRule::Same, 0).unwrap();
    let table = object.compile().unwrap();
    for (offset, expected) in [
        (0, row(CfaRule::Rsp, 16)),
        (5, row(CfaRule::Rsp, 16)),
        (6, row(CfaRule::Rsp, 24)),
        (15, row(CfaRule::Rsp, 24)),
        (16, row(CfaRule::Plt, 0)),
        (63, row(CfaRule::Plt, 0)),
        (64, row(CfaRule::Rsp, 8)),
    ] {
        let found = table.find(LINKAGE + offset).unwrap();
        assert_eq!(found.at(0), expected, "offset {offset}");
    }
    assert_eq!(table.find(LINKAGE - 1).unwrap().cfa_rule(), CfaRule::Gap as u8);
    // Objects that differ in it alone do not share rows.
    let id = |object: &Object| {
        CallFrames::read(&*object.file(), &Limits::default())
            .unwrap()
            .content_id()
    };
    let with = id(&object);
    object.linkage.clear();
    assert_ne!(id(&object), with);
}

#[test]
fn a_linkage_table_is_left_alone_if_it_is_described_or_strange() {
    let mut object = object();
    let gap = |object: &Object| {
        let table = object.compile().unwrap();
        table
            .find(LINKAGE + 16)
            .is_none_or(|row| row.cfa_rule() == CfaRule::Gap as u8)
    };
    object.linkage = linkage();
    assert!(!gap(&object));
    for at in [0, 6, 16, 22, 27] {
        object.linkage = linkage();
        object.linkage[at] ^= 1;
        assert!(gap(&object), "byte {at}");
    }
    object.linkage = linkage();
    object.linkage.pop();
    assert!(gap(&object), "part of an entry");
    object.linkage = linkage()[..16].to_vec();
    assert!(gap(&object), "no entry");
    object.linkage = linkage();
    object.code = vec![(CODE, LINKAGE + 32 - CODE)];
    assert!(gap(&object), "not loaded as a whole");
    // What describes one byte of it goes first.
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zR", 16, &usual_start());
    eh_frame.function(common, LINKAGE + 40, 4, &[]);
    let mut object = Object::new(&eh_frame);
    object.linkage = linkage();
    assert!(gap(&object), "described");
}

/// `push rbx; sub rsp, 16; add rsp, 16; pop rbx; ret`, from which the rows follow.
const UNDESCRIBED: [u8; 11] = [0x53, 0x48, 0x83, 0xec, 0x10, 0x48, 0x83, 0xc4, 0x10, 0x5b, 0xc3];

#[test]
fn code_that_nothing_describes_has_the_rules_that_follow_from_it() {
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zR", 16, &usual_start());
    eh_frame.function(common, CODE, 16, &[]);
    eh_frame.function(common, LINKAGE + 96, 16, &[]);
    let mut object = Object::new(&eh_frame);
    // A section of code of no special form, whose bytes are where the segment has them.
    object.linkage = vec![0x90; 128];
    let with_code = |code: &[u8]| {
        let mut file = object.file();
        file.resize(LINKAGE as usize, 0);
        file.extend(code);
        file.resize(LINKAGE as usize + 128, 0x90);
        file
    };
    let file = with_code(&UNDESCRIBED);
    let table = compile(&*file, &Limits::default()).unwrap();
    assert_eq!((table.statistics.functions, table.statistics.functions_deduced), (2, 1));
    let rsp = |offset| Row::new(0, CfaRule::Rsp, offset, RbpRule::Same, 0).unwrap();
    let gap = Row::marker(0, CfaRule::Gap);
    for (offset, expected) in [
        (0, rsp(8)),
        (1, rsp(16)),
        (5, rsp(32)),
        (9, rsp(16)),
        (10, rsp(8)),
        (11, gap),
        (95, gap),
        (96, rsp(8)),
    ] {
        assert_eq!(table.find(LINKAGE + offset).unwrap().at(0), expected, "offset {offset}");
    }
    // Objects that differ in it alone do not share rows, whatever their call frame information says.
    let id = |file: &[u8]| CallFrames::read(file, &Limits::default()).unwrap().content_id();
    let mut other = UNDESCRIBED;
    other[4] = 0x20;
    assert_ne!(id(&with_code(&other)), id(&file));
    assert_eq!(id(&with_code(&UNDESCRIBED)), id(&file));
    // What there is too much of has no rows.
    let limits = Limits {
        max_undescribed_bytes: 95,
        ..Limits::default()
    };
    let table = compile(&*file, &limits).unwrap();
    assert_eq!(table.find(LINKAGE + 1).unwrap().at(0), gap);
}
