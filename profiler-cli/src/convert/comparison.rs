//! A comparison as the daemon sends it → one that can be rendered. As little is taken on trust as of a profile.

use std::sync::Arc;

use profiler_profile::compare::{
    Change, Comparison, DifferenceNode, Direction, FunctionChange, Measure, Party, PartyChange, Scope, Settings,
    SideFacts, Test,
};
use profiler_proto::v1;

use super::{MAX_STACK_FRAMES, ProfileError, frames, out_of_range, processes, quality, span, time};

/// Largest amount: more CPUs than a host has.
const MAX_AMOUNT: f64 = 1e6;

/// Converts and validates a comparison.
pub(crate) fn comparison(message: v1::Comparison) -> Result<Comparison, ProfileError> {
    let strings: Vec<Arc<str>> = message.strings.into_iter().map(Arc::from).collect();
    if strings.first().is_some_and(|first| !first.is_empty()) {
        return Err(ProfileError::FirstString);
    }
    let (distinct, indices) = frames(&message.frames, &strings)?;
    let parties: Vec<PartyChange> = message.parties.into_iter().map(party).collect::<Result<_, _>>()?;
    let functions = message.functions.into_iter().enumerate();
    let functions = functions
        .map(|(position, function)| self::function(position, function, &strings, parties.len()))
        .collect::<Result<Vec<_>, _>>()?;
    let nodes = nodes(&message.nodes, &indices, parties.len())?;
    let is_of_host = functions.iter().any(|function| function.party.is_some());
    let measure = match v1::CompareMeasure::try_from(message.measure) {
        Ok(v1::CompareMeasure::Share) => Measure::Share,
        _ => Measure::Cores,
    };
    Ok(Comparison {
        settings: Settings {
            measure,
            scope: if is_of_host { Scope::Host } else { Scope::Target },
            level: message.level,
        },
        before: side(message.before.unwrap_or_default())?,
        after: side(message.after.unwrap_or_default())?,
        whole: change(message.whole.as_ref(), "whole")?,
        smallest_share: message.smallest_share.filter(|share| share.is_finite()),
        parties,
        functions,
        frames: distinct,
        nodes,
        cut_samples: message.cut_samples,
    })
}

fn side(message: v1::ComparedSpan) -> Result<SideFacts, ProfileError> {
    Ok(SideFacts {
        start: time(message.start_time, "start time")?,
        end: time(message.end_time, "end time")?,
        length: span(message.length)?,
        blocks: message.blocks as usize,
        quality: quality(message.quality.unwrap_or_default()),
    })
}

fn change(message: Option<&v1::Change>, owner: &'static str) -> Result<Change, ProfileError> {
    let message = message.copied().unwrap_or_default();
    let test = message.test.map(|test| Test {
        interval: (test.low, test.high),
        p_value: test.p_value,
    });
    let is_test = |test: &Test| {
        [test.interval.0, test.interval.1, test.p_value]
            .iter()
            .all(|value| value.is_finite())
    };
    if !is_amount(message.before) || !is_amount(message.after) || !test.as_ref().is_none_or(is_test) {
        return Err(ProfileError::Value { owner });
    }
    Ok(Change {
        before: message.before,
        after: message.after,
        direction: match message.direction() {
            v1::ChangeDirection::Unspecified => None,
            v1::ChangeDirection::Grew => Some(Direction::Grew),
            v1::ChangeDirection::Shrank => Some(Direction::Shrank),
        },
        test,
    })
}

fn is_amount(value: f64) -> bool {
    (0.0..=MAX_AMOUNT).contains(&value)
}

fn party(message: v1::ComparedParty) -> Result<PartyChange, ProfileError> {
    let change = change(message.change.as_ref(), "parties")?;
    let party = match message.party {
        Some(v1::compared_party::Party::Service(name)) => Party::Service(name.into()),
        Some(v1::compared_party::Party::Program(name)) => Party::Program(name.into()),
        Some(v1::compared_party::Party::Process(process)) => {
            let (mut distinct, _) = processes(vec![process])?;
            match distinct.pop() {
                Some(process) => Party::Process(process),
                None => Party::Program("".into()),
            }
        }
        // One of a newer daemon.
        None => Party::Program("".into()),
    };
    Ok(PartyChange { party, change })
}

fn function(
    position: usize,
    message: v1::ComparedFunction,
    strings: &[Arc<str>],
    parties: usize,
) -> Result<FunctionChange, ProfileError> {
    if let Some(party) = message.party.filter(|party| *party as usize >= parties) {
        return Err(out_of_range("function", position, "party", party.into(), parties));
    }
    let frame = message.frame.ok_or(ProfileError::Value { owner: "functions" })?;
    let (mut frames, _) = frames(&[frame], strings)?;
    let frame = frames.pop().ok_or(ProfileError::Value { owner: "functions" })?;
    Ok(FunctionChange {
        party: message.party,
        frame,
        own: change(message.own.as_ref(), "functions")?,
        total: change(message.total.as_ref(), "functions")?,
    })
}

