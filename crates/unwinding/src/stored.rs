//! Rows as bytes: what may be kept of a table beyond the life of the daemon.
//!
//! In: a [`RowTable`]. Out: bytes, and from bytes the same table again. The bytes may have been damaged, cut or written by
//! somebody else meanwhile: a table is given back only if its digest is right and if everything that the walker relies on
//! holds. Little endian throughout:
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `PROFROWS` |
//! | 32 | digest (SHA-256) of the compiler's version and of all that follows |
//! | 32 | [`ContentId`] |
//! | 16 | number of the first page, number of pages, number of rows |
//! | 8 each | [`Statistics`], then pages, then rows |

use profiler_common::{
    limits::PAGE_SHIFT,
    row::{CfaRule, Page, RbpRule, Row},
};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    compile::Limits,
    identity::ContentId,
    rule::UnsupportedRule,
    table::{RowTable, Statistics},
};

const MAGIC: &[u8; 8] = b"PROFROWS";
/// Goes into the digest, so that rows of another release of the compiler are compiled again. To be raised whenever the
/// compiler makes other rows of the same bytes, or they are laid out in another way.
const COMPILER: &str = concat!("rows 2 of ", env!("CARGO_PKG_VERSION"), "\0");
const DIGEST_BYTES: usize = 32;
const ID_BYTES: usize = 32;
/// Where the digested part begins.
const DIGESTED: usize = MAGIC.len() + DIGEST_BYTES;
/// Number of the first page, of pages and of rows.
const COUNTS_BYTES: usize = 16;
const STATISTICS: usize = 8 + UnsupportedRule::ALL.len();
const HEADER_BYTES: usize = DIGESTED + ID_BYTES + COUNTS_BYTES + STATISTICS * 8;

/// Why bytes are no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StoredError {
    /// They do not begin as a table does.
    #[error("these are no rows")]
    Foreign,
    /// They end too early or too late.
    #[error("they are {found} bytes instead of {expected}")]
    Length {
        /// How many there are.
        found: u64,
        /// How many their header speaks of.
        expected: u64,
    },
    /// The digest is another: they are damaged, or of another release.
    #[error("they are damaged or of another release")]
    Digest,
    /// They are the rows of another object.
    #[error("they are the rows of another object")]
    OtherObject,
    /// The table is larger than allowed.
    #[error("the table is larger than allowed")]
    TooLarge,
    /// The walker could not search such a table.
    #[error("page {page} is malformed")]
    Malformed {
        /// Index of the page.
        page: u64,
    },
}

impl RowTable {
    /// The table as bytes, as the rows of the object with this id.
    pub fn to_bytes(&self, content: &ContentId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(stored_bytes(self.pages.len() as u64, self.rows.len() as u64) as usize);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[0; DIGEST_BYTES]);
        bytes.extend_from_slice(&content.0);
        bytes.extend_from_slice(&self.first_page.to_le_bytes());
        // The compiler's limits keep both below 32 bits.
        bytes.extend_from_slice(&(self.pages.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.rows.len() as u32).to_le_bytes());
        let words = self.statistics.to_words().into_iter();
        let words = words.chain(self.pages.iter().map(|page| page.0));
        for word in words.chain(self.rows.iter().map(|row| row.0)) {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let digest = digest(&bytes[DIGESTED..]);
        bytes[MAGIC.len()..DIGESTED].copy_from_slice(&digest);
        bytes
    }

    /// The table that was made into these bytes, if they are whole, of the object with this id, and within limits.
    pub fn from_bytes(bytes: &[u8], content: &ContentId, limits: &Limits) -> Result<Self, StoredError> {
        let found = bytes.len() as u64;
        let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else {
            let expected = HEADER_BYTES as u64;
            return Err(if bytes.starts_with(MAGIC) {
                StoredError::Length { found, expected }
            } else {
                StoredError::Foreign
            });
        };
        if !header.starts_with(MAGIC) {
            return Err(StoredError::Foreign);
        }
        let counts = DIGESTED + ID_BYTES;
        let first_page = word(header, counts);
        let numbers = word(header, counts + 8);
        let (pages, rows) = (numbers & u64::from(u32::MAX), numbers >> 32);
        if pages > u64::from(limits.max_pages) || rows > u64::from(limits.max_rows) {
            return Err(StoredError::TooLarge);
        }
        let expected = stored_bytes(pages, rows);
        if found != expected {
            return Err(StoredError::Length { found, expected });
        }
        if digest(&bytes[DIGESTED..])[..] != bytes[MAGIC.len()..DIGESTED] {
            return Err(StoredError::Digest);
        }
        if header[DIGESTED..counts] != content.0 {
            return Err(StoredError::OtherObject);
        }
        let (page_bytes, row_bytes) = body.split_at(pages as usize * 8);
        let statistics = std::array::from_fn(|index| word(header, counts + COUNTS_BYTES + index * 8));
        let table = Self {
            first_page,
            pages: words(page_bytes).map(Page).collect(),
            rows: words(row_bytes).map(Row).collect(),
            statistics: Statistics::of_words(&statistics),
        };
        table.check()?;
        Ok(table)
    }

