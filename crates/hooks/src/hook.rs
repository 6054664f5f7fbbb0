//! What a hook says: what it does, to whom it may do it, and how carefully.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use profiler_alerts::span_in_words;

/// Signals that are made for asking a program for something: HUP, USR1 and USR2, by number on every architecture that we
/// build for.
const ASKING_SIGNALS: [u8; 3] = [1, 10, 12];

/// What a hook does. How, in full, is for whoever carries it out to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Keeps a longer, denser profile. It touches nobody, and needs no switch.
    Capture,
    /// Runs a program of the operator's.
    Command,
    /// Tells a server.
    Webhook,
    /// Asks a service that has registered for it to help.
    Request(Favor),
    /// Collects garbage in a CPython from 3.14 on.
    PythonCollect,
    /// Runs an operator's script in a CPython from 3.14 on.
    PythonScript,
    /// Sends a signal, by number.
    Signal(u8),
    /// Sets the niceness of a process.
    Nice,
    /// Sets the priority of a process at the disk.
    IoPriority,
    /// Sets the CPUs of a process.
    Affinity,
    /// Has the kernel take memory back from a control group.
    MemoryReclaim,
    /// Sets the memory at which a control group is slowed down.
    MemoryHigh,
    /// Sets the part of the CPU that a control group gets when others want it too.
    CpuWeight,
    /// Sets the CPU time that a control group may have.
    CpuMax,
}

/// What a service may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Favor {
    /// To give memory back.
    ReleaseMemory,
    /// To do less at a time.
    ReduceLoad,
    /// To forget what it can make again.
    FlushCaches,
    /// To go on with another variant of itself: a smaller model, a larger batch.
    SwitchVariant,
}

impl Favor {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::ReleaseMemory,
        Self::ReduceLoad,
        Self::FlushCaches,
        Self::SwitchVariant,
    ];

    /// Its name in configuration and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReleaseMemory => "release-memory",
            Self::ReduceLoad => "reduce-load",
            Self::FlushCaches => "flush-caches",
            Self::SwitchVariant => "switch-variant",
        }
    }
}

/// What a hook must be given to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nothing: what it is about may be a target, or the host.
    Anything,
    /// A process.
    Process,
    /// A control group.
    Group,
}

impl Kind {
    /// Those that are told by their names alone.
    pub const PLAIN: [Self; 12] = [
        Self::Capture,
        Self::Command,
        Self::Webhook,
        Self::PythonCollect,
        Self::PythonScript,
        Self::Nice,
        Self::IoPriority,
        Self::Affinity,
        Self::MemoryReclaim,
        Self::MemoryHigh,
        Self::CpuWeight,
        Self::CpuMax,
    ];

    /// What it acts on.
    pub fn reach(self) -> Reach {
        match self {
            Self::Capture | Self::Command | Self::Webhook => Reach::Anything,
            Self::Request(_)
            | Self::PythonCollect
            | Self::PythonScript
            | Self::Signal(_)
            | Self::Nice
            | Self::IoPriority
            | Self::Affinity => Reach::Process,
            Self::MemoryReclaim | Self::MemoryHigh | Self::CpuWeight | Self::CpuMax => Reach::Group,
        }
    }

    /// Whether it changes anything, on the host or in a process. What does not is done without being switched on, and has
    /// no effect to be measured.
    pub fn acts(self) -> bool {
        self != Self::Capture
    }

    /// Whether it leaves a setting behind, which is put back when its time is over.
    pub fn leaves_setting(self) -> bool {
        matches!(
            self,
            Self::Nice | Self::IoPriority | Self::Affinity | Self::MemoryHigh | Self::CpuWeight | Self::CpuMax
        )
    }

    /// Whether it needs rights that the daemon does not have.
    pub fn needs_actuator(self) -> bool {
        !matches!(self, Self::Capture | Self::Command | Self::Webhook | Self::Request(_))
    }

    /// Its name in configuration and JSON; signals share one, and so do requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Command => "command",
            Self::Webhook => "webhook",
            Self::Request(_) => "request",
            Self::PythonCollect => "python-collect",
            Self::PythonScript => "python-script",
            Self::Signal(_) => "signal",
            Self::Nice => "nice",
            Self::IoPriority => "io-priority",
            Self::Affinity => "affinity",
            Self::MemoryReclaim => "memory-reclaim",
            Self::MemoryHigh => "memory-high",
            Self::CpuWeight => "cpu-weight",
            Self::CpuMax => "cpu-max",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(favor) => write!(f, "request {}", favor.name()),
            Self::Signal(number) => write!(f, "signal {number}"),
            _ => f.write_str(self.name()),
        }
    }
}

/// A text that names no kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no kind of hook is called so")]
pub struct UnknownKind;

impl FromStr for Kind {
    type Err = UnknownKind;

    /// Reads what is shown of a kind.
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
        let known = match name {
            "request" => Favor::ALL
                .into_iter()
                .find(|favor| favor.name() == rest)
                .map(Self::Request),
            "signal" => rest.parse().ok().map(Self::Signal),
            _ => Self::PLAIN.into_iter().find(|kind| kind.name() == text),
        };
        known.ok_or(UnknownKind)
    }
}

/// Whether a signal is made for asking a program for something.
pub(crate) fn asks(signal: u8) -> bool {
    ASKING_SIGNALS.contains(&signal)
}

