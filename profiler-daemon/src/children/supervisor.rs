//! The process between the daemon and a program: it gives up its rights, starts the program, and ends what it began.
//!
//! In: arguments (the daemon's process, the time, the program). Out: one line on standard error that says how the program
//! ended. It runs on one thread, because rights are given up by threads.

use std::{
    ffi::OsString,
    fs, io,
    io::Write as _,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions, getpid, getppid, getpriority_process, kill_process,
        kill_process_group, pidfd_open, set_child_subreaper, setpriority_process, setrlimit, wait as wait_for_any,
    },
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

use super::{ENVIRONMENT, End, SUPERVISE};
use crate::kernel;

/// For how long it kills what does not end.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// Time between two looks at what is still there.
const KILL_INTERVAL: Duration = Duration::from_millis(5);
/// Most descriptors of a program.
const MAX_DESCRIPTORS: u64 = 1024;
/// What the kernel adds when it looks for a process to end.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";
/// Capabilities that a kernel may know, by number.
const CAPABILITIES: u32 = 64;

/// Why there is nothing to supervise.
#[derive(Debug, thiserror::Error)]
enum SupervisorError {
    #[error("the arguments make no sense")]
    Arguments,
    #[error("{what}: {source}")]
    Call { what: &'static str, source: io::Error },
    #[error("not all capabilities can be given up")]
    Capabilities,
    #[error("the daemon is no more")]
    Orphan,
}

fn call<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> SupervisorError {
    move |error| SupervisorError::Call {
        what,
        source: error.into(),
    }
}

/// What to supervise.
#[derive(Debug)]
struct Request {
    daemon: Pid,
    timeout: Duration,
    argv: Vec<OsString>,
}

impl Request {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut number = || arguments.next()?.to_str()?.parse::<u64>().ok();
        let (daemon, milliseconds) = (number()?, number()?);
        let argv: Vec<_> = arguments.collect();
        argv.first()?;
        Some(Self {
            daemon: Pid::from_raw(i32::try_from(daemon).ok()?)?,
            timeout: Duration::from_millis(milliseconds),
            argv,
        })
    }
}

/// Supervises a program if these are the arguments (with the program's own name first) of a supervisor, and says how this
/// process ends. To be asked first thing, before there is a second thread.
pub fn supervise_if_asked(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next()? != SUPERVISE {
        return None;
    }
    let result = match Request::parse(arguments) {
        Some(request) => supervise(&request),
        None => Err(SupervisorError::Arguments),
    };
    let (line, code) = match result {
        Ok((end, left_behind)) => (verdict(end, left_behind), ExitCode::SUCCESS),
        Err(error) => (format!("not run: {error}"), ExitCode::FAILURE),
    };
    // Nobody listens when the daemon is no more.
    writeln!(io::stderr(), "{line}").unwrap_or_default();
    Some(code)
}

fn verdict(end: End, left_behind: u32) -> String {
    match end {
        End::Exited(status) => format!("exited {status} {left_behind}"),
        End::Signalled(signal) => format!("signal {signal} {left_behind}"),
        End::TimedOut => format!("timeout 0 {left_behind}"),
    }
}

/// How the program ended and how many processes it left behind, of a supervisor's last line; or why it did not run.
pub(super) fn parse_verdict(text: &str) -> Result<(End, u32), String> {
    let line = text.lines().last().unwrap_or_default();
    if let Some(reason) = line.strip_prefix("not run: ") {
        return Err(reason.to_owned());
    }
    let mut words = line.split(' ');
    let kind = words.next();
    let mut number = || words.next()?.parse::<i32>().ok();
    let (value, left_behind) = (number(), number().and_then(|count| u32::try_from(count).ok()));
    match (kind, value, left_behind) {
        (Some("exited"), Some(status), Some(count)) => Ok((End::Exited(status), count)),
        (Some("signal"), Some(signal), Some(count)) => Ok((End::Signalled(signal), count)),
        (Some("timeout"), Some(_), Some(count)) => Ok((End::TimedOut, count)),
        _ => Err("its supervisor ended without a word".to_owned()),
    }
}

fn supervise(request: &Request) -> Result<(End, u32), SupervisorError> {
    // What the program leaves behind becomes a child of this process.
    set_child_subreaper(Some(getpid())).map_err(call("cannot adopt what a program leaves behind"))?;
    let daemon = pidfd_open(request.daemon, PidfdFlags::empty()).map_err(call("cannot watch the daemon"))?;
    if getppid() != Some(request.daemon) {
        return Err(SupervisorError::Orphan);
    }
    be_ordinary();
    kernel::close_descriptors_at_exec().map_err(call("cannot close descriptors"))?;
    give_up_rights()?;
    let mut program = start(&request.argv)?;
    let pid = Pid::from_child(&program);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(call("cannot watch the program"))?;
    let in_time = wait(&pidfd, &daemon, Instant::now() + request.timeout)?;
    let ended = if in_time {
        program.wait().map_err(call("cannot wait for the program"))?
    } else {
        kill(&mut program, pid)?
    };
    let left_behind = end_others(pid);
    let end = match (in_time, ended.code(), ended.signal()) {
        (false, ..) => End::TimedOut,
        (true, Some(status), _) => End::Exited(status),
        (true, None, signal) => End::Signalled(signal.unwrap_or_default()),
    };
    Ok((end, left_behind))
}

