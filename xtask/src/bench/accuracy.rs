//! Self time of each function next to what `perf record --call-graph dwarf,65528` says of the same seconds.
//!
//! Both are samples, and no two samples of one run are equal: perf's first half is held against its second half to see
//! how far apart two that are both right can be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::report;
use crate::binaries::Binaries;
use crate::children::{Interrupt, Running};
use crate::session::{self, SHORT_WINDOWS, Session};
use crate::{command, workspace};

const SAMPLE_HZ: u32 = 997;
/// One recording, in seconds: perf writes 64 KiB for each sample.
const RECORDING_SECONDS: u32 = 8;
const MOST_RECORDINGS: usize = 10;
const ENOUGH_SAMPLES: u64 = 10_000;
/// How much further from perf we may be than perf's halves are from each other, in points.
const TOLERANCE: f64 = 2.0;
/// Functions shown.
const SHOWN: usize = 12;
/// The program: recursion, callbacks through the C library, allocation, system calls and signal handlers.
const PROGRAM: &str = "tests/fixtures/programs/mixed.rs";
/// What perf calls the kernel's module, and what we call it.
const KERNEL: (&str, &str) = ("[kernel.kallsyms]", "[kernel]");

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    let mut version = Command::new("perf");
    if version.arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("\naccuracy: not compared, because perf is not installed");
        return Ok(());
    }
    let config = format!("[sampling]\nhz = {SAMPLE_HZ}\n{SHORT_WINDOWS}");
    let session = Session::start(binaries, &config, interrupt)?;
    let program = Running::start(
        Command::new(compile(&session)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null()),
    )?;
    session.wait_until_walked(program.pid())?;
    let mut shares = Comparison::default();
    for _ in 0..MOST_RECORDINGS {
        let perf_data = session.path("perf.data");
        let perf = start_perf(program.pid(), &perf_data)?;
        let ours = record(&session, program.pid())?;
        perf.wait(interrupt)?;
        let ours = Counts::of_profile(&serde_json::from_str(&ours).context("the profile is no JSON")?)?;
        shares.add(ours, &perf_samples(&perf_data)?);
        fs::remove_file(&perf_data).with_context(|| format!("cannot remove {}", perf_data.display()))?;
        if shares.ours.samples.min(shares.first.samples + shares.second.samples) >= ENOUGH_SAMPLES {
            shares.print();
            return Ok(());
        }
    }
    bail!("too few samples in {MOST_RECORDINGS} times {RECORDING_SECONDS} s: is the machine too busy?")
}

fn compile(session: &Session) -> Result<PathBuf> {
    let program = session.path("mixed");
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--edition=2024", "-Copt-level=3", "-Cforce-frame-pointers=no", "-o"])
        .args([&program, &workspace::root().join(PROGRAM)]);
    command::run(&mut rustc)?;
    Ok(program)
}

fn start_perf(pid: u32, output: &Path) -> Result<Running> {
    Running::start(
        Command::new("perf")
            .args(["record", "--quiet", "--call-graph=dwarf,65528", "--event=cpu-clock"])
            .args([format!("--freq={SAMPLE_HZ}"), format!("--pid={pid}")])
            .args(["--output", session::text_of(output)?])
            .args(["--", "sleep", &RECORDING_SECONDS.to_string()])
            .stdin(Stdio::null()),
    )
}

fn record(session: &Session, pid: u32) -> Result<String> {
    let (pid, duration) = (pid.to_string(), format!("{RECORDING_SECONDS}s"));
    let arguments = ["flamegraph", "--pid", &pid, "--duration", &duration];
    session.cli_output(&[&arguments[..], &["--format", "json", "-o", "-"]].concat())
}

/// The innermost functions of perf's samples, in the order of time.
fn perf_samples(data: &Path) -> Result<Vec<Place>> {
    let script = command::output(
        Command::new("perf")
            .args(["script", "--hide-call-graph", "--fields=time,ip,sym,dso", "--input"])
            .arg(data)
            .stdin(Stdio::null()),
    )?;
    parse_script(&script)
}

