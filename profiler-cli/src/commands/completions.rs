//! `completions` and `man`: what a package installs beside the program, made from the command line itself.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{args::Args, error::CliError};

/// Prints the completions for a shell.
pub(crate) fn run(shell: Shell) -> Result<ExitCode, CliError> {
    let mut command = Args::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the manual pages of the program and of all its commands.
pub(crate) fn man_pages(directory: &Path) -> Result<ExitCode, CliError> {
    clap_mangen::generate_to(Args::command(), directory).map_err(|source| CliError::WriteFile {
        path: directory.to_path_buf(),
        source,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the manual page of the program, or of one of its commands.
pub(crate) fn man(verb: Option<&str>) -> Result<ExitCode, CliError> {
    let mut command = Args::command();
    command.build();
    let page = match verb {
        None => command,
        Some(verb) => match command.find_subcommand(verb) {
            Some(found) => found.clone().display_name(format!("profiler-cli-{verb}")),
            None => {
                return Err(CliError::Usage {
                    message: format!("there is no command {verb}"),
                });
            }
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    io::stdout().lock().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}
