//! Which service a process belongs to: from the names that the configuration gives, the text of `/proc/PID/cgroup`, its program,
//! and for an interpreter the application that it runs. Of a command line no more is shown than the name of a module or script.

use profiler_config::{NamedService, ProcessFacts};

/// Digits of a container's id that are shown, as container tools do.
const CONTAINER_DIGITS: usize = 12;
/// Digits of a whole container id (a SHA-256 digest).
const CONTAINER_ID_DIGITS: usize = 64;
/// Longest name of a service that is kept: the longest name of a file.
const MAX_NAME_BYTES: usize = 255;
/// Programs that serve an application, which is what a service is named after.
const SERVERS: [&str; 6] = [
    "uvicorn",
    "gunicorn",
    "hypercorn",
    "daphne",
    "granian",
    "waitress-serve",
];
/// Names of scripts that say nothing.
const UNTELLING_SCRIPTS: [&str; 5] = ["__main__", "main", "app", "manage", "run"];

/// What is known of a process.
#[derive(Clone, Debug, Default)]
pub struct Known<'a> {
    /// The text of `/proc/PID/cgroup`.
    pub cgroup: &'a [u8],
    /// The application that an interpreter runs.
    pub application: Option<String>,
    /// Path of its program.
    pub executable: &'a [u8],
    /// Its command line, where a service is known by it.
    pub arguments: &'a [String],
}

/// The name of the service: that of the first of `services` that the process belongs to, the id of the innermost container or
/// the innermost systemd service, the application that an interpreter runs, or the base name of the program.
pub fn name(services: &[NamedService], process: Known<'_>) -> String {
    let unit = cgroup_path(process.cgroup)
        .rsplit(|&byte| byte == b'/')
        .find_map(|part| container(part).or_else(|| unit(part)));
    let configured = (!services.is_empty()).then(|| {
        let command_line = process.arguments.join(" ");
        let facts = ProcessFacts {
            executable: process.executable,
            unit: unit.as_deref(),
            command_line: &command_line,
        };
        let service = services.iter().find(|service| service.fits(facts));
        service.map(|service| service.name().to_owned())
    });
    let found = configured.flatten().or(unit).or(process.application);
    found.unwrap_or_else(|| {
        let base = process.executable.rsplit(|&byte| byte == b'/').next();
        shown(base.unwrap_or_default())
    })
}

/// Whether a service among these is known by the command lines of its processes.
pub fn needs_command_line(services: &[NamedService]) -> bool {
    services.iter().any(NamedService::needs_command_line)
}

/// What a Python interpreter with these arguments runs: the application that a server serves (`shop` of
/// `uvicorn shop.web:app`), a module (`-m`), or a script. `None` if that is none of these, or has a name that is not one.
pub fn python_application(arguments: &[String]) -> Option<String> {
    if let [title] = arguments {
        // A server that shows what it does in place of its command line.
        let (server, rest) = title.split_once(": ")?;
        let (_, application) = rest.strip_suffix(']')?.split_once('[')?;
        let application = served_module(application).filter(|name| SERVERS.contains(&server) && is_name(name));
        return application.map(str::to_owned);
    }
    let mut rest = arguments.get(1..)?.iter();
    let program = loop {
        let argument = rest.next().map(String::as_str)?;
        match argument {
            // What follows is code, or comes from the standard input.
            "-c" | "-" => return None,
            "-m" => break rest.next().map(String::as_str)?,
            // Options with a value of their own.
            "-W" | "-X" | "--check-hash-based-pycs" => drop(rest.next()),
            option if option.starts_with("-m") => break &option[2..],
            option if option.starts_with('-') => {}
            script => break script_name(script)?,
        }
    };
    let is_server = SERVERS.contains(&program.split('.').next().unwrap_or_default());
    let served = || rest.find_map(|argument| served_module(argument));
    let application = is_server.then(served).flatten().unwrap_or(program);
    is_name(application).then(|| application.to_owned())
}

/// The name of a script: its file's, or for one that stands for its folder, the folder's.
fn script_name(path: &str) -> Option<&str> {
    let mut parts = path.rsplit('/').filter(|part| !matches!(*part, "" | "."));
    let base = parts.next()?;
    let stem = base.strip_suffix(".py").unwrap_or(base);
    if UNTELLING_SCRIPTS.contains(&stem) {
        return Some(parts.next().filter(|folder| is_name(folder)).unwrap_or(stem));
    }
    Some(stem)
}

