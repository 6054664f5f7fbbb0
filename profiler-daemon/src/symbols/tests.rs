//! Windows made of this very process.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use profiler_common::stop::StopReason;
use profiler_profile::{FrameKind, Gil, ProcessLabel, Profile};

use super::Symbols;
use crate::{
    processes::files::identity_of,
    stacks::{
        held_file::HeldFile,
        python_tally::PythonTally,
        window::{CodeObject, CodeSource, Location, RawStack, StackWindow, WindowProcess},
    },
};

pub(crate) const SETTINGS: profiler_config::Symbols = profiler_config::Symbols {
    cache_bytes: 32 << 20,
    max_debug_info_bytes: 512 << 20,
};

/// A function of this program with a known name.
#[inline(never)]
fn marked() -> u64 {
    std::hint::black_box(7)
}

fn object(path: &Path, name: &str) -> Arc<CodeObject> {
    let file = File::open(path).unwrap();
    let identity = identity_of(&file).unwrap();
    Arc::new(CodeObject {
        name: name.into(),
        is_interpreter: false,
        source: CodeSource::File {
            identity,
            descriptor: HeldFile::new(file.into(), false),
            path: path.as_os_str().as_encoded_bytes().into(),
        },
    })
}

/// The object mapped at an address of this process, and the address in its own terms. Both the program and shared
/// libraries are linked to zero, where their first byte is mapped.
pub(crate) fn own_location(runtime_address: usize) -> Location {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut base = (String::new(), 0);
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (start, end) = fields[0].split_once('-').unwrap();
        let (start, end) = (
            usize::from_str_radix(start, 16).unwrap(),
            usize::from_str_radix(end, 16).unwrap(),
        );
        let path = fields.get(5).copied().unwrap_or_default();
        if base.0 != path {
            base = (path.to_owned(), start);
        }
        if (start..end).contains(&runtime_address) {
            let path = Path::new(path);
            let object = object(path, path.file_name().unwrap().to_str().unwrap());
            return Location::Object {
                object,
                link_address: (runtime_address - base.1) as u64,
            };
        }
    }
    panic!("{runtime_address:#x} is not mapped");
}

fn opaque(name: &str) -> Location {
    let source = CodeSource::Opaque {
        reason: "made up".to_owned(),
    };
    Location::Object {
        object: Arc::new(CodeObject {
            name: name.into(),
            is_interpreter: false,
            source,
        }),
        link_address: 0x123,
    }
}

fn label() -> ProcessLabel {
    ProcessLabel {
        pid: 42,
        start: SystemTime::UNIX_EPOCH,
        name: "own".into(),
        service: "".into(),
    }
}

/// A window of one process with these stacks (kernel and user part, innermost first) and why they ended.
fn window(stacks: &[(&[u64], &[Location], u64)], stops: &[(StopReason, u64)]) -> StackWindow {
    let stacks = stacks.iter().map(|(kernel, user, count)| {
        (
            RawStack {
                gil: Gil::Unknown,
                thread: "worker".into(),
                kernel: (*kernel).into(),
                user: (*user).into(),
            },
            *count,
        )
    });
    StackWindow {
        period: Duration::from_millis(10),
        start: SystemTime::UNIX_EPOCH,
        end: SystemTime::UNIX_EPOCH + Duration::from_secs(10),
        processes: vec![WindowProcess {
            label: label(),
            start_ticks: None,
            stacks: stacks.collect(),
            stops: stops.iter().copied().collect(),
            incomplete_kernel_stacks: 1,
            python: PythonTally::default(),
        }],
        codes: Vec::new(),
        lost: BTreeMap::from([("ring_full".to_owned(), 3)]),
    }
}

/// Kind and function of each frame of a profile's only stack, root first.
fn only_stack(profile: &Profile) -> Vec<(FrameKind, String, String)> {
    assert_eq!(profile.stacks.len(), 1);
    let stack = profile.stacks.keys().next().unwrap();
    let frames = stack.frames.iter().map(|number| {
        let frame = profile.frames.get_index(*number as usize).unwrap();
        (frame.kind, frame.function.to_string(), frame.module.to_string())
    });
    frames.collect()
}

pub(crate) fn named(symbols: &mut Symbols, user: &[Location]) -> Vec<(FrameKind, String, String)> {
    only_stack(&symbols.name(&window(&[(&[], user, 1)], &[(StopReason::Root, 1)])))
}

