//! The questions to one card, and to the instances that it is cut into.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::{Clock, EccCounter, MemoryError, PerformancePolicy, TemperatureSensor},
    enums::{device::UsedGpuMemory, gpm::GpmMetricId},
    error::NvmlError,
    gpm::{GpmSample, gpm_metrics_get},
};

use super::{CardId, card_trouble, is_fatal};
use crate::{
    Metric, Subject,
    gpu::{
        Trouble,
        round::{GpuProcess, Round},
    },
    source::Moment,
};

/// Most instances of one card that are read; seven is what cards have.
const MAX_INSTANCES: u32 = 16;
/// Most processes of one card that are taken in.
const MAX_PROCESSES: usize = 4096;
/// Mode of a card that is cut into instances (`NVML_DEVICE_MIG_ENABLE`).
const MIG_ENABLED: u32 = 1;
/// What is asked of the counters in the multiprocessors.
const GPM: [(GpmMetricId, Metric); 4] = [
    (GpmMetricId::SmUtil, Metric::GpuSmActive),
    (GpmMetricId::SmOccupancy, Metric::GpuSmOccupancy),
    (GpmMetricId::AnyTensorUtil, Metric::GpuTensorActive),
    (GpmMetricId::DramBwUtil, Metric::GpuMemoryBandwidth),
];
/// Why a card is held back, and the counter that tells of it, if there is one.
const THROTTLING: [(PerformancePolicy, Option<Metric>); 4] = [
    (PerformancePolicy::Power, Some(Metric::GpuPowerThrottledTime)),
    (PerformancePolicy::Thermal, Some(Metric::GpuThermalThrottledTime)),
    (PerformancePolicy::BoardLimit, None),
    (PerformancePolicy::Reliability, None),
];
const HERTZ_PER_MEGAHERTZ: f64 = 1e6;
const MILLI: f64 = 1e-3;

/// A card, and what the last round left for the next.
#[derive(Debug)]
pub(super) struct Card<'nvml> {
    nvml: &'nvml Nvml,
    device: Device<'nvml>,
    uuid: Arc<str>,
    /// The counters of the multiprocessors at the last round. None: not supported, or not yet.
    gpm: Option<GpmSample<'nvml>>,
    has_gpm: bool,
    /// When the last round was, and for how long the card had been held back, by each reason.
    held_back: Option<(Duration, [Option<u64>; THROTTLING.len()])>,
    /// The newest sample of processes that was seen.
    process_samples_until: Option<u64>,
}

impl<'nvml> Card<'nvml> {
    pub(super) fn new(nvml: &'nvml Nvml, card: &CardId) -> Result<Self, NvmlError> {
        let device = nvml.device_by_index(card.index)?;
        Ok(Self {
            nvml,
            has_gpm: device.gpm_support().unwrap_or(false),
            device,
            uuid: Arc::clone(&card.uuid),
            gpm: None,
            held_back: None,
            process_samples_until: None,
        })
    }

    /// Everything once. What the card cannot tell is left out; a card that is lost tells nothing.
    pub(super) fn ask(&mut self, now: Moment) -> Result<Round, Trouble> {
        let mut answers = Answers {
            round: Round::default(),
            subject: Subject::Gpu(Arc::clone(&self.uuid)),
            now,
            lost: None,
        };
        answers.state(&self.device);
        answers.memory(&self.device);
        self.ask_throttling(&mut answers);
        self.ask_gpm(&mut answers);
        let is_cut = answers
            .take(self.device.mig_mode())
            .is_some_and(|mode| mode.current == MIG_ENABLED);
        if is_cut {
            self.ask_instances(&mut answers);
        } else {
            answers.processes(&self.device);
            self.ask_process_utilization(&mut answers);
        }
        answers.lost.map_or(Ok(answers.round), Err)
    }

    /// The counters say for how long: a card that was held back between two rounds is not missed.
    fn ask_throttling(&mut self, answers: &mut Answers) {
        let mut times = [None; THROTTLING.len()];
        for ((policy, metric), time) in THROTTLING.into_iter().zip(&mut times) {
            *time = answers
                .take(self.device.violation_status(policy))
                .map(|status| status.violation_time);
            if let (Some(metric), Some(time)) = (metric, *time) {
                answers.add(metric, Duration::from_nanos(time).as_secs_f64());
            }
        }
        if let Some((then, before)) = self.held_back.replace((answers.now.since_boot, times))
            && let Some(seconds) = answers.now.seconds_since(then)
        {
            let held = times
                .iter()
                .zip(before)
                .filter_map(|(time, before)| (*time)?.checked_sub(before?));
            if let Some(longest) = held.max() {
                let share = Duration::from_nanos(longest).as_secs_f64() / seconds;
                answers.add(Metric::GpuThrottled, share.min(1.0));
            }
        }
    }

    fn ask_gpm(&mut self, answers: &mut Answers) {
        if !self.has_gpm {
            return;
        }
        let Some(sample) = answers.take(self.device.gpm_sample()) else {
            self.gpm = None;
            return;
        };
        if let Some(before) = &self.gpm {
            let ids = GPM.map(|(id, _)| id);
            let results = answers.take(gpm_metrics_get(self.nvml, before, &sample, &ids));
            for ((_, metric), result) in GPM.into_iter().zip(results.into_iter().flatten()) {
                if let Some(result) = answers.take(result) {
                    answers.add_percent(metric, result.value);
                }
            }
        }
        self.gpm = Some(sample);
    }

