//! The Python programs of the fixtures under every version of Python that is here: they run, and what they say of their own
//! stacks is what the interpreter sees. Tests that hold profiles against them rest on it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use profiler_tests::{
    interpreters::{self, Interpreter},
    programs::wait_for,
    python::Scripts,
    truth::seen,
};

use crate::{host, skip};

/// All shapes that need no extension module.
pub(crate) const SHAPES: [&str; 10] = [
    "busy",
    "sleeping",
    "unlocked",
    "generators",
    "awaits",
    "recursion",
    "callbacks",
    "foreign",
    "nested",
    "mixed",
];
/// How often a program looks at its own stacks.
const LOOKS: &str = "5";
/// How long it may take to say what it saw, on a machine that is busy with others.
const SEEN_WITHIN: Duration = Duration::from_secs(30);

/// Runs a check under each version of Python; an interpreter that is not here, or does not start, is named.
fn under_each(check: impl Fn(&Interpreter)) {
    if host().is_none() {
        return;
    }
    let found = interpreters::all();
    for (name, reason) in &found.broken {
        skip(&format!("{name}: {reason}"));
    }
    if found.interpreters.is_empty() {
        return skip("there is no interpreter");
    }
    for interpreter in found.one_of_each_version() {
        println!("{} {}", interpreter.name, interpreter.version);
        check(interpreter);
    }
}

#[test]
fn shapes_are_what_they_say() {
    under_each(|interpreter| {
        let scripts = Scripts::of(interpreter);
        let mut arguments = vec!["--observe", LOOKS];
        if interpreter.free_threaded {
            // Frames of a thread that runs cannot be looked at there.
            arguments.clear();
        }
        match scripts.compile_native() {
            Ok(()) => arguments.push("extension"),
            Err(reason) => skip(&reason),
        }
        arguments.extend(SHAPES);
        let program = scripts.start("shapes.py", &arguments);
        let truth = program.truth();
        if interpreter.free_threaded {
            return;
        }
        let said = program.running.line(SEEN_WITHIN).unwrap();
        let chains = seen(&said);
        assert!(chains.len() >= arguments.len() - 2, "{chains:?}");
        for chain in &chains {
            if let Err(reason) = truth.check(chain) {
                panic!("{}: {reason}: {chain:#?}", interpreter.name);
            }
        }
        let deepest = chains.iter().map(Vec::len).max();
        assert!(deepest > Some(200), "deepest is {deepest:?}");
    });
}

#[test]
fn programs_become_ready() {
    under_each(|interpreter| {
        let scripts = Scripts::of(interpreter);
        scripts.start("churn.py", &[]).truth();
        if scripts.compile_native().is_ok() {
            scripts.start("shares.py", &[]).truth();
        }
        let workers = scripts.start("prefork.py", &[]);
        let children = workers.said.iter().filter(|line| line.starts_with("child "));
        assert_eq!(children.count(), 2, "{:?}", workers.said);
        let becomes = scripts.start(
            "becomes.py",
            &[&interpreter.program.to_string_lossy(), "-c", "print('become')"],
        );
        profiler_tests::programs::send_signal(becomes.running.pid(), rustix::process::Signal::USR1);
        let said = wait_for("word of the new program", SEEN_WITHIN, || {
            becomes.running.line(Duration::ZERO)
        });
        assert_eq!(said, "become");
    });
}

#[test]
fn programs_with_packages_become_ready() {
    if host().is_none() {
        return;
    }
    let interpreter = match interpreters::with_packages() {
        Ok(interpreter) => interpreter,
        Err(reason) => return skip(&reason),
    };
    let scripts = Scripts::of(&interpreter);
    scripts.start("greenlets.py", &[]).truth();
    scripts.start("arrays.py", &[]).truth();
    for event_loop in ["asyncio", "uvloop"] {
        let service = scripts.start("service.py", &[event_loop]);
        let port = service.said.iter().find_map(|line| line.strip_prefix("port "));
        let port: u16 = port.unwrap().parse().unwrap();
        for path in ["awaited", "threaded", "validated"] {
            let reply = get(port, &format!("/{path}/7"));
            assert!(
                reply.starts_with("HTTP/1.1 200 ") && reply.contains("\"item\":7"),
                "{reply}"
            );
        }
    }
}

/// Asks a service on this host.
pub(crate) fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(SEEN_WITHIN)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}
