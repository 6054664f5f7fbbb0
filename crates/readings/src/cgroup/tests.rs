//! Control groups of fake trees.

use super::*;
use crate::{
    Gap, Metric,
    fake_tree::{FakeTree, sampled, value},
    source::SourceState,
};

const ID: ProcessId = ProcessId {
    pid: 7,
    start_ticks: 100,
};
const V2: &str = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
const V1: &str = "\
1 0 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
2 0 0:2 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
";

fn sampler(tree: &FakeTree) -> ControlGroupSampler {
    let mut sampler = ControlGroupSampler::new(tree.root());
    sampler.watch([watched(ID)]);
    sampler
}

fn watched(id: ProcessId) -> WatchedProcess {
    WatchedProcess {
        id,
        service: Some("web".into()),
        executed: None,
    }
}

fn memory_v2(tree: &FakeTree, group: &str, usage: u64, inactive: u64, limit: &str, kills: u64) {
    let folder = format!("sys/fs/cgroup/{group}");
    tree.write(&format!("{folder}/memory.current"), format!("{usage}\n"));
    tree.write(&format!("{folder}/memory.max"), format!("{limit}\n"));
    tree.write(
        &format!("{folder}/memory.stat"),
        format!("anon 1\ninactive_file {inactive}\n"),
    );
    let events = format!("low 2\nhigh 3\nmax 4\noom 5\noom_kill {kills}\noom_group_kill 0\n");
    tree.write(&format!("{folder}/memory.events"), events);
}

fn cpu_v2(tree: &FakeTree, group: &str, quota: &str, periods: u64, throttled: u64) {
    let folder = format!("sys/fs/cgroup/{group}");
    tree.write(&format!("{folder}/cpu.max"), format!("{quota} 100000\n"));
    tree.write(
        &format!("{folder}/cpu.stat"),
        format!("usage_usec 2500000\nnr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec 1500000\n"),
    );
}

fn tree_v2() -> FakeTree {
    let tree = FakeTree::new();
    tree.write("proc/self/mountinfo", V2);
    tree.write("proc/7/cgroup", "0::/pod/web\n");
    memory_v2(&tree, "pod/web", 500, 100, "1000", 7);
    memory_v2(&tree, "pod", 900, 0, "1200", 7);
    cpu_v2(&tree, "pod/web", "max", 0, 0);
    cpu_v2(&tree, "pod", "150000", 100, 10);
    tree
}

fn sample(sampler: &mut ControlGroupSampler, seconds: u64) -> Vec<Reading> {
    sampled(seconds, |now, out| sampler.sample(now, out))
}

#[test]
fn version_2_is_read_with_the_limits_above() {
    let tree = tree_v2();
    let mut sampler = sampler(&tree);
    let first = sample(&mut sampler, 1);
    assert_eq!(value(&first, Metric::ControlGroupMemory), Some(500.0));
    assert_eq!(value(&first, Metric::ControlGroupWorkingSet), Some(400.0));
    assert_eq!(
        value(&first, Metric::ControlGroupMemoryLimit),
        Some(1000.0),
        "the lowest"
    );
    let closest = 900.0 / 1200.0;
    assert_eq!(
        value(&first, Metric::ControlGroupMemoryLimitUsed),
        Some(closest),
        "the level above is closer"
    );
    assert_eq!(value(&first, Metric::ServiceMemoryLimitUsed), Some(closest));
    assert_eq!(value(&first, Metric::ControlGroupMemoryLowEvents), Some(2.0));
    assert_eq!(value(&first, Metric::ControlGroupMemoryHighEvents), Some(3.0));
    assert_eq!(value(&first, Metric::ControlGroupMemoryMaxEvents), Some(4.0));
    assert_eq!(value(&first, Metric::ControlGroupOomEvents), Some(5.0));
    assert_eq!(value(&first, Metric::ControlGroupOomKills), Some(7.0));
    assert_eq!(
        value(&first, Metric::ServiceOomKills),
        Some(0.0),
        "older kills are not its own"
    );
    assert_eq!(value(&first, Metric::ControlGroupCpuLimit), Some(1.5));
    assert_eq!(value(&first, Metric::ControlGroupCpuTime), Some(2.5));
    assert_eq!(
        value(&first, Metric::ServiceCpuThrottled),
        None,
        "a share needs two rounds"
    );
    assert_eq!(sampler.report().unwrap().state, &SourceState::Active);

    memory_v2(&tree, "pod/web", 500, 100, "max", 9);
    memory_v2(&tree, "pod", 900, 0, "max", 9);
    cpu_v2(&tree, "pod", "150000", 150, 30);
    let second = sample(&mut sampler, 6);
    assert_eq!(value(&second, Metric::ServiceOomKills), Some(2.0));
    assert_eq!(value(&second, Metric::ControlGroupMemoryLimit), None);
    assert_eq!(
        value(&second, Metric::ServiceMemoryLimitUsed),
        None,
        "without a limit there is no share"
    );
    assert_eq!(value(&second, Metric::ServiceCpuThrottled), Some(0.4));
}

