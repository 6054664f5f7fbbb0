//! Rows of objects that were seen before, kept below the state directory, so that a restart need not compile them again.
//!
//! In: compiled tables. Out: the same tables, by their content: a name or a path never leads to rows. The directory is
//! ours, and nothing in it is trusted: only regular files of our own user are read, within bounds, and a table is taken
//! only if [`RowTable::from_bytes`] finds it whole. What is not is removed and written anew. That the directory
//! cannot be used is a state of [`Part::RowCache`] and changes nothing else. For the builder's threads.

mod disk;

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use disk::{is_ours, note_use, open, read, remove, write};
use profiler_unwinding::{ContentId, Limits, RowTable};
use rustix::fs::AtFlags;

use super::kept_pages::{CompiledRows, KeptPages};
use crate::health::{Health, Part, PartState};

/// The directory's name below the state directory.
const DIRECTORY: &str = "rows";
/// How the names of files end: the content's id is before it.
const SUFFIX: &str = ".rows";
/// The same of files that are being written.
const PARTIAL_SUFFIX: &str = ".part";
/// Tables with fewer rows are not kept: they are compiled faster than a file is opened and read.
const MIN_ROWS: usize = 1024;
/// Files looked at when the directory is opened.
const MAX_FILES: usize = 1 << 16;
/// A single table takes at most this part of all room.
const LARGEST_PART: u64 = 4;
/// How long nothing is tried after the directory could not be used.
const PAUSE: Duration = Duration::from_secs(60);
/// Age at which a file in writing was left behind by a daemon that was killed.
const ABANDONED_SECONDS: i64 = 600;
/// How exactly it is known when a file was last used.
const USED_SECONDS: i64 = 3600;

/// Rows on disk.
#[derive(Debug)]
pub(super) struct RowCache {
    path: PathBuf,
    max_bytes: u64,
    health: Arc<Health>,
    files: Mutex<Files>,
    has_discarded: AtomicBool,
}

/// What lies in the directory.
#[derive(Debug, Default)]
struct Files {
    directory: Option<Arc<OwnedFd>>,
    retry_at: Option<Instant>,
    known: HashMap<ContentId, Kept>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    bytes: u64,
    used_seconds: i64,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
enum CacheError {
    #[error("{what} {}: {source}", path.display())]
    System {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} belongs to another user, or others may write to it", path.display())]
    Foreign { path: PathBuf },
}

impl RowCache {
    /// Keeps rows below a state directory, in at most so many bytes; none at all for no bytes. The directory is opened, and
    /// made if need be, when it is first used.
    pub(super) fn new(state_dir: &Path, max_bytes: u64, health: Arc<Health>) -> Self {
        if max_bytes == 0 {
            let reason = "walker.max_cached_row_bytes is 0".to_owned();
            health.report(Part::RowCache, PartState::Disabled { reason });
        }
        Self {
            path: state_dir.join(DIRECTORY),
            max_bytes,
            health,
            files: Mutex::default(),
            has_discarded: AtomicBool::new(false),
        }
    }

    /// The rows of some content, if they are kept and whole.
    pub(super) fn load(&self, content: &ContentId) -> Option<CompiledRows> {
        let directory = self.directory()?;
        let kept = *self.files().known.get(content)?;
        let name = name_of(content);
        match read(&directory, &name, content) {
            Ok((table, file)) => {
                tracing::debug!(file = name, "kept rows are used");
                let now = now_seconds();
                if now.saturating_sub(kept.used_seconds) >= USED_SECONDS {
                    note_use(&directory, &name, now);
                    if let Some(kept) = self.files().known.get_mut(content) {
                        kept.used_seconds = now;
                    }
                }
                let kept = KeptPages::new(file, &table);
                Some(CompiledRows { table, kept })
            }
            Err(reason) => {
                self.discard(&directory, content, &name, &reason);
                None
            }
        }
    }

