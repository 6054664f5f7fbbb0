//! What the owner does besides taking records: the first scan, repairs after lost records, the builder's outcomes, and
//! what is due from time to time.

use std::sync::Arc;

use super::{
    clock::Now,
    jobs::{Failure, Identity, Job, Outcome},
    kept_pages::CompiledRows,
    objects::{Built, MappedObject},
    owner::{KnownProgram, MAX_PROGRAMS, Processes},
    process::{Identification, Image, ImageId},
    scan::{ProcStat, ScanError},
    tables::TableState,
    walker_tables::WalkerTables,
    watching::build_job,
};
use crate::kernel::records::Pid;

/// Outcomes of the builder applied by one poll.
const MAX_OUTCOMES: usize = 64;
/// Processes through which the builder tries to open one file.
const MAX_ATTEMPTS: u32 = 4;
/// Time after which a file is tried again that could not be read for a reason that passes.
pub(super) const DELAY_NS: u64 = 5_000_000_000;
/// Files that wait for that.
pub(super) const MAX_DELAYED: usize = 4096;
/// Least time between two repairs.
const REPAIR_INTERVAL_NS: u64 = 1_000_000_000;
/// Least time between two looks at all entries that wait for the builder while it works.
const REWRITE_INTERVAL_NS: u64 = 50_000_000;
/// Time between two rounds of what is due from time to time.
const HOUSEKEEPING_INTERVAL_NS: u64 = 500_000_000;

impl<T: WalkerTables> Processes<T> {
    /// Takes in all processes that run already. Called once, when lifecycle records flow.
    pub fn scan(&mut self, now: Now) -> Result<(), ScanError> {
        self.last_poll_ns = now.monotonic_ns;
        for pid in self.proc.processes()? {
            self.take_in(pid, now);
        }
        Ok(())
    }

    /// Applies what the builder found, does what is due, and writes the walker's entries that changed. Called once for
    /// each batch of records, and at least twice a second.
    pub fn poll(&mut self, now: Now) {
        for _ in 0..MAX_OUTCOMES {
            match self.builder.poll() {
                Some(outcome) => self.apply(outcome, now),
                None => break,
            }
        }
        self.rewrite_waiting(now);
        self.retry_python(now);
        self.look_at_grown(now);
        if self.repair_due && now.monotonic_ns.saturating_sub(self.last_repair_ns) >= REPAIR_INTERVAL_NS {
            self.repair(now);
        }
        if now.monotonic_ns.saturating_sub(self.last_housekeeping_ns) >= HOUSEKEEPING_INTERVAL_NS {
            self.last_housekeeping_ns = now.monotonic_ns;
            self.end_leaderless(now);
            self.expire_leases(now);
            self.retry_refused(now);
            self.keep_limit(now);
            self.relieve_builder(now);
            self.retry_delayed(now);
            self.forget_old(now);
            self.objects.prune(now.monotonic_ns);
            if self.tables.is_any_due(now.monotonic_ns) {
                self.dirty.extend(&self.watched);
            }
            self.write_dirty(now);
            self.prune_templates(now);
            self.tables.prune(&mut self.walker, now.monotonic_ns);
        }
        self.write_dirty(now);
        self.remove_strays();
        if !self.repair_due {
            self.last_poll_ns = now.monotonic_ns;
        }
    }

    /// Removes the walker's entries of processes that were sampled and should not be: the kernel copies an entry at a fork,
    /// also one that is just being removed.
    fn remove_strays(&mut self) {
        for pid in std::mem::take(&mut self.strays) {
            if !self.is_expected(pid) {
                self.walker.remove_process(pid);
            }
        }
    }

    /// Whether nothing waits for the builder.
    pub fn is_settled(&self) -> bool {
        self.builder.open() == 0 && self.dirty.is_empty() && !self.repair_due && !self.rewrite_due
    }

    /// Takes in a process as `/proc` shows it now, if it is new.
    fn take_in(&mut self, pid: Pid, now: Now) {
        let Ok(stat) = self.proc.stat(pid) else { return };
        if stat.kernel_thread || stat.zombie {
            return;
        }
        if let Some(id) = self.note_found(pid, &stat, now) {
            self.identify(id);
        }
    }

    /// The image of a process that `/proc` shows: the one known, or a new one.
    pub(super) fn note_found(&mut self, pid: Pid, stat: &ProcStat, now: Now) -> Option<ImageId> {
        if let Some(image) = self.running(pid) {
            let id = image.id;
            let is_other = image.start_ticks.is_some_and(|ticks| ticks != stat.start_ticks);
            if !is_other {
                if let Some(image) = self.images.get_mut(&id) {
                    image.set_start(stat.start_ticks, &self.clock);
                }
                return Some(id);
            }
            self.end_image(id, self.last_poll_ns, now);
        }
        // What is known of an earlier process with this id ends where this one begins to be known.
        let earlier = self
            .by_pid
            .get(&pid)
            .into_iter()
            .flatten()
            .filter_map(|id| self.images.get(id));
        let from_ns = earlier.map(|image| image.to_ns).max().unwrap_or(0);
        let start = self.clock.of_ticks(stat.start_ticks);
        let mut image = Image::new(ImageId(0), pid, from_ns, start, &stat.name);
        image.start_ticks = Some(stat.start_ticks);
        image.scanned_ns = now.monotonic_ns;
        self.insert(image)
    }

