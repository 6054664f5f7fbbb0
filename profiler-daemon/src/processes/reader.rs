//! Opens and reads what the builder is asked for.
//!
//! In: one [`Job`] at a time. Out: its [`Outcome`]. Files are opened and read within bounds under the rules for hostile
//! targets ([`super::files`]); equal files are read once, equal unwind tables compiled once.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

use object::ReadCache;
use profiler_config::NamedService;
use profiler_unwinding::{CompileError, ContentId, Segments, python::InterpreterObject};
use rustix::{io::Errno, process::Resource};

use super::{
    discovery::{self, Marks},
    files::{BoundedFile, MappedPlace, OpenError, TargetFile, open_executable, open_mapped},
    interpreter,
    jobs::{Failure, Identity, Job, Outcome},
    kept_pages::CompiledRows,
    memory,
    objects::{Built, MappedObject, ObjectKind},
    row_cache::RowCache,
    scan::{ProcFs, ScanError},
    service,
    unwind::{self, UnwindSummary},
    vdso::own_vdso,
};
use crate::{
    kernel::records::Pid,
    stacks::{
        held_file::HeldFile,
        window::{CodeObject, CodeSource, FileIdentity},
    },
};

/// Most bytes that are read of one object for its unwind rows.
const MAX_OBJECT_BYTES: u64 = 160 << 20;
/// Files whose marks are remembered.
const MAX_REMEMBERED_MARKS: usize = 8192;
/// Mappings of an unwatched process that are looked at for an interpreter.
const MAX_INTERPRETER_CANDIDATES: usize = 4;
/// Files of processes that are held open at most, whatever the system allows.
const MAX_DESCRIPTORS: u64 = 1 << 16;
/// Descriptors that they leave to clients, clocks, rings and the files that are read now.
const RESERVED_DESCRIPTORS: u64 = 512;

/// What a thread remembers of what it read.
pub(super) struct Reader {
    proc: ProcFs,
    rows: Arc<RowCache>,
    /// Files are not kept open with this number or a higher one: numbers are given out from the lowest free one on.
    max_descriptor: RawFd,
    built: HashMap<FileIdentity, Weak<Built>>,
    unwind: HashMap<ContentId, Weak<UnwindSummary>>,
    marks: HashMap<FileIdentity, Marks>,
}

impl Reader {
    pub(super) fn new(proc: ProcFs, rows: Arc<RowCache>) -> Self {
        Self {
            proc,
            rows,
            max_descriptor: max_descriptor(),
            built: HashMap::new(),
            unwind: HashMap::new(),
            marks: HashMap::new(),
        }
    }

    /// Does a job.
    pub(super) fn run(&mut self, job: Job) -> Outcome {
        match job {
            Job::Build { object, place } => {
                let result = guarded(|| self.build(&object, &place));
                Outcome::Built {
                    object,
                    pid: place.pid,
                    result,
                }
            }
            Job::BuildVdso { object } => {
                let result = guarded(|| self.build_vdso(&object));
                Outcome::Built {
                    object,
                    pid: Pid(0),
                    result,
                }
            }
            Job::List(list) => Outcome::Listed {
                result: guarded(|| self.proc.maps(list.pid).map_err(|error| scan_failure(&error))),
                list,
            },
            Job::Compile { object } => {
                let result = guarded(|| self.compile_again(&object));
                Outcome::Compiled { object, result }
            }
            Job::ReadPages(read) => Outcome::PagesRead(read.run()),
            Job::ReadStack { image, pid, from, code } => Outcome::StackRead {
                image,
                addresses: memory::addresses_on_stack(&self.proc, pid, from, &code),
            },
            Job::Identify { image, pid, services } => Outcome::Identified {
                image,
                result: guarded(|| self.identify(pid, services)),
            },
            Job::Inspect { image, pid, mapped } => Outcome::Inspected {
                image,
                result: guarded(|| interpreter::inspect(&self.proc, pid, &mapped, image.0)),
            },
        }
    }

    fn build(
        &mut self,
        object: &MappedObject,
        place: &MappedPlace,
    ) -> Result<(Arc<Built>, Option<CompiledRows>), Failure> {
        let file = open_mapped(&self.proc, place).map_err(|error| failure(&error))?;
        if file.descriptor.as_raw_fd() >= self.max_descriptor {
            return Err(Failure {
                reason: format!("the daemon holds {} files open, as many as it may", self.max_descriptor),
                passes: true,
            });
        }
        if let Some(built) = self.built.get(&file.identity).and_then(Weak::upgrade) {
            return Ok((built, None));
        }
        let marks = self.examine(&file);
        let remote = file.is_remote();
        let cache = ReadCache::new(BoundedFile::new(
            &file.descriptor,
            file.identity.length,
            MAX_OBJECT_BYTES,
        ));
        let segments = Segments::parse(&cache);
        let (unwind, table) = match &segments {
            Ok(_) => self.compile(&cache),
            Err(error) => (Err(error.to_string()), None),
        };
        let python = if marks.python { read_interpreter(&cache) } else { None };
        drop(cache);
        let identity = file.identity;
        let source = CodeSource::File {
            identity,
            descriptor: HeldFile::new(file.descriptor, remote),
            path: place.path.as_slice().into(),
        };
        let built = Arc::new(Built {
            code: Arc::new(CodeObject {
                name: Arc::clone(&object.name),
                source,
                // A program with an interpreter linked into it has code of its own in there, too.
                is_interpreter: python.is_some() && !marks.rust,
            }),
            segments: segments.unwrap_or_default(),
            unwind,
            marks,
            python,
            remote,
        });
        forget_dead(&mut self.built);
        self.built.insert(identity, Arc::downgrade(&built));
        Ok((built, table))
    }

