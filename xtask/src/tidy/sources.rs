//! Rules for Rust sources: documented, short, finished, and fenced.

use super::Finding;
use super::rust_text::{code_of, find_word, has_word};
use super::tree::Tree;

/// Lines of a file without its tests; more is two files.
const MAX_CODE_LINES: usize = 400;
/// Lines of a file with its tests, after which it is worth a thought.
const MANY_LINES: usize = 600;

/// Files that may be longer than [`MAX_CODE_LINES`], with the reason.
const LONG_FILES: [(&str, &str); 0] = [];

/// Where `unsafe` may be written. Everything else forbids it.
const UNSAFE_PLACES: [&str; 3] = ["crates/common/", "profiler-ebpf/", "profiler-daemon/src/kernel/"];

/// Programs that tests compile to look at from outside. They belong to no crate.
const SUBJECTS: [&str; 2] = ["/tests/programs/", "tests/fixtures/programs/"];

/// A dependency that only one place may name, within the sources below a prefix.
struct Fence {
    names: &'static [&'static str],
    within: &'static [&'static str],
    only: &'static [&'static str],
}

const FENCES: [Fence; 3] = [
    Fence {
        names: &["aya", "aya_obj", "aya_log"],
        within: &["crates/", "profiler-daemon/", "profiler-cli/", "proto/"],
        only: &["profiler-daemon/src/kernel/"],
    },
    Fence {
        names: &["tonic", "axum", "tonic_health", "tonic_reflection"],
        within: &["crates/", "profiler-daemon/src/"],
        only: &["profiler-daemon/src/api/"],
    },
    Fence {
        names: &["rusqlite"],
        within: &["crates/", "profiler-daemon/", "profiler-cli/", "proto/"],
        only: &["crates/store/src/state/"],
    },
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        let code = code_of(text);
        check_docs(path, text, &mut findings);
        check_length(path, text, &mut findings);
        check_allows(path, &code, &mut findings);
        check_lines(path, &code, &mut findings);
    }
    check_forbids(tree, &mut findings);
    findings
}

/// A file that is a module or a crate starts with `//!`. What a `tests.rs` is for, the module above it says.
fn check_docs(path: &str, text: &str, findings: &mut Vec<Finding>) {
    if path.ends_with("/tests.rs") {
        return;
    }
    let documented = text
        .lines()
        .find(|line| !line.is_empty())
        .is_some_and(|line| line.starts_with("//!"));
    if !documented {
        findings.push(Finding::error(
            path,
            1,
            "starts without `//!`: what comes in, what goes out",
        ));
    }
}

fn check_length(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let all = text.lines().count();
    let code = all - test_lines(text);
    if code > MAX_CODE_LINES && !LONG_FILES.iter().any(|(long, _)| *long == path) {
        findings.push(Finding::error(
            path,
            0,
            format!("{code} lines without tests, more than {MAX_CODE_LINES}"),
        ));
    } else if all > MANY_LINES {
        findings.push(Finding::warning(path, format!("{all} lines, more than {MANY_LINES}")));
    }
}

/// Lines of `#[cfg(test)]` modules, or of the whole file when it is nothing but tests.
fn test_lines(text: &str) -> usize {
    if text
        .lines()
        .any(|line| line == "#![cfg(test)]" || line.starts_with("#[test]"))
    {
        return text.lines().count();
    }
    let mut count = 0;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let opens = |next: &&str| next.starts_with("mod ") && next.ends_with('{');
        if line == "#[cfg(test)]" && lines.peek().is_some_and(opens) {
            count += 1 + lines.by_ref().take_while(|line| *line != "}").count() + 1;
        }
    }
    count
}

