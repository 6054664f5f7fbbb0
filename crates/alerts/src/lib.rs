//! Limits on readings, and the alerts that come of them.
//!
//! In: limits, and once per evaluation period the newest value of each reading, with the time. Out: what became pending,
//! firing, resolved or was dropped, each time as the whole [`Alert`], and whether anybody is to be told. Pure: no clock, no
//! I/O. What is kept over a restart is taken out by [`Evaluator::save`] and put back by [`Evaluator::restore`].
//!
//! The states are Prometheus's, with a second level. A reading beyond the limit makes an alert *pending*; once it was
//! beyond for the limit's time, the alert *fires*; it fires until the reading has passed the clear level and stayed there
//! for the limit's `keep_firing_for`, and is *resolved* then. A pending alert that passes the clear level is *dropped*:
//! nobody ever hears of it. Between the two levels a pending alert waits: that time neither counts nor starts it again,
//! unless it takes as long as the limit's time itself. So noise around a limit makes one alert, not none and not many.

#![forbid(unsafe_code)]

mod alert;
mod evaluator;
mod explain;
mod limit;
mod limited;
mod silence;
mod track;

pub use alert::{Alert, AlertId, AlertKind, EndReason, Fingerprint, Held, Phase, Stored};
pub use evaluator::{Change, Counts, Evaluator, Observation, Settings, Transition};
pub use explain::{in_words, size_in_words, span_in_words};
pub use limit::{Comparison, Level, Limit, Severity, Subjects};
pub use profiler_readings::Moment;
pub use silence::{InvalidSilence, Matcher, Silence, SilenceId};
