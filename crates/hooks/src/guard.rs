//! Whom a hook may act on: the rules that nothing switches off, then the hook's own list.
//!
//! The same checks are made when a target is chosen, when the change is prepared, and once more by whoever makes it.

use std::collections::BTreeSet;

use profiler_readings::{Scope, Subject};

use crate::{
    AllowList, Candidate, Group, Hook, Kind, Process, Reach, Refusal, Target, TargetId,
    glob::{glob, glob_anywhere},
    hook::asks,
};

/// The user that may do anything.
const ROOT: u32 = 0;
/// Programs that keep a host running and reachable: by the last part of the executable, or by the process's name.
const PROTECTED_PROGRAMS: [&str; 5] = ["init", "sshd*", "systemd", "systemd-*", "(sd-*"];
/// Where the service manager keeps its own.
const PROTECTED_EXECUTABLES: [&str; 2] = ["/lib/systemd/**", "/usr/lib/systemd/**"];
/// Units of theirs.
const PROTECTED_UNITS: [&str; 5] = ["init.scope", "ssh.service", "ssh@*", "sshd*", "systemd-*"];
/// Control groups that hold a service or less: by the end of the last part of their paths.
const NARROW_GROUPS: [&str; 2] = [".service", ".scope"];

/// Whether a hook may act on a target. `ourselves` are the processes of the profiler and all of their ancestors.
///
/// # Errors
/// Why not.
pub fn check(hook: &Hook, target: &Target, ourselves: &BTreeSet<u32>) -> Result<(), Refusal> {
    match (hook.kind.reach(), target) {
        (Reach::Anything, Target::Host) => Ok(()),
        (Reach::Anything | Reach::Process, Target::Process(process)) => check_process(hook, process, ourselves),
        (Reach::Anything | Reach::Group, Target::Group(group)) => check_group(hook, group, ourselves),
        (Reach::Process, Target::Host | Target::Group(_)) | (Reach::Group, Target::Host | Target::Process(_)) => {
            Err(Refusal::WrongKind)
        }
    }
}

/// Whether a hook may act on a target that was chosen before and was now looked at again.
///
/// # Errors
/// Why not. A target with the id of the one that was chosen is another if it began at another time.
pub fn check_again(hook: &Hook, chosen: TargetId, seen: &Target, ourselves: &BTreeSet<u32>) -> Result<(), Refusal> {
    if seen.id() != chosen {
        return Err(Refusal::Reused);
    }
    check(hook, seen, ourselves)
}

/// Chooses the largest contributor that a hook may act on. What is about the host as a whole needs nobody, unless the hook
/// says whom it is about; somebody who contributes less than `min_share` to a reading of the host is left alone.
///
/// # Errors
/// Nobody is acted on, and why: if nobody is allowed, why the largest contributor is not.
pub(crate) fn choose(
    hook: &Hook,
    about: &Subject,
    mut candidates: Vec<Candidate>,
    ourselves: &BTreeSet<u32>,
    min_share: f64,
) -> Result<Target, Refusal> {
    let is_shared = is_shared(about);
    if is_shared && hook.kind.reach() == Reach::Anything && hook.allow.is_empty() {
        return Ok(Target::Host);
    }
    let part = |candidate: &Candidate| {
        if candidate.share.is_finite() {
            candidate.share
        } else {
            0.0
        }
    };
    candidates.sort_by(|one, other| {
        let by_share = part(other).total_cmp(&part(one));
        by_share.then_with(|| one.target.id().cmp(&other.target.id()))
    });
    let mut first_refusal = None;
    for candidate in candidates {
        let checked = is_meant(about, &candidate.target).and_then(|()| check(hook, &candidate.target, ourselves));
        match checked {
            // Those that follow contribute less.
            Ok(()) if is_shared && part(&candidate) < min_share => return Err(Refusal::TooSmall),
            Ok(()) => return Ok(candidate.target),
            Err(refusal) => {
                first_refusal.get_or_insert(refusal);
            }
        }
    }
    Err(first_refusal.unwrap_or(Refusal::Nobody))
}

/// Whether a reading is about the whole host or a part of it that everybody shares, so that somebody has to be chosen.
fn is_shared(about: &Subject) -> bool {
    match about.scope() {
        Scope::Host | Scope::Core | Scope::Disk | Scope::Network | Scope::Filesystem | Scope::Gpu => true,
        Scope::Service | Scope::Process | Scope::ControlGroup => false,
    }
}

