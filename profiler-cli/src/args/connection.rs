//! How the daemon is reached.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, ValueHint};

use crate::span::parse_duration;

/// Over the options that every verb has.
const CONNECTION_HEADING: &str = "Connection";

/// How to reach the daemon.
#[derive(Debug, ClapArgs)]
pub(crate) struct Connection {
    /// The daemon's socket
    #[arg(
        long,
        global = true,
        env = "PROFILER_SOCKET",
        hide_env_values = true,
        help_heading = CONNECTION_HEADING,
        default_value = "/run/profiler/profiler.sock",
        value_name = "PATH",
        value_hint = ValueHint::FilePath
    )]
    pub(crate) socket: PathBuf,
    /// How long to wait for an answer of the daemon
    #[arg(
        long,
        global = true,
        help_heading = CONNECTION_HEADING,
        default_value = "30s", value_name = "SPAN", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

/// How to reach a daemon that is not asked over its socket.
#[derive(Clone, Debug, Default, ClapArgs)]
#[command(next_help_heading = CONNECTION_HEADING)]
pub(crate) struct Remote {
    /// The daemon's address, instead of its socket.
    #[arg(
        long,
        global = true,
        env = "PROFILER_ADDRESS",
        hide_env_values = true,
        conflicts_with = "socket",
        value_name = "URL",
        value_hint = ValueHint::Url,
        help = "Ask the daemon at this address of its section [tcp] instead, like https://profiler.example:9898"
    )]
    pub(crate) address: Option<String>,
    /// The file with the token to show at that address
    #[arg(long, global = true, env = "PROFILER_TOKEN_FILE", hide_env_values = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,
    /// Authorities in PEM, one of which has to have signed the daemon's certificate; those of this system if not given
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ca_file: Option<PathBuf>,
    /// The certificate to show at that address, in PEM
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) certificate_file: Option<PathBuf>,
    /// Its key, in PEM, if it is not in the same file
    #[arg(long, global = true, requires = "certificate_file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) key_file: Option<PathBuf>,
}

impl Connection {
    /// Where the daemon is, in words.
    pub(crate) fn place(&self) -> String {
        match &self.remote.address {
            Some(address) => address.clone(),
            None => self.socket.display().to_string(),
        }
    }
}