    /// Whether everything holds that the walker relies on. A right digest says who wrote it, not that it was right.
    fn check(&self) -> Result<(), StoredError> {
        let mut next = 0;
        for (index, page) in self.pages.iter().enumerate() {
            let malformed = StoredError::Malformed { page: index as u64 };
            if *page == Page::EMPTY {
                continue;
            }
            let end = next + page.count() as usize;
            let rows = self.rows.get(next..end).ok_or(malformed)?;
            let is_in_order = rows
                .windows(2)
                .all(|pair| pair[0].page_offset() < pair[1].page_offset());
            let begins = rows.first().is_some_and(|row| row.page_offset() == 0);
            if page.first() as usize != next || !begins || !is_in_order || !rows.iter().all(is_known) {
                return Err(malformed);
            }
            next = end;
        }
        let pages = self.pages.len() as u64;
        let is_empty = |page: Option<&Page>| page.is_none_or(|page| *page == Page::EMPTY);
        let ends_with_code = !is_empty(self.pages.first()) && !is_empty(self.pages.last());
        let last_page = self.first_page.checked_add(pages);
        let has_addresses = last_page.is_some_and(|last| last <= u64::MAX >> PAGE_SHIFT);
        match next == self.rows.len() && ends_with_code && has_addresses {
            true => Ok(()),
            false => Err(StoredError::Malformed { page: pages }),
        }
    }
}

/// Bytes that a table of so many pages and rows takes.
const fn stored_bytes(pages: u64, rows: u64) -> u64 {
    rows_offset(pages) + rows * 8
}

/// Where the rows of a table of so many pages begin.
pub(crate) const fn rows_offset(pages: u64) -> u64 {
    HEADER_BYTES as u64 + pages * 8
}

impl Limits {
    /// Most bytes of a table within these limits, as [`RowTable::to_bytes`] makes them.
    pub const fn max_stored_bytes(&self) -> u64 {
        stored_bytes(self.max_pages as u64, self.max_rows as u64)
    }
}

fn digest(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut digest = Sha256::new();
    digest.update(COMPILER);
    digest.update(bytes);
    digest.finalize().into()
}

