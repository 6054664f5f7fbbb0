//! How long a program takes until it listens: for connections over TCP.
//!
//! Unix sockets do not count. Many programs listen on some for their own processes, as what is built on Python's
//! `multiprocessing` does long before it serves anybody, and nothing tells those from the ones that they serve on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use super::files::{add_listening, socket_inode};
use crate::file::{LIST_BYTES, ReadError, read_once};

/// How long after its start a program is looked at for a listening socket.
const LOOK_FOR: Duration = Duration::from_secs(300);
/// One that is listening when it is first looked at took that long at most. Where the first look is later than this, nothing is
/// told: it may have been listening all the while.
const FIRST_LOOK_WITHIN: Duration = Duration::from_secs(4);
/// What is told may be too much by this, or by a tenth of itself if that is more. Where the look before was longer ago,
/// nothing is told.
const PRECISION: Duration = Duration::from_millis(1500);
const PRECISION_PART: u32 = 10;
/// What the program executed is heard of with the next list of processes or the one after. Until then it may be another that
/// listens.
const CERTAIN_AFTER: Duration = Duration::from_millis(1500);
/// The next look is after this part of the age, so that what is found late is looked for less often.
const PART_OF_AGE: u32 = 30;
/// Most descriptors of a process that are looked at.
const MAX_DESCRIPTORS: usize = 4096;
/// Most processes that are looked at in one round; the others wait for the next.
pub(super) const MAX_LOOKS: u64 = 64;

/// What is known of one program's first listening socket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Listening {
    /// It was not looked at.
    Unknown,
    /// It did not listen at the last look.
    NotYet {
        /// When that was, since boot.
        looked: Duration,
    },
    /// It listens, if no execution is heard of that was before.
    Found {
        /// When that was seen, since boot.
        looked: Duration,
        /// How long it took.
        delay: Duration,
    },
    /// It listened after so much time.
    After(Duration),
    /// When it began to listen is not known, and not looked for any more.
    Untold,
}

impl Listening {
    /// Whether a look is due for a program that began at `began`.
    pub(super) fn is_due(&mut self, began: Duration, now: Duration) -> bool {
        let age = now.saturating_sub(began);
        match *self {
            Self::Unknown if age <= LOOK_FOR => true,
            Self::NotYet { looked } if age <= LOOK_FOR => now.saturating_sub(looked) >= age / PART_OF_AGE,
            Self::Unknown | Self::NotYet { .. } => {
                *self = Self::Untold;
                false
            }
            Self::Found { .. } | Self::After(_) | Self::Untold => false,
        }
    }

    /// Notes the outcome of a look.
    pub(super) fn note(&mut self, listens: bool, began: Duration, now: Duration) {
        let age = now.saturating_sub(began);
        let is_known = match *self {
            Self::NotYet { looked } => now.saturating_sub(looked) <= PRECISION.max(age / PRECISION_PART),
            _ => age <= FIRST_LOOK_WITHIN,
        };
        *self = match listens {
            false => Self::NotYet { looked: now },
            true if is_known => Self::Found {
                looked: now,
                delay: age,
            },
            true => Self::Untold,
        };
    }

    /// How long it took until it listened, once: when that is certain.
    pub(super) fn news(&mut self, now: Duration) -> Option<Duration> {
        match *self {
            Self::Found { looked, delay } if now.saturating_sub(looked) >= CERTAIN_AFTER => {
                *self = Self::After(delay);
                Some(delay)
            }
            _ => None,
        }
    }

    /// How long it took until it listened, if that is known.
    pub(super) fn delay(self) -> Option<Duration> {
        match self {
            Self::After(delay) => Some(delay),
            _ => None,
        }
    }
}

/// The listening sockets of each network, read once a round.
#[derive(Debug, Default)]
pub(super) struct Networks {
    known: BTreeMap<Box<[u8]>, Arc<BTreeSet<u64>>>,
    buffer: Vec<u8>,
}

impl Networks {
    /// Forgets what was read in the last round.
    pub(super) fn begin_round(&mut self) {
        self.known.clear();
    }

    /// Whether the process with this folder holds a listening socket.
    pub(super) fn listens(&mut self, folder: &Path) -> Result<bool, ReadError> {
        let sockets = sockets(&folder.join("fd"))?;
        if sockets.is_empty() {
            return Ok(false);
        }
        let listening = self.listening(folder)?;
        Ok(sockets.iter().any(|inode| listening.contains(inode)))
    }

