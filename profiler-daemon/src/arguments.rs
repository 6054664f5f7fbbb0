//! The daemon's command line.

use std::{ffi::OsString, path::PathBuf};

use clap::Parser;
use profiler_config::{Setting, SourceFile, Sources};

/// Samples CPU stacks of services and serves their profiles over gRPC.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "profiler-daemon",
    version,
    after_help = "Example:\n  profiler-daemon --socket /tmp/profiler.sock --state-dir /tmp/profiler\n\n\
                  Without --config, /etc/profiler/config.toml and /etc/profiler/config.d/*.toml are read where they exist.\n\
                  Every setting can be given in the environment as PROFILER_SECTION_KEY (PROFILER_SAMPLING_HZ=199)."
)]
pub struct Arguments {
    /// Configuration file, instead of those in /etc/profiler
    #[arg(long, value_name = "FILE", env = "PROFILER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Unix socket to serve on
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Directory for what outlives the daemon
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Samples a second on each CPU
    #[arg(long, value_name = "HZ")]
    pub hz: Option<u32>,
    /// Check the configuration and exit
    #[arg(long)]
    pub check_config: bool,
}

/// Paths are settings, and settings are text.
#[derive(Debug, thiserror::Error)]
#[error("{flag}: {} is not valid UTF-8", path.display())]
pub struct NotText {
    flag: &'static str,
    path: PathBuf,
}

impl Arguments {
    /// Where the configuration comes from: files, the environment, and these flags.
    pub fn sources(
        &self,
        files: Vec<SourceFile>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Sources, NotText> {
        let mut sources = Sources {
            files,
            environment: Vec::new(),
            flags: Vec::new(),
        };
        sources.add_environment(environment);
        let path_flags = [
            ("--socket", "api.socket", &self.socket),
            ("--state-dir", "state_dir", &self.state_dir),
        ];
        for (flag, key, path) in path_flags {
            let Some(path) = path else { continue };
            let text = path.to_str().ok_or_else(|| NotText {
                flag,
                path: path.clone(),
            })?;
            sources.flags.push(Setting::from_flag(flag, key, text));
        }
        if let Some(hertz) = self.hz {
            sources
                .flags
                .push(Setting::from_flag("--hz", "sampling.hz", &hertz.to_string()));
        }
        Ok(sources)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_manual_page_has_every_flag() {
        let page = include_str!("../../packaging/man/profiler-daemon.8").replace("\\-", "-");
        let mut command = Arguments::command();
        command.build();
        for flag in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(
                page.contains(&format!("--{flag}")),
                "--{flag} is not in the manual page"
            );
        }
    }
}