#[test]
fn swap_space_is_told_where_it_is_accounted_for() {
    let tree = tree_v2();
    let mut sampler = sampler(&tree);
    let without = sample(&mut sampler, 1);
    assert_eq!(value(&without, Metric::ControlGroupMemory), Some(500.0));
    assert_eq!(value(&without, Metric::ControlGroupSwap), None);
    assert_eq!(value(&without, Metric::ControlGroupSwapLimit), None);
    for (group, usage, limit) in [("pod/web", 30, "max"), ("pod", 70, "4096")] {
        tree.write(
            &format!("sys/fs/cgroup/{group}/memory.swap.current"),
            format!("{usage}\n"),
        );
        tree.write(&format!("sys/fs/cgroup/{group}/memory.swap.max"), format!("{limit}\n"));
    }
    let with = sample(&mut sampler, 6);
    assert_eq!(value(&with, Metric::ControlGroupSwap), Some(30.0));
    assert_eq!(
        value(&with, Metric::ControlGroupSwapLimit),
        Some(4096.0),
        "that of the level above"
    );
    tree.write("sys/fs/cgroup/pod/web/memory.swap.max", "0\n");
    let none = sample(&mut sampler, 11);
    assert_eq!(
        value(&none, Metric::ControlGroupSwapLimit),
        Some(0.0),
        "it may not swap"
    );
}

#[test]
fn version_1_is_read() {
    let tree = FakeTree::new();
    tree.write("proc/self/mountinfo", V1);
    tree.write("proc/7/cgroup", "4:memory:/web\n3:cpu,cpuacct:/web\n0::/\n");
    for (file, text) in [
        ("memory/web/memory.usage_in_bytes", "500\n"),
        ("memory/web/memory.limit_in_bytes", "800\n"),
        (
            "memory/web/memory.stat",
            "inactive_file 1\nswap 2\ntotal_inactive_file 100\ntotal_swap 40\n",
        ),
        ("memory/web/memory.failcnt", "6\n"),
        (
            "memory/web/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        ),
        ("cpu/web/cpu.cfs_period_us", "100000\n"),
        ("cpu/web/cpu.cfs_quota_us", "50000\n"),
        (
            "cpu/web/cpu.stat",
            "nr_periods 10\nnr_throttled 4\nthrottled_time 2500000000\n",
        ),
        ("cpu/web/cpuacct.usage", "3500000000\n"),
    ] {
        tree.write(&format!("sys/fs/cgroup/{file}"), text);
    }
    let readings = sample(&mut sampler(&tree), 1);
    assert_eq!(value(&readings, Metric::ServiceMemoryLimitUsed), Some(0.5));
    assert_eq!(value(&readings, Metric::ControlGroupMemoryMaxEvents), Some(6.0));
    assert_eq!(value(&readings, Metric::ControlGroupSwap), Some(40.0));
    for metric in [
        Metric::ControlGroupSwapLimit,
        Metric::ControlGroupMemoryLowEvents,
        Metric::ControlGroupMemoryHighEvents,
        Metric::ControlGroupOomEvents,
    ] {
        assert_eq!(value(&readings, metric), None, "version 1 has none: {metric}");
    }
    assert_eq!(value(&readings, Metric::ControlGroupCpuLimit), Some(0.5));
    assert_eq!(value(&readings, Metric::ControlGroupThrottledTime), Some(2.5));
    assert_eq!(value(&readings, Metric::ControlGroupCpuTime), Some(3.5));
}

#[test]
fn a_group_that_is_removed_leaves_no_value_and_no_failure() {
    let tree = tree_v2();
    let mut sampler = sampler(&tree);
    sample(&mut sampler, 1);
    tree.remove("sys/fs/cgroup/pod");
    let readings = sample(&mut sampler, 6);
    assert_eq!(value(&readings, Metric::ControlGroupMemory), None);
    assert_eq!(value(&readings, Metric::ServiceMemoryLimitUsed), None);
    assert_eq!(sampler.report().unwrap().state, &SourceState::Active);
    sampler.watch([]);
    assert_eq!(sample(&mut sampler, 1000), []);
}

#[test]
fn bad_files_are_failures_and_gaps() {
    let tree = tree_v2();
    for name in ["memory.current", "cpu.max", "cpu.stat"] {
        for group in ["pod", "pod/web"] {
            tree.write(&format!("sys/fs/cgroup/{group}/{name}"), "garbage");
        }
    }
    let mut sampler = sampler(&tree);
    assert_eq!(sample(&mut sampler, 1), []);
    assert!(matches!(sampler.report().unwrap().state, SourceState::Failed { .. }));
}

#[test]
fn a_host_without_groups_says_so() {
    let tree = FakeTree::host();
    let mut sampler = sampler(&tree);
    assert_eq!(sample(&mut sampler, 1), []);
    assert_eq!(sampler.report().unwrap().state.gap(), Gap::Unsupported);
}

#[test]
fn a_process_that_is_moved_is_followed() {
    let tree = tree_v2();
    let mut sampler = sampler(&tree);
    sample(&mut sampler, 1);
    memory_v2(&tree, "other", 5, 0, "max", 0);
    tree.write("proc/7/cgroup", "0::/other\n");
    assert_eq!(value(&sample(&mut sampler, 6), Metric::ControlGroupMemory), Some(500.0));
    assert_eq!(value(&sample(&mut sampler, 66), Metric::ControlGroupMemory), Some(5.0));
}

#[test]
fn groups_of_several_processes_are_read_once() {
    let tree = tree_v2();
    tree.write("proc/8/cgroup", "0::/pod/web\n");
    let mut sampler = sampler(&tree);
    sampler.watch([watched(ID), watched(ProcessId { pid: 8, ..ID })]);
    assert_eq!(value(&sample(&mut sampler, 1), Metric::ControlGroupMemory), Some(500.0));
}
