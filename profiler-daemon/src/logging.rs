//! Where log lines go and how they look.
//!
//! In: the configuration, and what standard error is. Out: one subscriber for the whole process. Values that come from
//! watched processes may be in any line: none may steer a terminal or forge a line of its own.

use std::{
    env,
    ffi::OsStr,
    io::{self, IsTerminal},
    os::fd::AsFd,
};

use profiler_config::{Log, LogFormat};
use tracing::field::Field;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    field::MakeExt,
    fmt::{
        MakeWriter,
        format::{Writer, debug_fn},
    },
    layer::SubscriberExt,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

/// The environment variable with directives for single parts, such as `info,profiler_daemon::processes=debug`.
pub const DIRECTIVES_VARIABLE: &str = "PROFILER_LOG";
/// Longest value of a field in a line for people.
const MAX_VALUE_BYTES: usize = 8 << 10;
/// Name of the daemon and prefix of its fields in the journal.
const JOURNAL_IDENTIFIER: &str = "profiler-daemon";
const JOURNAL_FIELD_PREFIX: &str = "PROFILER";

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directives make no sense.
    #[error(
        "{DIRECTIVES_VARIABLE}={directives:?}: {reason}; expected a level, or part=level pairs with commas between"
    )]
    Directives {
        /// As they were written.
        directives: String,
        /// What is wrong.
        reason: String,
    },
    /// The journal was asked for and does not listen.
    #[error("log.format is \"journal\", but the systemd journal cannot be reached: {source}")]
    Journal {
        /// Why.
        source: io::Error,
    },
    /// The level cannot be changed any more.
    #[error("the level of the log cannot be changed: {source}")]
    Switch {
        /// Why.
        source: reload::Error,
    },
    /// There is a subscriber already.
    #[error("logging is set up already: {source}")]
    Twice {
        /// What it said.
        source: TryInitError,
    },
}

/// What log lines look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Human { colour: bool },
    Json,
    Journal,
}

/// What decides how lines look if the configuration does not.
#[derive(Clone, Copy, Debug, Default)]
struct Surroundings {
    /// Standard error is the stream to the journal that systemd opened.
    is_journal: bool,
    is_terminal: bool,
    no_colour: bool,
}

impl Surroundings {
    fn read() -> Self {
        let stderr = io::stderr();
        let set = |variable: &str| env::var_os(variable).is_some_and(|value| !value.is_empty());
        Self {
            is_journal: env::var_os("JOURNAL_STREAM").is_some_and(|stream| is_stream(&stream, stderr.as_fd())),
            is_terminal: stderr.is_terminal(),
            no_colour: set("NO_COLOR"),
        }
    }

    fn look(self, format: LogFormat) -> Look {
        let human = Look::Human {
            colour: self.is_terminal && !self.no_colour,
        };
        match format {
            LogFormat::Auto if self.is_journal => Look::Journal,
            LogFormat::Auto if self.is_terminal => human,
            LogFormat::Auto | LogFormat::Json => Look::Json,
            LogFormat::Human => human,
            LogFormat::Journal => Look::Journal,
        }
    }
}

/// Whether a descriptor is what `JOURNAL_STREAM` names as `device:inode` (systemd.exec(5)): the variable may have been
/// inherited by a process whose output goes elsewhere.
fn is_stream(journal_stream: &OsStr, descriptor: impl AsFd) -> bool {
    let named = journal_stream.to_str().and_then(|text| text.split_once(':'));
    let named = named.and_then(|(device, inode)| Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?)));
    let actual = rustix::fs::fstat(descriptor)
        .ok()
        .map(|stat| (stat.st_dev, stat.st_ino));
    named.is_some() && named == actual
}

/// Changes what is written while the daemon runs.
#[derive(Clone)]
pub struct LevelSwitch {
    filter: reload::Handle<EnvFilter, Layered>,
    directives: Option<String>,
}

impl std::fmt::Debug for LevelSwitch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let directives = &self.directives;
        f.debug_struct("LevelSwitch")
            .field("directives", directives)
            .finish_non_exhaustive()
    }
}

impl LevelSwitch {
    /// Takes the level of this configuration. Directives of the environment go before it, as at the start.
    pub fn set(&self, config: &Log) -> Result<(), LogError> {
        let filter = filter(config, self.directives.as_deref())?;
        self.filter.reload(filter).map_err(|source| LogError::Switch { source })
    }
}

/// What the filter is put on.
type Layered = tracing_subscriber::layer::Layered<Box<dyn Layer<Registry> + Send + Sync>, Registry>;