/// The first part of the module in `module.inner:application`.
fn served_module(argument: &str) -> Option<&str> {
    let (module, application) = argument.split_once(':')?;
    let is_path = |text: &str| {
        text.split('.')
            .all(|part| part.starts_with(|first: char| first.is_alphabetic() || first == '_'))
    };
    let application = application.split('(').next().unwrap_or_default();
    (is_path(module) && is_path(application)).then(|| module.split('.').next().unwrap_or(module))
}

/// Whether a text can be the name of a module or a script, and nothing else.
fn is_name(text: &str) -> bool {
    let is_usual = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-' | '.');
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.chars().all(is_usual)
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

    fn named(services: &[NamedService], cgroup: &str, application: Option<&str>, executable: &str) -> String {
        let arguments = ["python3".to_owned(), "-m".to_owned(), "shop.web".to_owned()];
        let process = Known {
            cgroup: cgroup.as_bytes(),
            application: application.map(str::to_owned),
            executable: executable.as_bytes(),
            arguments: &arguments,
        };
        name(services, process)
    }

    fn check(cgroup: &str, expected: &str) {
        assert_eq!(named(&[], cgroup, None, "/usr/bin/prog"), expected, "{cgroup}");
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

    #[test]
    fn applications_of_an_interpreter() {
        let check = |command: &str, expected: Option<&str>| {
            let arguments: Vec<String> = command.split(' ').map(str::to_owned).collect();
            assert_eq!(python_application(&arguments).as_deref(), expected, "{command}");
        };
        check("python3 /srv/billing/worker.py --verbose", Some("worker"));
        check("python3 -u -W ignore -X dev worker.py", Some("worker"));
        check("python3 -m http.server 8000", Some("http.server"));
        check("python3 -mhttp.server", Some("http.server"));
        check("python3 /srv/shop/main.py", Some("shop"));
        check("python3 manage.py runserver", Some("manage"));
        check("python3 /venv/bin/celery -A shop worker", Some("celery"));
        check("python3 /venv/bin/uvicorn --port 80 shop.web:app", Some("shop"));
        check("python3 -m uvicorn shop.web:create(1)", Some("shop"));
        check("python3 -m gunicorn -b 127.0.0.1:80 shop:app", Some("shop"));
        check("python3 /venv/bin/gunicorn -c conf.py", Some("gunicorn"));
        check("python3 -c print() shop:app", None);
        check("python3", None);
        check("python3 -", None);
        check("python3 -m", None);
        let title = ["gunicorn: worker [shop.web:app]".to_owned()];
        assert_eq!(python_application(&title).as_deref(), Some("shop"));
        // Nothing but names is shown of a command line.
        check("python3 password=secret", None);
        check("python3 /tmp/a\u{1b}[31m.py", None);
    }

    #[test]
    fn units_and_containers_say_more_than_applications() {
        let application = Some("shop");
        let unit = "0::/system.slice/web.service\n";
        assert_eq!(named(&[], unit, application, "/usr/bin/python3"), "web.service");
        assert_eq!(named(&[], "0::/\n", application, "/usr/bin/python3"), "shop");
    }

    #[test]
    fn names_of_the_configuration_go_before_all_others() {
        let text = "[[targets.services]]\nname = \"storefront\"\ncommand_lines = [\"* -m shop.*\"]\nunits = [\"web*\"]\n\
                    [[targets.services]]\nname = \"other\"\nexecutables = [\"python3\"]\n";
        let sources = profiler_config::Sources {
            files: vec![profiler_config::SourceFile {
                path: "config.toml".into(),
                contents: text.into(),
            }],
            ..profiler_config::Sources::default()
        };
        let services = sources.resolve().unwrap().targets.services;
        assert!(needs_command_line(&services) && !needs_command_line(&services[1..]));
        let (unit, python) = ("0::/system.slice/web.service\n", "/usr/bin/python3");
        assert_eq!(named(&services, unit, Some("shop"), python), "storefront");
        assert_eq!(named(&services, "0::/\n", Some("shop"), python), "other");
        assert_eq!(named(&services, unit, None, "/usr/bin/prog"), "storefront");
        assert_eq!(named(&services[1..], unit, None, "/usr/bin/prog"), "web.service");
    }

    proptest::proptest! {
        #[test]
        fn no_command_line_makes_it_panic(arguments in proptest::collection::vec("\\PC{0,20}", 0..6)) {
            python_application(&arguments);
        }

        #[test]
        fn never_panics(text in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            name(&[], Known { cgroup: &text, executable: &text, ..Known::default() });
        }
    }
}
