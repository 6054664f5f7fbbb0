//! Processes as the API lists them.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    objects::{MappedObject, ObjectKind},
    owner::Processes,
    process::{Identification, Image},
    scan::ScanError,
    service,
    walker_tables::{Backing, WalkerTables},
    watching::Judgement,
};
use crate::{
    command::{InterpreterState, InterpreterSummary, Member, ProcessError, ProcessSummary, WatchState},
    kernel::records::Pid,
};

/// Limitations of one process that are named; the rest are counted.
const MAX_LIMITATIONS: usize = 32;

impl<T: WalkerTables> Processes<T> {
    /// How many processes are watched.
    pub fn watched_count(&self) -> usize {
        self.watched.len()
    }

    /// All watched processes by their ids with those left out for the budget, or one that need not be watched.
    pub fn list(&mut self, pid: Option<Pid>) -> Result<Vec<ProcessSummary>, ProcessError> {
        if let Some(pid) = pid {
            return Ok(vec![self.describe(pid)?]);
        }
        let watched = self.watched.iter().filter_map(|id| self.images.get(id));
        let left_out = self
            .images
            .values()
            .filter(|image| image.is_running() && image.watch.left_out.is_some() && !self.watched.contains(&image.id));
        let mut listed: Vec<&Image> = watched.chain(left_out).collect();
        listed.sort_unstable_by_key(|image| image.pid);
        // One that ended a moment ago has no files in /proc any more; what is known of it is shown.
        Ok(listed.into_iter().map(|image| self.summary(image)).collect())
    }

    /// The watched processes that run and whose start is known, by their ids.
    pub fn members(&self) -> Vec<Member> {
        let running = self.watched.iter().filter_map(|id| self.images.get(id));
        let running = running.filter(|image| image.is_running());
        let mut members: Vec<Member> = running
            .filter_map(|image| {
                Some(Member {
                    pid: image.pid,
                    start_ticks: image.start_ticks?,
                    executed: image.executed,
                    name: Arc::clone(&image.name),
                    service: image
                        .identity()
                        .map_or_else(|| Arc::from(""), |identity| Arc::clone(&identity.service)),
                })
            })
            .collect();
        members.sort_unstable_by_key(|member| member.pid);
        members
    }

    fn describe(&mut self, pid: Pid) -> Result<ProcessSummary, ProcessError> {
        let stat = self.proc.stat(pid).map_err(|error| process_error(pid, error))?;
        if stat.zombie && stat.threads <= 1 {
            return Err(ProcessError::NoSuchProcess { pid });
        }
        let known = self
            .running(pid)
            .filter(|image| image.start_ticks.is_none_or(|ticks| ticks == stat.start_ticks));
        if let Some(image) = known {
            return Ok(self.summary(image));
        }
        let start = self.clock.of_ticks(stat.start_ticks);
        let image = Image::new(super::process::ImageId(0), pid, 0, start, &stat.name);
        let mut summary = self.summary(&image);
        if stat.kernel_thread {
            "a kernel thread".clone_into(&mut summary.watch_reason);
        }
        Ok(summary)
    }

    fn summary(&self, image: &Image) -> ProcessSummary {
        let pid = image.pid;
        let executable = match image.identity() {
            Some(identity) => identity.executable.clone(),
            None => self.proc.executable(pid).unwrap_or_default(),
        };
        let command_line = self.proc.command_line(pid).unwrap_or_default();
        let service: Arc<str> = match image.identity() {
            Some(identity) => Arc::clone(&identity.service),
            None => {
                let known = service::Known {
                    cgroup: &self.proc.cgroup(pid).unwrap_or_default(),
                    application: None,
                    executable: &executable,
                    arguments: &command_line,
                };
                service::name(&self.targets.services, known).into()
            }
        };
        let user_id = match image.identity() {
            Some(identity) => identity.user_id,
            None => self.proc.user_id(pid).unwrap_or_default(),
        };
        let (samples, rooted_samples) = image.counts.get();
        let (watch_state, watch_reason) = self.watch_state(image);
        let mappings = image.mappings.live();
        ProcessSummary {
            pid,
            start: image.start,
            name: Arc::clone(&image.name),
            executable: String::from_utf8_lossy(&executable).into_owned(),
            command_line,
            runtime: image.runtime(),
            service,
            watch_state,
            watch_reason,
            user_id,
            mappings: mappings.len() as u32,
            mappings_with_rows: rows_written(image),
            samples,
            rooted_samples,
            python_samples: image.counts.python(),
            interpreter: image.python.summary(),
            limitations: self.limitations(image),
        }
    }

