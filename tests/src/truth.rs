//! Chains of Python calls against what the program itself says of them.
//!
//! In: what a program of `tests/fixtures/python` printed after `truth`, and the Python frames of stacks. Out: whether these
//! functions called each other, from these lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::Value;

/// A Python function at a line, on a stack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PythonFrame {
    /// Its name within its file, or its last part alone: before 3.11 no more is known.
    pub function: String,
    /// Its file, with or without a path.
    pub file: String,
    /// Where in the file it was.
    pub line: u32,
}

/// All chains of calls that a program's threads make.
#[derive(Debug)]
pub struct Truth {
    functions: Vec<Function>,
    /// By node and the line in its function from where the calls were made: the nodes of what was called.
    callees: BTreeMap<(Option<usize>, u32), Vec<usize>>,
    /// The function of each node.
    nodes: Vec<usize>,
}

#[derive(Debug)]
struct Function {
    name: String,
    qualified: String,
    file: String,
    lines: BTreeSet<u32>,
}

impl Function {
    fn is_of(&self, frame: &PythonFrame) -> bool {
        (frame.function == self.qualified || frame.function == self.name) && base_name(&frame.file) == self.file
    }
}

impl Truth {
    /// Finds it in what a program said before it was ready.
    ///
    /// # Panics
    /// It said none, or something else than such a program does.
    pub fn of(said: &[String]) -> Self {
        let text = said.iter().find_map(|line| line.strip_prefix("truth "));
        let text = text.unwrap_or_else(|| panic!("no truth in {said:?}"));
        let document: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        Self::read(&document).unwrap_or_else(|| panic!("not a truth: {text}"))
    }

    fn read(document: &Value) -> Option<Self> {
        let functions = document["functions"].as_array()?.iter().map(|function| {
            let text = |name: &str| function[name].as_str().map(str::to_owned);
            Some(Function {
                name: text("name")?,
                qualified: text("qualname")?,
                file: text("file")?,
                lines: function["lines"].as_array()?.iter().map(line).collect::<Option<_>>()?,
            })
        });
        let functions: Vec<_> = functions.collect::<Option<_>>()?;
        let mut nodes = Vec::new();
        let mut callees: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (index, node) in document["nodes"].as_array()?.iter().enumerate() {
            // -1 stands for none.
            let parent = usize::try_from(node[0].as_i64()?).ok();
            let function = usize::try_from(node[2].as_u64()?).ok()?;
            functions.get(function)?;
            nodes.push(function);
            callees.entry((parent, line(&node[1])?)).or_default().push(index);
        }
        Some(Self {
            functions,
            callees,
            nodes,
        })
    }

    /// Whether the program makes this chain of calls, outermost first. The innermost function may be at any of its lines.
    ///
    /// # Errors
    /// The first frame that cannot be where it is, in words.
    pub fn check(&self, chain: &[PythonFrame]) -> Result<(), String> {
        let (mut node, mut line) = (None, 0);
        for (depth, frame) in chain.iter().enumerate() {
            let called = self.callees.get(&(node, line)).map_or(&[][..], Vec::as_slice);
            let next = called
                .iter()
                .find(|next| self.functions[self.nodes[**next]].is_of(frame));
            let Some(next) = next else {
                let names: Vec<_> = called
                    .iter()
                    .map(|next| &self.functions[self.nodes[*next]].qualified)
                    .collect();
                return Err(format!(
                    "at depth {depth} {frame:?} was not called from line {line}, from where only {names:?} are"
                ));
            };
            (node, line) = (Some(*next), frame.line);
        }
        let Some(innermost) = node.map(|node| &self.functions[self.nodes[node]]) else {
            return Err("no Python frame".to_owned());
        };
        if innermost.lines.contains(&line) {
            Ok(())
        } else {
            Err(format!("{} has no line {line}", innermost.qualified))
        }
    }

    /// Whether the program has this function at all: naming another is worse than a wrong caller.
    pub fn knows(&self, frame: &PythonFrame) -> bool {
        self.functions.iter().any(|function| function.is_of(frame))
    }
}

