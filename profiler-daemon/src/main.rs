//! The profiling daemon: arguments, configuration, logging, exit code.
#![forbid(unsafe_code)]

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use profiler_config::{DEFAULT_DIRECTORY, read_default_files, read_file};
use profiler_daemon::{
    arguments::Arguments,
    daemon::{self, Configured},
    logging,
};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nobody reads, nobody can be told.
            writeln!(std::io::stderr(), "profiler-daemon: {error:#}").unwrap_or_default();
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let files = match &arguments.config {
        Some(path) => vec![read_file(path)?],
        None => read_default_files(DEFAULT_DIRECTORY.as_ref())?,
    };
    let paths = files.iter().map(|file| file.path.clone()).collect();
    let sources = arguments.sources(files, std::env::vars_os())?;
    let config = sources.resolve()?;
    if arguments.check_config {
        return Ok(());
    }
    let directives = std::env::var(logging::DIRECTIVES_VARIABLE).ok();
    logging::init(&config.log, directives.as_deref())?;
    let configured = Configured {
        toml: config.to_toml()?,
        config,
        files: paths,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime of the API")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(daemon::run(configured, shutdown).await?)
    })
}
