//! Rust source with comments and the contents of literals blanked out, so that rules see code alone.

/// Replaces comments and the contents of string and character literals by spaces. Lines and columns stay.
pub(super) fn code_of(source: &str) -> String {
    let mut scanner = Scanner {
        rest: source,
        code: String::with_capacity(source.len()),
    };
    while !scanner.rest.is_empty() {
        scanner.step();
    }
    scanner.code
}

/// Whether `line` holds `word` with no letter, digit or underscore on either side.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    find_word(line, word).is_some()
}

/// Where `word` starts in `text`, as a whole word.
pub(super) fn find_word(text: &str, word: &str) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .map(|(at, _)| at)
        .find(|&at| !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part))
}

struct Scanner<'a> {
    rest: &'a str,
    code: String,
}

impl Scanner<'_> {
    /// Consumes one literal, comment, identifier or character.
    fn step(&mut self) {
        let rest = self.rest;
        if rest.starts_with("//") {
            self.blank(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.blank(block_comment_len(rest));
        } else if let Some(len) = string_len(rest) {
            self.blank(len);
        } else if let Some(len) = char_len(rest) {
            self.blank(len);
        } else {
            // An identifier is taken whole, so that the `r` at its end does not open a raw string.
            let word = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let first = rest.chars().next().map_or(0, char::len_utf8);
            self.keep(word.max(first));
        }
    }

    fn keep(&mut self, len: usize) {
        let (kept, rest) = self.rest.split_at(len);
        self.code.push_str(kept);
        self.rest = rest;
    }

    fn blank(&mut self, len: usize) {
        let (blanked, rest) = self.rest.split_at(len);
        self.code
            .extend(blanked.chars().map(|c| if c == '\n' { c } else { ' ' }));
        self.rest = rest;
    }
}

/// Length of the block comment that `text` starts with; they nest.
fn block_comment_len(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(next) = text[at..].find(['/', '*']).map(|offset| at + offset) {
        if text[next..].starts_with("/*") {
            depth += 1;
            at = next + 2;
        } else if text[next..].starts_with("*/") {
            depth -= 1;
            at = next + 2;
            if depth == 0 {
                return at;
            }
        } else {
            at = next + 1;
        }
    }
    text.len()
}

/// Length of the string literal that `text` starts with, prefix and quotes included.
fn string_len(text: &str) -> Option<usize> {
    let prefix = ["\"", "b\"", "c\""].into_iter().find(|prefix| text.starts_with(prefix));
    if let Some(prefix) = prefix {
        return Some(prefix.len() + escaped_len(&text[prefix.len()..], '"'));
    }
    let after_prefix = ["r", "br", "cr"].into_iter().find_map(|prefix| {
        let after = text.strip_prefix(prefix)?;
        after.trim_start_matches('#').starts_with('"').then_some(after)
    })?;
    let hashes = after_prefix.len() - after_prefix.trim_start_matches('#').len();
    let content = &after_prefix[hashes + 1..];
    let end = format!("\"{}", "#".repeat(hashes));
    let len = content.find(&end).map_or(content.len(), |at| at + end.len());
    Some(text.len() - content.len() + len)
}

/// Length of the character literal that `text` starts with; a lifetime is none.
fn char_len(text: &str) -> Option<usize> {
    let content = text.strip_prefix('\'')?;
    if content.starts_with('\\') {
        return Some(1 + escaped_len(content, '\''));
    }
    let first = content.chars().next()?.len_utf8();
    content[first..].starts_with('\'').then_some(1 + first + 1)
}

/// Length up to and with the first `quote` that no backslash escapes.
fn escaped_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, code: &str) {
        assert_eq!(code_of(source), code);
        assert_eq!(source.lines().count(), code.lines().count());
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        check("a // b\nc", "a     \nc");
        check("a /* b /* c */ d\n */ e", "a               \n    e");
        check("f(\"a\\\"b\", c)", "f(      , c)");
        check("f(r#\"a\"b\"#, c)", "f(        , c)");
        check("f(br\"a\\\", c)", "f(      , c)");
        check("f('\\'', 'é', b)", "f(    ,    , b)");
    }

    #[test]
    fn lifetimes_and_identifiers_stay() {
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
        check("let for_ = number\"x\"", "let for_ = number   ");
        check("let r#type = 1", "let r#type = 1");
    }

    #[test]
    fn what_is_not_closed_ends_with_the_file() {
        for source in ["/* a", "\"a", "r#\"a\"", "'\\", "'", "\"\\"] {
            assert_eq!(code_of(source).len(), source.len(), "{source}");
        }
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("unsafe {", "unsafe"));
        assert!(has_word("x::aya::y", "aya"));
        assert!(!has_word("#![forbid(unsafe_code)]", "unsafe"));
        assert!(!has_word("layaway", "aya"));
        assert!(has_word("unsafe_code unsafe", "unsafe"));
    }
}
