//! Rules for all text: ARCHITECTURE.md is true, paths in documents exist, nothing is left undone, no path of one machine.

use super::Finding;
use super::rust_text::has_word;
use super::tree::Tree;

const MAP: &str = "ARCHITECTURE.md";
const DAEMON: &str = "profiler-daemon/src";

/// Marks of unfinished work, split so that this file does not hold them.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Starts of paths that exist on the machine of one developer only.
const MACHINE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    check_map(tree, &mut findings);
    for (path, text) in tree.texts() {
        if path.ends_with(".md") {
            check_paths(tree, path, text, &mut findings);
        }
        for (line, text) in (1..).zip(text.lines()) {
            if let Some(word) = UNFINISHED.iter().find(|word| has_word(text, word)) {
                findings.push(Finding::error(
                    path,
                    line,
                    format!("`{word}`: finish it, or open an issue"),
                ));
            }
            if let Some(machine) = MACHINE_PATHS.iter().find(|machine| has_path(text, machine)) {
                findings.push(Finding::error(
                    path,
                    line,
                    format!("a path below {machine} exists on one machine only"),
                ));
            }
        }
    }
    findings
}

/// The map names every member and every module of the daemon.
fn check_map(tree: &Tree, findings: &mut Vec<Finding>) {
    let Some(map) = tree.text(MAP) else {
        findings.push(Finding::error(MAP, 0, "is missing"));
        return;
    };
    let modules = tree.children(DAEMON).into_iter().filter_map(|name| {
        let module = name.strip_suffix(".rs").unwrap_or(&name);
        (module != "lib" && module != "main").then(|| format!("{DAEMON}/{module}"))
    });
    for place in tree.members().into_iter().chain(modules) {
        let named = code_spans(map).any(|(_, span)| {
            let span = span.trim_end_matches('/');
            span.strip_suffix(".rs").unwrap_or(span) == place
        });
        if !named {
            findings.push(Finding::error(MAP, 0, format!("does not name `{place}`")));
        }
    }
}

/// Every path between backticks that starts at a folder of the repository exists.
fn check_paths(tree: &Tree, path: &str, text: &str, findings: &mut Vec<Finding>) {
    for (line, span) in code_spans(text) {
        let is_pattern = span.contains(['*', '<', '{', ' ', '$']);
        let in_repository = span
            .split_once('/')
            .is_some_and(|(top, _)| tree.exists(top) || top == "crates");
        if in_repository && !is_pattern && !tree.exists(span) {
            findings.push(Finding::error(path, line, format!("`{span}` does not exist")));
        }
    }
}

/// What stands between single backticks, with its line; fenced blocks are skipped.
fn code_spans(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    (1..).zip(text.lines()).flat_map(move |(line, text)| {
        let fence = text.trim_start().starts_with("```");
        fenced ^= fence;
        let text = if fenced || fence { "" } else { text };
        text.split('`').skip(1).step_by(2).map(move |span| (line, span))
    })
}

/// Whether a path that starts with `start` stands in the line; `/proc/1` followed by `start` does not count.
fn has_path(line: &str, start: &str) -> bool {
    let opens = |c: char| c.is_whitespace() || "\"'`(=:,[<".contains(c);
    line.match_indices(start)
        .any(|(at, _)| at == 0 || line[..at].ends_with(opens))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(files: &[(&str, &str)]) -> Vec<String> {
        let mut tree = Tree::default();
        for (path, text) in files {
            tree.add(path, text);
        }
        check(&tree)
            .into_iter()
            .map(|finding| format!("{}:{} {}", finding.path, finding.line, finding.message))
            .collect()
    }

    #[test]
    fn the_map_is_complete() {
        let manifest = ("Cargo.toml", "[workspace]\nmembers = [\"proto\"]");
        let module = ("profiler-daemon/src/stacks/mod.rs", "");
        let file = ("profiler-daemon/src/health.rs", "");
        let main = ("profiler-daemon/src/main.rs", "");
        let proto = ("proto/Cargo.toml", "");
        let whole = (
            MAP,
            "`proto/` `profiler-daemon/src/stacks/`\n`profiler-daemon/src/health.rs`",
        );
        assert_eq!(messages(&[manifest, module, file, main, proto, whole]), [""; 0]);
        let partial = (MAP, "`proto` and proto");
        assert_eq!(
            messages(&[manifest, module, file, main, proto, partial]),
            [
                "ARCHITECTURE.md:0 does not name `profiler-daemon/src/health`",
                "ARCHITECTURE.md:0 does not name `profiler-daemon/src/stacks`",
            ]
        );
    }

    #[test]
    fn paths_in_documents_exist() {
        let files = [
            (MAP, ""),
            (
                "docs/a.md",
                "`docs/b.md` `docs/a.md`\n```\n`docs/c.md`\n```\n`docs/*.md` `a/b`",
            ),
        ];
        assert_eq!(messages(&files), ["docs/a.md:1 `docs/b.md` does not exist"]);
    }

    #[test]
    fn unfinished_work_and_machine_paths_are_found() {
        let line = format!("a\n{}: b\n\"{}x\"", UNFINISHED[0], MACHINE_PATHS[1]);
        let found = messages(&[(MAP, ""), ("a.txt", &line)]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("a.txt:2") && found[1].starts_with("a.txt:3"),
            "{found:?}"
        );
        let harmless = format!("/proc/1{}etc", MACHINE_PATHS[1]);
        assert_eq!(messages(&[(MAP, ""), ("a.txt", &harmless)]), [""; 0]);
    }
}
