//! What a web service under load loses while it is watched: requests a second of FastAPI and uvicorn with and without a daemon,
//! in turn.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use profiler_tests::interpreters;
use profiler_tests::python::Scripts;

use super::agent::cpu_time_of;
use super::cost_python::CONFIG;
use super::report;
use super::spread::Spread;
use crate::binaries::Binaries;
use crate::children::Interrupt;
use crate::interpreters::venvs::SERVICES;
use crate::session::Session;

/// Pairs of a round with and a round without the daemon, which take turns to be first.
const PAIRS: usize = 30;
const ROUND: Duration = Duration::from_secs(3);
/// Until names are read, which are a cost of the start.
const SETTLE: Duration = Duration::from_secs(2);
/// What is asked for, each by so many callers at a time.
const PATHS: [&str; 2] = ["/awaited/7", "/threaded/7"];
const CALLERS: usize = 2;
const REPLY_WITHIN: Duration = Duration::from_secs(30);
/// Longest reply that is read.
const MAX_REPLY_BYTES: usize = 64 << 10;
const SLOWDOWN_PERCENT: f64 = 1.0;

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    if let Err(error) = SERVICES.make(&interpreters::all()) {
        println!("\nservice: not measured, because its packages cannot be had: {error:#}");
        return Ok(());
    }
    let interpreter = interpreters::with_packages().map_err(anyhow::Error::msg)?;
    let scripts = Scripts::of(&interpreter);
    let service = scripts.start("service.py", &["uvloop"]);
    let port = service.said.iter().find_map(|line| line.strip_prefix("port "));
    let port = port.context("the service says no port")?;
    let load = Load::start(port.parse().context("the service says no port")?, service.running.pid());
    let (mut without, mut with) = (Vec::new(), Vec::new());
    // What is done for the first time takes longer.
    load.round(interrupt)?;
    for pair in 0..PAIRS {
        if pair % 2 == 0 {
            without.push(load.round(interrupt)?);
        }
        let session = Session::start(binaries, CONFIG, interrupt)?;
        session.wait_until_walked(service.running.pid())?;
        interrupt.sleep(SETTLE)?;
        with.push(load.round(interrupt)?);
        drop(session);
        if pair % 2 == 1 {
            without.push(load.round(interrupt)?);
        }
    }
    print(&without, &with);
    Ok(())
}

/// What one round came to.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Requests that were answered in a second.
    per_second: f64,
    /// The same for a second of the service's CPU time: others on the host are not in it.
    per_cpu_second: f64,
}

/// Callers that ask the service again and again, each on a connection of its own, until this goes away.
#[derive(Debug)]
struct Load {
    service: u32,
    replies: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    fn start(port: u16, service: u32) -> Self {
        let (replies, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let callers = PATHS.repeat(CALLERS).into_iter().map(|path| {
            let (replies, is_over) = (Arc::clone(&replies), Arc::clone(&is_over));
            thread::spawn(move || ask(port, path, &replies, &is_over))
        });
        Self {
            service,
            callers: callers.collect(),
            replies,
            is_over,
        }
    }

    fn round(&self, interrupt: &Interrupt) -> Result<Round> {
        let look = || -> Result<_> {
            let cpu = cpu_time_of(Path::new("/proc"), self.service)?;
            Ok((Instant::now(), self.replies.load(Ordering::Relaxed), cpu))
        };
        let (start, replies_before, cpu_before) = look()?;
        interrupt.sleep(ROUND)?;
        let (end, replies, cpu) = look()?;
        if self.callers.iter().any(JoinHandle::is_finished) {
            bail!("a caller has given up");
        }
        let replies = (replies - replies_before) as f64;
        Ok(Round {
            per_second: replies / (end - start).as_secs_f64(),
            per_cpu_second: replies / cpu.saturating_sub(cpu_before).as_secs_f64(),
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for caller in self.callers.drain(..) {
            if let Ok(Err(error)) = caller.join() {
                eprintln!("warning: {error:#}");
            }
        }
    }
}

/// Asks for a path on one connection until it is told to stop.
fn ask(port: u16, path: &str, replies: &AtomicU64, is_over: &AtomicBool) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("the service cannot be reached")?;
    stream.set_read_timeout(Some(REPLY_WITHIN))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: service\r\n\r\n");
    while !is_over.load(Ordering::Relaxed) {
        stream.write_all(request.as_bytes()).context("the service hung up")?;
        let reply = read_reply(&mut stream)?;
        ensure!(
            reply.starts_with(b"HTTP/1.1 200 "),
            "{}",
            String::from_utf8_lossy(&reply)
        );
        replies.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The body is one JSON object, which holds no other.
fn read_reply(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut reply = Vec::new();
    let mut buffer = [0; 4096];
    while reply.last() != Some(&b'}') && reply.len() < MAX_REPLY_BYTES {
        let read = stream.read(&mut buffer).context("the service does not answer")?;
        ensure!(read > 0, "the service hung up");
        reply.extend_from_slice(&buffer[..read]);
    }
    Ok(reply)
}

fn print(without: &[Round], with: &[Round]) {
    report::head(&format!(
        "service: FastAPI and uvicorn under load, {PAIRS} pairs of {} s",
        ROUND.as_secs()
    ));
    for (when, rounds) in [("without the daemon", without), ("with it", with)] {
        let requests = Spread::of(rounds.iter().map(|round| round.per_second));
        report::fact(&format!("requests {when}, mean"), "1/s", requests.mean);
        report::fact("  standard deviation", "1/s", requests.deviation);
    }
    let pairs = || with.iter().zip(without);
    let by_second = pairs().map(|(with, without)| with.per_second / without.per_second);
    print_ratio("requests a second", by_second);
    let by_cpu_second = pairs().map(|(with, without)| with.per_cpu_second / without.per_cpu_second);
    print_ratio("requests a CPU second", by_cpu_second);
}

fn print_ratio(what: &str, ratios: impl Iterator<Item = f64> + Clone) {
    let ratio = Spread::of(ratios.map(|ratio| ratio * 100.0));
    report::fact(&format!("{what}, mean of pairs"), "% of without", ratio.mean);
    report::fact("  95 % interval: more or less by", "points", ratio.interval());
    report::at_most(
        "  slowdown, upper end of the interval",
        "%",
        100.0 - ratio.mean + ratio.interval(),
        SLOWDOWN_PERCENT,
    );
}
