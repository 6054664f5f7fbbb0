//! A flame graph of a service whose profile is known, from nothing: the first thing to try.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::binaries::Binaries;
use crate::children::{Interrupt, Running};
use crate::folded::Folded;
use crate::privilege::Privilege;
use crate::session::{self, SHORT_WINDOWS, Session};
use crate::{command, workspace};

/// The demo's kinds of work with their share of its CPU time in percent, true by construction.
pub(crate) const TRUTH: [(&str, u32); 3] = [("price_basket", 50), ("render_page", 30), ("compress_reply", 20)];

const RECORDING: &str = "10s";
/// How many functions are printed.
const TOP: usize = 8;

/// Which service, and with which binaries.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The service in Python instead of the one in Rust.
    #[arg(long)]
    python: bool,
    /// Folder of binaries that are already built.
    #[arg(long, hide = true)]
    built: Option<PathBuf>,
}

/// Builds, and shows the demo as root.
///
/// # Errors
/// The build or a part of the demo fails, or nobody here may load programs into the kernel.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (verb, picture) = if arguments.python {
        ("demo --python", "demo/flamegraph-python.svg")
    } else {
        ("demo", "demo/flamegraph.svg")
    };
    let picture = workspace::scratch().join(picture);
    let Some(binaries) = as_root(verb, arguments.built.as_deref())? else {
        return Ok(());
    };
    let interrupt = Interrupt::install()?;
    let demo = if arguments.python {
        session::start_python_demo()?
    } else {
        session::start_demo(&binaries)?
    };
    let session = Session::start(&binaries, SHORT_WINDOWS, &interrupt)?;
    session.wait_until_walked(demo.pid())?;
    let stacks = record(&session, &demo, &picture)?;
    print_result(&Folded::parse(&stacks)?, &picture)
}

/// Draws the picture and returns the same stacks in text form.
fn record(session: &Session, demo: &Running, picture: &Path) -> Result<String> {
    if let Some(folder) = picture.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let pid = demo.pid().to_string();
    let target = ["flamegraph", "--pid", &pid];
    let svg = [
        "--duration",
        RECORDING,
        "--format",
        "svg",
        "-o",
        session::text_of(picture)?,
    ];
    session.cli(&[&target[..], &svg].concat())?;
    session.cli_output(&[&target[..], &["--last", RECORDING, "--format", "folded", "-o", "-"]].concat())
}

fn print_result(folded: &Folded<'_>, picture: &Path) -> Result<()> {
    let samples = folded.samples();
    if samples == 0 {
        bail!("the recording holds no samples");
    }
    let percent = |count: u64| count as f64 * 100.0 / samples as f64;
    println!("\nkind of work        expected  measured");
    for (function, expected) in TRUTH {
        println!(
            "{function:<18} {expected:>7} %  {:>6.1} %",
            percent(folded.samples_of(function))
        );
    }
    println!("\nfunctions by their own time");
    for (function, count) in folded.top(TOP) {
        println!("{:>6.1} %  {function}", percent(count));
    }
    println!("\nflame graph: {}", picture.display());
    Ok(())
}

/// The binaries, when we are root; otherwise builds them as the user, runs this verb again through sudo, and returns nothing.
pub(crate) fn as_root(verb: &str, built: Option<&Path>) -> Result<Option<Binaries>> {
    let privilege = Privilege::probe();
    if let (Some(folder), Privilege::Root) = (built, privilege) {
        return Ok(Some(Binaries::in_folder(folder)));
    }
    let program: PathBuf = env::current_exe().context("cannot find this program")?;
    // Asked for before the build: without root there is nothing to build for.
    let mut again = privilege.command(program)?;
    let binaries = Binaries::build()?;
    if privilege == Privilege::Root {
        return Ok(Some(binaries));
    }
    println!("loading programs into the kernel needs root: going on through sudo");
    command::run(again.args(verb.split(' ')).arg("--built").arg(&binaries.folder))?;
    Ok(None)
}