/// Sets up logging for the process. `directives` is the value of [`DIRECTIVES_VARIABLE`], which goes before the
/// configured level.
pub fn init(config: &Log, directives: Option<&str>) -> Result<LevelSwitch, LogError> {
    let (filter, handle) = reload::Layer::new(filter(config, directives)?);
    let look = Surroundings::read().look(config.format);
    let output = match (look, tracing_journald::layer()) {
        (Look::Journal, Ok(journal)) => journal
            .with_syslog_identifier(JOURNAL_IDENTIFIER.to_owned())
            .with_field_prefix(Some(JOURNAL_FIELD_PREFIX.to_owned()))
            .boxed(),
        (Look::Journal, Err(source)) if config.format == LogFormat::Journal => {
            return Err(LogError::Journal { source });
        }
        (Look::Journal, Err(_)) => lines(Look::Json, io::stderr),
        (look, _) => lines(look, io::stderr),
    };
    tracing_subscriber::registry()
        .with(output)
        .with(filter)
        .try_init()
        .map_err(|source| LogError::Twice { source })?;
    Ok(LevelSwitch {
        filter: handle,
        directives: directives.map(str::to_owned),
    })
}

fn filter(config: &Log, directives: Option<&str>) -> Result<EnvFilter, LogError> {
    let directives = directives.map(str::trim).filter(|text| !text.is_empty());
    let text = directives.unwrap_or(config.level.name());
    EnvFilter::try_new(text).map_err(|error| LogError::Directives {
        directives: text.to_owned(),
        reason: error.to_string(),
    })
}

/// One line for each event.
fn lines<W>(look: Look, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match look {
        Look::Human { colour } => layer
            .with_ansi(colour)
            .fmt_fields(debug_fn(write_field).delimited(" "))
            .boxed(),
        Look::Json | Look::Journal => layer.json().flatten_event(true).boxed(),
    }
}

/// `name=value` on one line, whatever the value holds.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn std::fmt::Debug) -> std::fmt::Result {
    let text = format!("{value:?}");
    let shown = profiler_profile::visible(&text, MAX_VALUE_BYTES);
    // An empty text is told from a name that is missing.
    let shown = if text.is_empty() { "\"\"".into() } else { shown };
    match field.name() {
        "message" => writer.write_str(&shown),
        name => write!(writer, "{name}={shown}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use profiler_config::LogLevel;

    use super::*;

    const INFO: Log = Log {
        format: LogFormat::Auto,
        level: LogLevel::Info,
    };

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written for some events.
    fn written(look: Look, filter: EnvFilter, events: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::registry()
            .with(lines(look, move || writer.clone()))
            .with(filter);
        tracing::subscriber::with_default(subscriber, events);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    fn hostile() {
        let name = "x\n2030-01-01 ERROR forged\x1b[2J\u{202e}";
        tracing::info!(name, %name, other = ?name, "a process said {name}");
    }

    #[test]
    fn a_hostile_name_stays_on_its_line() {
        for colour in [false, true] {
            let text = written(Look::Human { colour }, filter(&INFO, None).unwrap(), hostile);
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(!text.contains("\x1b[2J") && !text.contains('\u{202e}'), "{text:?}");
            assert!(text.contains("a process said x\\n2030"), "{text:?}");
        }
        let text = written(Look::Json, filter(&INFO, None).unwrap(), hostile);
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(
            text.contains(r#""message":"a process said x\n2030"#) && !text.contains('\x1b'),
            "{text:?}"
        );
    }

    #[test]
    fn directives_go_before_the_level() {
        let events = || {
            tracing::debug!("quiet");
            tracing::warn!("loud");
        };
        let lines = |directives| {
            written(Look::Json, filter(&INFO, directives).unwrap(), events)
                .lines()
                .count()
        };
        assert_eq!(lines(None), 1);
        assert_eq!(lines(Some(" ")), 1);
        assert_eq!(lines(Some("error,profiler_daemon=debug")), 2);
        assert_eq!(lines(Some("off")), 0);
        let error = filter(&INFO, Some("info,x=loud")).unwrap_err();
        assert!(error.to_string().contains("x=loud"), "{error}");
    }

    #[test]
    fn the_look_follows_what_listens() {
        let terminal = Surroundings {
            is_terminal: true,
            ..Surroundings::default()
        };
        let journal = Surroundings {
            is_journal: true,
            ..Surroundings::default()
        };
        let colourless = Surroundings {
            no_colour: true,
            ..terminal
        };
        for (surroundings, format, expected) in [
            (Surroundings::default(), LogFormat::Auto, Look::Json),
            (terminal, LogFormat::Auto, Look::Human { colour: true }),
            (colourless, LogFormat::Auto, Look::Human { colour: false }),
            (journal, LogFormat::Auto, Look::Journal),
            (journal, LogFormat::Json, Look::Json),
            (journal, LogFormat::Human, Look::Human { colour: false }),
            (terminal, LogFormat::Json, Look::Json),
            (terminal, LogFormat::Journal, Look::Journal),
        ] {
            assert_eq!(surroundings.look(format), expected, "{format:?} in {surroundings:?}");
        }
    }

    #[test]
    fn the_journal_is_known_by_its_stream() {
        let file = tempfile::tempfile().unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let is = |text: String| is_stream(OsStr::new(&text), &file);
        assert!(is(format!("{}:{}", stat.st_dev, stat.st_ino)));
        assert!(!is(format!("{}:{}", stat.st_dev, stat.st_ino + 1)));
        assert!(!is("x:y".to_owned()) && !is("1".to_owned()) && !is(String::new()));
    }
}
