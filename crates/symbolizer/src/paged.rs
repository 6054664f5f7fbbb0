//! A section seen through a small cache of pages, as a reader that gimli accepts.
//!
//! A section is never held whole (unless it had to be decompressed), so debug information of any size costs
//! [`PAGE_BYTES`] × [`PAGE_SLOTS`] per section. Every read is paid for with [`Effort`]; when it is spent, reads fail.

use std::{borrow::Cow, cell::RefCell, fmt, rc::Rc, sync::Arc};

use gimli::{Error, LittleEndian, Reader, ReaderOffsetId, Result};

use crate::{
    effort::Effort,
    source::{ReadAt, read_exact_at},
};

const PAGE_BYTES: usize = 16 << 10;
const PAGE_SLOTS: usize = 64;
/// Longest string or block that is copied out of a section.
const LONGEST_COPY: u64 = 1 << 20;

/// Bytes of one section.
pub(crate) struct Section<'a> {
    bytes: Bytes<'a>,
    length: u64,
    effort: Rc<Effort>,
}

enum Bytes<'a> {
    Held(Arc<Vec<u8>>),
    Paged {
        source: &'a dyn ReadAt,
        start: u64,
        pages: RefCell<Pages>,
    },
}

/// A page lies in the slot of its number modulo the number of slots: sections are read mostly forward.
struct Pages {
    slots: Vec<Option<Page>>,
}

struct Page {
    number: u64,
    bytes: Box<[u8]>,
}

impl<'a> Section<'a> {
    /// The `length` bytes of `source` from `start`. The caller has checked that there are as many.
    pub(crate) fn paged(source: &'a dyn ReadAt, start: u64, length: u64, effort: Rc<Effort>) -> Rc<Self> {
        let pages = RefCell::new(Pages { slots: Vec::new() });
        Rc::new(Self {
            bytes: Bytes::Paged { source, start, pages },
            length,
            effort,
        })
    }

    /// Bytes that are in memory already.
    pub(crate) fn held(bytes: Arc<Vec<u8>>, effort: Rc<Effort>) -> Rc<Self> {
        Rc::new(Self {
            length: bytes.len() as u64,
            bytes: Bytes::Held(bytes),
            effort,
        })
    }

    /// Calls `read` with the bytes from `offset` up to the end of their page; at least one. `None` past the end, when a
    /// page cannot be read, or when the effort is spent.
    fn with_bytes<T>(&self, offset: u64, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        if offset >= self.length {
            return None;
        }
        let (source, start, pages) = match &self.bytes {
            Bytes::Held(bytes) => return bytes.get(usize::try_from(offset).ok()?..).map(read),
            Bytes::Paged { source, start, pages } => (*source, *start, pages),
        };
        let number = offset / PAGE_BYTES as u64;
        let mut pages = pages.borrow_mut();
        if pages.slots.is_empty() {
            pages.slots.resize_with(PAGE_SLOTS, || None);
        }
        let slot = &mut pages.slots[number as usize % PAGE_SLOTS];
        if slot.as_ref().is_none_or(|page| page.number != number) {
            if !self.effort.spend(Effort::PAGE) {
                return None;
            }
            let page_start = number * PAGE_BYTES as u64;
            let length = (self.length - page_start).min(PAGE_BYTES as u64) as usize;
            let mut bytes = match slot.take() {
                Some(page) if page.bytes.len() == length => page.bytes,
                _ => vec![0; length].into_boxed_slice(),
            };
            // The slot stays empty on failure; the next read tries again.
            read_exact_at(source, start.checked_add(page_start)?, &mut bytes).ok()?;
            *slot = Some(Page { number, bytes });
        }
        let page = slot.as_ref()?;
        page.bytes.get((offset % PAGE_BYTES as u64) as usize..).map(read)
    }
}

/// A range of a [`Section`] that is being read.
#[derive(Clone)]
pub(crate) struct PagedReader<'a> {
    section: Rc<Section<'a>>,
    offset: u64,
    length: u64,
}

impl<'a> PagedReader<'a> {
    pub(crate) fn new(section: Rc<Section<'a>>) -> Self {
        Self {
            offset: 0,
            length: section.length,
            section,
        }
    }

    /// The zero-terminated string at `offset`, without the zero and at most `limit` bytes of it.
    pub(crate) fn string_at(&self, offset: u64, limit: usize) -> Option<Vec<u8>> {
        let mut reader = self.clone();
        reader.forward(offset).ok()?;
        reader.length = reader.length.min(limit as u64);
        let length = reader.find(0).unwrap_or(reader.len());
        let mut bytes = vec![0; length];
        reader.read_slice(&mut bytes).ok()?;
        Some(bytes)
    }

