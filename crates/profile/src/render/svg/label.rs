//! What fits on a bar: the whole name, a short one, or its beginning.

use std::borrow::Cow;

/// Width of a character of the monospaced font, for its size of 12.
pub(super) const CHARACTER_PIXELS: f64 = 7.23;
/// Free room at both ends of a bar.
pub(super) const PADDING_PIXELS: f64 = 6.0;
/// Below this, no text is put on a bar.
pub(super) const MIN_CHARACTERS: usize = 3;

/// Text for a bar of this width: the full name if it fits, else the short one, else the beginning of its last part.
pub(super) fn fitted<'a>(full: &'a str, short: &'a str, bar_pixels: f64) -> Option<Cow<'a, str>> {
    let room = ((bar_pixels - PADDING_PIXELS) / CHARACTER_PIXELS).max(0.0) as usize;
    if room < MIN_CHARACTERS {
        return None;
    }
    let last = short.rfind("::").map_or(short, |position| &short[position + 2..]);
    let fits = [full, short, last].into_iter().find(|text| columns(text) <= room);
    fits.map(Cow::Borrowed)
        .or_else(|| Some(Cow::Owned(beginning(last, room))))
}

/// Columns that a text takes: characters outside of Latin scripts may take two.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(character_columns).sum()
}

/// The beginning of a text in so many columns, with a mark that it goes on.
pub(super) fn beginning(text: &str, room: usize) -> String {
    let mut columns = 1;
    let fits = |character: &char| {
        columns += character_columns(*character);
        columns <= room
    };
    let mut cut: String = text.chars().take_while(fits).collect();
    cut.push('…');
    cut
}

fn character_columns(character: char) -> usize {
    if character < '\u{1100}' || matches!(character, '\u{2000}'..='\u{2bff}') {
        1
    } else {
        2
    }
}

/// The type and the function of a Rust or C++ path, without generics, parameters and the modules they are in:
/// `Vec::push` of `<alloc::vec::Vec<T, A> as some::Trait>::push`. None if that is the whole name.
pub(super) fn short(name: &str) -> Option<String> {
    let segments = segments(name);
    let (last, before) = segments.split_last()?;
    let last = plain(last);
    let short = match before.last() {
        Some(before) => format!("{}::{last}", plain(before)),
        None => last.to_owned(),
    };
    (!short.is_empty() && short.len() < name.len()).then_some(short)
}

/// The parts of a path between `::`, up to the parameters; those that are only generic arguments are left out.
fn segments(name: &str) -> Vec<&str> {
    let bytes = name.as_bytes();
    let (mut depth, mut start, mut index) = (0_usize, 0, 0);
    let mut segments = Vec::new();
    let mut push = |segment: &'_ [u8], range: std::ops::Range<usize>| {
        // Of `foo::<T>::bar`, but not the type of `<T as U>::bar`.
        let only_generics = range.start > 0 && segment.first() == Some(&b'<');
        if !segment.is_empty() && !only_generics {
            segments.push(&name[range]);
        }
    };
    while index < bytes.len() {
        match bytes[index] {
            // Parameters of a C++ function; `(anonymous namespace)` is a segment of its own.
            b'(' if depth == 0 && index > start => break,
            b'<' | b'(' | b'[' | b'{' => depth += 1,
            b'>' if index > 0 && bytes[index - 1] == b'-' => {}
            b'>' | b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b':' if depth == 0 && bytes.get(index + 1) == Some(&b':') => {
                push(&bytes[start..index], start..index);
                index += 1;
                start = index + 1;
            }
            _ => {}
        }
        index += 1;
    }
    push(&bytes[start..index], start..index);
    segments
}

/// A segment without generics; of a qualified one (`<some::Type<T> as Trait>`) the type's own name.
fn plain(segment: &str) -> &str {
    let Some(inner) = segment.strip_prefix('<') else {
        return match segment.find('<') {
            Some(position) if position > 0 && !segment.starts_with("operator") => &segment[..position],
            _ => segment,
        };
    };
    let inner = inner.strip_suffix('>').unwrap_or(inner);
    let inner = inner.split(" as ").next().unwrap_or(inner);
    let inner = inner.trim_start_matches(['&', '*']);
    let inner = inner
        .strip_prefix("mut ")
        .or_else(|| inner.strip_prefix("dyn "))
        .unwrap_or(inner);
    let inner = match inner.find('<') {
        Some(position) if position > 0 => &inner[..position],
        _ => inner,
    };
    inner.rsplit("::").next().unwrap_or(inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_names() {
        for (name, expected) in [
            ("main", None),
            ("web::main", None),
            (
                "tokio::runtime::task::harness::poll_future",
                Some("harness::poll_future"),
            ),
            ("alloc::vec::Vec<T,A>::push", Some("Vec::push")),
            (
                "<alloc::vec::Vec<T, A> as core::iter::Extend<&u8>>::extend",
                Some("Vec::extend"),
            ),
            ("<&mut R as std::io::Read>::read", Some("R::read")),
            ("<[u8; 4] as core::fmt::Debug>::fmt", Some("[u8; 4]::fmt")),
            (
                "core::ops::function::FnOnce::call_once{{vtable.shim}}",
                Some("FnOnce::call_once{{vtable.shim}}"),
            ),
            ("web::serve::{{closure}}", Some("serve::{{closure}}")),
            ("web::parse::<u32>", Some("web::parse")),
            ("std::map<int, std::string>::find(int const&)", Some("map::find")),
            ("(anonymous namespace)::work(int)", Some("(anonymous namespace)::work")),
            ("ns::Type::operator==(ns::Type const&) const", Some("Type::operator==")),
            (
                "a::b::Type::operator<(a::b::Type const&)",
                Some("Type::operator<(a::b::Type const&)"),
            ),
            ("libfoo.so.1+0x1234", None),
            ("core::map::<fn() -> u8>::call", Some("map::call")),
        ] {
            assert_eq!(short(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn what_fits() {
        let (full, shortened) = ("alloc::vec::Vec<T,A>::push", "Vec::push");
        let text = |pixels| fitted(full, shortened, pixels);
        assert_eq!(text(300.0).as_deref(), Some(full));
        assert_eq!(text(100.0).as_deref(), Some("Vec::push"));
        assert_eq!(text(40.0).as_deref(), Some("push"));
        assert_eq!(text(30.0).as_deref(), Some("pu…"));
        assert_eq!(text(20.0), None);
        assert_eq!(text(-1.0), None);
        assert_eq!(beginning("日本語", 5), "日本…");
    }

    proptest! {
        #[test]
        fn any_name_is_cut_safely(name in "[a-zü<>:(){}\\[\\] &;*\\-]{0,40}", pixels in 0.0..400.0_f64) {
            let shortened = short(&name);
            prop_assert!(shortened.as_ref().is_none_or(|short| !short.is_empty() && short.len() < name.len()));
            if let Some(text) = fitted(&name, shortened.as_deref().unwrap_or(&name), pixels) {
                prop_assert!(columns(&text) as f64 * CHARACTER_PIXELS <= pixels);
            }
        }
    }
}
