//! Python services as people run them: a web service under load in both event loops, workers of gunicorn, and numpy on all its
//! threads. Python frames and the native frames of what they call are in one graph, and nearly every stack reaches its root.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use profiler_tests::{
    interpreters::{self, Interpreter},
    programs::Running,
    python::{PythonProgram, Scripts},
};
use serde_json::Value;

use crate::{
    FAST_HZ, SAMPLES_WITHIN, WINDOW, host, only,
    profile::{Frame, Profile, Stack},
    profile_once, profile_when,
    python::{shown, wait_until_active},
    python_programs::get,
    skip,
};

/// Samples that a verdict rests on.
const SAMPLES: u64 = 500;
/// Samples that a statement about some of them rests on.
const FEW: u64 = 50;
/// Of all stacks.
const ROOTED_PERCENT: f64 = 99.0;
/// Of those that a statement is about, some tens of them.
const CHAIN_PERCENT: f64 = 90.0;
/// How long a reply may take, on a machine that is busy with others.
const REPLY_WITHIN: Duration = Duration::from_secs(30);
/// What the native code of pydantic calls for each part of a request.
const VALIDATOR: &str = "Line.in_stock";
/// Connections that ask at a time, on each of the service's paths.
const CALLERS: usize = 2;

/// The interpreter with packages, or nothing after saying why there is none.
fn with_packages() -> Option<Interpreter> {
    interpreters::with_packages().map_err(|reason| skip(&reason)).ok()
}

/// Asks for a path on one connection until it is told to stop; returns how often it was answered.
fn ask(port: u16, path: &str, is_over: &AtomicBool) -> u64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(REPLY_WITHIN)).unwrap();
    let mut replies = 0;
    let mut buffer = [0; 4096];
    while !is_over.load(Ordering::Relaxed) {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: service\r\n\r\n").unwrap();
        let mut reply = Vec::new();
        // The body is one JSON object.
        while reply.last() != Some(&b'}') {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the service hung up: {}", String::from_utf8_lossy(&reply));
            reply.extend_from_slice(&buffer[..read]);
        }
        assert!(
            reply.starts_with(b"HTTP/1.1 200 "),
            "{}",
            String::from_utf8_lossy(&reply)
        );
        replies += 1;
    }
    replies
}

/// The port that a service told of.
fn port_in(said: &[String]) -> u16 {
    let port = said.iter().find_map(|line| line.strip_prefix("port "));
    port.unwrap().parse().unwrap()
}

/// Ends what waits for it, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a daemon shows of a program that works, once that is enough, and says of its process.
fn profile_of(
    interpreter: &Interpreter,
    program: &PythonProgram,
    is_enough: impl Fn(&Profile) -> bool,
) -> Option<(Profile, Value)> {
    let host = host()?;
    let pid = program.running.pid();
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    println!("{} {}", interpreter.name, interpreter.version);
    let daemon = host.daemon(&only(FAST_HZ, &executable.to_string_lossy()));
    wait_until_active(&daemon, pid);
    // A span takes in whole windows, and none of the first samples.
    thread::sleep(WINDOW + WINDOW / 4);
    let start = Instant::now();
    let before = daemon.process(pid)["samples"].as_u64().unwrap();
    daemon.wait_for_samples(pid, before + SAMPLES, SAMPLES_WITHIN);
    let look = || Some(Profile::from_json(&shown(&daemon, pid, start, &[])));
    let profile = profile_when(look, |profile| {
        profile.rooted_share_once_known() >= ROOTED_PERCENT && is_enough(profile)
    });
    Some((profile, daemon.process(pid)))
}

