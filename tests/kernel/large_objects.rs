//! Libraries with more rows than there is room for: what a process uses of them is loaded when it is used.

use crate::{
    FAST_HZ, host, only,
    profile::{Profile, Stack},
    profile_of, profile_when, start,
};

/// What is asked of the stacks in the end.
const WHOLE_PERCENT: f64 = 99.0;

#[test]
fn rows_of_a_large_library_are_loaded_by_the_page() {
    let Some(host) = host() else { return };
    let library = host.c("many", "libmany.so", &["-shared", "-fPIC"]);
    let caller = host.c("many_caller", "many_caller", &[library.to_str().unwrap()]);
    // Its 320,000 functions have four rows of eight bytes each: they do not fit as a whole.
    let daemon = host.daemon(&(only(FAST_HZ, "many_caller") + "[walker]\nmax_row_bytes = \"8MiB\"\n"));
    let caller = start(&caller, &[]);
    let is_whole = |stack: &Stack| stack.has_in_order(&["_start", "main", "work"]);
    let is_at_work = |stack: &Stack| stack.has("work");
    // Each of the places that the program calls is met in the first seconds after the library's rows are compiled.
    let recorded = || {
        let document = daemon.profile(caller.pid(), &["--duration", "1s"])?;
        Some(Profile::from_json(&document))
    };
    let profile = profile_when(recorded, |profile| {
        profile.share_of(is_at_work, is_whole) >= WHOLE_PERCENT && profile.rooted_share() >= WHOLE_PERCENT
    });
    profile.assert_share("whole stacks", WHOLE_PERCENT, is_at_work, is_whole);
    profile.assert_rooted(WHOLE_PERCENT);
    // Until then walks ended at code whose rows were not there, and said so.
    let all = profile_of(&daemon, caller.pid());
    let missed = all.stopped.get("page_not_loaded").copied().unwrap_or_default();
    println!("{missed} of {} samples met rows that were not loaded", all.samples);
    assert!(missed > 0, "{:?}", all.stopped);
    let limitations = daemon.process(caller.pid())["limitations"].to_string();
    assert!(!limitations.contains("libmany"), "{limitations}");
}
