//! Sinks: who is told of alerts. What sources wrote about one, put together, and what that means.

use std::{collections::BTreeMap, ops::Range, path::PathBuf, time::Duration};

use profiler_alerts::Severity;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::{
    ConfigError, Origin,
    limits::{At, Locate, WrittenSeverity},
    names::check_name,
    values::{AbsolutePath, Period},
};

const SECOND: u64 = 1000;
/// The sink that is there without being written.
pub(crate) const JOURNAL: &str = "journal";
/// Most sinks.
const MAX_SINKS: usize = 16;
/// Most arguments of a command.
const MAX_ARGUMENTS: usize = 64;
/// Longest argument or address.
const MAX_TEXT_BYTES: usize = 4095;
/// For how long one attempt may take, where nothing is written.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Somebody who is told of alerts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// Its name, by which limits name it.
    pub name: String,
    /// Whether it is told at all.
    pub enabled: bool,
    /// The least severe alert that it is told of.
    pub min_severity: Severity,
    /// For how long one attempt may take.
    pub timeout: Duration,
    /// How it is told.
    pub target: SinkTarget,
}

/// How a sink is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkTarget {
    /// A line of the log with fields, in the journal where the log goes there.
    Journal,
    /// A POST with the body of Alertmanager's webhooks, version 4.
    Webhook(Endpoint),
    /// Alertmanager's API, version 2.
    Alertmanager(Endpoint),
    /// A program, with the alert as JSON on its standard input; no shell.
    Command {
        /// The program by its absolute path, and its arguments.
        argv: Vec<String>,
    },
}

/// Where something is sent over HTTP. Secrets are in files only, so that no configuration that is shown holds one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `http://` or `https://`; of an Alertmanager without `/api/v2/alerts`.
    pub url: String,
    /// A proxy to go through.
    pub proxy: Option<String>,
    /// A file whose first line is `user:password` for that proxy.
    pub proxy_auth_file: Option<PathBuf>,
    /// A file whose first line is sent as bearer token.
    pub token_file: Option<PathBuf>,
    /// A file with one `Name: value` a line, sent as headers.
    pub headers_file: Option<PathBuf>,
    /// A file whose first line is the key by which what is sent to a webhook is signed.
    pub signing_key_file: Option<PathBuf>,
    /// Certificates (PEM) to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl SinkTarget {
    /// The name of its kind in configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Webhook(_) => "webhook",
            Self::Alertmanager(_) => "alertmanager",
            Self::Command { .. } => "command",
        }
    }
}

/// The sinks that are there without being written.
pub(crate) fn default_sinks() -> Vec<Sink> {
    vec![Sink {
        name: JOURNAL.to_owned(),
        enabled: true,
        min_severity: Severity::Info,
        timeout: TIMEOUT,
        target: SinkTarget::Journal,
    }]
}

/// A sink as one source has it, every key optional.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WrittenSink {
    enabled: Option<bool>,
    kind: Option<WrittenKind>,
    url: Option<Spanned<String>>,
    proxy: Option<Spanned<String>>,
    proxy_auth_file: Option<Spanned<AbsolutePath>>,
    token_file: Option<Spanned<AbsolutePath>>,
    headers_file: Option<Spanned<AbsolutePath>>,
    signing_key_file: Option<Spanned<AbsolutePath>>,
    ca_file: Option<Spanned<AbsolutePath>>,
    argv: Option<Spanned<Vec<String>>>,
    timeout: Option<Period<SECOND, { 60 * SECOND }>>,
    min_severity: Option<WrittenSeverity>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum WrittenKind {
    Journal,
    Webhook,
    Alertmanager,
    Command,
}

/// One sink while sources are put together.
#[derive(Debug, Default)]
struct Draft {
    named: Option<Origin>,
    enabled: Option<bool>,
    kind: Option<WrittenKind>,
    url: Option<At<String>>,
    proxy: Option<At<String>>,
    proxy_auth_file: Option<At<PathBuf>>,
    token_file: Option<At<PathBuf>>,
    headers_file: Option<At<PathBuf>>,
    signing_key_file: Option<At<PathBuf>>,
    ca_file: Option<At<PathBuf>>,
    argv: Option<At<Vec<String>>>,
    timeout: Option<Duration>,
    min_severity: Option<Severity>,
}

/// All sinks while sources are put together.
#[derive(Debug)]
pub(crate) struct Drafts(BTreeMap<String, Draft>);

impl Drafts {
    /// The sinks that are there without being written.
    pub(crate) fn of_defaults() -> Self {
        let drafts = default_sinks().into_iter().map(|sink| {
            let mut draft = Draft::default();
            let name = sink.name.clone();
            draft.take(WrittenSink::from(&sink), &|_| None);
            (name, draft)
        });
        Self(drafts.collect())
    }

