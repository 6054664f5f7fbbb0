//! Names for all addresses of a window.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use profiler_common::stop::StopReason;
use profiler_profile::{Frame, FrameKind, Profile, ProfileBuilder, Quality};
use profiler_symbolizer::Limits;

use super::{
    debug_file::DebugSearch,
    frame_cache::{FrameCache, Frames, ObjectKey},
    kernel_frames::KernelFrames,
    kernel_names::{KernelNames, KernelNamesError},
    object_file::ObjectFile,
    object_names::{Limitation, ObjectNames},
    perf_maps::PerfMaps,
    python_names,
};
use crate::{
    kernel::records::Pid,
    processes::{own_vdso, scan::ProcFs},
    stacks::window::{CodeObject, CodeSource, Location, RawStack, StackWindow, WindowProcess},
};

/// Stands for addresses in no known mapping.
const UNMAPPED: &str = "[unmapped]";
/// Longest that a window waits for Python code objects to be read.
const READING: Duration = Duration::from_millis(500);
/// Module of code that a process generated and named.
const GENERATED: &str = "[jit]";

/// Names windows, and keeps what helps with the next one.
#[derive(Debug)]
pub struct Symbols {
    kernel: KernelNames,
    objects: ObjectNames,
    frames: FrameCache,
    perf_maps: PerfMaps,
    vdso: Vec<u8>,
    proc: ProcFs,
    /// Set when nobody waits for names any more.
    stop: Arc<AtomicBool>,
}

/// How a location appears in the profile that is being built.
#[derive(Debug, Default)]
struct NamedLocation {
    /// Numbers of its frames, root first.
    frames: Box<[u32]>,
    is_named: bool,
}

/// The addresses of one object that are not named yet.
struct Pending<'w> {
    object: &'w Arc<CodeObject>,
    /// One of the processes that map it.
    pid: Pid,
    locations: Vec<(&'w Location, u64)>,
}

impl Symbols {
    /// Reads the kernel's names, which takes a while: call it on the thread that names windows. `proc_root` is where
    /// procfs is mounted. Half of the configured bytes are for the tables of objects, a quarter for frames, and a quarter
    /// for perf maps.
    pub fn new(settings: &profiler_config::Symbols, proc_root: &Path) -> Self {
        let limits = Limits {
            debug_bytes: settings.max_debug_info_bytes,
            ..Limits::default()
        };
        let quarter = usize::try_from(settings.cache_bytes / 4).unwrap_or(usize::MAX / 4);
        let proc = ProcFs::new(proc_root);
        Self {
            kernel: KernelNames::read(proc_root, Instant::now()),
            objects: ObjectNames::new(2 * quarter, limits),
            frames: FrameCache::new(quarter),
            perf_maps: PerfMaps::new(quarter),
            // Without it, its functions have no names; its absence is an object that cannot be read.
            vdso: own_vdso(&proc).unwrap_or_default(),
            proc,
            stop: Arc::default(),
        }
    }

    /// Hurries once this is set: what has no name by then stays without one, and no file is read for it any more.
    pub fn until(self, stop: &Arc<AtomicBool>) -> Self {
        Self {
            objects: self.objects.until(Arc::clone(stop)),
            stop: Arc::clone(stop),
            ..self
        }
    }

    /// Why kernel functions have no names; `None` if they have.
    pub fn kernel_error(&self) -> Option<&KernelNamesError> {
        self.kernel.error()
    }

    /// Which objects cannot be named, or not well.
    pub fn limitations(&self) -> Vec<Limitation> {
        let mut limitations = self.objects.limitations();
        limitations.extend(self.perf_maps.limitations());
        limitations
    }

    /// Memory held between windows, the kernel's names included.
    pub fn memory_bytes(&self) -> usize {
        self.kernel.memory_bytes()
            + self.objects.memory_bytes()
            + self.frames.memory_bytes()
            + self.perf_maps.memory_bytes()
            + self.vdso.len()
    }

    /// Names everything in a window.
    pub fn name(&mut self, window: &StackWindow) -> Profile {
        self.name_with(window, |_, _, _| {})
    }

