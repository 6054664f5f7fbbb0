//! Which images are watched: by discovery, by requests, and within the limit.

use std::{sync::Arc, time::Instant};

use super::{
    clock::Now,
    files::MappedPlace,
    jobs::Job,
    mappings::Mapping,
    objects::ObjectKind,
    owner::Processes,
    process::{Counts, Identification, Image, ImageId, Refusal},
    scan::ScanError,
    walker_tables::WalkerTables,
};
use crate::{
    command::{Lease, Runtime, WatchError, WatchId, WatchProgress, WatchStart},
    kernel::records::Pid,
};

/// When a process that could not be watched is tried again.
const RETRY_NS: u64 = 10_000_000_000;
/// Streams open at one time.
const MAX_STREAMS: usize = 4096;

/// A stream that asks for a process.
#[derive(Debug)]
pub(super) struct Stream {
    pid: Pid,
    counts: Arc<Counts>,
    before: (u64, u64),
    pub(super) exited: bool,
}

/// Whether a process is to be watched without being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Watch,
    Leave(&'static str),
    Unknown,
}

impl<T: WalkerTables> Processes<T> {
    /// Watches a process on request.
    ///
    /// # Errors
    /// As [`WatchError`] says. Nothing is changed then.
    pub fn watch(&mut self, pid: Pid, until: Lease, now: Now) -> Result<WatchStart, WatchError> {
        if pid == self.own_pid && !self.targets.watch_self {
            return Err(WatchError::OwnProcess { pid });
        }
        if matches!(until, Lease::Stream(_)) && self.streams.len() >= MAX_STREAMS {
            return Err(WatchError::Unsupported {
                reason: format!("{MAX_STREAMS} streams watch processes already"),
            });
        }
        let id = self.find_or_scan(pid, now)?;
        self.track(id, now)?;
        let already_watched = self.watched.contains(&id);
        let Some(image) = self.images.get_mut(&id) else {
            return Err(WatchError::NoSuchProcess { pid });
        };
        let before = image.watch.clone();
        match until {
            Lease::Stream(stream) => image.watch.streams.push(stream),
            Lease::Until(end) => image.watch.lease = Some(before.lease.map_or(end, |lease| lease.max(end))),
        }
        // Asked for by name, it is tried again whatever came of it before.
        image.watch.refused = None;
        let counts = Arc::clone(&image.counts);
        self.refresh_watch(id, now);
        self.write(id, now);
        let image = self.images.get_mut(&id);
        if let Some((image, refusal)) = image.and_then(|image| image.watch.refused.clone().map(|why| (image, why))) {
            image.watch = before;
            image.watch.refused = Some(refusal.clone());
            return Err(match refusal.too_many {
                true => WatchError::TooManyProcesses {
                    limit: self.targets.max_processes.get(),
                },
                false => WatchError::Unsupported { reason: refusal.reason },
            });
        }
        if let Lease::Stream(stream) = until {
            let before = counts.get();
            self.streams.insert(
                stream,
                Stream {
                    pid,
                    counts,
                    before,
                    exited: false,
                },
            );
        }
        self.identify(id);
        Ok(WatchStart { already_watched })
    }

    /// Ends the watch of a stream.
    pub fn end_watch(&mut self, stream: WatchId, now: Now) {
        let Some(ended) = self.streams.remove(&stream) else {
            return;
        };
        let Some(id) = self.running(ended.pid).map(|image| image.id) else {
            return;
        };
        if let Some(image) = self.images.get_mut(&id) {
            image.watch.streams.retain(|other| *other != stream);
        }
        self.refresh_watch(id, now);
    }

    /// How far the watch of a stream has come; `None` if it is not known.
    pub fn watch_progress(&self, stream: WatchId) -> Option<WatchProgress> {
        let stream = self.streams.get(&stream)?;
        let (samples, rooted) = stream.counts.get();
        Some(WatchProgress {
            samples: samples - stream.before.0,
            rooted_samples: rooted - stream.before.1,
            exited: stream.exited,
        })
    }