    fn apply(&mut self, outcome: Outcome, now: Now) {
        match outcome {
            Outcome::Listed { list, result } => self.apply_list(&list, result, now),
            Outcome::Built { object, pid, result } => self.apply_built(&object, pid, result, now),
            Outcome::Compiled { object, result } => {
                let content = object
                    .built()
                    .and_then(|built| Some(built.unwind.as_ref().ok()?.content));
                let Some(content) = content else { return };
                if matches!(self.tables.state(&content), Some(TableState::Refused { .. })) {
                    // Its processes were written without it.
                    self.dirty.extend(&self.watched);
                }
                match result {
                    Ok(table) => self.tables.install(&mut self.walker, content, &table, now.monotonic_ns),
                    Err(reason) => self.tables.note_failed(content, reason, now.monotonic_ns),
                }
                self.rewrite_due = true;
            }
            Outcome::PagesRead(outcome) => self.apply_pages(outcome, now),
            Outcome::StackRead { image, addresses } => self.apply_stack(image, &addresses, now),
            Outcome::Identified { image, result } => self.apply_identified(image, result, now),
            Outcome::Inspected { image, result } => self.apply_inspected(image, result, now),
        }
    }

    fn apply_built(
        &mut self,
        object: &Arc<MappedObject>,
        pid: Pid,
        result: Result<(Arc<Built>, Option<CompiledRows>), Failure>,
        now: Now,
    ) {
        match result {
            Ok((built, table)) => {
                if let (Ok(summary), Some(table)) = (&built.unwind, table) {
                    self.tables
                        .install(&mut self.walker, summary.content, &table, now.monotonic_ns);
                }
                object.fill(built);
                if object.delay().is_some() {
                    // Its processes were written without it.
                    self.dirty.extend(&self.watched);
                }
            }
            Err(failure) if failure.passes && self.delayed.len() < MAX_DELAYED => {
                object.set_delay(&failure.reason);
                self.delayed
                    .push_back((now.monotonic_ns.saturating_add(DELAY_NS), Arc::clone(object)));
                self.objects.drop_idle();
            }
            Err(Failure { reason, .. }) => {
                // Another process that maps the file may still lead to it.
                let other = self.job_of(object, Some(pid));
                if let Some(job) = other
                    && object.note_asked() < MAX_ATTEMPTS
                    && self.submit(job)
                {
                    return;
                }
                object.fail(&reason);
                self.objects.forget(object);
            }
        }
        self.rewrite_due = true;
    }

    /// The job of reading an object through a watched process that maps it, but not through this one.
    pub(super) fn job_of(&self, object: &Arc<MappedObject>, but: Option<Pid>) -> Option<Job> {
        let images = self.watched.iter().filter_map(|id| self.images.get(id));
        images.filter(|image| Some(image.pid) != but).find_map(|image| {
            let mut live = image.mappings.live();
            let place = live.find(|mapping| Arc::ptr_eq(&mapping.object, object))?;
            Some(build_job(image.pid, place))
        })
    }

    /// Looks again at all entries that waited for the builder, once it has nothing left to do or some time has passed: an
    /// object such as the C library is in all of them.
    fn rewrite_waiting(&mut self, now: Now) {
        let is_due = now.monotonic_ns.saturating_sub(self.last_rewrite_ns) >= REWRITE_INTERVAL_NS;
        if !self.rewrite_due || !is_due && self.builder.open() > 0 {
            return;
        }
        self.rewrite_due = false;
        self.last_rewrite_ns = now.monotonic_ns;
        let waiting = self
            .watched
            .iter()
            .filter(|id| self.images.get(id).is_some_and(|image| image.walker.is_waiting));
        self.dirty.extend(waiting);
    }

