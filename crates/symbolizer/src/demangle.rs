//! Names as the compiler wrote them to names as the programmer did.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};

/// Longest name that is demangled. Nested substitutions make the work and the result grow faster than the name.
const LONGEST_MANGLED: usize = 4 << 10;
/// Longest demangled name; a longer one stays mangled.
const LONGEST_DEMANGLED: usize = 16 << 10;
/// Nesting of types in C++ names; real ones stay below 50.
const DEEPEST_NESTING: u32 = 96;

/// The readable form of a symbol's name: Rust (v0 and legacy, without its hash) and C++ (without return types). Any other
/// name, and any that is malformed or too long to be demangled safely, is returned as it is; bytes that are not UTF-8 are replaced.
///
/// Control characters pass through: whoever prints the name escapes it for its medium.
pub fn demangle(name: &[u8]) -> String {
    if name.len() <= LONGEST_MANGLED {
        if let Some(text) = std::str::from_utf8(name).ok().and_then(demangle_rust) {
            return text;
        }
        if let Some(text) = demangle_cpp(name) {
            return text;
        }
    }
    String::from_utf8_lossy(name).into_owned()
}

fn demangle_rust(name: &str) -> Option<String> {
    let demangled = rustc_demangle::try_demangle(name).ok()?;
    let mut text = Bounded::default();
    write!(text, "{demangled:#}").ok()?;
    if name.trim_start_matches('_').starts_with("ZN") {
        // C++ shares the form, but for the hash that ends every legacy Rust name and that the alternate format leaves out.
        let mut with_hash = Bounded::default();
        write!(with_hash, "{demangled}").ok()?;
        if with_hash.text == text.text {
            return None;
        }
    }
    Some(text.text)
}

fn demangle_cpp(name: &[u8]) -> Option<String> {
    if !name.starts_with(b"_Z") && !name.starts_with(b"__Z") {
        return None;
    }
    let parse_options = ParseOptions::default().recursion_limit(DEEPEST_NESTING);
    let symbol = Symbol::new_with_options(name, &parse_options).ok()?;
    let options = DemangleOptions::new().no_return_type().recursion_limit(DEEPEST_NESTING);
    let mut text = Bounded::default();
    symbol.structured_demangle(&mut text, &options).ok()?;
    Some(text.text)
}

/// Text that refuses to grow beyond [`LONGEST_DEMANGLED`].
#[derive(Default)]
struct Bounded {
    text: String,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if self.text.len() + part.len() > LONGEST_DEMANGLED {
            return Err(fmt::Error);
        }
        self.text.push_str(part);
        Ok(())
    }
}