    fn end_of_input<T>(&self) -> Result<T> {
        if self.section.effort.is_spent() {
            Err(Error::Io)
        } else {
            Err(Error::UnexpectedEof(self.offset_id()))
        }
    }

    fn advance(&mut self, count: u64) {
        self.offset += count;
        self.length -= count;
    }

    fn copied(&self) -> Result<Vec<u8>> {
        if self.length > LONGEST_COPY {
            return Err(Error::UnsupportedOffset);
        }
        let mut bytes = vec![0; self.length as usize];
        self.clone().read_slice(&mut bytes)?;
        Ok(bytes)
    }
}

impl fmt::Debug for PagedReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagedReader")
            .field("offset", &self.offset)
            .field("length", &self.length)
            .finish()
    }
}

impl Reader for PagedReader<'_> {
    type Endian = LittleEndian;
    type Offset = usize;

    fn endian(&self) -> LittleEndian {
        LittleEndian
    }

    fn len(&self) -> usize {
        self.length as usize
    }

    fn empty(&mut self) {
        self.length = 0;
    }

    fn truncate(&mut self, len: usize) -> Result<()> {
        if len as u64 > self.length {
            return Err(Error::UnexpectedEof(self.offset_id()));
        }
        self.length = len as u64;
        Ok(())
    }

    fn offset_from(&self, base: &Self) -> usize {
        self.offset.saturating_sub(base.offset) as usize
    }

    fn offset_id(&self) -> ReaderOffsetId {
        ReaderOffsetId(self.offset)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        id.0.checked_sub(self.offset)
            .filter(|offset| *offset <= self.length)
            .map(|offset| offset as usize)
    }

    fn find(&self, byte: u8) -> Result<usize> {
        let mut passed = 0;
        while passed < self.length {
            let left = self.length - passed;
            let (found, seen) = self
                .section
                .with_bytes(self.offset + passed, |bytes| {
                    let bytes = &bytes[..bytes.len().min(left as usize)];
                    (
                        bytes.iter().position(|candidate| *candidate == byte),
                        bytes.len() as u64,
                    )
                })
                .map_or_else(|| self.end_of_input(), Ok)?;
            if !self
                .section
                .effort
                .spend(1 + found.map_or(seen, |found| found as u64) / 16)
            {
                return Err(Error::Io);
            }
            if let Some(found) = found {
                return Ok(passed as usize + found);
            }
            passed += seen;
        }
        Err(Error::UnexpectedEof(self.offset_id()))
    }

    fn skip(&mut self, len: usize) -> Result<()> {
        if len as u64 > self.length {
            return Err(Error::UnexpectedEof(self.offset_id()));
        }
        self.advance(len as u64);
        Ok(())
    }

    fn split(&mut self, len: usize) -> Result<Self> {
        let mut first = self.clone();
        first.truncate(len)?;
        self.skip(len)?;
        Ok(first)
    }

    fn to_slice(&self) -> Result<Cow<'_, [u8]>> {
        self.copied().map(Cow::Owned)
    }

    fn to_string(&self) -> Result<Cow<'_, str>> {
        String::from_utf8(self.copied()?)
            .map(Cow::Owned)
            .or(Err(Error::BadUtf8))
    }

    fn to_string_lossy(&self) -> Result<Cow<'_, str>> {
        Ok(Cow::Owned(String::from_utf8_lossy(&self.copied()?).into_owned()))
    }

    fn read_slice(&mut self, buffer: &mut [u8]) -> Result<()> {
        if buffer.len() as u64 > self.length {
            return Err(Error::UnexpectedEof(self.offset_id()));
        }
        if !self.section.effort.spend(1 + buffer.len() as u64 / 64) {
            return Err(Error::Io);
        }
        let mut filled = 0;
        while filled < buffer.len() {
            let count = self.section.with_bytes(self.offset, |bytes| {
                let target = &mut buffer[filled..];
                let count = bytes.len().min(target.len());
                target[..count].copy_from_slice(&bytes[..count]);
                count
            });
            let Some(count) = count else { return self.end_of_input() };
            filled += count;
            self.advance(count as u64);
        }
        Ok(())
    }
}

impl PagedReader<'_> {
    /// Moves forward by an offset that may be larger than memory.
    fn forward(&mut self, count: u64) -> Result<()> {
        self.skip(usize::try_from(count).or(Err(Error::UnsupportedOffset))?)
    }
}
