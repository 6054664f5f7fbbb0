//! Compiles, links and strips the object, so that the bytes depend on the sources and the pinned tools alone.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::toolchain::Tools;
use crate::{command, workspace};

const TARGET: &str = "bpfel-unknown-none";

/// The compiler's flags. The instruction set v3 has 32-bit arithmetic and the atomic operations; the maps are declared
/// through BTF, which bpf-linker makes from the debug information.
pub(super) const RUSTFLAGS: [&str; 3] = ["-Ctarget-cpu=v3", "-Cdebuginfo=2", "-Clink-arg=--btf"];

/// The profile, apart from the workspace's own, so that a change of the daemon's release profile does not change the
/// object. One codegen unit: the order of functions must not depend on the machine.
pub(super) const PROFILE: [&str; 8] = [
    "profile.ebpf.inherits='release'",
    "profile.ebpf.opt-level=3",
    "profile.ebpf.debug=2",
    "profile.ebpf.codegen-units=1",
    "profile.ebpf.lto=false",
    "profile.ebpf.panic='abort'",
    "profile.ebpf.overflow-checks=false",
    "profile.ebpf.strip='none'",
];

/// Builds in `target_dir` and returns the stripped object.
pub(super) fn object(tools: &Tools, target_dir: &Path) -> Result<Vec<u8>> {
    command::run(&mut cargo("build", tools, target_dir))?;
    strip(tools, &target_dir.join(TARGET).join("ebpf/profiler"))
}

/// Holds the programs against the workspace's lints, which see nothing of them when they run for the host.
pub(super) fn lint(tools: &Tools, target_dir: &Path) -> Result<()> {
    // A key or value that is handed over by value is one more copy on a stack of 512 bytes.
    let allow = "--allow=clippy::needless_borrows_for_generic_args";
    command::run(cargo("clippy", tools, target_dir).args(["--no-deps", "--", "--deny=warnings", allow]))
}

/// `cargo VERB` for the programs in the kernel.
fn cargo(verb: &str, tools: &Tools, target_dir: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(workspace::root());
    if let Some(toolchain) = tools.toolchain {
        cargo.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    // What the environment says about compiling is for the host.
    for variable in [
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_TARGET_DIR",
    ] {
        cargo.env_remove(variable);
    }
    cargo
        // build-std on the stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", encoded_flags(tools))
        .args([
            verb,
            "--package",
            "profiler-ebpf",
            "--profile",
            "ebpf",
            "--target",
            TARGET,
        ])
        .args(["-Z", "build-std=core", "--target-dir"])
        .arg(target_dir);
    for setting in PROFILE {
        cargo.args(["--config", setting]);
    }
    cargo
}

/// Drops the DWARF sections; `.BTF` and `.BTF.ext` stay, which loading needs.
fn strip(tools: &Tools, linked: &Path) -> Result<Vec<u8>> {
    let stripped = linked.with_extension("bpf.o");
    command::run(
        Command::new(&tools.objcopy)
            // rustup sets this for what it starts; this tool is started past it.
            .env("LD_LIBRARY_PATH", tools.sysroot.join("lib"))
            .arg("--strip-debug")
            .arg(linked)
            .arg(&stripped),
    )?;
    fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))
}

/// The flags as cargo takes them from the environment, with every path of this machine mapped to a fixed one.
fn encoded_flags(tools: &Tools) -> OsString {
    let mut flags: Vec<OsString> = RUSTFLAGS.iter().map(OsString::from).collect();
    let mut linker = OsString::from("-Clinker=");
    linker.push(&tools.bpf_linker);
    flags.push(linker);
    // The last prefix that fits wins: the checkout may lie in the home folder, and cargo's home in the checkout.
    let mut prefixes = vec![(workspace::root(), "/profiler"), (cargo_home(), "/cargo")];
    // A mirror of the registry has a folder with another name.
    prefixes.extend(registries().into_iter().map(|folder| (folder, "/crates")));
    prefixes.push((tools.sysroot.clone(), "/rust"));
    for (from, to) in prefixes {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        flags.push(flag);
    }
    flags.join(std::ffi::OsStr::new("\u{1f}"))
}

/// The folders below which cargo keeps the sources of packages, one for each registry it has used.
fn registries() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(cargo_home().join("registry/src")) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".cargo"))
}