    pub(super) fn apply_identified(&mut self, id: ImageId, result: Result<Identity, Failure>, now: Now) {
        let services = &self.targets.services;
        let Some(image) = self.images.get_mut(&id) else { return };
        let mut is_outdated = false;
        match (result, image.identity()) {
            // A look from before it had its interpreter, overtaken by a later one.
            (Ok(identity), Some(known))
                if known.marks.python
                    && !identity.marks.python
                    && (known.is_named_by(services) || !identity.is_named_by(services)) =>
            {
                return;
            }
            (Err(failure), Some(_)) => {
                if failure.passes && image.is_running() {
                    self.put_off_identification(id, now);
                }
                return;
            }
            (Ok(identity), _) => {
                // Services were renamed while it was looked at.
                is_outdated = !identity.is_named_by(services);
                if let Some(program) = &image.program
                    && *program.path == *identity.executable
                {
                    if self.programs.len() >= MAX_PROGRAMS {
                        self.programs.clear();
                    }
                    let known = KnownProgram {
                        path: program.path.clone(),
                        marks: identity.marks,
                        seen_ns: now.monotonic_ns,
                    };
                    self.programs.insert(program.device_inode, known);
                }
                image.identification = Identification::Known(Arc::new(identity));
            }
            (Err(failure), None) => {
                image.identification = Identification::Failed(failure.reason);
                if failure.passes {
                    self.put_off_identification(id, now);
                }
            }
        }
        if self.images.get(&id).is_some_and(Image::is_running) {
            self.dirty.insert(id);
            if is_outdated {
                self.identify_again(id, now);
            }
            self.decide(id, now);
        }
    }

    /// Ends processes whose first thread has ended once no other runs.
    fn end_leaderless(&mut self, now: Now) {
        for id in self.leaderless.iter().copied().collect::<Vec<_>>() {
            if !self.runs_on(id, now.monotonic_ns) {
                self.end_image(id, now.monotonic_ns, now);
            }
            if self.images.get(&id).is_none_or(|image| !image.is_running()) {
                self.leaderless.remove(&id);
            }
        }
    }

    /// Reads all processes again, because records were lost. What changed is taken to have changed when records were last
    /// known to be whole.
    fn repair(&mut self, now: Now) {
        let Ok(found) = self.proc.processes() else { return };
        self.repair_due = false;
        self.last_repair_ns = now.monotonic_ns;
        self.tallies.repairs += 1;
        let since_ns = self.last_poll_ns;
        let running: Vec<ImageId> = self
            .images
            .values()
            .filter(|image| image.is_running())
            .map(|image| image.id)
            .collect();
        for id in running {
            if let Some(image) = self.images.get_mut(&id) {
                // What was lost may have told of a thread.
                image.is_alone = false;
            }
            self.repair_image(id, since_ns, now);
        }
        for pid in found {
            if self.running(pid).is_none() {
                self.take_in(pid, now);
            }
        }
        // Children of forks that were not heard of have entries that nobody asked for.
        for pid in self.walker.watched() {
            match self.running(pid).map(|image| image.id) {
                Some(id) => {
                    if let Some(image) = self.images.get_mut(&id) {
                        image.walker.has_entry = true;
                        image.walker.must_write = true;
                    }
                    self.dirty.insert(id);
                }
                None => self.walker.remove_process(pid),
            }
        }
    }

    fn repair_image(&mut self, id: ImageId, since_ns: u64, now: Now) {
        let Some(image) = self.images.get(&id) else { return };
        let (pid, is_leaderless) = (image.pid, image.leader_ended);
        let stat = match self.proc.stat(pid) {
            Ok(stat) if stat.zombie && stat.threads <= 1 => return self.end_image(id, since_ns, now),
            Ok(stat) => stat,
            Err(ScanError::Gone) => return self.end_image(id, since_ns, now),
            // It may well run: the daemon may have no descriptor left to look with.
            Err(_) => return,
        };
        if image.start_ticks.is_some_and(|ticks| ticks != stat.start_ticks) {
            // Its successor is taken in as any other new process.
            return self.end_image(id, since_ns, now);
        }
        if stat.zombie {
            return;
        }
        if is_leaderless {
            // Another thread took the first one's place, which it does to execute a program.
            return self.repair_missed_exec(id, &stat, since_ns, now);
        }
        let executable = self.proc.executable(pid).ok();
        if executable.is_some()
            && image
                .executable()
                .is_some_and(|known| executable.as_deref() != Some(known))
        {
            return self.repair_missed_exec(id, &stat, since_ns, now);
        }
        if !image.tracked {
            return;
        }
        self.read_again(id, since_ns, now);
    }

    /// The process runs another program than is known: an exec was missed.
    fn repair_missed_exec(&mut self, id: ImageId, stat: &ProcStat, since_ns: u64, now: Now) {
        let Some(pid) = self.images.get(&id).map(|image| image.pid) else {
            return;
        };
        let carried = self.replace_image(id, since_ns, now);
        let mut image = Image::new(ImageId(0), pid, since_ns, carried.start, &stat.name);
        image.start_ticks = Some(stat.start_ticks);
        image.counts = carried.counts;
        image.watch = carried.watch;
        image.walker.has_entry = carried.has_entry;
        image.walker.must_write = true;
        image.scanned_ns = now.monotonic_ns;
        let Some(id) = self.insert(image) else { return };
        self.identify(id);
        self.refresh_watch(id, now);
    }
}
