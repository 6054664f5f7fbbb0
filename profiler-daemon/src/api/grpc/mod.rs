//! One service for each concern.

pub(super) mod alerts;
mod compare;
pub(super) mod growth;
pub(super) mod memory;
pub(super) mod metrics;
pub(super) mod processes;
pub(super) mod profiles;
pub(super) mod status;
pub(super) mod watch;
