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
    /// Bytes an hour: how fast memory grows.
    BytesPerHour,
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
    HostCpuUser "host_cpu_user_ratio" Host Gauge Ratio "Share of CPU time in programs at usual priority, guests of virtual machines apart";
    HostCpuNice "host_cpu_nice_ratio" Host Gauge Ratio "Share of CPU time in programs at lowered priority, guests apart";
    HostCpuSystem "host_cpu_system_ratio" Host Gauge Ratio "Share of CPU time in the kernel, interrupts apart";
    HostCpuInterrupts "host_cpu_interrupts_ratio" Host Gauge Ratio "Share of CPU time in hard and soft interrupts";
    HostCpuWaiting "host_cpu_waiting_ratio" Host Gauge Ratio "Share of CPU time idle while a task of that CPU waited for a disk";
    HostCpuStolen "host_cpu_stolen_ratio" Host Gauge Ratio "Share of CPU time that the hypervisor gave to others";
    HostCpuGuest "host_cpu_guest_ratio" Host Gauge Ratio "Share of CPU time in guests of virtual machines";
    CoreCpuBusy "core_cpu_busy_ratio" Core Gauge Ratio "Share of one CPU's time spent neither idle nor waiting for I/O";
    CoreCpuInterrupts "core_cpu_interrupts_ratio" Core Gauge Ratio "Share of one CPU's time in hard and soft interrupts";
    HostContextSwitches "host_context_switches_total" Host Counter Count "Switches of a CPU from one task to another";
    HostForks "host_forks_total" Host Counter Count "Processes and threads started";
    HostTasksRunning "host_tasks_running" Host Gauge Count "Tasks that run or wait for a CPU";
    HostTasksBlocked "host_tasks_blocked" Host Gauge Count "Tasks that wait for a disk";
    HostLoad1 "host_load1" Host Gauge Count "Load average over 1 minute";
    HostLoad5 "host_load5" Host Gauge Count "Load average over 5 minutes";
    HostLoad15 "host_load15" Host Gauge Count "Load average over 15 minutes";
    HostTasks "host_tasks" Host Gauge Count "Processes and threads there are";
    HostUptime "host_uptime_seconds" Host Gauge Seconds "Time since the host was started";
    HostMemoryTotal "host_memory_total_bytes" Host Gauge Bytes "Memory that the kernel can use (MemTotal)";
    HostMemoryAvailable "host_memory_available_bytes" Host Gauge Bytes "Memory that can be had without swapping (MemAvailable)";
    HostMemoryAnonymous "host_memory_anonymous_bytes" Host Gauge Bytes "Memory of programs that no file backs (AnonPages)";
    HostMemoryDirty "host_memory_dirty_bytes" Host Gauge Bytes "Memory that waits to be written to a disk";
    HostSwapTotal "host_swap_total_bytes" Host Gauge Bytes "Swap space there is";
    HostOomKills "host_oom_kills_total" Host Counter Count "Processes killed because memory ran out, in any control group";
    HostMajorFaults "host_major_faults_total" Host Counter Count "Page faults that waited for a disk";
    HostCpuPressure "host_cpu_pressure_ratio" Host Gauge Ratio "Share of time in which some task waited for a CPU, over 10 s";
    HostIoPressure "host_io_pressure_ratio" Host Gauge Ratio "Share of time in which some task waited for I/O, over 10 s";
    HostMemoryStalled "host_memory_stalled_ratio" Host Gauge Ratio "Share of time in which all busy tasks waited for memory at once, over 10 s";
    HostIoStalled "host_io_stalled_ratio" Host Gauge Ratio "Share of time in which all busy tasks waited for I/O at once, over 10 s";
    HostCpuPressureTime "host_cpu_pressure_seconds_total" Host Counter Seconds "Time in which some task waited for a CPU";
    HostMemoryPressureTime "host_memory_pressure_seconds_total" Host Counter Seconds "Time in which some task waited for memory";
    HostIoPressureTime "host_io_pressure_seconds_total" Host Counter Seconds "Time in which some task waited for I/O";
    HostMemoryStalledTime "host_memory_stalled_seconds_total" Host Counter Seconds "Time in which all busy tasks waited for memory at once";
    HostIoStalledTime "host_io_stalled_seconds_total" Host Counter Seconds "Time in which all busy tasks waited for I/O at once";
    HostOpenFiles "host_open_files" Host Gauge Count "Open files of all processes (/proc/sys/fs/file-nr)";
    HostOpenFilesUsed "host_open_files_ratio" Host Gauge Ratio "Open files against the most that the kernel allows";
    DiskReadBytes "disk_read_bytes_total" Disk Counter Bytes "Bytes read from a block device";
    DiskWrittenBytes "disk_written_bytes_total" Disk Counter Bytes "Bytes written to a block device";
    DiskReads "disk_reads_total" Disk Counter Count "Reads completed";
    DiskWrites "disk_writes_total" Disk Counter Count "Writes completed";
    DiskReadTime "disk_read_seconds_total" Disk Counter Seconds "Time that reads took together, their wait in the queue included";
    DiskWriteTime "disk_write_seconds_total" Disk Counter Seconds "Time that writes took together, their wait in the queue included";
    DiskBusy "disk_busy_ratio" Disk Gauge Ratio "Share of time in which a block device had something to do; a device that serves many at once may have room at 1";
    DiskQueue "disk_queue" Disk Gauge Count "Requests in flight";
    NetworkReceivedBytes "network_received_bytes_total" Network Counter Bytes "Bytes received";
    NetworkSentBytes "network_sent_bytes_total" Network Counter Bytes "Bytes sent";
    NetworkReceivedPackets "network_received_packets_total" Network Counter Count "Packets received";
    NetworkSentPackets "network_sent_packets_total" Network Counter Count "Packets sent";
    NetworkReceiveErrors "network_receive_errors_total" Network Counter Count "Packets received broken";
    NetworkSendErrors "network_send_errors_total" Network Counter Count "Packets that could not be sent";
    NetworkReceiveDrops "network_receive_drops_total" Network Counter Count "Packets received and thrown away";
    NetworkSendDrops "network_send_drops_total" Network Counter Count "Packets thrown away instead of sent";
    FilesystemSize "filesystem_size_bytes" Filesystem Gauge Bytes "Size of a file system";
    FilesystemAvailable "filesystem_available_bytes" Filesystem Gauge Bytes "What ordinary users can still write";
    FilesystemInodesUsed "filesystem_inodes_ratio" Filesystem Gauge Ratio "Share of a file system's inodes in use";
    ServiceCpu "service_cpu_cores" Service Gauge Cores "CPUs that the processes of a service keep busy";
    ServiceMemory "service_memory_bytes" Service Gauge Bytes "Resident memory of the processes of a service";
    ServiceMemoryAnonymous "service_memory_anonymous_bytes" Service Gauge Bytes "Resident memory of a service that no file backs";
    ServiceMemoryFile "service_memory_file_bytes" Service Gauge Bytes "Resident pages of files that the processes of a service map; a page that several map counts for each";
    ServiceMemoryShared "service_memory_shmem_bytes" Service Gauge Bytes "Resident shared memory of a service; what several processes map counts for each";
    ServiceSwap "service_swap_bytes" Service Gauge Bytes "Anonymous memory of a service that was swapped out";
    ServiceMemoryProportional "service_memory_proportional_bytes" Service Gauge Bytes "Resident memory of a service with each page shared out among those that map it (PSS)";
    ServiceMemoryGrowth "service_memory_growth_bytes_per_hour" Service Gauge BytesPerHour "Certain growth of a service's anonymous memory: the lower end of the 99 % interval, 0 while no growth is proven";
    ServiceMemoryRoom "service_memory_room_bytes" Service Gauge Bytes "What a service can still take before a memory limit of its control groups; the least of its groups";
    ServiceMemoryLimitUsed "service_memory_limit_ratio" Service Gauge Ratio "Working set of a service against the memory limit of its control group; the highest share of its groups";
    ServiceCpuTime "service_cpu_seconds_total" Service Counter Seconds "CPU time of the processes of a service since it was first seen; those that ended stay counted";
    ServiceProcesses "service_processes" Service Gauge Count "Watched processes of a service";
    ServiceThreads "service_threads" Service Gauge Count "Threads of the processes of a service";
    ServiceDescriptors "service_descriptors" Service Gauge Count "Open descriptors of the processes of a service";
    ServiceMinorFaults "service_minor_faults_total" Service Counter Count "Page faults of a service that needed no disk";
    ServiceMajorFaults "service_major_faults_total" Service Counter Count "Page faults of a service that waited for a disk";
    ServiceReadBytes "service_read_bytes_total" Service Counter Bytes "Bytes that a service had fetched from disks";
    ServiceWrittenBytes "service_written_bytes_total" Service Counter Bytes "Bytes that a service had sent to disks";
    ServiceVoluntarySwitches "service_voluntary_switches_total" Service Counter Count "Times that a thread of a service gave up its CPU to wait";
    ServiceInvoluntarySwitches "service_involuntary_switches_total" Service Counter Count "Times that a thread of a service had its CPU taken away";
    ServiceStarts "service_starts_total" Service Counter Count "Processes of a service that were seen to begin";
    ServiceExits "service_exits_total" Service Counter Count "Processes of a service that were seen to end";
    ServiceCpuThrottled "service_cpu_throttled_ratio" Service Gauge Ratio "Share of a control group's periods in which it ran out of its CPU quota; the highest of a service's groups";
    ServiceOomKills "service_oom_kills_total" Service Counter Count "Processes killed in the control groups of a service because memory ran out";
    ProcessCpu "process_cpu_cores" Process Gauge Cores "CPUs that a process keeps busy";
    ProcessMemory "process_memory_bytes" Process Gauge Bytes "Resident memory of a process";
    ProcessMemoryAnonymous "process_memory_anonymous_bytes" Process Gauge Bytes "Resident memory of a process that no file backs";
    ProcessMemoryFile "process_memory_file_bytes" Process Gauge Bytes "Resident pages of files that a process maps";
    ProcessMemoryShared "process_memory_shmem_bytes" Process Gauge Bytes "Resident shared memory of a process";
    ProcessSwap "process_swap_bytes" Process Gauge Bytes "Anonymous memory of a process that was swapped out";
    ProcessMemoryProportional "process_memory_proportional_bytes" Process Gauge Bytes "Resident memory of a process with each page shared out among those that map it (PSS)";
    ProcessMemoryGrowth "process_memory_growth_bytes_per_hour" Process Gauge BytesPerHour "Certain growth of a process's anonymous memory: the lower end of the 99 % interval, 0 while no growth is proven";
    ProcessOomKilled "process_oom_killed" Process Gauge Count "1 for some seconds after a process was killed because memory ran out";
    ProcessThreads "process_threads" Process Gauge Count "Threads of a process";
    ProcessDescriptors "process_descriptors" Process Gauge Count "Open descriptors of a process";
    ProcessMinorFaults "process_minor_faults_total" Process Counter Count "Page faults that needed no disk";
    ProcessMajorFaults "process_major_faults_total" Process Counter Count "Page faults that waited for a disk";
    ProcessReadBytes "process_read_bytes_total" Process Counter Bytes "Bytes that a process had fetched from disks";
    ProcessWrittenBytes "process_written_bytes_total" Process Counter Bytes "Bytes that a process had sent to disks";
    ProcessVoluntarySwitches "process_voluntary_switches_total" Process Counter Count "Times that a thread of a process gave up its CPU to wait";
    ProcessInvoluntarySwitches "process_involuntary_switches_total" Process Counter Count "Times that a thread of a process had its CPU taken away";
    ProcessListenDelay "process_listen_delay_seconds" Process Gauge Seconds "Time from the execution of a program to its first listening TCP socket, to the second; at most so much where it is short";
    ControlGroupCpuTime "cgroup_cpu_seconds_total" ControlGroup Counter Seconds "CPU time of a control group";
    ControlGroupCpuLimit "cgroup_cpu_limit_cores" ControlGroup Gauge Cores "CPU quota of a control group, the lowest of its own and those above it";
    ControlGroupPeriods "cgroup_cpu_periods_total" ControlGroup Counter Count "Periods of a CPU quota in which a control group ran";
    ControlGroupThrottledPeriods "cgroup_cpu_throttled_periods_total" ControlGroup Counter Count "Periods in which a control group ran out of its CPU quota";
    ControlGroupThrottledTime "cgroup_cpu_throttled_seconds_total" ControlGroup Counter Seconds "Time that a control group stood still because its CPU quota was used up";
    ControlGroupThrottled "cgroup_cpu_throttled_ratio" ControlGroup Gauge Ratio "Share of the last interval's periods in which a control group ran out of its CPU quota";
    ControlGroupMemory "cgroup_memory_bytes" ControlGroup Gauge Bytes "Memory charged to a control group, its page cache included";
    ControlGroupWorkingSet "cgroup_memory_working_set_bytes" ControlGroup Gauge Bytes "Memory charged to a control group without the page cache that can be dropped first";
    ControlGroupMemoryLimit "cgroup_memory_limit_bytes" ControlGroup Gauge Bytes "Memory limit of a control group, the lowest of its own and those above it";
    ControlGroupMemoryLimitUsed "cgroup_memory_limit_ratio" ControlGroup Gauge Ratio "Working set against the memory limit: the highest share of a control group's own and those above it";
    ControlGroupSwap "cgroup_swap_bytes" ControlGroup Gauge Bytes "Memory of a control group that was swapped out";
    ControlGroupSwapLimit "cgroup_swap_limit_bytes" ControlGroup Gauge Bytes "Swap limit of a control group, the lowest of its own and those above it; version 1 has none of swap alone";
    ControlGroupMemoryLowEvents "cgroup_memory_low_events_total" ControlGroup Counter Count "Times that memory was taken from a control group although it was within memory.low; version 1 has none";
    ControlGroupMemoryHighEvents "cgroup_memory_high_events_total" ControlGroup Counter Count "Times that a control group was slowed down at memory.high";
    ControlGroupMemoryMaxEvents "cgroup_memory_max_events_total" ControlGroup Counter Count "Times that a control group was about to exceed its memory limit";
    ControlGroupOomEvents "cgroup_memory_oom_events_total" ControlGroup Counter Count "Times that an allocation was about to fail at the memory limit of a control group; version 1 has none";
    ControlGroupOomKills "cgroup_oom_kills_total" ControlGroup Counter Count "Processes killed in a control group because memory ran out";
    GpuUtilization "gpu_utilization_ratio" Gpu Gauge Ratio "Share of time in which at least one kernel ran on the GPU: says nothing of how much of it was used";
    GpuMemoryUsed "gpu_memory_used_ratio" Gpu Gauge Ratio "Share of the GPU's memory in use";
    GpuMemoryBusy "gpu_memory_busy_ratio" Gpu Gauge Ratio "Share of time in which the GPU's memory was read or written: says nothing of how much of its bandwidth was used";
    GpuMemoryUsedBytes "gpu_memory_used_bytes" Gpu Gauge Bytes "Memory of the GPU in use, without what the driver holds back";
    GpuMemoryTotal "gpu_memory_total_bytes" Gpu Gauge Bytes "Memory that the GPU has";
    GpuTemperature "gpu_temperature_celsius" Gpu Gauge Celsius "Temperature of the GPU";
    GpuPower "gpu_power_watts" Gpu Gauge Watts "Power that the GPU and its board draw";
    GpuPowerLimit "gpu_power_limit_watts" Gpu Gauge Watts "Power that the GPU is allowed to draw";
    GpuEnergy "gpu_energy_joules_total" Gpu Counter Joules "Energy that the GPU has drawn since its driver was loaded";
    GpuClock "gpu_clock_hertz" Gpu Gauge Hertz "Clock of the GPU's multiprocessors";
    GpuMemoryClock "gpu_memory_clock_hertz" Gpu Gauge Hertz "Clock of the GPU's memory";
    GpuThrottled "gpu_throttled_ratio" Gpu Gauge Ratio "Share of the last interval in which the GPU was held below the clocks it wanted, by the reason that held it longest: power, heat, board or reliability";
    GpuPowerThrottledTime "gpu_power_throttled_seconds_total" Gpu Counter Seconds "Time in which the GPU was held back to stay within its power limit";
    GpuThermalThrottledTime "gpu_thermal_throttled_seconds_total" Gpu Counter Seconds "Time in which the GPU was held back because it was hot";
    GpuEccCorrected "gpu_ecc_corrected_errors_total" Gpu Counter Count "Errors of the GPU's memory that were corrected, since its driver was loaded";
    GpuEccUncorrected "gpu_ecc_uncorrected_errors_total" Gpu Counter Count "Errors of the GPU's memory that could not be corrected, since its driver was loaded";
    GpuSmActive "gpu_sm_active_ratio" Gpu Gauge Ratio "Share of time in which a multiprocessor had work, averaged over all of the GPU (Hopper and newer)";
    GpuSmOccupancy "gpu_sm_occupancy_ratio" Gpu Gauge Ratio "Warps resident on the multiprocessors against the most that fit: how much of the GPU was used (Hopper and newer)";
    GpuTensorActive "gpu_tensor_active_ratio" Gpu Gauge Ratio "Share of time in which tensor cores worked (Hopper and newer)";
    GpuMemoryBandwidth "gpu_memory_bandwidth_ratio" Gpu Gauge Ratio "Share of the GPU's memory bandwidth in use (Hopper and newer)";
    ProcessGpuMemory "process_gpu_memory_bytes" Process Gauge Bytes "Memory that a process holds on all GPUs together";
    ProcessGpuUtilization "process_gpu_utilization_ratio" Process Gauge Ratio "Share of time in which a kernel of a process ran, on the GPU that it keeps busiest";
    ServiceGpuMemory "service_gpu_memory_bytes" Service Gauge Bytes "Memory that the processes of a service hold on all GPUs together";
    ServiceGpuUtilization "service_gpu_utilization_ratio" Service Gauge Ratio "Share of time in which a kernel of a service ran, on the GPU that its processes keep busiest";
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
                Unit::BytesPerHour => "_bytes_per_hour",
            };
            assert!(stem.ends_with(suffix), "{metric} ends in {suffix}");
        }
    }
}
