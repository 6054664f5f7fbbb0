//! Names of Python functions.

use std::{sync::Arc, time::Instant};

use profiler_profile::{Frame, FrameKind};

use crate::stacks::codes::{CodeGap, PythonCode};

/// Files that stand for the package that they lie in.
const OF_PACKAGE: [&str; 2] = ["__init__", "__main__"];

/// Name and file of the code that calls a class's `__init__` for the interpreter (3.12 and newer): nobody wrote it, and no
/// traceback shows it.
const TRAMPOLINE: &str = "__init__";

/// The frame of an instruction, and whether it has a name. `None` if it is the interpreter's own.
pub(super) fn frame(code: Option<&PythonCode>, instruction: i32, deadline: Instant) -> Option<(Frame, bool)> {
    let unnamed = |gap: CodeGap| Frame {
        kind: FrameKind::Python,
        function: gap.name().into(),
        module: Arc::default(),
        file: Arc::default(),
        line: 0,
    };
    match code.and_then(|code| code.wait(deadline)) {
        Some(Ok(code)) if *code.name == *TRAMPOLINE && *code.filename == *TRAMPOLINE => None,
        Some(Ok(code)) => {
            let frame = Frame {
                kind: FrameKind::Python,
                function: (*code.qualified_name).into(),
                module: module(&code.filename).into(),
                file: (*code.filename).into(),
                line: code.line(instruction).unwrap_or(0),
            };
            Some((frame, true))
        }
        Some(Err(gap)) => Some((unnamed(*gap), false)),
        None => Some((unnamed(CodeGap::Backlog), false)),
    }
}

/// The module that a file holds, as far as its path tells: `client` of `http/client.py`, `json` of `json/__init__.py`.
fn module(file: &str) -> &str {
    let mut parts = file.rsplit('/');
    let base = parts.next().unwrap_or_default();
    let stem = base.strip_suffix(".py").unwrap_or(base);
    match parts.next() {
        Some(package) if OF_PACKAGE.contains(&stem) && !package.is_empty() => package,
        _ => stem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_files() {
        for (file, expected) in [
            ("/usr/lib/python3.11/http/client.py", "client"),
            ("/usr/lib/python3.11/json/__init__.py", "json"),
            ("app.py", "app"),
            ("__main__.py", "__main__"),
            ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap>"),
            ("<string>", "<string>"),
            ("", ""),
        ] {
            assert_eq!(module(file), expected, "{file}");
        }
    }
}