fn service_under_load(event_loop: &str, is_of_loop: impl Fn(&Stack) -> bool) {
    if host().is_none() {
        return;
    }
    let Some(interpreter) = with_packages() else { return };
    let scripts = Scripts::of(&interpreter);
    let service = scripts.start("service.py", &[event_loop]);
    let port = port_in(&service.said);
    let (is_over, replies) = (AtomicBool::new(false), AtomicU64::new(0));
    let (profile, process) = thread::scope(|scope| {
        for path in ["/awaited/7", "/threaded/7", "/validated/7"].repeat(CALLERS) {
            let (is_over, replies) = (&is_over, &replies);
            scope.spawn(move || replies.fetch_add(ask(port, path, is_over), Ordering::Relaxed));
        }
        let _over = Over(&is_over);
        profile_of(&interpreter, &service, |profile| {
            let functions = ["look_up", "threaded", VALIDATOR];
            functions.iter().all(|function| profile.samples_of(function) >= FEW)
        })
    })
    .unwrap();
    println!("{} replies", replies.into_inner());
    assert_eq!(process["runtime"], "python", "{process}");
    assert_eq!(process["service"], "service", "{process}");
    profile.assert_rooted_once_known(ROOTED_PERCENT);
    // A coroutine lies on what awaits it, and that on the loop.
    profile.assert_share(
        "awaited",
        CHAIN_PERCENT,
        |stack| stack.has("look_up"),
        |stack| {
            let callers = ["<module>", "Server.run", "run_endpoint_function", "awaited", "look_up"];
            stack.has_in_order(&callers) && is_of_loop(stack)
        },
    );
    profile.assert_share(
        "threaded",
        CHAIN_PERCENT,
        |stack| stack.has("threaded"),
        |stack| {
            let callers = ["Thread._bootstrap", "WorkerThread.run", "threaded"];
            stack.has_in_order(&callers) && !stack.has("<module>")
        },
    );
    // What native code calls lies on it, and that on what called it.
    profile.assert_share(
        "validated",
        CHAIN_PERCENT,
        |stack| stack.has(VALIDATOR),
        |stack| {
            let callers = [
                "Server.run",
                "run_endpoint_function",
                "validated",
                "BaseModel.model_validate",
            ];
            let is_native = |frame: &Frame| frame.module.starts_with("_pydantic_core.");
            stack.has_in_order(&callers) && stack.has_between("BaseModel.model_validate", VALIDATOR, is_native)
        },
    );
}

#[test]
fn a_web_service_on_asyncio() {
    let forever = |stack: &Stack| stack.has_in_order(&["BaseEventLoop.run_forever", "Handle._run", "awaited"]);
    service_under_load("asyncio", forever);
}

#[test]
fn a_web_service_on_uvloop() {
    // The loop is native code between Python and Python.
    let is_native = |frame: &Frame| frame.module.starts_with("loop.cpython-");
    let native = |stack: &Stack| stack.has_between("Server.run", "awaited", is_native);
    service_under_load("uvloop", native);
}

#[test]
fn workers_of_gunicorn_are_named_by_their_app() {
    let Some(host) = host() else { return };
    let Some(interpreter) = with_packages() else { return };
    let scripts = Scripts::of(&interpreter);
    let mut command = interpreter.command();
    command.args(["-m", "gunicorn", "--config", "wsgi.py", "wsgi:app"]);
    let (server, said) = Running::start_and_listen(command.current_dir(scripts.path("")));
    let port = port_in(&said);
    let workers = [(); 2].map(|()| {
        let said = server.line(REPLY_WITHIN).unwrap();
        said.strip_prefix("child ").unwrap().parse::<u32>().unwrap()
    });
    let executable = std::fs::read_link(format!("/proc/{}/exe", server.pid())).unwrap();
    let daemon = host.daemon(&only(FAST_HZ, &executable.to_string_lossy()));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 * CALLERS {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    get(port, "/");
                }
            });
        }
        let _over = Over(&is_over);
        for worker in workers {
            wait_until_active(&daemon, worker);
            let process = daemon.process(worker);
            assert_eq!(process["service"], "wsgi", "{process}");
            let profile = profile_once(&daemon, worker, FEW, |profile| profile.samples_of("price") >= FEW);
            profile.assert_share(
                "of the application",
                CHAIN_PERCENT,
                |stack| stack.has("price"),
                |stack| stack.has_in_order(&["<module>", "app", "price"]),
            );
        }
    });
}

#[test]
fn numpy_with_its_threads() {
    if host().is_none() {
        return;
    }
    let Some(interpreter) = with_packages() else { return };
    let scripts = Scripts::of(&interpreter);
    let arrays = scripts.start("arrays.py", &[]);
    let in_library = |stack: &Stack| {
        let leaf = stack.user_leaf();
        leaf.is_some_and(|frame| frame.module.starts_with("libscipy_openblas"))
    };
    let is_called = |stack: &Stack| in_library(stack) && stack.has("multiply");
    let (profile, _) = profile_of(&interpreter, &arrays, |profile| profile.count(is_called) >= FEW).unwrap();
    profile.assert_rooted_once_known(ROOTED_PERCENT);
    // The library's own threads run no Python: theirs begin in the C library.
    profile.assert_share("of the library", CHAIN_PERCENT, in_library, |stack| {
        if stack.has("<module>") {
            return stack.has_in_order(&["<module>", "turn", "multiply"]);
        }
        stack.outermost().is_some_and(|frame| frame.module.starts_with("libc"))
    });
    assert!(profile.count(is_called) > 0);
}
