//! The configuration read again while the daemon runs.
//!
//! In: a request to reload, and the files, environment and flags as at the start. Out: what can change in the running
//! stages is changed there, what cannot is named by its key. A configuration with a mistake changes nothing.

use std::sync::{Arc, PoisonError};

use profiler_config::Config;

use crate::{
    alerting::{self, AlertingError, AlertingHandle},
    api::{SharedConfiguration, SharedStore, ShownConfiguration},
    command::{Command, EngineError, EngineHandle},
    daemon::Configured,
    health::{Health, Part, PartState},
    logging::{LevelSwitch, LogError},
    notify::ServiceManager,
    processes,
    readings::{self, Board},
};

/// Reads the configuration as at the start; an error says every mistake with its file and line.
pub type Reader = Arc<dyn Fn() -> Result<Configured, String> + Send + Sync>;

/// Where a configuration comes from while the daemon runs.
#[derive(Clone)]
pub struct Source {
    /// Reads it.
    pub read: Reader,
    /// Changes the level of the log; none where the log is somebody else's.
    pub level: Option<LevelSwitch>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

/// Why a configuration that is right could not be put in force.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error("it cannot be written as TOML: {0}")]
    Encode(#[from] toml::ser::Error),
    #[error("it cannot be compared with the one in force: {0}")]
    Compare(#[from] toml::de::Error),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Alerting(#[from] AlertingError),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Puts a configuration in force.
#[derive(Debug)]
pub struct Reloader {
    /// What is in force.
    pub config: Config,
    /// Where the next one comes from.
    pub source: Source,
    /// The sampling loop.
    pub engine: EngineHandle,
    /// The profiles.
    pub store: SharedStore,
    /// The readings.
    pub readings: Arc<Board>,
    /// The limits.
    pub alerting: AlertingHandle,
    /// What the API shows.
    pub shown: SharedConfiguration,
    /// Where the outcome is reported.
    pub health: Arc<Health>,
    /// Who else hears of it.
    pub manager: ServiceManager,
}

impl Reloader {
    /// Reads the configuration and puts in force what can be.
    pub async fn reload(&mut self) {
        self.manager.reloading();
        let read = Arc::clone(&self.source.read);
        let read = tokio::task::spawn_blocking(move || read()).await;
        let outcome = match read {
            Ok(Ok(configured)) => self.apply(configured).await.map_err(|error| error.to_string()),
            Ok(Err(mistakes)) => Err(mistakes),
            Err(panic) => Err(panic.to_string()),
        };
        let state = match outcome {
            Ok(()) => PartState::Active,
            Err(reason) => {
                for mistake in reason.lines() {
                    tracing::error!("the configuration in force stays: {mistake}");
                }
                PartState::Failed {
                    reason: reason.lines().collect::<Vec<_>>().join("; "),
                    remedy: "Mend it and reload again; until then the configuration before it is in force.".to_owned(),
                }
            }
        };
        self.health.report(Part::Configuration, state);
        self.manager.ready();
    }

    async fn apply(&mut self, configured: Configured) -> Result<(), ApplyError> {
        let changes = Changes::between(&self.config, &configured.config)?;
        let config = changes.in_force;
        let (targets, window) = (config.targets.clone(), config.store.window);
        self.engine
            .ask(|reply| Command::Configure {
                targets,
                window,
                sample_hz: config.sampling.hz.get(),
                max_kernel_bytes: config.budget.max_kernel_bytes,
                reply,
            })
            .await?;
        let dispatcher = self.alerting.dispatcher();
        dispatcher.set_external_url(&config.alerts.external_url);
        // Before the limits, whose alerts that end by the change are told to those who are to be told from now on.
        dispatcher.set_sinks(&config.sinks);
        self.alerting.tell(alerting::Command::Configure {
            limits: config.limits_in_force().cloned().collect(),
            settings: config.alerts.clone(),
        })?;
        self.health.budget.change((&config).into());
        if let Some(level) = &self.source.level {
            level.set(&config.log)?;
        }
        self.store
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .set_limits(crate::daemon::store_limits(&config.store), processes::uptime());
        let limits = readings::series_limits(&config.store);
        self.readings.series().set_limits(limits, Board::now().steady);
        report_discovery(&self.health, &config);
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = ShownConfiguration {
            toml: config.to_toml()?,
            files: configured.files,
        };
        self.config = config;
        tracing::info!(changed = %changes.applied.join(", "), "the configuration was read again");
        if !changes.needs_restart.is_empty() {
            tracing::warn!(
                keys = %changes.needs_restart.join(", "),
                "these changes need a restart; until then the values before them are in force"
            );
        }
        Ok(())
    }
}

/// Why no processes are searched for.
pub(crate) const NOTHING_DISCOVERED: &str = "targets.discover_rust and targets.discover_python are false";

/// Reports whether processes are searched for, unless searching failed.
fn report_discovery(health: &Health, config: &Config) {
    let state = match health.state(Part::Discovery) {
        Some(PartState::Active | PartState::Disabled { .. }) if config.targets.discovers() => PartState::Active,
        Some(PartState::Active | PartState::Disabled { .. }) => PartState::Disabled {
            reason: NOTHING_DISCOVERED.to_owned(),
        },
        _ => return,
    };
    health.report(Part::Discovery, state);
}

/// What a new configuration changes.
#[derive(Debug, PartialEq, Eq)]
struct Changes {
    /// The old configuration with what of the new one can change while the daemon runs.
    in_force: Config,
    /// Keys that change now.
    applied: Vec<String>,
    /// Keys that change at the next start.
    needs_restart: Vec<String>,
}

impl Changes {
    fn between(old: &Config, new: &Config) -> Result<Self, ApplyError> {
        let mut in_force = old.clone();
        in_force.targets = new.targets.clone();
        in_force.store = new.store.clone();
        in_force.sampling.hz = new.sampling.hz;
        in_force.budget = new.budget.clone();
        in_force.log.level = new.log.level;
        in_force.alerts = new.alerts.clone();
        in_force.limits = new.limits.clone();
        in_force.sinks = new.sinks.clone();
        Ok(Self {
            applied: differing_keys(old, &in_force)?,
            needs_restart: differing_keys(&in_force, new)?,
            in_force,
        })
    }
}

/// The dotted keys whose values differ: what is shown of both is all that can be set.
fn differing_keys(one: &Config, other: &Config) -> Result<Vec<String>, ApplyError> {
    let flat = |config: &Config| -> Result<Vec<(String, toml::Value)>, ApplyError> {
        let table: toml::Table = toml::from_str(&config.to_toml()?)?;
        let mut flat = Vec::new();
        for (key, value) in table {
            match value {
                toml::Value::Table(section) => {
                    flat.extend(
                        section
                            .into_iter()
                            .map(|(name, value)| (format!("{key}.{name}"), value)),
                    );
                }
                value => flat.push((key, value)),
            }
        }
        Ok(flat)
    };
    let (one, other) = (flat(one)?, flat(other)?);
    let only_in = |some: &[(String, toml::Value)], others: &[(String, toml::Value)]| -> Vec<String> {
        let differs = some.iter().filter(|entry| !others.contains(entry));
        differs.map(|(key, _)| key.clone()).collect()
    };
    let mut keys = only_in(&one, &other);
    keys.extend(only_in(&other, &one));
    keys.sort();
    keys.dedup();
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use profiler_config::{LogFormat, LogLevel};

    use super::*;

    #[test]
    fn what_needs_a_restart_is_named_and_left() {
        let old = Config::default();
        let mut new = old.clone();
        new.targets.discover_rust = false;
        new.store.retention = Duration::from_secs(60);
        new.sampling.hz = std::num::NonZeroU32::new(49).unwrap();
        new.sampling.walker_loop = profiler_config::WalkerLoop::BpfLoop;
        new.budget.max_memory_bytes = 64 << 20;
        new.budget.recover_after = Duration::from_secs(5);
        new.log.level = LogLevel::Debug;
        new.log.format = LogFormat::Json;
        new.alerts.max_history = std::num::NonZeroU32::MIN;
        new.api.socket = "/elsewhere".into();
        new.state_dir = "/other".into();
        let changes = Changes::between(&old, &new).unwrap();
        assert_eq!(
            changes.applied,
            [
                "alerts.max_history",
                "budget.max_memory_bytes",
                "budget.recover_after",
                "log.level",
                "sampling.hz",
                "store.retention",
                "targets.discover_rust"
            ]
        );
        assert_eq!(
            changes.needs_restart,
            ["api.socket", "log.format", "sampling.walker_loop", "state_dir"]
        );
        let mut expected = new;
        expected.log.format = old.log.format;
        expected.api = old.api.clone();
        expected.sampling.walker_loop = old.sampling.walker_loop;
        expected.state_dir = old.state_dir.clone();
        assert_eq!(changes.in_force, expected);
    }

    #[test]
    fn limits_and_who_is_told_change_at_once() {
        let old = Config::default();
        let mut new = old.clone();
        new.alerts.external_url = "https://profiler.example".to_owned();
        new.sinks[0].enabled = false;
        new.limits[0].enabled = false;
        Arc::make_mut(&mut new.limits[1].limit).hold_for += Duration::from_secs(1);
        // One is removed, and there is one that was not there.
        Arc::make_mut(&mut new.limits[2].limit).name = "own".to_owned();
        let limit = |index: usize| format!("limits.{}", old.limits[index].limit.name);
        let changes = Changes::between(&old, &new).unwrap();
        let mut expected = vec![
            "alerts.external_url".to_owned(),
            "limits.own".to_owned(),
            "sinks.journal".to_owned(),
        ];
        expected.extend((0..3).map(limit));
        expected.sort();
        assert_eq!((changes.applied, changes.needs_restart), (expected, Vec::new()));
        assert_eq!(changes.in_force, new);
    }

    #[test]
    fn the_same_configuration_changes_nothing() {
        let config = Config::default();
        let changes = Changes::between(&config, &config).unwrap();
        assert_eq!((changes.applied, changes.needs_restart), (Vec::new(), Vec::new()));
        assert_eq!(changes.in_force, config);
    }
}
