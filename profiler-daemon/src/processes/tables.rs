//! Which row tables are in the walker, and who uses them.
//!
//! In: compiled tables, and the lists of mappings as they are written for processes. Out: what to do about the rows of an
//! object. Tables are shared by content. One that no process uses stays for a while, so that a restart finds it; when the
//! walker is full, the longest unused go first, and if that is not enough, the newcomer is refused with the reason.

use std::{collections::HashMap, time::Duration};

use profiler_unwinding::{ContentId, RowTable};

use super::walker_tables::{TableId, WalkerTables};

/// How long a table that nobody uses is kept.
const GRACE: Duration = Duration::from_secs(300);
/// How long it is kept at least. Forks that the daemon has not heard of yet may still use it.
const LEAST_GRACE: Duration = Duration::from_secs(1);
/// When a table that was refused for want of room is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// What became of the rows of some content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TableState {
    /// They are being compiled.
    Requested,
    /// They are in the walker.
    Installed(TableId),
    /// They are not, for this reason, and are not tried again before a time.
    Refused { reason: String, retry_ns: u64 },
}

#[derive(Debug)]
struct Slot {
    state: TableState,
    users: u32,
    idle_since_ns: u64,
}

/// The row tables by content.
#[derive(Debug, Default)]
pub(super) struct RowTables {
    slots: HashMap<ContentId, Slot>,
}

impl RowTables {
    /// What became of the rows; `None` if they have to be compiled.
    pub(super) fn state(&self, content: &ContentId) -> Option<&TableState> {
        self.slots.get(content).map(|slot| &slot.state)
    }

    /// Notes that the rows are being compiled.
    pub(super) fn note_requested(&mut self, content: ContentId, now_ns: u64) {
        self.set(content, TableState::Requested, now_ns);
    }

    /// Notes that the rows cannot be had.
    pub(super) fn note_failed(&mut self, content: ContentId, reason: String, now_ns: u64) {
        self.set(
            content,
            TableState::Refused {
                reason,
                retry_ns: u64::MAX,
            },
            now_ns,
        );
    }

    /// Puts rows into the walker, in the place of unused ones if need be.
    pub(super) fn install<T: WalkerTables>(
        &mut self,
        walker: &mut T,
        content: ContentId,
        table: &RowTable,
        now_ns: u64,
    ) {
        if matches!(
            self.slots.get(&content),
            Some(Slot {
                state: TableState::Installed(_),
                ..
            })
        ) {
            return;
        }
        let state = loop {
            match walker.install(table) {
                Ok(id) => break TableState::Installed(id),
                Err(full) => {
                    if !self.evict_one(walker, now_ns) {
                        let retry_ns = now_ns.saturating_add(RETRY.as_nanos() as u64);
                        break TableState::Refused {
                            reason: full.to_string(),
                            retry_ns,
                        };
                    }
                }
            }
        };
        self.set(content, state, now_ns);
    }

    /// Replaces the tables that a process uses by others.
    pub(super) fn exchange(&mut self, old: &[ContentId], new: &[ContentId], now_ns: u64) {
        for content in new {
            if let Some(slot) = self.slots.get_mut(content) {
                slot.users += 1;
            }
        }
        for content in old {
            if let Some(slot) = self.slots.get_mut(content) {
                slot.users = slot.users.saturating_sub(1);
                slot.idle_since_ns = now_ns;
            }
        }
    }

    /// Forgets refusals that are due to be tried again, and returns whether there were any.
    pub(super) fn forget_due(&mut self, now_ns: u64) -> bool {
        let before = self.slots.len();
        self.slots
            .retain(|_, slot| !matches!(slot.state, TableState::Refused { retry_ns, .. } if retry_ns <= now_ns));
        self.slots.len() < before
    }

    /// Removes tables that nobody has used for long.
    pub(super) fn prune<T: WalkerTables>(&mut self, walker: &mut T, now_ns: u64) {
        self.slots.retain(|_, slot| {
            let is_old = slot.is_idle_for(GRACE, now_ns);
            if let (true, TableState::Installed(id)) = (is_old, &slot.state) {
                walker.remove(*id);
            }
            !is_old || slot.state == TableState::Requested
        });
    }

