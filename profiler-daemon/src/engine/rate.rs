//! How often is sampled, and what is given up to keep the budget.

use super::Engine;
use crate::{budget::Restraint, processes::Now};

impl Engine {
    /// Gives up what is to be given up, and takes the rest back.
    pub(super) fn restrain(&mut self, restraint: Restraint, now: Now) {
        self.set_rate(self.parts.sampler.sample_hz(), restraint.period_factor);
        let processes = &mut self.parts.processes;
        processes.drop_idle_rows(restraint.drops_idle_rows);
        processes.limit_discovered(restraint.max_discovered, &restraint.reason, now);
        processes.poll(now);
        self.restraint = restraint;
    }

    /// Samples at the rate divided by `period_factor`. A window ends first: all samples of one stand for the same time.
    pub(super) fn set_rate(&mut self, sample_hz: u32, period_factor: u32) {
        let sampler = &mut self.parts.sampler;
        if (sampler.sample_hz(), self.restraint.period_factor) == (sample_hz, period_factor) {
            return;
        }
        sampler.stop();
        self.take();
        self.end_window(Vec::new());
        if let Err(error) = self.parts.sampler.set_rate(sample_hz, period_factor) {
            self.note("the rings of samples keep their size", &error);
        }
        self.parts.window.set_period(self.parts.sampler.period());
        if let Err(error) = self.parts.sampler.start() {
            self.note("cannot sample at another rate", &error);
        }
    }
}
