//! One service for each concern.

mod compare;
pub(super) mod alerts;
pub(super) mod metrics;
pub(super) mod processes;
pub(super) mod profiles;
pub(super) mod status;
pub(super) mod watch;