    fn evict_one<T: WalkerTables>(&mut self, walker: &mut T, now_ns: u64) -> bool {
        let candidates = self.slots.iter().filter_map(|(content, slot)| match slot.state {
            TableState::Installed(id) if slot.is_idle_for(LEAST_GRACE, now_ns) => {
                Some((slot.idle_since_ns, *content, id))
            }
            _ => None,
        });
        let Some((_, content, id)) = candidates.min() else {
            return false;
        };
        walker.remove(id);
        self.slots.remove(&content);
        true
    }

    fn set(&mut self, content: ContentId, state: TableState, now_ns: u64) {
        let slot = self.slots.entry(content).or_insert(Slot {
            state: TableState::Requested,
            users: 0,
            idle_since_ns: now_ns,
        });
        slot.state = state;
    }
}

impl Slot {
    fn is_idle_for(&self, time: Duration, now_ns: u64) -> bool {
        self.users == 0 && now_ns.saturating_sub(self.idle_since_ns) >= time.as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::{double::WalkerDouble, walker_tables::TablesFull};

    const SECOND: u64 = 1_000_000_000;

    fn table(rows: usize) -> RowTable {
        use profiler_common::row::{CfaRule, Page, Row};
        RowTable {
            first_page: 0,
            pages: vec![Page::new(0, rows as u32)],
            rows: (0..rows)
                .map(|place| Row::marker(place as u16, CfaRule::Root))
                .collect(),
            statistics: Default::default(),
        }
    }

    fn content(number: u8) -> ContentId {
        ContentId([number; 32])
    }

    #[test]
    fn the_longest_unused_goes_first_and_only_unused_ones() {
        let mut walker = WalkerDouble {
            max_rows: 30,
            ..WalkerDouble::default()
        };
        let mut tables = RowTables::default();
        for number in 0..3 {
            tables.install(&mut walker, content(number), &table(10), u64::from(number));
        }
        tables.exchange(&[], &[content(0), content(1), content(2)], 3);
        let now = 10 * SECOND;
        tables.install(&mut walker, content(3), &table(10), now);
        let reason = TablesFull {
            table: "rows",
            wanted: 10,
            capacity: 30,
        }
        .to_string();
        let retry_ns = now + RETRY.as_nanos() as u64;
        assert_eq!(
            tables.state(&content(3)),
            Some(&TableState::Refused { reason, retry_ns })
        );
        assert!(!tables.forget_due(retry_ns - 1) && tables.forget_due(retry_ns));
        assert_eq!(tables.state(&content(3)), None, "it is tried again later");
        tables.exchange(&[content(1)], &[], 20 * SECOND);
        tables.exchange(&[content(0)], &[], 21 * SECOND);
        tables.install(&mut walker, content(3), &table(10), 21 * SECOND);
        assert!(tables.state(&content(1)).is_none(), "evicted");
        assert!(matches!(tables.state(&content(0)), Some(TableState::Installed(_))));
        assert!(matches!(tables.state(&content(3)), Some(TableState::Installed(_))));
        // What was just released is not taken away yet.
        tables.exchange(&[], &[content(3)], 21 * SECOND);
        tables.install(&mut walker, content(4), &table(10), 21 * SECOND + 1);
        assert!(matches!(tables.state(&content(4)), Some(TableState::Refused { .. })));
    }

    #[test]
    fn unused_tables_go_after_a_while() {
        let mut walker = WalkerDouble::default();
        let mut tables = RowTables::default();
        tables.install(&mut walker, content(0), &table(10), 0);
        tables.install(&mut walker, content(0), &table(10), 0);
        assert_eq!(walker.tables.len(), 1, "equal content is installed once");
        tables.note_requested(content(1), 0);
        tables.note_failed(content(2), "why".to_owned(), 0);
        let grace = GRACE.as_nanos() as u64;
        tables.prune(&mut walker, grace - 1);
        assert_eq!(walker.tables.len(), 1);
        tables.prune(&mut walker, grace);
        assert!(walker.tables.is_empty());
        assert_eq!(tables.state(&content(1)), Some(&TableState::Requested));
        assert_eq!(tables.state(&content(2)), None);
    }
}