    /// The same; `each` is told the frames of each stack, root first, by their numbers in the profile.
    pub fn name_with<'w>(
        &mut self,
        window: &'w StackWindow,
        mut each: impl FnMut(u32, &'w RawStack, &[u32]),
    ) -> Profile {
        self.kernel.refresh(Instant::now());
        let mut builder = ProfileBuilder::new(window.period, window.start, window.end);
        let named = self.name_locations(window, &mut builder);
        let mut kernel = KernelFrames::new(&mut self.kernel);
        for process in &window.processes {
            let mut quality = stack_quality(process);
            let generated = name_generated(&mut self.perf_maps, &self.proc, process, &mut builder);
            for (stack, count) in &process.stacks {
                let mut frames = Vec::with_capacity(stack.kernel.len() + 2 * stack.user.len());
                for location in stack.user.iter().rev() {
                    if let Some(number) = generated_address(location).and_then(|address| generated.get(&address)) {
                        frames.push(*number);
                        quality.named_user_frames += count;
                    } else if let Some(named) = named.get(location) {
                        frames.extend_from_slice(&named.frames);
                        quality.named_user_frames += if named.is_named { *count } else { 0 };
                    }
                }
                quality.user_frames += stack.user.len() as u64 * count;
                quality.samples += count;
                for (level, address) in stack.kernel.iter().enumerate().rev() {
                    // All but the innermost are return addresses, which can lie behind the function that calls.
                    let address = if level == 0 { *address } else { address.wrapping_sub(1) };
                    frames.push(kernel.number(address, &mut builder));
                }
                each(process.label.pid, stack, &frames);
                builder.add_numbered(&process.label, &stack.thread, stack.gil, frames, *count);
            }
            builder.add_process_quality(&process.label, &quality);
        }
        builder.quality_mut().lost.clone_from(&window.lost);
        builder.build()
    }

    /// Names each distinct location of a window once.
    fn name_locations<'w>(
        &mut self,
        window: &'w StackWindow,
        builder: &mut ProfileBuilder,
    ) -> HashMap<&'w Location, NamedLocation> {
        let mut named: HashMap<&Location, NamedLocation> = HashMap::new();
        let mut pending: HashMap<ObjectKey, Pending<'w>> = HashMap::new();
        let now = Instant::now();
        let deadline = match self.stop.load(Ordering::Relaxed) {
            true => now,
            false => now + READING,
        };
        let locations = window.processes.iter().flat_map(|process| {
            let locations = process.stacks.keys().flat_map(|stack| &stack.user);
            locations.map(|location| (Pid(process.label.pid), location))
        });
        for (pid, location) in locations {
            if named.contains_key(location) {
                continue;
            }
            let entry = match location {
                Location::Unmapped { .. } => NamedLocation::of_memory(UNMAPPED, builder),
                Location::Python { code, instruction } => {
                    let code = window.codes.get(*code as usize).map(|code| &**code);
                    let named = python_names::frame(code, *instruction, deadline);
                    NamedLocation {
                        is_named: named.as_ref().is_none_or(|(_, is_named)| *is_named),
                        frames: named.map(|(frame, _)| builder.number(frame)).into_iter().collect(),
                    }
                }
                Location::Object { object, link_address } => match key_of(object) {
                    None => NamedLocation::without_name(object, *link_address, builder),
                    Some(key) => match self.frames.get(key, *link_address) {
                        Some(frames) => NamedLocation::new(object, *link_address, &frames, builder),
                        None => {
                            let pending = pending.entry(key);
                            let pending = pending.or_insert_with(|| Pending {
                                object,
                                pid,
                                locations: Vec::new(),
                            });
                            pending.locations.push((location, *link_address));
                            // Filled in below; until then it keeps the location from being asked for again.
                            NamedLocation::default()
                        }
                    },
                },
            };
            named.insert(location, entry);
        }
        for (key, pending) in pending {
            let frames = self.resolve(key, &pending);
            for ((location, link_address), frames) in pending.locations.iter().zip(frames) {
                let frames = self.frames.insert(key, *link_address, frames);
                if let Location::Object { object, .. } = location {
                    named.insert(location, NamedLocation::new(object, *link_address, &frames, builder));
                }
            }
        }
        named
    }

    fn resolve(&mut self, key: ObjectKey, pending: &Pending<'_>) -> Vec<Frames> {
        let addresses: Vec<u64> = pending.locations.iter().map(|(_, address)| *address).collect();
        if self.stop.load(Ordering::Relaxed) {
            return vec![Frames::default(); addresses.len()];
        }
        let object = pending.object;
        match &object.source {
            CodeSource::File {
                identity,
                descriptor,
                path,
            } => {
                let file = ObjectFile::new(descriptor.as_fd(), identity.length).until(&self.stop);
                let search = DebugSearch {
                    proc: &self.proc,
                    pid: pending.pid,
                    path,
                    identity: *identity,
                    descriptor: descriptor.as_fd(),
                    stop: &self.stop,
                };
                self.objects.resolve(key, &object.name, &file, Some(search), &addresses)
            }
            CodeSource::Vdso => self.objects.resolve(key, &object.name, &self.vdso, None, &addresses),
            CodeSource::Anonymous | CodeSource::Opaque { .. } => vec![Frames::default(); addresses.len()],
        }
    }
}

