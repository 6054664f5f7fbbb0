//! The host of a fake tree.

use super::*;
use crate::{
    Gap, Metric, Subject,
    fake_tree::{FakeTree, at, sampled},
    source::SourceState,
};

fn sample(sampler: &mut HostSampler, seconds: u64) -> Vec<Reading> {
    sampled(seconds, |now, out| sampler.sample(now, out))
}

fn value(readings: &[Reading], metric: Metric, subject: &Subject) -> Option<f64> {
    let found: Vec<_> = readings
        .iter()
        .filter(|reading| reading.metric == metric && reading.subject == *subject)
        .collect();
    assert!(found.len() <= 1, "{metric} twice: {found:?}");
    found.first().map(|reading| reading.value)
}

fn of_host(readings: &[Reading], metric: Metric) -> Option<f64> {
    value(readings, metric, &Subject::Host)
}

fn state(sampler: &HostSampler, source: Source) -> SourceState {
    let report = sampler.reports().find(|report| report.source == source);
    report.unwrap().state.clone()
}

#[test]
fn a_whole_host_is_read() {
    let tree = FakeTree::host();
    let mut sampler = HostSampler::new(tree.root());
    let first = sample(&mut sampler, 100);
    assert_eq!(of_host(&first, Metric::HostCpuBusy), None, "a share needs two readings");
    assert_eq!(of_host(&first, Metric::HostMemoryUsed), Some(0.25));
    assert_eq!(of_host(&first, Metric::HostSwapUsed), Some(0.5));
    assert_eq!(of_host(&first, Metric::HostLoad5), Some(1.25));
    assert_eq!(of_host(&first, Metric::HostUptime), Some(100.25));
    assert_eq!(of_host(&first, Metric::HostOpenFiles), Some(700.0));
    assert_eq!(of_host(&first, Metric::HostOomKills), Some(2.0));
    assert_eq!(of_host(&first, Metric::HostMemoryStalled), Some(0.01));
    assert_eq!(of_host(&first, Metric::HostIoPressureTime), Some(3.0));
    let disk = Subject::Disk("vda".into());
    assert_eq!(value(&first, Metric::DiskReadBytes, &disk), Some(51_200.0));
    let interface = Subject::Network("eth0".into());
    assert_eq!(value(&first, Metric::NetworkReceiveDrops, &interface), Some(2.0));
    for report in sampler.reports() {
        assert_eq!(report.state, &SourceState::Active, "{}", report.source);
    }

    tree.write(
        "proc/stat",
        "cpu  160 0 20 220 0 0 0 0 0 0\ncpu0 100 0 10 90 0 0 0 0 0 0\nctxt 9\n",
    );
    let second = sample(&mut sampler, 101);
    assert_eq!(of_host(&second, Metric::HostCpuBusy), Some(0.35));
    assert_eq!(value(&second, Metric::CoreCpuBusy, &Subject::Core(0)), Some(0.6));
    assert_eq!(
        value(&second, Metric::CoreCpuBusy, &Subject::Core(1)),
        None,
        "it went offline"
    );
    assert_eq!(value(&second, Metric::DiskReadBytes, &disk), None, "not its turn");
}

#[test]
fn partitions_and_unused_devices_are_left_out() {
    let tree = FakeTree::host();
    tree.write(
        "proc/diskstats",
        "8 0 sda 1 0 8 1 0 0 0 0 0 100 1\n8 1 sda1 1 0 8 1 0 0 0 0 0 100 1\n7 0 loop0 0 0 0 0 0 0 0 0 0 0 0\n",
    );
    tree.write("sys/class/block/sda1/partition", "1\n");
    tree.write("sys/class/block/sda/size", "1\n");
    let mut sampler = HostSampler::new(tree.root());
    let mut disks: Vec<_> = sample(&mut sampler, 1)
        .into_iter()
        .filter(|reading| reading.metric.scope() == crate::Scope::Disk)
        .map(|reading| reading.subject.to_string())
        .collect();
    disks.dedup();
    assert_eq!(disks, ["sda"]);
    tree.write(
        "proc/diskstats",
        "8 0 sda 1 0 8 1 0 0 0 0 0 2600 1\n8 1 sda1 1 0 8 1 0 0 0 0 0 2600 1\n",
    );
    let later = sample(&mut sampler, 6);
    assert_eq!(value(&later, Metric::DiskBusy, &Subject::Disk("sda".into())), Some(0.5));
}

