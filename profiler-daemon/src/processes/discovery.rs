//! What kind of program an object is, by its content.
//!
//! In: an open file. Out: [`Marks`]. A program is Rust if rustc says so in its `.comment` section, which linkers keep even
//! when they strip, or else if its constants hold a path of the standard library's sources as rustc remaps them
//! (`/rustc/COMMIT/library/…`), which every panic message has. An object is a Python interpreter if it defines the symbol
//! `_PyRuntime`, which holds the state of every CPython since 3.7.
//!
//! Everything is read in pieces within bounds; what is damaged or out of bounds has no mark.

use std::{io, os::fd::AsFd};

use object::{
    LittleEndian, ReadCache, ReadRef,
    elf::{ELFCLASS64, FileHeader64, SHF_EXECINSTR, SHF_WRITE, SHN_UNDEF, SHT_DYNSYM, SHT_PROGBITS, SHT_SYMTAB},
    read::elf::{FileHeader, SectionHeader},
};

use super::files::BoundedFile;
use crate::stacks::window::FileIdentity;

/// Most bytes of one file that are looked at.
const MAX_BYTES: u64 = 64 << 20;
/// Most bytes of the headers, the comments and the names of sections.
const MAX_HEADER_BYTES: u64 = 4 << 20;
/// Most sections looked at; linked programs have some forty.
const MAX_SECTIONS: u16 = 4096;
/// Most bytes of constants that are searched for the path of the standard library.
const MAX_CONSTANT_BYTES: u64 = 16 << 20;
/// Most bytes of a string table, and of a symbol table.
const MAX_SYMBOL_BYTES: u64 = 16 << 20;
/// Most bytes of `.comment`.
const MAX_COMMENT_BYTES: u64 = 64 << 10;
/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 128 << 10;
/// Size of a symbol in a 64-bit object, and where its name's offset and section's number lie (`Elf64_Sym`).
const SYMBOL_BYTES: usize = 24;

/// What an object's content says about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// rustc compiled it, or parts of it.
    pub rust: bool,
    /// It holds a CPython interpreter.
    pub python: bool,
}

type Section = object::elf::SectionHeader64<LittleEndian>;

/// Looks for the marks in a file.
pub fn examine(file: impl AsFd, identity: &FileIdentity) -> Marks {
    let headers = ReadCache::new(BoundedFile::new(file.as_fd(), identity.length, MAX_HEADER_BYTES));
    let mut content = BoundedFile::new(file.as_fd(), identity.length, MAX_BYTES);
    let Some(named) = sections(&headers) else {
        return Marks::default();
    };
    // A damaged part has no mark.
    Marks {
        rust: is_rust(&named, &mut content).unwrap_or(false),
        python: is_python(&named, &mut content).unwrap_or(false),
    }
}

/// Sections with their names.
struct Sections<'data> {
    headers: &'data [Section],
    names: Vec<&'data [u8]>,
}

impl<'data> Sections<'data> {
    fn iter(&self) -> impl Iterator<Item = (&'data [u8], &'data Section)> + '_ {
        self.names.iter().copied().zip(self.headers)
    }
}

fn sections<'data, R: ReadRef<'data>>(data: R) -> Option<Sections<'data>> {
    let header = FileHeader64::<LittleEndian>::parse(data).ok()?;
    let class = header.e_ident().class;
    // With the number in the header bounded, no table beyond the bounds can be asked for.
    if class != ELFCLASS64 || !(1..=MAX_SECTIONS).contains(&header.e_shnum(LittleEndian)) {
        return None;
    }
    let headers = header.section_headers(LittleEndian, data).ok()?;
    let strings = header.section_strings(LittleEndian, data, headers).ok()?;
    let names = headers
        .iter()
        .map(|section| section.name(LittleEndian, strings).unwrap_or_default())
        .collect();
    Some(Sections { headers, names })
}

