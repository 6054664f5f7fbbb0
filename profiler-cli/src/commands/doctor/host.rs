//! What can be checked on the host without the daemon. Readers take the root of the file system.

use std::{fs, path::Path};

use profiler_config::{MAX_PERF_EVENT_PARANOID, OLDEST_KERNEL};

use super::Check;

/// Oldest kernel on which all is proven.
const PROVEN_KERNEL: (u8, u8) = (6, 1);

/// All of them.
pub(super) fn checks(root: &Path, socket: &Path) -> Vec<Check> {
    vec![
        kernel(root),
        type_information(root),
        perf_events(root),
        socket_directory(socket),
    ]
}

fn kernel(root: &Path) -> Check {
    const NAME: &str = "kernel";
    let release = match read_line(root, "proc/sys/kernel/osrelease") {
        Ok(release) => release,
        Err(problem) => return Check::problem(NAME, problem, "mount /proc"),
    };
    let remedy = format!("Linux {}.{} or newer is proven", PROVEN_KERNEL.0, PROVEN_KERNEL.1);
    match version(&release) {
        None => Check::note(NAME, format!("release {release} tells no version"), remedy),
        Some(version) if version < OLDEST_KERNEL => {
            let oldest = format!("{}.{}", OLDEST_KERNEL.0, OLDEST_KERNEL.1);
            Check::problem(NAME, format!("Linux {release} is older than {oldest}"), remedy)
        }
        Some(version) if version < PROVEN_KERNEL => {
            Check::note(NAME, format!("Linux {release} should do, but is untested"), remedy)
        }
        Some(_) => Check::well(NAME, format!("Linux {release}")),
    }
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u8, u8)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn type_information(root: &Path) -> Check {
    const NAME: &str = "kernel types";
    let path = root.join("sys/kernel/btf/vmlinux");
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() && metadata.len() > 0 => {
            Check::well(NAME, "BTF is there: /sys/kernel/btf/vmlinux".to_owned())
        }
        Ok(_) => Check::problem(NAME, "/sys/kernel/btf/vmlinux is empty".to_owned(), BTF_REMEDY),
        Err(error) => Check::problem(NAME, format!("no /sys/kernel/btf/vmlinux ({error})"), BTF_REMEDY),
    }
}

const BTF_REMEDY: &str = "run a kernel built with CONFIG_DEBUG_INFO_BTF=y, and mount /sys";

/// The kernel documents that this file exists exactly where it has perf events.
fn perf_events(root: &Path) -> Check {
    const NAME: &str = "perf events";
    match read_line(root, "proc/sys/kernel/perf_event_paranoid") {
        // Whether this kernel is one of those, the daemon finds out and says of its part `sampling`.
        Ok(level) if level.parse().is_ok_and(|level: i32| level > MAX_PERF_EVENT_PARANOID) => {
            let detail = format!(
                "perf_event_paranoid is {level}, where kernels of Debian and Ubuntu let only CAP_SYS_ADMIN sample, which \
                 the service has not"
            );
            let remedy = format!("sysctl kernel.perf_event_paranoid={MAX_PERF_EVENT_PARANOID}, and restart the daemon");
            Check::note(NAME, detail, remedy)
        }
        Ok(level) => {
            let detail = format!("perf_event_paranoid is {level}; the daemon's CAP_PERFMON is not bound by it");
            Check::well(NAME, detail)
        }
        Err(problem) => Check::problem(
            NAME,
            problem,
            "run a kernel built with CONFIG_PERF_EVENTS=y, and mount /proc",
        ),
    }
}

fn socket_directory(socket: &Path) -> Check {
    const NAME: &str = "socket directory";
    let Some(directory) = socket.parent().filter(|directory| !directory.as_os_str().is_empty()) else {
        return Check::well(NAME, "the current directory".to_owned());
    };
    match fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Check::well(NAME, directory.display().to_string()),
        Ok(_) => {
            let problem = format!("{} is no directory", directory.display());
            Check::problem(NAME, problem, "give the daemon's socket with --socket")
        }
        Err(error) => {
            let problem = format!("{}: {error}", directory.display());
            Check::problem(
                NAME,
                problem,
                "the daemon makes it when it starts; was another --socket meant?",
            )
        }
    }
}

/// The only line of a small file.
fn read_line(root: &Path, path: &str) -> Result<String, String> {
    match fs::read_to_string(root.join(path)) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(format!("cannot read /{path}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Check, Verdict},
        *,
    };

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    fn verdicts(root: &tempfile::TempDir) -> Vec<Verdict> {
        checks(root.path(), &root.path().join("run.sock"))
            .iter()
            .map(|check| check.verdict)
            .collect()
    }

    #[test]
    fn a_good_host_is_well() {
        let root = host(&[
            ("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"),
            ("proc/sys/kernel/perf_event_paranoid", "2\n"),
            ("sys/kernel/btf/vmlinux", "btf"),
        ]);
        assert_eq!(verdicts(&root), [Verdict::Well; 4]);
    }

    #[test]
    fn a_level_that_some_kernels_hold_against_capabilities_is_told() {
        for (level, verdict) in [
            ("-1", Verdict::Well),
            ("2", Verdict::Well),
            ("3", Verdict::Note),
            ("4", Verdict::Note),
        ] {
            let root = host(&[("proc/sys/kernel/perf_event_paranoid", level)]);
            let check = perf_events(root.path());
            assert_eq!(check.verdict, verdict, "{check:?}");
            assert!(check.found.contains(level), "{check:?}");
        }
    }

    #[test]
    fn a_bare_host_is_not() {
        let root = host(&[("sys/kernel/btf/vmlinux", "")]);
        assert_eq!(
            verdicts(&root),
            [Verdict::Problem, Verdict::Problem, Verdict::Problem, Verdict::Well]
        );
        let nowhere = socket_directory(Path::new("/nonexistent/profiler.sock"));
        assert_eq!(nowhere.verdict, Verdict::Problem);
    }

    #[test]
    fn kernels_are_told_apart() {
        let verdict = |release: &str| {
            let root = host(&[("proc/sys/kernel/osrelease", release)]);
            let Check { verdict, .. } = kernel(root.path());
            verdict
        };
        for (release, expected) in [
            ("4.19.0", Verdict::Problem),
            ("5.4.0-150-generic", Verdict::Problem),
            ("5.14.0-70.el9", Verdict::Problem),
            ("5.15.0-91-generic", Verdict::Note),
            ("6.1.0", Verdict::Well),
            ("6.18-rc1", Verdict::Well),
            ("10.0", Verdict::Well),
            ("strange", Verdict::Note),
            ("", Verdict::Note),
        ] {
            assert_eq!(verdict(release), expected, "{release}");
        }
    }
}