    fn build_vdso(&mut self, object: &MappedObject) -> Result<(Arc<Built>, Option<CompiledRows>), Failure> {
        debug_assert_eq!(object.kind, ObjectKind::Vdso);
        let image = own_vdso(&self.proc).map_err(|error| error.to_string())?;
        let segments = Segments::parse(&image[..]).map_err(|error| error.to_string())?;
        let (unwind, table) = self.compile(&image[..]);
        let code = Arc::new(CodeObject {
            name: Arc::clone(&object.name),
            source: CodeSource::Vdso,
            is_interpreter: false,
        });
        Ok((
            Arc::new(Built {
                code,
                segments,
                unwind,
                marks: Marks::default(),
                python: None,
                remote: false,
            }),
            table,
        ))
    }

    /// Compiles rows, unless equal content was compiled before and its summary is still in use, or its rows are on disk.
    fn compile<'data, R: object::ReadRef<'data>>(
        &mut self,
        data: R,
    ) -> (Result<Arc<UnwindSummary>, String>, Option<CompiledRows>) {
        let mut shared = None;
        let compiled = self.rows_of(data, |content| {
            shared = self.unwind.get(content).and_then(Weak::upgrade);
            shared.is_some()
        });
        match (compiled, shared) {
            (Ok(_), Some(summary)) => (Ok(summary), None),
            (Ok((content, Some(table))), None) => {
                let summary = Arc::new(UnwindSummary::of(content, &table.table));
                forget_dead(&mut self.unwind);
                self.unwind.insert(content, Arc::downgrade(&summary));
                (Ok(summary), Some(table))
            }
            (Ok((_, None)), None) => (Err("its unwind table was not compiled".to_owned()), None),
            (Err(error), _) => (Err(error.to_string()), None),
        }
    }

    /// Rows for an object's content, from disk if they are kept there; none if `is_known` says that they are not needed.
    fn rows_of<'data, R: object::ReadRef<'data>>(
        &self,
        data: R,
        is_known: impl FnOnce(&ContentId) -> bool,
    ) -> Result<(ContentId, Option<CompiledRows>), CompileError> {
        let mut loaded = None;
        let (content, compiled) = unwind::compile(data, |content| {
            let is_needed = !is_known(content);
            loaded = if is_needed { self.rows.load(content) } else { None };
            !is_needed || loaded.is_some()
        })?;
        let compiled = compiled.map(|table| {
            let kept = self.rows.store(&content, &table);
            CompiledRows { table, kept }
        });
        Ok((content, compiled.or(loaded)))
    }

    fn compile_again(&mut self, object: &MappedObject) -> Result<CompiledRows, String> {
        let built = object.built().ok_or("the object was never built")?;
        let compiled = match &built.code.source {
            CodeSource::File {
                identity, descriptor, ..
            } => self.rows_of(
                &ReadCache::new(BoundedFile::new(descriptor, identity.length, MAX_OBJECT_BYTES)),
                |_| false,
            ),
            CodeSource::Vdso => {
                let image = own_vdso(&self.proc).map_err(|error| error.to_string())?;
                self.rows_of(&image[..], |_| false)
            }
            CodeSource::Anonymous => return Err("memory without a file has no rows".to_owned()),
            CodeSource::Opaque { reason } => return Err(reason.clone()),
        };
        let (content, table) = compiled.map_err(|error| error.to_string())?;
        // Rows of other content would give wrong stacks to all who share the id.
        match (&built.unwind, table) {
            (Ok(summary), Some(table)) if summary.content == content => Ok(table),
            _ => Err("the file has changed".to_owned()),
        }
    }