    /// Whether a watched process still waits for rows: its stacks end early until it has them.
    pub fn is_loading(&self, pid: Pid) -> bool {
        self.running(pid)
            .is_some_and(|image| self.watched.contains(&image.id) && !image.is_whole())
    }

    fn watch_state(&self, image: &Image) -> (WatchState, String) {
        if self.watched.contains(&image.id) {
            let reason = if image.watch.discovered {
                "discovered"
            } else {
                "requested"
            };
            return (
                if image.is_whole() {
                    WatchState::Watched
                } else {
                    WatchState::Pending
                },
                reason.to_owned(),
            );
        }
        let reason = match (&image.watch.refused, self.judge(image)) {
            (Some(refusal), _) => refusal.reason.clone(),
            (None, _) if let Some(reason) = &image.watch.left_out => reason.to_string(),
            (None, Judgement::Leave(reason)) => match &image.identification {
                Identification::Failed(detail) => format!("{reason}: {detail}"),
                _ => reason.to_owned(),
            },
            (None, Judgement::Watch | Judgement::Unknown) => "not looked at yet".to_owned(),
        };
        (WatchState::NotWatched, reason)
    }

    /// Parts of a process that cannot be walked or named, with their reasons.
    fn limitations(&self, image: &Image) -> Vec<String> {
        let mut found = BTreeSet::new();
        for mapping in image.mappings.live() {
            if let Some(limitation) = self.limitation_of(&mapping.object) {
                found.insert(limitation);
            } else if let Some(built) = mapping.object.built()
                && let Ok(summary) = &built.unwind
            {
                let bias = built.segments.bias(mapping.start, mapping.file_offset);
                if bias
                    .and_then(|bias| summary.covered(mapping.start, mapping.end, bias))
                    .is_none()
                {
                    found.insert(format!(
                        "{}: its unwind table does not cover what is mapped",
                        mapping.object.name
                    ));
                }
            }
        }
        if let Some(InterpreterSummary {
            state: InterpreterState::Refused,
            object,
            reason,
            ..
        }) = image.python.summary()
        {
            found.insert(format!("{object}: Python stacks are not walked: {reason}"));
        }
        let left_out = image.mappings.left_out();
        if left_out > 0 {
            found.insert(format!(
                "{left_out} executable mappings beyond those with the lowest addresses are left out"
            ));
        }
        if image.maps_truncated {
            found.insert("its list of mappings is too long to be read whole".to_owned());
        }
        if image.leader_ended {
            found.insert("its first thread has ended: new mappings are seen only as they are reported".to_owned());
        }
        let surplus = found.len().saturating_sub(MAX_LIMITATIONS);
        let mut limitations: Vec<String> = found.into_iter().take(MAX_LIMITATIONS).collect();
        if surplus > 0 {
            limitations.push(format!("and {surplus} more"));
        }
        limitations
    }

    fn limitation_of(&self, object: &MappedObject) -> Option<String> {
        if !matches!(object.kind, ObjectKind::File | ObjectKind::Vdso) {
            return None;
        }
        if let Some(reason) = object.delay().filter(|_| object.is_pending()) {
            return Some(format!("{}: {reason}", object.name));
        }
        let reason = match &object.built()?.unwind {
            Err(reason) => reason.clone(),
            Ok(summary) => self.limitation_of_rows(&summary.content)?,
        };
        Some(format!("{}: {reason}", object.name))
    }
}

/// Mappings that the walker has rows for.
fn rows_written(image: &Image) -> u32 {
    let rows = image
        .walker
        .written
        .iter()
        .filter(|mapping| matches!(mapping.backing, Backing::Rows(_)));
    rows.count() as u32
}

fn process_error(pid: Pid, error: ScanError) -> ProcessError {
    match error {
        ScanError::Denied { path, reason } => ProcessError::PermissionDenied {
            pid,
            path,
            reason: reason.to_string(),
        },
        // A file of /proc that is not of its format belongs to a process that is just ending.
        _ => ProcessError::NoSuchProcess { pid },
    }
}