/// The samples of a profile by what the truth says of their Python frames.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Whose chain of calls is made.
    pub right: u64,
    /// Whose functions are all the program's, but which do not call each other like this.
    pub wrong: u64,
    /// With a function that is never on the program's stacks.
    pub strange: u64,
    /// Without Python frames.
    pub without: u64,
    /// What is wrong with some of them, in words.
    pub examples: String,
}

/// The file of what records a program's calls.
const RECORDER: &str = "truth.py";
/// So many examples of what is wrong are kept.
const EXAMPLES: usize = 5;

impl Verdict {
    /// The samples with Python frames.
    pub fn with_frames(&self) -> u64 {
        self.right + self.wrong + self.strange
    }

    /// The share of the samples with Python frames whose chain is right, in percent; none if there are no such samples.
    pub fn right_percent(&self) -> Option<f64> {
        let all = self.with_frames();
        (all > 0).then(|| self.right as f64 * 100.0 / all as f64)
    }
}

impl Truth {
    /// Judges the chains of a profile, each with its samples. Those of threads on their way back from recording are left out.
    pub fn judge(&self, chains: &[(Vec<PythonFrame>, u64)]) -> Verdict {
        let mut verdict = Verdict::default();
        for (chain, samples) in chains {
            if chain.iter().any(|frame| base_name(&frame.file) == RECORDER) {
                continue;
            }
            let count = match self.check(chain) {
                _ if chain.is_empty() => &mut verdict.without,
                Ok(()) => &mut verdict.right,
                Err(reason) => {
                    if verdict.examples.lines().count() < EXAMPLES {
                        // A string takes all that is written to it.
                        writeln!(verdict.examples, "{samples}x {reason}").ok();
                    }
                    if chain.iter().all(|frame| self.knows(frame)) {
                        &mut verdict.wrong
                    } else {
                        &mut verdict.strange
                    }
                }
            };
            *count += samples;
        }
        verdict
    }
}

/// The Python frames of each stack of a profile with its samples, out of `flamegraph --format json`: outermost first,
/// native frames between them left out.
///
/// # Panics
/// It is no such document.
pub fn chains_of(profile: &Value) -> Vec<(Vec<PythonFrame>, u64)> {
    read_chains(profile).unwrap_or_else(|| panic!("not a profile: {profile}"))
}

fn read_chains(profile: &Value) -> Option<Vec<(Vec<PythonFrame>, u64)>> {
    let index = |value: &Value| usize::try_from(value.as_u64()?).ok();
    let frames = profile["frames"].as_array()?.iter().map(|frame| {
        let text = |name: &str| frame[name].as_str().map(str::to_owned);
        let python = PythonFrame {
            function: text("function")?,
            file: text("file")?,
            line: line(&frame["line"])?,
        };
        Some((frame["kind"] == "python").then_some(python))
    });
    let frames: Vec<Option<PythonFrame>> = frames.collect::<Option<_>>()?;
    // Callers stand before what they call.
    let mut chains: Vec<(Vec<PythonFrame>, u64)> = Vec::new();
    for node in profile["nodes"].as_array()? {
        let mut chain = match index(&node["parent"]) {
            Some(parent) => chains.get(parent)?.0.clone(),
            None => Vec::new(),
        };
        chain.extend(frames.get(index(&node["frame"])?)?.clone());
        chains.push((chain, node["self"].as_u64()?));
    }
    chains.retain(|(_, samples)| *samples > 0);
    Some(chains)
}

/// The chains that a program saw itself, as it said after `seen`.
///
/// # Panics
/// It said something else.
pub fn seen(said: &str) -> Vec<Vec<PythonFrame>> {
    let text = said.strip_prefix("seen ").unwrap_or_else(|| panic!("not seen: {said}"));
    let chains: Vec<Vec<(String, String, u32)>> =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let frame = |(function, file, line)| PythonFrame { function, file, line };
    let chain = |chain: Vec<_>| chain.into_iter().map(frame).collect();
    chains.into_iter().map(chain).collect()
}

