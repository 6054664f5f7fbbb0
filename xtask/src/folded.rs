//! Folded stacks: `process;outermost;…;innermost count`, a stack on each line.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

/// The mark after a function that the compiler inlined into its caller.
const INLINED: &str = "_[i]";

/// The stacks of one profile.
#[derive(Debug)]
pub(crate) struct Folded<'a> {
    stacks: Vec<(&'a str, u64)>,
}

impl<'a> Folded<'a> {
    /// Reads what `profiler-cli flamegraph --format folded` writes.
    pub(crate) fn parse(text: &'a str) -> Result<Self> {
        let stacks = text.lines().filter(|line| !line.is_empty()).map(|line| {
            let (stack, count) = line.rsplit_once(' ').with_context(|| format!("no count in {line:?}"))?;
            let count = count.parse().with_context(|| format!("no count in {line:?}"))?;
            Ok((stack, count))
        });
        Ok(Self {
            stacks: stacks.collect::<Result<_>>()?,
        })
    }

    /// All samples.
    pub(crate) fn samples(&self) -> u64 {
        self.stacks.iter().map(|(_, count)| count).sum()
    }

    /// Samples with a frame of `function` anywhere in them.
    pub(crate) fn samples_of(&self, function: &str) -> u64 {
        let holds = |stack: &str| stack.split(';').skip(1).any(|frame| is_function(frame, function));
        self.stacks
            .iter()
            .filter(|(stack, _)| holds(stack))
            .map(|(_, count)| count)
            .sum()
    }

    /// Samples whose innermost frame is `function`.
    pub(crate) fn samples_in(&self, function: &str) -> u64 {
        let ends = |stack: &str| {
            stack
                .rsplit(';')
                .next()
                .is_some_and(|frame| is_function(frame, function))
        };
        let stacks = self.stacks.iter().filter(|(stack, _)| ends(stack));
        stacks.map(|(_, count)| count).sum()
    }

    /// Of each function the samples with a frame of it, under the name that `name` gives to frames.
    pub(crate) fn samples_by(&self, name: impl Fn(&str) -> &str) -> BTreeMap<String, u64> {
        let mut by_function = BTreeMap::<_, u64>::new();
        for (stack, count) in &self.stacks {
            let functions: BTreeSet<_> = stack.split(';').skip(1).map(&name).collect();
            for function in functions {
                *by_function.entry(function.to_owned()).or_default() += count;
            }
        }
        by_function
    }

    /// Frames of all samples together as they were walked: inlined ones were named later, and the process is none.
    pub(crate) fn frames(&self) -> u64 {
        let walked = |stack: &str| {
            stack
                .split(';')
                .skip(1)
                .filter(|frame| !frame.ends_with(INLINED))
                .count() as u64
        };
        self.stacks.iter().map(|(stack, count)| count * walked(stack)).sum()
    }

    /// The `limit` functions that are innermost most often, with their samples.
    pub(crate) fn top(&self, limit: usize) -> Vec<(&'a str, u64)> {
        let mut by_function = BTreeMap::<_, u64>::new();
        for (stack, count) in &self.stacks {
            *by_function
                .entry(stack.rsplit(';').next().unwrap_or_default())
                .or_default() += count;
        }
        let mut functions: Vec<_> = by_function.into_iter().collect();
        functions.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        functions.truncate(limit);
        functions
    }
}

/// Whether `frame` is `function` of any module, with or without a mark such as `_[k]` or the file of a Python function after it.
fn is_function(frame: &str, function: &str) -> bool {
    let name = frame.split(" (").next().unwrap_or(frame);
    let name = name.split("_[").next().unwrap_or(name);
    name.rsplit("::").next() == Some(function)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "p 1;main;a::f;i_[i];g 3\np 1;main;a::f 2\np 1;main;h_[k] 5\n";

    #[test]
    fn stacks_are_counted() {
        let folded = Folded::parse(TEXT).unwrap();
        assert_eq!(folded.samples(), 10);
        assert_eq!(folded.samples_of("f"), 5);
        assert_eq!(folded.samples_of("main"), 10);
        assert_eq!(folded.samples_of("h"), 5);
        assert_eq!((folded.samples_in("f"), folded.samples_in("main")), (2, 0));
        assert_eq!(folded.samples_of("p 1"), 0);
        assert_eq!(folded.frames(), 3 * 3 + 2 * 2 + 5 * 2);
        assert_eq!(folded.top(2), [("h_[k]", 5), ("g", 3)]);
    }

    #[test]
    fn python_functions_have_files() {
        let folded = Folded::parse("p 1;<module> (a.py);price_basket (shop/a.py) 4\n").unwrap();
        assert_eq!(
            (folded.samples_of("price_basket"), folded.samples_in("price_basket")),
            (4, 4)
        );
        assert_eq!(folded.samples_of("price"), 0);
    }

    #[test]
    fn what_is_not_folded_is_an_error() {
        assert!(Folded::parse("main;f").is_err());
        assert!(Folded::parse("main;f x").is_err());
        assert_eq!(Folded::parse("").unwrap().samples(), 0);
    }
}
