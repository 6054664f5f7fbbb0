//! The Python interpreters that are here: the host's, pyenv's, and what `cargo xtask interpreters` unpacked or built.
//!
//! Out: for each one its name, its version and how it is started; for each that does not start, its name and why. Those of
//! other releases of Debian lie in roots of their own, with their own C library, and are started by `chroot`.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The interpreter on musl, below the folder of those that are built. Headers and extensions of the others are not for it, so
/// that it is none of them.
pub const ON_MUSL: &str = "3.11-musl";

/// Written into an environment of packages when everything is there.
pub const COMPLETE: &str = ".is-complete";

/// What an interpreter is asked: its version, the letters of its ABI, and where its headers would be.
const QUESTION: &str = "import sys
try:
    import sysconfig
    headers = sysconfig.get_paths()['include']
except Exception:
    headers = ''
print('.'.join(map(str, sys.version_info[:3])), sys.abiflags or '-', headers or '-')";

/// A release of CPython.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 3.
    pub major: u32,
    /// What fixes the layout of its structures.
    pub minor: u32,
    /// The rest.
    pub patch: u32,
}

/// An interpreter that starts.
#[derive(Clone, Debug)]
pub struct Interpreter {
    /// Where it is from and what it is: `host/python3.11`, `pyenv/3.12.1`, `forky/python3.14-linked`, `built/3.13t`.
    pub name: String,
    /// As it says itself.
    pub version: Version,
    /// Whether it is built without a global lock.
    pub free_threaded: bool,
    /// The folder that it takes for `/`; none if that is ours.
    pub root: Option<PathBuf>,
    /// Its program, as seen from its root.
    pub program: PathBuf,
    /// The folder of its headers, as we see it, where there are any.
    pub headers: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The only minor version that is looked for; none: all of them.
    minor: Option<u32>,
    /// What starts, ordered by version.
    pub interpreters: Vec<Interpreter>,
    /// Names of those that do not, and why.
    pub broken: Vec<(String, String)>,
}

/// Where `cargo xtask interpreters` keeps what it unpacks: `PROFILER_TEST_INTERPRETERS`, or a folder of the checkout.
pub fn folder() -> PathBuf {
    let checkout = || Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/interpreters");
    env::var_os("PROFILER_TEST_INTERPRETERS").map_or_else(checkout, PathBuf::from)
}

/// The root of a release of Debian below `folder`, whether there is one or not.
pub fn root_of(folder: &Path, suite: &str) -> PathBuf {
    folder.join("roots").join(suite)
}

/// Where an interpreter that was built here is installed below `folder`.
pub fn built(folder: &Path, name: &str) -> PathBuf {
    folder.join("built").join(name)
}

/// The interpreter with the packages that services are made of, which `cargo xtask interpreters --packages` installs.
///
/// # Errors
/// It is not there, and why.
pub fn with_packages() -> Result<Interpreter, String> {
    let environment = folder().with_file_name("venvs/services");
    if !environment.join(COMPLETE).is_file() {
        return Err("there are no packages: cargo xtask interpreters --packages".to_owned());
    }
    Interpreter::ask("venvs/services", None, environment.join("bin/python"))
}

/// The interpreter on musl instead of the GNU C library, which `cargo xtask interpreters --musl` builds.
///
/// # Errors
/// It is not there, and why.
pub fn on_musl() -> Result<Interpreter, String> {
    let program = built(&folder(), ON_MUSL).join("bin/python3.11");
    if !program.exists() {
        return Err("there is no Python on musl: cargo xtask interpreters --musl".to_owned());
    }
    let interpreter = Interpreter::ask("built/3.11-musl", None, program)?;
    // What the compiler makes of them is for glibc.
    Ok(Interpreter {
        headers: None,
        ..interpreter
    })
}

/// Looks for interpreters and asks each for its version.
pub fn all() -> Found {
    look(None)
}

/// Looks for interpreters that are named by one minor version, and asks each for the rest.
pub fn of_minor(minor: u32) -> Found {
    look(Some(minor))
}

fn look(minor: Option<u32>) -> Found {
    let mut found = Found {
        minor,
        ..Found::default()
    };
    let folder = folder();
    found.look_at_host();
    found.look_at_versions("pyenv", &pyenv());
    found.look_at_versions("built", &folder.join("built"));
    for suite in names_in(&folder.join("roots")) {
        found.look_at_root(&suite, &root_of(&folder, &suite));
    }
    // Of each version, the simplest to start comes first.
    found
        .interpreters
        .sort_by(|one, other| (one.version, &one.root, &one.name).cmp(&(other.version, &other.root, &other.name)));
    found
}

impl Found {
    /// Of each minor version the first interpreter: for what is the same in all its builds.
    pub fn one_of_each_version(&self) -> Vec<&Interpreter> {
        let mut chosen: Vec<&Interpreter> = Vec::new();
        for interpreter in &self.interpreters {
            let key = |interpreter: &Interpreter| (interpreter.version.minor, interpreter.free_threaded);
            if chosen.iter().all(|other| key(other) != key(interpreter)) {
                chosen.push(interpreter);
            }
        }
        chosen
    }

    fn look_at_host(&mut self) {
        for program in programs_in(Path::new("/usr/bin")) {
            self.ask(format!("host/{program}"), None, Path::new("/usr/bin").join(program));
        }
    }

    /// Folders that are each named after a version, with an interpreter in `bin`.
    fn look_at_versions(&mut self, origin: &str, folder: &Path) {
        for version in names_in(folder).into_iter().filter(|name| name != ON_MUSL) {
            let binaries = folder.join(&version).join("bin");
            // A free-threaded one is installed under two names.
            if let Some(program) = programs_in(&binaries).pop() {
                self.ask(format!("{origin}/{version}"), None, binaries.join(program));
            }
        }
    }