fn nodes(messages: &[v1::DifferenceNode], frames: &[u32], parties: usize) -> Result<Vec<DifferenceNode>, ProfileError> {
    let mut nodes: Vec<DifferenceNode> = Vec::with_capacity(messages.len());
    let mut depths: Vec<u32> = Vec::with_capacity(messages.len());
    for (position, message) in messages.iter().enumerate() {
        let parent = match message.parent {
            -1 => None,
            parent => {
                let index = usize::try_from(parent).unwrap_or(usize::MAX);
                if index >= messages.len() {
                    return Err(out_of_range("node", position, "node", parent.into(), messages.len()));
                }
                if index >= position {
                    return Err(ProfileError::ParentAfterChild { node: position, parent });
                }
                if nodes[index].party != message.party {
                    return Err(ProfileError::ProcessMismatch {
                        node: position,
                        parent: index,
                    });
                }
                Some(index as u32)
            }
        };
        let depth = parent.map_or(1, |parent| depths[parent as usize] + 1);
        if depth > MAX_STACK_FRAMES {
            return Err(ProfileError::TooDeep);
        }
        depths.push(depth);
        if let Some(party) = message.party.filter(|party| *party as usize >= parties) {
            return Err(out_of_range("node", position, "party", party.into(), parties));
        }
        let frame = frames.get(message.frame as usize).copied();
        let frame = frame.ok_or_else(|| out_of_range("node", position, "frame", message.frame.into(), frames.len()))?;
        if !is_amount(message.own_before) || !is_amount(message.own_after) {
            return Err(ProfileError::Value { owner: "nodes" });
        }
        nodes.push(DifferenceNode {
            parent,
            frame,
            party: message.party,
            own: (message.own_before, message.own_after),
            total: change(message.total.as_ref(), "nodes")?,
        });
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change_of(before: f64, after: f64) -> Option<v1::Change> {
        Some(v1::Change {
            before,
            after,
            direction: v1::ChangeDirection::Grew.into(),
            test: None,
        })
    }

    fn message() -> v1::Comparison {
        let node = |parent, frame| v1::DifferenceNode {
            parent,
            frame,
            party: None,
            own_before: 0.1,
            own_after: 0.2,
            total: change_of(0.1, 0.2),
        };
        let frame = |function| v1::Frame {
            kind: v1::FrameKind::Python.into(),
            function,
            ..v1::Frame::default()
        };
        v1::Comparison {
            strings: ["", "main", "burn"].map(String::from).to_vec(),
            frames: vec![frame(1), frame(2)],
            functions: vec![v1::ComparedFunction {
                party: None,
                frame: Some(frame(2)),
                own: change_of(0.0, 0.2),
                total: change_of(0.0, 0.2),
            }],
            parties: vec![v1::ComparedParty {
                party: Some(v1::compared_party::Party::Service("web".to_owned())),
                change: change_of(0.1, 0.3),
            }],
            nodes: vec![node(-1, 0), node(0, 1)],
            whole: change_of(0.1, 0.3),
            ..v1::Comparison::default()
        }
    }

    #[test]
    fn a_comparison_keeps_its_names_and_changes() {
        let comparison = comparison(message()).unwrap();
        assert_eq!(&*comparison.functions[0].frame.function, "burn");
        assert_eq!(comparison.functions[0].own.direction, Some(Direction::Grew));
        let path: Vec<&str> = comparison
            .path(&comparison.nodes[1])
            .map(|frame| &*frame.function)
            .collect();
        assert_eq!(path, ["main", "burn"]);
        assert_eq!(comparison.settings.scope, Scope::Target);
        assert!(super::comparison(v1::Comparison::default()).is_ok());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        type Spoil = fn(&mut v1::Comparison);
        let cases: [(&str, Spoil); 10] = [
            ("node 1 refers to frame 9, and there are 2", |message| {
                message.nodes[1].frame = 9
            }),
            ("node 1 refers to node 9, and there are 2", |message| {
                message.nodes[1].parent = 9
            }),
            ("node 0 comes before its parent 1", |message| {
                message.nodes[0].parent = 1
            }),
            ("node 1 belongs to another process than its parent 0", |message| {
                message.nodes[1].party = Some(0);
            }),
            ("function 0 refers to party 7, and there are 1", |message| {
                message.functions[0].party = Some(7);
            }),
            ("a value of its nodes is not valid", |message| {
                message.nodes[0].own_after = f64::NAN
            }),
            ("a value of its whole is not valid", |message| {
                message.whole = change_of(-1.0, 0.0)
            }),
            ("a value of its parties is not valid", |message| {
                message.parties[0].change = change_of(0.0, 1e300)
            }),
            ("a value of its functions is not valid", |message| {
                let test = v1::ChangeTest {
                    low: f64::NEG_INFINITY,
                    ..v1::ChangeTest::default()
                };
                message.functions[0].own.as_mut().unwrap().test = Some(test);
            }),
            ("string 0 is not empty", |message| message.strings[0].push('x')),
        ];
        for (expected, spoil) in cases {
            let mut spoiled = message();
            spoil(&mut spoiled);
            assert_eq!(comparison(spoiled).unwrap_err().to_string(), expected);
        }
    }
}
