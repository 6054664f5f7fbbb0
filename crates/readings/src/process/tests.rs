//! Processes of fake trees.

use super::*;
use crate::{
    Gap,
    fake_tree::{FakeTree, sampled, value},
    source::SourceState,
};

const FACTS: HostFacts = HostFacts {
    ticks_per_second: 100,
    page_bytes: 4096,
};

/// What a process is made to look like.
#[derive(Clone, Copy, Debug)]
struct Fake {
    state: char,
    threads: u64,
    cpu_ticks: u64,
    start_ticks: u64,
    pages: u64,
    read_bytes: u64,
    switches: u64,
}

const FAKE: Fake = Fake {
    state: 'S',
    threads: 1,
    cpu_ticks: 50,
    start_ticks: 100,
    pages: 10,
    read_bytes: 1000,
    switches: 5,
};

fn put(tree: &FakeTree, pid: u32, fake: Fake) {
    let Fake {
        state,
        threads,
        cpu_ticks,
        start_ticks,
        pages,
        read_bytes,
        switches,
    } = fake;
    let write = |name: &str, text: String| tree.write(&format!("proc/{pid}/{name}"), text);
    write(
        "stat",
        format!("{pid} (p) {state} 1 1 1 0 -1 0 7 0 3 0 {cpu_ticks} 0 0 0 20 0 {threads} 0 {start_ticks} 0 0\n"),
    );
    write("statm", format!("{} {pages} 0 0 0 0 0\n", pages + 1));
    write("io", format!("rchar: 1\nread_bytes: {read_bytes}\nwrite_bytes: 2\n"));
    write(
        "status",
        format!("Name:\tp\nvoluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t1\n"),
    );
    write("fd/0", String::new());
}

fn watched(pid: u32, start_ticks: u64, service: &str) -> WatchedProcess {
    WatchedProcess {
        id: ProcessId { pid, start_ticks },
        service: Some(service.into()),
        executed: None,
    }
}

/// Files of a fake tree live on under their descriptors when they are removed, so none are kept.
fn sampler(tree: &FakeTree) -> ProcessSampler {
    ProcessSampler::new(tree.root(), FACTS, 0)
}

fn sample(sampler: &mut ProcessSampler, seconds: u64) -> Vec<Reading> {
    sampled(seconds, |now, out| sampler.sample(now, out))
}

#[test]
fn a_process_and_its_service_are_read() {
    let tree = FakeTree::new();
    put(&tree, 7, FAKE);
    let mut sampler = sampler(&tree);
    sampler.watch([watched(7, 100, "web")]);
    let first = sample(&mut sampler, 100);
    assert_eq!(value(&first, Metric::ProcessCpu), None, "a rate needs two readings");
    assert_eq!(value(&first, Metric::ProcessMemory), Some(40960.0));
    assert_eq!(value(&first, Metric::ServiceMemory), Some(40960.0));
    assert_eq!(value(&first, Metric::ProcessThreads), Some(1.0));
    assert_eq!(value(&first, Metric::ProcessDescriptors), Some(1.0));
    assert_eq!(value(&first, Metric::ProcessMinorFaults), Some(7.0));
    assert_eq!(value(&first, Metric::ProcessMajorFaults), Some(3.0));
    assert_eq!(value(&first, Metric::ProcessReadBytes), Some(1000.0));
    assert_eq!(value(&first, Metric::ProcessVoluntarySwitches), Some(5.0));
    assert_eq!(
        value(&first, Metric::ServiceReadBytes),
        Some(0.0),
        "what was before is not the service's"
    );
    put(&tree, 7, Fake { cpu_ticks: 80, ..FAKE });
    let second = sample(&mut sampler, 101);
    assert_eq!(value(&second, Metric::ProcessCpu), Some(0.3));
    assert_eq!(value(&second, Metric::ServiceCpu), Some(0.3));
    assert_eq!(value(&second, Metric::ServiceCpuTime), Some(0.3));
    assert_eq!(value(&second, Metric::ProcessThreads), None, "not its turn");
    for report in sampler.reports() {
        assert_eq!(report.state, &SourceState::Active, "{}", report.source);
    }
}