/// Whether a target is the process that a reading is about, where it is about one.
fn is_meant(about: &Subject, target: &Target) -> Result<(), Refusal> {
    match (about, target) {
        (Subject::Process { pid, start_ticks }, Target::Process(process)) if process.identity.pid == *pid => {
            if process.identity.start_ticks == *start_ticks {
                Ok(())
            } else {
                Err(Refusal::Reused)
            }
        }
        (Subject::Process { .. }, Target::Process(_)) => Err(Refusal::Nobody),
        _ => Ok(()),
    }
}

fn check_group(hook: &Hook, group: &Group, ourselves: &BTreeSet<u32>) -> Result<(), Refusal> {
    let is_narrow = |name: &str| NARROW_GROUPS.iter().any(|end| name.ends_with(end));
    if !group.path.rsplit('/').next().is_some_and(is_narrow) {
        return Err(Refusal::GroupTooWide);
    }
    if !group.is_whole {
        return Err(Refusal::GroupNotWhole);
    }
    if group.members.is_empty() {
        return Err(Refusal::Nobody);
    }
    let mut members = group.members.iter();
    members.try_for_each(|member| check_unprotected(member, ourselves))?;
    group.members.iter().try_for_each(|member| check_listed(hook, member))
}

fn check_process(hook: &Hook, process: &Process, ourselves: &BTreeSet<u32>) -> Result<(), Refusal> {
    check_unprotected(process, ourselves)?;
    check_listed(hook, process)
}

/// What the hook itself says.
fn check_listed(hook: &Hook, process: &Process) -> Result<(), Refusal> {
    if !hook.allow.is_empty() {
        check_allowed(&hook.allow, process)?;
    } else if hook.kind.reach() != Reach::Anything {
        return Err(Refusal::NoAllowList);
    }
    match hook.kind {
        Kind::Signal(signal) => check_signal(hook, signal, process),
        _ => Ok(()),
    }
}

/// What holds whatever a hook says.
fn check_unprotected(process: &Process, ourselves: &BTreeSet<u32>) -> Result<(), Refusal> {
    if process.identity.pid <= 1 {
        return Err(Refusal::FirstProcess);
    }
    if process.is_kernel_thread {
        return Err(Refusal::KernelThread);
    }
    if ourselves.contains(&process.identity.pid) {
        return Err(Refusal::Ourselves);
    }
    if process.executable.is_empty() {
        return Err(Refusal::UnknownProgram);
    }
    let program = last_part(&process.executable);
    let is_program = |pattern: &&str| glob(pattern, program) || glob_anywhere(pattern, process.name.as_bytes());
    let is_executable = |pattern: &&str| glob(pattern, &process.executable);
    let is_unit = |unit: &str| {
        PROTECTED_UNITS
            .iter()
            .any(|pattern| glob_anywhere(pattern, unit.as_bytes()))
    };
    let is_protected = PROTECTED_PROGRAMS.iter().any(is_program)
        || PROTECTED_EXECUTABLES.iter().any(is_executable)
        || process.unit.as_deref().is_some_and(is_unit);
    if is_protected { Err(Refusal::Protected) } else { Ok(()) }
}

fn check_allowed(allow: &AllowList, process: &Process) -> Result<(), Refusal> {
    let unit = process.unit.as_deref().unwrap_or_default().as_bytes();
    let is_unit = |pattern: &String| !unit.is_empty() && glob_anywhere(pattern, unit);
    if !allow.units.is_empty() && !allow.units.iter().any(is_unit) {
        return Err(Refusal::UnitNotAllowed);
    }
    let is_executable = |pattern: &String| {
        if pattern.contains('/') {
            glob(pattern, &process.executable)
        } else {
            glob(pattern, last_part(&process.executable))
        }
    };
    if !allow.executables.is_empty() && !allow.executables.iter().any(is_executable) {
        return Err(Refusal::ExecutableNotAllowed);
    }
    let is_refused = |uid: &u32| match allow.uids.as_slice() {
        [] => *uid == ROOT,
        allowed => !allowed.contains(uid),
    };
    match process.uids.iter().copied().find(is_refused) {
        Some(uid) => Err(Refusal::UserNotAllowed { uid }),
        None => Ok(()),
    }
}

fn check_signal(hook: &Hook, signal: u8, process: &Process) -> Result<(), Refusal> {
    if hook.allow_disruptive {
        return Ok(());
    }
    if !asks(signal) {
        return Err(Refusal::SignalNotAllowed);
    }
    let bit = 1_u64 << (signal - 1);
    if process.caught_signals & bit == 0 {
        return Err(Refusal::SignalNotCaught);
    }
    Ok(())
}

/// What comes after the last slash of a path.
fn last_part(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
