//! What is kept of an object's unwind table once its rows are in the walker's tables.

use std::ops::Range;

use profiler_common::row::CfaRule;
use profiler_unwinding::{CallFrames, CompileError, ContentId, Limits, RowTable};

use object::ReadRef;

/// Most signal trampolines kept of an object. The C library has one, the vDSO of some architectures a few.
const MAX_SIGNAL_FRAMES: usize = 64;

/// What is kept of an object's unwind table once its rows are in the walker's tables.
#[derive(Debug, PartialEq, Eq)]
pub struct UnwindSummary {
    /// Objects with this id have the same rows.
    pub content: ContentId,
    /// Link addresses that the table's pages cover.
    pub link_range: Range<u64>,
    /// Number of rows.
    pub rows: u64,
    /// Link addresses of signal trampolines: the frame after one is where the signal struck, no return address.
    signal_frames: Vec<Range<u64>>,
}

impl UnwindSummary {
    /// Of the table that was compiled from content with this id.
    pub fn of(content: ContentId, table: &RowTable) -> Self {
        Self {
            content,
            link_range: table.link_range(),
            rows: table.rows.len() as u64,
            signal_frames: signal_frames(table),
        }
    }

    /// Whether a link address lies in a signal trampoline.
    pub fn is_signal_frame(&self, link_address: u64) -> bool {
        self.signal_frames.iter().any(|range| range.contains(&link_address))
    }

    /// The part of a mapping that the table covers. The walker indexes the pages without a check of its own.
    pub fn covered(&self, start: u64, end: u64, bias: u64) -> Option<Range<u64>> {
        let link_start = start.wrapping_sub(bias);
        let link_end = link_start.checked_add(end.checked_sub(start)?)?;
        let covered = link_start.max(self.link_range.start)..link_end.min(self.link_range.end);
        (!covered.is_empty()).then(|| covered.start.wrapping_add(bias)..covered.end.wrapping_add(bias))
    }
}

/// Reads an object's call frame information and compiles it, unless `is_known` says that the rows for its content are.
pub fn compile<'data, R: ReadRef<'data>>(
    data: R,
    is_known: impl FnOnce(&ContentId) -> bool,
) -> Result<(ContentId, Option<RowTable>), CompileError> {
    let limits = Limits::default();
    let frames = CallFrames::read(data, &limits)?;
    let content = frames.content_id();
    if is_known(&content) {
        return Ok((content, None));
    }
    Ok((content, Some(frames.compile(&limits)?)))
}

fn signal_frames(table: &RowTable) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let page_bytes = 1_u64 << profiler_common::limits::PAGE_SHIFT;
    for (index, page) in table.pages.iter().enumerate() {
        let page_start = table.link_range().start + index as u64 * page_bytes;
        let first = page.first() as usize;
        let rows = table.rows.get(first..first + page.count() as usize).unwrap_or_default();
        for (place, row) in rows.iter().enumerate() {
            if row.cfa_rule() == CfaRule::SignalFrame as u8 && found.len() < MAX_SIGNAL_FRAMES {
                let end = rows
                    .get(place + 1)
                    .map_or(page_bytes, |next| u64::from(next.page_offset()));
                found.push(page_start + u64::from(row.page_offset())..page_start + end);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_pages_cover() {
        let trampoline = 0x1_0100..0x1_0110;
        let summary = UnwindSummary {
            content: ContentId([0; 32]),
            link_range: 0x1_0000..0x3_0000,
            rows: 1,
            signal_frames: Vec::from([trampoline]),
        };
        let bias = 0x7f00_0000_0000;
        let check = |link: Range<u64>, expected: Option<Range<u64>>| {
            let covered = summary.covered(link.start.wrapping_add(bias), link.end.wrapping_add(bias), bias);
            assert_eq!(covered, expected.map(|range| range.start + bias..range.end + bias));
        };
        check(0x1_2000..0x2_0000, Some(0x1_2000..0x2_0000));
        check(0x0..0x4_0000, Some(0x1_0000..0x3_0000));
        check(0x3_0000..0x4_0000, None);
        check(0x0..0x1_0000, None);
        // A bias that puts the mapping at the end of link addresses covers nothing and does not overflow.
        assert_eq!(summary.covered(0x1000, 0x9000, 0x2000), None);
        assert!(summary.is_signal_frame(0x1_010f) && !summary.is_signal_frame(0x1_0110));
    }

    #[test]
    fn the_c_library_has_a_signal_trampoline() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let Some(path) = maps
            .lines()
            .filter_map(|line| line.split_whitespace().last())
            .find(|path| path.contains("libc.so"))
        else {
            println!("skipped: this test is not linked with a shared C library");
            return;
        };
        let bytes = std::fs::read(path).unwrap();
        let (content, table) = compile(&bytes[..], |_| false).unwrap();
        let table = table.unwrap();
        let summary = UnwindSummary::of(content, &table);
        assert_eq!(summary.signal_frames.len(), 1, "{summary:?}");
        assert!(summary.rows > 1000);
        let (again, none) = compile(&bytes[..], |known| *known == content).unwrap();
        assert!(again == content && none.is_none());
    }
}