fn word(bytes: &[u8], offset: usize) -> u64 {
    bytes
        .get(offset..offset + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks().0.iter().map(|chunk| u64::from_le_bytes(*chunk))
}

/// Whether a row has rules that the walker knows.
fn is_known(row: &Row) -> bool {
    row.cfa_rule() <= CfaRule::R11 as u8 && row.rbp_rule() <= RbpRule::Lost as u8
}

impl Statistics {
    fn to_words(self) -> [u64; STATISTICS] {
        let [a, b, c, d, e, f] = self.unsupported_rules;
        [
            self.functions,
            self.functions_without_code,
            self.functions_malformed,
            self.functions_deduced,
            self.rules,
            self.rules_without_rbp,
            self.code_bytes,
            self.unsupported_bytes,
            a,
            b,
            c,
            d,
            e,
            f,
        ]
    }

    fn of_words(words: &[u64; STATISTICS]) -> Self {
        let [
            functions,
            functions_without_code,
            functions_malformed,
            functions_deduced,
            rules,
            rules_without_rbp,
            code_bytes,
            unsupported_bytes,
            unsupported_rules @ ..,
        ] = *words;
        Self {
            functions,
            functions_without_code,
            functions_malformed,
            functions_deduced,
            rules,
            rules_without_rbp,
            code_bytes,
            unsupported_bytes,
            unsupported_rules,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONTENT: ContentId = ContentId([7; 32]);

    fn row(offset: u16) -> Row {
        Row::new(offset, CfaRule::Rsp, 8 + i64::from(offset % 64) * 8, RbpRule::Same, 0).unwrap()
    }

    /// Three pages, the middle one without code.
    fn table() -> RowTable {
        RowTable {
            first_page: 5,
            pages: vec![Page::new(0, 3), Page::EMPTY, Page::new(3, 2)],
            rows: vec![
                Row::marker(0, CfaRule::Gap),
                row(16),
                Row::marker(80, CfaRule::Root),
                row(0),
                Row::marker(9, CfaRule::Gap),
            ],
            statistics: Statistics::of_words(&std::array::from_fn(|index| index as u64 + 1)),
        }
    }

    fn read(bytes: &[u8]) -> Result<RowTable, StoredError> {
        RowTable::from_bytes(bytes, &CONTENT, &Limits::default())
    }

    /// As somebody would who knows the format.
    fn with_right_digest(mut bytes: Vec<u8>) -> Vec<u8> {
        let digest = digest(&bytes[DIGESTED..]);
        bytes[MAGIC.len()..DIGESTED].copy_from_slice(&digest);
        bytes
    }

    #[test]
    fn a_table_comes_back_as_it_was() {
        let bytes = table().to_bytes(&CONTENT);
        assert_eq!(read(&bytes), Ok(table()));
        assert_eq!(bytes.len() as u64, stored_bytes(3, 5));
    }

    #[test]
    fn a_compiled_table_comes_back_as_it_was() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let limits = Limits::default();
        let frames = crate::CallFrames::read(&bytes[..], &limits).unwrap();
        let (content, table) = (frames.content_id(), frames.compile(&limits).unwrap());
        let stored = table.to_bytes(&content);
        assert_eq!(RowTable::from_bytes(&stored, &content, &limits), Ok(table));
        assert!((stored.len() as u64) < limits.max_stored_bytes());
    }

    #[test]
    fn no_changed_bit_and_no_cut_passes() {
        let bytes = table().to_bytes(&CONTENT);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{length} bytes");
        }
        let longer = [&bytes[..], &[0; 8]].concat();
        assert!(matches!(read(&longer), Err(StoredError::Length { .. })));
        assert_eq!(read(b""), Err(StoredError::Foreign));
        assert_eq!(read(&[0; 4096]), Err(StoredError::Foreign));
    }

    #[test]
    fn rows_of_another_object_are_refused() {
        let bytes = table().to_bytes(&ContentId([8; 32]));
        assert_eq!(read(&bytes), Err(StoredError::OtherObject));
    }

    #[test]
    fn limits_hold_before_anything_is_taken_in() {
        let bytes = table().to_bytes(&CONTENT);
        let limits = |max_pages, max_rows| Limits {
            max_pages,
            max_rows,
            ..Limits::default()
        };
        for (pages, rows, is_allowed) in [(3, 5, true), (2, 5, false), (3, 4, false)] {
            let read = RowTable::from_bytes(&bytes, &CONTENT, &limits(pages, rows));
            assert_eq!(read.is_ok(), is_allowed);
        }
        let mut giant = bytes;
        giant[DIGESTED + ID_BYTES + 8..DIGESTED + ID_BYTES + 16].fill(0xff);
        assert_eq!(read(&giant), Err(StoredError::TooLarge));
    }

    #[test]
    fn what_the_walker_relies_on_is_checked_beyond_the_digest() {
        let check = |change: fn(&mut RowTable), expected: u64| {
            let mut table = table();
            change(&mut table);
            let bytes = with_right_digest(table.to_bytes(&CONTENT));
            assert_eq!(read(&bytes), Err(StoredError::Malformed { page: expected }));
        };
        check(|table| table.rows.swap(1, 2), 0);
        check(|table| table.rows[0] = row(1), 0);
        check(|table| table.rows[2] = Row(80 | 0x1f << 56), 0);
        check(|table| table.rows[2] = Row(80 | 0x7 << 61), 0);
        check(|table| table.pages[0] = Page::new(0, u32::MAX), 0);
        check(|table| table.pages[2] = Page::new(2, 2), 2);
        check(|table| table.pages[2] = Page::NOT_LOADED, 2);
        check(|table| table.rows.push(row(100)), 3);
        check(|table| table.pages.push(Page::EMPTY), 4);
        check(|table| table.pages.insert(0, Page::EMPTY), 4);
        check(|table| table.first_page = u64::MAX, 3);
        check(|table| table.first_page = u64::MAX >> PAGE_SHIFT, 3);
        check(
            |table| {
                table.pages.clear();
                table.rows.clear();
            },
            0,
        );
    }

    proptest! {
        #[test]
        fn any_bytes_with_a_right_digest_make_a_searchable_table_or_none(
            changes in proptest::collection::vec((DIGESTED..HEADER_BYTES + 8 * 8, any::<u8>()), 1..8),
            address in any::<u64>(),
        ) {
            let mut bytes = table().to_bytes(&CONTENT);
            for (place, value) in changes {
                bytes[place] = value;
            }
            if let Ok(table) = read(&with_right_digest(bytes)) {
                let range = table.link_range();
                let within = range.start + address % (range.end - range.start);
                prop_assert!(table.find(within).is_some());
            }
        }
    }
}
