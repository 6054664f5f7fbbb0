//! What the API makes of requests and profiles, for the fuzz targets.

use std::time::{Duration, SystemTime};

use profiler_profile::Profile;
use profiler_proto::v1;
use profiler_store::{Span, Target};

use super::convert;

/// What a selector asks for, or why it makes no sense.
pub fn check_query(selector: Option<v1::ProfileSelector>, now: SystemTime) -> Result<(Target, Span), String> {
    match convert::query(selector, now) {
        Ok(query) => Ok((query.target, query.span)),
        Err(invalid) => Err(invalid.to_string()),
    }
}

/// The process that a request names, or why it cannot be one.
pub fn check_pid(pid: u32) -> Result<u32, String> {
    convert::pid(pid)
        .map(|pid| pid.0)
        .map_err(|invalid| invalid.to_string())
}

/// How long a lease lasts, or why it cannot.
pub fn check_lease(duration: Option<prost_types::Duration>) -> Result<Duration, String> {
    convert::lease(duration).map_err(|invalid| invalid.to_string())
}

/// A profile as it is sent.
pub fn profile_message(profile: &Profile) -> v1::Profile {
    convert::profile(profile)
}