#[test]
fn own_functions_and_those_of_libraries_are_named() {
    assert_eq!(marked(), 7);
    let mut symbols = Symbols::new(&SETTINGS, Path::new("/proc"));
    let own = own_location(marked as fn() -> u64 as usize);
    let library = own_location(libc::getpid as *const () as usize);
    let profile = symbols.name(&window(&[(&[], &[library.clone(), own], 5)], &[(StopReason::Root, 5)]));
    let frames = only_stack(&profile);
    let own_frame = frames
        .iter()
        .find(|(_, function, _)| function.ends_with("symbols::tests::marked"))
        .unwrap();
    assert_eq!(own_frame.0, FrameKind::Native);
    let (kind, function, module) = frames.last().unwrap();
    assert_eq!(*kind, FrameKind::Native);
    assert!(function.contains("getpid"), "{function}");
    assert!(module.starts_with("libc"), "{module}");
    let frame = profile
        .frames
        .iter()
        .find(|frame| frame.function.ends_with("::marked"))
        .unwrap();
    assert!(frame.file.ends_with("symbols/tests.rs"), "{frame:?}");
    assert!((25..35).contains(&frame.line), "{frame:?}");
    assert_eq!(profile.stacks.values().sum::<u64>(), 5);
    assert!(symbols.memory_bytes() > 0);

    let quality = &profile.quality;
    assert_eq!(
        (
            quality.samples,
            quality.rooted,
            quality.user_frames,
            quality.named_user_frames
        ),
        (5, 5, 10, 10)
    );
    assert_eq!(quality.lost, BTreeMap::from([("ring_full".to_owned(), 3)]));

    // The second time everything comes from the cache, and is the same.
    let again = symbols.name(&window(&[(&[], &[library], 1)], &[(StopReason::Root, 1)]));
    assert_eq!(only_stack(&again).last(), frames.last());
}

/// Calls that the compiler inlined come after the function they are in. The standard library is always optimized.
#[test]
fn inlined_calls_have_their_own_kind() {
    let mut symbols = Symbols::new(&SETTINGS, Path::new("/proc"));
    let start = own_location(std::env::current_dir as fn() -> std::io::Result<std::path::PathBuf> as usize);
    let Location::Object { object, link_address } = start else {
        panic!("{start:?}")
    };
    let locations = (link_address..link_address + 300).map(|link_address| Location::Object {
        object: Arc::clone(&object),
        link_address,
    });
    let frames = named(&mut symbols, &locations.collect::<Vec<_>>());
    assert!(symbols.limitations().is_empty(), "{:?}", symbols.limitations());
    assert_eq!(frames[0].0, FrameKind::Native);
    assert!(
        frames.iter().any(|(kind, ..)| *kind == FrameKind::Inlined),
        "{frames:?}"
    );
    assert!(
        frames
            .iter()
            .any(|(_, function, _)| function == "std::env::current_dir"),
        "{frames:?}"
    );
}

#[test]
fn what_has_no_name_says_where_it_is() {
    let mut symbols = Symbols::new(&SETTINGS, Path::new("/proc"));
    let stack = [
        Location::Unmapped {
            runtime_address: 0x7f00_1234,
        },
        opaque("[anon]"),
        opaque("gone.so"),
    ];
    let unnamed = |function: &str, module: &str| (FrameKind::Unnamed, function.to_owned(), module.to_owned());
    assert_eq!(
        named(&mut symbols, &stack),
        [
            unnamed("gone.so+0x123", "gone.so"),
            unnamed("[anon]", "[anon]"),
            unnamed("[unmapped]", "[unmapped]")
        ]
    );
    let profile = symbols.name(&window(
        &[(&[], &stack, 2)],
        &[(StopReason::NoRow, 1), (StopReason::NoMapping, 1)],
    ));
    let quality = profile.quality;
    assert_eq!(
        (
            quality.samples,
            quality.rooted,
            quality.user_frames,
            quality.named_user_frames
        ),
        (2, 0, 6, 0)
    );
    assert_eq!(
        quality.stopped,
        BTreeMap::from([("no_mapping".to_owned(), 1), ("no_row".to_owned(), 1)])
    );
}

#[test]
fn the_vdso_is_named() {
    let mut symbols = Symbols::new(&SETTINGS, Path::new("/proc"));
    let vdso = Arc::new(CodeObject {
        name: "[vdso]".into(),
        is_interpreter: false,
        source: CodeSource::Vdso,
    });
    let locations = (0..0x2000).map(|link_address| Location::Object {
        object: Arc::clone(&vdso),
        link_address,
    });
    let frames = named(&mut symbols, &locations.collect::<Vec<_>>());
    let functions: Vec<&str> = frames.iter().map(|(_, function, _)| function.as_str()).collect();
    assert!(
        functions.iter().any(|function| function.contains("clock_gettime")),
        "{functions:?}"
    );
    assert!(functions.contains(&"[vdso]+0x0"));
}

