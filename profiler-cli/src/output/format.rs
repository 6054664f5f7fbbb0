//! The formats of a profile: their names, file extensions and renderings.

use std::path::Path;

use clap::ValueEnum;
use profiler_profile::{Profile, render};

use crate::error::CliError;

/// A format of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A flame graph to look at, with search and zoom
    Svg,
    /// One line for each stack, root first: process;frame;frame count
    Folded,
    /// gzip-compressed pprof, for `go tool pprof` and others
    Pprof,
    /// For <https://www.speedscope.app>
    Speedscope,
    /// All that is known, quality included
    Json,
}

/// Endings of file names, the longer before the shorter that they end with. The first of a format is the one we give.
const EXTENSIONS: [(&str, Format); 9] = [
    (".svg", Format::Svg),
    (".folded", Format::Folded),
    (".txt", Format::Folded),
    (".collapsed", Format::Folded),
    (".pb.gz", Format::Pprof),
    (".pprof", Format::Pprof),
    (".pb", Format::Pprof),
    (".speedscope.json", Format::Speedscope),
    (".json", Format::Json),
];

impl Format {
    /// The format that a file's name speaks of; SVG if it has no extension.
    pub(crate) fn of_file(path: &Path) -> Result<Self, CliError> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_ascii_lowercase();
        if let Some((_, format)) = EXTENSIONS.iter().find(|(extension, _)| name.ends_with(extension)) {
            return Ok(*format);
        }
        if path.extension().is_none() {
            return Ok(Self::Svg);
        }
        let known: Vec<&str> = EXTENSIONS.iter().map(|(extension, _)| *extension).collect();
        Err(CliError::Usage {
            message: format!(
                "the name {} tells no format; give --format, or one of the extensions {}",
                path.display(),
                known.join(" ")
            ),
        })
    }

    /// The ending of the files that we name ourselves.
    pub(crate) fn extension(self) -> &'static str {
        EXTENSIONS
            .iter()
            .find(|(_, format)| *format == self)
            .map_or("", |(extension, _)| extension)
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Folded => "folded",
            Self::Pprof => "pprof",
            Self::Speedscope => "speedscope",
            Self::Json => "json",
        }
    }

    /// The profile in this format.
    pub(crate) fn render(self, profile: &Profile) -> Result<Vec<u8>, CliError> {
        let mut bytes = Vec::new();
        let result = match self {
            Self::Svg => render::svg::write(profile, &mut bytes),
            Self::Folded => render::folded::write(profile, &mut bytes),
            Self::Pprof => render::pprof::write(profile, &mut bytes),
            Self::Speedscope => render::speedscope::write(profile, &mut bytes),
            Self::Json => render::json::write(profile, &mut bytes),
        };
        match result {
            Ok(()) => Ok(bytes),
            Err(source) => Err(CliError::Render {
                format: self.name(),
                source: Box::new(source),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_tell_the_format() {
        for (name, expected) in [
            ("a.svg", Format::Svg),
            ("a.SVG", Format::Svg),
            ("dir.json/a", Format::Svg),
            ("/dev/stdout", Format::Svg),
            ("a.folded", Format::Folded),
            ("a.pb.gz", Format::Pprof),
            ("a.pprof", Format::Pprof),
            ("a.speedscope.json", Format::Speedscope),
            ("a.json", Format::Json),
        ] {
            assert_eq!(Format::of_file(Path::new(name)).unwrap(), expected, "{name}");
        }
        assert!(Format::of_file(Path::new("a.png")).is_err());
        assert!(Format::of_file(Path::new("a.gz")).is_err());
    }

    #[test]
    fn each_format_knows_its_own_extension() {
        for format in Format::value_variants() {
            let name = format!("a{}", format.extension());
            assert_eq!(Format::of_file(Path::new(&name)).unwrap(), *format);
            assert_eq!(format.to_possible_value().unwrap().get_name(), format.name());
        }
    }
}