/// Every `#[allow]` and `#[expect]` says why. Clippy sees only what is compiled for the host.
fn check_allows(path: &str, code: &str, findings: &mut Vec<Finding>) {
    for (start, _) in code.match_indices('#') {
        let inner = code[start + 1..].strip_prefix('!').unwrap_or(&code[start + 1..]);
        let Some(attribute) = inner.strip_prefix('[') else {
            continue;
        };
        let attribute = attribute.split(']').next().unwrap_or_default();
        let silences = ["allow", "expect"].iter().any(|word| {
            find_word(attribute, word).is_some_and(|at| attribute[at + word.len()..].trim_start().starts_with('('))
        });
        if silences && !has_word(attribute, "reason") {
            let line = 1 + code[..start].matches('\n').count();
            findings.push(Finding::error(path, line, "silences a lint without `reason = \"…\"`"));
        }
    }
}

fn check_lines(path: &str, code: &str, findings: &mut Vec<Finding>) {
    let may_be_unsafe = UNSAFE_PLACES.iter().any(|place| path.starts_with(place))
        || SUBJECTS.iter().any(|folder| path.contains(folder));
    for (line, text) in (1..).zip(code.lines()) {
        if !may_be_unsafe && has_word(text, "unsafe") {
            findings.push(Finding::error(
                path,
                line,
                format!("`unsafe` outside {}", UNSAFE_PLACES.join(", ")),
            ));
        }
        for unfinished in ["todo", "unimplemented"] {
            if find_word(text, unfinished).is_some_and(|at| text[at + unfinished.len()..].starts_with('!')) {
                findings.push(Finding::error(
                    path,
                    line,
                    format!("`{unfinished}!` is not finished code"),
                ));
            }
        }
        for fence in &FENCES {
            let inside = fence.within.iter().any(|prefix| path.starts_with(prefix));
            let allowed = fence.only.iter().any(|prefix| path.starts_with(prefix));
            let named = fence.names.iter().find(|name| has_word(text, name));
            if let (true, false, Some(name)) = (inside, allowed, named) {
                findings.push(Finding::error(
                    path,
                    line,
                    format!("names `{name}`, which only {} does", fence.only.join(", ")),
                ));
            }
        }
    }
}

/// Each crate that may not be unsafe says so at its root, where the compiler holds it.
fn check_forbids(tree: &Tree, findings: &mut Vec<Finding>) {
    for member in tree.members() {
        let folder = format!("{member}/");
        let wholly_unsafe = UNSAFE_PLACES.contains(&folder.as_str());
        // Part of the crate may be unsafe: a lint that the part lifts.
        let partly_unsafe = UNSAFE_PLACES.iter().any(|place| place.starts_with(&folder));
        if wholly_unsafe {
            continue;
        }
        for root in crate_roots(tree, &member) {
            let library = root.ends_with("/lib.rs");
            let wanted = if partly_unsafe && library {
                "#![deny(unsafe_code)]"
            } else {
                "#![forbid(unsafe_code)]"
            };
            if !tree.text(&root).unwrap_or_default().lines().any(|line| line == wanted) {
                findings.push(Finding::error(&root, 0, format!("has no `{wanted}`")));
            }
        }
    }
}

