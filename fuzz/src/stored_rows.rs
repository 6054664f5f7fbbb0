//! Any bytes as rows kept on disk, and any table as somebody would write it who knows the format.
//!
//! An input that begins with a zero is the file itself. Any other is a table: a number of pages, the number of the first,
//! the pages, then rows. The table is stored with a right digest, so that what the walker relies on stands alone between it
//! and the kernel; and then damaged in one place. What comes back whole comes back page by page, too.

use arbitrary::{Arbitrary, Result, Unstructured};
use profiler_common::{
    limits::PAGE_SHIFT,
    row::{Page, Row},
};
use profiler_unwinding::{ContentId, Limits, PageDirectory, RowTable, Statistics};

use crate::support::rows_at;

/// Small enough that inputs meet them.
const LIMITS: Limits = Limits {
    max_eh_frame_bytes: 1 << 20,
    max_functions: 1000,
    max_rows: 100,
    max_pages: 16,
    max_undescribed_bytes: 0,
    max_work_bytes: 1 << 18,
};
const CONTENT: ContentId = ContentId([7; 32]);
/// Numbers of the rules that the walker knows.
const CFA_RULES: u8 = 14;
const RBP_RULES: u8 = 4;

/// Runs one input.
pub fn run(data: &[u8]) {
    match data {
        [0, file @ ..] => as_file(file),
        // An input that is too short describes no table.
        [_, described @ ..] => drop(as_table(&mut Unstructured::new(described))),
        [] => {}
    }
}

fn as_file(file: &[u8]) {
    if let Ok(table) = RowTable::from_bytes(file, &CONTENT, &LIMITS) {
        assert!(is_sound(&table));
        assert_eq!(table.to_bytes(&CONTENT), file);
    }
}

fn as_table(input: &mut Unstructured<'_>) -> Result<()> {
    let pages = input.int_in_range(0..=LIMITS.max_pages + 1)?;
    let first_page = match u8::arbitrary(input)? {
        small @ 0..=250 => u64::from(small),
        _ => u64::arbitrary(input)?,
    };
    // Pages that follow each other, but for some.
    let mut next = 0;
    let pages = (0..pages).map(|_| {
        Ok(match u8::arbitrary(input)? {
            0..=15 => Page::EMPTY,
            16..=20 => Page(u64::arbitrary(input)?),
            count => {
                let page = Page::new(next, u32::from(count) % 8);
                next += page.count();
                page
            }
        })
    });
    let pages = pages.collect::<Result<Vec<_>>>()?;
    let damage = usize::arbitrary(input)?;
    let mut rows = Vec::new();
    while rows.len() <= LIMITS.max_rows as usize && input.len() >= 8 {
        rows.push(Row(u64::arbitrary(input)?));
    }
    check(
        &RowTable {
            first_page,
            pages,
            rows,
            statistics: Statistics::default(),
        },
        damage,
    );
    Ok(())
}

fn check(table: &RowTable, damage: usize) {
    let mut bytes = table.to_bytes(&CONTENT);
    let read = RowTable::from_bytes(&bytes, &CONTENT, &LIMITS);
    assert_eq!(read.is_ok(), is_sound(table), "{read:?}");
    if let Ok(read) = read {
        assert_eq!(read, *table);
        for (address, row) in rows_at(&read) {
            assert_eq!(read.find(address).map(|found| found.at(0)), Some(row));
        }
        assert!(RowTable::from_bytes(&bytes, &ContentId([8; 32]), &LIMITS).is_err());
        assert_eq!(by_page(&read, &bytes), read.rows);
    }
    let place = damage / 8 % bytes.len();
    bytes[place] ^= 1 << (damage % 8);
    assert!(RowTable::from_bytes(&bytes, &CONTENT, &LIMITS).is_err(), "bit {place}");
}

/// The rows of a table as they are read page by page, each of which is refused when it is damaged.
fn by_page(table: &RowTable, bytes: &[u8]) -> Vec<Row> {
    let directory = PageDirectory::of(table);
    let mut rows = Vec::new();
    for (index, page) in (0..).zip(&table.pages) {
        assert_eq!(directory.has_rows(index), *page != Page::EMPTY);
        let Some(place) = directory.place(index) else { continue };
        let mut bytes = bytes[place.start as usize..place.end as usize].to_vec();
        rows.extend(directory.rows_of(index, &bytes).expect("what was stored"));
        bytes[0] ^= 1;
        assert_eq!(directory.rows_of(index, &bytes), None);
    }
    rows
}

/// Whether the walker could search the table: as in the description of the type, read plainly.
fn is_sound(table: &RowTable) -> bool {
    let holds_code = |page: Option<&Page>| page.is_some_and(|page| *page != Page::EMPTY);
    let mut rows = table.rows.iter();
    let mut next = 0;
    let pages_are_sound = table.pages.iter().filter(|page| **page != Page::EMPTY).all(|page| {
        let follows = u64::from(page.first()) == next && page.count() > 0;
        next += u64::from(page.count());
        let mut before = None;
        follows
            && (0..page.count()).all(|index| {
                let Some(row) = rows.next() else { return false };
                let ascends = match before.replace(row.page_offset()) {
                    Some(before) => before < row.page_offset(),
                    None => index == 0 && row.page_offset() == 0,
                };
                ascends && row.cfa_rule() < CFA_RULES && row.rbp_rule() < RBP_RULES
            })
    });
    let end = u128::from(table.first_page) + table.pages.len() as u128;
    pages_are_sound
        && rows.next().is_none()
        && holds_code(table.pages.first())
        && holds_code(table.pages.last())
        && table.pages.len() <= LIMITS.max_pages as usize
        && table.rows.len() <= LIMITS.max_rows as usize
        && end << PAGE_SHIFT <= u128::from(u64::MAX)
}