/// Lines such as `7735.711049:      562e5faf1a3c mixed::compare_numbers (/tmp/mixed)`.
fn parse_script(script: &str) -> Result<Vec<Place>> {
    let mut samples = Vec::new();
    for line in script.lines().filter(|line| !line.trim().is_empty()) {
        let parts = line.trim().split_once(": ").and_then(|(time, rest)| {
            let (_address, rest) = rest.trim_start().split_once(' ')?;
            let (function, module) = rest.rsplit_once(" (")?;
            Some((time.parse::<f64>().ok()?, function.trim(), module.strip_suffix(')')?))
        });
        let (time, function, module) = parts.with_context(|| format!("not a sample of perf script: {line:?}"))?;
        let module = if module == KERNEL.0 { KERNEL.1 } else { module };
        let module = module.rsplit('/').next().unwrap_or(module);
        let known = (function != "[unknown]").then_some(function);
        samples.push((time, Place::new(module, known)));
    }
    samples.sort_by(|left, right| left.0.total_cmp(&right.0));
    Ok(samples.into_iter().map(|(_, place)| place).collect())
}

/// A function of a module; without a name all of the module's functions that have none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    module: String,
    function: Option<String>,
}

impl Place {
    /// Of several names for one address tools take different ones, which differ in leading underscores for the most part.
    fn new(module: &str, function: Option<&str>) -> Self {
        Self {
            module: module.to_owned(),
            function: function.map(|name| name.trim_start_matches('_').to_owned()),
        }
    }

    fn shown(&self) -> String {
        format!(
            "{} in {}",
            self.function.as_deref().unwrap_or("without a name"),
            self.module
        )
    }
}

/// Samples by innermost function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    samples: u64,
    by_place: BTreeMap<Place, u64>,
}

impl Counts {
    fn add(&mut self, place: &Place, samples: u64) {
        self.samples += samples;
        *self.by_place.entry(place.clone()).or_default() += samples;
    }

    /// In points.
    fn share(&self, place: &Place) -> f64 {
        let samples = self.by_place.get(place).copied().unwrap_or_default();
        samples as f64 * 100.0 / self.samples.max(1) as f64
    }

    /// Reads `flamegraph --format json`. A function that was inlined is part of the one it was inlined into, as for perf.
    fn of_profile(document: &Value) -> Result<Self> {
        let rows = |name: &str| {
            document[name]
                .as_array()
                .with_context(|| format!("no {name} in the profile"))
        };
        let (nodes, frames) = (rows("nodes")?, rows("frames")?);
        let mut counts = Self::default();
        for node in nodes {
            let samples = node["self"].as_u64().context("a node without samples")?;
            if samples == 0 {
                continue;
            }
            let frame = walked(nodes, frames, node).context("a node without its frame")?;
            let function = frame["function"].as_str().filter(|_| frame["kind"] != "unnamed");
            let place = Place::new(frame["module"].as_str().context("a frame without a module")?, function);
            counts.add(&place, samples);
        }
        Ok(counts)
    }
}

/// The frame that a node stands for as it was on the stack. Callers stand before what they call, so this ends.
fn walked<'a>(nodes: &'a [Value], frames: &'a [Value], mut node: &'a Value) -> Option<&'a Value> {
    let row = |rows: &'a [Value], index: &Value| rows.get(usize::try_from(index.as_u64()?).ok()?);
    loop {
        let frame = row(frames, &node["frame"])?;
        if frame["kind"] != "inlined" {
            return Some(frame);
        }
        node = row(nodes, &node["parent"])?;
    }
}

/// Our samples and perf's, of its recordings' first and second halves.
#[derive(Debug, Default)]
struct Comparison {
    ours: Counts,
    first: Counts,
    second: Counts,
}

impl Comparison {
    fn add(&mut self, ours: Counts, perf: &[Place]) {
        for (place, samples) in &ours.by_place {
            self.ours.add(place, *samples);
        }
        let (first, second) = perf.split_at(perf.len() / 2);
        for (counts, half) in [(&mut self.first, first), (&mut self.second, second)] {
            for place in half {
                counts.add(place, 1);
            }
        }
    }

    /// perf reads separate debug files: what it names there and we do not is without a name for both.
    fn level(&mut self) {
        let unnamed: BTreeSet<String> = self
            .ours
            .by_place
            .keys()
            .filter(|place| place.function.is_none())
            .map(|place| place.module.clone())
            .collect();
        for counts in [&mut self.first, &mut self.second] {
            let mut levelled = Counts::default();
            for (place, samples) in &counts.by_place {
                if !self.ours.by_place.contains_key(place) && unnamed.contains(&place.module) {
                    levelled.add(&Place::new(&place.module, None), *samples);
                } else {
                    levelled.add(place, *samples);
                }
            }
            *counts = levelled;
        }
    }

    fn perf(&self) -> Counts {
        let mut whole = self.first.clone();
        for (place, samples) in &self.second.by_place {
            whole.add(place, *samples);
        }
        whole
    }