    /// Overrides what a source says.
    ///
    /// # Errors
    /// The name of a sink is none.
    pub(crate) fn add(
        &mut self,
        sinks: BTreeMap<Spanned<String>, WrittenSink>,
        locate: Locate<'_>,
    ) -> Result<(), ConfigError> {
        for (name, sink) in sinks {
            let origin = locate(name.span());
            let name = name.into_inner();
            check_name("sink", &name, &origin)?;
            if self.0.len() >= MAX_SINKS && !self.0.contains_key(&name) {
                return Err(wrong(&origin, format!("more than {MAX_SINKS} sinks")));
            }
            let draft = self.0.entry(name).or_default();
            draft.named = Some(origin);
            draft.take(sink, &|span| Some(locate(span)));
        }
        Ok(())
    }

    /// What each sink means, or its first mistake.
    pub(crate) fn finish(self) -> Vec<Result<Sink, ConfigError>> {
        let drafts = self.0.into_iter();
        drafts.map(|(name, draft)| draft.finish(name)).collect()
    }
}

fn wrong(origin: &Origin, problem: impl Into<String>) -> ConfigError {
    ConfigError {
        origin: origin.clone(),
        problem: problem.into(),
    }
}

impl Draft {
    fn take(&mut self, written: WrittenSink, locate: &dyn Fn(Range<usize>) -> Option<Origin>) {
        fn set<T, U>(
            target: &mut Option<At<U>>,
            written: Option<Spanned<T>>,
            locate: &dyn Fn(Range<usize>) -> Option<Origin>,
            meant: impl Fn(T) -> U,
        ) {
            if let Some(written) = written {
                *target = Some(At {
                    origin: locate(written.span()),
                    value: meant(written.into_inner()),
                });
            }
        }
        set(&mut self.url, written.url, locate, |url| url);
        set(&mut self.proxy, written.proxy, locate, |url| url);
        set(&mut self.proxy_auth_file, written.proxy_auth_file, locate, |path| {
            path.0
        });
        set(&mut self.token_file, written.token_file, locate, |path| path.0);
        set(&mut self.headers_file, written.headers_file, locate, |path| path.0);
        set(&mut self.signing_key_file, written.signing_key_file, locate, |path| {
            path.0
        });
        set(&mut self.ca_file, written.ca_file, locate, |path| path.0);
        set(&mut self.argv, written.argv, locate, |argv| argv);
        self.enabled = written.enabled.or(self.enabled);
        self.kind = written.kind.or(self.kind);
        self.timeout = written.timeout.map(Period::get).or(self.timeout);
        self.min_severity = written.min_severity.map(Severity::from).or(self.min_severity);
    }

    fn finish(self, name: String) -> Result<Sink, ConfigError> {
        let named = self.named.clone().unwrap_or(Origin::Combination);
        let Some(kind) = self.kind else {
            let problem = "a sink needs a `kind`: \"journal\", \"webhook\", \"alertmanager\" or \"command\"";
            return Err(wrong(&named, problem));
        };
        self.check_keys(kind, &named)?;
        let (enabled, timeout) = (self.enabled.unwrap_or(true), self.timeout.unwrap_or(TIMEOUT));
        let min_severity = self.min_severity.unwrap_or(Severity::Info);
        let target = match kind {
            WrittenKind::Journal => SinkTarget::Journal,
            WrittenKind::Webhook => SinkTarget::Webhook(self.endpoint(&named)?),
            WrittenKind::Alertmanager => SinkTarget::Alertmanager(self.endpoint(&named)?),
            WrittenKind::Command => SinkTarget::Command {
                argv: self.command(&named)?,
            },
        };
        Ok(Sink {
            name,
            enabled,
            min_severity,
            timeout,
            target,
        })
    }

    /// Refuses keys that mean nothing to the kind.
    fn check_keys(&self, kind: WrittenKind, named: &Origin) -> Result<(), ConfigError> {
        let is_http = matches!(kind, WrittenKind::Webhook | WrittenKind::Alertmanager);
        let is_command = kind == WrittenKind::Command;
        let keys = [
            ("url", self.url.as_ref().map(|part| &part.origin), is_http),
            ("proxy", self.proxy.as_ref().map(|part| &part.origin), is_http),
            (
                "proxy_auth_file",
                self.proxy_auth_file.as_ref().map(|part| &part.origin),
                is_http,
            ),
            ("token_file", self.token_file.as_ref().map(|part| &part.origin), is_http),
            (
                "headers_file",
                self.headers_file.as_ref().map(|part| &part.origin),
                is_http,
            ),
            ("ca_file", self.ca_file.as_ref().map(|part| &part.origin), is_http),
            ("argv", self.argv.as_ref().map(|part| &part.origin), is_command),
            (
                "signing_key_file",
                self.signing_key_file.as_ref().map(|part| &part.origin),
                kind == WrittenKind::Webhook,
            ),
        ];
        for (key, written, is_meant) in keys {
            if let (Some(origin), false) = (written, is_meant) {
                let whose = match key {
                    "argv" => "a command",
                    "signing_key_file" => "webhooks",
                    _ => "webhooks and alertmanagers",
                };
                let problem = format!("`{key}` is for {whose}, and this sink is none");
                return Err(wrong(origin.as_ref().unwrap_or(named), problem));
            }
        }
        Ok(())
    }