#[test]
fn services_keep_what_their_processes_counted() {
    let tree = FakeTree::new();
    put(&tree, 7, FAKE);
    put(&tree, 8, FAKE);
    let mut sampler = sampler(&tree);
    sampler.watch([watched(7, 100, "web"), watched(8, 100, "web")]);
    sample(&mut sampler, 100);
    put(
        &tree,
        7,
        Fake {
            cpu_ticks: 150,
            read_bytes: 5000,
            ..FAKE
        },
    );
    let before = sample(&mut sampler, 110);
    assert_eq!(value(&before, Metric::ServiceCpuTime), Some(1.0));
    assert_eq!(value(&before, Metric::ServiceReadBytes), Some(4000.0));
    assert_eq!(value(&before, Metric::ServiceExits), Some(0.0));

    // One ends, another begins after the last round and is counted from its start.
    tree.remove("proc/7");
    put(
        &tree,
        9,
        Fake {
            start_ticks: 11_500,
            cpu_ticks: 25,
            read_bytes: 70,
            ..FAKE
        },
    );
    sampler.watch([watched(8, 100, "web"), watched(9, 11_500, "web")]);
    let after = sample(&mut sampler, 120);
    assert_eq!(value(&after, Metric::ServiceCpuTime), Some(1.25));
    assert_eq!(value(&after, Metric::ServiceCpu), Some(0.025));
    assert_eq!(value(&after, Metric::ServiceReadBytes), Some(4070.0));
    assert_eq!(value(&after, Metric::ServiceStarts), Some(1.0));
    assert_eq!(value(&after, Metric::ServiceExits), Some(1.0));
    assert_eq!(value(&after, Metric::ServiceProcesses), Some(2.0));

    // One that is found late began, and what it did until then is not of this second.
    put(
        &tree,
        10,
        Fake {
            start_ticks: 11_600,
            cpu_ticks: 300,
            ..FAKE
        },
    );
    sampler.watch([
        watched(8, 100, "web"),
        watched(9, 11_500, "web"),
        watched(10, 11_600, "web"),
    ]);
    let late = sample(&mut sampler, 121);
    assert_eq!(value(&late, Metric::ServiceStarts), Some(2.0));
    assert_eq!(value(&late, Metric::ServiceCpu), Some(0.0));

    // What is not watched any more and lives on did not end.
    sampler.watch([watched(9, 11_500, "web")]);
    assert_eq!(value(&sample(&mut sampler, 122), Metric::ServiceExits), Some(1.0));

    // The last one ends: the counters stay for a while, and nothing is said of what nobody uses.
    tree.remove("proc/9");
    let empty = sample(&mut sampler, 123);
    assert_eq!(value(&empty, Metric::ServiceExits), Some(2.0));
    assert_eq!(value(&empty, Metric::ServiceProcesses), Some(0.0));
    assert_eq!(value(&empty, Metric::ServiceCpu), None);
    assert_eq!(value(&empty, Metric::ServiceMemory), None);
    assert_eq!(sample(&mut sampler, 800), [], "it is forgotten");
}

#[test]
fn another_process_with_the_same_id_is_not_read() {
    let tree = FakeTree::new();
    put(&tree, 7, FAKE);
    let mut sampler = sampler(&tree);
    sampler.watch([watched(7, 100, "web")]);
    sample(&mut sampler, 100);
    put(
        &tree,
        7,
        Fake {
            start_ticks: 9_000,
            cpu_ticks: 9_999,
            ..FAKE
        },
    );
    let readings = sample(&mut sampler, 101);
    assert_eq!(value(&readings, Metric::ProcessMemory), None);
    assert_eq!(value(&readings, Metric::ServiceCpuTime), Some(0.0));
    assert_eq!(value(&readings, Metric::ServiceExits), Some(1.0));
}

