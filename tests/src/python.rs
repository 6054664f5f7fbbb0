//! Python programs of known behaviour: the scripts of `tests/fixtures/python`, started under one of the interpreters.
//!
//! The scripts are part of the test program and are written where the interpreter sees them, which may be a root of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{interpreters::Interpreter, programs::Running, truth::Truth};

macro_rules! fixtures {
    ($($name:literal),*) => {
        [$(($name, include_str!(concat!("../fixtures/python/", $name)))),*]
    };
}

const FIXTURES: [(&str, &str); 18] = fixtures!(
    "arrays.py",
    "becomes.py",
    "brief.py",
    "churn.py",
    "greenlets.py",
    "grow.py",
    "hoard.py",
    "hostile_heap.py",
    "listens.py",
    "native.c",
    "prefork.py",
    "service.py",
    "shapes.py",
    "shares.py",
    "steady.py",
    "surge.py",
    "truth.py",
    "wsgi.py"
);
/// What a script may be written beside: the folder for files that come and go, in every root.
const TEMPORARY: &str = "/tmp";

/// The scripts, in a folder that an interpreter sees. It goes away with this.
#[derive(Debug)]
pub struct Scripts<'a> {
    interpreter: &'a Interpreter,
    folder: TempDir,
    /// The same folder as the interpreter sees it.
    inside: PathBuf,
}

/// A Python program that is ready.
#[derive(Debug)]
pub struct PythonProgram {
    /// The process.
    pub running: Running,
    /// What it said before it was ready.
    pub said: Vec<String>,
}

impl PythonProgram {
    /// What it says of its own stacks.
    ///
    /// # Panics
    /// It says nothing of them.
    pub fn truth(&self) -> Truth {
        Truth::of(&self.said)
    }
}

impl<'a> Scripts<'a> {
    /// Writes the scripts for an interpreter.
    ///
    /// # Panics
    /// They cannot be written.
    pub fn of(interpreter: &'a Interpreter) -> Self {
        let root = interpreter.root.as_deref();
        let temporary = root.map_or(PathBuf::from(TEMPORARY), |root| root.join(&TEMPORARY[1..]));
        let folder = TempDir::with_prefix_in("profiler-python-", temporary).expect("a temporary folder");
        let inside = folder.path().strip_prefix(root.unwrap_or(Path::new("/")));
        let inside = Path::new("/").join(inside.expect("a folder of the root"));
        // For whoever the program is started as.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode can be set");
        for (name, text) in FIXTURES {
            fs::write(folder.path().join(name), text).expect("a script can be written");
        }
        Self {
            interpreter,
            folder,
            inside,
        }
    }

    /// Compiles the module `native` for the interpreter; without headers there is none.
    ///
    /// # Errors
    /// It cannot be had, and why.
    pub fn compile_native(&self) -> Result<(), String> {
        let headers = self.interpreter.headers.as_deref();
        let headers = headers.ok_or_else(|| format!("{} has no headers", self.interpreter.name))?;
        let mut command = Command::new("cc");
        command
            .args(["-O2", "-fomit-frame-pointer", "-shared", "-fPIC"])
            // Debian's name what differs between architectures from the folder above.
            .args([
                Path::new("-I"),
                headers,
                Path::new("-I"),
                headers.parent().unwrap_or(headers),
            ])
            .arg("-o")
            .args([self.path("native.so"), self.path("native.c")]);
        let output = command
            .output()
            .map_err(|error| format!("cannot run the compiler: {error}"))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// A path in the folder, as we see it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path in the folder, as the interpreter sees it.
    pub fn path_inside(&self, name: &str) -> PathBuf {
        self.inside.join(name)
    }

    /// A command that runs one of the scripts.
    pub fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = self.interpreter.command();
        command.arg(self.path_inside(script)).args(arguments);
        command
    }

    /// What in a configuration of the daemon makes all that run scripts of this folder one service, and nothing else: others may run
    /// the same script.
    pub fn as_service(&self, name: &str) -> String {
        let scripts = self.path_inside("*");
        format!(
            "[[targets.services]]\nname = \"{name}\"\ncommand_lines = [\"* {}\"]\n",
            scripts.display()
        )
    }

    /// Starts one of the scripts and waits until it is ready.
    ///
    /// # Panics
    /// It does not become ready.
    pub fn start(&self, script: &str, arguments: &[&str]) -> PythonProgram {
        let (running, said) = Running::start_and_listen(&mut self.command(script, arguments));
        PythonProgram { running, said }
    }
}
