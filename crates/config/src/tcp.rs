//! The TCP listener: an address, a token, and how far it may be reached.

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
    allow_remote: Option<bool>,
    allow_profile: Option<bool>,
}

impl WrittenTcp {
    /// Overrides what this source says and leaves the rest.
    pub(crate) fn apply(self, tcp: &mut Tcp) {
        tcp.listen = self.listen.map_or(tcp.listen, |address| address.0);
        if let Some(path) = self.token_file {
            tcp.token_file = path.0;
        }
        tcp.allow_remote = self.allow_remote.unwrap_or(tcp.allow_remote);
        tcp.allow_profile = self.allow_profile.unwrap_or(tcp.allow_profile);
    }
}

impl From<&Tcp> for WrittenTcp {
    fn from(tcp: &Tcp) -> Self {
        Self {
            listen: Some(Address(tcp.listen)),
            token_file: Some(MaybePath(tcp.token_file.clone())),
            allow_remote: Some(tcp.allow_remote),
            allow_profile: Some(tcp.allow_profile),
        }
    }
}

/// What would let strangers in.
pub(crate) fn contradiction(tcp: &Tcp) -> Option<ConfigError> {
    let address = tcp.listen?;
    let problem = if tcp.token_file.as_os_str().is_empty() {
        format!(
            "tcp.listen is \"{address}\" and tcp.token_file names no file: every user of the host could ask; name one"
        )
    } else if !address.ip().is_loopback() && !tcp.allow_remote {
        format!(
            "tcp.listen is \"{address}\", which other hosts may reach, and the token would go there in the clear: listen \
             on 127.0.0.1 or [::1], or set tcp.allow_remote = true if the network between is to be trusted"
        )
    } else {
        return None;
    };
    Some(ConfigError {
        origin: Origin::Combination,
        problem,
    })
}
