//! Whether nobody but root could have put a program or a library where it is.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

/// Links that are followed.
const MAX_LINKS: u32 = 40;
/// Write permission of group and others.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Execute permission of anybody.
const EXECUTABLE: u32 = 0o111;

/// Why a program is not run, or a library not loaded.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    /// It is not there.
    #[error("{}: {source}", path.display())]
    Missing {
        /// It, or a folder on the way.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its path does not begin at the root.
    #[error("{}: not an absolute path", path.display())]
    Relative {
        /// As it was written.
        path: PathBuf,
    },
    /// Somebody owns it, or a folder on the way, who is not root.
    #[error("{}: belongs to user {owner}, and must belong to root", path.display())]
    Owner {
        /// It, or a folder on the way.
        path: PathBuf,
        /// Whom it belongs to.
        owner: u32,
    },
    /// Others could change it, or replace it.
    #[error("{}: mode {:04o} lets others write to it", path.display(), mode & 0o7777)]
    Writable {
        /// It, or a folder on the way.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no program.
    #[error("{}: not an executable file", path.display())]
    NotExecutable {
        /// It.
        path: PathBuf,
    },
    /// It is no library.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// It.
        path: PathBuf,
    },
    /// Its links lead nowhere.
    #[error("{}: too many links", path.display())]
    Links {
        /// As it was written.
        path: PathBuf,
    },
}

/// Whether root alone could have changed a program, a link to it, or a folder on the way.
///
/// # Errors
/// What others could have changed.
pub fn check_executable(path: &Path) -> Result<(), Distrust> {
    let (path, metadata) = check_file(path)?;
    if metadata.is_file() && metadata.mode() & EXECUTABLE != 0 {
        Ok(())
    } else {
        Err(Distrust::NotExecutable { path })
    }
}

/// Whether root alone could have changed a library, a link to it, or a folder on the way.
///
/// # Errors
/// What others could have changed.
pub fn check_library(path: &Path) -> Result<(), Distrust> {
    let (path, metadata) = check_file(path)?;
    if metadata.is_file() {
        Ok(())
    } else {
        Err(Distrust::NotAFile { path })
    }
}

/// Walks to a file, and says where it really is and what it is.
fn check_file(path: &Path) -> Result<(PathBuf, fs::Metadata), Distrust> {
    if !path.is_absolute() {
        return Err(Distrust::Relative { path: path.to_owned() });
    }
    let mut links = 0;
    let mut walked = PathBuf::from("/");
    let mut found = look(&walked)?;
    check_owner(&walked, &found)?;
    let mut ahead: VecDeque<OsString> = names(path).collect();
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            walked.pop();
            continue;
        }
        walked.push(&name);
        let metadata = look(&walked)?;
        if metadata.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(Distrust::Links { path: path.to_owned() });
            }
            // Everybody may write through a link: who made it is what counts, and its folder was looked at.
            if metadata.uid() != 0 {
                return Err(owner(&walked, &metadata));
            }
            let target = fs::read_link(&walked).map_err(|source| missing(&walked, source))?;
            walked.pop();
            if target.is_absolute() {
                walked = PathBuf::from("/");
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                ahead.push_front(name);
            }
            continue;
        }
        check_owner(&walked, &metadata)?;
        found = metadata;
    }
    Ok((walked, found))
}

/// The parts of a path that name something.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn look(path: &Path) -> Result<fs::Metadata, Distrust> {
    fs::symlink_metadata(path).map_err(|source| missing(path, source))
}

fn missing(path: &Path, source: io::Error) -> Distrust {
    Distrust::Missing {
        path: path.to_owned(),
        source,
    }
}

fn owner(path: &Path, metadata: &fs::Metadata) -> Distrust {
    Distrust::Owner {
        path: path.to_owned(),
        owner: metadata.uid(),
    }
}

fn check_owner(path: &Path, metadata: &fs::Metadata) -> Result<(), Distrust> {
    if metadata.uid() != 0 {
        return Err(owner(path, metadata));
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(Distrust::Writable {
            path: path.to_owned(),
            mode: metadata.mode(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_the_system_are_trusted() {
        // On many hosts a link, on many below a link.
        check_executable(Path::new("/bin/sh")).unwrap();
        check_executable(Path::new("/usr/../bin/./sh")).unwrap();
    }

    #[test]
    fn what_others_may_write_is_not() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let program = folder.path().join("program");
        fs::copy("/bin/sh", &program).unwrap();
        let error = check_executable(&program).unwrap_err();
        // The folder of everybody is on the way.
        assert!(
            matches!(error, Distrust::Writable { .. } | Distrust::Owner { .. }),
            "{error}"
        );
        std::os::unix::fs::symlink("/bin/sh", folder.path().join("link")).unwrap();
        check_executable(&folder.path().join("link")).unwrap_err();
    }

    #[test]
    fn what_is_no_program_is_not() {
        let error = |path: &str| check_executable(Path::new(path)).unwrap_err();
        assert!(matches!(error("/etc"), Distrust::NotExecutable { .. }));
        assert!(matches!(error("/etc/passwd"), Distrust::NotExecutable { .. }));
        assert!(matches!(error("/no/such/program"), Distrust::Missing { .. }));
        assert!(matches!(error("bin/sh"), Distrust::Relative { .. }));
        let library = |path: &str| check_library(Path::new(path));
        library("/etc/passwd").unwrap();
        assert!(matches!(library("/etc").unwrap_err(), Distrust::NotAFile { .. }));
        assert!(matches!(library("passwd").unwrap_err(), Distrust::Relative { .. }));
        // A process's own link to where it is: of the kernel's making, and to nothing that can be run.
        error("/proc/self/cwd");
    }
}
