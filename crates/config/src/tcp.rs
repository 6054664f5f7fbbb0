//! The TCP listener: an address, what callers have to show, and how far it may be reached.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error, de::Unexpected};

use crate::{ConfigError, Origin, meant::Tcp};

/// Longest path of a file.
const MAX_PATH_BYTES: usize = 4095;

/// An address with a port; empty for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Address(Option<SocketAddr>);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        let expected = "an IP address with a port, such as \"127.0.0.1:9898\", or \"\" for none";
        match text.parse() {
            Ok(address) => Ok(Self(Some(address))),
            Err(_) => Err(D::Error::invalid_value(Unexpected::Str(&text), &expected)),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(address) => serializer.collect_str(&address),
            None => serializer.serialize_str(""),
        }
    }
}

/// An absolute path; empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct MaybePath(PathBuf);

impl<'de> Deserialize<'de> for MaybePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let path = PathBuf::from(&text);
        if text.is_empty() || (path.is_absolute() && text.len() <= MAX_PATH_BYTES && !text.contains('\0')) {
            return Ok(Self(path));
        }
        let expected = "an absolute path, or \"\" for none";
        Err(D::Error::invalid_value(Unexpected::Str(&text), &expected))
    }
}

/// The section as it is written.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WrittenTcp {
    listen: Option<Address>,
    token_file: Option<MaybePath>,
    certificate_file: Option<MaybePath>,
    key_file: Option<MaybePath>,
    client_ca_file: Option<MaybePath>,
    allow_remote: Option<bool>,
    allow_profile: Option<bool>,
}

impl WrittenTcp {
    /// Overrides what this source says and leaves the rest.
    pub(crate) fn apply(self, tcp: &mut Tcp) {
        tcp.listen = self.listen.map_or(tcp.listen, |address| address.0);
        for (written, path) in [
            (self.token_file, &mut tcp.token_file),
            (self.certificate_file, &mut tcp.certificate_file),
            (self.key_file, &mut tcp.key_file),
            (self.client_ca_file, &mut tcp.client_ca_file),
        ] {
            if let Some(written) = written {
                *path = written.0;
            }
        }
        tcp.allow_remote = self.allow_remote.unwrap_or(tcp.allow_remote);
        tcp.allow_profile = self.allow_profile.unwrap_or(tcp.allow_profile);
    }
}

impl From<&Tcp> for WrittenTcp {
    fn from(tcp: &Tcp) -> Self {
        let path = |path: &PathBuf| Some(MaybePath(path.clone()));
        Self {
            listen: Some(Address(tcp.listen)),
            token_file: path(&tcp.token_file),
            certificate_file: path(&tcp.certificate_file),
            key_file: path(&tcp.key_file),
            client_ca_file: path(&tcp.client_ca_file),
            allow_remote: Some(tcp.allow_remote),
            allow_profile: Some(tcp.allow_profile),
        }
    }
}

/// What would let strangers in, or make no sense.
pub(crate) fn contradiction(tcp: &Tcp) -> Option<ConfigError> {
    let address = tcp.listen?;
    let is_named = |path: &PathBuf| !path.as_os_str().is_empty();
    let has_tls = is_named(&tcp.certificate_file);
    let problem = if has_tls != is_named(&tcp.key_file) {
        "tcp.certificate_file and tcp.key_file go together: name both for TLS, or neither".to_owned()
    } else if is_named(&tcp.client_ca_file) && !has_tls {
        "tcp.client_ca_file asks for certificates of callers, which only TLS has: name tcp.certificate_file and tcp.key_file"
            .to_owned()
    } else if !is_named(&tcp.token_file) && !is_named(&tcp.client_ca_file) {
        format!(
            "tcp.listen is \"{address}\", and neither tcp.token_file nor tcp.client_ca_file names a file: every user of the \
             host could ask; name one of them"
        )
    } else if !address.ip().is_loopback() && !tcp.allow_remote && !has_tls {
        format!(
            "tcp.listen is \"{address}\", which other hosts may reach, and the token would go there in the clear: listen \
             on 127.0.0.1 or [::1], name tcp.certificate_file and tcp.key_file, or set tcp.allow_remote = true if the \
             network between is to be trusted"
        )
    } else {
        return None;
    };
    Some(ConfigError {
        origin: Origin::Combination,
        problem,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The problem of a listener at this address for which these keys name files.
    fn problem(address: &str, named: &[&str]) -> String {
        let path = |key: &str| PathBuf::from(if named.contains(&key) { "/file" } else { "" });
        let tcp = Tcp {
            listen: Some(address.parse().unwrap()),
            token_file: path("token"),
            certificate_file: path("certificate"),
            key_file: path("key"),
            client_ca_file: path("client_ca"),
            ..Tcp::default()
        };
        contradiction(&tcp).map_or(String::new(), |error| error.problem)
    }

    #[test]
    fn strangers_are_kept_out() {
        for (address, named, expected) in [
            ("127.0.0.1:9898", &["token"][..], ""),
            ("[::1]:9898", &["certificate", "key", "client_ca"], ""),
            ("127.0.0.1:9898", &["certificate", "key", "token"], ""),
            ("192.0.2.1:9898", &["certificate", "key", "token"], ""),
            ("192.0.2.1:9898", &["certificate", "key", "client_ca"], ""),
            ("127.0.0.1:9898", &[], "neither tcp.token_file nor tcp.client_ca_file"),
            (
                "127.0.0.1:9898",
                &["certificate", "key"],
                "neither tcp.token_file nor tcp.client_ca_file",
            ),
            ("127.0.0.1:9898", &["certificate", "token"], "go together"),
            ("127.0.0.1:9898", &["key", "token"], "go together"),
            ("127.0.0.1:9898", &["token", "client_ca"], "which only TLS has"),
            ("192.0.2.1:9898", &["token"], "in the clear"),
        ] {
            let problem = problem(address, named);
            assert_eq!(problem.is_empty(), expected.is_empty(), "{named:?}: {problem}");
            assert!(problem.contains(expected), "{named:?}: {problem}");
        }
    }
}
