//! Every dependency may be shipped in a binary under MIT OR Apache-2.0.

use std::iter::Peekable;
use std::vec::IntoIter;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::metadata;

/// Licences that ask for no more than their own text. `LLVM-exception` only takes duties away.
const ALLOWED: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Licences of single packages, with the reason why they are acceptable.
const EXCEPTIONS: [(&str, &str, &str); 1] = [(
    "inferno",
    "CDDL-1.0",
    "its copyleft is per file, and its files are used unchanged",
)];

/// Holds the licence of each package that is not ours against the list.
///
/// # Errors
/// A package has a licence that is not allowed, or an exception fits no package.
pub(crate) fn check() -> Result<()> {
    let metadata = metadata::of_workspace()?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    let foreign: Vec<_> = packages.iter().filter(|package| !package["source"].is_null()).collect();
    let refused: Vec<_> = foreign.iter().filter_map(|package| refusal(package)).collect();
    if !refused.is_empty() {
        bail!("licences that are not on the list:\n  {}", refused.join("\n  "));
    }
    println!("{} packages, all under allowed licences", foreign.len());
    Ok(())
}

/// Why a package is not acceptable, if it is not.
fn refusal(package: &Value) -> Option<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let licence = package["license"].as_str().unwrap_or_default();
    let is_allowed = |id: &str| {
        ALLOWED.contains(&id)
            || EXCEPTIONS
                .iter()
                .any(|(package, exception, _)| *package == name && *exception == id)
    };
    match is_satisfied(licence, &is_allowed) {
        Some(true) => None,
        Some(false) => Some(format!("{name}: {licence}")),
        None => Some(format!("{name}: `{licence}` is no SPDX expression")),
    }
}

/// Whether an SPDX expression can be met with allowed licences; `None` when it cannot be read.
fn is_satisfied(expression: &str, is_allowed: &impl Fn(&str) -> bool) -> Option<bool> {
    // Manifests of old wrote a slash for OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().map(str::to_owned).collect();
    let mut words = words.into_iter().peekable();
    let satisfied = any_of(&mut words, is_allowed)?;
    words.next().is_none().then_some(satisfied)
}

fn any_of(words: &mut Peekable<IntoIter<String>>, is_allowed: &impl Fn(&str) -> bool) -> Option<bool> {
    let mut satisfied = all_of(words, is_allowed)?;
    while words.next_if(|word| word == "OR").is_some() {
        satisfied |= all_of(words, is_allowed)?;
    }
    Some(satisfied)
}

fn all_of(words: &mut Peekable<IntoIter<String>>, is_allowed: &impl Fn(&str) -> bool) -> Option<bool> {
    let mut satisfied = single(words, is_allowed)?;
    while words.next_if(|word| word == "AND").is_some() {
        satisfied &= single(words, is_allowed)?;
    }
    Some(satisfied)
}

fn single(words: &mut Peekable<IntoIter<String>>, is_allowed: &impl Fn(&str) -> bool) -> Option<bool> {
    let word = words.next()?;
    match word.as_str() {
        "(" => {
            let satisfied = any_of(words, is_allowed)?;
            words.next_if(|word| word == ")")?;
            Some(satisfied)
        }
        ")" | "AND" | "OR" | "WITH" => None,
        licence if words.next_if(|word| word == "WITH").is_some() => {
            Some(is_allowed(&format!("{licence} WITH {}", words.next()?)))
        }
        licence => Some(is_allowed(licence)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expression: &str, expect: Option<bool>) {
        assert_eq!(
            is_satisfied(expression, &|id| ALLOWED.contains(&id)),
            expect,
            "{expression}"
        );
    }

    #[test]
    fn expressions_are_read() {
        check("MIT", Some(true));
        check("GPL-3.0-only", Some(false));
        check("MIT/Apache-2.0", Some(true));
        check("GPL-3.0-only OR MIT", Some(true));
        check("GPL-3.0-only AND MIT", Some(false));
        check("(MIT OR Apache-2.0) AND Unicode-3.0", Some(true));
        check("(MIT OR Apache-2.0) AND GPL-2.0-only", Some(false));
        check("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", Some(true));
        check("GPL-2.0-only WITH LLVM-exception", Some(false));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for expression in ["", "MIT OR", "(MIT", "MIT)", "AND MIT", "MIT Apache-2.0", "MIT WITH"] {
            check(expression, None);
        }
        assert!(refusal(&serde_json::json!({"name": "a", "license": null})).is_some());
    }

    #[test]
    fn an_exception_is_for_one_package() {
        assert_eq!(
            refusal(&serde_json::json!({"name": "inferno", "license": "CDDL-1.0"})),
            None
        );
        assert_eq!(
            refusal(&serde_json::json!({"name": "other", "license": "CDDL-1.0"})),
            Some("other: CDDL-1.0".to_owned())
        );
    }
}
