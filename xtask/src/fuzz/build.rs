//! Builds the targets as cargo-fuzz would, without it: the stable compiler has LLVM's coverage pass, and the crate
//! libfuzzer-sys brings the fuzzer's source, which needs a C++ compiler.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::targets::{self, Target};
use crate::{command, privilege, workspace};

/// Counters on each edge, a table of their addresses, and the operands of comparisons: what libFuzzer steers by. There is no
/// address sanitizer: the code has no `unsafe` where bytes of others are read.
const FLAGS: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Dwarnings",
];

/// Where the built targets are.
#[derive(Debug)]
pub(super) struct Built {
    folder: PathBuf,
}

impl Built {
    /// The program of a target.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Builds the targets.
pub(super) fn run(chosen: &[&Target]) -> Result<Built> {
    if let Some(reason) = missing_compiler() {
        bail!("{reason}");
    }
    let host = command::output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let mut cargo = workspace::cargo();
    // What the environment says about compiling is for ordinary builds.
    cargo.env_remove("RUSTFLAGS");
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"))
        .args(["build", "--quiet", "--release", "--target", &host])
        .args(chosen.iter().map(|target| format!("--bin={}", target.name)))
        .arg("--manifest-path")
        .arg(super::folder().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(targets::scratch());
    if privilege::in_ci() {
        cargo.arg("--locked");
    }
    command::run(&mut cargo).context("the fuzz targets cannot be built")?;
    Ok(Built {
        folder: targets::scratch().join(host).join("release"),
    })
}

/// What is missing for the fuzzer itself, which is C++.
pub(super) fn missing_compiler() -> Option<String> {
    let compiler = env::var("CXX").unwrap_or_else(|_unset| "c++".to_owned());
    let found = Command::new(&compiler)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let works = found.is_ok_and(|status| status.success());
    (!works).then(|| format!("the fuzzer is C++, and there is no compiler for it ({compiler})"))
}
