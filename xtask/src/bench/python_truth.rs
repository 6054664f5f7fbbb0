//! Shares of a Python program's kinds of work against what they are by construction, at the rate that the daemon has by default:
//! Python, a module in C that holds the lock, and a library that does not.
//!
//! One process for each CPU. The shares are shares of CPU time, whatever else the host does meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use profiler_tests::interpreters;
use profiler_tests::python::{PythonProgram, Scripts};

use super::report;
use crate::binaries::Binaries;
use crate::children::Interrupt;
use crate::folded::Folded;
use crate::session::{SHORT_WINDOWS, Session};

const SAMPLE_HZ: u32 = 99;
/// Kinds of work with their share of the program's CPU time in percent.
const TRUTH: [(&str, u32); 3] = [("price_basket", 50), ("render_page", 30), ("compress_reply", 20)];
/// What the module in C is inside of.
const NATIVE: (&str, &str) = ("native_spin", "render_page");
/// What the library is called from; what of it runs outside of the library takes no more than this, in percent.
const LIBRARY: (&str, f64) = ("compress_reply", 10.0);
const ENOUGH_SAMPLES: u64 = 10_000;
/// How far a share may be from the truth, in points.
const TOLERANCE: f64 = 2.0;
/// Between two looks whether there are enough.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// A profile of the past is kept for so long.
const LONGEST: Duration = Duration::from_secs(14 * 60);

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    let found = interpreters::all();
    let suits = |interpreter: &&interpreters::Interpreter| {
        interpreter.headers.is_some() && interpreter.root.is_none() && !interpreter.free_threaded
    };
    // The newest: its C code and its Python code are the hardest to tell apart.
    let Some(interpreter) = found.interpreters.iter().rfind(suits) else {
        bail!("there is no interpreter with headers, which a module in C needs");
    };
    let scripts = Scripts::of(interpreter);
    if let Err(reason) = scripts.compile_native() {
        bail!("the module in C does not compile: {reason}");
    }
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let programs: Vec<PythonProgram> = (0..count).map(|_| scripts.start("shares.py", &[])).collect();
    let config = format!(
        "[sampling]\nhz = {SAMPLE_HZ}\n{SHORT_WINDOWS}[targets]\ndiscover_rust = false\n[budget]\nmax_cpu_percent = 100\n"
    );
    let session = Session::start(binaries, &config, interrupt)?;
    for program in &programs {
        session.wait_until_walked(program.running.pid())?;
    }
    // Once their interpreters are understood, too.
    interrupt.sleep(LOOK_EVERY)?;
    let start = Instant::now();
    loop {
        interrupt.sleep(LOOK_EVERY)?;
        let mut shares = Shares::default();
        for program in &programs {
            shares.add(&Folded::parse(&since(&session, program.running.pid(), start)?)?);
        }
        if shares.samples >= ENOUGH_SAMPLES {
            shares.print(&format!("{} of {}", interpreter.version, interpreter.name));
            return Ok(());
        }
        if start.elapsed() > LONGEST {
            bail!(
                "only {} samples at {SAMPLE_HZ} Hz: is the machine too busy?",
                shares.samples
            );
        }
    }
}

fn since(session: &Session, pid: u32, start: Instant) -> Result<String> {
    let (pid, last) = (pid.to_string(), format!("{}ms", start.elapsed().as_millis()));
    let arguments = ["flamegraph", "--pid", &pid, "--last", &last];
    session.cli_output(&[&arguments[..], &["--format", "folded", "-o", "-"]].concat())
}

/// Samples of all processes, and those of each kind of work.
#[derive(Debug, Default)]
struct Shares {
    samples: u64,
    of_kind: [u64; TRUTH.len()],
    /// In the module in C, and in what calls it.
    native: u64,
    /// Where the innermost function is the one that calls the library.
    beside_library: u64,
}

impl Shares {
    fn add(&mut self, folded: &Folded<'_>) {
        self.samples += folded.samples();
        for (count, (function, _)) in self.of_kind.iter_mut().zip(TRUTH) {
            *count += folded.samples_of(function);
        }
        self.native += folded.samples_of(NATIVE.0);
        self.beside_library += folded.samples_in(LIBRARY.0);
    }

    fn print(&self, interpreter: &str) {
        report::head(&format!(
            "truth of Python {interpreter}: {} samples at {SAMPLE_HZ} Hz",
            self.samples
        ));
        let share = |count: u64, of: u64| count as f64 * 100.0 / of as f64;
        for (count, (function, expected)) in self.of_kind.into_iter().zip(TRUTH) {
            let measured = share(count, self.samples);
            report::fact(&format!("share of {function}, true {expected}"), "%", measured);
            let distance = (measured - f64::from(expected)).abs();
            report::at_most(&format!("distance of {function}"), "points", distance, TOLERANCE);
        }
        let (native, caller) = NATIVE;
        let expected = TRUTH.iter().find(|(function, _)| *function == caller);
        let distance = (share(self.native, self.samples) - expected.map_or(0.0, |(_, share)| f64::from(*share))).abs();
        report::at_most(&format!("distance of {native} in C"), "points", distance, TOLERANCE);
        let (function, most) = LIBRARY;
        let all = TRUTH.iter().position(|(kind, _)| *kind == function);
        let all = all.map_or(0, |kind| self.of_kind[kind]);
        report::at_most(
            &format!("{function} outside of its library"),
            "%",
            share(self.beside_library, all),
            most,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_and_c_are_told_apart() {
        let text = "p 1;<module> (shares.py);serve_requests (shares.py);Share.serve (shares.py);price_basket (shares.py) 5\n\
                    p 1;<module> (shares.py);Share.serve (shares.py);render_page (shares.py);native_spin_locked;native_spin 3\n\
                    p 1;<module> (shares.py);Share.serve (shares.py);compress_reply (shares.py);zlib_compress;deflate 1\n\
                    p 1;<module> (shares.py);Share.serve (shares.py);compress_reply (shares.py) 1\n";
        let mut shares = Shares::default();
        shares.add(&Folded::parse(text).unwrap());
        assert_eq!((shares.samples, shares.of_kind), (10, [5, 3, 2]));
        assert_eq!((shares.native, shares.beside_library), (3, 1));
    }
}
