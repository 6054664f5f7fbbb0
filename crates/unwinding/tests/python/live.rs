//! Running interpreters: layouts that hold, stacks that are what the program says of itself, and wrong offsets refused.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use profiler_common::python::{ANCHOR, PythonStop};
use profiler_tests::interpreters::{self, Interpreter};
use profiler_tests::not_run::skip;
use profiler_tests::programs::Running;
use profiler_tests::python::Scripts;
use profiler_tests::truth::{PythonFrame, Truth};
use profiler_unwinding::python::{Layout, Validation, WalkedStack};

use crate::process::Process;

/// Looks at each program.
const ROUNDS: u32 = 12;
/// The same until a thread is seen that has the lock.
const MAX_ROUNDS: u32 = 200;
/// Looks at each program that is not stopped.
const LOOKS: u32 = 30;
/// Kinds of threads in the script `shapes.py`; the last one runs in its first thread.
const KINDS: [&str; 8] = [
    "sleeping",
    "unlocked",
    "generators",
    "awaits",
    "recursion",
    "callbacks",
    "foreign",
    "busy",
];

/// Uses up the keys that the C library keeps close at hand, then becomes the interpreter in a library.
const LAUNCHER: &str = r#"
#include <dlfcn.h>
#include <pthread.h>
int main(int count, char **arguments) {
    pthread_key_t key;
    for (int i = 0; i < 40; i++) pthread_key_create(&key, 0);
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL);
    int (*run)(int, char **) = (int (*)(int, char **))dlsym(library, "Py_BytesMain");
    arguments[1] = arguments[0];
    return run(count - 1, arguments + 1);
}
"#;
const SLEEPS: &str = "import time
def rest():
    print('ready', flush=True)
    time.sleep(1000)
rest()";

fn each_interpreter(mut look: impl FnMut(&Interpreter)) {
    let found = interpreters::all();
    for (name, reason) in &found.broken {
        skip(&format!("{name}: {reason}"));
    }
    for interpreter in &found.interpreters {
        look(interpreter);
    }
}

/// The frames of a stack, outermost first.
fn frames(process: &Process, layout: &Layout, stack: &WalkedStack) -> Vec<PythonFrame> {
    let code_frames = stack.entries.iter().filter(|entry| entry.instruction != ANCHOR);
    let mut frames: Vec<_> = code_frames
        .map(|entry| {
            let code = layout.read_code(&process.memory, entry.address, entry.check).unwrap();
            PythonFrame {
                function: code.qualified_name.to_string(),
                file: code.filename.to_string(),
                line: code.line(entry.instruction).unwrap_or(0),
            }
        })
        .collect();
    frames.reverse();
    frames
}

#[derive(Debug, Default)]
struct Seen {
    stacks: u32,
    right: u32,
    with_gil: u32,
    stops: BTreeMap<&'static str, u32>,
    wrong: Vec<String>,
}

impl Seen {
    fn take(&mut self, process: &Process, layout: &Layout, stack: &WalkedStack, truth: &Truth) {
        *self.stops.entry(stack.stop.name()).or_default() += 1;
        self.with_gil += u32::from(stack.has_gil == Some(true));
        if stack.stop != PythonStop::Whole {
            return;
        }
        self.stacks += 1;
        let frames = frames(process, layout, stack);
        for frame in &frames {
            assert!(truth.knows(frame), "{frame:?} is not in the program");
        }
        match truth.check(&frames) {
            Ok(()) => self.right += 1,
            Err(reason) => self.wrong.push(reason),
        }
    }
}

