//! The disks of a machine: a Debian with systemd and the release's kernel, built once; and what it is to run, built each
//! time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::Release;
use crate::command;
use crate::privilege::Privilege;

/// Where Debian is.
const MIRROR: &str = "http://deb.debian.org";
/// What the machine holds beside Debian's essential packages.
const PACKAGES: &str = "systemd,systemd-sysv,util-linux,procps,python3,initramfs-tools";
/// The file systems' sizes; they are sparse files.
const ROOT_SIZE: &str = "1200M";
const PAYLOAD_SIZE: &str = "400M";

/// Runs in the new root before the kernel is installed: its initial file system needs only what leads to the disk.
const BEFORE_KERNEL: &str = r#"mkdir -p "$1/etc/initramfs-tools/conf.d"
echo MODULES=list > "$1/etc/initramfs-tools/conf.d/vm"
printf 'virtio_pci\nvirtio_blk\next4\n' > "$1/etc/initramfs-tools/modules""#;
/// Runs in the new root at the end: the unit that starts our script, and the name that is no other machine's.
const AT_THE_END: &str = r#"install -D -m 644 UNIT "$1/etc/systemd/system/profiler-tests.service"
mkdir -p "$1/etc/systemd/system/multi-user.target.wants"
ln -s ../profiler-tests.service "$1/etc/systemd/system/multi-user.target.wants/"
echo profiler-vm > "$1/etc/hostname""#;

/// What a machine boots from.
#[derive(Debug)]
pub(super) struct Disks {
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    pub(super) root: PathBuf,
    pub(super) payload: PathBuf,
}

impl Disks {
    /// Builds what is not there yet in `folder`, and the second disk from what `fill` puts into a folder.
    ///
    /// # Errors
    /// Debian cannot be reached, or a disk cannot be written.
    pub(super) fn prepare(folder: &Path, release: Release, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let disks = Self {
            kernel: folder.join("vmlinuz"),
            initrd: folder.join("initrd.img"),
            root: folder.join("root.ext4"),
            payload: folder.join("payload.ext4"),
        };
        // The last that is written.
        if !disks.root.exists() {
            disks.build_root(folder, release)?;
        }
        let payload = TempDir::with_prefix_in("payload-", folder)?;
        fill(payload.path())?;
        make_disk(
            payload.path(),
            &disks.payload,
            PAYLOAD_SIZE,
            &mut Command::new("mke2fs"),
        )?;
        Ok(disks)
    }

    fn build_root(&self, folder: &Path, release: Release) -> Result<()> {
        println!("building a Debian with the kernel of {}", release.suite());
        let privilege = Privilege::probe();
        let unpacked = TempDir::with_prefix_in("root-", folder)?;
        let unit = folder.join("profiler-tests.service");
        fs::write(&unit, include_str!("profiler-tests.service"))?;
        let root = unpacked.path().join("root");
        command::run(
            privilege
                .command("mmdebstrap")?
                .args(["--variant=minbase", "--mode=root", "--format=directory"])
                .arg(format!(
                    "--include={PACKAGES},linux-image-cloud-amd64/{}",
                    release.suite()
                ))
                .arg(format!("--essential-hook={BEFORE_KERNEL}"))
                .arg(format!(
                    "--customize-hook={}",
                    AT_THE_END.replace("UNIT", &format!("'{}'", unit.display()))
                ))
                .arg(release.programs())
                .arg(&root)
                .args(sources(release)),
        )?;
        for (link, to) in [("vmlinuz", &self.kernel), ("initrd.img", &self.initrd)] {
            command::run(privilege.command("cp")?.arg("-L").arg(root.join(link)).arg(to))?;
        }
        let partial = folder.join("root.partial");
        make_disk(&root, &partial, ROOT_SIZE, &mut privilege.command("mke2fs")?)?;
        fs::rename(&partial, &self.root)?;
        command::run(privilege.command("rm")?.args(["-rf", "--one-file-system"]).arg(&root))
    }
}

/// Where the packages come from: the programs from one suite, the kernel from the release.
fn sources(release: Release) -> Vec<String> {
    let line = |archive: &str, suite: &str| format!("deb {MIRROR}/{archive} {suite} main");
    let programs = release.programs();
    let security = format!("{programs}-security");
    let mut sources = vec![line("debian", programs), line("debian-security", &security)];
    if release.suite() != programs {
        sources.push(line("debian", release.suite()));
    }
    sources
}

fn make_disk(content: &Path, disk: &Path, size: &str, mke2fs: &mut Command) -> Result<()> {
    if disk.exists() {
        fs::remove_file(disk).with_context(|| format!("cannot remove {}", disk.display()))?;
    }
    mke2fs.args(["-q", "-t", "ext4", "-d"]).arg(content).arg(disk).arg(size);
    command::run(mke2fs)
}
