//! How the daemon is reached.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, ValueHint};

use crate::{error::CliError, span::parse_duration};

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
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
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

    /// Whether all of it is of use. Only known once all of it was read: what belongs together may stand before and after the verb.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        let Remote {
            address,
            ca_file,
            certificate_file,
            key_file,
            ..
        } = &self.remote;
        let of_an_address = [
            ("--ca-file", ca_file),
            ("--certificate-file", certificate_file),
            ("--key-file", key_file),
        ];
        let given = of_an_address.iter().find(|(_, file)| file.is_some());
        let problem = match given {
            Some((option, _)) if address.is_none() => {
                format!("{option} is for a daemon at an --address; without one the daemon is asked over its socket")
            }
            Some(_) if key_file.is_some() && certificate_file.is_none() => {
                "--key-file is the key of a certificate: --certificate-file is missing".to_owned()
            }
            _ => return Ok(()),
        };
        Err(CliError::Usage { message: problem })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::Args;

    fn problem(arguments: &str) -> Option<String> {
        let args = Args::try_parse_from(arguments.split(' ')).unwrap();
        args.connection.check().err().map(|error| error.to_string())
    }

    #[test]
    fn what_is_shown_to_an_address_needs_one() {
        const AT: &str = "profiler-cli --address https://x:1";
        for (arguments, named) in [
            ("profiler-cli --socket /s status --ca-file a", "--ca-file"),
            (
                "profiler-cli --socket /s --certificate-file a status",
                "--certificate-file",
            ),
            ("profiler-cli --socket /s --key-file a status", "--key-file"),
            (format!("{AT} status --key-file a").as_str(), "--certificate-file"),
        ] {
            let problem = problem(arguments).expect(arguments);
            assert!(problem.contains(named), "{arguments}: {problem}");
        }
        for arguments in [
            "profiler-cli --socket /s status",
            // Its name may stand in the environment of everyone.
            "profiler-cli --socket /s --token-file a status",
            format!("{AT} status --ca-file a").as_str(),
            format!("{AT} --certificate-file a status --key-file b").as_str(),
            "profiler-cli --ca-file a status --address https://x:1",
        ] {
            assert_eq!(problem(arguments), None, "{arguments}");
        }
    }
}