/// Waits until the last thread has left what recorded its calls.
fn wait_until_unrecorded(process: &Process, layout: &Layout) {
    let is_recorded = || {
        let threads = layout.thread_pointers(&process.memory).unwrap();
        let mut stacks = threads.iter().map(|thread| layout.walk_stack(&process.memory, *thread));
        stacks.any(|stack| {
            let frames = frames(process, layout, &stack);
            frames.iter().any(|frame| frame.file.ends_with("/truth.py"))
        })
    };
    for _ in 0..500 {
        let mut recorded = true;
        process.stopped(|| recorded = is_recorded());
        if !recorded {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("a thread is still recorded after 5 s");
}

fn look_at(interpreter: &Interpreter) {
    let scripts = Scripts::of(interpreter);
    let program = scripts.start("shapes.py", &KINDS);
    let Some(process) = Process::of(program.running.pid()) else {
        return;
    };
    let version = interpreter.version;
    assert_eq!(
        process.object.version.minor, version.minor as u8,
        "{}",
        interpreter.name
    );
    assert_eq!(process.object.free_threaded, interpreter.free_threaded);
    if let Some(micro) = process.object.version.micro {
        assert_eq!(u32::from(micro), version.patch);
    }
    let layout = process.layout();
    let validation = layout.validate(&process.memory, &process.threads()).unwrap();
    assert_eq!((validation.threads, validation.found), (8, 8), "{validation:?}");
    let truth = program.truth();
    wait_until_unrecorded(&process, &layout);
    let mut seen = Seen::default();
    // While one thread gives the lock back, and until another that wants it is on a CPU, nobody has it.
    let has_shown_lock = |seen: &Seen| interpreter.free_threaded || seen.with_gil > 0;
    let mut rounds = 0;
    while rounds < ROUNDS || !has_shown_lock(&seen) && rounds < MAX_ROUNDS {
        rounds += 1;
        std::thread::sleep(Duration::from_millis(3));
        process.stopped(|| {
            let mut holders = 0;
            for thread_pointer in layout.thread_pointers(&process.memory).unwrap() {
                let stack = layout.walk_stack(&process.memory, thread_pointer);
                holders += u32::from(stack.has_gil == Some(true));
                seen.take(&process, &layout, &stack, &truth);
            }
            assert!(
                holders <= 1 || interpreter.free_threaded,
                "{holders} threads have the GIL"
            );
        });
    }
    println!(
        "{}: {} in {}, {} threads named, {seen:?}",
        interpreter.name,
        process.object.version,
        process.path.display(),
        validation.named
    );
    let all: u32 = seen.stops.values().sum();
    assert_eq!(all, 8 * rounds);
    assert!(seen.stacks * 100 >= all * 99, "{}: {seen:?}", interpreter.name);
    assert!(seen.right * 100 >= seen.stacks * 99, "{}: {seen:?}", interpreter.name);
    // A wrong place would be that of nobody, and no thread would ever be said to have it.
    assert!(has_shown_lock(&seen), "{}: {seen:?}", interpreter.name);
}

#[test]
fn stacks_are_what_the_program_says() {
    each_interpreter(look_at);
}

/// Looks at a program that is never stopped; a look may fail, as the next one may not.
fn look_while_it_runs(interpreter: &Interpreter, script: &str, pid: u32) {
    let Some(process) = Process::of(pid) else { return };
    let mut held = 0;
    let mut last = Validation::default();
    let start = Instant::now();
    for _ in 0..LOOKS {
        let layout = process
            .object
            .layout(process.bias, process.libc(), &process.memory)
            .unwrap();
        match layout.validate(&process.memory, &process.threads()) {
            Ok(validation) => {
                held += 1;
                last = validation;
            }
            Err(error) => assert!(error.is_transient(), "{}, {script}: {error}", interpreter.name),
        }
    }
    let took = start.elapsed() / LOOKS;
    println!(
        "{}, {script}: {held} of {LOOKS} looks, {took:?} each, {last:?}",
        interpreter.name
    );
    assert!(
        held * 10 >= LOOKS * 9,
        "{}, {script}: {held} of {LOOKS} looks",
        interpreter.name
    );
}

#[test]
fn layouts_hold_while_threads_come_and_go() {
    each_interpreter(|interpreter| {
        let scripts = Scripts::of(interpreter);
        let program = scripts.start("churn.py", &[]);
        look_while_it_runs(interpreter, "churn.py", program.running.pid());
        let program = scripts.start("prefork.py", &[]);
        for said in &program.said {
            let child = said.strip_prefix("child ").unwrap();
            look_while_it_runs(interpreter, "a child of prefork.py", child.parse().unwrap());
        }
    });
}

#[test]
fn a_key_beyond_the_first_block() {
    let mut has_run = false;
    each_interpreter(|interpreter| {
        // Its library must be found and loaded without it.
        if has_run || interpreter.root.is_some() || interpreter.version.minor > 14 {
            return;
        }
        has_run = look_at_late_key(interpreter);
    });
    if !has_run {
        skip("there is no interpreter in a library");
    }
}

/// Whether there was a library to look at.
fn look_at_late_key(interpreter: &Interpreter) -> bool {
    let plain = Running::start(interpreter.command().args(["-c", SLEEPS]));
    let Some(process) = Process::of(plain.pid()) else {
        return false;
    };
    if !process.path.to_string_lossy().contains(".so") {
        return false;
    }
    let scripts = Scripts::of(interpreter);
    let (source, launcher) = (scripts.path("launcher.c"), scripts.path("launcher"));
    fs::write(&source, LAUNCHER).unwrap();
    let mut compiler = Command::new("cc");
    compiler
        .arg("-o")
        .args([&launcher, &source])
        .args(["-ldl", "-lpthread"]);
    assert!(compiler.status().unwrap().success());
    let home = process.path.parent().unwrap().parent().unwrap();
    let mut command = Command::new(&launcher);
    command.arg(&process.path).args(["-c", SLEEPS]).env("PYTHONHOME", home);
    let running = Running::start(&mut command);
    let process = Process::of(running.pid()).unwrap();
    let layout = process.layout();
    assert_eq!(layout.walk.thread_state_reads, 2, "{:?}", layout.walk);
    let thread_pointers = layout.thread_pointers(&process.memory).unwrap();
    let stack = layout.walk_stack(&process.memory, thread_pointers[0]);
    let names: Vec<_> = frames(&process, &layout, &stack)
        .into_iter()
        .map(|frame| frame.function)
        .collect();
    assert_eq!(names, ["<module>", "rest"]);
    true
}
