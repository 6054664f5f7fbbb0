//! The comparison as JSON. Values are in the unit of `measure`: `cores` are CPU seconds a second, `share` is of all CPU time.

use profiler_profile::compare::{
    Change, Comparison, Direction, FunctionChange, MIN_BLOCKS, Measure, Party, PartyChange, SideFacts,
};
use serde::Serialize;

use crate::span::time_text;

#[derive(Serialize)]
pub(super) struct Document<'a> {
    target: &'a str,
    measure: &'static str,
    summary: String,
    enough: bool,
    needed_blocks: usize,
    level: f64,
    smallest_share: Option<f64>,
    before: SideRow,
    after: SideRow,
    whole_cores: ChangeRow,
    parties: Vec<PartyRow<'a>>,
    functions: Vec<FunctionRow<'a>>,
    cut_samples: u64,
}

#[derive(Serialize)]
struct SideRow {
    start_time: String,
    end_time: String,
    seconds: f64,
    blocks: usize,
    samples: u64,
    rooted: u64,
    quality: String,
}

#[derive(Serialize)]
struct ChangeRow {
    before: f64,
    after: f64,
    change: f64,
    direction: Option<&'static str>,
    interval: Option<[f64; 2]>,
    p_value: Option<f64>,
}

#[derive(Serialize)]
struct PartyRow<'a> {
    kind: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(flatten)]
    change: ChangeRow,
}

#[derive(Serialize)]
struct FunctionRow<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    party: Option<&'a str>,
    function: &'a str,
    module: &'a str,
    file: &'a str,
    own: ChangeRow,
    total: ChangeRow,
}

impl<'a> Document<'a> {
    pub(super) fn new(target: &'a str, comparison: &'a Comparison) -> Self {
        let function = |function: &'a FunctionChange| {
            let party = function.party.and_then(|party| comparison.parties.get(party as usize));
            FunctionRow {
                party: party.map(|party| &**party.party.name()),
                function: &function.frame.function,
                module: &function.frame.module,
                file: &function.frame.file,
                own: change(&function.own),
                total: change(&function.total),
            }
        };
        Self {
            target,
            measure: match comparison.settings.measure {
                Measure::Cores => "cores",
                Measure::Share => "share",
            },
            summary: comparison.to_string(),
            enough: comparison.is_enough(),
            needed_blocks: MIN_BLOCKS,
            level: comparison.settings.level,
            smallest_share: comparison.smallest_share,
            before: side(&comparison.before),
            after: side(&comparison.after),
            whole_cores: change(&comparison.whole),
            parties: comparison.parties.iter().map(party).collect(),
            functions: comparison.functions.iter().map(function).collect(),
            cut_samples: comparison.cut_samples,
        }
    }
}

fn side(side: &SideFacts) -> SideRow {
    SideRow {
        start_time: time_text(side.start),
        end_time: time_text(side.end),
        seconds: side.length.as_secs_f64(),
        blocks: side.blocks,
        samples: side.quality.samples,
        rooted: side.quality.rooted,
        quality: side.quality.to_string(),
    }
}

fn change(change: &Change) -> ChangeRow {
    ChangeRow {
        before: change.before,
        after: change.after,
        change: change.difference(),
        direction: change.direction.map(|direction| match direction {
            Direction::Grew => "grew",
            Direction::Shrank => "shrank",
        }),
        interval: change.test.map(|test| [test.interval.0, test.interval.1]),
        p_value: change.test.map(|test| test.p_value),
    }
}

fn party(party: &PartyChange) -> PartyRow<'_> {
    let (kind, pid) = match &party.party {
        Party::Service(_) => ("service", None),
        Party::Program(_) => ("program", None),
        Party::Process(process) => ("process", Some(process.pid)),
    };
    PartyRow {
        kind,
        name: party.party.name(),
        pid,
        change: change(&party.change),
    }
}
