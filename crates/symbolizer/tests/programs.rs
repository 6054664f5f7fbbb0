//! Names of compiled programs against those that binutils gives.
#![cfg(test)]
#![forbid(unsafe_code)]

#[path = "support/binutils.rs"]
mod binutils;
mod support;

use std::{cell::Cell, io, path::Path, process::Command};

use profiler_symbolizer::{Limits, ObjectSymbols, ReadAt, demangle};

use self::{
    binutils::{FileSource, Named, addresses, expected, normalized, output},
    support::{Workshop, is_available},
};

fn resolved(program: &Path, addresses: &[u64]) -> Vec<Vec<Named>> {
    let source = FileSource::open(program);
    let mut symbols = ObjectSymbols::load(&source, &Limits::default()).unwrap();
    assert!(symbols.functions_error().is_none());
    let resolution = symbols.resolve(&source, addresses);
    assert_eq!(resolution.debug_error, None);
    let frames = resolution.frames.iter().map(|frames| {
        let (outermost, inlined) = frames.split_last().unwrap();
        assert!(!outermost.inlined && inlined.iter().all(|frame| frame.inlined));
        let named = frames.iter().map(|frame| Named {
            function: frame.function.to_string(),
            file: normalized(&frame.file),
            line: frame.line,
        });
        named.collect()
    });
    frames.collect()
}

/// Which names can be compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    All,
    /// Without any linkage name in the debug information, binutils lets the symbols of some frames leak into others.
    OutermostOnly,
}

/// Every address of the program must have the names, files and lines that binutils gives, at every level.
fn check_against_binutils(program: &Path, names: Names) {
    let addresses = addresses(program, 3);
    assert!(addresses.len() > 100, "{} addresses", addresses.len());
    let (expected, resolved) = (expected(program, &addresses), resolved(program, &addresses));
    assert_eq!(expected.len(), addresses.len());
    let mut differing = 0;
    for ((address, expected), resolved) in addresses.iter().zip(&expected).zip(&resolved) {
        if !agree(expected, resolved, names) {
            differing += 1;
            if differing <= 10 {
                println!("{address:#x}\n  expected {expected:#?}\n  resolved {resolved:#?}");
            }
        }
    }
    let inlined = resolved.iter().filter(|frames| frames.len() > 1).count();
    println!(
        "{}: {} addresses, {inlined} with inlined calls",
        program.display(),
        addresses.len()
    );
    assert_eq!(
        differing,
        0,
        "of {} addresses of {}",
        addresses.len(),
        program.display()
    );
    assert!(inlined > 0);
}

/// Whether both say the same, but for what binutils is known not to say.
fn agree(expected: &[Named], resolved: &[Named], names: Names) -> bool {
    let last = expected.len().saturating_sub(1);
    let symbol = resolved.last().map(|frame| &frame.function);
    expected.len() == resolved.len()
        && expected
            .iter()
            .zip(resolved)
            .enumerate()
            .all(|(level, (expected, resolved))| {
                // Binutils takes the symbol for functions without a linkage name, as we do, but for the innermost frame
                // instead of the outermost, which has it.
                let identifier = expected.function.split('<').next().unwrap_or_default();
                let same_function = expected.function == resolved.function
                    || (level == last && resolved.function.contains(identifier))
                    || (level == 0 && Some(&expected.function) == symbol)
                    || (level < last && names == Names::OutermostOnly);
                // Where no line is known it prints the name of the unit as the file.
                let same_file = expected.file == resolved.file || expected.line == 0;
                same_function && same_file && expected.line == resolved.line
            })
}

/// Every address of a stripped program must have the name that the whole program's symbol table gives.
fn check_stripped(program: &Path, exported_only: bool) {
    let stripped = program.with_extension("stripped");
    let how = if exported_only { "--strip-all" } else { "--strip-debug" };
    output(Command::new("strip").arg(how).arg("-o").arg(&stripped).arg(program));
    let table = if exported_only { "--dynamic" } else { "--defined-only" };
    let symbols = output(
        Command::new("nm")
            .args([table, "--defined-only", "--print-size"])
            .arg(program),
    );
    let source = FileSource::open(&stripped);
    let mut object = ObjectSymbols::load(&source, &Limits::default()).unwrap();
    assert!(!object.has_debug_info());
    let mut compared = 0;
    for line in symbols.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [start, size, "t" | "T" | "w" | "W", name] = fields[..] else {
            continue;
        };
        let (start, size) = (
            u64::from_str_radix(start, 16).unwrap(),
            u64::from_str_radix(size, 16).unwrap(),
        );
        let resolution = object.resolve(&source, &[start, start + size / 2, start + size - 1]);
        assert_eq!(resolution.debug_error, None);
        for frames in &resolution.frames {
            let [frame] = &frames[..] else {
                panic!("{name}: {frames:?}")
            };
            // Functions that were folded into one have several names.
            let aliases = symbols
                .lines()
                .filter(|other| other.split(' ').next() == line.split(' ').next());
            let names: Vec<_> = aliases
                .filter_map(|alias| alias.split(' ').next_back())
                .map(|n| demangle(n.as_bytes()))
                .collect();
            assert!(
                names.contains(&frame.function.to_string()),
                "{frame:?} is none of {names:?}"
            );
            assert_eq!((&*frame.file, frame.line, frame.inlined), ("", 0, false));
            compared += 1;
        }
    }
    assert!(compared >= 9, "{compared} addresses");
}

