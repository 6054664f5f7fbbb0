//! TLS on the TCP port: our certificate, and whose certificates callers have to show.
//!
//! In: files in PEM. Out: what shakes hands with callers.

use std::{path::Path, sync::Arc};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    },
};

use crate::secrets::{self, FileError};

/// What is spoken inside: gRPC, or what Prometheus asks with.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or others have access to it.
    #[error(transparent)]
    File(#[from] FileError),
    /// Certificates or keys are not what they should be.
    #[error("TLS cannot be served: {reason}")]
    Unusable {
        /// What is wrong.
        reason: String,
    },
}

fn unusable(path: &Path, error: &impl ToString) -> TlsError {
    TlsError::Unusable {
        reason: format!("{}: {}", path.display(), error.to_string()),
    }
}

/// What shakes hands as the configuration says; none if it names no certificate.
pub(super) fn acceptor(config: &profiler_config::Tcp) -> Result<Option<TlsAcceptor>, TlsError> {
    let (certificate, key) = (&config.certificate_file, &config.key_file);
    if certificate.as_os_str().is_empty() {
        return Ok(None);
    }
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_slice(&secrets::private_key(key)?).map_err(|error| unusable(key, &error))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(certificate, &error))?;
    let builder = match client_verifier(&config.client_ca_file)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut tls = builder
        .with_single_cert(chain, private)
        .map_err(|error| unusable(certificate, &error))?;
    tls.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    Ok(Some(TlsAcceptor::from(Arc::new(tls))))
}

/// What judges the certificates of callers; none where they need not show one.
fn client_verifier(path: &Path) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, &error))?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    Ok(Some(verifier.map_err(|error| unusable(path, &error))?))
}

/// The certificates of a file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = secrets::certificates(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| unusable(path, &error))?;
    if found.is_empty() {
        return Err(secrets::contents(path, "there is no certificate in PEM").into());
    }
    Ok(found)
}