    /// Ends leases that are over.
    pub(super) fn expire_leases(&mut self, now: Now) {
        let is_over = |lease: Option<Instant>| lease.is_some_and(|end| end <= now.instant);
        let over: Vec<ImageId> = self
            .images
            .values()
            .filter(|image| is_over(image.watch.lease))
            .map(|image| image.id)
            .collect();
        for id in over {
            if let Some(image) = self.images.get_mut(&id) {
                image.watch.lease = None;
            }
            self.refresh_watch(id, now);
        }
    }

    /// Tries again what could not be watched.
    pub(super) fn retry_refused(&mut self, now: Now) {
        let is_due = |image: &&Image| {
            image.is_running()
                && image.watch.is_wanted()
                && image
                    .watch
                    .refused
                    .as_ref()
                    .is_some_and(|refusal| refusal.retry_ns <= now.monotonic_ns)
        };
        let due: Vec<ImageId> = self.images.values().filter(is_due).map(|image| image.id).collect();
        for id in due {
            if let Some(image) = self.images.get_mut(&id) {
                image.watch.refused = None;
            }
            self.refresh_watch(id, now);
        }
    }

    /// Judges an image by what is known of it, asks the builder if that is not enough, and acts on it.
    pub(super) fn decide(&mut self, id: ImageId, now: Now) {
        let Some(image) = self.images.get(&id) else { return };
        let judgement = self.judge(image);
        if judgement == Judgement::Unknown {
            self.identify(id);
        }
        if let Some(image) = self.images.get_mut(&id) {
            image.watch.discovered = judgement == Judgement::Watch;
            image.undecided = judgement == Judgement::Unknown;
        }
        self.refresh_watch(id, now);
    }

    /// Whether an image is to be watched without being asked for.
    pub(super) fn judge(&self, image: &Image) -> Judgement {
        if image.pid == self.own_pid && !self.targets.watch_self {
            return Judgement::Leave("the profiler itself");
        }
        let Some(executable) = image.executable() else {
            return match &image.identification {
                Identification::Failed(_) => Judgement::Leave("its program cannot be read"),
                _ => Judgement::Unknown,
            };
        };
        let name = image.name.as_bytes();
        if self
            .targets
            .exclude
            .iter()
            .any(|pattern| pattern.matches(executable, name))
        {
            return Judgement::Leave("excluded by the configuration");
        }
        if self
            .targets
            .include
            .iter()
            .any(|pattern| pattern.matches(executable, name))
        {
            return Judgement::Watch;
        }
        match (image.known_marks(), image.runtime()) {
            (None, _) if matches!(image.identification, Identification::Failed(_)) => {
                Judgement::Leave("its program cannot be read")
            }
            (None, _) => Judgement::Unknown,
            (_, Runtime::Rust) if self.targets.discover_rust => Judgement::Watch,
            (_, Runtime::Rust) => Judgement::Leave("discovery of Rust programs is off"),
            (_, Runtime::Python) if self.targets.discover_python => Judgement::Watch,
            (_, Runtime::Python) => Judgement::Leave("discovery of Python programs is off"),
            (_, Runtime::Native) => Judgement::Leave("neither a Rust nor a Python program"),
        }
    }

    /// Asks the builder what an image is, unless it was asked before.
    pub(super) fn identify(&mut self, id: ImageId) {
        let Some(image) = self.images.get(&id) else { return };
        let pid = image.pid;
        if matches!(image.identification, Identification::NotAsked)
            && self.submit_identification(id, pid)
            && let Some(image) = self.images.get_mut(&id)
        {
            image.identification = Identification::Asked;
        }
    }

    /// Asks the builder what an image is. Returns whether it could be asked.
    pub(super) fn submit_identification(&mut self, image: ImageId, pid: Pid) -> bool {
        let services = Arc::clone(&self.targets.services);
        self.submit(Job::Identify { image, pid, services })
    }

    /// Begins or ends the watch of an image as its reasons say.
    pub(super) fn refresh_watch(&mut self, id: ImageId, now: Now) {
        let Some(image) = self.images.get(&id) else { return };
        let mut wanted = image.is_running() && image.watch.is_wanted() && image.watch.refused.is_none();
        if wanted && !self.watched.contains(&id) {
            wanted = !self.is_left_out(id);
        }
        let Some(image) = self.images.get(&id) else { return };
        if wanted == self.watched.contains(&id) {
            if !wanted && !image.undecided {
                self.untrack(id);
            }
            return;
        }
        self.dirty.insert(id);
        if !wanted {
            self.watched.remove(&id);
            self.untrack(id);
            return;
        }
        let limit = self.targets.max_processes.get();
        if self.watched.len() >= limit as usize {
            self.refuse(id, format!("{limit} processes are watched already"), true, now);
        } else if let Err(error) = self.track(id, now) {
            self.refuse(id, error.to_string(), false, now);
        } else {
            self.watched.insert(id);
            self.request_builds(id);
            self.look_soon(id, now);
        }
    }

