//! Profiles of memory: in bytes of pages, each chosen by chance and counted for those that were not.

use std::fmt;

use crate::number::{counted, percent_down, thousands};

/// What a page is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageKind {
    /// Memory of the process's own.
    #[default]
    Anonymous,
    /// Memory of its own that was written to although it was there: a copy of what a fork shared, mostly.
    Copied,
    /// Of a file, or of memory that processes share.
    File,
}

/// What the counts of a profile are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// Samples, each of which stands for time on a CPU.
    #[default]
    CpuTime,
    /// Bytes that were touched first in the span and are still there.
    Growth,
    /// Bytes that were touched first in the span, there or not.
    FirstTouch,
    /// Bytes asked of the kernel by calls in the span, given back or not.
    Mapped,
}

impl Measure {
    /// The name in formats.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CpuTime => "cpu",
            Self::Growth => "growth",
            Self::FirstTouch => "first_touch",
            Self::Mapped => "mapped",
        }
    }

    /// Whether counts are bytes.
    pub const fn is_bytes(self) -> bool {
        !matches!(self, Self::CpuTime)
    }
}

/// How well the bytes of a profile of memory are known.
///
/// Displays as the beginning of the line that ends its report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageQuality {
    /// Which bytes the profile shows.
    pub measure: Measure,
    /// Of which pages.
    pub kind: PageKind,
    /// Bytes still there, of those pages.
    pub growth: u64,
    /// The standard error of that: in two of three cases it is off by no more.
    pub growth_error: u64,
    /// Bytes touched, of those pages. Of [`Measure::Mapped`] those asked for; nothing else is known then but the calls, as `pages`.
    pub first_touch: u64,
    /// Bytes still there of pages of the other kinds.
    pub other_growth: u64,
    /// Chosen pages that `growth` was made of, and the lowest and the highest level that they were chosen at: one page of
    /// 2^level was.
    pub pages: u64,
    /// See [`Self::pages`].
    pub levels: (u32, u32),
}

impl PageQuality {
    /// Adds what another profile knows of itself.
    pub fn merge(&mut self, other: &Self) {
        let squares = |value: u64| (value as f64) * (value as f64);
        let error = (squares(self.growth_error) + squares(other.growth_error)).sqrt();
        self.levels = match (self.pages, other.pages) {
            (0, _) => other.levels,
            (_, 0) => self.levels,
            _ => (self.levels.0.min(other.levels.0), self.levels.1.max(other.levels.1)),
        };
        self.growth = self.growth.saturating_add(other.growth);
        self.growth_error = error as u64;
        self.first_touch = self.first_touch.saturating_add(other.first_touch);
        self.other_growth = self.other_growth.saturating_add(other.other_growth);
        self.pages = self.pages.saturating_add(other.pages);
    }
}

impl fmt::Display for PageQuality {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.measure == Measure::Mapped {
            let calls = counted(self.pages, "call");
            return write!(out, "{} asked for in {calls}", mebibytes(self.first_touch));
        }
        let kind = match self.kind {
            PageKind::Anonymous => "",
            PageKind::Copied => " of copied pages",
            PageKind::File => " of files and shared memory",
        };
        write!(out, "grew by {}{kind}", mebibytes(self.growth))?;
        if self.growth > 0 {
            let share = percent_down(self.growth_error, self.growth, 1);
            write!(out, " ± {share} % (standard error")?;
            write!(out, "; {}", counted(self.pages, "page"))?;
            match self.levels {
                (0, 0) => write!(out, ", all that were touched")?,
                (low, high) if low == high => write!(out, ", one of {}", thousands(1 << low.min(63)))?,
                (low, high) => write!(
                    out,
                    ", one of {} to {}",
                    thousands(1 << low.min(63)),
                    thousands(1 << high.min(63))
                )?,
            }
            write!(out, ")")?;
        }
        write!(out, ", {} touched first", mebibytes(self.first_touch))?;
        if self.other_growth > 0 {
            let others = match self.kind {
                PageKind::Anonymous => "of copies, files and shared memory",
                PageKind::Copied | PageKind::File => "of other pages",
            };
            write!(out, ", beside them {} {others}", mebibytes(self.other_growth))?;
        }
        Ok(())
    }
}

/// `71.2 MiB`.
pub(crate) fn mebibytes(bytes: u64) -> String {
    const MEBI: f64 = 1_048_576.0;
    let mebi = bytes as f64 / MEBI;
    if mebi >= 10_240.0 {
        format!("{:.1} GiB", mebi / 1024.0)
    } else if mebi >= 0.95 || bytes == 0 {
        format!("{mebi:.1} MiB")
    } else {
        format!("{:.0} KiB", bytes as f64 / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quality() -> PageQuality {
        PageQuality {
            measure: Measure::Growth,
            kind: PageKind::Anonymous,
            growth: 71 << 20,
            growth_error: 2 << 20,
            first_touch: 20 << 30,
            other_growth: 0,
            pages: 1234,
            levels: (0, 4),
        }
    }

    #[test]
    fn the_line_says_how_sure_it_is() {
        let check = |quality: PageQuality, expected: &str| assert_eq!(quality.to_string(), expected);
        check(
            quality(),
            "grew by 71.0 MiB ± 2.8 % (standard error; 1,234 pages, one of 1 to 16), 20.0 GiB touched first",
        );
        check(
            PageQuality {
                kind: PageKind::File,
                levels: (3, 3),
                other_growth: 3 << 20,
                ..quality()
            },
            "grew by 71.0 MiB of files and shared memory ± 2.8 % (standard error; 1,234 pages, one of 8), 20.0 GiB \
             touched first, beside them 3.0 MiB of other pages",
        );
        check(
            PageQuality {
                growth: 4096,
                growth_error: 0,
                first_touch: 8192,
                pages: 1,
                levels: (0, 0),
                ..quality()
            },
            "grew by 4 KiB ± 0 % (standard error; 1 page, all that were touched), 8 KiB touched first",
        );
        check(PageQuality::default(), "grew by 0.0 MiB, 0.0 MiB touched first");
    }

    #[test]
    fn calls_are_exact() {
        let quality = PageQuality {
            measure: Measure::Mapped,
            first_touch: 96 << 20,
            pages: 12,
            ..PageQuality::default()
        };
        assert_eq!(quality.to_string(), "96.0 MiB asked for in 12 calls");
    }

    #[test]
    fn errors_add_as_squares() {
        let mut sum = PageQuality {
            growth_error: 3000,
            levels: (2, 3),
            ..quality()
        };
        sum.merge(&PageQuality {
            growth_error: 4000,
            ..quality()
        });
        assert_eq!((sum.growth_error, sum.pages, sum.levels), (5000, 2468, (0, 4)));
        let mut none = PageQuality::default();
        none.merge(&PageQuality {
            levels: (2, 3),
            ..quality()
        });
        assert_eq!(none.levels, (2, 3));
    }
}
