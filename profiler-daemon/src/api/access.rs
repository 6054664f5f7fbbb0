//! Who may ask for what.
//!
//! In: the credentials that the kernel vouches for, and the groups of the host. Out: roles. Root and the daemon's own user
//! have all of them; the others by the groups that the configuration names.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Largest `/etc/group` that is read.
const MAX_GROUP_FILE_BYTES: u64 = 16 << 20;

/// What a caller may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See that processes and services exist, and how the daemon does.
    Read,
    /// See stacks and command lines, and have processes watched.
    Profile,
    /// Change what runs on the host.
    Act,
}

/// Which roles a caller has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    read: bool,
    profile: bool,
    act: bool,
}

impl Roles {
    /// All roles.
    pub const ALL: Self = Self {
        read: true,
        profile: true,
        act: true,
    };
    /// Only to read.
    pub const READ: Self = Self {
        read: true,
        profile: false,
        act: false,
    };
    /// All but to act.
    pub const READ_AND_PROFILE: Self = Self {
        read: true,
        profile: true,
        act: false,
    };

    /// Whether the role is among them.
    pub fn has(self, role: Role) -> bool {
        match role {
            Role::Read => self.read,
            Role::Profile => self.profile,
            Role::Act => self.act,
        }
    }
}

/// Who a caller is, as the kernel saw it connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A caller lacks a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessDenied {
    /// A group would give it.
    #[error("user {uid} may not {}: only root and members of the group {group} may", verb(*role))]
    NotInGroup {
        /// The caller.
        uid: u32,
        /// What it lacks.
        role: Role,
        /// Who has it.
        group: String,
    },
    /// Nobody has it there.
    #[error("callers of the TCP port may not {}; ask over the unix socket", verb(*role))]
    OverTcp {
        /// What it lacks.
        role: Role,
    },
    /// No group would.
    #[error("user {uid} may not {}: only root may, because no group is set up for it", verb(*role))]
    OnlyRoot {
        /// The caller.
        uid: u32,
        /// What it lacks.
        role: Role,
    },
}

fn verb(role: Role) -> &'static str {
    match role {
        Role::Read => "read from the profiler",
        Role::Profile => "profile",
        Role::Act => "act",
    }
}

/// A group that gives roles.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    name: String,
    gid: u32,
}

/// Who has which roles. Groups are resolved once.
#[derive(Clone, Debug)]
pub struct Access {
    own_uid: u32,
    read_group: Option<Group>,
    act_group: Option<Group>,
}

/// Groups that the configuration names and the host does not have.
pub type MissingGroups = Vec<String>;

impl Access {
    /// Access for nobody but root and this user.
    pub fn only_root_and(own_uid: u32) -> Self {
        Self {
            own_uid,
            read_group: None,
            act_group: None,
        }
    }

    /// Resolves the names of groups by the `etc/group` under `root`. A name of digits that is none in it is taken as the
    /// number of a group, for groups that only a directory service knows.
    ///
    /// Groups that cannot be resolved give no roles and are handed back to be told.
    pub fn resolve(root: &Path, own_uid: u32, read_group: &str, act_group: &str) -> (Self, MissingGroups) {
        let path = root.join("etc/group");
        let groups = read_bounded(&path).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "groups cannot be read");
            Vec::new()
        });
        let mut missing = Vec::new();
        let mut find = |name: &str| {
            if name.is_empty() {
                return None;
            }
            let gid = find_gid(&groups, name).or_else(|| name.parse().ok());
            if gid.is_none() {
                missing.push(name.to_owned());
            }
            gid.map(|gid| Group {
                name: name.to_owned(),
                gid,
            })
        };
        let access = Self {
            own_uid,
            read_group: find(read_group),
            act_group: find(act_group),
        };
        (access, missing)
    }

    /// The group that the socket belongs to.
    pub fn socket_gid(&self) -> Option<u32> {
        self.read_group.as_ref().map(|group| group.gid)
    }

    /// The roles of a caller.
    pub fn roles(&self, caller: &Credentials) -> Roles {
        if self.is_trusted(caller.uid) {
            return Roles::ALL;
        }
        let is_in = |group: &Option<Group>| {
            group
                .as_ref()
                .is_some_and(|group| caller.gid == group.gid || caller.groups.contains(&group.gid))
        };
        let act = is_in(&self.act_group);
        let read = act || is_in(&self.read_group);
        Roles {
            read,
            profile: read,
            act,
        }
    }

    /// Whether a user has all roles without a group.
    pub fn is_trusted(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own_uid
    }

    /// Why a caller may not use a role that it lacks.
    pub fn denial(&self, uid: u32, role: Role) -> AccessDenied {
        let group = match role {
            Role::Read | Role::Profile => self.read_group.as_ref().or(self.act_group.as_ref()),
            Role::Act => self.act_group.as_ref(),
        };
        match group {
            Some(group) => AccessDenied::NotInGroup {
                uid,
                role,
                group: group.name.clone(),
            },
            None => AccessDenied::OnlyRoot { uid, role },
        }
    }
}

