//! Whom a hook may act on, as it was seen at one moment.

use std::sync::Arc;

/// Longest name of a target that is kept, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// A process. Its start time tells it from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Its id in the namespace of the daemon.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
}

/// What guards need to know of a process. All of it is read between two looks at its start time that agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Which one.
    pub identity: Identity,
    /// Its real, effective, saved and file system user.
    pub uids: [u32; 4],
    /// Path of its executable as the process sees it, without the kernel's mark of a file that was removed; empty where it
    /// has none or it could not be read.
    pub executable: Vec<u8>,
    /// Its name. Anybody may give themselves any: it is only ever a reason against acting.
    pub name: Arc<str>,
    /// Its systemd unit, or the first 12 digits of its container's id.
    pub unit: Option<Arc<str>>,
    /// Whether it is a thread of the kernel.
    pub is_kernel_thread: bool,
    /// Signals that it catches, a bit each, the first for signal 1: `SigCgt` of `/proc/PID/status`.
    pub caught_signals: u64,
}

/// A control group and all that runs in it and below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The number of its directory, which tells it from a later one with the same path.
    pub id: u64,
    /// Its path below the hierarchy's root.
    pub path: Arc<str>,
    /// The processes in it and below it.
    pub members: Vec<Process>,
    /// Whether these are all of them.
    pub is_whole: bool,
}

/// Whom a hook acts on, or is told about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nobody in particular.
    Host,
    /// A process.
    Process(Process),
    /// A control group.
    Group(Group),
}

/// A target's identity as long as the host is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetId {
    /// The host.
    Host,
    /// A process.
    Process(Identity),
    /// A control group, by the number of its directory.
    Group(u64),
}

impl Target {
    /// Its identity.
    pub fn id(&self) -> TargetId {
        match self {
            Self::Host => TargetId::Host,
            Self::Process(process) => TargetId::Process(process.identity),
            Self::Group(group) => TargetId::Group(group.id),
        }
    }

    /// What it is called: the name of a process, the path of a group, nothing of the host. Not escaped; cut where it is
    /// very long. Neither arguments nor environment are in it.
    pub fn name(&self) -> &str {
        let name = match self {
            Self::Host => "",
            Self::Process(process) => &process.name,
            Self::Group(group) => &group.path,
        };
        cut(name, MAX_NAME_BYTES)
    }
}

/// Somebody who contributed to the reading that triggered a hook.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Who.
    pub target: Target,
    /// Their part of the reading, from 0 to 1.
    pub share: f64,
}

/// The beginning of a text, whole characters only.
pub(crate) fn cut(text: &str, most_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(most_bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let group = |path: &str| {
            Target::Group(Group {
                id: 1,
                path: path.into(),
                members: Vec::new(),
                is_whole: true,
            })
        };
        assert_eq!(group("/a.slice").name(), "/a.slice");
        let long = "ä".repeat(200);
        assert_eq!(group(&long).name().len(), 254);
        assert_eq!(Target::Host.name(), "");
    }
}
