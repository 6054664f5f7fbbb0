//! Lists of mappings: short ones are read at once, long ones by the builder, so that no process makes the loop wait for
//! its own.
//!
//! While a list is read elsewhere, records of mappings go on to be followed: what they tell is newer than what the list
//! will.

use std::sync::Arc;

use super::{
    clock::Now,
    jobs::{Failure, Job},
    lifecycle::mapping,
    mappings::Mapping,
    owner::Processes,
    process::ImageId,
    scan::{MapsScan, MapsStart},
    walker_tables::WalkerTables,
    watching::watch_error,
};
use crate::{command::WatchError, kernel::records::Pid};

/// A list that is read elsewhere.
#[derive(Debug)]
pub(super) struct LongList {
    pub(super) image: ImageId,
    pub(super) pid: Pid,
    /// From when on its mappings are taken to hold.
    from_ns: u64,
    /// When it was asked for: it may lack what was mapped since.
    asked_ns: u64,
}

impl<T: WalkerTables> Processes<T> {
    /// Follows the mappings of an image from now on, if they are not yet.
    pub(super) fn track(&mut self, id: ImageId, now: Now) -> Result<(), WatchError> {
        let Some(image) = self.images.get(&id).filter(|image| !image.tracked) else {
            return Ok(());
        };
        let (pid, from_ns) = (image.pid, image.from_ns);
        match self.proc.maps_start(pid).map_err(|error| watch_error(pid, error))? {
            MapsStart::Whole(scan) => {
                check_width(&scan, pid)?;
                self.take_list(id, &scan, from_ns, now.monotonic_ns, now);
            }
            MapsStart::Longer => {
                if !self.read_elsewhere(id, pid, from_ns, now) {
                    return Err(WatchError::Unsupported {
                        reason: "too many files wait to be read".to_owned(),
                    });
                }
                if let Some(image) = self.images.get_mut(&id) {
                    image.awaits_list = true;
                }
            }
        }
        if let Some(image) = self.images.get_mut(&id) {
            image.tracked = true;
        }
        Ok(())
    }

    /// Reads the mappings of an image again. What is new is taken to hold since a time.
    pub(super) fn read_again(&mut self, id: ImageId, since_ns: u64, now: Now) {
        let Some(pid) = self.images.get(&id).map(|image| image.pid) else {
            return;
        };
        match self.proc.maps_start(pid) {
            Ok(MapsStart::Whole(scan)) => self.take_list(id, &scan, since_ns, now.monotonic_ns, now),
            Ok(MapsStart::Longer) => {
                // Tried again with the next repair otherwise: the old list is better than none.
                self.repair_due |= !self.read_elsewhere(id, pid, since_ns, now);
            }
            Err(_) => {}
        }
    }

    fn read_elsewhere(&mut self, image: ImageId, pid: Pid, from_ns: u64, now: Now) -> bool {
        self.submit(Job::List(LongList {
            image,
            pid,
            from_ns,
            asked_ns: now.monotonic_ns,
        }))
    }

    /// Applies a list that was read elsewhere.
    pub(super) fn apply_list(&mut self, list: &LongList, result: Result<MapsScan, Failure>, now: Now) {
        let Some(image) = self.images.get_mut(&list.image) else {
            return;
        };
        let was_awaited = std::mem::take(&mut image.awaits_list);
        if !image.is_running() || !image.tracked {
            return;
        }
        let checked = result.map_err(|failure| failure.reason).and_then(|scan| {
            check_width(&scan, list.pid).map_err(|error| error.to_string())?;
            Ok(scan)
        });
        match checked {
            Ok(scan) => {
                self.take_list(list.image, &scan, list.from_ns, list.asked_ns, now);
            }
            Err(reason) if was_awaited => {
                self.untrack(list.image);
                self.refuse(list.image, reason, false, now);
            }
            // A repair: what is known stays.
            Err(_) => {}
        }
    }

    /// Makes the mappings of a list, which was complete at some time, those of an image.
    fn take_list(&mut self, id: ImageId, scan: &MapsScan, from_ns: u64, complete_ns: u64, now: Now) {
        let found = scan.executable.iter().filter_map(|record| {
            let object = self.objects.find(record, now.monotonic_ns)?;
            Some(mapping(record, object, from_ns))
        });
        let mappings: Vec<Mapping> = found.collect();
        if let Some(image) = self.images.get_mut(&id) {
            let history = Arc::make_mut(&mut image.mappings);
            history.replace(mappings, complete_ns, now.monotonic_ns);
            history.set_left_out(scan.left_out);
            image.maps_truncated = scan.truncated;
            image.scanned_ns = complete_ns;
            self.dirty.insert(id);
        }
        if self.watched.contains(&id) {
            self.request_builds(id);
        }
    }
}

