//! Views of the samples of Python programs: only those of threads that held the interpreter's lock, and each thread apart.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use profiler_tests::{daemon::Daemon, interpreters::Interpreter, programs::wait_for};

use crate::{
    SAMPLES_WITHIN,
    profile::{Profile, Stack},
};

/// Exit code of the command line where no sample is left to be shown.
const NO_SAMPLES: i32 = 3;
/// What runs Python code alone is inside of this function, in every shape.
const PURE: &str = "spend";
/// Those who wait for the lock use a CPU while they ask for it, with the same function on their stack.
const PURE_PERCENT: f64 = 50.0;
/// What a module in C does with the lock, and without it.
const LOCKED: [&str; 2] = ["native_spin_locked", "native_spin"];
const UNLOCKED: [&str; 2] = ["native_spin_unlocked", "native_spin"];
/// Of a module's samples with the lock: nobody else can have taken it, or given it back.
const LOCKED_PERCENT: f64 = 95.0;
const UNLOCKED_PERCENT: f64 = 5.0;
/// Of the samples of a known thread.
const NAMED_PERCENT: f64 = 99.0;
/// Threads of a program of shapes that are seen at least, of those that work.
const SEEN_THREADS: usize = 3;
/// How the function is called that a shape does again and again, before the name of the shape.
const TURN: &str = "turn_";

/// Views of the same samples: those since `start`, until now.
fn of_the_same(daemon: &Daemon, pid: u32, start: Instant, views: &[&[&str]]) -> Vec<Profile> {
    let now = SystemTime::now();
    // To the second; an end in the future is that of the answer.
    let [from, to] = [now - start.elapsed(), now + Duration::from_secs(1)].map(|time| {
        let since_1970 = time.duration_since(UNIX_EPOCH).unwrap();
        format!("@{}", since_1970.as_secs())
    });
    let span = ["--from", &from, "--to", &to];
    // The last samples may be named between two answers.
    wait_for("views of the same samples", SAMPLES_WITHIN, || {
        let documents = views
            .iter()
            .map(|view| daemon.profile(pid, &[&span[..], view].concat()));
        let profiles = documents.map(|document| document.as_ref().map(Profile::from_view));
        let profiles: Vec<Profile> = profiles.collect::<Option<_>>()?;
        let first = profiles[0].samples;
        let are_same = profiles.iter().all(|profile| profile.samples == first);
        are_same.then_some(profiles)
    })
}

/// All samples of a process in some time, and those of threads that held the lock.
#[derive(Debug)]
pub(super) struct WithLock {
    all: Profile,
    held: Profile,
}

impl WithLock {
    /// Those since `start`.
    pub(super) fn since(daemon: &Daemon, pid: u32, start: Instant) -> Self {
        let mut profiles = of_the_same(daemon, pid, start, &[&[], &["--gil"]]).into_iter();
        let mut next = || profiles.next().unwrap();
        Self {
            all: next(),
            held: next(),
        }
    }

    /// Of the samples for which `wanted` holds, the share with the lock in percent; none if there are no such samples.
    pub(super) fn percent(&self, what: &str, wanted: impl Fn(&Stack) -> bool) -> Option<f64> {
        let (held, all) = (self.held.count(&wanted), self.all.count(&wanted));
        println!("{what}: {held} of {all} with the lock");
        (all > 0).then(|| held as f64 * 100.0 / all as f64)
    }
}

/// Holds what is told of the lock since `start` against what is known of the program `shapes.py`.
pub(super) fn assert_lock_is_seen(daemon: &Daemon, pid: u32, start: Instant, interpreter: &Interpreter) {
    if interpreter.free_threaded {
        let last = format!("{}ms", start.elapsed().as_millis());
        let output = daemon.flamegraph(pid, &["--last", &last, "--gil", "--format", "json"]);
        assert_eq!(output.code, Some(NO_SAMPLES), "there is no lock to hold: {output:?}");
        return;
    }
    let with_lock = WithLock::since(daemon, pid, start);
    let pure = with_lock.percent("Python", |stack| stack.has(PURE));
    assert!(pure >= Some(PURE_PERCENT), "{pure:?} % of Python code had the lock");
    // Where there are no headers there is no module in C.
    let locked = with_lock.percent("C that keeps it", |stack| stack.has_in_order(&LOCKED));
    let is_held = locked.is_none_or(|share| share >= LOCKED_PERCENT);
    assert!(is_held, "{locked:?} % of C code that keeps the lock had it");
    let unlocked = with_lock.percent("C that gives it back", |stack| stack.has_in_order(&UNLOCKED));
    let is_released = unlocked.is_none_or(|share| share <= UNLOCKED_PERCENT);
    assert!(is_released, "{unlocked:?} % of C code that gives the lock back had it");
}

/// Each shape of the program `shapes.py` but the last has a thread of its name; the last has the first thread.
pub(super) fn assert_threads_are_named(daemon: &Daemon, pid: u32, start: Instant, shapes: &[&str]) {
    let profiles = of_the_same(daemon, pid, start, &[&["--threads"]]);
    let profile = &profiles[0];
    let first_thread = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    let is_of = |thread: &str, shape: &str| match shapes.last() == Some(&shape) {
        true => thread == first_thread.trim_end(),
        false => thread == shape,
    };
    profile.assert_share(
        "samples of shapes under the name of their thread",
        NAMED_PERCENT,
        |stack| shape_of(stack).is_some(),
        |stack| {
            let thread = stack.outermost().filter(|frame| frame.kind == "thread");
            let both = thread.zip(shape_of(stack));
            both.is_some_and(|(thread, shape)| is_of(&thread.function, shape))
        },
    );
    let seen: BTreeSet<&str> = profile.stacks.iter().filter_map(shape_of).collect();
    assert!(seen.len() >= SEEN_THREADS, "only {seen:?}");
}

/// The shape whose turn a stack is from.
fn shape_of(stack: &Stack) -> Option<&str> {
    let mut functions = stack.frames.iter().filter(|frame| frame.kind == "python");
    functions.find_map(|frame| frame.function.strip_prefix(TURN))
}
