//! Interpreters of other releases of Debian, unpacked without being installed: the packages and what they depend on, each
//! release in a root of its own. Nothing of the host changes, and no script of a package runs.
//!
//! The package manager runs on a state of its own, with this machine's mirror and proxies. Every step has a time limit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use profiler_tests::interpreters::{folder, root_of};

use super::Missing;
use crate::workspace;

/// Where Debian is for machines whose own package manager does not know.
const MIRROR: &str = "http://deb.debian.org/debian";
/// What its indexes are signed with.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How long one call of the package manager may take, in seconds.
const LIMIT: &str = "300";

/// An interpreter of a release.
struct Build {
    suite: &'static str,
    version: &'static str,
    /// Also programs that are linked to the interpreter as a library, and that open it.
    launchers: bool,
}

const fn build(suite: &'static str, version: &'static str, launchers: bool) -> Build {
    Build {
        suite,
        version,
        launchers,
    }
}

const BUILDS: [Build; 6] = [
    build("bullseye", "3.9", false),
    build("bookworm", "3.11", false),
    build("trixie", "3.13", false),
    build("forky", "3.13", false),
    build("forky", "3.14", true),
    build("forky", "3.15", true),
];

/// Unpacks what is not there yet, or only what has this version; gives what could not be had.
pub(super) fn unpack(only: Option<&str>) -> Vec<Missing> {
    let wanted = |build: &&Build| only.is_none_or(|only| only == build.version);
    let mut missing = Vec::new();
    let mut release: Option<(&str, Result<Release, String>)> = None;
    for build in BUILDS.iter().filter(wanted) {
        let root = root_of(&folder(), build.suite);
        if build.is_complete(&root) {
            continue;
        }
        if release.as_ref().is_none_or(|(suite, _)| *suite != build.suite) {
            println!("unpacking Python from Debian's {}", build.suite);
            release = Some((
                build.suite,
                Release::open(build.suite).map_err(|error| format!("{error:#}")),
            ));
        }
        let result = match &release {
            Some((_, Ok(release))) => build.unpack(release, &root).map_err(|error| format!("{error:#}")),
            Some((_, Err(reason))) => Err(reason.clone()),
            None => continue,
        };
        if let Err(reason) = result {
            let name = format!("{}/python{}", build.suite, build.version);
            missing.push(Missing { name, reason });
        }
    }
    missing
}

impl Build {
    /// Written when everything is there.
    fn mark(&self, root: &Path) -> PathBuf {
        root.join(format!(".python{}-is-complete", self.version))
    }

    fn is_complete(&self, root: &Path) -> bool {
        self.mark(root).is_file()
    }

    fn unpack(&self, release: &Release, root: &Path) -> Result<()> {
        make_root(root)?;
        let version = self.version;
        let mut packages = vec![format!("python{version}-minimal"), format!("libpython{version}-stdlib")];
        if self.launchers {
            packages.push(format!("libpython{version}"));
        }
        for package in release.download(&packages)? {
            extract(&package, root, None)?;
        }
        // Its dependencies are large and only the headers are wanted.
        let headers = release.download_alone(&format!("libpython{version}-dev"))?;
        extract(&headers, root, Some("./usr/include"))?;
        if self.launchers {
            for kind in ["linked", "opened"] {
                self.compile_launcher(kind, root)?;
            }
        }
        fs::write(self.mark(root), "").context("cannot leave a mark")
    }

    /// Compiles a program that runs the interpreter as a library. The library needs a newer C library than ours, which the
    /// program meets when it runs.
    fn compile_launcher(&self, kind: &str, root: &Path) -> Result<()> {
        let name = format!("libpython{}.so.1.0", self.version);
        let source = workspace::root().join(format!("tests/fixtures/interpreters/{kind}.c"));
        let mut compiler = Command::new("cc");
        compiler
            .args(["-O2", "-Wl,--allow-shlib-undefined", "-o"])
            .arg(root.join(format!("usr/bin/python{}-{kind}", self.version)))
            .arg(source);
        if kind == "linked" {
            compiler.arg(library(root, &name)?);
        } else {
            compiler.arg(format!("-DLIBRARY=\"{name}\"")).arg("-ldl");
        }
        quietly(&mut compiler).map(drop)
    }
}