    fn listening(&mut self, folder: &Path) -> Result<Arc<BTreeSet<u64>>, ReadError> {
        let network = fs::read_link(folder.join("ns/net")).ok();
        let key: Option<Box<[u8]>> = network.map(|link| link.as_os_str().as_bytes().into());
        if let Some(known) = key.as_ref().and_then(|key| self.known.get(key)) {
            return Ok(Arc::clone(known));
        }
        let mut inodes = BTreeSet::new();
        for (table, is_needed) in [("net/tcp", true), ("net/tcp6", false)] {
            match read_once(&folder.join(table), LIST_BYTES, &mut self.buffer) {
                // Of a table that is too long the beginning is there, and what listens stands first.
                Ok(()) | Err(ReadError::TooLong { .. }) => add_listening(&self.buffer, &mut inodes),
                // A kernel may do without version 6.
                Err(error) if error.is_unsupported() && !is_needed => {}
                Err(error) => return Err(error),
            }
        }
        let inodes = Arc::new(inodes);
        if let Some(key) = key {
            self.known.insert(key, Arc::clone(&inodes));
        }
        Ok(inodes)
    }
}

/// Inodes of the sockets among the descriptors of a process.
fn sockets(folder: &Path) -> Result<Vec<u64>, ReadError> {
    let failed = |reason| ReadError::Failed {
        path: folder.to_owned(),
        reason,
    };
    let mut inodes = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)?.take(MAX_DESCRIPTORS) {
        // A descriptor may be closed between the two calls.
        let Ok(link) = fs::read_link(entry.map_err(failed)?.path()) else {
            continue;
        };
        inodes.extend(socket_inode(link.as_os_str().as_bytes()));
    }
    Ok(inodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_tree::FakeTree;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_told_is_known_to_the_second() {
        let mut listening = Listening::Unknown;
        assert!(listening.is_due(10 * SECOND, 15 * SECOND));
        let mut late = listening;
        late.note(true, 10 * SECOND, 15 * SECOND);
        assert_eq!(late, Listening::Untold, "it may have listened for five seconds");
        let mut at_once = listening;
        at_once.note(true, 10 * SECOND, 13 * SECOND);
        assert_eq!(
            (at_once.news(14 * SECOND), at_once.delay()),
            (None, None),
            "another may be heard of"
        );
        assert_eq!(at_once.news(15 * SECOND), Some(3 * SECOND), "at most");
        assert_eq!((at_once.news(16 * SECOND), at_once.delay()), (None, Some(3 * SECOND)));
        listening.note(false, 10 * SECOND, 15 * SECOND);
        assert!(listening.is_due(10 * SECOND, 16 * SECOND));
        listening.note(true, 10 * SECOND, 16 * SECOND);
        assert!(!listening.is_due(10 * SECOND, 17 * SECOND));
        assert_eq!(listening.news(18 * SECOND), Some(6 * SECOND));
        assert!(!listening.is_due(10 * SECOND, 19 * SECOND));
        let mut quick = Listening::Unknown;
        quick.note(true, 10 * SECOND, 11 * SECOND);
        assert_eq!(quick.news(20 * SECOND), Some(SECOND));
    }

    #[test]
    fn what_takes_long_is_looked_for_less_often_and_not_for_ever() {
        let mut listening = Listening::Unknown;
        listening.note(false, 10 * SECOND, 100 * SECOND);
        assert!(!listening.is_due(10 * SECOND, 102 * SECOND));
        assert!(listening.is_due(10 * SECOND, 104 * SECOND));
        assert!(!listening.is_due(10 * SECOND, 311 * SECOND));
        assert_eq!(listening, Listening::Untold);
    }

    #[test]
    fn a_listening_socket_is_one_of_the_process_itself() {
        let tree = FakeTree::new();
        let line =
            |state: &str, inode: u64| format!("0: 0100007F:1F90 00000000:0000 {state} 0:0 00:0 0 0 0 {inode} 1\n");
        let head = "sl local_address rem_address st\n";
        tree.write("7/net/tcp", format!("{head}{}{}", line("0A", 4711), line("01", 4712)));
        tree.write("7/fdinfo/0", "");
        tree.link("7/fd/0", "/dev/null");
        let mut networks = Networks::default();
        let folder = tree.path("7");
        assert!(!networks.listens(&folder).unwrap());
        tree.link("7/fd/3", "socket:[4712]");
        assert!(!networks.listens(&folder).unwrap(), "connected is not listening");
        tree.write("7/net/tcp6", format!("{head}{}", line("0A", 4713)));
        tree.link("7/fd/4", "socket:[4713]");
        assert!(networks.listens(&folder).unwrap());
        tree.remove("7/net/tcp");
        assert!(networks.listens(&folder).is_err());
    }
}