fn line(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn truth() -> Truth {
        let said = r#"truth {"functions": [
            {"name": "<module>", "qualname": "<module>", "file": "a.py", "lines": [1, 2]},
            {"name": "f", "qualname": "C.f", "file": "a.py", "lines": [4, 5, 6]},
            {"name": "g", "qualname": "g", "file": "b.py", "lines": [7, 8]}],
            "nodes": [[-1, 0, 0], [0, 2, 1], [1, 5, 1], [2, 5, 2], [0, 1, 2]]}"#;
        Truth::of(&["something".to_owned(), said.to_owned()])
    }

    fn check(chain: &[(&str, &str, u32)]) -> Result<(), String> {
        let frame = |(function, file, line): &(&str, &str, u32)| PythonFrame {
            function: (*function).to_owned(),
            file: (*file).to_owned(),
            line: *line,
        };
        truth().check(&chain.iter().map(frame).collect::<Vec<_>>())
    }

    #[test]
    fn chains_that_are_made_are_right() {
        let module = ("<module>", "/x/a.py", 2);
        check(&[module]).unwrap();
        check(&[module, ("C.f", "a.py", 6)]).unwrap();
        check(&[module, ("f", "a.py", 5), ("C.f", "a.py", 5), ("g", "/y/b.py", 8)]).unwrap();
        check(&[("<module>", "a.py", 1), ("g", "b.py", 7)]).unwrap();
    }

    #[test]
    fn other_chains_are_wrong() {
        let module = ("<module>", "a.py", 2);
        let wrong: [&[(&str, &str, u32)]; 7] = [
            &[],
            &[("f", "a.py", 4)],
            &[module, ("g", "b.py", 7)],
            &[module, ("f", "b.py", 4)],
            &[module, ("f", "a.py", 7)],
            &[module, ("f", "a.py", 4), ("f", "a.py", 4)],
            &[module, ("f", "a.py", 5), ("f", "a.py", 5), ("g", "b.py", 9)],
        ];
        for chain in wrong {
            check(chain).unwrap_err();
        }
    }

    #[test]
    fn profiles_are_judged() {
        let profile = serde_json::json!({
            "frames": [
                {"kind": "native", "function": "main", "file": "", "line": 0},
                {"kind": "python", "function": "<module>", "file": "a.py", "line": 2},
                {"kind": "python", "function": "C.f", "file": "a.py", "line": 5},
                {"kind": "native", "function": "qsort", "file": "", "line": 0},
                {"kind": "python", "function": "g", "file": "b.py", "line": 7},
                {"kind": "python", "function": "h", "file": "b.py", "line": 7}],
            "nodes": [
                {"parent": null, "frame": 0, "self": 1},
                {"parent": 0, "frame": 1, "self": 2},
                {"parent": 1, "frame": 2, "self": 0},
                {"parent": 2, "frame": 3, "self": 4},
                {"parent": 3, "frame": 4, "self": 8},
                {"parent": 3, "frame": 2, "self": 16},
                {"parent": 1, "frame": 5, "self": 32}]});
        let chains = chains_of(&profile);
        assert_eq!(
            chains[2].0.iter().map(|frame| &*frame.function).collect::<Vec<_>>(),
            ["<module>", "C.f"]
        );
        let verdict = truth().judge(&chains);
        let counts = (verdict.without, verdict.right, verdict.wrong, verdict.strange);
        assert_eq!(counts, (1, 2 + 4 + 16, 8, 32), "{}", verdict.examples);
        assert!(verdict.examples.contains("32x") && verdict.right_percent().unwrap() < 40.0);
    }

    #[test]
    fn what_a_program_saw_is_read() {
        let chains = seen(r#"seen [[["f", "a.py", 3]], []]"#);
        assert_eq!(chains[0][0].line, 3);
        assert_eq!(chains[1], []);
    }
}
