//! `config check`: configuration files, without the daemon, and what their limits come to. `config show`: what the daemon runs with.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use profiler_config::{
    Config, ConfigErrors, DEFAULT_DIRECTORY, LimitRule, Origin, ReadError, SourceFile, Sources, read_default_files,
    read_file,
};
use profiler_proto::v1::GetConfigResponse;
use serde::Serialize;

use crate::{
    args::{ConfigVerb, Connection},
    commands::connect,
    error::{CliError, FAILURE},
    output::{BAD_STYLE, printable, write_json},
};

/// Most bytes shown of one mistake, or of a file's path.
const MAX_LINE_BYTES: usize = 2_000;

/// Checks or shows.
pub(crate) async fn run(connection: &Connection, verb: &ConfigVerb) -> Result<ExitCode, CliError> {
    match verb {
        ConfigVerb::Check { file, json } => check(file.as_deref(), *json),
        ConfigVerb::Show { effective, json } => {
            let response = connect(connection).await?.get_config().await?;
            show(&response, *effective, *json)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Reads the files as the daemon would, and reports every mistake, or what the limits do.
fn check(file: Option<&Path>, json: bool) -> Result<ExitCode, CliError> {
    let files = match file {
        Some(path) => read_file(path).map(|file| vec![file]),
        None => read_default_files(Path::new(DEFAULT_DIRECTORY)),
    }
    .map_err(unreadable)?;
    let sources = Sources {
        files,
        ..Sources::default()
    };
    let (limits, errors) = match sources.resolve() {
        Ok(config) => (config.limits, Vec::new()),
        Err(ConfigErrors(errors)) => (Vec::new(), errors),
    };
    let code = if errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    };
    if json {
        let names = sources.files.iter().map(path_of).collect();
        let errors = errors
            .iter()
            .map(|error| Mistake::new(&error.origin, &error.problem))
            .collect();
        let limits = limits.iter().map(ExplainedLimit::new).collect();
        write_json(&CheckDocument {
            files: names,
            errors,
            limits,
        })?;
        return Ok(code);
    }
    let mut mistakes = anstream::stderr().lock();
    for error in &errors {
        let line = error.to_string();
        writeln!(
            mistakes,
            "{BAD_STYLE}error:{BAD_STYLE:#} {}",
            printable(&line, MAX_LINE_BYTES)
        )?;
    }
    let mut out = anstream::stdout().lock();
    if sources.files.is_empty() {
        writeln!(
            out,
            "no configuration in {DEFAULT_DIRECTORY}: the defaults are in force"
        )?;
    }
    if errors.is_empty() {
        for file in &sources.files {
            writeln!(out, "{}: valid", printable(&path_of(file), MAX_LINE_BYTES))?;
        }
        write_limits(&mut out, &limits)?;
    }
    Ok(code)
}

/// Each limit in a sentence, then those that are switched off.
fn write_limits(out: &mut impl io::Write, limits: &[LimitRule]) -> io::Result<()> {
    writeln!(out, "\nlimits:")?;
    let (enabled, disabled): (Vec<&LimitRule>, Vec<&LimitRule>) = limits.iter().partition(|rule| rule.enabled);
    for rule in enabled {
        writeln!(out, "  {}", printable(&rule.limit.explain(), MAX_LINE_BYTES))?;
    }
    for rule in disabled {
        writeln!(out, "  {}: switched off", printable(&rule.limit.name, MAX_LINE_BYTES))?;
    }
    Ok(())
}

fn path_of(file: &SourceFile) -> String {
    file.path.display().to_string()
}

fn unreadable(error: ReadError) -> CliError {
    match error {
        ReadError::Io { path, source } => CliError::ReadFile { path, source },
        ReadError::NotAFile { ref path } | ReadError::TooLarge { ref path } | ReadError::TooMany { ref path } => {
            CliError::ReadFile {
                path: path.clone(),
                source: io::Error::other(error.to_string()),
            }
        }
    }
}

fn show(response: &GetConfigResponse, effective: bool, json: bool) -> Result<(), CliError> {
    let toml = if effective {
        response.toml.clone()
    } else {
        changed(&response.toml)?
    };
    if json {
        return write_json(&ShowDocument {
            files: &response.files,
            settings: toml.parse::<toml::Table>()?,
        });
    }
    let mut out = anstream::stdout().lock();
    for file in &response.files {
        writeln!(out, "# read: {}", printable(file, MAX_LINE_BYTES))?;
    }
    if response.files.is_empty() {
        writeln!(out, "# no file was read")?;
    }
    if !effective && toml.is_empty() {
        writeln!(out, "# every setting has its default; --effective shows them")?;
    }
    // Strings of TOML hold no control characters unescaped; whole lines are made safe all the same.
    for line in toml.lines() {
        writeln!(out, "{}", printable(line, MAX_LINE_BYTES))?;
    }
    Ok(())
}

/// The settings that differ from this program's defaults, as TOML.
fn changed(effective: &str) -> Result<String, CliError> {
    let mut settings: toml::Table = effective.parse()?;
    let defaults = Config::default().to_toml().unwrap_or_default();
    remove_equal(&mut settings, &defaults.parse()?);
    Ok(settings.to_string())
}

fn remove_equal(settings: &mut toml::Table, defaults: &toml::Table) {
    settings.retain(|key, value| match (value, defaults.get(key)) {
        (toml::Value::Table(section), Some(toml::Value::Table(defaults))) => {
            remove_equal(section, defaults);
            !section.is_empty()
        }
        (value, default) => Some(&*value) != default,
    });
}

#[derive(Serialize)]
struct CheckDocument {
    files: Vec<String>,
    errors: Vec<Mistake>,
    limits: Vec<ExplainedLimit>,
}

#[derive(Serialize)]
struct ExplainedLimit {
    name: String,
    enabled: bool,
    explanation: String,
}

impl ExplainedLimit {
    fn new(rule: &LimitRule) -> Self {
        Self {
            name: rule.limit.name.clone(),
            enabled: rule.enabled,
            explanation: rule.limit.explain(),
        }
    }
}

#[derive(Serialize)]
struct Mistake {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    problem: String,
}

impl Mistake {
    fn new(origin: &Origin, problem: &str) -> Self {
        let (file, line) = match origin {
            Origin::File { path, line } => (Some(path.display().to_string()), Some(*line)),
            Origin::Environment { .. } | Origin::Flag { .. } | Origin::Combination => (None, None),
        };
        Self {
            file,
            line,
            problem: problem.to_owned(),
        }
    }
}

#[derive(Serialize)]
struct ShowDocument<'a> {
    files: &'a [String],
    settings: toml::Table,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_left_out() {
        let defaults = Config::default().to_toml().unwrap();
        assert_eq!(changed(&defaults).unwrap(), "");
        let mut settings: toml::Table = defaults.parse().unwrap();
        settings["sampling"]["hz"] = toml::Value::Integer(997);
        settings.insert(
            "new_section".to_owned(),
            toml::Value::Table(toml::Table::from_iter([("key".to_owned(), true.into())])),
        );
        let shown: toml::Table = changed(&settings.to_string()).unwrap().parse().unwrap();
        let expected: toml::Table = "[sampling]\nhz = 997\n[new_section]\nkey = true\n".parse().unwrap();
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_no_toml_is_an_error() {
        assert!(changed("= =").unwrap_err().to_string().contains("not valid"));
    }
}
