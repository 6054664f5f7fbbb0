//! Webhooks, with the body that Alertmanager sends (version 4): whoever understands its webhooks understands ours.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, sync::Arc};

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::header::{HeaderName, HeaderValue};
use serde::Serialize;
use sha2::Sha256;

use super::{
    delivery::Deliver,
    http::{Client, Post},
    mailbox::DeliveryError,
    notification::{Notification, as_text::rfc3339},
};
use crate::secrets;

/// What Go writes for no time.
const NEVER: &str = "0001-01-01T00:00:00Z";
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `sha256=` and the HMAC-SHA256 of the body, in hexadecimal digits.
const SIGNATURE: HeaderName = HeaderName::from_static("x-profiler-signature");

/// A webhook.
#[derive(Debug)]
pub(super) struct Webhook {
    pub(super) name: String,
    pub(super) external_url: String,
    pub(super) signing_key_file: Option<PathBuf>,
    pub(super) client: Client,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    version: &'static str,
    group_key: String,
    truncated_alerts: u32,
    status: &'static str,
    receiver: &'a str,
    group_labels: BTreeMap<&'a str, &'a str>,
    common_labels: &'a BTreeMap<String, String>,
    common_annotations: &'a BTreeMap<String, String>,
    #[serde(rename = "externalURL")]
    external_url: &'a str,
    alerts: [Alert<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert<'a> {
    status: &'static str,
    labels: &'a BTreeMap<String, String>,
    annotations: &'a BTreeMap<String, String>,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
    fingerprint: &'a str,
}

impl Webhook {
    fn body(&self, notification: &Notification) -> Result<Vec<u8>, DeliveryError> {
        let Notification {
            labels, annotations, ..
        } = notification;
        let name = labels.get("alertname").map_or("", String::as_str);
        let status = notification.status.name();
        let body = Body {
            version: "4",
            group_key: format!("{{}}:{{alertname={name:?}}}"),
            truncated_alerts: 0,
            status,
            receiver: &self.name,
            group_labels: BTreeMap::from([("alertname", name)]),
            common_labels: labels,
            common_annotations: annotations,
            external_url: &self.external_url,
            alerts: [Alert {
                status,
                labels,
                annotations,
                starts_at: rfc3339(notification.starts_at),
                ends_at: notification.ends_at.map_or(NEVER.to_owned(), rfc3339),
                generator_url: &notification.link,
                fingerprint: &notification.fingerprint,
            }],
        };
        serde_json::to_vec(&body).map_err(|error| DeliveryError::Refused {
            reason: error.to_string(),
        })
    }

    fn signature(&self, body: &[u8]) -> Result<Option<HeaderValue>, DeliveryError> {
        let Some(path) = &self.signing_key_file else {
            return Ok(None);
        };
        let failed = |reason: String| DeliveryError::Failed { reason };
        let key = secrets::first_line(path).map_err(|error| failed(error.to_string()))?;
        let text = signature(key.expose().as_bytes(), body).map_err(failed)?;
        let value = HeaderValue::from_str(&text).map_err(|error| failed(error.to_string()))?;
        Ok(Some(value))
    }
}

fn signature(key: &[u8], body: &[u8]) -> Result<String, String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|error| error.to_string())?;
    mac.update(body);
    let mut text = "sha256=".to_owned();
    for byte in mac.finalize().into_bytes() {
        // Writing to a string does not fail.
        let _written = write!(text, "{byte:02x}");
    }
    Ok(text)
}

impl Deliver for Webhook {
    async fn deliver(&self, batch: &[Arc<Notification>]) -> Result<(), DeliveryError> {
        for notification in batch {
            let body = self.body(notification)?;
            let key = HeaderValue::from_str(&notification.idempotency_key());
            let key = key.map_err(|error| DeliveryError::Refused {
                reason: error.to_string(),
            })?;
            let mut headers = vec![(IDEMPOTENCY_KEY, key)];
            headers.extend(self.signature(&body)?.map(|value| (SIGNATURE, value)));
            let body = Bytes::from(body);
            self.client.post(Post { body, headers }).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standard() {
        // RFC 4231, test case 2.
        assert_eq!(
            signature(b"Jefe", b"what do ya want for nothing?").unwrap(),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
