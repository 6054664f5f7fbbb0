//! The Debian package: release programs, units, default configuration, manual pages and completions, in one file below
//! `target/dist`.
//!
//! What is packed where is written in `profiler-daemon/Cargo.toml`; here is made what the package needs and the checkout
//! does not hold.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::binaries::Binaries;
use crate::{command, metadata, workspace};

/// The packer.
const CARGO_DEB: &str = "3.8.0";
/// Name of the package.
const PACKAGE: &str = "profiler";
/// Revision of the packaging within one version.
const REVISION: &str = "1";

/// What to pack.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The release programs are built already.
    #[arg(long, hide = true)]
    built: bool,
}

/// Builds the package, and has lintian look at it where that is installed.
///
/// # Errors
/// Something cannot be built, or lintian refuses it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let binaries = if arguments.built {
        let target = metadata::target_directory(&metadata::of_workspace()?)?;
        Binaries::in_folder(&target.join("release"))
    } else {
        Binaries::build()?
    };
    println!("{}", package(&binaries)?.display());
    Ok(())
}

/// Packs these programs, which lie where cargo builds them. Gives the package.
///
/// # Errors
/// The packer or lintian refuses.
pub(crate) fn package(binaries: &Binaries) -> Result<PathBuf> {
    let output = workspace::scratch().join("dist");
    let files = output.join("files");
    // What an earlier version had and this one has not must not be packed.
    if files.exists() {
        fs::remove_dir_all(&files).with_context(|| format!("cannot empty {}", files.display()))?;
    }
    fs::create_dir_all(files.join("man"))?;
    documents(&binaries.cli, &files)?;
    let version = version()?;
    let maintainer = maintainer()?;
    fs::write(
        files.join("changelog"),
        changelog(&version, &maintainer, &commit_date()?),
    )?;
    let package = output.join(format!("{PACKAGE}_{version}-{REVISION}_{}.deb", architecture()?));
    pack(&package, &maintainer)?;
    lint(&package)?;
    Ok(package)
}

/// Manual pages and completions, as the command line describes itself.
fn documents(cli: &Path, files: &Path) -> Result<()> {
    command::run(Command::new(cli).args(["man", "--directory"]).arg(files.join("man")))?;
    for (shell, name) in [
        ("bash", "profiler-cli.bash"),
        ("zsh", "_profiler-cli"),
        ("fish", "profiler-cli.fish"),
    ] {
        let script = command::output(Command::new(cli).args(["completions", shell]))?;
        fs::write(files.join(name), script + "\n")?;
    }
    Ok(())
}

/// The version that all members share.
fn version() -> Result<String> {
    let metadata = metadata::of_workspace()?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let daemon = packages
        .filter(|package| package["name"] == "profiler-daemon" && package["source"].is_null())
        .find_map(|package| package["version"].as_str());
    Ok(daemon
        .context("cargo metadata does not know profiler-daemon")?
        .to_owned())
}

/// Date of what is packed, so that the same commit gives the same package.
fn commit_date() -> Result<String> {
    of_commit("%cD").context("the package is dated by the commit it is built from")
}

/// Who answers for the package: whom the environment names, as it does for Debian's own tools, or the author of what is packed.
fn maintainer() -> Result<String> {
    match (std::env::var("DEBFULLNAME"), std::env::var("DEBEMAIL")) {
        (Ok(name), Ok(address)) => Ok(format!("{name} <{address}>")),
        _ => of_commit("%an <%ae>").context("set DEBFULLNAME and DEBEMAIL to who answers for the package"),
    }
}

/// What git says of the commit that is packed.
fn of_commit(format: &str) -> Result<String> {
    let mut log = Command::new("git");
    log.current_dir(workspace::root()).args(["log", "-1"]);
    command::output(log.arg(format!("--format={format}")))
}

fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no package is made for {other}"),
    }
}

/// The changelog in the form of Debian; what changed for users is in `CHANGELOG.md`.
fn changelog(version: &str, maintainer: &str, date: &str) -> String {
    format!(
        "{PACKAGE} ({version}-{REVISION}) unstable; urgency=medium\n\n  * Version {version}.\n\n \
         -- {maintainer}  {date}\n"
    )
}

/// The packer, installed if it is missing.
fn cargo_deb() -> Result<PathBuf> {
    let root = workspace::scratch().join("tools");
    let program = root.join("bin/cargo-deb");
    let version = command::output(Command::new(&program).arg("--version").stderr(Stdio::null()));
    if version.is_ok_and(|version| version.split(' ').next_back() == Some(CARGO_DEB)) {
        return Ok(program);
    }
    println!(
        "installing cargo-deb {CARGO_DEB} to {} (a minute, once)",
        root.display()
    );
    command::run(
        workspace::cargo()
            .args([
                "install",
                "cargo-deb",
                "--version",
                CARGO_DEB,
                "--locked",
                "--force",
                "--root",
            ])
            .arg(&root)
            .arg("--target-dir")
            .arg(root.join("build")),
    )
    .with_context(|| format!("packing needs cargo-deb {CARGO_DEB}"))?;
    Ok(program)
}

fn pack(package: &Path, maintainer: &str) -> Result<()> {
    command::run(
        Command::new(cargo_deb()?)
            .current_dir(workspace::root())
            .args(["--package=profiler-daemon", "--no-build", "--locked"])
            .args(["--deb-revision", REVISION, "--maintainer", maintainer, "--output"])
            .arg(package),
    )
}

/// Holds the package against the rules of Debian.
fn lint(package: &Path) -> Result<()> {
    let mut probe = Command::new("lintian");
    if command::output(probe.arg("--version").stderr(Stdio::null())).is_err() {
        println!("lintian is not installed: the package is not held against the rules of Debian");
        return Ok(());
    }
    // As root lintian asks for a word that this is meant.
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on=error,warning"]);
    command::run(lintian.arg(package)).context("lintian does not accept the package")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changelog_is_one_that_debian_reads() {
        let text = changelog(
            "1.2.3",
            "A. Packer <packer@host.example>",
            "Sat, 21 Nov 2026 14:00:00 +0000",
        );
        assert!(
            text.starts_with("profiler (1.2.3-1) unstable; urgency=medium\n\n  * "),
            "{text}"
        );
        let trailer = "\n -- A. Packer <packer@host.example>  Sat, 21 Nov 2026 14:00:00 +0000\n";
        assert!(text.ends_with(trailer), "{text}");
    }
}
