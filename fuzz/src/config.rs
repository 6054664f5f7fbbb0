//! Any bytes as the sources of a configuration, apart by zeros: two files, then settings `KEY=VALUE` of the environment
//! and of flags by turns.

use std::{ffi::OsString, path::PathBuf};

use profiler_config::{Config, Origin, Pattern, Setting, SourceFile, Sources};

/// Settings of one input: each is read as up to three texts.
const MAX_SETTINGS: usize = 6;
/// Longest name that a pattern is held against.
const LONGEST_NAME: usize = 256;

/// Runs one input.
pub fn run(data: &[u8]) {
    let sources = sources(data);
    match sources.resolve() {
        Ok(config) => check_sound(&config),
        Err(errors) => {
            assert!(!errors.0.is_empty());
            for error in &errors.0 {
                assert!(!error.problem.contains(char::is_control), "{error:?}");
                if let Origin::File { path, line } = &error.origin {
                    let file = sources.files.iter().find(|file| file.path == *path);
                    let lines = file.map_or(0, |file| file.contents.split(|byte| *byte == b'\n').count());
                    assert!((1..=lines).contains(line), "{error:?}");
                }
            }
        }
    }
    check_pattern(data);
}

fn sources(data: &[u8]) -> Sources {
    let mut parts = data.split(|byte| *byte == 0);
    let files = ["/etc/a.toml", "/etc/b.toml"].into_iter().zip(parts.by_ref().take(2));
    let mut sources = Sources {
        files: files
            .map(|(path, contents)| SourceFile {
                path: PathBuf::from(path),
                contents: contents.to_vec(),
            })
            .collect(),
        ..Sources::default()
    };
    for (index, part) in parts.take(MAX_SETTINGS).enumerate() {
        let text = String::from_utf8_lossy(part);
        let (key, value) = text.split_once('=').unwrap_or((&text, ""));
        if index % 2 == 0 {
            sources.add_environment([(OsString::from(key), OsString::from(value))]);
        } else {
            sources.flags.push(Setting::from_flag("--flag", key, value));
        }
    }
    sources
}

/// What is meant can be written down and read again.
fn check_sound(config: &Config) {
    let Ok(text) = config.to_toml() else {
        panic!("{config:?} cannot be written")
    };
    let written = Sources {
        files: vec![SourceFile {
            path: PathBuf::from("/etc/written.toml"),
            contents: text.clone().into_bytes(),
        }],
        ..Sources::default()
    };
    match written.resolve() {
        Ok(read) => assert_eq!(read, *config),
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

/// Matching takes no more than a moment, whatever the pattern.
fn check_pattern(data: &[u8]) {
    let (pattern, name) = data.split_at(data.len() / 3);
    let Ok(pattern) = Pattern::new(&String::from_utf8_lossy(pattern)) else {
        return;
    };
    let name = &name[..name.len().min(LONGEST_NAME)];
    pattern.matches(name, name);
    if !pattern.as_str().contains(['*', '?', '/']) {
        assert!(pattern.matches(b"/x", pattern.as_str().as_bytes()));
    }
}