fn read_bounded(path: &PathBuf) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    File::open(path)?
        .take(MAX_GROUP_FILE_BYTES)
        .read_to_end(&mut contents)?;
    Ok(contents)
}

/// The number in the line `name:password:number:members` (group(5)).
fn find_gid(groups: &[u8], name: &str) -> Option<u32> {
    groups.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        if fields.next()? != name.as_bytes() {
            return None;
        }
        std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const GROUPS: &[u8] = b"root:x:0:\nprofiler:x:100:alice,bob\nprofiler-admin:x:200:\n\
        broken:x\nnonumber:x:many:\nprofiler:x:666:\n77:x:300:\n\xff\xfe:x:1:\n";

    fn access(read_group: &str, act_group: &str) -> (Access, MissingGroups) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/group"), GROUPS).unwrap();
        Access::resolve(root.path(), 50, read_group, act_group)
    }

    fn roles(access: &Access, uid: u32, gid: u32, groups: &[u32]) -> [bool; 3] {
        let roles = access.roles(&Credentials {
            uid,
            gid,
            groups: groups.to_vec(),
        });
        [roles.has(Role::Read), roles.has(Role::Profile), roles.has(Role::Act)]
    }

    #[test]
    fn roles_by_group() {
        let (access, missing) = access("profiler", "profiler-admin");
        assert!(missing.is_empty());
        assert_eq!(access.socket_gid(), Some(100));
        for (uid, gid, groups, expected) in [
            (0, 0, [].as_slice(), [true, true, true]),
            (50, 50, &[], [true, true, true]),
            (1000, 1000, &[], [false, false, false]),
            (1000, 1000, &[4, 100], [true, true, false]),
            (1000, 100, &[], [true, true, false]),
            (1000, 1000, &[200], [true, true, true]),
            (1000, 1000, &[100, 200], [true, true, true]),
            // The number of a user is not that of a group, and group 0 is not root.
            (100, 0, &[0], [false, false, false]),
            (1000, 1000, &[666], [false, false, false]),
        ] {
            assert_eq!(
                roles(&access, uid, gid, groups),
                expected,
                "uid {uid} gid {gid} groups {groups:?}"
            );
        }
    }

    #[test]
    fn groups_that_are_not_there_give_nothing() {
        for (name, expected) in [
            ("gone", None),
            ("broken", None),
            ("nonumber", None),
            ("", None),
            ("77", Some(300)),
            ("78", Some(78)),
        ] {
            let (access, missing) = access(name, "");
            assert_eq!(access.socket_gid(), expected, "{name}");
            assert_eq!(
                missing.len(),
                usize::from(expected.is_none() && !name.is_empty()),
                "{name}"
            );
            assert_eq!(roles(&access, 1000, 1000, &[0, 1]), [false; 3], "{name}");
            assert_eq!(roles(&access, 0, 0, &[]), [true; 3], "{name}");
        }
    }

    #[test]
    fn without_a_group_file_only_root() {
        let root = tempfile::tempdir().unwrap();
        let (access, missing) = Access::resolve(root.path(), 50, "profiler", "profiler-admin");
        assert_eq!(missing, ["profiler", "profiler-admin"]);
        assert_eq!(roles(&access, 1000, 100, &[200]), [false; 3]);
    }

    #[test]
    fn a_denial_names_the_way_in() {
        let (access, _) = access("profiler", "");
        assert_eq!(
            access.denial(7, Role::Profile).to_string(),
            "user 7 may not profile: only root and members of the group profiler may"
        );
        assert_eq!(
            access.denial(7, Role::Act).to_string(),
            "user 7 may not act: only root may, because no group is set up for it"
        );
    }
}