/// The folders that packages of a merged `/usr` take for granted.
fn make_root(root: &Path) -> Result<()> {
    for folder in ["bin", "lib", "lib64", "sbin"] {
        let real = Path::new("usr").join(folder);
        fs::create_dir_all(root.join(&real)).with_context(|| format!("cannot make {}", root.display()))?;
        let link = root.join(folder);
        if !link.exists() {
            std::os::unix::fs::symlink(real, &link).with_context(|| format!("cannot make {}", link.display()))?;
        }
    }
    // Scripts of tests are put there.
    fs::create_dir_all(root.join("tmp")).context("cannot make a folder")
}

/// A library in the folder of the root's architecture.
fn library(root: &Path, name: &str) -> Result<PathBuf> {
    let folders = fs::read_dir(root.join("usr/lib")).context("the root has no libraries")?;
    let mut libraries = folders.flatten().map(|folder| folder.path().join(name));
    libraries
        .find(|library| library.is_file())
        .with_context(|| format!("no package brought {name}"))
}

/// Unpacks a package, or one folder of it.
pub(crate) fn extract(package: &Path, root: &Path, only: Option<&str>) -> Result<()> {
    let mut reader = Command::new("dpkg")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg")?;
    let content = reader.stdout.take().context("dpkg has no output")?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--keep-directory-symlink", "--no-same-owner", "-C"])
        .arg(root)
        .args(only)
        .stdin(content);
    let result = quietly(&mut tar);
    let read = reader.wait().context("cannot wait for dpkg")?;
    result.with_context(|| format!("cannot unpack {}", package.display()))?;
    if !read.success() {
        bail!("cannot read {}: dpkg ended with {read}", package.display());
    }
    Ok(())
}

/// A release as the package manager sees it, apart from what it knows of this machine.
pub(crate) struct Release {
    config: PathBuf,
    archives: PathBuf,
}

impl Release {
    /// Fetches the index.
    pub(crate) fn open(suite: &str) -> Result<Self> {
        if !Path::new(KEYS).is_file() {
            bail!("{KEYS} is missing: apt-get install debian-archive-keyring");
        }
        let home = folder().join("apt").join(suite);
        let archives = home.join("cache/archives");
        for folder in ["parts", "state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(home.join(folder)).with_context(|| format!("cannot make {}", home.display()))?;
        }
        let architecture = quietly(Command::new("dpkg").arg("--print-architecture"))?;
        let sources = sources_of_host();
        let mirror = mirror(&sources);
        fs::write(home.join("status"), "").context("cannot write a state")?;
        fs::write(
            home.join("sources.list"),
            format!("deb [signed-by={KEYS}] {mirror} {suite} main\ndeb-src [signed-by={KEYS}] {mirror} {suite} main\n"),
        )
        .context("cannot write sources")?;
        let config = home.join("apt.conf");
        fs::write(&config, configuration(&home, architecture.trim())).context("cannot write a configuration")?;
        let release = Self { config, archives };
        quietly(release.apt().args(["update", "--error-on=any"]))?;
        Ok(release)
    }

