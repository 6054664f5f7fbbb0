//! Loads the programs and attaches them, or says what this host lacks.

use std::{borrow::Cow, fs, io, path::Path};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Map, MapError},
    programs::{BtfTracePoint, PerfEvent, ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported},
    util::KernelVersion,
};
use profiler_config::{MAX_PERF_EVENT_PARANOID, OLDEST_KERNEL};
use thiserror::Error;

use super::{
    btf::{BtfError, Structures},
    faults::{self, Faults},
    mapped::Mapped,
    offsets,
};

/// The programs, as `cargo xtask ebpf build` made them.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../profiler-ebpf/prebuilt/profiler.bpf.o");

/// Types and members that the programs read, and where the running kernel describes them.
const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";
/// Whom the kernel lets open perf events.
const PARANOID_PATH: &str = "/proc/sys/kernel/perf_event_paranoid";
/// `PROC_PID_INIT_INO` (include/linux/proc_ns.h): the inode of the host's PID namespace.
const HOST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// How the walker is driven from frame to frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkerLoop {
    /// `bpf_loop`, Linux 5.17 and newer.
    BpfLoop,
    /// `bpf_for_each_map_elem`, Linux 5.13 and newer.
    ForEachMapElem,
}

impl WalkerLoop {
    /// The name in configuration and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BpfLoop => "bpf_loop",
            Self::ForEachMapElem => "for_each_map_elem",
        }
    }

    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::BpfLoop => "cpu_sample_loop",
            Self::ForEachMapElem => "cpu_sample_each",
        }
    }
}

