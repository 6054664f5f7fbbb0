//! `memory`: what the memory of processes holds.

mod census;
mod document;
mod growth;
mod report;

use std::process::ExitCode;

use crate::{
    args::{Connection, MemoryVerb},
    error::CliError,
};

/// Does what is asked about memory.
pub(crate) async fn run(connection: &Connection, verb: &MemoryVerb) -> Result<ExitCode, CliError> {
    match verb {
        MemoryVerb::Growth(args) => growth::run(connection, args).await,
        MemoryVerb::Census(args) => census::run(connection, args).await,
    }
}
