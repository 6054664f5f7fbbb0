//! Any bytes as a program whose kind is to be told.

use std::{fs::File, io::Write, os::unix::fs::FileExt};

use profiler_daemon::{
    processes::discovery::{Marks, examine},
    stacks::window::FileIdentity,
};
use rustix::fs::{MemfdFlags, memfd_create};

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut file = match memfd_create("program", MemfdFlags::CLOEXEC) {
        Ok(descriptor) => File::from(descriptor),
        Err(error) => panic!("no file in memory: {error}"),
    };
    if let Err(error) = file.write_all(data) {
        panic!("cannot write to memory: {error}");
    }
    let marks = examine_as(&file, data.len() as u64);
    // A file that was longer when its length was taken.
    examine_as(&file, data.len() as u64 + 100);
    examine_as(&file, u64::MAX);
    if marks.rust {
        let names_rustc = |part: &[u8]| part.starts_with(b"rustc version ") || part.starts_with(b"/rustc/");
        assert!((0..data.len()).any(|start| names_rustc(&data[start..])));
    }
    if marks.python {
        assert!(data.windows(10).any(|part| part == b"_PyRuntime"));
    }
    if !data.is_empty() {
        let mut first = [0];
        assert!(file.read_exact_at(&mut first, 0).is_ok() && first[0] == data[0]);
    }
}

fn examine_as(file: &File, length: u64) -> Marks {
    let identity = FileIdentity {
        device: 1,
        inode: 2,
        length,
        modified_ns: 3,
        changed_ns: 4,
    };
    examine(file, &identity)
}
