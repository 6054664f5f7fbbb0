//! What ran before a breach, however long it was waited for and whatever the clock shows.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use profiler_alerts::{Change, Limit};
use profiler_profile::{Frame, FrameKind, ProcessLabel, ProfileBuilder, Quality};

use super::{Desk, host_cpu};
use crate::alerting::Command;

impl Desk {
    /// Reads this value each second, and has windows of five seconds in which a function of a service ran for so much of the time.
    fn run_windows(&mut self, value: f64, windows: u64, function: &str, percent: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for window in 0..windows {
            changes.extend(self.run(Some(value), 5));
            let end = self.now();
            let period = Duration::from_millis(10);
            let mut builder = ProfileBuilder::new(period, end.time - 500 * period, end.time);
            let process = ProcessLabel {
                pid: 7,
                start: SystemTime::UNIX_EPOCH,
                name: "svc".into(),
                service: "batch".into(),
            };
            let frame = Frame {
                kind: FrameKind::Python,
                function: function.into(),
                module: "app".into(),
                file: "/srv/handlers.py".into(),
                line: 7,
            };
            let samples = 5 * percent + window * 7 % 10;
            builder.add(&process, &Arc::from("main"), [frame].into_iter(), samples);
            let quality = Quality {
                samples,
                rooted: samples,
                ..Quality::default()
            };
            builder.add_process_quality(&process, &quality);
            self.store.lock().unwrap().insert(builder.build(), end.since_boot);
        }
        changes
    }

    /// The first line of what was found about the newest alert, once it was looked into.
    fn finding(&mut self) -> String {
        let begun = Instant::now();
        loop {
            let id = self.alerts()[0].alert.id;
            let found = self.ask(|reply| Command::Get { id, reply }).unwrap().unwrap();
            if let Some(line) = found.lines.into_iter().next() {
                return line;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing is found");
            std::thread::sleep(Duration::from_millis(20));
            self.run(Some(0.9), 1);
        }
    }
}

fn host_cpu_for(hold_for: Duration) -> Arc<Limit> {
    Arc::new(Limit {
        hold_for,
        ..(*host_cpu()).clone()
    })
}

/// What ran before is known although the alert was pending for longer than windows are kept.
#[test]
fn the_quiet_time_before_a_long_wait_is_not_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(folder.path(), vec![host_cpu_for(Duration::from_secs(1500))], 0);
    // Nobody ends windows early.
    desk.commands.close();
    assert_eq!(desk.run_windows(0.2, 60, "rest", 5), []);
    assert_eq!(
        desk.run_windows(0.9, 301, "burn", 60),
        [Change::Pending, Change::Firing]
    );
    let line = desk.finding();
    assert!(line.contains("burn (srv/handlers.py) grew from 0.0 to 60."), "{line}");
    // One that never fires leaves nothing behind.
    assert_eq!(desk.run_windows(0.2, 60, "rest", 5), [Change::Resolved]);
    assert_eq!(desk.run_windows(0.9, 120, "burn", 60), [Change::Pending]);
    assert!(desk.keeper.quiet_times.held_bytes() > 0);
    assert_eq!(desk.run_windows(0.2, 1, "rest", 5), [Change::Dropped]);
    assert_eq!(desk.keeper.quiet_times.held_bytes(), 0);
}

/// What ran before is what ran before, whatever the clock on the wall says.
#[test]
fn the_quiet_time_is_told_by_a_clock_that_nobody_sets() {
    let folder = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(folder.path(), vec![host_cpu_for(Duration::from_secs(60))], 0);
    desk.commands.close();
    assert_eq!(desk.run_windows(0.2, 60, "rest", 5), []);
    assert_eq!(desk.run_windows(0.9, 3, "burn", 60), [Change::Pending]);
    // By the wall, the rest of the breach comes before it.
    desk.set_back = Duration::from_secs(200);
    assert_eq!(desk.run_windows(0.9, 11, "burn", 60), [Change::Firing]);
    let line = desk.finding();
    assert!(line.contains("burn (srv/handlers.py) grew from 0.0 to 60."), "{line}");
}