    fn endpoint(self, named: &Origin) -> Result<Endpoint, ConfigError> {
        let Some(url) = &self.url else {
            return Err(wrong(named, "this sink needs a `url`"));
        };
        for part in [Some(url), self.proxy.as_ref()].into_iter().flatten() {
            check_url(&part.value).map_err(|problem| wrong(part.origin.as_ref().unwrap_or(named), problem))?;
        }
        if let (Some(file), None) = (&self.proxy_auth_file, &self.proxy) {
            let problem = "`proxy_auth_file` is for a `proxy`, and this sink has none";
            return Err(wrong(file.origin.as_ref().unwrap_or(named), problem));
        }
        Ok(Endpoint {
            url: url.value.clone(),
            proxy: self.proxy.map(|part| part.value),
            proxy_auth_file: self.proxy_auth_file.map(|part| part.value),
            token_file: self.token_file.map(|part| part.value),
            headers_file: self.headers_file.map(|part| part.value),
            signing_key_file: self.signing_key_file.map(|part| part.value),
            ca_file: self.ca_file.map(|part| part.value),
        })
    }

    fn command(self, named: &Origin) -> Result<Vec<String>, ConfigError> {
        let Some(argv) = self.argv else {
            return Err(wrong(named, "this sink needs an `argv`"));
        };
        let is_absolute = argv.value.first().is_some_and(|program| program.starts_with('/'));
        let is_short = |argument: &String| argument.len() <= MAX_TEXT_BYTES && !argument.contains('\0');
        if is_absolute && argv.value.len() <= MAX_ARGUMENTS && argv.value.iter().all(is_short) {
            return Ok(argv.value);
        }
        let problem = format!(
            "`argv` is the absolute path of a program and its arguments, {MAX_ARGUMENTS} in all; there is no shell"
        );
        Err(wrong(argv.origin.as_ref().unwrap_or(named), problem))
    }
}

/// Whether something can be sent there.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next());
    // What is shown of a configuration must hold no password.
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err("an address holds no user or password: put them into a `headers_file`, those of a proxy into its `proxy_auth_file`".to_owned());
    }
    let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic()) && url.len() <= MAX_TEXT_BYTES;
    match authority {
        Some(authority) if !authority.is_empty() && is_plain => Ok(()),
        _ => Err(format!(
            "\"{}\" is no address: http:// or https://, a host, and what else belongs to it",
            url.escape_debug()
        )),
    }
}

impl From<&Sink> for WrittenSink {
    fn from(sink: &Sink) -> Self {
        fn nowhere<T>(value: T) -> Spanned<T> {
            Spanned::new(0..0, value)
        }
        let mut written = Self {
            enabled: Some(sink.enabled),
            timeout: Some(sink.timeout.into()),
            min_severity: Some(sink.min_severity.into()),
            ..Self::default()
        };
        let (kind, endpoint) = match &sink.target {
            SinkTarget::Journal => (WrittenKind::Journal, None),
            SinkTarget::Webhook(endpoint) => (WrittenKind::Webhook, Some(endpoint)),
            SinkTarget::Alertmanager(endpoint) => (WrittenKind::Alertmanager, Some(endpoint)),
            SinkTarget::Command { argv } => {
                written.argv = Some(nowhere(argv.clone()));
                (WrittenKind::Command, None)
            }
        };
        written.kind = Some(kind);
        if let Some(endpoint) = endpoint {
            let path = |path: &Option<PathBuf>| path.clone().map(|path| nowhere(AbsolutePath(path)));
            written.url = Some(nowhere(endpoint.url.clone()));
            written.proxy = endpoint.proxy.clone().map(nowhere);
            written.proxy_auth_file = path(&endpoint.proxy_auth_file);
            written.token_file = path(&endpoint.token_file);
            written.headers_file = path(&endpoint.headers_file);
            written.signing_key_file = path(&endpoint.signing_key_file);
            written.ca_file = path(&endpoint.ca_file);
        }
        written
    }
}
