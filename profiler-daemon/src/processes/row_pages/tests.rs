//! Pages of rows that are missed: which are loaded, when, and what becomes of those that find no room.

use std::time::Instant;

use profiler_common::{
    python::PythonStop,
    row::{CfaRule, Page},
    stop::StopReason,
};
use profiler_unwinding::RowTable;

use super::*;
use crate::{
    kernel::records::UserFrames,
    processes::{
        double::WalkerDouble,
        fake_proc::{FakeProc, FakeProcess, SECOND_NS, START_NS, at, rust_program, settle, targets},
        kept_pages::CompiledRows,
    },
};

const CONTENT: ContentId = ContentId([7; 32]);
const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;
/// Number of the first page of the table below.
const FIRST: u64 = 100;

/// Sixteen pages of ten rows; those with the numbers 5 and 12 are empty.
fn rows() -> CompiledRows {
    let mut table = RowTable {
        first_page: FIRST,
        pages: Vec::new(),
        rows: Vec::new(),
        statistics: Default::default(),
    };
    for page in 0..16 {
        if [5, 12].contains(&page) {
            table.pages.push(Page::EMPTY);
            continue;
        }
        table.pages.push(Page::new(table.rows.len() as u32, 10));
        table
            .rows
            .extend((0..10).map(|row| Row::marker(row * (page + 1), CfaRule::Root)));
    }
    let kept = Some(KeptPages::of_table(&table));
    CompiledRows { table, kept }
}

fn installed(max_rows: u64) -> (RowTables, WalkerDouble) {
    let mut walker = WalkerDouble {
        max_rows,
        ..WalkerDouble::default()
    };
    let mut tables = RowTables::default();
    tables.install(&mut walker, CONTENT, &rows(), 0);
    tables.exchange(&[], &[CONTENT], 0);
    (tables, walker)
}

fn loaded(walker: &WalkerDouble) -> Vec<u32> {
    walker.pages.values().flat_map(|pages| pages.keys().copied()).collect()
}

fn want(tables: &mut RowTables, page: u64, now_ns: u64) -> bool {
    tables.want_page(&CONTENT, (FIRST + page) * PAGE_BYTES + 0x123, now_ns)
}

#[test]
fn a_missed_page_comes_with_its_neighbours_and_once() {
    let (mut tables, mut walker) = installed(1000);
    assert_eq!(loaded(&walker), [0_u32; 0], "nothing is loaded before it is missed");
    assert!(want(&mut tables, 6, 0) && !want(&mut tables, 6, 0) && !want(&mut tables, 4, 0));
    let read = tables.next_read(CONTENT).unwrap();
    assert!(tables.next_read(CONTENT).is_none());
    // What is missed meanwhile waits for its turn.
    assert!(want(&mut tables, 15, 0) && tables.next_read(CONTENT).is_none());
    tables.load_pages(&mut walker, read.run(), 1);
    assert_eq!(loaded(&walker), [4, 6, 7]);
    let read = tables.next_read(CONTENT).unwrap();
    tables.load_pages(&mut walker, read.run(), 2);
    assert_eq!(loaded(&walker), [4, 6, 7, 13, 14, 15]);
    let pages = walker.pages.values().next().unwrap();
    let expected = rows().table.rows;
    // Two pages before the last ones are empty.
    assert_eq!(pages[&15], expected[expected.len() - 10..]);
    assert!(!want(&mut tables, 7, 3) && !want(&mut tables, 5, 3) && !want(&mut tables, 16, 3));
    assert!(!tables.want_page(&CONTENT, 0, 3) && !tables.want_page(&CONTENT, u64::MAX, 3));
    assert!(!tables.want_page(&ContentId([8; 32]), FIRST * PAGE_BYTES, 3));
    assert_eq!(tables.paged(&CONTENT).unwrap().limitation(), None);
}

#[test]
fn a_small_table_is_loaded_whole_unless_there_is_no_room() {
    let (tables, walker) = installed(2000);
    assert!(tables.paged(&CONTENT).is_none() && walker.pages.is_empty());
    let mut walker = WalkerDouble {
        max_rows: 2000,
        ..WalkerDouble::default()
    };
    walker.tables.insert(TableId(9), (0..1, 1900));
    let mut install = |rows: &CompiledRows| {
        let mut tables = RowTables::default();
        tables.install(&mut walker, CONTENT, rows, 0);
        (tables.paged(&CONTENT).is_some(), tables.state(&CONTENT).cloned())
    };
    assert!(matches!(install(&rows()), (true, Some(TableState::Installed(_)))));
    // What is not on disk cannot be read by the page.
    let not_kept = CompiledRows { kept: None, ..rows() };
    assert!(matches!(install(&not_kept), (false, Some(TableState::Refused { .. }))));
}

