//! The supplementary groups of the process at the other end of a unix socket (`SO_PEERGROUPS`, since Linux 4.13).
//! `SO_PEERCRED` knows only the primary one, and `/proc/PID/status` may be that of another process by the time it is read.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Most groups of a process (`NGROUPS_MAX` of the kernel).
const MAX_GROUPS: usize = 65536;
/// Groups for which one call is enough.
const USUAL_GROUPS: usize = 64;

/// The supplementary groups that the peer had when it connected.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; USUAL_GROUPS];
    loop {
        let capacity = groups.len();
        let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the descriptor is open; the kernel writes at most `length` bytes, which `groups` has room for, and
        // then how many it wrote or needs to `length`. Any bytes are valid group ids.
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if outcome == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel says how much room it needs; the groups of a connected peer do not change.
        let fits_now = error.raw_os_error() == Some(libc::ERANGE) && (capacity + 1..=MAX_GROUPS).contains(&count);
        if !fits_now {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, os::unix::net::UnixStream, process::Command};

    use super::*;

    /// What procfs says of the groups of this process.
    fn own_groups() -> Vec<u32> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        let mut groups: Vec<u32> = line.split_whitespace().map(|group| group.parse().unwrap()).collect();
        groups.sort_unstable();
        groups
    }

    fn check_own_groups() {
        let (left, _right) = UnixStream::pair().unwrap();
        let mut groups = peer_groups(left.as_fd()).unwrap();
        groups.sort_unstable();
        assert_eq!(groups, own_groups());
    }

    #[test]
    fn groups_of_this_process() {
        check_own_groups();
    }

    /// Set for the run of [`more_groups_than_usual`] that has them.
    const MEMBER: &str = "PROFILER_TEST_MEMBER";

    #[test]
    fn more_groups_than_usual() {
        if std::env::var_os(MEMBER).is_some() {
            assert_eq!(own_groups().len(), 300);
            check_own_groups();
            return;
        }
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can take on groups");
            return;
        }
        let groups: Vec<String> = (1000..1300).map(|group: u32| group.to_string()).collect();
        let member = Command::new("setpriv")
            .arg("--groups")
            .arg(groups.join(","))
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "kernel::peer_groups::tests::more_groups_than_usual"])
            .env(MEMBER, "1")
            .output()
            .unwrap();
        assert!(member.status.success(), "{member:?}");
    }

    #[test]
    fn what_is_no_unix_socket() {
        let file = tempfile::tempfile().unwrap();
        assert!(peer_groups(file.as_fd()).is_err());
    }
}
