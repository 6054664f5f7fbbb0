//! The compiler, the linker and the stripper of the object: exactly the recorded versions, because only those give the
//! same bytes. What is missing is installed under `target/tools`; the compiler itself is the user's.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

/// The compiler that builds the object.
pub(super) const RUSTC: &str = "1.95.0";
/// The linker from LLVM bitcode to a BPF object.
pub(super) const BPF_LINKER: &str = "0.10.4";

/// Where the tools of one build are.
#[derive(Debug)]
pub(super) struct Tools {
    /// `RUSTUP_TOOLCHAIN` for the build, when the compiler at hand has another version.
    pub(super) toolchain: Option<&'static str>,
    /// Root of the compiler's installation.
    pub(super) sysroot: PathBuf,
    pub(super) bpf_linker: PathBuf,
    pub(super) objcopy: PathBuf,
}

/// Finds the tools and installs those that are missing.
pub(super) fn prepare() -> Result<Tools> {
    let toolchain = choose_rustc()?;
    let sysroot = PathBuf::from(command::output(rustc(toolchain).args(["--print", "sysroot"]))?);
    if !sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file() {
        add_rust_src(toolchain)?;
    }
    let host = command::output(rustc(toolchain).args(["--print", "host-tuple"]))?;
    let objcopy = sysroot.join("lib/rustlib").join(host).join("bin/rust-objcopy");
    if !objcopy.is_file() {
        bail!(
            "{} is missing, which the toolchains of rustup bring: use rustup's Rust {RUSTC} to build the object",
            objcopy.display()
        );
    }
    Ok(Tools {
        toolchain,
        sysroot,
        bpf_linker: bpf_linker()?,
        objcopy,
    })
}

/// The rustc of `toolchain`, or the one at hand.
fn rustc(toolchain: Option<&str>) -> Command {
    let mut command = Command::new("rustc");
    command.current_dir(workspace::root());
    if let Some(toolchain) = toolchain {
        command.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    command
}

fn choose_rustc() -> Result<Option<&'static str>> {
    for toolchain in [None, Some(RUSTC)] {
        let version = command::output(rustc(toolchain).arg("--version").stderr(Stdio::null()));
        if version.is_ok_and(|version| version.split(' ').nth(1) == Some(RUSTC)) {
            return Ok(toolchain);
        }
    }
    bail!(
        "the object is built with Rust {RUSTC} only, so that everybody gets the same bytes: `rustup toolchain install {RUSTC}`"
    )
}

fn add_rust_src(toolchain: Option<&str>) -> Result<()> {
    println!("adding the sources of the standard library (rustup component rust-src)");
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add", "rust-src"]);
    if let Some(toolchain) = toolchain {
        rustup.args(["--toolchain", toolchain]);
    }
    command::run(&mut rustup).with_context(|| {
        format!("building the object needs the source of Rust {RUSTC}'s core library: `rustup component add rust-src`")
    })
}

fn bpf_linker() -> Result<PathBuf> {
    let root = workspace::scratch().join("tools");
    let program = root.join("bin/bpf-linker");
    let version = command::output(Command::new(&program).arg("--version").stderr(Stdio::null()));
    if version.is_ok_and(|version| version.split(' ').nth(1) == Some(BPF_LINKER)) {
        return Ok(program);
    }
    println!(
        "installing bpf-linker {BPF_LINKER} to {} (some minutes, once)",
        root.display()
    );
    command::run(
        workspace::cargo()
            .args([
                "install",
                "bpf-linker",
                "--version",
                BPF_LINKER,
                "--locked",
                "--force",
                "--root",
            ])
            .arg(&root)
            .arg("--target-dir")
            .arg(root.join("build")),
    )
    .with_context(|| format!("building the object needs bpf-linker {BPF_LINKER}"))?;
    Ok(program)
}
