//! How a daemon of the tests is started.

use std::path::Path;

/// How to start a daemon.
#[derive(Clone, Copy, Debug)]
pub struct DaemonOptions<'a> {
    pub(crate) config: &'a str,
    pub(crate) socket: Option<&'a Path>,
    pub(crate) state_dir: Option<&'a Path>,
    pub(crate) through: &'a [&'a str],
    pub(crate) denied: &'a [&'a str],
    pub(crate) unprivileged: bool,
}

impl<'a> DaemonOptions<'a> {
    /// With this configuration, on a socket of its own, as root.
    pub fn new(config: &'a str) -> Self {
        Self {
            config,
            socket: None,
            state_dir: None,
            through: &[],
            denied: &[],
            unprivileged: false,
        }
    }

    /// With this state directory.
    pub fn with_state_dir(self, state_dir: &'a Path) -> Self {
        Self {
            state_dir: Some(state_dir),
            ..self
        }
    }

    /// Started by a command that takes a program and its arguments at its end and becomes it.
    pub fn through(self, prefix: &'a [&'a str]) -> Self {
        Self {
            through: prefix,
            ..self
        }
    }

    /// Without these capabilities, named as `setpriv` names them.
    pub fn denied(self, capabilities: &'a [&'a str]) -> Self {
        Self {
            denied: capabilities,
            ..self
        }
    }

    /// On the socket of another daemon.
    pub fn on_socket(self, socket: &'a Path) -> Self {
        Self {
            socket: Some(socket),
            ..self
        }
    }

    /// As a user without any rights.
    pub fn without_rights(self) -> Self {
        Self {
            unprivileged: true,
            ..self
        }
    }
}
