//! From the sources of a configuration to what they mean together.

use std::{
    ffi::OsString,
    ops::Range,
    path::{Path, PathBuf},
};

use crate::{
    Config, ConfigError, ConfigErrors, Origin,
    limits::{self, Locate},
    sinks,
    written::{SECTIONS, TOP_KEYS, Written},
};

/// Every environment variable that sets a key begins so.
const ENVIRONMENT_PREFIX: &str = "PROFILER_";

/// A configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// What to call it in messages.
    pub path: PathBuf,
    /// What it holds.
    pub contents: Vec<u8>,
}

/// One key set from outside of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Where it was set.
    pub origin: Origin,
    /// `section.key`, or a key outside of sections.
    pub key: String,
    /// A value of TOML, or the bare text of a string.
    pub value: String,
}

impl Setting {
    /// A key set by a flag.
    pub fn from_flag(flag: &str, key: &str, value: &str) -> Self {
        Self {
            origin: Origin::Flag { flag: flag.to_owned() },
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }
}

/// Where a configuration comes from. Later sources override earlier ones: the defaults, the files in their order, the
/// environment, the flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Files, the least important first.
    pub files: Vec<SourceFile>,
    /// Settings of the environment.
    pub environment: Vec<Setting>,
    /// Settings of the command line.
    pub flags: Vec<Setting>,
}

impl Sources {
    /// Takes from the environment what sets a key of the configuration: `PROFILER_STATE_DIR`, and `PROFILER_`, the name
    /// of a section, `_` and a key. Other variables are left alone, also those that only begin with `PROFILER_`: they
    /// belong to the command line.
    pub fn add_environment(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) {
        let found = variables.into_iter().filter_map(|(variable, value)| {
            let variable = variable.into_string().ok()?;
            let key = key_of_variable(&variable)?;
            // What is no UTF-8 becomes a value that no key takes for right without a look.
            let value = value.to_string_lossy().into_owned();
            Some(Setting {
                origin: Origin::Environment { variable },
                key,
                value,
            })
        });
        self.environment.extend(found);
        self.environment.sort_by(|a, b| a.key.cmp(&b.key));
    }

    /// What all sources mean together, or every mistake in them.
    pub fn resolve(&self) -> Result<Config, ConfigErrors> {
        let mut config = Config::default();
        let mut errors = Vec::new();
        let (mut limits, mut sinks) = (limits::Drafts::of_defaults(), sinks::Drafts::of_defaults());
        let mut apply = |written: Result<Written, ConfigError>, locate: Locate<'_>| -> Result<(), ConfigError> {
            let mut written = written?;
            limits.add(std::mem::take(&mut written.limits), locate)?;
            sinks.add(std::mem::take(&mut written.sinks), locate)?;
            written.apply(&mut config);
            Ok(())
        };
        for file in &self.files {
            let locate = |span: Range<usize>| at(&file.path, &file.contents, span.start);
            errors.extend(apply(parse_file(file), &locate).err());
        }
        for setting in self.environment.iter().chain(&self.flags) {
            errors.extend(apply(parse_setting(setting), &|_| setting.origin.clone()).err());
        }
        // Of what is read only in part, more mistakes would be seen than there are.
        if errors.is_empty() {
            config.sinks = right(sinks.finish(), &mut errors);
            config.limits = right(limits.finish(&config.sinks), &mut errors);
            errors.extend(contradiction(&config));
            errors.extend(crate::tcp::contradiction(&config.tcp));
        }
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(errors))
        }
    }
}

impl Config {
    /// The whole configuration as TOML: reading it gives an equal one.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(&Written::from(self))
    }
}

/// `PROFILER_SAMPLING_HZ` is `sampling.hz`.
fn key_of_variable(variable: &str) -> Option<String> {
    let name = variable.strip_prefix(ENVIRONMENT_PREFIX)?.to_ascii_lowercase();
    if TOP_KEYS.contains(&name.as_str()) {
        return Some(name);
    }
    let (section, key) = name.split_once('_')?;
    (SECTIONS.contains(&section) && !key.is_empty()).then(|| format!("{section}.{key}"))
}

fn parse_file(file: &SourceFile) -> Result<Written, ConfigError> {
    let text = std::str::from_utf8(&file.contents).map_err(|error| ConfigError {
        origin: at(&file.path, &file.contents, error.valid_up_to()),
        problem: "not UTF-8".to_owned(),
    })?;
    toml::from_str(text).map_err(|error| ConfigError {
        origin: at(&file.path, &file.contents, error.span().map_or(0, |span| span.start)),
        problem: on_one_line(error.message()),
    })
}

fn at(path: &Path, contents: &[u8], offset: usize) -> Origin {
    let before = contents.get(..offset).unwrap_or(contents);
    Origin::File {
        path: path.to_path_buf(),
        line: 1 + before.iter().filter(|&&byte| byte == b'\n').count(),
    }
}

/// A value that is meant as text need not be quoted, so it is tried as text first.
fn parse_setting(setting: &Setting) -> Result<Written, ConfigError> {
    let quoted = toml::Value::String(setting.value.clone()).to_string();
    let as_text = match parse_key(&setting.key, &quoted) {
        Ok(written) => return Ok(written),
        Err(error) => error,
    };
    let is_one_value = format!("value = {}", setting.value)
        .parse::<toml::Table>()
        .is_ok_and(|table| table.len() == 1);
    let error = if is_one_value {
        match parse_key(&setting.key, &setting.value) {
            Ok(written) => return Ok(written),
            Err(error) => error,
        }
    } else {
        as_text
    };
    Err(ConfigError {
        origin: setting.origin.clone(),
        problem: on_one_line(error.message()),
    })
}

fn parse_key(key: &str, value: &str) -> Result<Written, toml::de::Error> {
    toml::from_str(&format!("{key} = {value}"))
}

/// Messages of the parser may span lines, and quote what was written.
fn on_one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for character in message.trim().chars() {
        match character {
            '\n' => line.push_str("; "),
            character if character.is_control() => line.extend(character.escape_unicode()),
            character => line.push(character),
        }
    }
    line
}

/// What is right; the rest is told.
fn right<T>(parts: Vec<Result<T, ConfigError>>, errors: &mut Vec<ConfigError>) -> Vec<T> {
    let keep = |part: Result<T, ConfigError>| part.map_err(|error| errors.push(error)).ok();
    parts.into_iter().filter_map(keep).collect()
}

/// What is right by itself and wrong together.
fn contradiction(config: &Config) -> Option<ConfigError> {
    let (read, act) = (&config.api.read_group, &config.api.act_group);
    (!read.is_empty() && read == act).then(|| ConfigError {
        origin: Origin::Combination,
        problem: format!(
            "api.read_group and api.act_group are both \"{read}\": whoever may read could also act; \
             name two groups, or leave one empty"
        ),
    })
}
