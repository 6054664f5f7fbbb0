//! Where the hierarchies of control groups are mounted, and which folder is whose group.

use std::path::{Path, PathBuf};

use super::files::parse_membership;
use crate::{host::Mount, text};

/// Most folders from a group up to the root of its hierarchy.
const MAX_DEPTH: usize = 64;

/// What a control group accounts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Resource {
    /// Memory.
    Memory,
    /// The quota of CPUs.
    Cpu,
    /// The use of CPUs, which version 1 counts apart.
    CpuTime,
}

impl Resource {
    pub(super) const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::CpuTime];

    /// Its controller in version 1.
    fn controller(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::CpuTime => "cpuacct",
        }
    }
}

/// Where one resource is accounted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) is_unified: bool,
    point: PathBuf,
    /// The group that is mounted there: not the root where only a part is.
    directory: Vec<u8>,
}

impl Hierarchy {
    /// That of a resource: version 1 has it where it is mounted, version 2 otherwise.
    pub(super) fn find(resource: Resource, mounts: &[Mount], root: &Path) -> Option<Self> {
        let controller = resource.controller().as_bytes();
        let has_controller = |mount: &&Mount| {
            let mut options = mount.options.split(|&byte| byte == b',');
            *mount.kind == *b"cgroup" && options.any(|option| option == controller)
        };
        let separate = mounts.iter().find(has_controller);
        let mount = separate.or_else(|| mounts.iter().find(|mount| *mount.kind == *b"cgroup2"))?;
        Some(Self {
            is_unified: separate.is_none(),
            point: text::below(root, &mount.point),
            directory: mount.directory.clone(),
        })
    }

    /// The group of a process below the mount point, from its `/proc/PID/cgroup`. None for the root, which is the
    /// whole host or container, and for what is not mounted here.
    pub(super) fn group<'text>(&self, resource: Resource, memberships: &'text [u8]) -> Option<&'text [u8]> {
        let controller = (!self.is_unified).then(|| resource.controller());
        let path = parse_membership(memberships, controller)?;
        let path = match &*self.directory {
            b"/" => path,
            directory => path.strip_prefix(directory)?,
        };
        let mut parts = path.strip_prefix(b"/")?.split(|&byte| byte == b'/');
        // Two dots lead out of the namespace of this process, and a removed group has nothing to read.
        let is_inside = parts.all(|part| !matches!(part, b"" | b"." | b".."));
        (is_inside && !path.ends_with(b" (deleted)")).then_some(path)
    }

    /// The folder of a group.
    pub(super) fn folder(&self, path: &[u8]) -> PathBuf {
        text::below(&self.point, path)
    }
}

/// The folder of the group that a process is in by the unified hierarchy.
#[cfg(feature = "fuzzing")]
pub(crate) fn unified_folder(mounts: &[Mount], memberships: &[u8]) -> Option<PathBuf> {
    let hierarchy = Hierarchy::find(Resource::Memory, mounts, Path::new("/"))?;
    Some(hierarchy.folder(hierarchy.group(Resource::Memory, memberships)?))
}

/// A group and those above it but for the root, from the inside out.
pub(super) fn levels(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |path| above(path)).take(MAX_DEPTH)
}

fn above(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|&byte| byte == b'/')?;
    Some(&path[..slash]).filter(|above| !above.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::parse_mounts;

    const HYBRID: &[u8] = b"\
1 0 0:1 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
2 0 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
3 0 0:3 /docker/x /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
";

    #[test]
    fn a_resource_is_where_its_controller_is() {
        let mounts = parse_mounts(HYBRID).unwrap();
        let find = |resource, mounts: &[Mount]| Hierarchy::find(resource, mounts, Path::new("/r"));
        let memory = find(Resource::Memory, &mounts).unwrap();
        assert!(!memory.is_unified);
        assert_eq!(memory.folder(b"/a/b"), Path::new("/r/sys/fs/cgroup/memory/a/b"));
        let text = b"4:memory:/a/b\n3:cpu,cpuacct:/docker/x/web\n0::/c\n";
        assert_eq!(memory.group(Resource::Memory, text), Some(&b"/a/b"[..]));
        let cpu = find(Resource::CpuTime, &mounts).unwrap();
        assert_eq!(
            cpu.group(Resource::CpuTime, text),
            Some(&b"/web"[..]),
            "a part is mounted"
        );
        assert_eq!(cpu.group(Resource::CpuTime, b"3:cpu,cpuacct:/docker/y\n"), None);
        let unified = find(Resource::Memory, &mounts[..1]).unwrap();
        assert!(unified.is_unified);
        assert_eq!(unified.group(Resource::Memory, text), Some(&b"/c"[..]));
        assert_eq!(find(Resource::Memory, &[]), None);
    }

    #[test]
    fn what_is_outside_is_not_read() {
        let mounts = parse_mounts(HYBRID).unwrap();
        let unified = Hierarchy::find(Resource::Memory, &mounts[..1], Path::new("/")).unwrap();
        for path in ["/", "", "/../x", "/a/../../etc", "/a (deleted)", "a", "//etc", "/a//b"] {
            let text = format!("0::{path}\n");
            assert_eq!(unified.group(Resource::Memory, text.as_bytes()), None, "{path:?}");
        }
    }

    #[test]
    fn levels_end_below_the_root() {
        assert_eq!(levels(b"/a/b/c").collect::<Vec<_>>(), [&b"/a/b/c"[..], b"/a/b", b"/a"]);
        assert_eq!(levels(&b"/x".repeat(1000)).count(), MAX_DEPTH);
    }
}
