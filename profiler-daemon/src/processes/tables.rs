//! Which row tables are in the walker, and who uses them.
//!
//! In: compiled tables, and the lists of mappings as they are written for processes. Out: what to do about the rows of an
//! object. Tables are shared by content. One that no process uses stays for a while, so that a restart finds it; when the
//! walker is full, the longest unused go first, and if that is not enough, the newcomer is refused with the reason. A table
//! that would take much of the room, or finds none, is loaded by the page ([`super::row_pages`]) if it is kept on disk.

use std::{collections::HashMap, sync::Arc, time::Duration};

use profiler_unwinding::ContentId;

use super::{
    kept_pages::CompiledRows,
    row_pages::PagedTable,
    walker_tables::{TableId, WalkerTables},
};

/// How long a table that nobody uses is kept.
const GRACE: Duration = Duration::from_secs(300);
/// How long it is kept at least. Forks that the daemon has not heard of yet may still use it.
const LEAST_GRACE: Duration = Duration::from_secs(1);
/// When a table that was refused for want of room is tried again; twice as long after each further refusal.
const RETRY: Duration = Duration::from_secs(30);
/// How often that time is doubled at most.
const MAX_DOUBLINGS: u32 = 5;
/// A table that would take more than this part of all room is loaded by the page.
const LARGE_PART: u64 = 8;

/// What became of the rows of some content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TableState {
    /// They are being compiled.
    Requested,
    /// They are in the walker.
    Installed(TableId),
    /// They are not, for this reason, and are not tried again before a time; [`u64::MAX`] while or if that is not known.
    Refused { reason: String, retry_ns: u64 },
}

#[derive(Debug)]
struct Slot {
    state: TableState,
    users: u32,
    refusals: u32,
    idle_since_ns: u64,
    /// If it is installed, and loaded by the page.
    paged: Option<PagedTable>,
}

/// The row tables by content.
#[derive(Debug, Default)]
pub(super) struct RowTables {
    slots: HashMap<ContentId, Slot>,
    /// Tables that nobody uses go as soon as they may.
    drops_idle: bool,
}

impl RowTables {
    /// What became of the rows; `None` if they have to be compiled.
    pub(super) fn state(&self, content: &ContentId) -> Option<&TableState> {
        self.slots.get(content).map(|slot| &slot.state)
    }

    /// Whether the rows are to be compiled now, which is taken to be done then. What was refused before stays so until they
    /// are there.
    pub(super) fn request(&mut self, content: ContentId, now_ns: u64) -> bool {
        match self.slots.get_mut(&content).map(|slot| &mut slot.state) {
            None => {
                self.set(content, TableState::Requested, now_ns);
                true
            }
            Some(TableState::Refused { retry_ns, .. }) if *retry_ns <= now_ns => {
                *retry_ns = u64::MAX;
                true
            }
            Some(_) => false,
        }
    }

    /// Notes that the rows cannot be had now.
    pub(super) fn note_refused(&mut self, content: ContentId, reason: String, now_ns: u64) {
        let refusals = self.slots.get(&content).map_or(0, |slot| slot.refusals);
        let wait = RETRY * (1 << refusals.min(MAX_DOUBLINGS));
        let retry_ns = now_ns.saturating_add(wait.as_nanos() as u64);
        self.set(content, TableState::Refused { reason, retry_ns }, now_ns);
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
        rows: &CompiledRows,
        now_ns: u64,
    ) {
        if matches!(self.state(&content), Some(TableState::Installed(_))) {
            return;
        }
        let is_large = rows.table.rows.len() as u64 > walker.max_rows() / LARGE_PART;
        let mut by_page = rows.kept.as_ref().filter(|_| is_large);
        loop {
            let installed = match by_page {
                Some(kept) => walker.install_pages(kept.directory()),
                None => walker.install(&rows.table),
            };
            match installed {
                Ok(id) => {
                    self.set(content, TableState::Installed(id), now_ns);
                    if let Some(slot) = self.slots.get_mut(&content) {
                        slot.paged = by_page.map(|kept| PagedTable::new(Arc::clone(kept)));
                    }
                    return;
                }
                Err(_) if self.evict_one(walker, now_ns) => {}
                Err(_) if by_page.is_none() && rows.kept.is_some() => by_page = rows.kept.as_ref(),
                Err(full) => return self.note_refused(content, full.to_string(), now_ns),
            }
        }
    }

