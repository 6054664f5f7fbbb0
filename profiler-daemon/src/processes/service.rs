//! Which service a process belongs to, from the text of `/proc/PID/cgroup` and its program.

/// Digits of a container's id that are shown, as container tools do.
const CONTAINER_DIGITS: usize = 12;
/// Digits of a whole container id (a SHA-256 digest).
const CONTAINER_ID_DIGITS: usize = 64;
/// Longest name of a service that is kept: the longest name of a file.
const MAX_NAME_BYTES: usize = 255;

/// The name of the service: the id of the innermost container, the innermost systemd service, or the base name of the
/// program.
pub fn name(cgroup: &[u8], executable: &[u8]) -> String {
    let path = cgroup_path(cgroup);
    let innermost = path
        .rsplit(|&byte| byte == b'/')
        .find_map(|part| container(part).or_else(|| unit(part)));
    innermost.unwrap_or_else(|| {
        let base = executable.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        shown(base)
    })
}

/// The path in the unified hierarchy, or where systemd manages a v1 hierarchy, in systemd's own, or else the longest:
/// lines are `number:controllers:path`.
fn cgroup_path(cgroup: &[u8]) -> &[u8] {
    let lines = cgroup.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let _number = fields.next()?;
        Some((fields.next()?, fields.next()?))
    });
    // A host with both has an empty unified hierarchy at times.
    let rank = |(controllers, path): &(&[u8], &[u8])| {
        let managed = controllers.is_empty() || *controllers == b"name=systemd";
        (managed && path.len() > 1, path.len())
    };
    lines.max_by_key(rank).map(|(_, path)| path).unwrap_or_default()
}

/// The short id of a container: a directory of 64 hexadecimal digits (`/docker/ID`, `/kubepods/…/ID`), or a unit that
/// holds them (`docker-ID.scope`, `cri-containerd-ID.scope`, `libpod-ID.scope`).
fn container(part: &[u8]) -> Option<String> {
    let name = part.strip_suffix(b".scope").unwrap_or(part);
    let (prefix, id) = name.split_at(name.len().checked_sub(CONTAINER_ID_DIGITS)?);
    let whole = prefix.is_empty() || prefix.ends_with(b"-");
    (whole && id.iter().all(u8::is_ascii_hexdigit)).then(|| shown(&id[..CONTAINER_DIGITS]))
}

/// A systemd service. The manager of a user's session is none of its own: what runs in it has a unit further in, or is
/// just a program.
fn unit(part: &[u8]) -> Option<String> {
    let name = part.strip_suffix(b".service")?;
    (!name.is_empty() && !name.starts_with(b"user@")).then(|| shown(&unescape(part)))
}

/// systemd writes other characters in names of units as `\x2d`.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = rest
            .strip_prefix(b"\\x")
            .and_then(|digits| str::from_utf8(digits.get(..2)?).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                plain.push(byte);
                rest = &rest[4..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(MAX_NAME_BYTES)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn check(cgroup: &str, expected: &str) {
        assert_eq!(name(cgroup.as_bytes(), b"/usr/bin/prog"), expected, "{cgroup}");
    }

    #[test]
    fn units_and_containers() {
        check("0::/system.slice/nginx.service\n", "nginx.service");
        check("0::/system.slice/my\\x2dapp.service\n", "my-app.service");
        check(
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/web.service\n",
            "web.service",
        );
        check("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", "prog");
        check("0::/user.slice/user-1000.slice/session-3.scope\n", "prog");
        check("0::/\n", "prog");
        check("", "prog");
        check(&format!("0::/system.slice/docker-{ID}.scope\n"), "0123456789ab");
        check(&format!("0::/docker/{ID}\n"), "0123456789ab");
        check(
            &format!("0::/kubepods.slice/x.slice/cri-containerd-{ID}.scope\n"),
            "0123456789ab",
        );
        check(
            &format!("0::/docker/{ID}/system.slice/inner.service\n"),
            "inner.service",
        );
        check(&format!("0::/x/notacontainer{ID}\n"), "prog");
    }

    #[test]
    fn version_one() {
        check(
            "12:cpu,cpuacct:/\n1:name=systemd:/system.slice/db.service\n0::/\n",
            "db.service",
        );
        check(&format!("4:memory:/docker/{ID}\n2:cpu:/\n"), "0123456789ab");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            name(&text, &text);
        }
    }
}
