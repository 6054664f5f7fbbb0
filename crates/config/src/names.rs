//! Names that users give to limits and sinks.

use crate::{ConfigError, Origin};

/// Longest name.
const MAX_NAME_BYTES: usize = 63;

/// Whether a limit or sink may be called so: its name goes into labels, files and addresses.
pub(crate) fn check_name(what: &str, name: &str, origin: &Origin) -> Result<(), ConfigError> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_word) && name.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    Err(ConfigError {
        origin: origin.clone(),
        problem: format!(
            "\"{}\" is no name of a {what}: lower-case letters, digits and _, a letter first, at most {MAX_NAME_BYTES}",
            name.escape_debug()
        ),
    })
}