fn check(compiler: &str, source: &str, options: &[&str], names: Names) {
    let workshop = Workshop::new();
    if is_available("addr2line")
        && is_available("nm")
        && let Some(program) = workshop.compile(compiler, source, options)
    {
        check_against_binutils(&program, names);
    }
}

#[test]
fn c_with_dwarf_5() {
    check("cc", "calls.c", &["-O2", "-gdwarf-5"], Names::All);
}

#[test]
fn c_with_dwarf_4() {
    check("cc", "calls.c", &["-O2", "-gdwarf-4"], Names::All);
}

#[test]
fn c_with_dwarf_3() {
    check("cc", "calls.c", &["-O2", "-gdwarf-3", "-gstrict-dwarf"], Names::All);
}

#[test]
fn c_with_compressed_sections() {
    check("cc", "calls.c", &["-O2", "-g", "-gz=zlib"], Names::All);
}

/// Counts the bytes that are read of a file.
#[derive(Debug)]
struct Counting {
    file: FileSource,
    bytes: Cell<u64>,
}

impl ReadAt for Counting {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(offset, buffer)?;
        self.bytes.set(self.bytes.get() + count as u64);
        Ok(count)
    }
}

#[test]
fn what_was_decompressed_is_kept_until_it_is_to_be_forgotten() {
    let workshop = Workshop::new();
    let Some(program) = workshop.compile("g++", "shapes.cpp", &["-O2", "-g", "-gz=zlib"]) else {
        return;
    };
    let source = Counting {
        file: FileSource::open(&program),
        bytes: Cell::new(0),
    };
    let mut symbols = ObjectSymbols::load(&source, &Limits::default()).unwrap();
    let addresses = addresses(&program, 16);
    let resolve = |symbols: &mut ObjectSymbols| {
        source.bytes.set(0);
        let frames = symbols.resolve(&source, &addresses).frames;
        (frames, source.bytes.get())
    };
    assert_eq!(symbols.inflated_bytes(), 0);
    let (frames, bytes) = resolve(&mut symbols);
    assert!(frames.iter().any(|frames| frames.iter().any(|frame| frame.line > 0)));
    let inflated = symbols.inflated_bytes();
    assert!(inflated as u64 > bytes / 2, "{inflated} of {bytes}");
    assert!(symbols.memory_bytes() > inflated);
    let (again, bytes_again) = resolve(&mut symbols);
    assert_eq!(again, frames);
    assert!(bytes_again < bytes / 2, "{bytes_again} of {bytes}");
    symbols.forget_inflated();
    assert_eq!(symbols.inflated_bytes(), 0);
    let (forgotten, bytes_forgotten) = resolve(&mut symbols);
    assert_eq!(forgotten, frames);
    assert!(bytes_forgotten > bytes_again && symbols.inflated_bytes() == inflated);
}

/// A program of which no more is told than what loads it needs: its exported functions keep their names, the others their
/// starts.
#[test]
fn an_object_without_section_headers() {
    let check = |options: &[&str], least: [usize; 2]| {
        let workshop = Workshop::new();
        let Some(program) = workshop.compile("cc", "calls.c", options) else {
            return;
        };
        let addresses = addresses(&program, 4);
        let whole = FileSource::open(&program);
        let mut symbols = ObjectSymbols::load(&whole, &Limits::default()).unwrap();
        let expected = symbols.resolve(&whole, &addresses).frames;
        let mut bytes = std::fs::read(&program).unwrap();
        // e_shoff, e_shnum and e_shstrndx.
        bytes[0x28..0x30].fill(0);
        bytes[0x3c..0x40].fill(0);
        let mut symbols = ObjectSymbols::load(&bytes, &Limits::default()).unwrap();
        assert!(symbols.functions_error().is_none());
        let found = symbols.resolve(&bytes, &addresses).frames;
        let exported = output(Command::new("nm").args(["-D", "--defined-only"]).arg(&program));
        let exported: Vec<&str> = exported.lines().filter_map(|line| line.split(' ').nth(2)).collect();
        let (mut named, mut unnamed) = (0, 0);
        for (found, expected) in found.iter().zip(&expected) {
            let (found, expected) = (found.first().unwrap(), expected.first().unwrap());
            if exported.contains(&&*expected.function) {
                assert_eq!(found.function, expected.function);
                named += 1;
            } else {
                unnamed += usize::from(found.unnamed);
            }
        }
        assert!(
            named >= least[0] && unnamed >= least[1],
            "{options:?}: {named}, {unnamed}"
        );
    };
    check(&["-O2", "-rdynamic", "-Wl,--hash-style=gnu"], [20, 0]);
    check(&["-O2", "-rdynamic", "-Wl,--hash-style=sysv"], [20, 0]);
    check(&["-O2"], [0, 20]);
}

