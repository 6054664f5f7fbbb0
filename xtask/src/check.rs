//! Everything that can be said about the sources without running the profiler.

use std::process::Command;

use anyhow::Result;

use crate::steps::Steps;
use crate::{command, ebpf, licences, metadata, tidy, workspace};

/// The fuzz targets are no part of the workspace.
const FUZZ_MANIFEST: &str = "--manifest-path=fuzz/Cargo.toml";

/// Runs all checks, also when one fails.
///
/// # Errors
/// A check failed.
pub(crate) fn run(rebuild_ebpf: bool) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("formatting", || cargo(&["fmt", "--all", "--", "--check"], &[]));
    steps.run("formatting of fuzz targets", || {
        cargo(&["fmt", FUZZ_MANIFEST, "--", "--check"], &[])
    });
    steps.run("tidy", tidy::run);
    steps.run("licences", licences::check);
    steps.run("clippy", || {
        cargo(
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--keep-going",
                "--locked",
                "--quiet",
                "--",
                "--deny=warnings",
            ],
            &[],
        )
    });
    steps.run("clippy of kernel tests", || {
        // `cargo test` leaves the target out, and so does --all-targets.
        let what = ["clippy", "--package=profiler-tests", "--test=kernel"];
        cargo(
            &[&what[..], &["--locked", "--quiet", "--", "--deny=warnings"]].concat(),
            &[],
        )
    });
    steps.run("clippy of fuzz targets", || {
        // Their library alone, beside the other artefacts: no C++ compiler, and little to build anew.
        let target = metadata::target_directory(&metadata::of_workspace()?)?;
        let target = format!("--target-dir={}", target.display());
        let what = ["clippy", FUZZ_MANIFEST, &target, "--lib", "--no-default-features"];
        cargo(
            &[&what[..], &["--locked", "--quiet", "--", "--deny=warnings"]].concat(),
            &[],
        )
    });
    steps.run("documentation", || {
        // For the host the kernel side is an empty program.
        let what = [
            "--workspace",
            "--exclude=profiler-ebpf",
            "--no-deps",
            "--document-private-items",
        ];
        let flags = "--deny=warnings --allow=rustdoc::private-intra-doc-links";
        let how = ["--keep-going", "--locked", "--quiet"];
        cargo(&[&["doc"], &what[..], &how].concat(), &[("RUSTDOCFLAGS", flags)])
    });
    steps.run("generated code", || {
        let generate = ["--package=profiler-proto", "--features=generate", "--bin=generate"];
        cargo(
            &[&["run", "--locked", "--quiet"], &generate[..], &["--", "--check"]].concat(),
            &[],
        )
    });
    steps.run("eBPF object", || ebpf::check(rebuild_ebpf));
    steps.finish()
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let mut cargo: Command = workspace::cargo();
    command::run(cargo.args(arguments).envs(environment.iter().copied()))
}
