//! Other targets while the daemon runs.

use profiler_config::Targets;

use super::{
    owner::Processes,
    process::{ImageId, Now},
    walker_tables::WalkerTables,
};

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
            if has_other_names && let Some(image) = self.images.get(&id).filter(|image| image.identity().is_some()) {
                let pid = image.pid;
                self.submit_identification(id, pid);
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
        processes::fake_proc::{FakeProc, FakeProcess, at, native_program, rust_program, settle, targets},
    };

    #[test]
    fn services_have_their_other_names() {
        let proc = FakeProc::new();
        proc.set(7, &FakeProcess::new(&rust_program()));
        let base = Instant::now();
        let mut owner = proc.owner(targets());
        owner.scan(at(base, 0)).unwrap();
        settle(&mut owner, at(base, 0));
        let service = |owner: &mut Processes<_>| owner.list(None).unwrap()[0].service.to_string();
        let before = service(&mut owner);
        let executable = rust_program();
        let text = format!(
            "[[targets.services]]\nname = \"billing\"\nexecutables = [\"{}\"]\n",
            executable.display()
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
        owner.set_targets(Targets { services, ..targets() }, at(base, 1));
        settle(&mut owner, at(base, 1));
        assert_eq!(service(&mut owner), "billing");
        owner.set_targets(targets(), at(base, 2));
        settle(&mut owner, at(base, 2));
        assert_eq!(service(&mut owner), before);
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