/// Whom a hook may act on. Of each kind that is given, one must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList {
    /// Patterns of systemd units, or of the first 12 digits of a container's id: `*` stands for anything.
    pub units: Vec<String>,
    /// Patterns of executables: `*` stands for anything but a slash, `**` for anything.
    pub executables: Vec<String>,
    /// Users, of whom all four of a process must be. Without any, everybody but root.
    pub uids: Vec<u32>,
}

impl AllowList {
    /// Whether it names anybody. Whoever touches a process is told whose first.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty() && self.executables.is_empty() && self.uids.is_empty()
    }
}

/// A hook as it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Its name, unique among the hooks.
    pub name: Arc<str>,
    /// What it does.
    pub kind: Kind,
    /// Its own switch: without it, what it would do is recorded and not done.
    pub enforce: bool,
    /// Whom it may act on.
    pub allow: AllowList,
    /// Whether it may send signals that end a process.
    pub allow_disruptive: bool,
    /// For how long what it does may take.
    pub timeout: Duration,
    /// Time from what it did to the time in which the effect is measured.
    pub settle: Duration,
    /// Time before and after over which the effect is measured.
    pub measure: Duration,
    /// Time from one run on a target to the next on the same.
    pub cooldown: Duration,
    /// Time after which a setting is put back.
    pub lasts: Duration,
}

impl Hook {
    /// What the hook would be allowed to do, in a sentence without a full stop. Patterns are not escaped.
    pub fn explain(&self) -> String {
        let switch = if self.kind.acts() && !self.enforce {
            ", which is only noted, not done"
        } else {
            ""
        };
        let mut sentence = format!("{}: {} {}{switch}", self.name, self.kind, self.on_whom());
        if self.kind.leaves_setting() {
            sentence.push_str(&format!("; put back after {}", span_in_words(self.lasts)));
        }
        sentence.push_str(&format!(
            "; at most once in {} on the same target",
            span_in_words(self.cooldown)
        ));
        sentence
    }

    fn on_whom(&self) -> String {
        let reach = match self.kind.reach() {
            Reach::Anything if self.allow.is_empty() => return "about whatever the alert is about".to_owned(),
            _ if self.allow.is_empty() => return "on nobody: its list of whom it may act on is empty".to_owned(),
            Reach::Anything => "about",
            Reach::Process => "on",
            Reach::Group => "on a control group with nothing but",
        };
        let mut parts = Vec::new();
        if !self.allow.units.is_empty() {
            parts.push(format!("of unit {}", self.allow.units.join(" or ")));
        }
        if !self.allow.executables.is_empty() {
            parts.push(format!("that run {}", self.allow.executables.join(" or ")));
        }
        let users: Vec<String> = self.allow.uids.iter().map(u32::to_string).collect();
        parts.push(match users.as_slice() {
            [] => "of any user but root".to_owned(),
            users => format!("of user {}", users.join(" or ")),
        });
        format!("{reach} processes {}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(kind: Kind) -> Hook {
        Hook {
            name: "gc".into(),
            kind,
            enforce: false,
            allow: AllowList::default(),
            allow_disruptive: false,
            timeout: Duration::from_secs(10),
            settle: Duration::from_secs(15),
            measure: Duration::from_secs(60),
            cooldown: Duration::from_secs(600),
            lasts: Duration::from_secs(300),
        }
    }

    #[test]
    fn a_hook_in_a_sentence() {
        let end = "; at most once in 10 min on the same target";
        let mut collect = hook(Kind::PythonCollect);
        assert_eq!(
            collect.explain(),
            format!(
                "gc: python-collect on nobody: its list of whom it may act on is empty, which is only noted, not done{end}"
            )
        );
        collect.enforce = true;
        collect.allow.units = vec!["web-*.service".to_owned(), "api.service".to_owned()];
        assert_eq!(
            collect.explain(),
            format!("gc: python-collect on processes of unit web-*.service or api.service, of any user but root{end}")
        );
        let mut high = hook(Kind::MemoryHigh);
        high.enforce = true;
        high.allow.executables = vec!["/srv/**".to_owned()];
        high.allow.uids = vec![0, 1000];
        assert_eq!(
            high.explain(),
            format!(
                "gc: memory-high on a control group with nothing but processes that run /srv/**, of user 0 or 1000; put \
                 back after 5 min{end}"
            )
        );
        assert_eq!(
            hook(Kind::Capture).explain(),
            format!("gc: capture about whatever the alert is about{end}")
        );
        assert_eq!(
            hook(Kind::Signal(10)).explain(),
            format!(
                "gc: signal 10 on nobody: its list of whom it may act on is empty, which is only noted, not done{end}"
            )
        );
    }

    #[test]
    fn only_settings_are_put_back_and_only_capture_does_nothing() {
        let others = [Kind::Request(Favor::FlushCaches), Kind::Signal(1)];
        for kind in Kind::PLAIN.into_iter().chain(others) {
            assert!(kind.needs_actuator() || !kind.leaves_setting(), "{kind}");
            assert_eq!(kind.acts(), kind != Kind::Capture, "{kind}");
            assert!(kind.reach() != Reach::Group || kind.needs_actuator(), "{kind}");
        }
    }

    #[test]
    fn kinds_are_read_as_they_are_shown() {
        let favors = Favor::ALL.map(Kind::Request);
        let others = favors.into_iter().chain([Kind::Signal(1), Kind::Signal(255)]);
        for kind in Kind::PLAIN.into_iter().chain(others) {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for text in [
            "",
            "request",
            "request ",
            "signal",
            "signal 256",
            "signal -1",
            "nice 10",
            "Nice",
        ] {
            assert_eq!(text.parse::<Kind>(), Err(UnknownKind), "{text}");
        }
    }
}
