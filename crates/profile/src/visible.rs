//! Makes names from a target safe to show.
//!
//! Symbols, paths and process names are chosen by whoever wrote the target. They come out of here on one line, without
//! characters that steer a terminal, reorder text or cannot be seen, and no longer than asked. Markup is not dealt
//! with here: each format escapes what is special to itself.

use std::borrow::Cow;

/// Stands for a name that is empty.
const NO_NAME: &str = "[no name]";
/// Stands for the middle of a name that was cut.
const CUT: char = '…';

/// The name with control, reordering and invisible characters written as escapes, at most `max_bytes` long.
///
/// A longer one keeps its beginning and its end, where the function's own name is. An empty one becomes `[no name]`.
pub fn visible(name: &str, max_bytes: usize) -> Cow<'_, str> {
    if name.is_empty() {
        return Cow::Borrowed(NO_NAME);
    }
    let shortened = shorten(name, max_bytes);
    if !shortened.contains(is_hidden) {
        return shortened;
    }
    let mut escaped = String::with_capacity(shortened.len() + 16);
    for character in shortened.chars() {
        if is_hidden(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    // Escapes are longer than what they stand for.
    Cow::Owned(shorten(&escaped, max_bytes).into_owned())
}

/// Cuts the middle out of a text that is longer than `max_bytes`.
fn shorten(text: &str, max_bytes: usize) -> Cow<'_, str> {
    if text.len() <= max_bytes {
        return Cow::Borrowed(text);
    }
    let room = max_bytes.saturating_sub(CUT.len_utf8());
    let tail = room / 3;
    let head_end = text.floor_char_boundary(room - tail);
    let tail_start = text.ceil_char_boundary(text.len() - tail);
    Cow::Owned(format!("{}{CUT}{}", &text[..head_end], &text[tail_start..]))
}

/// Whether a character steers the output, reorders it or cannot be seen, or is no character of XML.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{fffe}'
                | '\u{ffff}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_borrowed() {
        let name = "<[u8; 4] as core::fmt::Debug>::fmt";
        assert!(matches!(visible(name, 100), Cow::Borrowed(shown) if shown == name));
        assert_eq!(visible("größe_計算", 100), "größe_計算");
    }

    #[test]
    fn hidden_characters_become_escapes() {
        assert_eq!(
            visible("a\nb\x1b[31m\u{202e}c\u{7f}\u{9b}", 100),
            "a\\nb\\u{1b}[31m\\u{202e}c\\u{7f}\\u{9b}"
        );
        assert_eq!(visible("\u{200b}", 100), "\\u{200b}");
        assert_eq!(visible("", 100), "[no name]");
    }

    #[test]
    fn long_names_keep_both_ends_and_the_bound() {
        let name = format!("start{}end", "ü".repeat(10_000));
        for max_bytes in [0, 1, 3, 4, 10, 100, 1_001] {
            let shown = visible(&name, max_bytes);
            assert!(
                shown.len() <= max_bytes.max(CUT.len_utf8()),
                "{max_bytes}: {}",
                shown.len()
            );
        }
        let shown = visible(&name, 100);
        assert!(shown.starts_with("start") && shown.ends_with("end"));
        assert!(visible(&"\u{1b}".repeat(10_000), 100).len() <= 100);
    }
}
