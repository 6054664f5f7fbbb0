//! Alertmanager's API, version 2: told again and again what fires, and for a while what ended.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::Serialize;

use super::{
    delivery::Deliver,
    http::{Client, Post},
    mailbox::DeliveryError,
    notification::{Notification, as_text::rfc3339},
};

/// Where alerts are posted, below the address of the Alertmanager.
pub(super) const PATH: &str = "/api/v2/alerts";
/// An alert that was not told so many times ends by itself: the daemon is not there any more.
const MISSED_REPEATS: u32 = 4;

/// An Alertmanager.
#[derive(Debug)]
pub(super) struct Alertmanager {
    pub(super) client: Client,
    /// Time after which it is told again.
    pub(super) repeat: Duration,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert<'a> {
    labels: &'a BTreeMap<String, String>,
    /// Also of what ended: the message of the end would have none otherwise.
    annotations: &'a BTreeMap<String, String>,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
}

impl<'a> Alert<'a> {
    fn of(notification: &'a Notification, repeat: Duration, now: SystemTime) -> Self {
        let ends_at = match notification.ends_at {
            // An end that is yet to come, because the clock was set back, would be none.
            Some(end) => end.min(now),
            None => now + repeat * MISSED_REPEATS,
        };
        Self {
            labels: &notification.labels,
            annotations: &notification.annotations,
            // What begins after its end is refused.
            starts_at: rfc3339(notification.starts_at.min(ends_at)),
            ends_at: rfc3339(ends_at),
            generator_url: &notification.link,
        }
    }
}

impl Deliver for Alertmanager {
    async fn deliver(&self, batch: &[Arc<Notification>]) -> Result<(), DeliveryError> {
        let now = SystemTime::now();
        let alerts: Vec<_> = batch
            .iter()
            .map(|notification| Alert::of(notification, self.repeat, now))
            .collect();
        let body = serde_json::to_vec(&alerts).map_err(|error| DeliveryError::Refused {
            reason: error.to_string(),
        })?;
        let body = Bytes::from(body);
        let headers = Vec::new();
        self.client.post(Post { body, headers }).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const REPEAT: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Begin and end as they are told at a time.
    #[track_caller]
    fn check(starts: u64, ends: Option<u64>, now: u64, expected: (u64, u64)) {
        let mut notification = Notification::test("host", "sink", at(starts));
        notification.ends_at = ends.map(at);
        let alert = Alert::of(&notification, REPEAT, at(now));
        assert_eq!(
            (alert.starts_at, alert.ends_at),
            (rfc3339(at(expected.0)), rfc3339(at(expected.1)))
        );
    }

    #[test]
    fn what_fires_ends_by_itself_and_what_ended_is_over() {
        check(1000, None, 1010, (1000, 1130));
        check(1000, Some(1500), 1510, (1000, 1500));
        // The clock was set back: still over, and never before it began.
        check(1000, Some(1500), 1200, (1000, 1200));
        check(1000, Some(1500), 900, (900, 900));
        check(1000, None, 800, (920, 920));
    }
}