    fn look_at_root(&mut self, suite: &str, root: &Path) {
        for program in programs_in(&root.join("usr/bin")) {
            let name = format!("{suite}/{program}");
            self.ask(name, Some(root), Path::new("/usr/bin").join(program));
        }
    }

    fn ask(&mut self, name: String, root: Option<&Path>, program: PathBuf) {
        if self.minor.is_some_and(|minor| minor_in(&name) != Some(minor)) {
            return;
        }
        match Interpreter::ask(&name, root, program) {
            Ok(interpreter) => self.interpreters.push(interpreter),
            Err(reason) => self.broken.push((name, reason)),
        }
    }
}

impl Interpreter {
    fn ask(name: &str, root: Option<&Path>, program: PathBuf) -> Result<Self, String> {
        if root.is_some() && !rustix::process::geteuid().is_root() {
            return Err("only root may change the root folder".to_owned());
        }
        let mut command = command(root, &program);
        command.args(["-I", "-c", QUESTION]).stdin(Stdio::null());
        let output = command.output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        let words: Vec<_> = said.split_whitespace().collect();
        let (Some(version), [_, flags, headers]) = (Version::parse(&said), &words[..]) else {
            let messages = String::from_utf8_lossy(&output.stderr);
            let last = messages.lines().last().unwrap_or_default();
            return Err(format!("{}: {last}", output.status));
        };
        let headers = root.unwrap_or(Path::new("/")).join(headers.trim_start_matches('/'));
        Ok(Self {
            name: name.to_owned(),
            version,
            free_threaded: flags.contains('t'),
            root: root.map(Path::to_path_buf),
            program,
            headers: headers.join("Python.h").is_file().then_some(headers),
        })
    }

    /// A command that starts it, which takes its arguments.
    pub fn command(&self) -> Command {
        let mut command = command(self.root.as_deref(), &self.program);
        // What it compiles it does not leave in a root that others use.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

impl Version {
    /// Reads `3.12.1` at the start of a text.
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace().next()?.split('.').map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            major: next()?,
            minor: next()?,
            patch: next()?,
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

fn command(root: Option<&Path>, program: &Path) -> Command {
    let Some(root) = root else {
        return Command::new(program);
    };
    // Not on the path of everyone.
    let mut command = Command::new("/usr/sbin/chroot");
    command.arg(root).arg(program);
    command
}

fn pyenv() -> PathBuf {
    let root = env::var_os("PYENV_ROOT").map(PathBuf::from);
    let home = || env::home_dir().unwrap_or_default().join(".pyenv");
    root.unwrap_or_else(home).join("versions")
}

/// Names in a folder, in order; none if there is no such folder.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// Names of the interpreters among the programs in a folder that are 3.8 or newer, in order.
fn programs_in(folder: &Path) -> Vec<String> {
    let is_file = |name: &String| fs::metadata(folder.join(OsStr::new(name))).is_ok_and(|file| file.is_file());
    let mut programs = names_in(folder);
    programs.retain(|name| is_interpreter(name) && is_file(name));
    programs
}

/// `python3.11`, `python3.13t`, and our launchers' names `python3.14-linked` and `python3.14-opened`.
fn is_interpreter(name: &str) -> bool {
    let Some(version) = name.strip_prefix("python3.") else {
        return false;
    };
    let digits = version.trim_end_matches(|c: char| !c.is_ascii_digit());
    let kind = &version[digits.len()..];
    ["", "t", "-linked", "-opened"].contains(&kind) && digits.parse::<u32>().is_ok_and(|minor| minor >= 8)
}

/// The minor version that an interpreter is named by: `host/python3.11`, `pyenv/3.12.1`.
fn minor_in(name: &str) -> Option<u32> {
    let (_, name) = name.rsplit_once('/')?;
    let minor = name.strip_prefix("python").unwrap_or(name).strip_prefix("3.")?;
    minor.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_told_from_other_programs() {
        for name in ["python3.8", "python3.11", "python3.13t", "python3.14-linked"] {
            assert!(is_interpreter(name), "{name}");
        }
        for name in [
            "python3",
            "python3.7",
            "python3.11-config",
            "python3.1x",
            "python3.",
            "pip3.11",
        ] {
            assert!(!is_interpreter(name), "{name}");
        }
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        let version = |text| Version::parse(text).unwrap();
        assert!(version("3.9.18") < version("3.11.2"));
        assert_eq!(version("3.14.0 t /usr").to_string(), "3.14.0");
        assert_eq!(Version::parse("3.14"), None);
        assert_eq!(Version::parse(""), None);
    }

    #[test]
    fn what_does_not_start_is_named_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("3.99.0/bin");
        fs::create_dir_all(&bin).unwrap();
        crate::programs::write_executable(&bin.join("python3.99"), b"#!/bin/sh\necho no module >&2\nexit 3\n");
        let mut found = Found::default();
        found.look_at_versions("made", folder.path());
        assert!(found.interpreters.is_empty());
        let [(name, reason)] = &found.broken[..] else {
            panic!("{found:?}");
        };
        assert_eq!(name, "made/3.99.0");
        assert!(reason.contains('3') && reason.ends_with("no module"), "{reason}");
    }

    #[test]
    fn names_say_the_minor_version() {
        let names = [
            "host/python3.11",
            "pyenv/3.12.1",
            "built/3.13t",
            "forky/python3.14-linked",
            "host/perl",
        ];
        let minors = [Some(11), Some(12), Some(13), Some(14), None];
        assert_eq!(names.map(minor_in), minors);
    }
}
