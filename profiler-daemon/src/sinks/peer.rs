//! Whom a connection goes to.

use hyper::Uri;

/// One end of a connection: a receiver, or a proxy on the way to it.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) is_tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// As it was written.
    pub(super) authority: String,
}

impl Peer {
    /// Whom an address names; nobody unless it is one of HTTP.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        Some(Self {
            is_tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
        })
    }

    /// The host as it stands before a port.
    pub(super) fn bracketed(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }
}
