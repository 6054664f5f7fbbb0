//! The owner of processes over a tree that looks like `/proc`.

mod any_order;
mod discovery;
mod lifecycle;
mod lifetimes;
mod rows;
mod watching;

use std::{path::Path, time::Instant};

use profiler_config::Targets;

use super::{
    Processes,
    double::WalkerDouble,
    fake_proc::{FakeProc, FakeProcess, START_NS, at, settle},
};
use crate::{kernel::records::Pid, stacks::window::Location};

type Owner = Processes<WalkerDouble>;

const CODE: u64 = 0x5000_0000_0000;

fn watched(owner: &Owner) -> Vec<u32> {
    owner.walker().processes.keys().map(|pid| pid.0).collect()
}

fn ranges(owner: &Owner, pid: u32) -> Vec<(u64, u64)> {
    owner.walker().processes[&Pid(pid)]
        .iter()
        .map(|mapping| (mapping.start, mapping.end))
        .collect()
}

/// Name of what lies at an address of a process at a time.
fn object_at(owner: &Owner, pid: u32, address: u64, time_ns: u64) -> Option<String> {
    let image = owner.image_at(Pid(pid), START_NS + time_ns)?;
    match image.resolve(address, START_NS + time_ns).location {
        Location::Object { object, .. } => Some(object.name.to_string()),
        Location::Python { .. } | Location::Unmapped { .. } => None,
    }
}

fn program_name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// An owner over a tree with these processes, scanned and settled.
fn scanned(proc: &FakeProc, targets: Targets, processes: &[(u32, FakeProcess)]) -> (Owner, Instant) {
    for (pid, process) in processes {
        proc.set(*pid, process);
    }
    let base = Instant::now();
    let mut owner = proc.owner(targets);
    owner.scan(at(base, 0)).unwrap();
    settle(&mut owner, at(base, 0));
    (owner, base)
}