/// Gives up what the daemon has because it matters more than others, as far as this may be done.
fn be_ordinary() {
    let limit = |most| Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    // Each is a courtesy: where it is refused, the program has a little more or less than others.
    if getpriority_process(None).is_ok_and(|priority| priority < 0) {
        setpriority_process(None, 0).unwrap_or_default();
    }
    setrlimit(Resource::Core, limit(0)).unwrap_or_default();
    setrlimit(Resource::Nofile, limit(MAX_DESCRIPTORS)).unwrap_or_default();
    let oom_score = fs::read_to_string(OOM_SCORE).unwrap_or_default();
    if oom_score.starts_with('-') {
        fs::write(OOM_SCORE, "0").unwrap_or_default();
    }
}

/// Gives up every capability for good.
fn give_up_rights() -> Result<(), SupervisorError> {
    set_no_new_privs(true).map_err(call("cannot give up new privileges"))?;
    for number in 0..CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            // Only who may set capabilities may do this. Without new privileges nothing can be gained of what is left.
            Ok(true) => remove_capability_from_bounding_set(capability).unwrap_or_default(),
            Ok(false) => {}
            // The kernel knows no more.
            Err(_) => break,
        }
    }
    clear_ambient_capability_set().map_err(call("cannot give up ambient capabilities"))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(call("cannot give up capabilities"))?;
    match capabilities(None) {
        Ok(left) if left == none => Ok(()),
        _ => Err(SupervisorError::Capabilities),
    }
}

fn start(argv: &[OsString]) -> Result<Child, SupervisorError> {
    let stdout = || io::stdout().as_fd().try_clone_to_owned().map(Stdio::from);
    let (program, arguments) = argv.split_first().ok_or(SupervisorError::Arguments)?;
    Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(ENVIRONMENT)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::inherit())
        .stdout(stdout().map_err(call("cannot pass on standard output"))?)
        .stderr(stdout().map_err(call("cannot pass on standard output"))?)
        .spawn()
        .map_err(call("it does not start"))
}

/// Waits for the program. False when its time is over, or the daemon is no more.
fn wait(program: &OwnedFd, daemon: &OwnedFd, deadline: Instant) -> Result<bool, SupervisorError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_too_long| SupervisorError::Arguments)?;
        let mut polled = [PollFd::new(program, PollFlags::IN), PollFd::new(daemon, PollFlags::IN)];
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(!polled[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(call("cannot wait for the program")(error)),
        }
    }
}

/// Ends the program and its process group.
fn kill(program: &mut Child, pid: Pid) -> Result<ExitStatus, SupervisorError> {
    let deadline = Instant::now() + KILL_PATIENCE;
    loop {
        // A group that is gone is what is wanted.
        kill_process_group(pid, Signal::KILL).unwrap_or_default();
        program.kill().unwrap_or_default();
        match program.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(KILL_INTERVAL),
            Ok(None) => return Err(call("cannot end the program")(io::Error::from(io::ErrorKind::TimedOut))),
            Err(error) => return Err(call("cannot wait for the program")(error)),
        }
    }
}

/// Ends what the program left behind, and says how many processes that were.
fn end_others(group: Pid) -> u32 {
    let mut count = 0;
    let deadline = Instant::now() + KILL_PATIENCE;
    // A group that is gone is what is wanted.
    kill_process_group(group, Signal::KILL).unwrap_or_default();
    while Instant::now() < deadline {
        match wait_for_any(WaitOptions::NOHANG) {
            Ok(Some(_)) => count += 1,
            Ok(None) => {
                for child in children() {
                    kill_process(child, Signal::KILL).unwrap_or_default();
                }
                std::thread::sleep(KILL_INTERVAL);
            }
            Err(rustix::io::Errno::INTR) => {}
            // There are no children any more.
            Err(_) => break,
        }
    }
    count
}

/// The children of this process: those whose parent it is by their `stat`.
fn children() -> Vec<Pid> {
    let own = getpid();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| parent(*pid) == Some(own)).collect()
}

/// Field 4 of `/proc/PID/stat`, behind the name, which may hold anything (proc_pid_stat(5)).
fn parent(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Pid::from_raw(rest.split(' ').nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_read_as_it_was_written() {
        for end in [End::Exited(0), End::Exited(255), End::Signalled(9), End::TimedOut] {
            assert_eq!(parse_verdict(&verdict(end, 3)), Ok((end, 3)));
        }
        assert_eq!(parse_verdict("not run: it is gone\n"), Err("it is gone".to_owned()));
        for nonsense in ["", "exited", "exited x 0", "exited 0 -1", "gone 1 1"] {
            parse_verdict(nonsense).unwrap_err();
        }
    }

    #[test]
    fn only_its_own_arguments_make_a_supervisor() {
        let arguments = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(supervise_if_asked(arguments(&["daemon"])).is_none());
        assert!(supervise_if_asked(arguments(&["daemon", "--config", "--child"])).is_none());
        let parse = |words: &[&str]| Request::parse(arguments(words).into_iter());
        assert!(parse(&["1", "2"]).is_none());
        assert!(parse(&["x", "2", "/bin/true"]).is_none());
        assert!(parse(&["0", "2", "/bin/true"]).is_none());
        let request = parse(&["7", "1500", "/bin/true", "--child"]).unwrap();
        assert_eq!(request.daemon.as_raw_nonzero().get(), 7);
        assert_eq!(request.timeout, Duration::from_millis(1500));
        assert_eq!(request.argv, ["/bin/true", "--child"]);
    }

    #[test]
    fn the_parent_of_a_process_is_known() {
        assert_eq!(parent(getpid()), getppid());
    }
}