#[test]
fn counters_that_fall_are_no_negative_rate() {
    let tree = FakeTree::new();
    put(
        &tree,
        7,
        Fake {
            cpu_ticks: 5000,
            ..FAKE
        },
    );
    let mut sampler = sampler(&tree);
    sampler.watch([watched(7, 100, "web")]);
    sample(&mut sampler, 100);
    put(&tree, 7, Fake { cpu_ticks: 10, ..FAKE });
    assert_eq!(value(&sample(&mut sampler, 101), Metric::ProcessCpu), None);
    put(&tree, 7, Fake { cpu_ticks: 20, ..FAKE });
    let readings = sample(&mut sampler, 102);
    assert_eq!(value(&readings, Metric::ProcessCpu), Some(0.1));
    assert_eq!(value(&readings, Metric::ServiceCpuTime), Some(0.1));
    put(
        &tree,
        7,
        Fake {
            cpu_ticks: u64::MAX,
            ..FAKE
        },
    );
    let absurd = sample(&mut sampler, 103);
    assert_eq!(value(&absurd, Metric::ProcessCpu), None);
    assert_eq!(value(&absurd, Metric::ServiceCpu), None);
}

#[test]
fn a_bad_file_is_a_gap_of_that_process_and_its_service() {
    for (file, text) in [
        ("stat", "7 (p"),
        ("stat", ""),
        ("stat", "garbage\n"),
        ("statm", "1 2 3\n"),
        ("statm", "x\n"),
    ] {
        let tree = FakeTree::new();
        put(&tree, 7, FAKE);
        put(&tree, 8, FAKE);
        let mut sampler = sampler(&tree);
        sampler.watch([watched(7, 100, "web"), watched(8, 100, "other")]);
        sample(&mut sampler, 100);
        tree.write(&format!("proc/7/{file}"), text);
        let readings = sample(&mut sampler, 101);
        assert_eq!(
            value(&readings, Metric::ProcessMemory),
            Some(40960.0),
            "{file} {text:?}: that of the other"
        );
        assert_eq!(value(&readings, Metric::ServiceMemory), Some(40960.0));
        let exits = readings.iter().filter(|reading| reading.metric == Metric::ServiceExits);
        assert!(exits.into_iter().all(|reading| reading.value == 0.0));
        assert_eq!(sampler.reports().next().unwrap().state, &SourceState::Active);
        sampler.watch([watched(7, 100, "web")]);
        sample(&mut sampler, 102);
        let state = sampler.reports().next().unwrap().state.clone();
        assert!(
            matches!(state, SourceState::Failed { .. }) && state.gap() == Gap::NoData,
            "{file}: {state:?}"
        );
    }
}

#[test]
fn a_first_thread_that_ended_is_no_process_without_memory() {
    let tree = FakeTree::new();
    put(
        &tree,
        7,
        Fake {
            state: 'Z',
            threads: 3,
            pages: 0,
            ..FAKE
        },
    );
    put(&tree, 8, Fake { state: 'Z', ..FAKE });
    let mut sampler = sampler(&tree);
    sampler.watch([watched(7, 100, "web"), watched(8, 100, "dead")]);
    tree.write(
        "proc/7/task/9/status",
        "voluntary_ctxt_switches:\t2\nnonvoluntary_ctxt_switches:\t3\n",
    );
    let readings = sample(&mut sampler, 100);
    assert_eq!(value(&readings, Metric::ProcessMemory), None);
    assert_eq!(value(&readings, Metric::ServiceMemory), None);
    assert_eq!(value(&readings, Metric::ProcessThreads), Some(3.0));
    assert_eq!(value(&readings, Metric::ServiceProcesses), Some(1.0));
}

#[test]
fn what_is_held_is_not_told_without_what_is_swapped_out() {
    let tree = FakeTree::new();
    let kinds = "RssAnon:\t40 kB\nRssFile:\t0 kB\nRssShmem:\t0 kB\nVmSwap:\t8 kB\n";
    for pid in [7, 8, 9] {
        put(&tree, pid, FAKE);
    }
    tree.write("proc/7/status", kinds);
    let mut sampler = sampler(&tree);
    let held = |sampler: &ProcessSampler, pid| sampler.processes[&watched(pid, 100, "web").id].held_bytes();
    sampler.watch([7, 8].map(|pid| watched(pid, 100, "web")));
    sample(&mut sampler, 100);
    assert_eq!((held(&sampler, 7), held(&sampler, 8)), (Some(48 << 10), None));
    // One that joins is not waited for until it is the turn of the details.
    sampler.watch([7, 8, 9].map(|pid| watched(pid, 100, "web")));
    sample(&mut sampler, 101);
    assert_eq!(held(&sampler, 9), Some(40 << 10));
    sample(&mut sampler, 200);
    assert_eq!((held(&sampler, 7), held(&sampler, 9)), (Some(48 << 10), None));
}

