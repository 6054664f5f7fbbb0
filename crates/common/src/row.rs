//! Unwind rows: how to find the caller's frame from an address in a function.
//!
//! A [`Row`] holds for the code from its own address to that of the next row of its page. Rows are sorted by address
//! within pages of 64 KiB of link addresses; every page begins with a row at offset 0, so that a page can be searched,
//! loaded and left out by itself. The rules are what a compiler's call frame information for x86-64 comes down to
//! (System V ABI, AMD64 supplement, 3.7; DWARF 5, 6.4).

use crate::limits::PAGE_SHIFT;

/// How to find the canonical frame address, the stack pointer before the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CfaRule {
    /// `rsp + offset`.
    Rsp = 0,
    /// `rbp + offset`.
    Rbp = 1,
    /// The expression for procedure linkage tables: `rsp + 8`, and 8 more where the low four bits of `rip` are ≥ 11.
    Plt = 2,
    /// The outermost frame: the return address is undefined. A stack that ends here has a proven root.
    Root = 3,
    /// No function is described here.
    Gap = 4,
    /// A signal trampoline: the registers lie in the signal frame on the stack.
    SignalFrame = 5,
    /// Described by a rule that a row cannot hold.
    Unsupported = 6,
    /// `*(rbp + offset)`: functions that realign their stack keep the address of their frame there.
    DerefRbp = 7,
    /// `*(rsp + offset) + 8`: hand-written vector code (OpenSSL) saves its caller's stack pointer this way.
    DerefRspPlus8 = 8,
    /// `r10 + offset`: prologue of functions that realign their stack. Known in the innermost frame only.
    R10 = 9,
    /// `r13 + offset`, likewise.
    R13 = 10,
    /// As [`CfaRule::Plt`] with the threshold 10 (lld and newer binutils with IBT).
    Plt10 = 11,
    /// `rax + offset`: hand-written code. Known in the innermost frame only.
    Rax = 12,
    /// `r11 + offset`, likewise.
    R11 = 13,
}

/// How to find the caller's `rbp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RbpRule {
    /// Unchanged since the caller.
    Same = 0,
    /// Saved at `cfa + offset`.
    AtCfa = 1,
    /// Saved at `rbp + offset`.
    AtRbp = 2,
    /// Not recoverable; a later frame that needs it ends the stack.
    Lost = 3,
}

/// One unwind row in 8 bytes.
///
/// | bits | content |
/// |---|---|
/// | 0–15 | offset of the first covered address in its page |
/// | 16–39 | offset of the CFA rule, signed, in units of 8 bytes |
/// | 40–55 | offset of the rbp rule, signed, in units of 8 bytes |
/// | 56–60 | [`CfaRule`] |
/// | 61–63 | [`RbpRule`] |
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Row(pub u64);

impl Row {
    /// A row for the code at `page_offset`, or `None` if an offset does not fit: not a multiple of 8, or too large.
    pub fn new(page_offset: u16, cfa: CfaRule, cfa_offset: i64, rbp: RbpRule, rbp_offset: i64) -> Option<Self> {
        if cfa_offset % 8 != 0 || rbp_offset % 8 != 0 {
            return None;
        }
        let cfa_words = cfa_offset / 8;
        let rbp_words = i16::try_from(rbp_offset / 8).ok()?;
        if !(-(1 << 23)..1 << 23).contains(&cfa_words) {
            return None;
        }
        Some(Self(
            u64::from(page_offset)
                | ((cfa_words as u64 & 0xff_ffff) << 16)
                | (u64::from(rbp_words as u16) << 40)
                | ((cfa as u64) << 56)
                | ((rbp as u64) << 61),
        ))
    }

    /// A row without offsets: [`CfaRule::Root`], [`CfaRule::Gap`], [`CfaRule::SignalFrame`], [`CfaRule::Unsupported`].
    pub const fn marker(page_offset: u16, cfa: CfaRule) -> Self {
        Self(page_offset as u64 | ((cfa as u64) << 56))
    }

    /// The same rule from another offset in a page.
    #[must_use]
    pub const fn at(self, page_offset: u16) -> Self {
        Self((self.0 & !0xffff) | page_offset as u64)
    }

    /// Offset in its page of the first address that the row covers.
    #[inline(always)]
    pub const fn page_offset(self) -> u16 {
        self.0 as u16
    }

    /// The rule without its address: equal for rows that may be merged.
    pub const fn rule(self) -> u64 {
        self.0 >> 16
    }

    /// Number of the CFA rule, as in [`CfaRule`].
    #[inline(always)]
    pub const fn cfa_rule(self) -> u8 {
        (self.0 >> 56) as u8 & 0x1f
    }

    /// Number of the rbp rule, as in [`RbpRule`].
    #[inline(always)]
    pub const fn rbp_rule(self) -> u8 {
        (self.0 >> 61) as u8
    }

    /// Offset of the CFA rule in bytes.
    #[inline(always)]
    pub const fn cfa_offset(self) -> i64 {
        ((self.0 << 24) as i64 >> 40) << 3
    }

    /// Offset of the rbp rule in bytes.
    #[inline(always)]
    pub const fn rbp_offset(self) -> i64 {
        ((self.0 << 8) as i64 >> 48) << 3
    }
}

impl core::fmt::Debug for Row {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{:#06x}: cfa rule {} {:+}, rbp rule {} {:+}",
            self.page_offset(),
            self.cfa_rule(),
            self.cfa_offset(),
            self.rbp_rule(),
            self.rbp_offset()
        )
    }
}

/// Where the rows of one page lie: index of the first in the low half, their number in the high half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Page(pub u64);

impl Page {
    /// A page of code without any function.
    pub const EMPTY: Self = Self(0);
    /// A page whose rows are known to exist but are not loaded.
    pub const NOT_LOADED: Self = Self(u64::MAX);

    /// The page whose `count` rows begin at row `first` of all rows.
    pub const fn new(first: u32, count: u32) -> Self {
        Self(first as u64 | (count as u64) << 32)
    }

    /// Index of the first row.
    #[inline(always)]
    pub const fn first(self) -> u32 {
        self.0 as u32
    }

    /// Number of rows.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Number of the page that holds a link address.
pub const fn page_of(link_address: u64) -> u64 {
    link_address >> PAGE_SHIFT
}