    fn print(mut self) {
        self.level();
        let perf = self.perf();
        let mut places: Vec<_> = perf
            .by_place
            .keys()
            .chain(self.ours.by_place.keys())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        places.sort_by(|left, right| perf.share(right).total_cmp(&perf.share(left)));
        println!(
            "\n{:>8} {:>8} {:>8} {:>8}  self time in % of",
            "ours", "perf", "half 1", "half 2"
        );
        for place in places.iter().take(SHOWN) {
            let shares = [&self.ours, &perf, &self.first, &self.second].map(|counts| counts.share(place));
            let [ours, whole, first, second] = shares;
            println!("{ours:>8.2} {whole:>8.2} {first:>8.2} {second:>8.2}  {}", place.shown());
        }
        report::head(&format!(
            "accuracy: {} samples of ours, {} of perf record --call-graph dwarf,65528",
            self.ours.samples, perf.samples
        ));
        let halves = largest_distance(&places, &self.first, &self.second);
        let distance = largest_distance(&places, &self.ours, &perf);
        report::fact("largest distance of perf's halves", "points", halves);
        report::at_most(
            "largest distance of ours and perf",
            "points",
            distance,
            halves + TOLERANCE,
        );
        report::fact(
            "half of all distances, ours and perf",
            "points",
            overlap_missing(&places, &self.ours, &perf),
        );
        report::fact(
            "half of all distances, perf's halves",
            "points",
            overlap_missing(&places, &self.first, &self.second),
        );
    }
}

fn largest_distance(places: &[&Place], left: &Counts, right: &Counts) -> f64 {
    places
        .iter()
        .map(|place| (left.share(place) - right.share(place)).abs())
        .fold(0.0, f64::max)
}

/// The part of two profiles that is not the same.
fn overlap_missing(places: &[&Place], left: &Counts, right: &Counts) -> f64 {
    places
        .iter()
        .map(|place| (left.share(place) - right.share(place)).abs())
        .sum::<f64>()
        / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_perf_are_read_in_the_order_of_time() {
        let script = " 2.5:  7f01 msort_with_tmp.part.0 (/usr/lib/libc.so.6)\n\n \
                      1.25: ffffffff81 vfs_read ([kernel.kallsyms])\n 3.0: 55 <a as b>::c (d) (/tmp/p)\n \
                      4.0: 0 [unknown] ([unknown])\n";
        let expect = [
            Place::new("[kernel]", Some("vfs_read")),
            Place::new("libc.so.6", Some("msort_with_tmp.part.0")),
            Place::new("p", Some("<a as b>::c (d)")),
            Place::new("[unknown]", None),
        ];
        assert_eq!(parse_script(script).unwrap(), expect);
        assert!(parse_script("no sample").is_err());
    }

    #[test]
    fn inlined_functions_belong_to_their_callers() {
        let document = serde_json::json!({
            "frames": [
                {"kind": "native", "function": "f", "module": "m"},
                {"kind": "inlined", "function": "g", "module": "m"},
                {"kind": "unnamed", "function": "libc+0x1", "module": "libc"},
            ],
            "nodes": [
                {"parent": null, "frame": 0, "self": 1},
                {"parent": 0, "frame": 1, "self": 2},
                {"parent": 1, "frame": 1, "self": 4},
                {"parent": 0, "frame": 2, "self": 8},
            ],
        });
        let counts = Counts::of_profile(&document).unwrap();
        assert_eq!(counts.by_place[&Place::new("m", Some("f"))], 7);
        assert_eq!(counts.by_place[&Place::new("libc", None)], 8);
        assert!(Counts::of_profile(&serde_json::json!({})).is_err());
    }

    #[test]
    fn what_only_perf_names_has_no_name_for_both() {
        let place = |function| Place::new("libc", function);
        let mut comparison = Comparison::default();
        let mut ours = Counts::default();
        ours.add(&place(None), 3);
        ours.add(&place(Some("read")), 1);
        let perf = [
            place(Some("__read")),
            place(Some("msort")),
            place(Some("msort")),
            place(Some("sort")),
        ];
        comparison.add(ours, &perf);
        comparison.level();
        let whole = comparison.perf();
        assert_eq!(whole, comparison.ours);
        let places: Vec<_> = whole.by_place.keys().collect();
        assert!(largest_distance(&places, &whole, &comparison.ours) < 1e-9);
        assert!((largest_distance(&places, &comparison.first, &comparison.second) - 50.0).abs() < 1e-9);
        assert!((overlap_missing(&places, &comparison.first, &comparison.second) - 50.0).abs() < 1e-9);
    }
}