    /// A table that is loaded by the page.
    pub(super) fn paged(&self, content: &ContentId) -> Option<&PagedTable> {
        self.slots.get(content)?.paged.as_ref()
    }

    /// The same, to be loaded further.
    pub(super) fn paged_mut(&mut self, content: &ContentId) -> Option<(TableId, &mut PagedTable)> {
        let slot = self.slots.get_mut(content)?;
        match slot.state {
            TableState::Installed(id) => Some((id, slot.paged.as_mut()?)),
            _ => None,
        }
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

    /// Whether something that was refused is due to be tried again.
    pub(super) fn is_any_due(&self, now_ns: u64) -> bool {
        self.slots.values().any(|slot| slot.state.is_due(now_ns))
    }

    /// Whether tables that nobody uses stay for a while.
    pub(super) fn keep_idle(&mut self, keeps: bool) {
        self.drops_idle = !keeps;
    }

    /// Removes tables that nobody has used for long.
    pub(super) fn prune<T: WalkerTables>(&mut self, walker: &mut T, now_ns: u64) {
        let grace = if self.drops_idle { LEAST_GRACE } else { GRACE };
        self.slots.retain(|_, slot| {
            let is_old = slot.is_idle_for(grace, now_ns);
            if let (true, TableState::Installed(id)) = (is_old, &slot.state) {
                walker.remove(*id);
            }
            !is_old || slot.state == TableState::Requested
        });
    }

    /// Removes the table that nobody has used for longest. Returns whether there was one.
    pub(super) fn evict_one<T: WalkerTables>(&mut self, walker: &mut T, now_ns: u64) -> bool {
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
            refusals: 0,
            idle_since_ns: now_ns,
            paged: None,
        });
        slot.refusals = match state {
            TableState::Refused { .. } => slot.refusals.saturating_add(1),
            _ => 0,
        };
        slot.state = state;
    }
}

impl TableState {
    /// Whether it was refused and is to be tried again.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        matches!(self, Self::Refused { retry_ns, .. } if *retry_ns <= now_ns)
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
    use crate::processes::{double::WalkerDouble, walker_tables::TableError};

    const SECOND: u64 = 1_000_000_000;

    fn table(rows: usize) -> CompiledRows {
        use profiler_common::row::{CfaRule, Page, Row};
        let table = profiler_unwinding::RowTable {
            first_page: 0,
            pages: vec![Page::new(0, rows as u32)],
            rows: (0..rows)
                .map(|place| Row::marker(place as u16, CfaRule::Root))
                .collect(),
            statistics: Default::default(),
        };
        CompiledRows { table, kept: None }
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
        let reason = TableError::Full {
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
        assert!(!tables.is_any_due(retry_ns - 1) && tables.is_any_due(retry_ns));
        // While it is tried again it stays refused, and then for twice as long.
        assert!(!tables.request(content(3), retry_ns - 1) && tables.request(content(3), retry_ns));
        assert!(matches!(tables.state(&content(3)), Some(TableState::Refused { .. })));
        assert!(!tables.is_any_due(retry_ns + 1));
        tables.install(&mut walker, content(3), &table(10), retry_ns);
        assert!(!tables.is_any_due(retry_ns + RETRY.as_nanos() as u64));
        assert!(tables.is_any_due(retry_ns + 2 * RETRY.as_nanos() as u64));
        tables.exchange(&[content(1)], &[], 120 * SECOND);
        tables.exchange(&[content(0)], &[], 121 * SECOND);
        tables.install(&mut walker, content(3), &table(10), 121 * SECOND);
        assert!(tables.state(&content(1)).is_none(), "evicted");
        assert!(matches!(tables.state(&content(0)), Some(TableState::Installed(_))));
        assert!(matches!(tables.state(&content(3)), Some(TableState::Installed(_))));
        // What was just released is not taken away yet.
        tables.exchange(&[], &[content(3)], 121 * SECOND);
        tables.install(&mut walker, content(4), &table(10), 121 * SECOND + 1);
        assert!(matches!(tables.state(&content(4)), Some(TableState::Refused { .. })));
    }

    #[test]
    fn unused_tables_go_after_a_while() {
        let mut walker = WalkerDouble::default();
        let mut tables = RowTables::default();
        tables.install(&mut walker, content(0), &table(10), 0);
        tables.install(&mut walker, content(0), &table(10), 0);
        assert_eq!(walker.tables.len(), 1, "equal content is installed once");
        assert!(tables.request(content(1), 0) && !tables.request(content(1), 0));
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
