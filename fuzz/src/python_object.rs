//! Any bytes as the file of a Python interpreter, and again as the memory of a process that runs it.

use profiler_unwinding::python::{InterpreterObject, Libc};

use crate::made::MadeUp;

/// Most parts of an evaluation loop.
const MAX_PARTS: usize = 16;

/// Runs one input.
pub fn run(data: &[u8]) {
    let object = match InterpreterObject::read(data) {
        Ok(Some(object)) => object,
        Ok(None) => return,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(object.version.major, 3);
    assert!((8..=15).contains(&object.version.minor));
    assert!((1..=MAX_PARTS).contains(&object.eval_ranges.len()));
    assert!(object.eval_ranges.is_sorted_by_key(|range| range.start));
    let memory = MadeUp {
        object: data,
        bytes: data,
        words: &[],
    };
    for libc in [Libc::Glibc, Libc::Musl] {
        let Ok(layout) = object.layout(0, libc, &memory) else {
            continue;
        };
        assert!((1..=3).contains(&layout.walk.thread_state_reads));
        assert!(layout.walk.frame_bytes as usize <= profiler_common::python::MAX_FRAME_BYTES);
        assert!(layout.walk.code_bytes as usize <= profiler_common::python::MAX_CODE_BYTES);
        if let Ok(validation) = layout.validate(&memory, &[1]) {
            assert!(validation.found <= validation.threads && validation.stacks <= validation.found);
        }
    }
}