    /// Keeps the rows of some content, in the place of the longest unused if need be. Returns where a large table can be
    /// read page by page.
    pub(super) fn store(&self, content: &ContentId, table: &RowTable) -> Option<Arc<KeptPages>> {
        if table.rows.len() < MIN_ROWS {
            return None;
        }
        let directory = self.directory()?;
        let stored = table.to_bytes(content);
        let bytes = stored.len() as u64;
        if bytes > self.max_bytes / LARGEST_PART {
            return None;
        }
        for old in self.make_room(bytes) {
            remove(&directory, &name_of(&old));
        }
        let name = name_of(content);
        match write(&directory, &name, &stored) {
            Ok(file) => {
                tracing::debug!(file = name, "compiled rows are kept");
                let kept = Kept {
                    bytes,
                    used_seconds: now_seconds(),
                };
                self.files().insert(*content, kept);
                self.health.report(Part::RowCache, PartState::Active);
                KeptPages::new(file, table)
            }
            Err(source) => {
                let (what, path) = ("writing to", self.path.clone());
                self.suspend(&CacheError::System { what, path, source });
                None
            }
        }
    }

    /// The directory, opened if it can be.
    fn directory(&self) -> Option<Arc<OwnedFd>> {
        if self.max_bytes == 0 {
            return None;
        }
        let mut files = self.files();
        if files.retry_at.is_some_and(|retry_at| Instant::now() < retry_at) {
            return None;
        }
        if let Some(directory) = &files.directory {
            return Some(Arc::clone(directory));
        }
        match open(&self.path) {
            Ok(directory) => {
                let directory = Arc::new(directory);
                *files = Files::list(&directory);
                files.directory = Some(Arc::clone(&directory));
                drop(files);
                for content in self.make_room(0) {
                    remove(&directory, &name_of(&content));
                }
                self.health.report(Part::RowCache, PartState::Active);
                Some(directory)
            }
            Err(error) => {
                drop(files);
                self.suspend(&error);
                None
            }
        }
    }

    /// Notes that the directory cannot be used for now.
    fn suspend(&self, error: &CacheError) {
        *self.files() = Files {
            retry_at: Instant::now().checked_add(PAUSE),
            ..Files::default()
        };
        let remedy = format!(
            "Sampling goes on, and each start compiles unwind tables anew. Let the daemon write to {}, or set \
             walker.max_cached_row_bytes to \"0B\".",
            self.path.display()
        );
        let reason = error.to_string();
        self.health.report(Part::RowCache, PartState::Failed { reason, remedy });
    }

    /// Takes the longest unused out of the list until so many bytes more fit, and returns them.
    fn make_room(&self, bytes: u64) -> Vec<ContentId> {
        let mut files = self.files();
        if files.bytes.saturating_add(bytes) <= self.max_bytes {
            return Vec::new();
        }
        let mut by_use: Vec<_> = files
            .known
            .iter()
            .map(|(content, kept)| (kept.used_seconds, *content))
            .collect();
        by_use.sort_unstable();
        let mut taken = Vec::new();
        for (_, content) in by_use {
            if files.bytes.saturating_add(bytes) <= self.max_bytes {
                break;
            }
            files.remove(&content);
            taken.push(content);
        }
        taken
    }

    /// Removes a file that is not what its name says. The rows are compiled and written again.
    fn discard(&self, directory: &OwnedFd, content: &ContentId, name: &str, reason: &str) {
        self.files().remove(content);
        remove(directory, name);
        let file = self.path.join(name);
        // After an upgrade all are of another release, and one line says as much as all.
        if self.has_discarded.swap(true, Ordering::Relaxed) {
            tracing::debug!(file = %file.display(), reason, "kept rows are compiled again");
        } else {
            tracing::warn!(file = %file.display(), reason, "kept rows are compiled again; more such files are not named");
        }
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    /// What lies in the directory. Files that cannot be rows of ours are removed if their name says that they are.
    fn list(directory: &OwnedFd) -> Self {
        let mut files = Self::default();
        let Ok(entries) = rustix::fs::Dir::read_from(directory) else {
            return files;
        };
        for entry in entries.take(MAX_FILES).flatten() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let used_seconds = stat.st_mtime;
            if let Some(content) = content_of(name) {
                let bytes = u64::try_from(stat.st_size).unwrap_or(0);
                if is_ours(&stat) && bytes <= Limits::default().max_stored_bytes() {
                    files.insert(content, Kept { bytes, used_seconds });
                } else {
                    remove(directory, name);
                }
            } else if name.ends_with(PARTIAL_SUFFIX) && now_seconds().saturating_sub(used_seconds) >= ABANDONED_SECONDS
            {
                remove(directory, name);
            }
        }
        files
    }

