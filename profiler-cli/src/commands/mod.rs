//! One module a verb. Each takes its arguments, asks the daemon, writes its report and gives the exit code.

mod alerts;
mod completions;
mod config;
mod diff;
mod doctor;
mod flamegraph;
mod memory;
mod metrics;
mod ps;
mod status;
mod top;

use std::{io::Write as _, process::ExitCode};

use crate::{
    args::{Args, Connection, Verb},
    client::{Client, ClientError, remote},
    error::CliError,
    output::{NOTE_STYLE, printable},
};

/// Longest warning shown.
const MAX_WARNING_BYTES: usize = 500;

/// Does what the command line asks for.
pub(crate) async fn run(args: &Args) -> Result<ExitCode, CliError> {
    let connection = &args.connection;
    connection.check()?;
    if let Some(warning) = remote::warning(&connection.remote) {
        let (style, line) = (NOTE_STYLE, printable(&warning, MAX_WARNING_BYTES));
        // Without a stderr there is nobody to warn.
        drop(writeln!(anstream::stderr(), "{style}warning:{style:#} {line}"));
    }
    match &args.verb {
        Verb::Flamegraph(args) => flamegraph::run(connection, args).await,
        Verb::Diff(args) => diff::run(connection, args).await,
        Verb::Top(args) => top::run(connection, args).await,
        Verb::Ps(args) => ps::run(connection, args).await,
        Verb::Metrics(args) => metrics::run(connection, args).await,
        Verb::Memory { verb } => memory::run(connection, verb).await,
        Verb::Alerts(args) => alerts::run(connection, args).await,
        Verb::Status(args) => status::run(connection, args).await,
        Verb::Doctor(args) => doctor::run(connection, args).await,
        Verb::Config { verb } => config::run(connection, verb).await,
        Verb::Completions { shell } => completions::run(*shell),
        Verb::Man {
            directory: Some(directory),
            ..
        } => completions::man_pages(directory),
        Verb::Man { verb, .. } => completions::man(verb.as_deref()),
    }
}

async fn connect(connection: &Connection) -> Result<Client, ClientError> {
    Client::connect(connection).await
}
