//! From any bytes as an object to rows, and what must hold for them.

use profiler_common::row::CfaRule;
use profiler_unwinding::{CallFrames, Limits, RowTable};

use crate::{oracle::check_against_gimli, support::check_layout};

/// Small enough that inputs meet them.
const LIMITS: Limits = Limits {
    max_eh_frame_bytes: 1 << 20,
    max_functions: 1000,
    max_rows: 4000,
    max_pages: 64,
    max_undescribed_bytes: 1 << 20,
    max_work_bytes: 1 << 18,
};

/// Compiles what is no more than a claim to be an object.
pub(crate) fn check(file: &[u8]) {
    let Ok(call_frames) = CallFrames::read(file, &LIMITS) else {
        return;
    };
    let Ok(table) = call_frames.compile(&LIMITS) else {
        return;
    };
    check_layout(&table, &LIMITS);
    check_statistics(&table);
    check_search(&table);
    check_against_gimli(&call_frames, &table);
}

fn check_statistics(table: &RowTable) {
    let statistics = &table.statistics;
    assert!(statistics.unsupported_bytes <= statistics.code_bytes, "{statistics:?}");
    assert!(
        statistics.functions <= u64::from(LIMITS.max_functions),
        "{statistics:?}"
    );
    assert!(statistics.rules_without_rbp <= statistics.rules, "{statistics:?}");
    let link = table.link_range();
    assert!(statistics.code_bytes <= link.end - link.start, "{statistics:?}");
}

/// Every row is found from its own address up to the next one, and nothing outside the pages.
fn check_search(table: &RowTable) {
    let rows = crate::support::rows_at(table);
    for (index, (start, row)) in rows.iter().enumerate() {
        let found = |address: u64| table.find(address).map(|row| row.at(0));
        assert_eq!(found(*start), Some(*row));
        let page_end = (start | 0xffff).saturating_add(1);
        let end = rows.get(index + 1).map_or(page_end, |(next, _)| page_end.min(*next));
        assert_eq!(found(end - 1), Some(*row));
    }
    let link = table.link_range();
    for outside in [link.start.checked_sub(1), (link.end < u64::MAX).then_some(link.end)] {
        assert_eq!(outside.and_then(|address| table.find(address)), None);
    }
    if let Some(covered) = table.covered(link.start..link.end, 0) {
        assert_eq!(covered, link);
        assert!(
            table
                .find(link.start)
                .is_some_and(|row| row.cfa_rule() <= CfaRule::R11 as u8)
        );
    }
}
