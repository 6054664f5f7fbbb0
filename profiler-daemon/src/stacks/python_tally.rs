//! What became of the Python stacks of one process in a window.

use std::collections::BTreeMap;

use profiler_common::python::{ANCHOR, PythonStop};
use profiler_profile::PythonQuality;

use crate::{kernel::records::RawSample, processes::PythonWalk};

/// Reason: the interpreter's layout is still being held against the process.
const NOT_CHECKED: &str = "interpreter_not_checked";
/// Reason: the interpreter's layout does not hold, or is not known.
const REFUSED: &str = "interpreter_refused";
/// Reason: the kernel did not know yet, when the sample was taken, that the process runs Python.
const NOT_WALKED: &str = "not_walked_yet";
/// Reason: the thread has a thread state and calls no Python function.
const NO_FRAME: &str = "no_python_frame";

/// How many samples of a process have Python frames, and why the others have none or not all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PythonTally {
    /// Samples while it ran Python.
    pub samples: u64,
    /// Those of them with at least one Python frame.
    pub with_frames: u64,
    /// Samples without, or with a stack that ends before its outermost frame, by reason.
    pub stopped: BTreeMap<&'static str, u64>,
}

impl PythonTally {
    /// Counts a sample of a process whose interpreter is in this state. Returns whether it has Python frames.
    pub(super) fn add(&mut self, walk: PythonWalk, sample: &RawSample<'_>) -> bool {
        let has_frames = walk == PythonWalk::Walked && sample.python.iter().any(|entry| entry.instruction != ANCHOR);
        let reason = match (walk, sample.python_stop) {
            (PythonWalk::NoPython, _) => return false,
            (PythonWalk::NotChecked, _) => Some(NOT_CHECKED),
            (PythonWalk::Refused, _) => Some(REFUSED),
            (PythonWalk::Walked, PythonStop::NotPython) => Some(NOT_WALKED),
            (PythonWalk::Walked, PythonStop::Whole) => (!has_frames).then_some(NO_FRAME),
            (PythonWalk::Walked, other) => Some(other.name()),
        };
        self.samples += 1;
        self.with_frames += u64::from(has_frames);
        if let Some(reason) = reason {
            *self.stopped.entry(reason).or_default() += 1;
        }
        has_frames
    }
}

impl From<&PythonTally> for PythonQuality {
    fn from(tally: &PythonTally) -> Self {
        let stopped = tally.stopped.iter();
        Self {
            samples: tally.samples,
            with_frames: tally.with_frames,
            stopped: stopped.map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::{python::PythonEntry, stop::StopReason};

    use super::*;
    use crate::kernel::records::{Pid, UserFrames};

    const FRAME: PythonEntry = PythonEntry {
        address: 0x1000,
        check: 1,
        instruction: 4,
    };
    const BOUNDARY: PythonEntry = PythonEntry {
        instruction: ANCHOR,
        ..FRAME
    };

    fn check(walk: PythonWalk, stop: PythonStop, python: &[PythonEntry], expected: (u64, u64, Option<&str>)) {
        let sample = RawSample {
            relocation: None,
            time_ns: 1,
            pid: Pid(7),
            tid: 7,
            generation: 1,
            thread_name: b"worker",
            in_kernel: false,
            kernel_stack_incomplete: false,
            stop: StopReason::Root,
            kernel_frames: &[],
            user: UserFrames::addresses_only(&[]),
            python,
            python_stop: stop,
            has_gil: None,
        };
        let mut tally = PythonTally::default();
        let has_frames = tally.add(walk, &sample);
        let reason = tally.stopped.keys().next().copied();
        assert_eq!(
            (tally.samples, tally.with_frames, reason),
            expected,
            "{walk:?} {stop:?}"
        );
        assert_eq!(u64::from(has_frames), tally.with_frames);
    }

    #[test]
    fn each_sample_has_frames_or_a_reason() {
        use PythonWalk::{NoPython, NotChecked, Refused, Walked};
        let frames = [FRAME, BOUNDARY];
        check(NoPython, PythonStop::NotPython, &[], (0, 0, None));
        check(NotChecked, PythonStop::NotPython, &[], (1, 0, Some(NOT_CHECKED)));
        check(Refused, PythonStop::NotPython, &[], (1, 0, Some(REFUSED)));
        check(Walked, PythonStop::NotPython, &[], (1, 0, Some(NOT_WALKED)));
        check(Walked, PythonStop::Whole, &frames, (1, 1, None));
        check(Walked, PythonStop::Whole, &frames[1..], (1, 0, Some(NO_FRAME)));
        check(Walked, PythonStop::NoThreadState, &[], (1, 0, Some("no_thread_state")));
        check(Walked, PythonStop::DepthLimit, &frames, (1, 1, Some("depth_limit")));
        check(Walked, PythonStop::NotCode, &frames, (1, 1, Some("not_code")));
        // Frames that cannot be placed are none.
        check(Refused, PythonStop::Whole, &frames, (1, 0, Some(REFUSED)));
    }
}
