//! What remains of the memory that compiling unwind tables takes. A program of its own: what other tests hold would count.
#![forbid(unsafe_code)]

use std::{
    fs::{self, File},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::sync_channel,
    thread,
};

use object::ReadCache;
use profiler_daemon::{
    health::OwnCost,
    kernel,
    processes::unwind::{self, UnwindSummary},
};

/// How often each thread compiles each object.
const ROUNDS: usize = 3;
/// What may remain: the summaries that are kept, and what the allocator may keep for each of its arenas.
const MAX_REMAINS: u64 = 6 << 20;
/// Less than this is no peak that could remain.
const LEAST_PEAK: u64 = 2 * MAX_REMAINS;

#[test]
fn objects_that_were_compiled_leave_no_memory_behind() {
    kernel::bound_heap();
    let objects = objects();
    let before = anonymous();
    let mut peak = 0;
    let mut kept = Vec::new();
    for _ in 0..ROUNDS {
        let (outcomes, inbox) = sync_channel(1);
        // Two threads as the builder has them, their tables dropped by a third.
        let threads = [(); 2].map(|()| {
            let (outcomes, objects) = (outcomes.clone(), objects.clone());
            thread::spawn(move || {
                for path in &objects {
                    let cache = ReadCache::new(File::open(path).unwrap());
                    let (content, table) = unwind::compile(&cache, |_| false).unwrap();
                    let table = table.unwrap();
                    outcomes
                        .send((Box::new(UnwindSummary::of(content, &table)), table))
                        .unwrap();
                }
            })
        });
        drop(outcomes);
        for (summary, table) in inbox {
            peak = peak.max(anonymous() - before);
            assert_eq!(summary.rows, table.rows.len() as u64);
            kept.push(summary);
        }
        for thread in threads {
            thread.join().unwrap();
        }
    }
    let remains = anonymous().saturating_sub(before);
    println!(
        "{} objects, {} times by each of two threads: peak {} KiB, remains {} KiB",
        objects.len(),
        ROUNDS,
        peak >> 10,
        remains >> 10
    );
    assert!(peak >= LEAST_PEAK, "nothing large was compiled: {objects:?}");
    assert!(remains <= MAX_REMAINS, "{} KiB remain", remains >> 10);
}

/// Programs and libraries that a machine has on which this was built: this program, and the compiler's libraries.
fn objects() -> Vec<PathBuf> {
    let mut objects = vec![std::env::current_exe().expect("this program has a path")];
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = Command::new(rustc).args(["--print", "sysroot"]).output();
    let Ok(sysroot) = sysroot else { return objects };
    let libraries = Path::new(std::ffi::OsStr::from_bytes(sysroot.stdout.trim_ascii())).join("lib");
    for entry in fs::read_dir(libraries).into_iter().flatten().flatten() {
        let is_compiler = entry.file_name().as_bytes().starts_with(b"librustc_driver");
        if is_compiler {
            objects.push(entry.path());
        }
    }
    objects
}

/// Anonymous memory of this process that is resident.
fn anonymous() -> u64 {
    OwnCost::read(Path::new("/proc"))
        .expect("a process may read its own cost")
        .resident_anon_bytes
}