/// What dwz moved from two programs into a file that they share is found there.
#[test]
fn debug_information_that_programs_share() {
    let workshop = Workshop::new();
    if !is_available("dwz") {
        return;
    }
    let compile = |level| workshop.compile("g++", "shapes.cpp", &[level, "-g"]);
    let (Some(program), Some(other)) = (compile("-O2"), compile("-O1")) else {
        return;
    };
    let load = |path: &Path| {
        let source = FileSource::open(path);
        (ObjectSymbols::load(&source, &Limits::default()).unwrap(), source)
    };
    let addresses = addresses(&program, 64);
    let (mut symbols, source) = load(&program);
    assert_eq!(symbols.common_link(&source), None);
    let expected = symbols.resolve(&source, &addresses).frames;

    let common = workshop.path("common.debug");
    output(Command::new("dwz").arg("-m").arg(&common).args([&program, &other]));
    let (mut symbols, source) = load(&program);
    let link = symbols.common_link(&source).unwrap();
    assert!(link.path.ends_with(b"common.debug"));
    let (mut of_common, common_source) = load(&common);
    link.verify(&of_common, &common_source).unwrap();
    link.verify(&symbols, &source).unwrap_err();
    let found = symbols.resolve_with(&source, Some((&mut of_common, &common_source)), &addresses);
    assert_eq!(found.debug_error, None);
    assert_eq!(found.frames, expected);
    // Without it the names of some inlined calls are lost, and nothing else is made of them.
    let without = symbols.resolve(&source, &addresses);
    assert!(
        without.frames.iter().map(|frames| frames.len()).sum::<usize>()
            < expected.iter().map(|frames| frames.len()).sum()
    );
}

#[test]
fn cpp() {
    check("g++", "shapes.cpp", &["-O2", "-g"], Names::All);
}

#[test]
fn cpp_not_optimized() {
    check("g++", "shapes.cpp", &["-O1", "-g"], Names::All);
}

#[test]
fn rust_with_legacy_names() {
    check("rustc", "service.rs", &["-O", "-g"], Names::All);
}

#[test]
fn rust_with_v0_names() {
    check(
        "rustc",
        "service.rs",
        &["-O", "-g", "-Csymbol-mangling-version=v0"],
        Names::All,
    );
}

#[test]
fn rust_with_lines_only() {
    check(
        "rustc",
        "service.rs",
        &["-O", "-Cdebuginfo=line-tables-only"],
        Names::OutermostOnly,
    );
}

#[test]
fn without_debug_information() {
    let workshop = Workshop::new();
    if is_available("strip") && is_available("nm") {
        for (compiler, source) in [("cc", "calls.c"), ("g++", "shapes.cpp"), ("rustc", "service.rs")] {
            let options: &[&str] = if compiler == "rustc" { &["-O"] } else { &["-O2", "-g"] };
            if let Some(program) = workshop.compile(compiler, source, options) {
                check_stripped(&program, false);
            }
        }
    }
}

#[test]
fn exported_names_only() {
    let workshop = Workshop::new();
    if is_available("strip")
        && is_available("nm")
        && let Some(program) = workshop.compile("cc", "calls.c", &["-O2", "-g", "-rdynamic"])
    {
        check_stripped(&program, true);
    }
}

