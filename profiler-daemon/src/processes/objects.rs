//! What is mapped: one [`MappedObject`] for each file, however many processes map it, and one for each kind of memory
//! without a file.
//!
//! In: mapping records. Out: shared objects, filled in once when the builder has opened and read the file. As long as an
//! object holds its file's descriptor the inode cannot be given to another file, so device and inode name it; that it has
//! not been written to is asked of the descriptor itself from time to time.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use profiler_unwinding::{Segments, python::InterpreterObject};

use super::{discovery::Marks, files::identity_of, scan::without_deleted_mark, unwind::UnwindSummary};
use crate::{
    kernel::records::MapRecord,
    stacks::window::{CodeObject, CodeSource},
};

/// Objects that no process maps and that are kept for the next one that does.
const MAX_IDLE: usize = 512;
/// How long such an object is kept.
const IDLE_LIFETIME: Duration = Duration::from_secs(600);
/// How long an object is taken to be unchanged.
const FRESH: Duration = Duration::from_secs(1);
/// The same for a file system whose answers can take long.
const FRESH_REMOTE: Duration = Duration::from_secs(30);
/// Longest name of an object.
const MAX_NAME_BYTES: usize = 255;

/// Something that can be mapped.
#[derive(Debug)]
pub struct MappedObject {
    /// Base name to show: `libc.so.6`, `[vdso]`, `[anon]`.
    pub name: Arc<str>,
    /// What it is.
    pub kind: ObjectKind,
    /// Path as the process that was first seen to map it has it.
    pub path: Box<[u8]>,
    /// Device and inode as the kernel reported them with the mapping.
    pub device_inode: Option<(u64, u64)>,
    /// How often the builder was asked for it.
    asked: AtomicU32,
    /// Why it is not built for now.
    delay: Mutex<Option<Arc<str>>>,
    built: OnceLock<Arc<Built>>,
    /// Stands for it where its own tables cannot.
    opaque: OnceLock<Arc<CodeObject>>,
}

/// What a [`MappedObject`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A file, or what looks like one.
    File,
    /// The kernel's shared object.
    Vdso,
    /// The page where uprobes single-step.
    Uprobes,
    /// Memory without a file.
    Anonymous,
}

/// What the builder found in an object.
#[derive(Debug)]
pub struct Built {
    /// What names are made from.
    pub code: Arc<CodeObject>,
    /// Ties mappings to link addresses.
    pub segments: Segments,
    /// Its unwind rows, or why there are none.
    pub unwind: Result<Arc<UnwindSummary>, String>,
    /// What kind of program it is.
    pub marks: Marks,
    /// The Python interpreter in it, or why that cannot be used.
    pub python: Option<Result<Arc<InterpreterObject>, Arc<str>>>,
    /// Its file system is a network's or a process's: asking it can take long.
    pub remote: bool,
}

impl MappedObject {
    fn new(name: Arc<str>, kind: ObjectKind) -> Self {
        Self {
            name,
            kind,
            path: Box::default(),
            device_inode: None,
            asked: AtomicU32::new(0),
            delay: Mutex::new(None),
            built: OnceLock::new(),
            opaque: OnceLock::new(),
        }
    }

    /// Memory without a file.
    pub fn anonymous(name: &str) -> Self {
        Self::new(name.into(), ObjectKind::Anonymous)
    }

    /// A file.
    pub fn file(path: &[u8], device_inode: Option<(u64, u64)>) -> Self {
        let base = without_deleted_mark(path)
            .rsplit(|&byte| byte == b'/')
            .next()
            .unwrap_or_default();
        let base = &base[..base.len().min(MAX_NAME_BYTES)];
        Self {
            path: path.into(),
            device_inode,
            ..Self::new(String::from_utf8_lossy(base).into(), ObjectKind::File)
        }
    }

    /// What the builder found; `None` until it has, and for memory without a file.
    pub fn built(&self) -> Option<&Arc<Built>> {
        self.built.get()
    }

    /// Whether the builder still has to look at it.
    pub fn is_pending(&self) -> bool {
        matches!(self.kind, ObjectKind::File | ObjectKind::Vdso) && self.built.get().is_none()
    }

    /// Why it is not built for now, and will be tried again.
    pub(super) fn delay(&self) -> Option<Arc<str>> {
        self.delay.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that it is not built for now.
    pub(super) fn set_delay(&self, reason: &str) {
        *self.delay.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.into());
    }

    /// Whether the builder has to be asked for it now.
    pub(super) fn is_to_be_asked_for(&self) -> bool {
        self.is_pending() && self.asked.load(Ordering::Relaxed) == 0
    }

