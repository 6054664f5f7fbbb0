//! The profiling daemon: arguments, configuration, logging, exit code.
#![forbid(unsafe_code)]

use std::{io::Write as _, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use profiler_config::{DEFAULT_DIRECTORY, read_default_files, read_file};
use profiler_daemon::{
    arguments::Arguments,
    children,
    daemon::{self, Configured},
    kernel, logging,
    reload::Source,
};
use tokio::signal::unix::{SignalKind, signal};

/// The configuration is wrong (`EX_CONFIG` of sysexits.h): the service manager need not try again.
const EXIT_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    if let Some(code) = children::supervise_if_asked(std::env::args_os()) {
        return code;
    }
    kernel::bound_heap();
    let arguments = Arguments::parse();
    let configured = match configure(&arguments) {
        Ok(configured) => configured,
        Err(error) => return fail(&error, ExitCode::from(EXIT_CONFIGURATION)),
    };
    if arguments.check_config {
        return ExitCode::SUCCESS;
    }
    match run(arguments, configured) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, ExitCode::FAILURE),
    }
}

fn fail(error: &anyhow::Error, code: ExitCode) -> ExitCode {
    // Where nobody reads, nobody can be told.
    writeln!(std::io::stderr(), "profiler-daemon: {error:#}").unwrap_or_default();
    code
}

/// Reads the configuration, at the start and at each reload.
fn configure(arguments: &Arguments) -> Result<Configured> {
    let files = match &arguments.config {
        Some(path) => vec![read_file(path)?],
        None => read_default_files(DEFAULT_DIRECTORY.as_ref())?,
    };
    let paths = files.iter().map(|file| file.path.clone()).collect();
    let config = arguments.sources(files, std::env::vars_os())?.resolve()?;
    Ok(Configured {
        toml: config.to_toml()?,
        config,
        files: paths,
    })
}

fn run(arguments: Arguments, configured: Configured) -> Result<()> {
    let directives = std::env::var(logging::DIRECTIVES_VARIABLE).ok();
    let level = logging::init(&configured.config.log, directives.as_deref())?;
    let source = Source {
        read: Arc::new(move || configure(&arguments).map_err(|error| format!("{error:#}"))),
        level: Some(level),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime of the API")?;
    runtime.block_on(async {
        let hangups = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(daemon::run(configured, source, hangups, shutdown).await?)
    })
}
