//! Tells the service manager how the daemon is doing. Without systemd nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

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

    /// The daemon is about to end.
    pub fn stopping(&self) {
        send(NotifyState::Stopping);
    }

    /// What the daemon is doing, for `systemctl status`.
    pub fn status(&self, text: &str) {
        // A line break would begin another assignment of the protocol.
        send(NotifyState::Status(&profiler_profile::visible(text, MAX_STATUS_BYTES)));
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

fn send(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
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
    fn without_a_service_manager_nothing_happens() {
        let manager = ServiceManager { watchdog: None };
        manager.ready();
        manager.alive();
        assert_eq!(manager.watchdog_interval(), None);
    }
}