fn is_rust<F: AsFd>(sections: &Sections<'_>, file: &mut BoundedFile<F>) -> io::Result<bool> {
    for (name, section) in sections.iter() {
        if name == b".comment" && find(file, section, MAX_COMMENT_BYTES, b"rustc version ", |_, _| Ok(true))? {
            return Ok(true);
        }
    }
    for (_, section) in sections.iter() {
        let flags = section.sh_flags(LittleEndian);
        let is_constant = section.sh_type(LittleEndian) == SHT_PROGBITS
            && flags.contains(object::elf::SHF_ALLOC)
            && !flags.contains(SHF_WRITE)
            && !flags.contains(SHF_EXECINSTR);
        if is_constant && find(file, section, MAX_CONSTANT_BYTES, b"/rustc/", follows_library_path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the path goes on like one of the standard library's: `/rustc/` is followed by the commit or the version that
/// the library was built from, then by `/library/`.
fn follows_library_path<F: AsFd>(file: &mut BoundedFile<F>, offset: u64) -> io::Result<bool> {
    const COMMIT_DIGITS: usize = 40;
    const LIBRARY: &[u8] = b"/library/";
    let mut bytes = [0; b"/rustc/".len() + COMMIT_DIGITS + LIBRARY.len()];
    let read = file.read_at(&mut bytes, offset)?;
    let after = bytes[..read].get(b"/rustc/".len()..).unwrap_or_default();
    let Some(end) = after.iter().position(|&byte| byte == b'/') else {
        return Ok(false);
    };
    let (source, rest) = after.split_at(end);
    let is_commit = source.len() == COMMIT_DIGITS && source.iter().all(u8::is_ascii_hexdigit);
    let is_version = source.first().is_some_and(u8::is_ascii_digit) && source.contains(&b'.');
    Ok((is_commit || is_version) && rest.starts_with(LIBRARY))
}

fn is_python<F: AsFd>(sections: &Sections<'_>, file: &mut BoundedFile<F>) -> io::Result<bool> {
    for (_, symbols) in sections.iter() {
        let kind = symbols.sh_type(LittleEndian);
        if kind != SHT_DYNSYM && kind != SHT_SYMTAB {
            continue;
        }
        let strings = usize::try_from(symbols.sh_link(LittleEndian))
            .ok()
            .and_then(|index| sections.headers.get(index));
        let Some(strings) = strings else { continue };
        let first_string = strings.sh_offset(LittleEndian);
        let defined = |file: &mut BoundedFile<F>, offset: u64| {
            let name = u32::try_from(offset - first_string).ok();
            name.map_or(Ok(false), |name| defines(file, symbols, name))
        };
        if find(file, strings, MAX_SYMBOL_BYTES, b"_PyRuntime\0", defined)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a symbol with the name at this offset of the string table is defined in the object.
fn defines<F: AsFd>(file: &mut BoundedFile<F>, symbols: &Section, name: u32) -> io::Result<bool> {
    let start = symbols.sh_offset(LittleEndian);
    let length = symbols.sh_size(LittleEndian).min(MAX_SYMBOL_BYTES);
    let mut buffer = vec![0; CHUNK_BYTES / SYMBOL_BYTES * SYMBOL_BYTES];
    let mut done = 0;
    while done < length {
        let wanted = buffer.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
        let Some(offset) = start.checked_add(done) else { break };
        let read = file.read_at(&mut buffer[..wanted], offset)?;
        for symbol in buffer[..read].chunks_exact(SYMBOL_BYTES) {
            if symbol[..4] == name.to_le_bytes() && symbol[6..8] != SHN_UNDEF.0.to_le_bytes() {
                return Ok(true);
            }
        }
        if read < wanted {
            break;
        }
        done += read as u64;
    }
    Ok(false)
}

/// Whether `wanted` is found in the first `limit` bytes of a section at a place that `accept` takes. It is given the offset
/// in the file.
fn find<F: AsFd>(
    file: &mut BoundedFile<F>,
    section: &Section,
    limit: u64,
    wanted: &[u8],
    mut accept: impl FnMut(&mut BoundedFile<F>, u64) -> io::Result<bool>,
) -> io::Result<bool> {
    if section.sh_type(LittleEndian) == object::elf::SHT_NOBITS {
        return Ok(false);
    }
    let start = section.sh_offset(LittleEndian);
    let length = section.sh_size(LittleEndian).min(limit);
    let mut buffer = vec![0; CHUNK_BYTES.min(usize::try_from(length).unwrap_or(CHUNK_BYTES))];
    let mut done = 0;
    while done < length {
        let Some(offset) = start.checked_add(done) else { break };
        let part = buffer.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
        let read = file.read_at(&mut buffer[..part], offset)?;
        for place in places(&buffer[..read], wanted) {
            if accept(file, offset + place as u64)? {
                return Ok(true);
            }
        }
        // Pieces overlap by what may lie across their border.
        let step = read.saturating_sub(wanted.len() - 1);
        if read < part || step == 0 || done + read as u64 >= length {
            break;
        }
        done += step as u64;
    }
    Ok(false)
}

fn places<'a>(bytes: &'a [u8], wanted: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    memchr::memmem::find_iter(bytes, wanted)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        path::{Path, PathBuf},
        process::Command,
    };

    use super::*;
    use crate::processes::files::identity_of;

    fn marks(path: &Path) -> Marks {
        let file = File::open(path).unwrap();
        examine(&file, &identity_of(&file).unwrap())
    }

    /// Builds a program, or says which compiler is missing.
    fn build(directory: &Path, compiler: &str, source: &str, name: &str, arguments: &[&str]) -> Option<PathBuf> {
        let source_path = directory.join(format!("{name}.{}", if compiler == "rustc" { "rs" } else { "c" }));
        let output = directory.join(name);
        fs::write(&source_path, source).unwrap();
        let built = Command::new(compiler)
            .args(arguments)
            .arg("-o")
            .arg(&output)
            .arg(&source_path)
            .output();
        match built {
            Ok(done) => {
                assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
                Some(output)
            }
            Err(error) => {
                println!("skipped: {compiler} is missing ({error})");
                None
            }
        }
    }

    const RUST: &str = "fn main() { println!(\"{}\", std::env::args().count()); }";

    #[test]
    fn rust_programs() {
        let directory = tempfile::tempdir().unwrap();
        for (name, arguments) in [
            ("plain", &["-O"][..]),
            ("debug", &["-g"]),
            ("stripped", &["-O", "-C", "strip=symbols"]),
            ("abort", &["-O", "-C", "panic=abort", "-C", "strip=symbols"]),
        ] {
            let Some(program) = build(directory.path(), "rustc", RUST, name, arguments) else {
                return;
            };
            assert_eq!(
                marks(&program),
                Marks {
                    rust: true,
                    python: false
                },
                "{name}"
            );
            // Not even the comment is left: the paths in the constants are.
            let bare = directory.path().join(format!("{name}-bare"));
            let stripped = Command::new("objcopy")
                .args(["-S", "-R", ".comment"])
                .arg(&program)
                .arg(&bare)
                .status();
            match stripped {
                Ok(status) if status.success() => {
                    assert_eq!(
                        marks(&bare),
                        Marks {
                            rust: true,
                            python: false
                        },
                        "{name} without its comment"
                    );
                }
                other => println!("skipped: objcopy ({other:?})"),
            }
        }
    }

    #[test]
    fn c_programs_and_interpreters() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let c = "int main(int c, char **v) { return c + v[0][0]; }";
        let Some(plain) = build(at, "cc", c, "plain", &["-O1"]) else {
            return;
        };
        assert_eq!(marks(&plain), Marks::default());
        let python = "long _PyRuntime[9] = {1}; int main(void) { return (int)_PyRuntime[0]; }";
        let interpreter = build(at, "cc", python, "python", &["-O1", "-rdynamic"]).unwrap();
        assert_eq!(
            marks(&interpreter),
            Marks {
                rust: false,
                python: true
            }
        );
        let unstripped = build(at, "cc", python, "local", &["-O1"]).unwrap();
        assert!(marks(&unstripped).python, "by .symtab");
        let library = build(
            at,
            "cc",
            "extern long _PyRuntime[9]; long f(void) { return _PyRuntime[0]; }",
            "ext.so",
            &["-shared", "-fPIC"],
        );
        assert!(!marks(&library.unwrap()).python, "a reference is no definition");
        let talk = build(
            at,
            "cc",
            "const char s[] = \"/rustc/ and _PyRuntime\"; int main(void) { return s[0]; }",
            "talk",
            &[],
        );
        assert_eq!(marks(&talk.unwrap()), Marks::default(), "words are no marks");
    }

    #[test]
    fn this_test_is_rust_and_the_interpreter_is_python() {
        assert!(marks(&std::env::current_exe().unwrap()).rust);
        let Ok(python) = Command::new("python3")
            .args(["-c", "import sys; print(sys.executable)"])
            .output()
        else {
            println!("skipped: python3 is missing");
            return;
        };
        let executable = PathBuf::from(String::from_utf8(python.stdout).unwrap().trim());
        let libraries = Command::new("python3")
            .args([
                "-c",
                "print(*{l.split()[-1] for l in open('/proc/self/maps') if 'libpython' in l})",
            ])
            .output()
            .unwrap();
        let library = String::from_utf8(libraries.stdout).unwrap();
        let objects = library.split_ascii_whitespace().map(PathBuf::from).chain([executable]);
        assert!(objects.filter(|path| marks(path).python).count() > 0);
    }

    #[test]
    fn damaged_and_huge_objects_end_quickly() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("object");
        let original = fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut header = original[..64].to_vec();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..400 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let place = (state >> 33) as usize % header.len();
            header[place] = (state >> 24) as u8;
            if round % 4 == 0 {
                header = original[..64].to_vec();
            }
            fs::write(&path, &header).unwrap();
            // Whatever the header speaks of lies in a hole of 4 GiB.
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(4 << 30)
                .unwrap();
            marks(&path);
        }
        for length in [0, 1, 16, 63, 64, 200] {
            fs::write(&path, &original[..length]).unwrap();
            assert_eq!(marks(&path), Marks::default());
        }
    }
}
