//! What callers of the TCP port have to show, and what it shows them: read again when the files change.
//!
//! In: the files that the configuration names. Out: a token and what shakes hands, always of one reading. Certificates and tokens
//! are replaced while a service runs; where the new ones are of no use, those before go on to count, and the state of the port
//! says so.

use std::{
    convert::Infallible,
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio_rustls::TlsAcceptor;

use super::{TcpError, tls, token::Token};
use crate::health::{Health, Part, PartState};

/// How often it is looked whether files are others.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What was read at one time.
#[derive(Clone)]
pub(super) struct Keys {
    /// What callers have to show; none where a certificate, without which there is no connection, is enough.
    pub(super) token: Option<Token>,
    /// What shakes hands; none where the port speaks in the clear.
    pub(super) tls: Option<TlsAcceptor>,
}

impl Keys {
    /// Reads what the configuration names, which has to be enough to keep strangers out.
    fn read(config: &profiler_config::Tcp) -> Result<Self, TcpError> {
        let token = match is_named(&config.token_file) {
            true => Some(Token::read(&config.token_file)?),
            false => None,
        };
        let tls = tls::acceptor(config)?;
        let shows_certificate = tls.is_some() && is_named(&config.client_ca_file);
        if token.is_none() && !shows_certificate {
            return Err(TcpError::Open);
        }
        Ok(Self { token, tls })
    }
}

fn is_named(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

/// The keys that count now.
pub(super) struct Keyring {
    config: profiler_config::Tcp,
    current: RwLock<Keys>,
}

impl Keyring {
    /// Reads them for the first time. With them comes what their files were before that.
    pub(super) fn open(config: &profiler_config::Tcp) -> Result<(Self, Stamps), TcpError> {
        let stamps = Stamps::of(config);
        let keyring = Self {
            config: config.clone(),
            current: RwLock::new(Keys::read(config)?),
        };
        Ok((keyring, stamps))
    }

    /// Those of now.
    pub(super) fn current(&self) -> Keys {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads them again whenever a file is another, and tells the state of the port.
    pub(super) async fn keep(self: Arc<Self>, mut stamps: Stamps, health: &Health) -> Infallible {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let keyring = Arc::clone(&self);
            let known = stamps.clone();
            // Files may be slow. Of a reading that panics nothing is known, as of one that was not begun.
            let looked = tokio::task::spawn_blocking(move || keyring.look(&known)).await;
            let Ok(Some((seen, outcome))) = looked else { continue };
            stamps = seen;
            match outcome {
                Ok(()) => {
                    tracing::info!("token and certificates of the TCP port were read again");
                    health.report(Part::Tcp, PartState::Active);
                }
                Err(error) => {
                    let reason =
                        format!("what was read before of its token and certificates goes on to count: {error}");
                    tracing::warn!(%error, "token and certificates of the TCP port cannot be read again");
                    let remedy = "Mend the file; it is read again when it changes.".to_owned();
                    health.report(Part::Tcp, PartState::Failed { reason, remedy });
                }
            }
        }
    }

    /// Reads them again if the files are not as they were; with how they are.
    fn look(&self, known: &Stamps) -> Option<(Stamps, Result<(), TcpError>)> {
        // Before the reading: a change while it goes on is seen the next time.
        let stamps = Stamps::of(&self.config);
        if stamps == *known {
            return None;
        }
        let outcome = Keys::read(&self.config).map(|keys| {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = keys;
        });
        Some((stamps, outcome))
    }
}

/// How the files were at one time: what tells each from what was there before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamps([Option<Stamp>; 4]);

/// Device, inode, and time of the last change of a file and its mode.
type Stamp = (u64, u64, i64, i64);

impl Stamps {
    fn of(config: &profiler_config::Tcp) -> Self {
        let files = [
            &config.token_file,
            &config.certificate_file,
            &config.key_file,
            &config.client_ca_file,
        ];
        Self(files.map(|path| {
            let file = fs::metadata(path).ok()?;
            Some((file.dev(), file.ino(), file.ctime(), file.ctime_nsec()))
        }))
    }
}