#[test]
fn a_bad_file_is_a_gap_of_its_own_source_only() {
    for text in [
        "",
        "garbage\n",
        "cpu  1 2",
        "\0\0\0\n",
        "cpu  99999999999999999999 0 0 0 0 0 0 0\n",
    ] {
        let tree = FakeTree::host();
        let mut sampler = HostSampler::new(tree.root());
        sample(&mut sampler, 100);
        tree.write("proc/stat", text);
        let readings = sample(&mut sampler, 101);
        assert_eq!(of_host(&readings, Metric::HostCpuBusy), None, "{text:?}");
        assert!(of_host(&readings, Metric::HostMemoryUsed).is_some());
        assert!(
            matches!(state(&sampler, Source::Cpu), SourceState::Failed { .. }),
            "{text:?}"
        );
        assert_eq!(state(&sampler, Source::Cpu).gap(), Gap::NoData);
        assert_eq!(state(&sampler, Source::Memory), SourceState::Active);
        // After a hole a share begins anew.
        tree.write("proc/stat", "cpu  160 0 20 220 0 0 0 0 0 0\n");
        assert_eq!(of_host(&sample(&mut sampler, 102), Metric::HostCpuBusy), None);
        tree.write("proc/stat", "cpu  170 0 20 310 0 0 0 0 0 0\n");
        assert_eq!(of_host(&sample(&mut sampler, 103), Metric::HostCpuBusy), Some(0.1));
        assert_eq!(state(&sampler, Source::Cpu), SourceState::Active);
    }
}

#[test]
fn a_host_without_pressure_says_so_once_and_reads_the_rest() {
    let tree = FakeTree::host();
    tree.remove("proc/pressure");
    let mut sampler = HostSampler::new(tree.root());
    let readings = sample(&mut sampler, 1);
    assert_eq!(of_host(&readings, Metric::HostMemoryPressure), None);
    let state = state(&sampler, Source::Pressure);
    assert_eq!(state.gap(), Gap::Unsupported);
    let SourceState::Unsupported { reason } = state else {
        unreachable!()
    };
    assert!(reason.contains("pressure") && !reason.contains('\n'), "{reason}");
}

#[test]
fn one_file_of_pressure_does_not_spoil_the_others() {
    let tree = FakeTree::host();
    tree.write("proc/pressure/memory", "some avg10=200.00 total=1\n");
    let mut sampler = HostSampler::new(tree.root());
    let readings = sample(&mut sampler, 1);
    assert_eq!(of_host(&readings, Metric::HostMemoryPressure), None);
    assert_eq!(of_host(&readings, Metric::HostIoPressure), Some(0.02));
    assert!(matches!(state(&sampler, Source::Pressure), SourceState::Failed { .. }));
}

#[test]
fn file_systems_are_those_of_the_tree() {
    let tree = FakeTree::host();
    tree.write("srv/file", "x\n");
    tree.write(
        "proc/self/mountinfo",
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /srv rw - xfs /dev/sda2 rw\n3 1 8:3 / /gone rw - xfs /dev/sda3 rw\n",
    );
    let mut sampler = FilesystemSampler::new(tree.root());
    let mut out = Vec::new();
    sampler.sample(at(1), &mut out);
    for point in ["/", "/srv"] {
        let used = value(&out, Metric::FilesystemUsed, &Subject::Filesystem(point.into())).unwrap();
        assert!((0.0..=1.0).contains(&used), "{point}: {used}");
    }
    assert_eq!(
        value(&out, Metric::FilesystemUsed, &Subject::Filesystem("/gone".into())),
        None
    );
    assert_eq!(sampler.report().unwrap().state, &SourceState::Active);
}