/// The roots of a member's library and binaries.
fn crate_roots(tree: &Tree, member: &str) -> Vec<String> {
    let binaries = tree
        .children(&format!("{member}/src/bin"))
        .into_iter()
        .map(|name| format!("bin/{name}"));
    ["lib.rs".to_owned(), "main.rs".to_owned()]
        .into_iter()
        .chain(binaries)
        .map(|name| format!("{member}/src/{name}"))
        .filter(|path| path.ends_with(".rs") && tree.text(path).is_some())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the rules say about one file, apart from its documentation and length.
    fn check_code(path: &str, source: &str) -> Vec<(usize, String)> {
        let mut findings = Vec::new();
        let code = code_of(source);
        check_allows(path, &code, &mut findings);
        check_lines(path, &code, &mut findings);
        findings
            .into_iter()
            .map(|finding| (finding.line, finding.message))
            .collect()
    }

    fn assert_found(path: &str, source: &str, line: usize, part: &str) {
        let found = check_code(path, source);
        assert!(
            matches!(&found[..], [(at, message)] if *at == line && message.contains(part)),
            "{found:?}"
        );
    }

    #[test]
    fn unsafe_is_fenced() {
        assert_found("crates/profile/src/a.rs", "\nunsafe {}", 2, "unsafe");
        assert_eq!(check_code("profiler-daemon/src/kernel/a.rs", "unsafe {}"), []);
        assert_eq!(check_code("crates/unwinding/tests/programs/a.rs", "unsafe {}"), []);
        assert_eq!(check_code("tests/fixtures/programs/a.rs", "unsafe {}"), []);
        assert_eq!(check_code("crates/profile/src/a.rs", "// unsafe\n\"unsafe\""), []);
    }

    #[test]
    fn dependencies_are_fenced() {
        assert_found("profiler-daemon/src/stacks/a.rs", "use aya::Ebpf;", 1, "`aya`");
        assert_found("profiler-daemon/src/daemon.rs", "tonic::Status", 1, "`tonic`");
        assert_eq!(check_code("profiler-daemon/src/kernel/a.rs", "use aya::Ebpf;"), []);
        assert_eq!(check_code("profiler-daemon/src/api/a.rs", "use tonic::Status;"), []);
        assert_eq!(check_code("profiler-cli/src/client.rs", "use tonic::Status;"), []);
    }

    #[test]
    fn silenced_lints_have_reasons() {
        assert_found("a.rs", "\n#[allow(dead_code)]", 2, "reason");
        assert_found("a.rs", "#![expect(\n    dead_code\n)]", 1, "reason");
        assert_found("a.rs", "#[cfg_attr(x, allow(dead_code))]", 1, "reason");
        assert_eq!(
            check_code("a.rs", "#[allow(dead_code, reason = \"b\")]\n#[derive(Debug)]"),
            []
        );
    }

    #[test]
    fn unfinished_code_is_found() {
        assert_found("a.rs", concat!("to", "do!()"), 1, "not finished");
        assert_eq!(check_code("a.rs", "let todo = 1;"), []);
    }

    #[test]
    fn tests_do_not_count_as_length() {
        let code = "//! a\n".repeat(MAX_CODE_LINES);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    // b\n".repeat(100));
        let check = |text: &str| {
            let mut findings = Vec::new();
            check_length("a.rs", text, &mut findings);
            findings.pop()
        };
        assert_eq!(check(&format!("{code}{tests}")), None);
        assert!(check(&format!("{code}{tests}// c\n")).is_some_and(|finding| !finding.warning));
        assert!(check(&format!("{code}{tests}{tests}")).is_some_and(|finding| finding.warning));
    }

    #[test]
    fn roots_forbid_unsafe_code() {
        let check = |path: &str, text: &str| {
            let mut tree = Tree::default();
            tree.add(
                "Cargo.toml",
                "[workspace]\nmembers = [\"profiler-daemon\", \"crates/common\"]",
            );
            tree.add(path, text);
            let mut findings = Vec::new();
            check_forbids(&tree, &mut findings);
            findings.len()
        };
        assert_eq!(check("profiler-daemon/src/lib.rs", "#![deny(unsafe_code)]"), 0);
        assert_eq!(check("profiler-daemon/src/main.rs", "#![deny(unsafe_code)]"), 1);
        assert_eq!(check("profiler-daemon/src/bin/x.rs", "#![forbid(unsafe_code)]"), 0);
        assert_eq!(check("profiler-daemon/src/lib.rs", ""), 1);
        assert_eq!(check("crates/common/src/lib.rs", ""), 0);
    }

    #[test]
    fn modules_are_documented() {
        let check = |text: &str| {
            let mut findings = Vec::new();
            check_docs("a.rs", text, &mut findings);
            findings.len()
        };
        assert_eq!(check("//! a\nfn f() {}"), 0);
        assert_eq!(check("fn f() {}"), 1);
        assert_eq!(check(""), 1);
    }
}
