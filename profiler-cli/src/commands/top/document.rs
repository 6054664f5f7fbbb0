//! `top` as JSON. `cpus` are CPUs kept busy on average over the span.

use profiler_profile::{FunctionSamples, PartySamples, render::kind_name};
use serde::Serialize;

use super::{Rows, Top};
use crate::{args::TopBy, span::time_text};

#[derive(Serialize)]
pub(super) struct Document<'a> {
    target: &'a str,
    by: &'static str,
    start_time: String,
    end_time: String,
    samples: u64,
    cpus: f64,
    rows: Vec<Row<'a>>,
    summary: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Row<'a> {
    Function(FunctionRow<'a>),
    Party(PartyRow<'a>),
}

#[derive(Serialize)]
struct FunctionRow<'a> {
    kind: &'static str,
    function: &'a str,
    module: &'a str,
    file: &'a str,
    line: u32,
    self_samples: u64,
    total_samples: u64,
    self_cpus: f64,
    total_cpus: f64,
}

#[derive(Serialize)]
struct PartyRow<'a> {
    kind: &'static str,
    name: &'a str,
    processes: u64,
    samples: u64,
    cpus: f64,
}

impl<'a> Document<'a> {
    pub(super) fn new(top: &'a Top, by: TopBy) -> Self {
        let function = |row: &'a FunctionSamples| {
            Row::Function(FunctionRow {
                kind: kind_name(row.kind),
                function: &row.function,
                module: &row.module,
                file: &row.file,
                line: row.line,
                self_samples: row.self_samples,
                total_samples: row.total_samples,
                self_cpus: top.cpus(row.self_samples),
                total_cpus: top.cpus(row.total_samples),
            })
        };
        let party = |row: &'a PartySamples| {
            Row::Party(PartyRow {
                kind: if row.is_service { "service" } else { "program" },
                name: &row.name,
                processes: row.processes,
                samples: row.samples,
                cpus: top.cpus(row.samples),
            })
        };
        let samples = top.profile.samples();
        Self {
            target: &top.title,
            by: by.name(),
            start_time: time_text(top.profile.start),
            end_time: time_text(top.profile.end),
            samples,
            cpus: top.cpus(samples),
            rows: match &top.rows {
                Rows::Functions(rows) => rows.iter().map(function).collect(),
                Rows::Parties(rows) => rows.iter().map(party).collect(),
            },
            summary: top.profile.summary(),
        }
    }
}
