//! A profile as the tests ask about it: whole stacks with their counts, out of `flamegraph --format json`.

use std::{collections::BTreeMap, fmt, rc::Rc, time::Duration};

use serde_json::Value;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: String,
    pub(crate) function: String,
    pub(crate) module: String,
}

impl Frame {
    /// Whether it is of this function, given with or without its path.
    pub(crate) fn is(&self, function: &str) -> bool {
        self.function == function
            || self
                .function
                .strip_suffix(function)
                .is_some_and(|path| path.ends_with("::"))
    }

    pub(crate) fn is_kernel(&self) -> bool {
        self.kind == "kernel"
    }
}

/// One stack, its outermost frame first, without the frames that the compiler inlined: what lay on the stack.
#[derive(Clone)]
pub(crate) struct Stack {
    pub(crate) frames: Vec<Rc<Frame>>,
    pub(crate) samples: u64,
}

impl fmt::Debug for Stack {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}x", self.samples)?;
        for frame in &self.frames {
            write!(out, " {}!{}", frame.module, frame.function)?;
        }
        Ok(())
    }
}

impl Stack {
    /// Where a function is for the first time, counted from the outermost frame.
    pub(crate) fn position(&self, function: &str) -> Option<usize> {
        self.frames.iter().position(|frame| frame.is(function))
    }

    pub(crate) fn has(&self, function: &str) -> bool {
        self.position(function).is_some()
    }

    /// How often a function is on it.
    pub(crate) fn count(&self, function: &str) -> usize {
        self.frames.iter().filter(|frame| frame.is(function)).count()
    }

    /// Whether these functions are on it in this order, outermost first, with any others between them.
    pub(crate) fn has_in_order(&self, functions: &[&str]) -> bool {
        let mut frames = self.frames.iter();
        functions.iter().all(|function| frames.any(|frame| frame.is(function)))
    }

    /// Whether there is a frame for which `wanted` holds between two functions, the caller given first.
    pub(crate) fn has_between(&self, caller: &str, callee: &str, wanted: impl Fn(&Frame) -> bool) -> bool {
        let calls = self.position(caller).zip(self.position(callee));
        let between = calls.and_then(|(caller, callee)| self.frames.get(caller..callee));
        between.is_some_and(|frames| frames.iter().any(|frame| wanted(frame)))
    }

    /// The innermost frame of the process itself.
    pub(crate) fn user_leaf(&self) -> Option<&Frame> {
        self.frames
            .iter()
            .rev()
            .find(|frame| !frame.is_kernel())
            .map(|frame| &**frame)
    }

    /// Whether its outermost frame is where the first thread of a program begins.
    pub(crate) fn is_of_first_thread(&self) -> bool {
        self.outermost().is_some_and(|frame| frame.is("_start"))
    }

    pub(crate) fn outermost(&self) -> Option<&Frame> {
        self.frames.first().map(|frame| &**frame)
    }
}

/// A profile of one process.
#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) stacks: Vec<Stack>,
    /// Time of a CPU that one sample stands for.
    pub(crate) period: Duration,
    pub(crate) samples: u64,
    pub(crate) rooted: u64,
    pub(crate) stopped: BTreeMap<String, u64>,
    pub(crate) lost: BTreeMap<String, u64>,
    pub(crate) summary: String,
}

impl Profile {
    /// Reads the document.
    pub(crate) fn from_json(document: &Value) -> Self {
        let profile = Self::from_view(document);
        assert_eq!(
            profile.stacks.iter().map(|stack| stack.samples).sum::<u64>(),
            profile.samples
        );
        profile
    }

    /// Reads the document of a view, which may leave samples out. What is said of all samples is still of all.
    pub(crate) fn from_view(document: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let frame = |row: &Value| {
            Rc::new(Frame {
                kind: text(&row["kind"]),
                function: text(&row["function"]),
                module: text(&row["module"]),
            })
        };
        let frames: Vec<Rc<Frame>> = document["frames"].as_array().unwrap().iter().map(frame).collect();
        let mut stacks = Vec::new();
        // Callers stand before what they call.
        let mut paths: Vec<Vec<Rc<Frame>>> = Vec::new();
        for node in document["nodes"].as_array().unwrap() {
            let parent = node["parent"]
                .as_u64()
                .map(|parent| &paths[usize::try_from(parent).unwrap()]);
            let mut path = parent.cloned().unwrap_or_default();
            let frame = &frames[usize::try_from(node["frame"].as_u64().unwrap()).unwrap()];
            if frame.kind != "inlined" {
                path.push(Rc::clone(frame));
            }
            let samples = node["self"].as_u64().unwrap();
            if samples > 0 {
                stacks.push(Stack {
                    frames: path.clone(),
                    samples,
                });
            }
            paths.push(path);
        }
        let quality = &document["quality"];
        let counts = |value: &Value| {
            let counts = value.as_object().unwrap().iter();
            counts
                .map(|(reason, count)| (reason.clone(), count.as_u64().unwrap()))
                .collect()
        };
        Self {
            stacks,
            period: Duration::from_nanos(document["period_ns"].as_u64().unwrap()),
            samples: quality["samples"].as_u64().unwrap(),
            rooted: quality["rooted"].as_u64().unwrap(),
            stopped: counts(&quality["stopped"]),
            lost: counts(&quality["lost"]),
            summary: text(&quality["summary"]),
        }
    }

