//! Names for services that the host does not tell apart by itself.

use std::borrow::Cow;

use profiler_hooks::glob_anywhere;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::pattern::{Pattern, Patterns};

/// Longest name of a service: the longest name of a file.
const MAX_NAME_BYTES: usize = 255;
/// Longest pattern.
const MAX_PATTERN_BYTES: usize = 256;
/// Patterns of one kind in one service.
const MAX_PATTERNS: usize = 64;
/// Services with names: each is held against every new process.
const MAX_SERVICES: usize = 256;
/// Bytes of a command line that patterns are held against.
const MAX_COMMAND_LINE_BYTES: usize = 4096;

/// A service and what its processes are known by. Of each kind of pattern that is given, one must fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedService {
    name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    executables: Vec<Pattern>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    units: Vec<TextPattern>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    command_lines: Vec<TextPattern>,
}

/// What is known of a process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessFacts<'a> {
    /// Path of its executable, as the process sees it.
    pub executable: &'a [u8],
    /// Its systemd service, or the id of its container.
    pub unit: Option<&'a str>,
    /// Its arguments with a space between them.
    pub command_line: &'a str,
}

impl NamedService {
    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the command line of a process must be known to tell.
    pub fn needs_command_line(&self) -> bool {
        !self.command_lines.is_empty()
    }

    /// Whether a process belongs to it.
    pub fn fits(&self, process: ProcessFacts<'_>) -> bool {
        let command_line = process.command_line.as_bytes();
        let command_line = &command_line[..command_line.len().min(MAX_COMMAND_LINE_BYTES)];
        let is_any = |patterns: &[TextPattern], text: &[u8]| {
            patterns.is_empty() || patterns.iter().any(|pattern| glob_anywhere(&pattern.0, text))
        };
        let is_executable = |pattern: &Pattern| pattern.matches(process.executable, b"");
        (self.executables.is_empty() || self.executables.iter().any(is_executable))
            && is_any(&self.units, process.unit.unwrap_or_default().as_bytes())
            && is_any(&self.command_lines, command_line)
    }
}

impl<'de> Deserialize<'de> for NamedService {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, rename = "service")]
        struct Written {
            name: String,
            executables: Option<Patterns>,
            units: Option<Vec<TextPattern>>,
            command_lines: Option<Vec<TextPattern>>,
        }
        let written = Written::deserialize(deserializer)?;
        let service = Self {
            name: written.name,
            executables: written.executables.map(|patterns| patterns.0).unwrap_or_default(),
            units: written.units.unwrap_or_default(),
            command_lines: written.command_lines.unwrap_or_default(),
        };
        let name = &service.name;
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
            return Err(D::Error::custom(format_args!(
                "expected a name of a service, of 1 to {MAX_NAME_BYTES} bytes"
            )));
        }
        let counts = [
            service.executables.len(),
            service.units.len(),
            service.command_lines.len(),
        ];
        if counts.iter().any(|count| *count > MAX_PATTERNS) {
            return Err(D::Error::custom(format_args!(
                "service {name:?} has more than {MAX_PATTERNS} patterns of one kind"
            )));
        }
        if counts == [0; 3] {
            return Err(D::Error::custom(format_args!(
                "service {name:?} says nothing of its processes: expected executables, units or command_lines"
            )));
        }
        Ok(service)
    }
}

/// Held against a text as a whole: `?` stands for one byte, `*` for any number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct TextPattern(String);

impl<'de> Deserialize<'de> for TextPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        if text.is_empty() || text.len() > MAX_PATTERN_BYTES || text.contains(char::is_control) {
            return Err(D::Error::custom(format_args!(
                "expected a pattern of 1 to {MAX_PATTERN_BYTES} bytes; `?` and `*` are placeholders"
            )));
        }
        Ok(Self(text.into_owned()))
    }
}

/// A list of services, the first that fits goes before the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Services(pub(crate) Vec<NamedService>);

impl<'de> Deserialize<'de> for Services {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let services = Vec::<NamedService>::deserialize(deserializer)?;
        if services.len() > MAX_SERVICES {
            let expected = format!("at most {MAX_SERVICES} services");
            return Err(D::Error::invalid_length(services.len(), &expected.as_str()));
        }
        Ok(Self(services))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(written: &str, (executable, unit, command_line): (&str, Option<&str>, &str), expected: bool) {
        let service: NamedService = toml::from_str(written).unwrap();
        let facts = ProcessFacts {
            executable: executable.as_bytes(),
            unit,
            command_line,
        };
        assert_eq!(service.fits(facts), expected, "{written} {facts:?}");
    }

    #[test]
    fn of_each_kind_that_is_given_one_pattern_fits() {
        let worker = ("/usr/bin/python3.11", None, "python3 -m billing.worker /srv/queue");
        check(
            "name = \"b\"\ncommand_lines = [\"x\", \"* -m billing.* *\"]",
            worker,
            true,
        );
        check("name = \"b\"\ncommand_lines = [\"* -m billing\"]", worker, false);
        check("name = \"b\"\nexecutables = [\"python3*\"]", worker, true);
        check(
            "name = \"b\"\nexecutables = [\"/usr/**\"]\ncommand_lines = [\"*worker*\"]",
            worker,
            true,
        );
        check(
            "name = \"b\"\nexecutables = [\"/opt/**\"]\ncommand_lines = [\"*worker*\"]",
            worker,
            false,
        );
        check(
            "name = \"b\"\nunits = [\"*\"]\nexecutables = [\"python3*\"]",
            worker,
            true,
        );
        check("name = \"b\"\nunits = [\"?*\"]", worker, false);
        let unit = ("/srv/web", Some("web-3.service"), "");
        check("name = \"b\"\nunits = [\"web-?.service\"]", unit, true);
        check(
            "name = \"b\"\nunits = [\"web-?.service\"]\ncommand_lines = [\"?*\"]",
            unit,
            false,
        );
    }

    #[test]
    fn what_names_no_service() {
        for (written, part) in [
            ("executables = [\"x\"]", "name"),
            ("name = \"\"\nexecutables = [\"x\"]", "1 to 255"),
            ("name = \"a\\u001b\"\nunits = [\"x\"]", "1 to 255"),
            ("name = \"a\"", "says nothing"),
            ("name = \"a\"\nunits = []", "says nothing"),
            ("name = \"a\"\nunits = [\"\"]", "1 to 256"),
            ("name = \"a\"\nexecutables = [\"usr/x\"]", "slash"),
            ("name = \"a\"\nunit = [\"x\"]", "unit"),
        ] {
            let error = toml::from_str::<NamedService>(written).unwrap_err().to_string();
            assert!(error.contains(part), "{written}: {error}");
        }
    }
}