    /// Notes that the builder is asked for it, and returns how often it was before.
    pub(super) fn note_asked(&self) -> u32 {
        self.asked.fetch_add(1, Ordering::Relaxed)
    }

    /// Fills in what the builder found. The first answer holds.
    pub(super) fn fill(&self, built: Arc<Built>) {
        self.built.get_or_init(|| built);
    }

    /// Fills in that it cannot be read.
    pub(super) fn fail(&self, reason: &str) {
        let source = CodeSource::Opaque {
            reason: reason.to_owned(),
        };
        self.fill(Arc::new(Built {
            code: Arc::new(CodeObject {
                name: Arc::clone(&self.name),
                source,
                is_interpreter: false,
            }),
            segments: Segments::default(),
            unwind: Err(reason.to_owned()),
            marks: Marks::default(),
            python: None,
            remote: false,
        }));
    }

    /// Where an address of a mapping lies in the object's own terms: the object and the link address. Where the object's
    /// tables do not place it, the object is an opaque stand-in, and the address the offset in the file, or the runtime
    /// address where there is no file.
    pub(super) fn place(&self, start: u64, file_offset: u64, address: u64) -> (&Arc<CodeObject>, u64) {
        let placed = self
            .built
            .get()
            .and_then(|built| Some((&built.code, built.segments.bias(start, file_offset)?)));
        match placed {
            Some((code, bias)) => (code, address.wrapping_sub(bias)),
            None if self.kind == ObjectKind::Anonymous => (self.stand_in("memory without a file"), address),
            None => {
                let offset = file_offset.wrapping_add(address.wrapping_sub(start));
                match self.built.get() {
                    Some(built) if matches!(built.code.source, CodeSource::Opaque { .. }) => (&built.code, offset),
                    Some(_) => (self.stand_in("the file has no code there"), offset),
                    None => (self.stand_in("the file is not opened yet"), offset),
                }
            }
        }
    }

    fn stand_in(&self, reason: &str) -> &Arc<CodeObject> {
        self.opaque.get_or_init(|| {
            let source = match self.kind {
                ObjectKind::Anonymous => CodeSource::Anonymous,
                _ => CodeSource::Opaque {
                    reason: reason.to_owned(),
                },
            };
            Arc::new(CodeObject {
                name: Arc::clone(&self.name),
                source,
                is_interpreter: false,
            })
        })
    }

    /// Whether the file has been written to since it was opened.
    fn has_changed(&self) -> bool {
        self.built.get().is_some_and(|built| match &built.code.source {
            CodeSource::File {
                identity, descriptor, ..
            } => identity_of(descriptor).ok().as_ref() != Some(identity),
            CodeSource::Vdso | CodeSource::Anonymous | CodeSource::Opaque { .. } => false,
        })
    }
}

#[derive(Debug)]
struct Known {
    object: Arc<MappedObject>,
    checked_ns: u64,
    used_ns: u64,
}

/// What tells files apart before they are opened: device and inode as the kernel reports them with mappings. On file systems
/// whose device is none of a disk (overlays of several file systems, subvolumes and snapshots of btrfs) such a pair can stand
/// for several files, so that the path belongs to it there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct FileName {
    device_inode: (u64, u64),
    path: Box<[u8]>,
}

impl FileName {
    fn of(record: &MapRecord) -> Option<Self> {
        let device_inode = record.device_inode?;
        let is_ambiguous = rustix::fs::major(device_inode.0) == 0;
        let path = if is_ambiguous {
            without_deleted_mark(&record.path)
        } else {
            &[]
        };
        Some(Self {
            device_inode,
            path: path.into(),
        })
    }
}

/// All objects that are mapped, and some that were lately.
#[derive(Debug)]
pub(super) struct Objects {
    files: HashMap<FileName, Known>,
    pub(super) vdso: Arc<MappedObject>,
    uprobes: Arc<MappedObject>,
    heap: Arc<MappedObject>,
    anonymous: Arc<MappedObject>,
}

impl Objects {
    pub(super) fn new() -> Self {
        let special = |name: &str, kind| Arc::new(MappedObject::new(name.into(), kind));
        Self {
            files: HashMap::new(),
            vdso: special("[vdso]", ObjectKind::Vdso),
            uprobes: special("[uprobes]", ObjectKind::Uprobes),
            heap: special("[heap]", ObjectKind::Anonymous),
            anonymous: special("[anon]", ObjectKind::Anonymous),
        }
    }