    /// Samples of the stacks for which `wanted` holds.
    pub(crate) fn count(&self, wanted: impl Fn(&Stack) -> bool) -> u64 {
        self.stacks
            .iter()
            .filter(|stack| wanted(stack))
            .map(|stack| stack.samples)
            .sum()
    }

    /// Samples with a function on their stack.
    pub(crate) fn samples_of(&self, function: &str) -> u64 {
        self.count(|stack| stack.has(function))
    }

    /// The share of the stacks that reached a proven root, in percent.
    pub(crate) fn rooted_share(&self) -> f64 {
        share(self.rooted, self.samples)
    }

    /// The same of the stacks that were not pending.
    pub(crate) fn rooted_share_once_known(&self) -> f64 {
        share(self.rooted, self.samples - self.pending())
    }

    /// The share of what should have been sampled that was lost, in percent.
    pub(crate) fn lost_share(&self) -> f64 {
        let lost: u64 = self.lost.values().sum();
        share(lost, self.samples + lost)
    }

    /// Of the samples for which `relevant` holds, the share for which `expected` holds, in percent.
    pub(crate) fn share_of(&self, relevant: impl Fn(&Stack) -> bool, expected: impl Fn(&Stack) -> bool) -> f64 {
        let fit = self.count(|stack| relevant(stack) && expected(stack));
        share(fit, self.count(relevant))
    }

    fn pending(&self) -> u64 {
        self.stopped.get("pending").copied().unwrap_or_default()
    }

    /// At least this share of the stacks, in percent, reached a proven root.
    #[track_caller]
    pub(crate) fn assert_rooted(&self, percent: f64) {
        println!("{}", self.summary);
        let share = self.rooted_share();
        assert!(
            share >= percent,
            "{share:.3} % rooted, not {percent}: {:?}; {}",
            self.stopped,
            self.unrooted()
        );
    }

    /// The same of the stacks that were not pending, as they are for some milliseconds after a watch began.
    #[track_caller]
    pub(crate) fn assert_rooted_once_known(&self, percent: f64) {
        let pending = self.pending();
        println!("{}", self.summary);
        let share = self.rooted_share_once_known();
        assert!(
            share >= percent,
            "{share:.3} % rooted, not {percent}: {:?}",
            self.stopped
        );
        assert!(pending * 4 < self.samples, "most of it is pending: {}", self.summary);
    }

    /// At most this share of what should have been sampled was lost, in percent.
    #[track_caller]
    pub(crate) fn assert_lost_at_most(&self, percent: f64) {
        let share = self.lost_share();
        assert!(
            share <= percent,
            "{share:.3} % lost, more than {percent}: {:?}",
            self.lost
        );
    }

    /// Of the samples for which `relevant` holds, `expected` holds for at least this share, in percent; there are some.
    #[track_caller]
    pub(crate) fn assert_share(
        &self,
        what: &str,
        percent: f64,
        relevant: impl Fn(&Stack) -> bool,
        expected: impl Fn(&Stack) -> bool,
    ) {
        let (fits, others): (Vec<_>, Vec<_>) = self
            .stacks
            .iter()
            .filter(|stack| relevant(stack))
            .partition(|stack| expected(stack));
        let count = |stacks: &[&Stack]| stacks.iter().map(|stack| stack.samples).sum::<u64>();
        let (fit, other) = (count(&fits), count(&others));
        let share = share(fit, fit + other);
        println!("{what}: {share:.2} % of {}", fit + other);
        assert!(fit + other > 0, "{what}: no sample");
        let examples = &others[..others.len().min(5)];
        assert!(
            share >= percent,
            "{what}: {share:.3} % of {}, not {percent}: {examples:#?}",
            fit + other
        );
    }

    /// Some stacks that do not begin where programs and threads do.
    fn unrooted(&self) -> String {
        let strange = |stack: &&Stack| {
            stack
                .outermost()
                .is_none_or(|frame| !frame.is("_start") && !frame.module.starts_with("libc"))
        };
        format!("{:#?}", self.stacks.iter().filter(strange).take(5).collect::<Vec<_>>())
    }
}

/// In percent; all of nothing is 0.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}