#[test]
fn what_finds_no_room_says_so_and_is_missed_again_later() {
    let (mut tables, mut walker) = installed(25);
    let now = 10 * SECOND_NS;
    assert!(want(&mut tables, 0, now));
    let read = tables.next_read(CONTENT).unwrap();
    tables.load_pages(&mut walker, read.run(), now);
    assert_eq!(loaded(&walker), [0, 1]);
    let limitation = tables.paged(&CONTENT).unwrap().limitation().unwrap();
    let expected =
        "2 of 16 pages of its unwind rows are loaded, and no further ones: the walker's table of rows is full";
    assert!(limitation.starts_with(expected), "{limitation}");
    let again = now + RETRY.as_nanos() as u64;
    assert!(!want(&mut tables, 2, again - 1) && want(&mut tables, 2, again));
    let read = tables.next_read(CONTENT).unwrap();
    assert_eq!(read.pages, [2, 3], "those that are loaded stay so");
    tables.load_pages(&mut walker, read.run(), again);
    assert!(!want(&mut tables, 2, again + RETRY.as_nanos() as u64), "twice as long");
    let later = again + 2 * RETRY.as_nanos() as u64;
    walker.max_rows = 1000;
    assert!(want(&mut tables, 2, later));
    let read = tables.next_read(CONTENT).unwrap();
    tables.load_pages(&mut walker, read.run(), later);
    assert_eq!(loaded(&walker), [0, 1, 2, 3]);
    assert_eq!(tables.paged(&CONTENT).unwrap().limitation(), None);
}

#[test]
fn rows_that_nobody_uses_make_room_and_a_table_that_is_gone_takes_none() {
    let (mut tables, mut walker) = installed(40);
    let idle = ContentId([9; 32]);
    let kept = CompiledRows { kept: None, ..rows() };
    walker.max_rows = 180;
    tables.install(&mut walker, idle, &kept, 0);
    assert!(tables.state(&idle).is_some() && want(&mut tables, 0, 0));
    let read = tables.next_read(CONTENT).unwrap();
    walker.max_rows = 150;
    tables.load_pages(&mut walker, read.run(), 5 * SECOND_NS);
    assert_eq!((loaded(&walker), tables.state(&idle)), (vec![0, 1, 2, 3], None));
    // Its process ends while a page is read.
    assert!(want(&mut tables, 8, 6 * SECOND_NS));
    let read = tables.next_read(CONTENT).unwrap();
    tables.exchange(&[CONTENT], &[], 6 * SECOND_NS);
    tables.prune(&mut walker, 1_000_000 * SECOND_NS);
    assert!(walker.tables.is_empty());
    tables.load_pages(&mut walker, read.run(), 1_000_001 * SECOND_NS);
    assert!(walker.pages.is_empty() && tables.next_read(CONTENT).is_none());
}

#[test]
fn rows_that_a_walk_missed_are_loaded_with_those_further_out() {
    let proc = FakeProc::new();
    let process = FakeProcess::new(&rust_program());
    let (code, end, _) = process.mappings[0].clone();
    proc.set(7, &process);
    // Its stack lies at 0x2000: a return address two pages of rows above the code that ran, and none.
    let further_out = code + 40 * PAGE_BYTES;
    assert!(further_out < end);
    let mut memory = vec![0; 0x2000];
    for word in [1, further_out, end + 8, u64::MAX] {
        memory.extend(u64::to_le_bytes(word));
    }
    std::fs::write(proc.root().join("7/mem"), memory).unwrap();
    let base = Instant::now();
    let mut owner = proc.owner_keeping_rows(targets(), 1 << 32);
    owner.walker_mut().max_rows = 1 << 16;
    owner.scan(at(base, 0)).unwrap();
    settle(&mut owner, at(base, 0));
    assert_eq!(owner.walker().pages.len(), 1, "the program's rows are more than fit");
    assert_eq!(loaded(owner.walker()), [0_u32; 0]);
    let missed = code + 8 * PAGE_BYTES + 0x100;
    let frames = [code + 0x100, 0x1f00, missed, 0x2000];
    let sample = |user| RawSample {
        time_ns: START_NS + 1,
        pid: Pid(7),
        tid: 7,
        generation: 1,
        thread_name: b"worker",
        in_kernel: false,
        kernel_stack_incomplete: false,
        stop: StopReason::PageNotLoaded,
        kernel_frames: &[],
        user,
        python: &[],
        python_stop: PythonStop::NotPython,
        has_gil: None,
        relocation: None,
    };
    let with_stack_pointers = sample(UserFrames::with_stack_pointers(&frames));
    assert_eq!(owner.verified(&with_stack_pointers), (2, StopReason::PageNotLoaded));
    settle(&mut owner, at(base, 2));
    let found = loaded(owner.walker());
    let of = |owner: &Processes<WalkerDouble>, address: u64| {
        let place = owner
            .image_at(Pid(7), START_NS)
            .unwrap()
            .mappings()
            .lookup(address, START_NS)
            .unwrap()
            .clone();
        let built = place.object.built().unwrap();
        let link_address = address - built.segments.bias(place.start, place.file_offset).unwrap();
        let first = built.unwind.as_ref().unwrap().link_range.start;
        ((link_address - first) >> PAGE_SHIFT) as u32
    };
    assert!(
        found.contains(&of(&owner, missed)) && found.contains(&of(&owner, further_out)),
        "{found:?}"
    );
    assert!(found.len() <= 2 * PAGES_TOGETHER as usize, "{found:?}");
    // Without a stack pointer it is the one page.
    let far = [code + 0x100, code + 80 * PAGE_BYTES];
    owner.verified(&sample(UserFrames::addresses_only(&far)));
    settle(&mut owner, at(base, 3));
    assert!(loaded(owner.walker()).contains(&of(&owner, far[1])));
    // No second look for what is there.
    let count = loaded(owner.walker()).len();
    owner.verified(&with_stack_pointers);
    assert!(owner.is_settled());
    assert_eq!((loaded(owner.walker()).len(), owner.open_looks), (count, 0));
}