fn key_of(object: &CodeObject) -> Option<ObjectKey> {
    match &object.source {
        CodeSource::File { identity, .. } => Some(ObjectKey::File(*identity)),
        CodeSource::Vdso => Some(ObjectKey::Vdso),
        CodeSource::Anonymous | CodeSource::Opaque { .. } => None,
    }
}

/// The runtime address of a location in memory without a file.
fn generated_address(location: &Location) -> Option<u64> {
    match location {
        Location::Object { object, link_address } if matches!(object.source, CodeSource::Anonymous) => {
            Some(*link_address)
        }
        _ => None,
    }
}

/// Frames of the code that a process generated and named, by runtime address.
fn name_generated(
    perf_maps: &mut PerfMaps,
    proc: &ProcFs,
    process: &WindowProcess,
    builder: &mut ProfileBuilder,
) -> HashMap<u64, u32> {
    let locations = process.stacks.keys().flat_map(|stack| &stack.user);
    let addresses: HashSet<u64> = locations.filter_map(generated_address).collect();
    let Some(start_ticks) = process.start_ticks.filter(|_| !addresses.is_empty()) else {
        return HashMap::new();
    };
    let map = perf_maps.of(proc, (process.label.pid, start_ticks));
    let named = addresses.into_iter().filter_map(|address| {
        let number = builder.number(Frame {
            kind: FrameKind::Native,
            function: Arc::clone(map.find(address)?),
            module: GENERATED.into(),
            file: Arc::default(),
            line: 0,
        });
        Some((address, number))
    });
    named.collect()
}

/// What is known of a process's stacks before they have names.
fn stack_quality(process: &WindowProcess) -> Quality {
    let mut quality = Quality {
        incomplete_kernel_stacks: process.incomplete_kernel_stacks,
        python: (&process.python).into(),
        ..Quality::default()
    };
    let mut stopped: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, count) in &process.stops {
        match reason {
            // A thread without user registers has no user part that could be missing.
            StopReason::Root | StopReason::NoUserRegisters => quality.rooted += count,
            other => *stopped.entry(other.name().to_owned()).or_default() += count,
        }
    }
    quality.stopped = stopped;
    quality
}

impl NamedLocation {
    fn new(object: &CodeObject, link_address: u64, frames: &Frames, builder: &mut ProfileBuilder) -> Self {
        if frames.is_empty() {
            return Self::without_name(object, link_address, builder);
        }
        if let [
            profiler_symbolizer::Frame {
                unnamed: true,
                function,
                ..
            },
        ] = &**frames
        {
            let function = format!("{}{function}", object.name);
            return Self::unnamed(object, function.into(), builder);
        }
        let numbers = frames.iter().rev().map(|frame| {
            builder.number(Frame {
                kind: match frame.inlined {
                    _ if object.is_interpreter => FrameKind::Interpreter,
                    true => FrameKind::Inlined,
                    false => FrameKind::Native,
                },
                function: Arc::clone(&frame.function),
                module: Arc::clone(&object.name),
                file: Arc::clone(&frame.file),
                line: frame.line,
            })
        });
        Self {
            frames: numbers.collect(),
            is_named: true,
        }
    }

    fn without_name(object: &CodeObject, link_address: u64, builder: &mut ProfileBuilder) -> Self {
        let is_memory = match object.source {
            CodeSource::Anonymous => true,
            // The page of the uprobes.
            CodeSource::Opaque { .. } => object.name.starts_with('['),
            CodeSource::File { .. } | CodeSource::Vdso => false,
        };
        if is_memory {
            return Self::of_memory(&object.name, builder);
        }
        let function = format!("{}+{link_address:#x}", object.name);
        Self::unnamed(object, function.into(), builder)
    }

    /// Code in memory that no file describes. Its addresses mean nothing outside of the process, so they are left out, and
    /// all of it is one function.
    fn of_memory(name: &str, builder: &mut ProfileBuilder) -> Self {
        let name: Arc<str> = name.into();
        Self::without_symbol(FrameKind::Unnamed, Arc::clone(&name), name, builder)
    }

    fn unnamed(object: &CodeObject, function: Arc<str>, builder: &mut ProfileBuilder) -> Self {
        let kind = match object.is_interpreter {
            true => FrameKind::Interpreter,
            false => FrameKind::Unnamed,
        };
        Self::without_symbol(kind, function, Arc::clone(&object.name), builder)
    }

    fn without_symbol(kind: FrameKind, function: Arc<str>, module: Arc<str>, builder: &mut ProfileBuilder) -> Self {
        let frame = Frame {
            kind,
            function,
            module,
            file: Arc::default(),
            line: 0,
        };
        Self {
            frames: [builder.number(frame)].into(),
            is_named: false,
        }
    }
}
