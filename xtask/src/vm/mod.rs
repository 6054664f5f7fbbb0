//! The kernel ring on a stock Debian kernel: a machine in QEMU with systemd as its first process, where the daemons of the
//! tests run as user `profiler` with the capabilities of the packaged unit.
//!
//! Everything is made and kept below `target/vm`: a root file system for each release, which is built once, and a second
//! disk with the programs, which is built each time. No mounts; the disks are filled by `mke2fs -d`.

mod console;
mod disks;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::binaries::Binaries;
use crate::children::{Interrupt, Running};
use crate::{command, dist, workspace};
use console::Console;
use disks::Disks;

/// The machine.
const QEMU: &str = "qemu-system-x86_64";
/// All that it can emulate but for one instruction: after a `cmpxchg16b`, which newer kernels allocate memory with, QEMU
/// 7.2 holds flags that are none, and the kernel crashes on the way back from the next interrupt.
const CPU: &str = "max,-cx16";
/// For the kernel. It takes its clock for broken when this host lets the machine wait while it is tested.
const KERNEL_COMMAND_LINE: &str = "root=/dev/vda rw console=ttyS0 panic=-1 mitigations=off no_timer_check quiet";
/// How long the machine may take to boot, run the tests and switch itself off. Emulated, a second takes about ten, and
/// more on a busy host.
const LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// A kernel, by the suite of Debian that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Release {
    /// Linux 6.1, the oldest that is supported.
    Bookworm,
    /// The newest Linux for Debian 12.
    BookwormBackports,
    /// The kernel and the programs of Debian 13.
    Trixie,
    /// The kernel and the programs of the Debian after that.
    Forky,
    /// Linux 5.10, which is too old: the daemon must say so and stay up.
    Bullseye,
}

/// Tests that an emulated machine cannot hold, and why.
const NOT_EMULATED: [(&str, &str); 1] = [(
    "accounting::at_4999_hz",
    "an emulated CPU does not take 4,999 interrupts a second",
)];
/// The test of a kernel that is too old; all others need one that is not.
const REFUSAL: &str = "old_kernel::";

impl Release {
    /// The suite, as the package manager knows it.
    fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::BookwormBackports => "bookworm-backports",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
            Self::Bullseye => "bullseye",
        }
    }

    /// The suite of the programs beside the kernel: never older than those the tests were linked with.
    fn programs(self) -> &'static str {
        match self {
            Self::Trixie | Self::Forky => self.suite(),
            Self::Bookworm | Self::BookwormBackports | Self::Bullseye => "bookworm",
        }
    }

    /// What the test program is told to run.
    fn test_arguments(self, filters: &[String]) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = match self {
            Self::Bullseye => vec![REFUSAL.into()],
            _ => filters.iter().map(Into::into).collect(),
        };
        for (test, _) in NOT_EMULATED {
            arguments.extend(["--skip".into(), test.into()]);
        }
        arguments
    }
}

/// What is missing here to run a machine, if anything.
pub(crate) fn missing() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the machine is one of x86_64".to_owned());
    }
    let packages = [
        (QEMU, "qemu-system-x86"),
        ("mmdebstrap", "mmdebstrap"),
        ("mke2fs", "e2fsprogs"),
    ];
    let (program, package) = packages.into_iter().find(|(program, _)| !is_on_path(program))?;
    Some(format!("{program} is not installed: apt-get install {package}"))
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where a user without rights does not look.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

/// Where the ring on this host leaves the programs that its tests compiled, for machines without compilers.
pub(crate) fn compiled_programs() -> PathBuf {
    workspace::scratch().join("vm/programs")
}

/// Boots the release's kernel and runs the tests there.
///
/// # Errors
/// The machine cannot be built or does not end, or something failed in it.
pub(crate) fn run(release: Release, filters: &[String], binaries: &Binaries, tests: &Path) -> Result<()> {
    for (test, reason) in NOT_EMULATED {
        println!("not run: {test}: {reason}");
    }
    let folder = workspace::scratch().join("vm").join(release.suite());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let interrupt = Interrupt::install()?;
    let disks = Disks::prepare(&folder, release, |payload| {
        fill(payload, &release.test_arguments(filters), binaries, tests)?;
        // A service that cannot sample gives no flame graph to ask for.
        match release {
            Release::Bullseye => Ok(()),
            _ => copy(&dist::package(binaries)?, &payload.join("profiler.deb")),
        }
    })?;
    let mut console = Console::new(&folder)?;
    let machine = Running::start(&mut machine(&disks, &console))?;
    console.follow(machine, &interrupt, Instant::now() + LIMIT)
}

/// What the machine finds on its second disk.
fn fill(payload: &Path, arguments: &[OsString], binaries: &Binaries, tests: &Path) -> Result<()> {
    copy(&binaries.daemon, &payload.join("profiler-daemon"))?;
    copy(&binaries.cli, &payload.join("profiler-cli"))?;
    copy(tests, &payload.join("kernel"))?;
    fs::write(payload.join("guest.sh"), include_str!("guest.sh"))?;
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    fs::write(payload.join("arguments"), arguments.join("\n") + "\n")?;
    let programs = compiled_programs();
    if !programs.join("bpf_programs").is_file() {
        bail!(
            "{} holds no compiled programs: the ring on this host leaves them",
            programs.display()
        );
    }
    command::run(
        Command::new("cp")
            .arg("-r")
            .arg(&programs)
            .arg(payload.join("programs")),
    )
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

/// The command that is the machine.
fn machine(disks: &Disks, console: &Console) -> Command {
    let drive = |path: &Path, more: &str| {
        let mut drive = OsString::from("if=virtio,format=raw,");
        drive.push(more);
        drive.push(",file=");
        drive.push(path);
        drive
    };
    let serial = |path: &Path| {
        let mut serial = OsString::from("file:");
        serial.push(path);
        serial
    };
    let mut command = Command::new(QEMU);
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2", "-m", "2048"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(&disks.kernel)
        .arg("-initrd")
        .arg(&disks.initrd)
        .args(["-append", KERNEL_COMMAND_LINE])
        // What is written to it is forgotten.
        .arg("-drive")
        .arg(drive(&disks.root, "snapshot=on"))
        .arg("-drive")
        .arg(drive(&disks.payload, "readonly=on"))
        .arg("-serial")
        .arg(serial(&console.log))
        .arg("-serial")
        .arg(serial(&console.results));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_only_asked_to_refuse() {
        let arguments = Release::Bullseye.test_arguments(&["walks".to_owned()]);
        assert_eq!(arguments[0], "old_kernel::");
        let arguments = Release::Bookworm.test_arguments(&["walks".to_owned()]);
        assert_eq!(arguments[..3], ["walks", "--skip", "accounting::at_4999_hz"]);
    }
}