    /// Notes that an image is not watched although it should be.
    pub(super) fn refuse(&mut self, id: ImageId, reason: String, too_many: bool, now: Now) {
        self.watched.remove(&id);
        if let Some(image) = self.images.get_mut(&id) {
            let retry_ns = now.monotonic_ns.saturating_add(RETRY_NS);
            image.watch.refused = Some(Refusal {
                reason,
                retry_ns,
                too_many,
            });
        }
        self.dirty.insert(id);
    }

    /// The image that a process runs now, checked against `/proc`.
    fn find_or_scan(&mut self, pid: Pid, now: Now) -> Result<ImageId, WatchError> {
        let stat = self.proc.stat(pid).map_err(|error| watch_error(pid, error))?;
        if stat.kernel_thread {
            return Err(WatchError::KernelThread { pid });
        }
        if stat.zombie {
            return Err(WatchError::NoSuchProcess { pid });
        }
        self.note_found(pid, &stat, now).ok_or_else(|| WatchError::Unsupported {
            reason: "too many processes are known".to_owned(),
        })
    }

    pub(super) fn untrack(&mut self, id: ImageId) {
        let Some(image) = self.images.get_mut(&id) else { return };
        image.tracked = false;
        image.awaits_list = false;
        if !image.may_be_sampled() {
            image.mappings = Default::default();
        }
    }

    /// Asks the builder for the objects of an image that nobody asked for yet.
    pub(super) fn request_builds(&mut self, id: ImageId) {
        let Some(image) = self.images.get(&id) else { return };
        let pid = image.pid;
        let jobs: Vec<Job> = image
            .mappings
            .live()
            .filter(|mapping| mapping.object.kind == ObjectKind::File && mapping.object.is_to_be_asked_for())
            .map(|mapping| {
                mapping.object.note_asked();
                build_job(pid, mapping)
            })
            .collect();
        for job in jobs {
            if let Err(Job::Build { object, .. }) = self.builder.submit(job) {
                self.tallies.refused_jobs += 1;
                object.fail("too many files wait to be read");
                self.objects.forget(&object);
            }
        }
    }

    /// Reads when a process started, once. Says whether its id may still be its own: one that has just ended, and whose end was
    /// not heard of yet, keeps the time of its fork or exec, and nothing is asked of who has its id now.
    pub(super) fn note_start(&mut self, id: ImageId) -> bool {
        let Some(image) = self.images.get_mut(&id).filter(|image| image.start_ticks.is_none()) else {
            return true;
        };
        let Ok(stat) = self.proc.stat(image.pid) else {
            return true;
        };
        // Ticks and nanoseconds are of two clocks, which are compared to within a tick.
        let earliest = self.clock.of_ticks(stat.start_ticks.saturating_sub(1));
        if earliest > self.clock.of_monotonic(image.from_ns) {
            return false;
        }
        image.set_start(stat.start_ticks, &self.clock);
        true
    }
}

/// The job of reading a mapping's object through the process that maps it.
pub(super) fn build_job(pid: Pid, mapping: &Mapping) -> Job {
    let place = MappedPlace {
        pid,
        start: mapping.start,
        end: mapping.end,
        device_inode: mapping.object.device_inode,
        path: mapping.object.path.to_vec(),
    };
    Job::Build {
        object: Arc::clone(&mapping.object),
        place,
    }
}

pub(super) fn watch_error(pid: Pid, error: ScanError) -> WatchError {
    match error {
        ScanError::Gone => WatchError::NoSuchProcess { pid },
        ScanError::Denied { path, reason } => WatchError::PermissionDenied {
            pid,
            path,
            reason: reason.to_string(),
        },
        error @ (ScanError::Failed { .. } | ScanError::Malformed { .. }) => WatchError::Unsupported {
            reason: error.to_string(),
        },
    }
}
