//! Any order of what may happen to processes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::{ranges, scanned, watched};
use crate::{
    kernel::records::LifecycleEvent,
    processes::fake_proc::{
        FakeProc, FakeProcess, SECOND_NS, at, event, exec, exit, fork, map, native_program, watch_all,
    },
};

/// What may happen in the property test, each at a time of its own.
#[derive(Clone, Debug)]
enum Step {
    Start { pid: u32 },
    Fork { pid: u32, parent: u32 },
    Map { pid: u32, page: u64, pages: u64 },
    Exit { pid: u32 },
    Lost,
    Poll,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pid = || 1_u32..5;
    prop::collection::vec(
        prop_oneof![
            2 => pid().prop_map(|pid| Step::Start { pid }),
            2 => (pid(), pid()).prop_map(|(pid, parent)| Step::Fork { pid, parent }),
            6 => (pid(), 0_u64..12, 1_u64..5).prop_map(|(pid, page, pages)| Step::Map { pid, page, pages }),
            1 => pid().prop_map(|pid| Step::Exit { pid }),
            1 => Just(Step::Lost),
            2 => Just(Step::Poll),
        ],
        0..60,
    )
}

/// The model: for each process, which step mapped each page.
type Model = BTreeMap<u32, BTreeMap<u64, u64>>;

const PAGE: u64 = 0x1000;

/// Makes the tree show what the model says.
fn show(proc: &FakeProc, model: &Model) {
    for pid in 1..5 {
        if proc.root().join(pid.to_string()).exists() {
            proc.remove(pid);
        }
    }
    for (pid, pages) in model {
        let mut process = FakeProcess::new(&native_program());
        process.mappings = pages
            .keys()
            .map(|&page| ((page + 1) * PAGE, (page + 2) * PAGE, PathBuf::new()))
            .collect();
        proc.set(*pid, &process);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_leaves_the_walker_with_the_mappings_that_are(steps in steps()) {
        let proc = FakeProc::new();
        let (mut owner, base) = scanned(&proc, watch_all(), &[]);
        let mut model = Model::new();
        let program = native_program();
        let memory = Path::new("//anon");
        for (number, step) in steps.iter().enumerate() {
            let time = (number as u64 + 1) * 1000;
            let now = at(base, time + 10);
            match *step {
                Step::Start { pid } => {
                    owner.on_lifecycle(&exec(time, pid, "program"), now);
                    owner.on_lifecycle(&map(time + 1, pid, PAGE, 2 * PAGE, &program), now);
                    model.insert(pid, BTreeMap::from([(0, time + 1)]));
                }
                Step::Fork { pid, parent } if pid != parent => {
                    owner.on_lifecycle(&fork(time, pid, parent), now);
                    match model.get(&parent).cloned() {
                        Some(pages) => model.insert(pid, pages),
                        None => model.remove(&pid),
                    };
                }
                Step::Fork { .. } => {}
                Step::Map { pid, page, pages } => {
                    owner.on_lifecycle(&map(time, pid, (page + 1) * PAGE, (page + pages + 1) * PAGE, memory), now);
                    if let Some(process) = model.get_mut(&pid) {
                        process.extend((page..page + pages).map(|page| (page, time)));
                    }
                }
                Step::Exit { pid } => {
                    show(&proc, &Model::new());
                    owner.on_lifecycle(&exit(time, pid), now);
                    model.remove(&pid);
                }
                Step::Lost => {
                    show(&proc, &model);
                    owner.on_lifecycle(&event(time, LifecycleEvent::Lost { count: 1 }), now);
                }
                Step::Poll => {
                    show(&proc, &model);
                    owner.poll(now);
                }
            }
        }
        let end = (steps.len() as u64 + 1) * 1000;
        show(&proc, &model);
        owner.poll(at(base, end));
        owner.poll(at(base, end + 2 * SECOND_NS));
        prop_assert_eq!(watched(&owner), model.keys().copied().collect::<Vec<_>>());
        for (pid, pages) in &model {
            let covered: Vec<u64> = ranges(&owner, *pid)
                .into_iter()
                .flat_map(|(start, end)| (start / PAGE..end / PAGE).map(|page| page - 1))
                .collect();
            prop_assert_eq!(covered, pages.keys().copied().collect::<Vec<_>>(), "process {}", pid);
        }
    }
}