/// Kernel frames lie above the user's; return addresses name the function that calls, even where the call is its end.
#[test]
fn kernel_frames() {
    let root = tempfile::tempdir().unwrap();
    let list = "ffffffff81000000 T caller\nffffffff81000100 T next\nffffffff81000200 T leaf\nffffffff81001000 T _etext\n\
                ffffffffc0000000 t driver\t[module]\n";
    fs::write(root.path().join("kallsyms"), list).unwrap();
    let mut symbols = Symbols::new(&SETTINGS, root.path());
    assert!(symbols.kernel_error().is_none());
    let kernel = [
        0xffff_ffff_8100_0200,
        0xffff_ffff_c000_0010,
        0xffff_ffff_8100_0100,
        0xffff_8000_0000_0000,
    ];
    let stops = [(StopReason::NoUserRegisters, 1), (StopReason::Root, 1)];
    let profile = symbols.name(&window(&[(&kernel, &[], 2)], &stops));
    let frame = |function: &str, module: &str| (FrameKind::Kernel, function.to_owned(), module.to_owned());
    assert_eq!(
        only_stack(&profile),
        [
            frame("[kernel]", "[kernel]"),
            frame("caller", "[kernel]"),
            frame("driver", "module"),
            frame("leaf", "[kernel]"),
        ]
    );
    assert_eq!(
        (
            profile.quality.samples,
            profile.quality.rooted,
            profile.quality.user_frames
        ),
        (2, 2, 0)
    );
}

/// A program whose debug information is larger than is read still has its functions.
#[test]
fn debug_information_beyond_the_limit_is_a_limitation() {
    let settings = profiler_config::Symbols {
        max_debug_info_bytes: 100,
        ..SETTINGS
    };
    let mut symbols = Symbols::new(&settings, Path::new("/proc"));
    let own = own_location(marked as fn() -> u64 as usize);
    let frames = named(&mut symbols, &[own]);
    let [(FrameKind::Native, function, _)] = &frames[..] else {
        panic!("{frames:?}")
    };
    assert!(function.ends_with("symbols::tests::marked"), "{function}");
    let limitations = symbols.limitations();
    assert_eq!(limitations.len(), 1);
    assert!(limitations[0].reason.contains("limit of 100"), "{limitations:?}");
}

#[test]
fn nothing_more_is_named_once_the_daemon_stops() {
    let stop = Arc::new(AtomicBool::new(false));
    let mut symbols = Symbols::new(&SETTINGS, Path::new("/proc")).until(&stop);
    let own = own_location(marked as fn() -> u64 as usize);
    let kinds = |symbols: &mut Symbols| -> Vec<FrameKind> {
        let frames = named(symbols, std::slice::from_ref(&own));
        frames.into_iter().map(|(kind, ..)| kind).collect()
    };
    assert!(kinds(&mut symbols).contains(&FrameKind::Native));
    stop.store(true, Ordering::Relaxed);
    let mut symbols = Symbols::new(&SETTINGS, Path::new("/proc")).until(&stop);
    assert_eq!(kinds(&mut symbols), [FrameKind::Unnamed]);
}

#[test]
fn files_that_cannot_be_read_are_a_limitation() {
    let directory = tempfile::tempdir().unwrap();
    let garbage = directory.path().join("garbage");
    fs::write(&garbage, b"#!/bin/sh\n".repeat(100)).unwrap();
    // Shortened after it was opened.
    let short = directory.path().join("short");
    fs::copy("/proc/self/exe", &short).unwrap();
    let short_object = object(&short, "short");
    File::options().write(true).open(&short).unwrap().set_len(4096).unwrap();
    let stack = [
        Location::Object {
            object: object(&garbage, "garbage"),
            link_address: 16,
        },
        Location::Object {
            object: short_object,
            link_address: 0x1000,
        },
    ];
    let mut symbols = Symbols::new(&SETTINGS, Path::new("/proc"));
    let unnamed = |function: &str, module: &str| (FrameKind::Unnamed, function.to_owned(), module.to_owned());
    for _ in 0..2 {
        assert_eq!(
            named(&mut symbols, &stack),
            [unnamed("short+0x1000", "short"), unnamed("garbage+0x10", "garbage")]
        );
        let limitations = symbols.limitations();
        let objects: Vec<&str> = limitations.iter().map(|limitation| &*limitation.object).collect();
        assert_eq!(objects, ["garbage", "short"]);
        assert!(limitations[0].reason.contains("not an ELF object"), "{limitations:?}");
    }
}

/// However many objects are met, the memory for them stays within what is configured.
#[test]
fn memory_is_bounded() {
    let settings = profiler_config::Symbols {
        cache_bytes: 1 << 20,
        ..SETTINGS
    };
    let directory = tempfile::tempdir().unwrap();
    let mut symbols = Symbols::new(&settings, directory.path());
    let own = own_location(marked as fn() -> u64 as usize);
    let Location::Object { link_address, .. } = own else {
        panic!("{own:?}")
    };
    for copy in 0..12 {
        let path = directory.path().join(format!("copy{copy}"));
        fs::copy("/proc/self/exe", &path).unwrap();
        let copied = object(&path, "copy");
        let stack: Vec<_> = (0..500)
            .map(|offset| Location::Object {
                object: Arc::clone(&copied),
                link_address: link_address + offset * 64,
            })
            .collect();
        let frames = named(&mut symbols, &stack);
        assert!(
            frames
                .iter()
                .any(|(_, function, _)| function.ends_with("symbols::tests::marked")),
            "{copy}"
        );
        assert!(symbols.memory_bytes() <= 1_100_000, "{}", symbols.memory_bytes());
        fs::remove_file(&path).unwrap();
    }
}
