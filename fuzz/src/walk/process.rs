//! A process made of any bytes: mappings, pages, rows and a stack.

use std::{cell::RefCell, ops::Range};

use arbitrary::{Arbitrary, Result, Unstructured};
use profiler_common::{
    process::{Mapping, kind},
    row::{CfaRule, Page, RbpRule, Row},
    walk::Target,
};

/// Where the stack begins.
pub(super) const STACK: u64 = 0x7ffc_0000_0000;
/// The end of the memory of processes.
const USER_END: u64 = 1 << 47;
/// Where code begins.
pub(super) const CODE: u64 = 0x40_0000;

const CFA_RULES: [CfaRule; 14] = [
    CfaRule::Rsp,
    CfaRule::Rbp,
    CfaRule::Plt,
    CfaRule::Root,
    CfaRule::Gap,
    CfaRule::SignalFrame,
    CfaRule::Unsupported,
    CfaRule::DerefRbp,
    CfaRule::DerefRspPlus8,
    CfaRule::R10,
    CfaRule::R13,
    CfaRule::Plt10,
    CfaRule::Rax,
    CfaRule::R11,
];
const RBP_RULES: [RbpRule; 4] = [RbpRule::Same, RbpRule::AtCfa, RbpRule::AtRbp, RbpRule::Lost];

/// A row before it is packed into 8 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlainRow {
    pub(super) page_offset: u16,
    pub(super) cfa: CfaRule,
    pub(super) cfa_offset: i64,
    pub(super) rbp: RbpRule,
    pub(super) rbp_offset: i64,
}

/// What one step looked at.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) reads: usize,
    pub(super) mappings: Vec<u32>,
    pub(super) page: Option<Page>,
    pub(super) rows: Vec<u32>,
}

/// What a walk sees of a process, and what it has found.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) mappings: Vec<Mapping>,
    /// Indices of its own mappings; the others belong to other processes.
    pub(super) own: Range<u32>,
    pub(super) pages: Vec<Page>,
    rows: Vec<Row>,
    /// The rows of each page, where the tables are sound.
    pub(super) plain: Vec<Vec<PlainRow>>,
    words: Vec<u16>,
    /// The stack repeats itself for ever, so that walks get long.
    endless: bool,
    uprobe_originals: Vec<u16>,
    pub(super) frames: Vec<u64>,
    pub(super) seen: RefCell<Seen>,
}

impl Process {
    /// Tables as the daemon writes them: mappings sorted and apart, rows sorted within their pages.
    pub(super) fn sound(input: &mut Unstructured<'_>) -> Result<Self> {
        let foreign = |input: &mut Unstructured<'_>| some(input, 2, any_mapping);
        let before = foreign(input)?;
        let mut cursor = CODE;
        let own = some(input, 10, |input| {
            let start = cursor + u64::from(u8::arbitrary(input)?) * 16;
            cursor = start + (1 + u64::from(u16::arbitrary(input)?)) * 16;
            sound_mapping(input, start, cursor)
        })?;
        let after = foreign(input)?;
        let mut plain = Vec::new();
        for _ in 0..input.int_in_range(0..=6)? {
            plain.push(plain_rows(input)?);
        }
        let (mut pages, mut rows) = (Vec::new(), Vec::new());
        for page in &plain {
            pages.push(Page::new(rows.len() as u32, page.len() as u32));
            rows.extend(
                page.iter()
                    .filter_map(|row| Row::new(row.page_offset, row.cfa, row.cfa_offset, row.rbp, row.rbp_offset)),
            );
        }
        if let Some(page) = pages.last_mut()
            && bool::arbitrary(input)?
        {
            *page = Page::NOT_LOADED;
        }
        let first = before.len() as u32;
        let own_range = first..first + own.len() as u32;
        Self::with_stack(input, [before, own, after].concat(), own_range, pages, rows, plain)
    }

    /// Tables of any content.
    pub(super) fn unsound(input: &mut Unstructured<'_>) -> Result<Self> {
        let mappings = some(input, 12, any_mapping)?;
        let first = input.int_in_range(0..=8)?;
        let first = *input.choose(&[first, first, first, u32::MAX - 2])?;
        let count = *input.choose(&[mappings.len() as u32, 3, 8192, u32::MAX])?;
        let pages = some(input, 8, |input| {
            let (start, count) = (u8::arbitrary(input)?, u8::arbitrary(input)?);
            let count = *input.choose(&[u32::from(count), u32::from(count), u32::MAX, 1 << 17])?;
            Ok(*input.choose(&[
                Page::new(u32::from(start & 15), count),
                Page::new(u32::MAX - u32::from(start), count),
                Page::EMPTY,
                Page::NOT_LOADED,
            ])?)
        })?;
        let rows = some(input, 40, |input| Ok(Row(u64::arbitrary(input)?)))?;
        Self::with_stack(
            input,
            mappings,
            first..first.wrapping_add(count),
            pages,
            rows,
            Vec::new(),
        )
    }

    fn with_stack(
        input: &mut Unstructured<'_>,
        mappings: Vec<Mapping>,
        own: Range<u32>,
        pages: Vec<Page>,
        rows: Vec<Row>,
        plain: Vec<Vec<PlainRow>>,
    ) -> Result<Self> {
        Ok(Self {
            mappings,
            own,
            pages,
            rows,
            plain,
            endless: bool::arbitrary(input)?,
            uprobe_originals: some(input, 4, u16::arbitrary)?,
            words: some(input, 64, u16::arbitrary)?,
            frames: Vec::new(),
            seen: RefCell::default(),
        })
    }

