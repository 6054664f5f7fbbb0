//! Libraries with more rows than there is room for: what a process uses of them is loaded when it is used.

use profiler_tests::programs::wait_for;

use crate::{
    FAST_HZ, SAMPLES_WITHIN, host, only,
    profile::{Profile, Stack, share},
    profile_of, record, start,
};

#[test]
fn rows_of_a_large_library_are_loaded_by_the_page() {
    let Some(host) = host() else { return };
    let library = host.c("many", "libmany.so", &["-shared", "-fPIC"]);
    let caller = host.c("many_caller", "many_caller", &[library.to_str().unwrap()]);
    // Its 320,000 functions have four rows of eight bytes each: they do not fit as a whole.
    let daemon = host.daemon(&(only(FAST_HZ, "many_caller") + "[walker]\nmax_row_bytes = \"8MiB\"\n"));
    let caller = start(&caller, &[]);
    let is_whole = |stack: &Stack| stack.has_in_order(&["_start", "main", "work"]);
    let whole_share = |profile: &Profile| {
        let working = profile.count(|stack| stack.has("work"));
        share(profile.count(is_whole), working)
    };
    // Each of the places that the program calls is met in the first seconds after the library's rows are compiled.
    let profile = wait_for("whole stacks", SAMPLES_WITHIN, || {
        let profile = record(&daemon, caller.pid(), "1s");
        (whole_share(&profile) >= 99.0).then_some(profile)
    });
    profile.assert_rooted(99.0);
    // Until then walks ended at code whose rows were not there, and said so.
    let all = profile_of(&daemon, caller.pid());
    let missed = all.stopped.get("page_not_loaded").copied().unwrap_or_default();
    println!("{missed} of {} samples met rows that were not loaded", all.samples);
    assert!(missed > 0, "{:?}", all.stopped);
    let limitations = daemon.process(caller.pid())["limitations"].to_string();
    assert!(!limitations.contains("libmany"), "{limitations}");
}