#[test]
fn the_first_listening_socket_is_told_once_and_repeated_with_the_details() {
    let tree = FakeTree::new();
    put(&tree, 7, FAKE);
    tree.write("proc/7/net/tcp", "head\n0: A B 0A 0 0 0 0 0 4711 1\n");
    let mut sampler = sampler(&tree);
    let began = Duration::from_millis(98_500);
    sampler.watch([WatchedProcess {
        executed: Some(began),
        ..watched(7, 100, "web")
    }]);
    assert_eq!(value(&sample(&mut sampler, 100), Metric::ProcessListenDelay), None);
    tree.link("proc/7/fd/3", "socket:[4711]");
    assert_eq!(value(&sample(&mut sampler, 101), Metric::ProcessListenDelay), None);
    assert_eq!(value(&sample(&mut sampler, 102), Metric::ProcessListenDelay), None);
    assert_eq!(value(&sample(&mut sampler, 103), Metric::ProcessListenDelay), Some(2.5));
    assert_eq!(value(&sample(&mut sampler, 104), Metric::ProcessListenDelay), None);
    assert_eq!(value(&sample(&mut sampler, 110), Metric::ProcessListenDelay), Some(2.5));
}

#[test]
fn a_service_that_listens_at_once_is_told_by_its_start() {
    let tree = FakeTree::new();
    // It started 100 s after the host, and is found two seconds later.
    put(
        &tree,
        7,
        Fake {
            start_ticks: 10_000,
            ..FAKE
        },
    );
    tree.write("proc/7/net/tcp", "head\n0: A B 0A 0 0 0 0 0 4711 1\n");
    tree.link("proc/7/fd/3", "socket:[4711]");
    let mut sampler = sampler(&tree);
    sampler.watch([watched(7, 10_000, "web")]);
    assert_eq!(value(&sample(&mut sampler, 102), Metric::ProcessListenDelay), None);
    assert_eq!(value(&sample(&mut sampler, 104), Metric::ProcessListenDelay), Some(2.0));
}

#[test]
fn what_a_process_executes_begins_to_listen_anew() {
    let tree = FakeTree::new();
    put(&tree, 7, FAKE);
    tree.write("proc/7/net/tcp", "head\n0: A B 0A 0 0 0 0 0 4711 1\n");
    tree.link("proc/7/fd/3", "socket:[4711]");
    let mut sampler = sampler(&tree);
    let executed = |seconds| {
        [WatchedProcess {
            executed: Some(Duration::from_secs(seconds)),
            ..watched(7, 100, "web")
        }]
    };
    sampler.watch(executed(98));
    let told = |sampler: &mut ProcessSampler, at| value(&sample(sampler, at), Metric::ProcessListenDelay);
    assert_eq!(told(&mut sampler, 100), None);
    // The same again changes nothing.
    sampler.watch(executed(98));
    assert_eq!(told(&mut sampler, 102), Some(2.0));
    // Another program has closed what it got, and listens two seconds later.
    tree.remove("proc/7/fd/3");
    sampler.watch(executed(105));
    assert_eq!(told(&mut sampler, 106), None);
    tree.link("proc/7/fd/5", "socket:[4711]");
    assert_eq!(told(&mut sampler, 107), None);
    // What listens then is heard of late: it was not of this program.
    sampler.watch(executed(106));
    assert_eq!(told(&mut sampler, 108), None);
    assert_eq!(told(&mut sampler, 110), Some(2.0));
    assert_eq!(told(&mut sampler, 120), Some(2.0));
}