    fn insert(&mut self, content: ContentId, kept: Kept) {
        self.remove(&content);
        self.bytes += kept.bytes;
        self.known.insert(content, kept);
    }

    fn remove(&mut self, content: &ContentId) {
        if let Some(kept) = self.known.remove(content) {
            self.bytes = self.bytes.saturating_sub(kept.bytes);
        }
    }
}

fn now_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
    since.and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or(0)
}

fn name_of(content: &ContentId) -> String {
    format!("{content}{SUFFIX}")
}

/// The content that a file is named after.
fn content_of(name: &str) -> Option<ContentId> {
    let digits = name.strip_suffix(SUFFIX)?;
    let mut id = [0; 32];
    let is_id = digits.len() == 2 * id.len() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_id.then_some(())?;
    for (byte, digits) in id.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(ContentId(id))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use profiler_common::row::{CfaRule, Page, Row};
    use rustix::fs::{FileType, Mode};

    use super::*;

    struct Disk {
        state: tempfile::TempDir,
        health: Arc<Health>,
    }

    impl Disk {
        fn new() -> Self {
            Self {
                state: tempfile::tempdir().unwrap(),
                health: Arc::new(Health::new()),
            }
        }

        fn cache(&self, max_bytes: u64) -> RowCache {
            RowCache::new(self.state.path(), max_bytes, Arc::clone(&self.health))
        }

        fn file(&self, number: u8) -> PathBuf {
            self.state.path().join(DIRECTORY).join(name_of(&content(number)))
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.state.path().join(DIRECTORY)).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }

        fn state(&self) -> Option<PartState> {
            self.health.state(Part::RowCache)
        }
    }

    fn content(number: u8) -> ContentId {
        ContentId([number; 32])
    }

    fn table(rows: usize) -> RowTable {
        let rows: Vec<_> = (0..rows as u16)
            .map(|offset| Row::marker(offset, CfaRule::Root))
            .collect();
        RowTable {
            first_page: 1,
            pages: vec![Page::new(0, rows.len() as u32)],
            rows,
            statistics: Default::default(),
        }
    }

    fn loaded(cache: &RowCache, number: u8) -> Option<RowTable> {
        Some(cache.load(&content(number))?.table)
    }

    const ROOM: u64 = 1 << 20;

    #[test]
    fn the_next_daemon_finds_what_the_last_one_kept() {
        let disk = Disk::new();
        let cache = disk.cache(ROOM);
        assert!(cache.load(&content(1)).is_none());
        cache.store(&content(1), &table(2000));
        cache.store(&content(2), &table(MIN_ROWS - 1));
        let next = disk.cache(ROOM);
        assert_eq!(loaded(&next, 1), Some(table(2000)));
        assert_eq!(loaded(&next, 2), None, "small tables are not kept");
        assert_eq!(disk.state(), Some(PartState::Active));
        assert_eq!(disk.names(), [name_of(&content(1))]);
        assert_eq!(fs::metadata(disk.file(1)).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn damaged_files_are_removed_and_written_again() {
        let disk = Disk::new();
        let stored = table(2000).to_bytes(&content(1));
        let damages: [fn(&mut Vec<u8>); 5] = [
            Vec::clear,
            |bytes| bytes.truncate(100),
            |bytes| bytes[200] ^= 1,
            |bytes| bytes.extend_from_slice(&[0; 8]),
            |bytes| bytes[..8].fill(b'x'),
        ];
        for damage in damages {
            disk.cache(ROOM).store(&content(1), &table(2000));
            let mut bytes = stored.clone();
            damage(&mut bytes);
            fs::write(disk.file(1), bytes).unwrap();
            let cache = disk.cache(ROOM);
            assert_eq!(loaded(&cache, 1), None);
            assert!(!disk.file(1).exists());
            cache.store(&content(1), &table(2000));
            assert_eq!(loaded(&cache, 1), Some(table(2000)));
        }
        // Under the name of another object they are not its rows.
        fs::rename(disk.file(1), disk.file(9)).unwrap();
        assert_eq!(loaded(&disk.cache(ROOM), 9), None);
    }

    #[test]
    fn what_others_may_have_written_is_not_read() {
        let disk = Disk::new();
        disk.cache(ROOM).store(&content(1), &table(2000));
        fs::set_permissions(disk.file(1), fs::Permissions::from_mode(0o620)).unwrap();
        let elsewhere = disk.state.path().join("elsewhere");
        fs::write(&elsewhere, table(2000).to_bytes(&content(2))).unwrap();
        symlink(&elsewhere, disk.file(2)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, disk.file(3), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let cache = disk.cache(ROOM);
        for number in 1..=3 {
            assert_eq!(loaded(&cache, number), None);
        }
        assert!(disk.names().is_empty() && elsewhere.exists());
        // Put there while the daemon runs, they are refused when they are opened.
        cache.store(&content(1), &table(2000));
        fs::remove_file(disk.file(1)).unwrap();
        symlink(&elsewhere, disk.file(1)).unwrap();
        assert_eq!(loaded(&cache, 1), None);
        fs::set_permissions(disk.state.path().join(DIRECTORY), fs::Permissions::from_mode(0o777)).unwrap();
        let cache = disk.cache(ROOM);
        cache.store(&content(1), &table(2000));
        assert!(disk.names().is_empty());
        assert!(matches!(disk.state(), Some(PartState::Failed { reason, .. }) if reason.contains("others may write")));
    }

    #[test]
    fn the_longest_unused_make_room() {
        let disk = Disk::new();
        let bytes = table(2000).to_bytes(&content(0)).len() as u64;
        let cache = disk.cache(bytes * 5);
        for number in 0..5 {
            cache.store(&content(number), &table(2000));
            let file = File::options().write(true).open(disk.file(number)).unwrap();
            let used = SystemTime::now() - Duration::from_secs(100_000 - u64::from(number) * 10_000);
            file.set_modified(used).unwrap();
        }
        let next = disk.cache(bytes * 5);
        assert!(next.load(&content(0)).is_some(), "used now");
        next.store(&content(5), &table(2000));
        assert!(disk.file(0).exists() && !disk.file(1).exists() && disk.file(2).exists());
        next.store(&content(6), &table(60_000));
        assert!(!disk.file(6).exists(), "too large a part of all room");
        // With less room, what is too much goes at the next start.
        let less = disk.cache(bytes * 2);
        assert!(less.load(&content(5)).is_some());
        assert_eq!(disk.names().len(), 2);
    }

    #[test]
    fn a_state_directory_that_cannot_be_used_is_a_state() {
        let disk = Disk::new();
        fs::write(disk.state.path().join("file"), "").unwrap();
        let below_a_file = disk.state.path().join("file/state");
        let cache = RowCache::new(&below_a_file, ROOM, Arc::clone(&disk.health));
        cache.store(&content(1), &table(2000));
        assert_eq!(loaded(&cache, 1), None);
        assert!(matches!(disk.state(), Some(PartState::Failed { reason, .. }) if reason.contains("file/state")));
        disk.cache(0).store(&content(1), &table(2000));
        assert!(matches!(disk.state(), Some(PartState::Disabled { .. })));
        assert!(!disk.state.path().join(DIRECTORY).exists());
    }

    #[test]
    fn files_in_writing_are_left_behind_for_a_while_only() {
        let disk = Disk::new();
        disk.cache(ROOM).store(&content(1), &table(2000));
        let part = |name: &str| disk.state.path().join(DIRECTORY).join(name);
        for (name, seconds) in [(".new.part", 0), (".old.part", ABANDONED_SECONDS as u64 + 1)] {
            let file = File::create(part(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds))
                .unwrap();
        }
        disk.cache(ROOM).load(&content(1)).unwrap();
        assert!(part(".new.part").exists() && !part(".old.part").exists());
    }

    #[test]
    fn names_of_files() {
        assert_eq!(content_of(&name_of(&content(0xa7))), Some(content(0xa7)));
        for name in [
            "",
            ".rows",
            "00.rows",
            &format!("{}é.rows", "0".repeat(62)),
            &"+0".repeat(32),
        ] {
            assert_eq!(content_of(name), None, "{name}");
        }
    }
}