    /// The object of a mapping; `None` if its code is not walked: `[vsyscall]` is a page of three traps.
    pub(super) fn find(&mut self, record: &MapRecord, now_ns: u64) -> Option<Arc<MappedObject>> {
        let special = match record.path.as_slice() {
            b"[vsyscall]" => return None,
            b"[vdso]" => &self.vdso,
            b"[uprobes]" => &self.uprobes,
            b"[heap]" => &self.heap,
            path if is_anonymous(path) => &self.anonymous,
            _ => return Some(self.file(record, now_ns)),
        };
        Some(Arc::clone(special))
    }

    fn file(&mut self, record: &MapRecord, now_ns: u64) -> Arc<MappedObject> {
        let name = FileName::of(record);
        if let Some(known) = name.as_ref().and_then(|name| self.files.get_mut(name)) {
            known.used_ns = now_ns;
            let remote = known.object.built().is_some_and(|built| built.remote);
            let fresh = if remote { FRESH_REMOTE } else { FRESH };
            let is_due = now_ns.saturating_sub(known.checked_ns) >= fresh.as_nanos() as u64;
            if !is_due || known.object.is_pending() {
                return Arc::clone(&known.object);
            }
            known.checked_ns = now_ns;
            // Nothing is asked of a remote file system here: the builder is to open the file again.
            if !remote && !known.object.has_changed() {
                return Arc::clone(&known.object);
            }
        }
        let object = Arc::new(MappedObject::file(&record.path, record.device_inode));
        if let Some(name) = name {
            self.files.insert(
                name,
                Known {
                    object: Arc::clone(&object),
                    checked_ns: now_ns,
                    used_ns: now_ns,
                },
            );
        }
        object
    }

    /// Forgets a file that could not be read, so that the next process that maps it may succeed.
    pub(super) fn forget(&mut self, object: &Arc<MappedObject>) {
        self.files.retain(|_, known| !Arc::ptr_eq(&known.object, object));
    }

    /// Drops all that nobody has mapped, to free their descriptors.
    pub(super) fn drop_idle(&mut self) {
        self.files.retain(|_, known| Arc::strong_count(&known.object) > 1);
    }

    /// Drops what nobody has mapped for long, and the longest unused of too many.
    pub(super) fn prune(&mut self, now_ns: u64) {
        let lifetime = IDLE_LIFETIME.as_nanos() as u64;
        let is_idle = |known: &Known| Arc::strong_count(&known.object) == 1;
        self.files
            .retain(|_, known| !is_idle(known) || now_ns.saturating_sub(known.used_ns) < lifetime);
        let mut idle: Vec<_> = self
            .files
            .iter()
            .filter(|(_, known)| is_idle(known))
            .map(|(name, known)| (known.used_ns, name.clone()))
            .collect();
        idle.sort_unstable();
        for (_, name) in idle.iter().take(idle.len().saturating_sub(MAX_IDLE)) {
            self.files.remove(name);
        }
    }
}

