//! Tells the service manager how the daemon is doing. Without systemd nothing happens.

use std::{convert::Infallible, time::Duration};

use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::{
    budget::{Strain, policy::State},
    health::{PartState, Parts},
};

/// Longest text for the service manager.
const MAX_STATUS_BYTES: usize = 512;

/// The service manager, if there is one.
#[derive(Clone, Copy, Debug)]
pub struct ServiceManager {
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Looks for a service manager in the environment.
    pub fn from_environment() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled(),
        }
    }

    /// The daemon serves.
    pub fn ready(&self) {
        send(NotifyState::Ready);
    }

    /// The daemon reads its configuration again, until it says [`Self::ready`].
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send_all(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!(%error, "the service manager cannot be told of the reload"),
        }
    }

    /// The daemon is about to end.
    pub fn stopping(&self) {
        send(NotifyState::Stopping);
    }

    /// What the daemon is doing, for `systemctl status`.
    pub fn status(&self, text: &str) {
        // A line break would begin another assignment of the protocol.
        send(NotifyState::Status(&profiler_profile::visible(text, MAX_STATUS_BYTES)));
    }

    /// Says what the parts are doing, and what is given up, whenever that changes, for ever.
    pub async fn report(self, mut parts: watch::Receiver<Parts>, mut strain: watch::Receiver<Strain>) -> Infallible {
        loop {
            let line = status_line(&parts.borrow_and_update(), &strain.borrow_and_update());
            self.status(&line);
            let changed = tokio::select! {
                changed = parts.changed() => changed,
                changed = strain.changed() => changed,
            };
            if changed.is_err() {
                // Nobody reports any more; what was said last stays.
                return std::future::pending().await;
            }
        }
    }

    /// The sampling loop still turns. To be called at least every [`Self::watchdog_interval`].
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            send(NotifyState::Watchdog);
        }
    }

    /// How often [`Self::alive`] must be called: half of what the service manager waits for. None if it does not.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|timeout| timeout / 2)
    }
}

/// What the parts are doing, in one line: what does not work comes first, then what is given up to keep within the budget.
pub fn status_line(parts: &Parts, strain: &Strain) -> String {
    let mut troubles = Vec::new();
    let mut active = Vec::new();
    for (part, state) in parts {
        match state {
            PartState::Active => active.push(part.name()),
            PartState::Disabled { .. } => {}
            PartState::Unsupported { reason, .. } => {
                troubles.push(format!("{} is not possible: {reason}", part.name()))
            }
            PartState::Late { reason, .. } => troubles.push(format!("{} late: {reason}", part.name())),
            PartState::Failed { reason, .. } => troubles.push(format!("{} failed: {reason}", part.name())),
        }
    }
    troubles.extend(over_budget(strain));
    if troubles.is_empty() {
        format!("All is well: {}", active.join(", "))
    } else {
        troubles.join("; ")
    }
}

fn over_budget(strain: &Strain) -> Option<String> {
    let Strain { state, reason, shed } = strain;
    let left = match state {
        State::Within => return None,
        State::Shedding => "",
        State::Exhausted => ", and nothing is left to give up",
    };
    let shed = match shed.is_empty() {
        true => "nothing".to_owned(),
        false => shed.join(", "),
    };
    Some(format!("over budget: {reason}; given up: {shed}{left}"))
}

fn send(state: NotifyState<'_>) {
    send_all(&[state]);
}

fn send_all(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixDatagram, process::Command, time::Duration};

    use super::*;

    /// Set for the run of [`tells_a_service_manager`] that does the telling.
    const TELLER: &str = "PROFILER_TEST_TELLER";

    #[test]
    fn tells_a_service_manager() {
        if std::env::var_os(TELLER).is_some() {
            let manager = ServiceManager::from_environment();
            assert_eq!(manager.watchdog_interval(), Some(Duration::from_secs(15)));
            manager.ready();
            manager.status("line\nREADY=0");
            manager.alive();
            manager.stopping();
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let teller = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "notify::tests::tells_a_service_manager"])
            .env(TELLER, "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "30000000")
            .env_remove("WATCHDOG_PID")
            .output()
            .unwrap();
        assert!(teller.status.success(), "{teller:?}");
        let receive = || {
            let mut buffer = [0; 1024];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned()
        };
        assert_eq!(receive(), "READY=1");
        assert_eq!(receive(), "STATUS=line\\nREADY=0");
        assert_eq!(receive(), "WATCHDOG=1");
        assert_eq!(receive(), "STOPPING=1");
    }

    #[test]
    fn what_does_not_work_is_what_is_said() {
        use crate::health::Part;
        let mut parts = vec![(Part::Sampling, PartState::Active), (Part::Api, PartState::Active)];
        let within = Strain::default();
        assert_eq!(status_line(&parts, &within), "All is well: sampling, api");
        parts[0].1 = PartState::Failed {
            reason: "its thread panicked".to_owned(),
            remedy: "Restart it.".to_owned(),
        };
        assert_eq!(status_line(&parts, &within), "sampling failed: its thread panicked");
    }

    #[test]
    fn what_is_given_up_is_not_well() {
        use crate::health::Part;
        let mut parts = vec![(Part::Sampling, PartState::Active)];
        let mut strain = Strain {
            state: State::Shedding,
            reason: "CPU at 3.00 % of the host, cap 2.00 %".to_owned(),
            shed: vec!["sampling rate divided by 2".to_owned(), "more".to_owned()],
        };
        let said = "over budget: CPU at 3.00 % of the host, cap 2.00 %; given up: sampling rate divided by 2, more";
        assert_eq!(status_line(&parts, &strain), said);
        strain.state = State::Exhausted;
        let left = format!("{said}, and nothing is left to give up");
        assert_eq!(status_line(&parts, &strain), left);
        // What does not work at all comes first.
        parts[0].1 = PartState::Failed {
            reason: "its thread panicked".to_owned(),
            remedy: String::new(),
        };
        let both = format!("sampling failed: its thread panicked; {left}");
        assert_eq!(status_line(&parts, &strain), both);
    }

    #[test]
    fn without_a_service_manager_nothing_happens() {
        let manager = ServiceManager { watchdog: None };
        manager.ready();
        manager.alive();
        assert_eq!(manager.watchdog_interval(), None);
    }
}
