//! What one source wrote about a limit.

use std::collections::BTreeMap;

use profiler_alerts::{Comparison, Severity, Subjects};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::WrittenLevel;
use crate::{LimitRule, values::Period};

const SECOND: u64 = 1000;
const DAY: u64 = 24 * 3600 * SECOND;

/// A limit as one source has it, every key optional.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WrittenLimit {
    pub(super) enabled: Option<bool>,
    pub(super) reading: Option<Spanned<String>>,
    pub(super) subject: Option<Spanned<String>>,
    pub(super) above: Option<Spanned<WrittenLevel>>,
    pub(super) below: Option<Spanned<WrittenLevel>>,
    pub(super) clear: Option<Spanned<WrittenLevel>>,
    #[serde(rename = "for")]
    pub(super) hold_for: Option<Period<0, DAY>>,
    pub(super) keep_firing_for: Option<Period<0, DAY>>,
    pub(super) no_data_after: Option<Period<{ 5 * SECOND }, DAY>>,
    pub(super) severity: Option<WrittenSeverity>,
    pub(super) sinks: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) labels: Option<Spanned<BTreeMap<String, String>>>,
}

/// A severity by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WrittenSeverity {
    /// See [`Severity::Info`].
    Info,
    /// See [`Severity::Warning`].
    Warning,
    /// See [`Severity::Critical`].
    Critical,
}

impl From<WrittenSeverity> for Severity {
    fn from(written: WrittenSeverity) -> Self {
        match written {
            WrittenSeverity::Info => Self::Info,
            WrittenSeverity::Warning => Self::Warning,
            WrittenSeverity::Critical => Self::Critical,
        }
    }
}

impl From<Severity> for WrittenSeverity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Info => Self::Info,
            Severity::Warning => Self::Warning,
            Severity::Critical => Self::Critical,
        }
    }
}

/// A part that is not written anywhere.
fn nowhere<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

impl From<&LimitRule> for WrittenLimit {
    fn from(rule: &LimitRule) -> Self {
        let limit = &rule.limit;
        let level = nowhere(WrittenLevel::of(limit.metric, limit.level));
        let (above, below) = match limit.comparison {
            Comparison::Above => (Some(level), None),
            Comparison::Below => (None, Some(level)),
        };
        let sinks = limit.sinks.iter().cloned().map(nowhere).collect();
        Self {
            enabled: Some(rule.enabled),
            reading: Some(nowhere(limit.metric.name().to_owned())),
            subject: match &limit.subjects {
                Subjects::All => None,
                Subjects::Named(name) => Some(nowhere(name.clone())),
            },
            above,
            below,
            clear: Some(nowhere(WrittenLevel::of(limit.metric, limit.clear))),
            hold_for: Some(limit.hold_for.into()),
            keep_firing_for: Some(limit.keep_firing_for.into()),
            no_data_after: Some(limit.no_data_after.into()),
            severity: Some(limit.severity.into()),
            sinks: Some(nowhere(sinks)),
            labels: (!limit.labels.is_empty()).then(|| nowhere(limit.labels.clone())),
        }
    }
}
