//! What can be measured.

use std::{fmt, str::FromStr};

/// Unit of a value, a base unit as Prometheus wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A share, 0 to 1.
    Ratio,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// CPUs: seconds of CPU a second.
    Cores,
    /// A number of things.
    Count,
    /// Degrees Celsius.
    Celsius,
    /// Watts.
    Watts,
    /// Joules.
    Joules,
    /// Hertz.
    Hertz,
}

/// How a value moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Up and down.
    Gauge,
    /// Only up, until its source begins again: what is of interest is its rate.
    Counter,
}

/// The kind of subject that a metric is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The host as a whole.
    Host,
    /// One CPU.
    Core,
    /// A block device.
    Disk,
    /// A network interface.
    Network,
    /// A mounted file system.
    Filesystem,
    /// A service.
    Service,
    /// A process.
    Process,
    /// A control group.
    ControlGroup,
    /// A GPU or an instance of one.
    Gpu,
}

impl Scope {
    /// Its name in configuration, labels and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Core => "core",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Filesystem => "filesystem",
            Self::Service => "service",
            Self::Process => "process",
            Self::ControlGroup => "cgroup",
            Self::Gpu => "gpu",
        }
    }
}

/// A metric and its description: one line of the table below.
macro_rules! metrics {
    ($($variant:ident $name:literal $scope:ident $kind:ident $unit:ident $help:literal;)+) => {
        /// What can be measured. The name is the same in configuration, on the command line, over gRPC and, behind
        /// `profiler_`, for Prometheus.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Metric {
            $(#[doc = $help] $variant,)+
        }

        impl Metric {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it is about.
            pub fn scope(self) -> Scope {
                match self { $(Self::$variant => Scope::$scope,)+ }
            }

            /// How it moves.
            pub fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)+ }
            }

            /// Its unit.
            pub fn unit(self) -> Unit {
                match self { $(Self::$variant => Unit::$unit,)+ }
            }

            /// What it says, in a sentence without a full stop.
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)+ }
            }
        }
    };
}

metrics! {
    HostCpuBusy "host_cpu_busy_ratio" Host Gauge Ratio "Share of the host's CPU time spent neither idle nor waiting for I/O";
    HostMemoryUsed "host_memory_used_ratio" Host Gauge Ratio "1 - MemAvailable / MemTotal of /proc/meminfo";
    HostSwapUsed "host_swap_used_ratio" Host Gauge Ratio "Share of the swap space in use";
    HostMemoryPressure "host_memory_pressure_ratio" Host Gauge Ratio "Share of time in which some task waited for memory, over 10 s (some avg10 of /proc/pressure/memory)";
    FilesystemUsed "filesystem_used_ratio" Filesystem Gauge Ratio "Share of a file system that ordinary users cannot write to any more";
    ServiceCpu "service_cpu_cores" Service Gauge Cores "CPUs that the processes of a service keep busy";
    ServiceMemory "service_memory_bytes" Service Gauge Bytes "Resident memory of the processes of a service";
    ServiceMemoryLimitUsed "service_memory_limit_ratio" Service Gauge Ratio "Memory of a service's control group against its limit";
    ProcessCpu "process_cpu_cores" Process Gauge Cores "CPUs that a process keeps busy";
    ProcessMemory "process_memory_bytes" Process Gauge Bytes "Resident memory of a process";
    GpuUtilization "gpu_utilization_ratio" Gpu Gauge Ratio "Share of time in which at least one kernel ran on the GPU: says nothing of how much of it was used";
    GpuMemoryUsed "gpu_memory_used_ratio" Gpu Gauge Ratio "Share of the GPU's memory in use";
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no metric's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownMetric {
    /// The name.
    pub name: String,
}

impl fmt::Display for UnknownMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no reading {:?}", self.name)
    }
}

impl std::error::Error for UnknownMetric {}

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(name: &str) -> Result<Self, UnknownMetric> {
        let known = Self::ALL.iter().find(|metric| metric.name() == name);
        known.copied().ok_or_else(|| UnknownMetric { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_the_unit() {
        let mut names = std::collections::BTreeSet::new();
        for &metric in Metric::ALL {
            assert!(names.insert(metric.name()), "{metric} twice");
            assert_eq!(metric.name().parse(), Ok(metric));
            let stem = match metric.kind() {
                Kind::Counter => metric.name().strip_suffix("_total").expect("a counter ends in _total"),
                Kind::Gauge => metric.name(),
            };
            let suffix = match metric.unit() {
                Unit::Ratio => "_ratio",
                Unit::Bytes => "_bytes",
                Unit::Seconds => "_seconds",
                Unit::Cores => "_cores",
                Unit::Count => "",
                Unit::Celsius => "_celsius",
                Unit::Watts => "_watts",
                Unit::Joules => "_joules",
                Unit::Hertz => "_hertz",
            };
            assert!(stem.ends_with(suffix), "{metric} ends in {suffix}");
        }
    }
}
