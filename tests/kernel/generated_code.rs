//! Code that comes and goes, or that no file describes: plugins, generated code, and the code of probes.

use std::{process::Command, time::Duration};

use profiler_tests::programs::{Running, is_emulated};

use crate::{
    FAST_HZ, host, only,
    profile::{Profile, Stack},
    profile_once, skip, start,
};

/// Each plugin, and the other.
const PLUGINS: [(&str, &str); 2] = [("alpha", "beta"), ("beta", "alpha")];
/// What is asked of their stacks.
const PLUGINS_PERCENT: f64 = 99.0;

/// Whether a plugin's own code runs, not that of the loader while it changes, nor of the program as it looks at the clock.
fn is_working(name: &str) -> impl Fn(&Stack) -> bool {
    let run = format!("run_{name}");
    move |stack| {
        let called = stack.position(&run).and_then(|run| stack.frames.get(run + 1));
        let leaf = stack.user_leaf();
        called.is_some_and(|frame| frame.module != "dl" && !frame.is_kernel())
            && leaf.is_some_and(|frame| frame.module != "ld-linux-x86-64.so.2")
    }
}

/// Whether a plugin's function has all its callers, and is of that plugin.
fn is_whole(name: &str) -> impl Fn(&Stack) -> bool {
    let (run, hot, module) = (format!("run_{name}"), format!("hot_{name}"), format!("lib{name}.so"));
    move |stack| {
        let mut frames = stack.frames.iter();
        stack.has_in_order(&["_start", "main", &run, "plugin_work", &hot])
            && frames.any(|frame| frame.is(&hot) && frame.module == module)
    }
}

#[test]
fn plugins_that_replace_each_other_keep_their_names() {
    let Some(host) = host() else { return };
    let program = host.rust("dl");
    let plugin = |name: &str| {
        let hot = format!("-DHOT=hot_{name}");
        host.c("plugin", &format!("lib{name}.so"), &["-shared", "-fPIC", &hot])
    };
    let plugins = [plugin("alpha"), plugin("beta")];
    let daemon = host.daemon(&only(FAST_HZ, "dl"));
    let dl = Running::start(Command::new(program).args(&plugins));
    let is_right = |profile: &Profile| {
        let shares = PLUGINS.map(|(name, _)| profile.share_of(is_working(name), is_whole(name)));
        profile.rooted_share() >= PLUGINS_PERCENT && shares.iter().all(|share| *share >= PLUGINS_PERCENT)
    };
    let profile = profile_once(&daemon, dl.pid(), 6_000, is_right);
    let addresses: Vec<_> = std::iter::from_fn(|| dl.line(Duration::ZERO)).collect();
    println!("{addresses:?}");
    assert!(addresses.len() >= 4, "several turns: {addresses:?}");
    profile.assert_rooted(PLUGINS_PERCENT);
    for (name, other) in PLUGINS {
        let (run, other) = (format!("run_{name}"), format!("lib{other}.so"));
        profile.assert_share(&run, PLUGINS_PERCENT, is_working(name), is_whole(name));
        let wrong = profile.count(|stack| stack.has(&run) && stack.frames.iter().any(|frame| frame.module == other));
        assert_eq!(wrong, 0, "samples of {name} named after the other plugin");
    }
}

#[test]
fn stacks_go_through_generated_code_with_frame_pointers() {
    let Some(host) = host() else { return };
    let program = host.rust("jit");
    let daemon = host.daemon(&only(FAST_HZ, "jit"));
    let jit = start(&program, &[]);
    let profile = profile_once(&daemon, jit.pid(), 4_000, |profile| profile.rooted_share() >= 97.0);
    profile.assert_rooted(95.0);
    profile.assert_share(
        "callback",
        95.0,
        |stack| stack.has("work_in_callback"),
        |stack| {
            let (caller, callback) = (stack.position("call_generated"), stack.position("work_in_callback"));
            // One frame without a name between the two.
            stack.has_in_order(&["_start", "jit::main", "call_generated", "work_in_callback"])
                && matches!((caller, callback), (Some(caller), Some(callback)) if callback == caller + 2)
        },
    );
    profile.assert_share(
        "busy in generated code",
        95.0,
        |stack| {
            stack
                .user_leaf()
                .is_some_and(|frame| frame.kind == "unnamed" && frame.module != "jit")
        },
        |stack| stack.has_in_order(&["_start", "jit::main", "count_in_generated"]),
    );
}

#[test]
fn probed_functions_keep_their_callers() {
    let Some(host) = host() else { return };
    let program = host.rust("uprobed");
    let daemon = host.daemon(&only(FAST_HZ, "uprobed"));
    let (uprobed, ready) = Running::try_start(&mut Command::new(program));
    if ready.is_none() {
        return skip("this kernel has no uprobes");
    }
    // While the kernel handles the breakpoint of a probe, the address that it replaces or has replaced is for a moment
    // where nobody can read it. Where CPUs are emulated that is more of the time.
    let rooted_percent = if is_emulated() { 85.0 } else { 95.0 };
    let at_a_breakpoint =
        |stack: &Stack| stack.has("asm_exc_int3") || stack.user_leaf().is_some_and(|frame| frame.module == "[uprobes]");
    let profile = profile_once(&daemon, uprobed.pid(), 4_000, |profile| {
        let elsewhere = profile.share_of(|stack| !at_a_breakpoint(stack), Stack::is_of_first_thread);
        profile.rooted_share() >= rooted_percent && elsewhere >= 99.0
    });
    profile.assert_rooted(rooted_percent);
    profile.assert_share(
        "rooted outside of breakpoints",
        99.0,
        |stack| !at_a_breakpoint(stack),
        Stack::is_of_first_thread,
    );
    for caller in ["call_often", "call_long"] {
        profile.assert_share(
            caller,
            95.0,
            |stack| stack.has(caller),
            |stack| stack.has_in_order(&["_start", "main", "uprobed::main", caller]),
        );
    }
    // The return address of the probed function was replaced: it is named and has its callers all the same.
    profile.assert_share(
        "below a replaced return address",
        95.0,
        |stack| stack.has("work_below_probe"),
        |stack| stack.has_in_order(&["_start", "uprobed::main", "probed", "work_below_probe"]),
    );
    let stepped = profile.count(|stack| stack.frames.iter().any(|frame| frame.module == "[uprobes]"));
    println!("{stepped} samples with a frame in [uprobes]");
}
