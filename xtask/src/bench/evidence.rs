//! Whom a comparison accuses: a service in Python that does the same all the time, recorded once, and another that begins to
//! burn beside it. The recorded windows are split into quiet time and breach in twenty ways.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::report;
use crate::binaries::Binaries;
use crate::children::{Interrupt, Running};
use crate::session::{SHORT_WINDOWS, Session};
use crate::workspace;

/// The service that does not change, and the one that does, each called like its script.
const STEADY: &str = "steady";
const BURNER: &str = "surge";
/// The function that burns.
const BURN: &str = "burn";
/// Until both are known and walked.
const SETTLE: Duration = Duration::from_secs(5);
/// Time in which nothing changes, and after that in which one burns.
const QUIET: Duration = Duration::from_secs(180);
const BURNING: Duration = Duration::from_secs(60);
/// Of each kind, so many ways to split: a breach so long, the quiet time before it, and how much later the next begins.
const SPLITS: u32 = 10;
const BREACH: Duration = Duration::from_secs(30);
const BEFORE: Duration = Duration::from_secs(80);
const STEP: Duration = Duration::from_secs(6);
/// Between the last quiet window and the first one of a breach.
const GAP: Duration = Duration::from_secs(2);

pub(super) fn run(binaries: &Binaries, interrupt: &Interrupt) -> Result<()> {
    let start = |name: &str| {
        let script = workspace::root().join(format!("tests/fixtures/python/{name}.py"));
        Running::start(
            Command::new("python3")
                .arg(script)
                .stdin(Stdio::null())
                .stdout(Stdio::null()),
        )
    };
    let (steady, burner) = (start(STEADY)?, start(BURNER)?);
    let session = Session::start(binaries, SHORT_WINDOWS, interrupt)?;
    session.wait_until_walked(steady.pid())?;
    // The other does next to nothing yet.
    interrupt.sleep(SETTLE)?;
    let begin = SystemTime::now();
    interrupt.sleep(QUIET)?;
    let pid = i32::try_from(burner.pid())
        .ok()
        .and_then(Pid::from_raw)
        .context("no process id")?;
    kill_process(pid, Signal::USR1).context("the burner cannot be told")?;
    let burns = SystemTime::now();
    interrupt.sleep(BURNING)?;

    report::head("evidence: whom twenty splits of one recording accuse");
    let mut alone = Tally::default();
    for split in 0..SPLITS {
        let breach = begin + BEFORE + GAP + STEP * split;
        alone.add(&compare(&session, breach, breach + BREACH)?);
    }
    let mut beside = Tally::default();
    for split in 0..SPLITS {
        // The breach begins when it begins, and is told of sooner or later.
        beside.add(&compare(
            &session,
            burns,
            burns + BREACH - Duration::from_secs(2) * split,
        )?);
    }
    let of = format!("splits of {SPLITS}");
    report::at_most("nothing burns: somebody is accused", &of, alone.anybody.into(), 0.0);
    report::at_most(
        "another burns: the steady service is accused",
        &of,
        beside.steady.into(),
        0.0,
    );
    report::at_least(
        "another burns: it is named first, and its function",
        &of,
        beside.burner.into(),
        SPLITS.into(),
    );
    report::fact(
        "blocks of the shortest side",
        "count",
        alone.blocks.min(beside.blocks) as f64,
    );
    Ok(())
}

/// How often who was accused.
#[derive(Debug)]
struct Tally {
    anybody: u32,
    steady: u32,
    burner: u32,
    blocks: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            anybody: 0,
            steady: 0,
            burner: 0,
            blocks: u64::MAX,
        }
    }
}

impl Tally {
    fn add(&mut self, comparison: &Value) {
        let accused = accused(comparison);
        if !accused.is_empty() {
            println!("  {}: {accused:?}", comparison["summary"]);
        }
        self.anybody += u32::from(!accused.is_empty());
        self.steady += u32::from(accused.iter().any(|(party, _)| party == STEADY));
        let is_burn = |(party, function): &(String, String)| party == BURNER && function == BURN;
        self.burner += u32::from(accused.first().is_some_and(is_burn));
        for side in ["before", "after"] {
            self.blocks = self.blocks.min(comparison[side]["blocks"].as_u64().unwrap_or(0));
        }
    }
}

/// Parties that grew with the functions of theirs that did, those that grew most in themselves first: as evidence accuses.
fn accused(comparison: &Value) -> Vec<(String, String)> {
    let rows = |name: &str| comparison[name].as_array().cloned().unwrap_or_default();
    let grew = |change: &Value| change["direction"] == "grew";
    let parties: Vec<String> = rows("parties")
        .iter()
        .filter(|party| grew(party))
        .map(|party| text(&party["name"]))
        .collect();
    let mut functions: Vec<Value> = rows("functions");
    functions.retain(|function| {
        parties.contains(&text(&function["party"])) && (grew(&function["own"]) || grew(&function["total"]))
    });
    let own = |function: &Value| function["own"]["change"].as_f64().unwrap_or(0.0);
    functions.sort_by(|one, other| own(other).total_cmp(&own(one)));
    functions
        .iter()
        .map(|function| (text(&function["party"]), text(&function["function"])))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The breach against the quiet time before it, all services.
fn compare(session: &Session, begin: SystemTime, end: SystemTime) -> Result<Value> {
    let quiet_end = begin - GAP;
    let span =
        |from: SystemTime, to: SystemTime| Ok::<_, anyhow::Error>(format!("@{}..@{}", seconds(from)?, seconds(to)?));
    let (before, after) = (span(quiet_end - BEFORE, quiet_end)?, span(begin, end)?);
    let output = session.cli_output(&["diff", "--host", "--before", &before, "--after", &after, "--json"])?;
    serde_json::from_str(&output).context("diff printed no JSON")
}

fn seconds(time: SystemTime) -> Result<u64> {
    Ok(time.duration_since(UNIX_EPOCH).context("a time before 1970")?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_functions_that_grew_of_parties_that_grew_are_accused() {
        let row = |party: &str, function: &str, own: &str, change: f64| serde_json::json!({"party": party, "function": function, "own": {"direction": own, "change": change}, "total": {}});
        let comparison = serde_json::json!({
            "parties": [{"name": "surge", "direction": "grew"}, {"name": "steady", "direction": null}],
            "functions": [row("surge", "less", "grew", 0.1), row("surge", "burn", "grew", 0.7), row("steady", "parse", "grew", 0.9),
                row("surge", "rest", "shrank", -0.1)],
            "before": {"blocks": 7}, "after": {"blocks": 3},
        });
        let pairs =
            [("surge", "burn"), ("surge", "less")].map(|(party, function)| (party.to_owned(), function.to_owned()));
        assert_eq!(accused(&comparison), pairs);
        let mut tally = Tally::default();
        tally.add(&comparison);
        assert_eq!((tally.anybody, tally.steady, tally.burner, tally.blocks), (1, 0, 1, 3));
    }
}