/// Why sampling cannot work here.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The kernel is too old.
    #[error("Linux {release} is too old: the programs need {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1)]
    KernelTooOld {
        /// Its release.
        release: String,
    },
    /// Process ids seen by the kernel's programs are not ours.
    #[error("the daemon runs in a PID namespace of its own ({namespace})")]
    PidNamespace {
        /// As `/proc/self/ns/pid` names it.
        namespace: String,
    },
    /// The kernel does not describe its types.
    #[error("{BTF_PATH} cannot be read: {source}")]
    NoBtf {
        /// Why.
        source: io::Error,
    },
    /// The kernel's description of its types makes no sense.
    #[error("{BTF_PATH}: {source}")]
    BadBtf {
        /// Why.
        #[from]
        source: BtfError,
    },
    /// aya could not use the kernel's BTF.
    #[error("{BTF_PATH}: {source}")]
    Btf {
        /// Why.
        #[from]
        source: aya::BtfError,
    },
    /// The object could not be loaded.
    #[error("the kernel refused the maps: {}", chain(source))]
    Object {
        /// Why.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// A map could not be used.
    #[error("a map cannot be used: {}", chain(source))]
    Map {
        /// Why.
        #[from]
        source: MapError,
    },
    /// A map could not be mapped into memory.
    #[error("the map {map} cannot be shared: {source}")]
    ShareMap {
        /// Which map.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The object is not the one that belongs to this daemon.
    #[error("the object has no map {map}")]
    MissingMap {
        /// Which map.
        map: &'static str,
    },
    /// The object is not the one that belongs to this daemon.
    #[error("the object has no program {program}")]
    MissingProgram {
        /// Which program.
        program: &'static str,
    },
    /// A program was refused.
    #[error("the kernel refused the program {program}: {}", chain(source))]
    Program {
        /// Which program.
        program: &'static str,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// The clock event of a CPU could not be opened.
    #[error("perf_event_open for {event} on CPU {cpu}: {source}")]
    PerfEvent {
        /// Which event.
        event: &'static str,
        /// Which CPU.
        cpu: u32,
        /// What `kernel.perf_event_paranoid` was, if it could be read.
        paranoid: Option<i32>,
        /// Why.
        source: io::Error,
    },
    /// The CPUs could not be listed.
    #[error("{path}: {source}")]
    Cpus {
        /// The file that lists them.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl LoadError {
    /// A clock event that the kernel refused just now.
    pub(super) fn perf_event(event: &'static str, cpu: u32, source: io::Error) -> Self {
        let level = fs::read_to_string(PARANOID_PATH).ok();
        Self::PerfEvent {
            event,
            cpu,
            paranoid: level.and_then(|level| level.trim().parse().ok()),
            source,
        }
    }

    /// What an operator can do about it. A start that was refused is not tried again: whoever mends the cause has to restart
    /// the daemon, and is told so.
    pub fn remedy(&self) -> String {
        const NOT_TRIED_AGAIN: &str = "restart the daemon: a start that was refused is not tried again.";
        let mending = self.mending();
        match self {
            // The daemon is started anew with the host or with its container.
            Self::KernelTooOld { .. } | Self::PidNamespace { .. } => mending.into_owned(),
            _ if mending.is_empty() => format!("Mend the cause and {NOT_TRIED_AGAIN}"),
            _ => format!("{mending} Then {NOT_TRIED_AGAIN}"),
        }
    }

    /// What would mend it; empty if nothing is known.
    fn mending(&self) -> Cow<'static, str> {
        match self {
            Self::PerfEvent {
                paranoid: Some(level),
                source,
                ..
            } if *level > MAX_PERF_EVENT_PARANOID && source.raw_os_error() == Some(libc::EACCES) => {
                return format!(
                    "The sysctl kernel.perf_event_paranoid is {level}, where kernels of Debian and Ubuntu ask for \
                     CAP_SYS_ADMIN: set it to {MAX_PERF_EVENT_PARANOID}."
                )
                .into();
            }
            Self::KernelTooOld { .. } => "Run a newer kernel.",
            Self::PidNamespace { .. } => "Run the daemon in the host's PID namespace (docker: --pid=host).",
            Self::NoBtf { .. } | Self::BadBtf { .. } | Self::Btf { .. } => {
                "Run a kernel built with CONFIG_DEBUG_INFO_BTF, and let the daemon see /sys/kernel/btf."
            }
            _ if self.is_permission_denied() => {
                "Run the daemon as root or with CAP_BPF and CAP_PERFMON; in a container, allow bpf and perf_event_open in its \
                 seccomp profile."
            }
            Self::PerfEvent { source, .. } if source.raw_os_error() == Some(libc::EINVAL) => {
                "Set sampling.hz to at most the sysctl kernel.perf_event_max_sample_rate, which the kernel lowers by itself \
                 when samples take long, or raise that one."
            }
            _ => "",
        }
        .into()
    }

    /// `EPERM` anywhere; `EACCES` where it is not the verifier's word for a program that it does not accept.
    fn is_permission_denied(&self) -> bool {
        let refused_by_verifier = matches!(self, Self::Program { .. });
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = source {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                let code = io.raw_os_error();
                return code == Some(libc::EPERM) || code == Some(libc::EACCES) && !refused_by_verifier;
            }
            source = error.source();
        }
        false
    }
}

/// An error with everything that caused it; verifier logs are cut to their last lines.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    const MAX_BYTES: usize = 600;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Some errors name their cause themselves.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    if text.len() > MAX_BYTES {
        let mut start = text.len() - MAX_BYTES;
        while !text.is_char_boundary(start) {
            start += 1;
        }
        text = format!("… {}", &text[start..]);
    }
    text
}

/// A loaded object with its programs.
pub(super) struct Loaded {
    pub(super) object: Ebpf,
    pub(super) walker_loop: WalkerLoop,
    /// Offsets that this kernel does not have, as `struct.member`.
    pub(super) missing_offsets: Vec<String>,
    pub(super) faults: Faults,
    pub(super) mapped: Mapped,
}

