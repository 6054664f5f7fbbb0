//! Who is told of alerts, and how.
//!
//! In: a [`Notification`] and the names of sinks. Out: a line of the journal, a request to a web service or an Alertmanager,
//! a command that runs. Each sink has a bounded queue and a task of its own on one thread: a sink that is slow or away delays
//! neither another sink nor whoever notifies. What was not delivered outlives the daemon in an [`Outbox`](profiler_store::state::Outbox), so that each is
//! told at least once; what has no room is dropped and counted.

mod alertmanager;
mod command;
mod delivery;
mod dispatcher;
mod http;
mod journal;
mod mailbox;
mod notification;
mod peer;
mod queue;
mod target;
mod webhook;

pub use delivery::Pace;
pub use dispatcher::{Dispatcher, Settings, StartError, TestError};
pub use mailbox::{DeliveryError, SinkCounts, SinkState, SinkStatus};
pub use notification::{Notification, Severity, Status, Surroundings};
pub use queue::EntryId;