fn check_width(scan: &MapsScan, pid: Pid) -> Result<(), WatchError> {
    match (scan.has_64_bit_addresses, scan.executable.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => Err(WatchError::NoSuchProcess { pid }),
        (false, false) => Err(WatchError::Compat32 { pid }),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        command::Lease,
        kernel::records::LifecycleEvent,
        processes::{
            double::WalkerDouble,
            fake_proc::{
                FakeProc, FakeProcess, SECOND_NS, at, code_bytes, event, exec, fork, map, native_program, settle,
                targets, watch_all,
            },
            walker_tables::{Backing, WalkerMapping},
        },
    };

    /// More lines than a short list has.
    const MANY: u64 = 2000;
    const FIRST: u64 = 0x6000_0000_0000;
    const APART: u64 = 0x10_0000;

    /// A program with much code that it generated.
    fn crowded() -> FakeProcess {
        let mut process = FakeProcess::new(&native_program());
        let start = |index| FIRST + index * APART;
        let generated = (0..MANY).map(|index| (start(index), start(index) + 0x1000, PathBuf::new()));
        process.mappings.extend(generated);
        process
    }

    fn written(owner: &Processes<WalkerDouble>, pid: u32) -> Option<&Vec<WalkerMapping>> {
        owner.walker().processes.get(&Pid(pid))
    }

    fn lease(base: Instant) -> Lease {
        Lease::Until(base + Duration::from_secs(60))
    }

    #[test]
    fn what_is_mapped_while_a_long_list_is_read_is_newer_than_the_list() {
        let proc = FakeProc::new();
        proc.set(7, &crowded());
        let mut owner = proc.owner(targets());
        let base = Instant::now();
        owner.scan(at(base, 0)).unwrap();
        settle(&mut owner, at(base, 0));
        owner.watch(Pid(7), lease(base), at(base, 10)).unwrap();
        // Whatever the builder has done by now, nothing of it is applied yet.
        assert_eq!(written(&owner, 7), None);
        assert!(owner.is_loading(Pid(7)));
        let library = native_program();
        let start = FIRST + 5 * APART;
        let end = start + code_bytes(&library);
        owner.on_lifecycle(&map(20, 7, start, end, &library), at(base, 30));
        settle(&mut owner, at(base, 40));
        let mappings = written(&owner, 7).unwrap();
        let of_library = mappings.iter().filter(|mapping| (start..end).contains(&mapping.start));
        assert!(
            of_library
                .clone()
                .any(|mapping| matches!(mapping.backing, Backing::Rows(_)))
        );
        let generated = mappings.iter().filter(|mapping| mapping.end - mapping.start == 0x1000);
        assert!(generated.count() as u64 >= MANY - 1);
        assert!(
            mappings.iter().any(|mapping| mapping.start < FIRST),
            "the program itself"
        );
        assert!(!owner.is_loading(Pid(7)));
    }

    #[test]
    fn a_repair_reads_long_lists_as_well() {
        let proc = FakeProc::new();
        let mut process = crowded();
        proc.set(7, &process);
        let mut owner = proc.owner(watch_all());
        let base = Instant::now();
        owner.scan(at(base, 0)).unwrap();
        settle(&mut owner, at(base, 0));
        let before = written(&owner, 7).unwrap().len();
        process.mappings.pop();
        proc.set(7, &process);
        let lost = event(SECOND_NS, LifecycleEvent::Lost { count: 1 });
        owner.on_lifecycle(&lost, at(base, SECOND_NS));
        settle(&mut owner, at(base, 3 * SECOND_NS));
        assert_eq!(owner.tallies().repairs, 1);
        assert_eq!(written(&owner, 7).unwrap().len(), before - 1);
    }

    #[test]
    fn a_child_does_not_wait_for_its_parents_list() {
        let proc = FakeProc::new();
        for pid in [7, 8] {
            proc.set(pid, &crowded());
        }
        let mut owner = proc.owner(watch_all());
        let base = Instant::now();
        owner.on_lifecycle(&exec(1, 7, "crowded"), at(base, 1));
        owner.scan(at(base, 2)).unwrap();
        let id = owner.running(Pid(7)).unwrap().id;
        if let Some(image) = owner.images.get_mut(&id) {
            (image.tracked, image.mappings) = (false, Arc::default());
        }
        owner.watch(Pid(7), lease(base), at(base, 3)).unwrap();
        owner.on_lifecycle(&fork(4, 8, 7), at(base, 4));
        settle(&mut owner, at(base, 5));
        assert_eq!(written(&owner, 8), written(&owner, 7));
        assert!(written(&owner, 8).is_some_and(|mappings| mappings.len() as u64 > MANY));
    }

    #[test]
    fn a_long_list_of_a_32_bit_program_is_refused_when_it_is_read() {
        let proc = FakeProc::new();
        let mut process = crowded();
        process.has_stack = false;
        for (start, end, _) in &mut process.mappings {
            (*start, *end) = (*start & 0xffff_ffff, *end & 0xffff_ffff);
        }
        process.mappings.remove(0);
        proc.set(7, &process);
        let mut owner = proc.owner(targets());
        let base = Instant::now();
        owner.scan(at(base, 0)).unwrap();
        owner.watch(Pid(7), lease(base), at(base, 1)).unwrap();
        settle(&mut owner, at(base, 2));
        assert_eq!(written(&owner, 7), None);
        let listed = owner.list(Some(Pid(7))).unwrap();
        assert!(
            listed[0].watch_reason.contains("32-bit"),
            "{:?}",
            listed[0].watch_reason
        );
        assert!(!owner.is_loading(Pid(7)));
    }
}
