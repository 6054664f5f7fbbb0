//! Other targets while the daemon runs.

use profiler_config::Targets;

use super::{clock::Now, owner::Processes, process::ImageId, walker_tables::WalkerTables};

impl<T: WalkerTables> Processes<T> {
    /// Takes other targets from now on, and judges by them what runs already. Watches that were asked for stay, and so does
    /// what a lower limit has no place for: it only lets nothing in.
    pub fn set_targets(&mut self, targets: Targets, now: Now) {
        let has_other_names = self.targets.services != targets.services;
        self.targets = targets;
        let running: Vec<ImageId> = self
            .images
            .values()
            .filter(|image| image.is_running())
            .map(|image| image.id)
            .collect();
        for id in running {
            // Those that are being looked at are asked for again when that is done.
            if has_other_names && self.images.get(&id).is_some_and(|image| image.identity().is_some()) {
                self.identify_again(id, now);
            }
            self.decide(id, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use profiler_config::Pattern;

    use super::*;
    use crate::{
        command::Lease,
        kernel::records::Pid,
        processes::{
            double::WalkerDouble,
            fake_proc::{FakeProc, FakeProcess, SECOND_NS, at, fork, native_program, rust_program, settle, targets},
            jobs::Failure,
        },
    };

    #[test]
    fn services_have_their_other_names() {
        let proc = FakeProc::new();
        proc.set(7, &FakeProcess::new(&rust_program()));
        let base = Instant::now();
        let mut owner = proc.owner(targets());
        owner.scan(at(base, 0)).unwrap();
        settle(&mut owner, at(base, 0));
        let before = service(&owner, 7);
        owner.set_targets(billing(), at(base, 1));
        settle(&mut owner, at(base, 1));
        assert_eq!(service(&owner, 7), "billing");
        owner.set_targets(targets(), at(base, 2));
        settle(&mut owner, at(base, 2));
        assert_eq!(service(&owner, 7), before);
    }

    /// The program of the tests is the service `billing`.
    fn billing() -> Targets {
        let text = format!(
            "[[targets.services]]\nname = \"billing\"\nexecutables = [\"{}\"]\n",
            rust_program().display()
        );
        let file = profiler_config::SourceFile {
            path: "config.toml".into(),
            contents: text.into(),
        };
        let sources = profiler_config::Sources {
            files: vec![file],
            ..profiler_config::Sources::default()
        };
        let services = sources.resolve().unwrap().targets.services;
        Targets { services, ..targets() }
    }

    fn service(owner: &Processes<WalkerDouble>, pid: u32) -> String {
        owner.running(Pid(pid)).unwrap().label().service.to_string()
    }

    #[test]
    fn what_is_being_looked_at_has_its_other_name_too() {
        let proc = FakeProc::new();
        for pid in [7, 8] {
            proc.set(pid, &FakeProcess::new(&rust_program()));
        }
        let base = Instant::now();
        let mut owner = proc.owner(targets());
        owner.scan(at(base, 0)).unwrap();
        owner.set_targets(billing(), at(base, 1));
        settle(&mut owner, at(base, 1));
        assert_eq!(service(&owner, 7), "billing");
        // A child has what is known of its parent, which has another name by now.
        owner.set_targets(targets(), at(base, 2));
        owner.on_lifecycle(&fork(3, 8, 7), at(base, 3));
        settle(&mut owner, at(base, 3));
        assert!(service(&owner, 7) != "billing" && service(&owner, 8) == service(&owner, 7));
    }

    #[test]
    fn what_could_not_be_read_again_is_tried_later() {
        let proc = FakeProc::new();
        let mut process = FakeProcess::new(&rust_program());
        proc.set(7, &process);
        let base = Instant::now();
        let mut owner = proc.owner(targets());
        owner.scan(at(base, 0)).unwrap();
        settle(&mut owner, at(base, 0));
        let id = owner.running(Pid(7)).unwrap().id;
        process.cgroup = "0::/system.slice/db.service\n".to_owned();
        proc.set(7, &process);
        let failure = Failure {
            reason: "too many open files".to_owned(),
            passes: true,
        };
        let before = service(&owner, 7);
        owner.apply_identified(id, Err(failure), at(base, 1));
        settle(&mut owner, at(base, SECOND_NS));
        assert_eq!(service(&owner, 7), before);
        settle(&mut owner, at(base, 6 * SECOND_NS));
        assert_eq!(service(&owner, 7), "db.service");
    }

    #[test]
    fn what_runs_is_judged_again_and_what_was_asked_for_stays() {
        let proc = FakeProc::new();
        for (pid, program) in [(7, rust_program()), (8, native_program()), (9, rust_program())] {
            proc.set(pid, &FakeProcess::new(&program));
        }
        let base = Instant::now();
        let mut owner = proc.owner(targets());
        owner.scan(at(base, 0)).unwrap();
        settle(&mut owner, at(base, 0));
        let lease = Lease::Until(base + std::time::Duration::from_secs(60));
        owner.watch(Pid(9), lease, at(base, 1)).unwrap();
        let mut check = |targets: Targets, expected: &[u32]| {
            owner.set_targets(targets, at(base, 2));
            settle(&mut owner, at(base, 2));
            let watched: Vec<u32> = owner.walker().processes.keys().map(|pid| pid.0).collect();
            assert_eq!(watched, expected);
        };
        let off = Targets {
            discover_rust: false,
            discover_python: false,
            ..targets()
        };
        check(off.clone(), &[9]);
        let native = native_program().file_name().unwrap().to_string_lossy().into_owned();
        let included = Targets {
            include: vec![Pattern::new(&native).unwrap()],
            ..off
        };
        check(included, &[8, 9]);
        check(targets(), &[7, 9]);
    }
}