/// Without any symbol, the addresses of one function have one frame, and hand-written code without unwind tables none.
#[test]
fn functions_without_names() {
    let workshop = Workshop::new();
    if !is_available("strip") || !is_available("nm") {
        return;
    }
    let Some(program) = workshop.compile("cc", "calls.c", &["-O2"]) else {
        return;
    };
    let symbols = output(
        Command::new("nm")
            .args(["--defined-only", "--print-size"])
            .arg(&program),
    );
    let field = |name: &str, field: usize| {
        let line = symbols
            .lines()
            .find(|line| line.ends_with(&format!(" {name}")))
            .unwrap();
        u64::from_str_radix(line.split_whitespace().nth(field).unwrap(), 16).unwrap()
    };
    let stripped = program.with_extension("stripped");
    output(
        Command::new("strip")
            .arg("--strip-all")
            .arg("-o")
            .arg(&stripped)
            .arg(&program),
    );
    let source = FileSource::open(&stripped);
    let mut object = ObjectSymbols::load(&source, &Limits::default()).unwrap();
    for name in ["outer", "recurse", "main"] {
        let (start, size) = (field(name, 0), field(name, 1));
        let resolution = object.resolve(&source, &[start, start + size / 2, start + size - 1]);
        for frames in resolution.frames {
            let [frame] = &frames[..] else {
                panic!("{name}: {frames:?}")
            };
            assert_eq!(
                (&*frame.function, frame.unnamed),
                (&*format!("+{start:#x}"), true),
                "{name}"
            );
        }
    }
    let handwritten = field("handwritten", 0);
    assert_eq!(object.resolve(&source, &[handwritten + 1, 0]).frames.concat(), []);
}

/// Hand-written code without a type or a size is named up to the next function.
#[test]
fn assembly_without_a_type() {
    let workshop = Workshop::new();
    if is_available("nm")
        && let Some(program) = workshop.compile("cc", "calls.c", &["-O2"])
    {
        let symbols = output(Command::new("nm").arg(&program));
        let line = symbols.lines().find(|line| line.ends_with(" handwritten")).unwrap();
        let start = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
        let source = FileSource::open(&program);
        let mut object = ObjectSymbols::load(&source, &Limits::default()).unwrap();
        for frames in object.resolve(&source, &[start, start + 5]).frames {
            assert_eq!(&*frames[0].function, "handwritten");
        }
    }
}

/// A stub of the procedure linkage table is named after the function that it leads to.
#[test]
fn stubs() {
    let workshop = Workshop::new();
    if !is_available("objdump") {
        return;
    }
    for options in [
        &["-O2", "-Wl,-z,lazy"][..],
        &["-O2", "-Wl,-z,now"],
        &["-O2", "-fcf-protection", "-Wl,-z,ibtplt"],
    ] {
        let Some(program) = workshop.compile("cc", "calls.c", options) else {
            return;
        };
        let code = output(
            Command::new("objdump")
                .args(["--disassemble", "--no-show-raw-insn"])
                .arg(&program),
        );
        let called = code
            .lines()
            .filter_map(|line| line.split("call ").nth(1)?.split_once(" <"));
        let stubs = called.filter_map(|(address, name)| {
            Some((
                u64::from_str_radix(address.trim(), 16).ok()?,
                name.strip_suffix('>').filter(|n| n.ends_with("@plt"))?,
            ))
        });
        let stubs: Vec<_> = stubs.collect();
        assert!(stubs.len() >= 2, "{stubs:?}");
        let source = FileSource::open(&program);
        let mut object = ObjectSymbols::load(&source, &Limits::default()).unwrap();
        for (address, name) in stubs {
            let frames = &object.resolve(&source, &[address]).frames[0];
            assert_eq!(
                frames.first().map(|frame| &*frame.function),
                Some(name),
                "{address:#x} {options:?}"
            );
        }
    }
}

#[test]
fn build_id_and_debug_link() {
    let workshop = Workshop::new();
    let Some(program) = workshop.compile("cc", "calls.c", &["-O2", "-g", "-Wl,--build-id=0x0123456789abcdef"]) else {
        return;
    };
    if !is_available("objcopy") {
        return;
    }
    let debug = workshop.path("calls.debug");
    output(
        Command::new("objcopy")
            .arg("--only-keep-debug")
            .arg(&program)
            .arg(&debug),
    );
    let link = format!("--add-gnu-debuglink={}", debug.display());
    let linked = workshop.path("linked");
    output(
        Command::new("objcopy")
            .arg("--strip-debug")
            .arg(link)
            .arg(&program)
            .arg(&linked),
    );
    let source = FileSource::open(&linked);
    let object = ObjectSymbols::load(&source, &Limits::default()).unwrap();
    assert_eq!(
        object.build_id(&source).unwrap(),
        [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]
    );
    assert_eq!(object.debug_link(&source).unwrap().file_name, b"calls.debug");
    // The separate file has no code but names the same addresses.
    let addresses = addresses(&program, 7);
    let debug = FileSource::open(&debug);
    let from_debug = ObjectSymbols::load(&debug, &Limits::default())
        .unwrap()
        .resolve(&debug, &addresses);
    let whole = FileSource::open(&program);
    let from_whole = ObjectSymbols::load(&whole, &Limits::default())
        .unwrap()
        .resolve(&whole, &addresses);
    assert_eq!(from_debug.debug_error, None);
    assert_eq!(from_debug.frames, from_whole.frames);
}