    fn identify(&mut self, pid: Pid, services: Arc<[NamedService]>) -> Result<Identity, Failure> {
        let executable = self.proc.executable(pid).map_err(|error| scan_failure(&error))?;
        let user_id = self.proc.user_id(pid).map_err(|error| scan_failure(&error))?;
        // Without cgroups a process has no service but itself.
        let cgroup = self.proc.cgroup(pid).unwrap_or_default();
        let program = open_executable(&self.proc, pid).map_err(|error| failure(&error))?;
        let mut marks = self.examine(&program);
        if !marks.python {
            marks.python = self.maps_interpreter(pid);
        }
        let arguments = match marks.python || service::needs_command_line(&services) {
            true => self.proc.command_line(pid).unwrap_or_default(),
            false => Vec::new(),
        };
        let application = marks.python.then(|| service::python_application(&arguments)).flatten();
        let known = service::Known {
            cgroup: &cgroup,
            application,
            executable: &executable,
            arguments: &arguments,
        };
        let service = service::name(&services, known).into();
        Ok(Identity {
            executable,
            user_id,
            service,
            named_by: services,
            marks,
        })
    }

    /// Whether the process maps a Python interpreter. The names of libraries say which are worth a look, their content
    /// decides.
    fn maps_interpreter(&mut self, pid: Pid) -> bool {
        let Ok(scan) = self.proc.maps(pid) else { return false };
        let candidates = scan.executable.iter().filter(|record| {
            let base = record.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
            base.starts_with(b"libpython")
        });
        candidates.take(MAX_INTERPRETER_CANDIDATES).any(|record| {
            let place = MappedPlace {
                pid,
                start: record.start,
                end: record.start.saturating_add(record.length),
                device_inode: record.device_inode,
                path: record.path.clone(),
            };
            open_mapped(&self.proc, &place).is_ok_and(|file| self.examine(&file).python)
        })
    }

    fn examine(&mut self, file: &TargetFile) -> Marks {
        if let Some(marks) = self.marks.get(&file.identity) {
            return *marks;
        }
        let marks = discovery::examine(&file.descriptor, &file.identity);
        if self.marks.len() >= MAX_REMEMBERED_MARKS {
            self.marks.clear();
        }
        self.marks.insert(file.identity, marks);
        marks
    }
}

/// What the object of an interpreter says, or why it cannot be used; `None` if it is none after all.
fn read_interpreter<'data>(data: impl object::ReadRef<'data>) -> Option<Result<Arc<InterpreterObject>, Arc<str>>> {
    match InterpreterObject::read(data) {
        Ok(found) => found.map(|object| Ok(Arc::new(object))),
        Err(error) => Some(Err(error.to_string().into())),
    }
}

/// Runs a job whose input may be made to break it.
fn guarded<T, E: From<String>>(job: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let broken = |_| Err("reading it failed inside the profiler".to_owned().into());
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(broken)
}

/// Why a file was not opened, and whether that says something about the file or about the moment.
fn failure(error: &OpenError) -> Failure {
    let passes = match error {
        OpenError::Refused { reason, .. } => does_pass(reason),
        OpenError::Gone | OpenError::NotRegular | OpenError::Replaced => false,
    };
    let reason = error.to_string();
    Failure { reason, passes }
}

/// The same for what `/proc` says.
pub(super) fn scan_failure(error: &ScanError) -> Failure {
    let passes = matches!(error, ScanError::Failed { reason, .. } if does_pass(reason));
    let reason = error.to_string();
    Failure { reason, passes }
}

/// Whether the kernel refused for want of something.
pub(super) fn does_pass(reason: &io::Error) -> bool {
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::AGAIN];
    passing
        .iter()
        .any(|errno| reason.raw_os_error() == Some(errno.raw_os_error()))
}

/// How many files of processes may be held open: all but some that the daemon needs for itself.
fn max_descriptor() -> RawFd {
    let allowed = rustix::process::getrlimit(Resource::Nofile).current;
    let allowed = allowed.map_or(MAX_DESCRIPTORS, |allowed| allowed.min(MAX_DESCRIPTORS));
    // A quarter at least is left to files where little is allowed.
    let for_files = allowed.saturating_sub(RESERVED_DESCRIPTORS).max(allowed / 4);
    RawFd::try_from(for_files).unwrap_or(RawFd::MAX)
}

/// Drops what nobody holds any more, when there is as much of it as to be worth the walk.
fn forget_dead<K, V>(entries: &mut HashMap<K, Weak<V>>) {
    if entries.len() == entries.capacity() {
        entries.retain(|_, entry| entry.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_descriptors_says_nothing_about_the_file() {
        let refused = |errno: Errno| OpenError::Refused {
            what: "opening it",
            reason: errno.into(),
        };
        assert!(failure(&refused(Errno::MFILE)).passes && failure(&refused(Errno::NFILE)).passes);
        assert!(!failure(&refused(Errno::ACCESS)).passes && !failure(&OpenError::Gone).passes);
        assert!(max_descriptor() > 0 && max_descriptor() <= MAX_DESCRIPTORS as RawFd);
    }

    #[test]
    fn a_panic_is_a_failed_job() {
        let broken: Result<(), String> = guarded(|| panic!("on purpose"));
        assert!(broken.is_err());
    }
}
