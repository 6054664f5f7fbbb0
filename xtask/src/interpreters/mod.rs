//! Python interpreters for the tests: those of several releases of Debian, unpacked below `target/interpreters`, beside what
//! is installed anyhow. What cannot be had is named with its reason, and stops nothing.

pub(crate) mod debian;
mod from_source;
pub(crate) mod venvs;

use anyhow::Result;
use profiler_tests::interpreters::{self, Found};
use serde_json::json;

use crate::not_run::NotRun;

/// Which interpreters.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Unpack only this version, such as 3.14.
    #[arg(long, value_name = "VERSION")]
    only: Option<String>,
    /// Also build one without a global lock, from source: a quarter of an hour and more.
    #[arg(long)]
    free_threaded: bool,
    /// Also build one on musl, from source: some minutes, and the package musl-tools.
    #[arg(long)]
    musl: bool,
    /// Also install what Python services are made of: a web server, numpy, greenlets.
    #[arg(long)]
    packages: bool,
    /// Print what there is as JSON.
    #[arg(long)]
    json: bool,
}

/// An interpreter that could not be had, and why.
#[derive(Debug)]
struct Missing {
    name: String,
    reason: String,
}

/// Unpacks what is not there yet and prints what there is.
///
/// # Errors
/// Nothing can be printed; what cannot be had is no error.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut missing = debian::unpack(arguments.only.as_deref());
    let recipes = [
        (arguments.free_threaded, from_source::FREE_THREADED),
        (arguments.musl, from_source::MUSL),
    ];
    for (_, recipe) in recipes.into_iter().filter(|(wanted, _)| *wanted) {
        if let Err(error) = recipe.build() {
            missing.push(Missing {
                name: recipe.name.to_owned(),
                reason: format!("{error:#}"),
            });
        }
    }
    let found = interpreters::all();
    if arguments.packages {
        missing.extend(services(&found));
    }
    if arguments.json {
        println!("{:#}", as_json(&found, &missing));
    } else {
        print(&found, &missing);
    }
    Ok(())
}

/// Installs what services are made of, unless that is done; gives it if it cannot be had.
fn services(found: &Found) -> Option<Missing> {
    let error = venvs::SERVICES.make(found).err()?;
    Some(Missing {
        name: format!("packages of {}", venvs::SERVICES.name),
        reason: format!("{error:#}"),
    })
}

/// Unpacks and installs what is not there yet, for tests that come next; says what could not be had.
pub(crate) fn prepare(not_run: &NotRun) {
    let mut missing = debian::unpack(None);
    missing.extend(services(&interpreters::all()));
    for Missing { name, reason } in missing {
        not_run.add(&name, &reason);
    }
}

fn print(found: &Found, missing: &[Missing]) {
    for interpreter in &found.interpreters {
        let lock = if interpreter.free_threaded {
            "  without a global lock"
        } else {
            ""
        };
        println!("{:<24} {}{lock}", interpreter.name, interpreter.version);
    }
    for (name, reason) in &found.broken {
        println!("{name:<24} does not start: {reason}");
    }
    for Missing { name, reason } in missing {
        println!("{name:<24} cannot be had: {reason}");
    }
}

fn as_json(found: &Found, missing: &[Missing]) -> serde_json::Value {
    let interpreters = found.interpreters.iter().map(|interpreter| {
        json!({
            "name": interpreter.name,
            "version": interpreter.version.to_string(),
            "free_threaded": interpreter.free_threaded,
            "root": interpreter.root,
            "program": interpreter.program,
            "headers": interpreter.headers,
        })
    });
    let broken = found
        .broken
        .iter()
        .map(|(name, reason)| json!({"name": name, "reason": reason}));
    let missing = missing
        .iter()
        .map(|Missing { name, reason }| json!({"name": name, "reason": reason}));
    json!({
        "interpreters": interpreters.collect::<Vec<_>>(),
        "broken": broken.collect::<Vec<_>>(),
        "missing": missing.collect::<Vec<_>>(),
    })
}