    fn apt(&self) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", LIMIT, "apt-get", "-qq", "-y"])
            .args(["-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30"])
            .env("APT_CONFIG", &self.config)
            .stdin(Stdio::null());
        command
    }

    /// Downloads packages with all that they depend on; gives the files, with those of earlier calls.
    fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        let mut install = self.apt();
        install.args([
            "install",
            "--no-install-recommends",
            "--download-only",
            "-o",
            "Debug::NoLocking=1",
        ]);
        quietly(install.args(packages))?;
        packages_in(&self.archives)
    }

    /// Downloads a package without what it depends on.
    pub(crate) fn download_alone(&self, package: &str) -> Result<PathBuf> {
        let folder = self.archives.join("alone").join(package);
        fs::create_dir_all(&folder).context("cannot make a folder")?;
        quietly(self.apt().current_dir(&folder).args(["download", package]))?;
        packages_in(&folder)?
            .pop()
            .with_context(|| format!("{package} was not downloaded"))
    }

    /// Downloads the source of a package to `folder`, without Debian's changes to it; gives the archive.
    pub(super) fn download_source(&self, package: &str, folder: &Path) -> Result<PathBuf> {
        let mut source = self.apt();
        quietly(
            source
                .current_dir(folder)
                .args(["source", "--download-only", "--tar-only", package]),
        )?;
        let files = fs::read_dir(folder).context("cannot read a folder")?;
        let mut files = files.flatten().map(|file| file.path());
        files
            .find(|file| file.to_string_lossy().contains(".orig.tar."))
            .with_context(|| format!("{package} has no source archive"))
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        // Megabytes that nobody needs again.
        fs::remove_dir_all(&self.archives).ok();
    }
}

/// The package manager's state, sources and cache below `home`.
fn configuration(home: &Path, architecture: &str) -> String {
    let home = home.display();
    format!(
        "Dir::State \"{home}/state\";\n\
         Dir::State::status \"{home}/status\";\n\
         Dir::Cache \"{home}/cache\";\n\
         Dir::Etc::sourcelist \"{home}/sources.list\";\n\
         Dir::Etc::sourceparts \"{home}/parts\";\n\
         Dir::Etc::preferencesparts \"{home}/parts\";\n\
         APT::Architecture \"{architecture}\";\n\
         APT::Architectures {{ \"{architecture}\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         APT::Keep-Downloaded-Packages \"true\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Check-Valid-Until \"false\";\n"
    )
}

/// What this machine's package manager was told about where packages are.
fn sources_of_host() -> String {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut files: Vec<_> = parts.map(|entry| entry.path()).collect();
    files.sort_unstable();
    files.push("/etc/apt/sources.list".into());
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect()
}

/// The mirror of Debian among a machine's sources, in either of their two forms.
fn mirror(sources: &str) -> &str {
    let lines = sources.lines().filter(|line| !line.starts_with('#'));
    let mut words = lines.flat_map(str::split_whitespace);
    let is_mirror = |word: &&str| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian");
    words.find(is_mirror).unwrap_or(MIRROR)
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let files = entries.flatten().map(|entry| entry.path());
    Ok(files
        .filter(|file| file.extension().is_some_and(|end| end == "deb"))
        .collect())
}

/// Runs a command and gives what it printed; its last message is part of the error.
pub(super) fn quietly(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let messages = String::from_utf8_lossy(&output.stderr);
        let last = messages.trim_end().lines().last().unwrap_or_default();
        bail!("{program} ended with {}: {last}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_of_the_machine_is_taken() {
        let new = "Types: deb\n# URIs: http://old.example/debian\nURIs: http://a.example/debian/\nSuites: bookworm\n";
        assert_eq!(mirror(new), "http://a.example/debian/");
        let old = "deb [arch=amd64] https://b.example/debian bookworm main\n";
        assert_eq!(mirror(old), "https://b.example/debian");
        let other = "deb http://c.example/ubuntu noble main\ndeb http://c.example/debian-security x main\n";
        assert_eq!(mirror(other), MIRROR);
    }

    #[test]
    fn the_last_message_says_what_is_wrong() {
        let error = quietly(Command::new("sh").args(["-c", "echo one >&2; echo two >&2; exit 4"])).unwrap_err();
        let error = error.to_string();
        assert!(error.contains('4') && error.ends_with("two"), "{error}");
    }
}