/// Checks the host, creates the maps and loads the programs; attaches those that follow processes. `forced` chooses the
/// form of the loop.
pub(super) fn load(forced: Option<WalkerLoop>) -> Result<Loaded, LoadError> {
    check_host()?;
    let btf_bytes = fs::read(BTF_PATH).map_err(|source| LoadError::NoBtf { source })?;
    let structures = Structures::parse(&btf_bytes)?;
    let found = offsets::find(&structures);
    let mut loader = EbpfLoader::new();
    for offset in &found {
        if let Some(value) = &offset.value {
            loader.override_global(offset.global, value, true);
        }
    }
    let salt = faults::new_salt();
    loader.override_global("FAULT_SALT", &salt, true);
    let mut object = loader.load(OBJECT).map_err(|source| LoadError::Object {
        source: Box::new(source),
    })?;
    drop(structures);
    drop(btf_bytes);
    let walker_loop = forced.unwrap_or_else(newest_loop);
    let cpu: &mut PerfEvent = program(&mut object, walker_loop.program())?;
    cpu.load().map_err(refused(walker_loop.program()))?;
    let btf = Btf::from_sys_fs()?;
    for (name, tracepoint) in [
        ("process_fork", "sched_process_fork"),
        ("process_exec", "sched_process_exec"),
    ] {
        let tracing: &mut BtfTracePoint = program(&mut object, name)?;
        tracing.load(tracepoint, &btf).map_err(refused(name))?;
        tracing.attach().map_err(refused(name))?;
    }
    let faults = Faults::load(&mut object, walker_loop, salt)?;
    let mapped = Mapped::new(&mut object, walker_loop)?;
    let missing_offsets = found
        .into_iter()
        .filter(|offset| offset.value.is_none())
        .map(|offset| offset.member)
        .collect();
    Ok(Loaded {
        object,
        walker_loop,
        missing_offsets,
        faults,
        mapped,
    })
}

pub(super) fn refused(program: &'static str) -> impl Fn(ProgramError) -> LoadError {
    move |source| LoadError::Program {
        program,
        source: Box::new(source),
    }
}

/// A program of the object as its own type.
pub(super) fn program<'a, P>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = object
        .program_mut(name)
        .ok_or(LoadError::MissingProgram { program: name })?;
    program.try_into().map_err(refused(name))
}

/// A map of the object, moved out of it.
pub(super) fn take_map(object: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    object.take_map(name).ok_or(LoadError::MissingMap { map: name })
}

fn newest_loop() -> WalkerLoop {
    // Where it cannot be told, the older form works on every kernel that the programs load on.
    match is_helper_supported(ProgramType::PerfEvent, BpfHelper::BPF_FUNC_loop) {
        Ok(true) => WalkerLoop::BpfLoop,
        Ok(false) | Err(_) => WalkerLoop::ForEachMapElem,
    }
}

fn check_host() -> Result<(), LoadError> {
    if let Ok(version) = KernelVersion::current()
        && version < KernelVersion::new(OLDEST_KERNEL.0, OLDEST_KERNEL.1, 0)
    {
        return Err(LoadError::KernelTooOld {
            release: kernel_release(),
        });
    }
    if let Ok(namespace) = fs::read_link("/proc/self/ns/pid")
        && namespace != Path::new(HOST_PID_NAMESPACE)
    {
        return Err(LoadError::PidNamespace {
            namespace: namespace.display().to_string(),
        });
    }
    Ok(())
}

/// The name of this host.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The release of the running kernel.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_mends_a_refused_start_is_told_to_restart() {
        let refused = |code| LoadError::PerfEvent {
            event: "the CPU clock",
            cpu: 0,
            paranoid: Some(4),
            source: io::Error::from_raw_os_error(code),
        };
        for code in [libc::EACCES, libc::EPERM, libc::EINVAL, libc::ENOMEM, libc::ENODEV] {
            let remedy = refused(code).remedy();
            assert!(
                remedy.ends_with("restart the daemon: a start that was refused is not tried again."),
                "{remedy}"
            );
        }
        let release = "5.4.0".to_owned();
        assert_eq!(LoadError::KernelTooOld { release }.remedy(), "Run a newer kernel.");
    }

    #[test]
    fn a_rate_that_the_kernel_refuses_has_its_remedy() {
        let refused_at = |paranoid, code| LoadError::PerfEvent {
            event: "the CPU clock",
            cpu: 0,
            paranoid,
            source: io::Error::from_raw_os_error(code),
        };
        let error = |code| refused_at(Some(2), code);
        assert!(
            error(libc::EINVAL)
                .remedy()
                .contains("kernel.perf_event_max_sample_rate")
        );
        assert!(error(libc::EACCES).remedy().contains("CAP_PERFMON"));
        assert!(refused_at(None, libc::EACCES).remedy().contains("CAP_PERFMON"));
        let remedy = refused_at(Some(4), libc::EACCES).remedy();
        assert!(remedy.contains("kernel.perf_event_paranoid is 4"), "{remedy}");
        // A container's filter answers with this one, whatever the level is.
        assert!(refused_at(Some(3), libc::EPERM).remedy().contains("seccomp"));
        assert_eq!(error(libc::ENODEV).mending(), "");
    }
}
