//! What does not run here, and why: printed by the test, and kept in a list, since a runner hides what a test prints that
//! passes.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    panic::Location,
    path::Path,
    thread,
};

/// Names the file of the list. Without it, what does not run is only printed.
pub const LIST: &str = "PROFILER_TEST_NOT_RUN";

/// What does not run, by the reason.
pub type NotRun = BTreeMap<String, BTreeSet<String>>;

/// Says that a test, or a part of it, does not run, and why.
///
/// # Panics
/// There is a list that cannot be written.
#[track_caller]
#[expect(clippy::print_stdout, reason = "it belongs to the output of the test")]
pub fn skip(reason: &str) {
    let place = Location::caller();
    let test = running_test(thread::current().name(), env::args().skip(1));
    let test = test.unwrap_or_else(|| place.to_string());
    println!("{test}: not run: {reason}");
    if let Some(list) = env::var_os(LIST) {
        add(Path::new(&list), &test, reason).expect("the list of what does not run can be written");
    }
}

/// Adds something to the list in a file that is there.
///
/// # Errors
/// The file cannot be written.
pub fn add(list: &Path, what: &str, reason: &str) -> io::Result<()> {
    let line = [what, reason].map(in_one_line).join("\t");
    // Several tests may do so at the same time: each writes at once.
    OpenOptions::new()
        .append(true)
        .open(list)?
        .write_all(format!("{line}\n").as_bytes())
}

/// Reads a list.
///
/// # Errors
/// The file cannot be read.
pub fn read(list: &Path) -> io::Result<NotRun> {
    let mut not_run = NotRun::new();
    for line in fs::read_to_string(list)?.lines() {
        let (what, reason) = line.split_once('\t').unwrap_or(("", line));
        not_run.entry(reason.to_owned()).or_default().insert(what.to_owned());
    }
    Ok(not_run)
}

/// A complaint of a compiler has many lines.
fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The test that this thread runs. Where there is only one, it runs in the first thread, and the runner was told its name.
fn running_test(thread: Option<&str>, arguments: impl Iterator<Item = String>) -> Option<String> {
    if let Some(name) = thread.filter(|name| *name != "main") {
        return Some(name.to_owned());
    }
    let arguments: Vec<String> = arguments.collect();
    let is_one = arguments.iter().any(|argument| argument == "--exact");
    let mut names = arguments.into_iter().filter(|argument| !argument.starts_with('-'));
    names.next().filter(|_| is_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let list = tempfile::NamedTempFile::new().unwrap();
        for (test, reason) in [
            ("b", "there is no cc:\n  not found"),
            ("a", "there is no\tcc: not found"),
            ("b", "there is no cc: not found"),
            ("c", "there is no card"),
        ] {
            add(list.path(), test, reason).unwrap();
        }
        let not_run = read(list.path()).unwrap();
        let lines: Vec<_> = not_run
            .iter()
            .map(|(reason, tests)| format!("{reason}: {}", tests.iter().cloned().collect::<Vec<_>>().join(", ")))
            .collect();
        assert_eq!(lines, ["there is no card: c", "there is no cc: not found: a, b"]);
    }

    #[test]
    fn a_list_that_nobody_made_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("none");
        assert!(add(&list, "a", "b").is_err() && !list.exists());
    }

    #[test]
    fn a_test_has_the_name_of_its_thread_or_that_which_the_runner_was_told() {
        let test = |thread, arguments: &[&str]| running_test(thread, arguments.iter().map(ToString::to_string));
        assert_eq!(test(Some("a::b"), &["--exact", "c"]).as_deref(), Some("a::b"));
        assert_eq!(
            test(Some("main"), &["--exact", "a::b", "--nocapture"]).as_deref(),
            Some("a::b")
        );
        assert_eq!(
            test(Some("main"), &["--nocapture", "a::b", "--exact"]).as_deref(),
            Some("a::b")
        );
        // Of all that contain this, it may be any.
        assert_eq!(test(Some("main"), &["--test-threads=1", "a"]), None);
        assert_eq!(test(None, &[]), None);
    }
}
