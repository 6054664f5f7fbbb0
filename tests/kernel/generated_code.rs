//! Code that comes and goes, or that no file describes: plugins, generated code, and the code of probes.

use std::{process::Command, time::Duration};

use profiler_tests::programs::{Running, is_emulated};

use crate::{FAST_HZ, host, only, profile::Stack, profile_once_known, skip, start};

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
    let profile = profile_once_known(&daemon, dl.pid(), 6_000);
    let addresses: Vec<_> = std::iter::from_fn(|| dl.line(Duration::ZERO)).collect();
    println!("{addresses:?}");
    assert!(addresses.len() >= 4, "several turns: {addresses:?}");
    profile.assert_rooted(99.0);
    for (name, other) in [("alpha", "beta"), ("beta", "alpha")] {
        let (run, hot, module) = (format!("run_{name}"), format!("hot_{name}"), format!("lib{name}.so"));
        let other = format!("lib{other}.so");
        // A plugin's own code, not that of the loader while it changes, nor of the program as it looks at the clock.
        let working = |stack: &Stack| {
            let called = stack.position(&run).and_then(|run| stack.frames.get(run + 1));
            called.is_some_and(|frame| frame.module != "dl" && !frame.is_kernel())
                && stack
                    .user_leaf()
                    .is_some_and(|frame| frame.module != "ld-linux-x86-64.so.2")
        };
        let right = |stack: &Stack| {
            stack.has_in_order(&["_start", "main", &run, "plugin_work", &hot])
                && stack
                    .frames
                    .iter()
                    .any(|frame| frame.is(&hot) && frame.module == module)
        };
        profile.assert_share(&run, 99.0, working, right);
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
    let profile = profile_once_known(&daemon, jit.pid(), 4_000);
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
    let profile = profile_once_known(&daemon, uprobed.pid(), 4_000);
    // While the kernel handles the breakpoint of a probe, the address that it replaces or has replaced is for a moment
    // where nobody can read it. Where CPUs are emulated that is more of the time.
    profile.assert_rooted(if is_emulated() { 85.0 } else { 95.0 });
    let at_a_breakpoint =
        |stack: &Stack| stack.has("asm_exc_int3") || stack.user_leaf().is_some_and(|frame| frame.module == "[uprobes]");
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