    pub(super) fn start_step(&mut self) {
        self.seen.take();
    }

    /// The mappings of the process, as far as there are any.
    pub(super) fn own_mappings(&self) -> &[Mapping] {
        self.mappings
            .get(self.own.start as usize..self.own.end as usize)
            .unwrap_or_default()
    }

    /// An address in some mapping, or just outside.
    pub(super) fn code_address(&self, choice: u16) -> u64 {
        let (mapping, offset) = (usize::from(choice >> 12), u64::from(choice & 0xfff));
        match self.mappings.get(mapping) {
            Some(mapping) if offset == 0xfff => mapping.end,
            Some(mapping) => mapping.start.wrapping_add(offset * 17),
            None => u64::from(choice),
        }
    }

    /// What the stack holds at an address, without a note that it was read.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        let index = usize::try_from(address.checked_sub(STACK)? / 8).ok()?;
        if address >= USER_END || self.words.is_empty() || !self.endless && index >= self.words.len() {
            return None;
        }
        let word = self.words[index % self.words.len()];
        let low = u64::from(word & 0x1fff);
        Some(match word >> 13 {
            0 => low,
            1 => STACK + low * 8,
            2 => address + (low & 0xff) * 8,
            3 => u64::MAX - low,
            _ => self.code_address(word & 0x7fff),
        })
    }

    /// The original of an address in the uprobes page.
    pub(super) fn original(&self, index: u32) -> Option<u64> {
        let choice = self.uprobe_originals.get(index as usize % 5)?;
        Some(self.code_address(*choice))
    }
}

impl Target for Process {
    fn read(&self, runtime_address: u64) -> Option<u64> {
        self.seen.borrow_mut().reads += 1;
        self.word(runtime_address)
    }

    fn mapping(&self, index: u32) -> Option<&Mapping> {
        self.seen.borrow_mut().mappings.push(index);
        self.mappings.get(index as usize)
    }

    fn page(&self, index: u32) -> Option<Page> {
        let page = self.pages.get(index as usize).copied();
        self.seen.borrow_mut().page = page;
        page
    }

    fn row(&self, index: u32) -> Option<Row> {
        self.seen.borrow_mut().rows.push(index);
        self.rows.get(index as usize).copied()
    }

    fn push(&mut self, index: u32, ip: u64, _sp: u64) {
        assert_eq!(index as usize, self.frames.len(), "frames are pushed in order");
        self.frames.push(ip);
    }

    fn uprobe_instruction(&self, ip: u64) -> Option<u64> {
        self.original(ip as u32 >> 4)
    }

    fn uprobe_return(&mut self, index: u32) -> Option<u64> {
        self.original(index)
    }
}

fn any_mapping(input: &mut Unstructured<'_>) -> Result<Mapping> {
    let start = *input.choose(&[CODE, 0, STACK, u64::MAX - 0xfff])? + u64::from(u8::arbitrary(input)?) * 16;
    Ok(Mapping {
        start,
        end: start.wrapping_add(u64::from(u16::arbitrary(input)?) << input.choose(&[0, 4, 48])?),
        bias: *input.choose(&[0, start, CODE])?,
        page_base: *input.choose(&[0, 1, u32::MAX, 0u32.wrapping_sub((CODE >> 16) as u32)])?,
        kind: input.int_in_range(kind::ROWS..=kind::UPROBES + 1)?,
    })
}

/// A mapping whose rows begin with one of the first pages.
fn sound_mapping(input: &mut Unstructured<'_>, start: u64, end: u64) -> Result<Mapping> {
    let bias = *input.choose(&[start, 0, start.wrapping_sub(0xfff0), CODE, 0x7f00_0000_0000])?;
    let first_page = u32::from(u8::arbitrary(input)? & 3);
    let kinds = [
        kind::ROWS,
        kind::ROWS,
        kind::ROWS,
        kind::FRAME_POINTERS,
        kind::PENDING,
        kind::UPROBES,
        kind::UPROBES + 1,
    ];
    Ok(Mapping {
        start,
        end,
        bias,
        page_base: first_page.wrapping_sub((start.wrapping_sub(bias) >> 16) as u32),
        kind: *input.choose(&kinds)?,
    })
}

fn plain_rows(input: &mut Unstructured<'_>) -> Result<Vec<PlainRow>> {
    let mut rows = some(input, 24, |input| {
        // Mostly what compilers write.
        let cfa = match input.ratio(1, 2)? {
            true => CfaRule::Rsp,
            false => *input.choose(&CFA_RULES)?,
        };
        let words = i64::from(i8::arbitrary(input)?);
        let far = *input.choose(&[1, 1, 1, 1 << 16])?;
        Ok(PlainRow {
            page_offset: u16::arbitrary(input)?,
            cfa,
            cfa_offset: words * 8 * far,
            rbp: *input.choose(&RBP_RULES)?,
            rbp_offset: i64::from(i8::arbitrary(input)?) * 8 * *input.choose(&[1, 1, 1 << 8])?,
        })
    })?;
    rows.sort_by_key(|row| row.page_offset);
    rows.dedup_by_key(|row| row.page_offset);
    Ok(rows)
}

fn some<'a, T>(
    input: &mut Unstructured<'a>,
    most: usize,
    mut one: impl FnMut(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = input.int_in_range(0..=most)?;
    (0..count).map(|_| one(input)).collect()
}