    /// Instances have memory and processes of their own; power, heat and clocks are those of the card.
    fn ask_instances(&self, answers: &mut Answers) {
        let most = answers.take(self.device.mig_device_count()).unwrap_or(0);
        for index in 0..most.min(MAX_INSTANCES) {
            // Most places for instances are empty.
            let Some(instance) = answers.take(self.device.mig_device_by_index(index)) else {
                continue;
            };
            let Some(uuid) = answers.take(instance.uuid()) else {
                continue;
            };
            answers.subject = Subject::Gpu(uuid.into());
            answers.memory(&instance);
            answers.processes(&instance);
        }
    }

    /// The driver samples by itself: what it has sampled since the last round is averaged.
    fn ask_process_utilization(&mut self, answers: &mut Answers) {
        let since = self.process_samples_until;
        let samples = match self.device.process_utilization_stats(since) {
            Ok(samples) => samples,
            // No process had anything to do.
            Err(NvmlError::NotFound) => Vec::new(),
            Err(error) => {
                answers.note(&error);
                return;
            }
        };
        let mut sums: BTreeMap<u32, (f64, u32)> = BTreeMap::new();
        for sample in &samples {
            let until = self.process_samples_until.get_or_insert(0);
            *until = sample.timestamp.max(*until);
            // Of processes that end, drivers tell what was never sampled.
            if sample.sm_util <= 100 && sums.len() < MAX_PROCESSES {
                let (sum, count) = sums.entry(sample.pid).or_default();
                *sum += f64::from(sample.sm_util) / 100.0;
                *count += 1;
            }
        }
        // The first answer tells of a time before anybody asked.
        if since.is_none() {
            self.process_samples_until.get_or_insert(0);
            return;
        }
        for process in &mut answers.round.processes {
            let (sum, count) = sums.remove(&process.pid).unwrap_or((0.0, 1));
            process.utilization = Some(sum / f64::from(count));
        }
    }
}

/// The answers of one round.
#[derive(Debug)]
struct Answers {
    round: Round,
    /// Of whom the next answers are.
    subject: Subject,
    now: Moment,
    /// Set when the card cannot be asked any more.
    lost: Option<Trouble>,
}

impl Answers {
    /// An answer, if there is one; a card that is lost is remembered.
    fn take<T>(&mut self, result: Result<T, NvmlError>) -> Option<T> {
        result.inspect_err(|error| self.note(error)).ok()
    }

    fn note(&mut self, error: &NvmlError) {
        if self.lost.is_none() && is_fatal(error) {
            self.lost = Some(card_trouble(error));
        }
    }

    fn add(&mut self, metric: Metric, value: f64) {
        if value.is_finite() {
            let reading = self.now.reading(metric, self.subject.clone(), value);
            self.round.readings.push(reading);
        }
    }

    /// Percent beyond a hundred are what a driver says when it does not know.
    fn add_percent(&mut self, metric: Metric, percent: f64) {
        if (0.0..=100.0).contains(&percent) {
            self.add(metric, percent / 100.0);
        }
    }

    /// What a card says of itself as a whole.
    fn state(&mut self, device: &Device<'_>) {
        if let Some(rates) = self.take(device.utilization_rates()) {
            self.add_percent(Metric::GpuUtilization, rates.gpu.into());
            self.add_percent(Metric::GpuMemoryBusy, rates.memory.into());
        }
        let gauges = [
            (Metric::GpuTemperature, device.temperature(TemperatureSensor::Gpu), 1.0),
            (Metric::GpuPower, device.power_usage(), MILLI),
            (Metric::GpuPowerLimit, device.enforced_power_limit(), MILLI),
            (Metric::GpuClock, device.clock_info(Clock::SM), HERTZ_PER_MEGAHERTZ),
            (
                Metric::GpuMemoryClock,
                device.clock_info(Clock::Memory),
                HERTZ_PER_MEGAHERTZ,
            ),
        ];
        for (metric, result, scale) in gauges {
            if let Some(value) = self.take(result) {
                self.add(metric, f64::from(value) * scale);
            }
        }
        let errors = |kind| device.total_ecc_errors(kind, EccCounter::Volatile);
        let counters = [
            (Metric::GpuEnergy, device.total_energy_consumption(), MILLI),
            (Metric::GpuEccCorrected, errors(MemoryError::Corrected), 1.0),
            (Metric::GpuEccUncorrected, errors(MemoryError::Uncorrected), 1.0),
        ];
        for (metric, result, scale) in counters {
            if let Some(value) = self.take(result) {
                self.add(metric, value as f64 * scale);
            }
        }
    }

    /// The memory of a card or an instance.
    fn memory(&mut self, device: &Device<'_>) {
        let Some(memory) = self.take(device.memory_info()) else {
            return;
        };
        self.add(Metric::GpuMemoryUsedBytes, memory.used as f64);
        self.add(Metric::GpuMemoryTotal, memory.total as f64);
        if memory.total > 0 {
            let share = memory.used as f64 / memory.total as f64;
            self.add(Metric::GpuMemoryUsed, share.min(1.0));
        }
    }

    /// The processes of a card or an instance. One that both computes and draws is in both lists, with the same memory.
    fn processes(&mut self, device: &Device<'_>) {
        let Subject::Gpu(uuid) = &self.subject else { return };
        let uuid = Arc::clone(uuid);
        let mut found: BTreeMap<u32, Option<u64>> = BTreeMap::new();
        for list in [device.running_compute_processes(), device.running_graphics_processes()] {
            for process in self.take(list).into_iter().flatten().take(MAX_PROCESSES) {
                let memory = match process.used_gpu_memory {
                    UsedGpuMemory::Used(bytes) => Some(bytes),
                    UsedGpuMemory::Unavailable => None,
                };
                let known = found.entry(process.pid).or_default();
                *known = memory.max(*known);
            }
        }
        self.round
            .processes
            .extend(found.into_iter().map(|(pid, memory_bytes)| GpuProcess {
                gpu: Arc::clone(&uuid),
                pid,
                memory_bytes,
                utilization: None,
            }));
    }
}
