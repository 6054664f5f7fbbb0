//! The connection to a daemon over TCP: where it is, whom we trust to be it, and what we show.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};

use super::{ClientError, innermost, within};
use crate::args::Remote;

/// What may begin an address.
const SCHEMES: [&str; 2] = ["http://", "https://"];

/// Shows a token with each request, if there is one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials(Option<MetadataValue<Ascii>>);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Connects to a daemon at an address, and says what is to be shown to it.
pub(super) async fn connect(
    address: &str,
    remote: &Remote,
    timeout: Duration,
) -> Result<(Channel, Credentials), ClientError> {
    let endpoint = endpoint(address, remote)?;
    let credentials = Credentials(remote.token_file.as_deref().map(token).transpose()?);
    let channel = within(timeout, async {
        let connected = endpoint.connect().await;
        connected.map_err(|error| ClientError::Unreachable {
            address: address.to_owned(),
            reason: innermost(&error),
        })
    })
    .await?;
    Ok((channel, credentials))
}

/// A warning, where a token would be shown to whoever listens on the way.
pub(crate) fn warning(remote: &Remote) -> Option<String> {
    let (address, _) = (remote.address.as_ref()?, remote.token_file.as_ref()?);
    let uri: Uri = address.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host
        .parse::<IpAddr>()
        .map_or(host == "localhost", |host| host.is_loopback());
    let is_open = uri.scheme_str() == Some("http") && !is_loopback;
    is_open.then(|| {
        format!("the token goes to {host} unencrypted, for everyone on the way to read: the daemon can serve https://")
    })
}

fn endpoint(address: &str, remote: &Remote) -> Result<Endpoint, ClientError> {
    let invalid = |problem: &str| ClientError::Address {
        address: address.to_owned(),
        problem: problem.to_owned(),
    };
    if !SCHEMES.iter().any(|scheme| address.starts_with(scheme)) {
        return Err(invalid("it begins with neither https:// nor http://"));
    }
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| invalid(&innermost(&error)))?;
    if endpoint.uri().port().is_none() {
        return Err(invalid("it names no port"));
    }
    let identity = identity(remote)?;
    let authorities = remote.ca_file.as_deref().map(read).transpose()?;
    if !address.starts_with("https://") {
        if identity.is_some() || authorities.is_some() {
            return Err(invalid("certificates are shown and looked at only with https://"));
        }
        return Ok(endpoint);
    }
    let tls = match authorities {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    let tls = match identity {
        Some(identity) => tls.identity(identity),
        None => tls,
    };
    endpoint.tls_config(tls).map_err(|error| ClientError::Credentials {
        reason: innermost(&error),
    })
}

/// What we show of ourselves: a certificate and its key, which may be in one file.
fn identity(remote: &Remote) -> Result<Option<Identity>, ClientError> {
    let Some(certificate) = &remote.certificate_file else {
        return Ok(None);
    };
    let key = remote.key_file.as_ref().unwrap_or(certificate);
    Ok(Some(Identity::from_pem(read(certificate)?, read(key)?)))
}

/// The token of a file, as it is shown.
fn token(path: &Path) -> Result<MetadataValue<Ascii>, ClientError> {
    let bytes = read(path)?;
    let token = bytes.trim_ascii();
    let is_token = !token.is_empty() && token.iter().all(u8::is_ascii_graphic);
    let shown = is_token.then(|| [b"Bearer ", token].concat());
    let value = shown.and_then(|shown| MetadataValue::try_from(shown).ok());
    let mut value = value.ok_or_else(|| ClientError::Credentials {
        reason: format!("{} holds no token: printable ASCII without spaces", path.display()),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    fs::read(path).map_err(|source| ClientError::CredentialFile {
        path: PathBuf::from(path),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, remote: &Remote) -> String {
        endpoint(address, remote).unwrap_err().to_string()
    }

    #[test]
    fn addresses_that_are_none_are_told_of() {
        let remote = Remote::default();
        assert!(endpoint("http://127.0.0.1:9898", &remote).is_ok());
        assert!(endpoint("https://profiler.example:9898", &remote).is_ok());
        assert!(refused("127.0.0.1:9898", &remote).contains("neither https:// nor http://"));
        assert!(refused("ftp://x:1", &remote).contains("neither https:// nor http://"));
        assert!(refused("https://profiler.example", &remote).contains("names no port"));
        assert!(refused("http://", &remote).contains("http://"));
    }

    #[test]
    fn a_token_is_not_sent_openly_without_a_word() {
        let warning = |address: &str, token: Option<&str>| {
            warning(&Remote {
                address: Some(address.to_owned()),
                token_file: token.map(PathBuf::from),
                ..Remote::default()
            })
        };
        let open = warning("http://profiler.example:9898", Some("token")).unwrap();
        assert!(open.contains("profiler.example unencrypted"), "{open}");
        assert!(warning("http://[2001:db8::1]:9898", Some("token")).is_some());
        assert_eq!(warning("http://profiler.example:9898", None), None);
        for address in [
            "https://profiler.example:9898",
            "http://127.0.0.2:9898",
            "http://[::1]:9898",
            "http://localhost:9898",
        ] {
            assert_eq!(warning(address, Some("token")), None, "{address}");
        }
    }

    #[test]
    fn a_token_is_one_line_that_is_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let of = |text: &str| {
            fs::write(&path, text).unwrap();
            token(&path)
        };
        let shown = of("0123456789abcdef\n").unwrap();
        assert_eq!(shown.to_str().unwrap(), "Bearer 0123456789abcdef");
        assert!(!format!("{:?}", Credentials(Some(shown))).contains("0123"));
        for text in ["", "\n", "two\nlines", "ünïcode", "\u{1}"] {
            assert!(of(text).is_err(), "{text:?}");
        }
        let error = token(&directory.path().join("nothing")).unwrap_err();
        assert!(error.to_string().contains("nothing"), "{error}");
    }
}
