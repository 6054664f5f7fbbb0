//! Comparisons, and what is to be compared.

use std::time::SystemTime;

use profiler_profile::compare::{
    Change, Comparison, DifferenceNode, Direction, FunctionChange, MIN_BLOCKS, Measure, Party, PartyChange, Scope,
    SideFacts,
};
use profiler_proto::v1;
use profiler_store::Target;

use super::{InvalidRequest, Query, Strings, duration, frame, profiled_process, quality, query};

/// Part of what is called a change that may be none, on average.
pub(in crate::api) const LEVEL: f64 = 0.05;

/// What is to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::api) struct Compared {
    pub(in crate::api) before: Query,
    pub(in crate::api) after: Query,
    pub(in crate::api) scope: Scope,
    pub(in crate::api) measure: Measure,
}

/// Reads a request.
pub(in crate::api) fn compared(
    request: &v1::CompareProfilesRequest,
    now: SystemTime,
) -> Result<Compared, InvalidRequest> {
    let side = |selector: &Option<v1::ProfileSelector>, field, time| {
        let selector = selector.clone().ok_or(InvalidRequest::Missing { field })?;
        let query = query(Some(selector), now)?;
        // Without it, the whole of what is kept would be one side.
        if query.span.start.is_none() {
            return Err(InvalidRequest::Missing { field: time });
        }
        Ok(query)
    };
    let before = side(&request.before, "before", "before.start_time")?;
    let after = side(&request.after, "after", "after.start_time")?;
    let starts_within = |one: &Query, other: &Query| {
        let start = one.span.start;
        start >= other.span.start && start.is_some_and(|start| start < other.span.end)
    };
    if before.target == after.target && (starts_within(&before, &after) || starts_within(&after, &before)) {
        return Err(InvalidRequest::Overlap);
    }
    let measure = match v1::CompareMeasure::try_from(request.measure) {
        Ok(v1::CompareMeasure::Unspecified | v1::CompareMeasure::Cores) => Measure::Cores,
        Ok(v1::CompareMeasure::Share) => Measure::Share,
        Err(prost::UnknownEnumValue(measure)) => return Err(InvalidRequest::Measure { measure }),
    };
    let scope = if before.target == Target::Everything || after.target == Target::Everything {
        Scope::Host
    } else {
        Scope::Target
    };
    Ok(Compared {
        before,
        after,
        scope,
        measure,
    })
}

/// A comparison as a message.
pub(in crate::api) fn comparison(comparison: &Comparison) -> v1::Comparison {
    let mut strings = Strings::new();
    let frames = comparison.frames.iter().map(|of| frame(of, &mut strings)).collect();
    let functions = comparison
        .functions
        .iter()
        .map(|function| self::function(function, &mut strings))
        .collect();
    let measure = match comparison.settings.measure {
        Measure::Cores => v1::CompareMeasure::Cores,
        Measure::Share => v1::CompareMeasure::Share,
    };
    v1::Comparison {
        measure: measure.into(),
        before: Some(side(&comparison.before)),
        after: Some(side(&comparison.after)),
        needed_blocks: MIN_BLOCKS as u32,
        level: comparison.settings.level,
        whole: Some(change(&comparison.whole)),
        smallest_share: comparison.smallest_share,
        parties: comparison.parties.iter().map(party).collect(),
        functions,
        frames,
        nodes: comparison.nodes.iter().map(node).collect(),
        cut_samples: comparison.cut_samples,
        strings: strings.table,
    }
}

fn side(side: &SideFacts) -> v1::ComparedSpan {
    v1::ComparedSpan {
        start_time: Some(side.start.into()),
        end_time: Some(side.end.into()),
        length: Some(duration(side.length)),
        blocks: u32::try_from(side.blocks).unwrap_or(u32::MAX),
        quality: Some(quality(&side.quality)),
    }
}

fn change(change: &Change) -> v1::Change {
    let direction = match change.direction {
        None => v1::ChangeDirection::Unspecified,
        Some(Direction::Grew) => v1::ChangeDirection::Grew,
        Some(Direction::Shrank) => v1::ChangeDirection::Shrank,
    };
    let test = change.test.map(|test| v1::ChangeTest {
        low: test.interval.0,
        high: test.interval.1,
        p_value: test.p_value,
    });
    v1::Change {
        before: change.before,
        after: change.after,
        direction: direction.into(),
        test,
    }
}

fn party(party: &PartyChange) -> v1::ComparedParty {
    let who = match &party.party {
        Party::Service(name) => v1::compared_party::Party::Service(name.to_string()),
        Party::Program(name) => v1::compared_party::Party::Program(name.to_string()),
        Party::Process(process) => v1::compared_party::Party::Process(profiled_process(process)),
    };
    v1::ComparedParty {
        party: Some(who),
        change: Some(change(&party.change)),
    }
}

fn function(function: &FunctionChange, strings: &mut Strings) -> v1::ComparedFunction {
    v1::ComparedFunction {
        party: function.party,
        frame: Some(frame(&function.frame, strings)),
        own: Some(change(&function.own)),
        total: Some(change(&function.total)),
    }
}

fn node(node: &DifferenceNode) -> v1::DifferenceNode {
    v1::DifferenceNode {
        parent: node
            .parent
            .map_or(-1, |parent| i32::try_from(parent).unwrap_or(i32::MAX)),
        frame: node.frame,
        party: node.party,
        own_before: node.own.0,
        own_after: node.own.1,
        total: Some(change(&node.total)),
    }
}