/// Whether a path of a mapping stands for memory without a file: no path, a word in brackets, what perf writes (`//anon`),
/// or one of the names under which the kernel keeps shared memory.
fn is_anonymous(path: &[u8]) -> bool {
    let is_shared_memory =
        [&b"/dev/zero"[..], b"/anon_hugepage"].contains(&without_deleted_mark(path)) || path.starts_with(b"/SYSV");
    path.first() != Some(&b'/') || path == b"//anon" || is_shared_memory
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use super::*;

    fn record(path: &str, inode: u64) -> MapRecord {
        MapRecord {
            start: 0x1000,
            length: 0x1000,
            file_offset: 0,
            device_inode: (inode != 0).then_some((1, inode)),
            path: path.into(),
        }
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn kinds_of_memory() {
        let mut objects = Objects::new();
        let mut check = |path: &str, inode, kind, name: &str| {
            let found = objects.find(&record(path, inode), 0).unwrap();
            assert_eq!((found.kind, &*found.name), (kind, name), "{path}");
        };
        check("", 0, ObjectKind::Anonymous, "[anon]");
        check("//anon", 0, ObjectKind::Anonymous, "[anon]");
        check("[heap]", 0, ObjectKind::Anonymous, "[heap]");
        check("[stack]", 0, ObjectKind::Anonymous, "[anon]");
        check("[anon:jit]", 0, ObjectKind::Anonymous, "[anon]");
        check("anon_inode:[io_uring]", 5, ObjectKind::Anonymous, "[anon]");
        check("/dev/zero (deleted)", 5, ObjectKind::Anonymous, "[anon]");
        check("[vdso]", 0, ObjectKind::Vdso, "[vdso]");
        check("[uprobes]", 0, ObjectKind::Uprobes, "[uprobes]");
        check("/memfd:jit (deleted)", 5, ObjectKind::File, "memfd:jit");
        check("/usr/lib/libc.so.6", 6, ObjectKind::File, "libc.so.6");
        check("//toolong", 7, ObjectKind::File, "toolong");
        assert!(objects.find(&record("[vsyscall]", 0), 0).is_none());
    }

    #[test]
    fn one_object_for_one_file_until_it_is_written_to() {
        let mut objects = Objects::new();
        let mut file = tempfile::tempfile().unwrap();
        let first = objects.find(&record("/a", 5), 0).unwrap();
        assert!(first.is_to_be_asked_for());
        let again = objects.find(&record("/a", 5), 9 * SECOND).unwrap();
        assert!(Arc::ptr_eq(&again, &first));
        first.fill(built(&file));
        let held = objects.find(&record("/a", 5), 20 * SECOND).unwrap();
        assert!(Arc::ptr_eq(&held, &first) && !held.is_to_be_asked_for());
        file.write_all(b"more").unwrap();
        let lately = objects.find(&record("/a", 5), 20 * SECOND + 1).unwrap();
        assert!(Arc::ptr_eq(&lately, &first), "checked a moment ago");
        let changed = objects.find(&record("/a", 5), 22 * SECOND).unwrap();
        assert!(changed.is_to_be_asked_for() && !Arc::ptr_eq(&changed, &first));
    }

    fn built(file: &File) -> Arc<Built> {
        let source = CodeSource::File {
            identity: identity_of(file).unwrap(),
            descriptor: crate::stacks::held_file::HeldFile::new(file.try_clone().unwrap().into(), false),
            path: b"/a"[..].into(),
        };
        Arc::new(Built {
            code: Arc::new(CodeObject {
                name: "a".into(),
                source,
                is_interpreter: false,
            }),
            segments: Segments::default(),
            unwind: Err("none".into()),
            marks: Marks::default(),
            python: None,
            remote: false,
        })
    }

    #[test]
    fn one_number_for_several_files() {
        let on = |device, path| MapRecord {
            device_inode: Some((device, 5)),
            ..record(path, 5)
        };
        let check = |device, is_same| {
            let mut objects = Objects::new();
            let mut find = |path| objects.find(&on(device, path), 0).unwrap();
            let (one, other) = (find("/one"), find("/other"));
            assert_eq!(Arc::ptr_eq(&one, &other), is_same);
            assert!(Arc::ptr_eq(&one, &find("/one")) && Arc::ptr_eq(&one, &find("/one (deleted)")));
        };
        // A hard link on a disk, and two files on an overlay.
        check(rustix::fs::makedev(8, 1), true);
        check(rustix::fs::makedev(0, 40), false);
    }

    #[test]
    fn without_a_number_every_mapping_is_its_own() {
        let mut objects = Objects::new();
        let one = objects.find(&record("/a", 0), 0).unwrap();
        let two = objects.find(&record("/a", 0), 0).unwrap();
        assert!(!Arc::ptr_eq(&one, &two));
    }

    #[test]
    fn what_nobody_maps_is_dropped_in_time() {
        let mut objects = Objects::new();
        let kept = objects.find(&record("/kept", 1), 0).unwrap();
        for inode in 2..3000 {
            objects.find(&record("/idle", inode), inode).unwrap();
        }
        objects.prune(3000);
        assert_eq!(objects.files.len(), MAX_IDLE + 1);
        let is_held = |inode| {
            objects
                .files
                .contains_key(&FileName::of(&record("/idle", inode)).unwrap())
        };
        assert!(is_held(2999) && !is_held(2));
        objects.prune(IDLE_LIFETIME.as_nanos() as u64 * 2);
        assert_eq!(objects.files.len(), 1);
        objects.forget(&kept);
        assert!(objects.files.is_empty());
    }

    #[test]
    fn addresses_that_no_table_places() {
        let file = MappedObject::file(b"/lib/x.so", None);
        let (code, address) = file.place(0x5000, 0x200, 0x5010);
        assert_eq!((&*code.name, address), ("x.so", 0x210));
        file.fail("unreadable");
        let (code, address) = file.place(0x5000, 0x200, 0x5010);
        assert!(matches!(&code.source, CodeSource::Opaque { reason } if reason == "unreadable"));
        assert_eq!(address, 0x210);
        let memory = MappedObject::anonymous("[anon]");
        let (code, address) = memory.place(0x5000, 0x200, 0x5010);
        assert!(matches!(code.source, CodeSource::Anonymous));
        assert_eq!(address, 0x5010);
    }
}