#[test]
fn nothing_is_executed_before_its_process_starts() {
    let tree = FakeTree::new();
    put(
        &tree,
        7,
        Fake {
            start_ticks: 10_000,
            ..FAKE
        },
    );
    tree.write("proc/7/net/tcp", "head\n0: A B 0A 0 0 0 0 0 4711 1\n");
    tree.link("proc/7/fd/3", "socket:[4711]");
    let mut sampler = sampler(&tree);
    sampler.watch([WatchedProcess {
        executed: Some(Duration::from_secs(60)),
        ..watched(7, 10_000, "web")
    }]);
    sample(&mut sampler, 102);
    assert_eq!(value(&sample(&mut sampler, 104), Metric::ProcessListenDelay), Some(2.0));
}

#[test]
fn more_processes_than_descriptors_are_read_all_the_same() {
    let tree = FakeTree::new();
    let ids = 1..=50;
    for pid in ids.clone() {
        put(&tree, pid, FAKE);
    }
    let mut sampler = ProcessSampler::new(tree.root(), FACTS, 20);
    sampler.watch(ids.clone().map(|pid| watched(pid, 100, "web")));
    assert_eq!((sampler.kept, sampler.left_out), (10, 0));
    let readings = sample(&mut sampler, 100);
    let count = readings
        .iter()
        .filter(|reading| reading.metric == Metric::ProcessMemory)
        .count();
    assert_eq!(count, 50);
    assert_eq!(value(&readings, Metric::ServiceMemory), Some(50.0 * 40960.0));
    sampler.watch(ids.clone().skip(45).map(|pid| watched(pid, 100, "web")));
    assert_eq!(sampler.kept, 0);
    sampler.watch(ids.map(|pid| watched(pid, 100, "web")));
    assert_eq!(sampler.kept, 10);
}

#[test]
fn what_is_beyond_the_bound_is_counted() {
    let tree = FakeTree::new();
    put(&tree, 1, FAKE);
    let mut sampler = sampler(&tree);
    let too_many = 1..=MAX_PROCESSES as u32 + 3;
    sampler.watch(too_many.map(|pid| watched(pid, 100, "web")));
    let readings = sample(&mut sampler, 100);
    assert_eq!(
        value(&readings, Metric::ServiceProcesses),
        Some(1.0),
        "the others do not exist"
    );
    assert_eq!(sampler.reports().next().unwrap().left_out, 3);
}

#[test]
fn a_real_process_is_read_until_it_ends() {
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let stat = std::fs::read(format!("/proc/{}/stat", child.id())).unwrap();
    let start_ticks = files::parse_stat(&stat).unwrap().start_ticks;
    let mut sampler = ProcessSampler::new(Path::new("/"), HostFacts::read(), 100);
    sampler.watch([watched(child.id(), start_ticks, "sleep")]);
    let now = start_ticks / HostFacts::read().ticks_per_second + 1;
    let readings = sample(&mut sampler, now);
    assert!(value(&readings, Metric::ProcessMemory).unwrap() > 0.0);
    assert!(value(&readings, Metric::ProcessDescriptors).unwrap() >= 3.0);
    assert!(value(&sample(&mut sampler, now + 1), Metric::ProcessCpu).is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    let readings = sample(&mut sampler, now + 2);
    assert_eq!(value(&readings, Metric::ProcessMemory), None);
    assert_eq!(value(&readings, Metric::ServiceExits), Some(1.0));
    assert_eq!(
        (sampler.kept, sampler.reports().next().unwrap().state),
        (0, &SourceState::Active)
    );
}

#[test]
fn a_real_socket_is_found() {
    let _socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = std::process::id();
    let stat = std::fs::read("/proc/self/stat").unwrap();
    let start_ticks = files::parse_stat(&stat).unwrap().start_ticks;
    let executed = start_ticks.div_ceil(HostFacts::read().ticks_per_second);
    let mut sampler = ProcessSampler::new(Path::new("/"), HostFacts::read(), 100);
    sampler.watch([WatchedProcess {
        executed: Some(Duration::from_secs(executed)),
        ..watched(own, start_ticks, "test")
    }]);
    sample(&mut sampler, executed + 1);
    let readings = sample(&mut sampler, executed + 3);
    assert_eq!(value(&readings, Metric::ProcessListenDelay), Some(1.0));
}
