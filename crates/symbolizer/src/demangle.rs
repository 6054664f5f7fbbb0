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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mangled: &str, expected: &str) {
        assert_eq!(demangle(mangled.as_bytes()), expected);
    }

    #[test]
    fn rust_legacy_loses_its_hash() {
        check(
            "_ZN4core3fmt9Formatter3pad17h0123456789abcdefE",
            "core::fmt::Formatter::pad",
        );
        check(
            "_ZN71_$LT$Test$u20$$u2b$$u20$$u27$static$u20$as$u20$foo..Bar$LT$Test$GT$$GT$3bar17h930b740aa94f1d3aE",
            "<Test + 'static as foo::Bar<Test>>::bar",
        );
        check(
            "_ZN4core3ptr4drop17h0123456789abcdefE.llvm.1234567890",
            "core::ptr::drop",
        );
    }

    #[test]
    fn rust_v0() {
        check("_RNvNtNtC7mycrate3foo3bar3baz", "mycrate::foo::bar::baz");
        check("_RINvNtC3std3mem8align_ofjEC3foo", "std::mem::align_of::<usize>");
        check("_RNCNvCs1234_7mycrate4main0", "mycrate::main::{closure#0}");
    }

    #[test]
    fn cpp_has_parameters_and_no_return_type() {
        check("_ZN5space3fooEibc", "space::foo(int, bool, char)");
        check("_Z5twiceIiET_S0_", "twice<int>(int)");
        check("_ZN6shapes5ShapeC2Ei", "shapes::Shape::Shape(int)");
        check("_ZN3fooEv.isra.0", "foo() [clone .isra.0]");
    }

    #[test]
    fn other_names_stay() {
        for name in [
            "main",
            "_start",
            "_Z",
            "_ZN",
            "_R",
            "__libc_start_call_main",
            "<script>",
            "a\u{1b}[31m\n",
        ] {
            check(name, name);
        }
        assert_eq!(demangle(b"bad\xffbyte"), "bad\u{fffd}byte");
    }

    #[test]
    fn long_names_stay() {
        let long = format!("_ZN{}{}Ev", LONGEST_MANGLED, "a".repeat(LONGEST_MANGLED));
        check(&long, &long);
    }

    /// Substitutions that double the type at each step: 2^40 names when written out.
    #[test]
    fn exponential_names_stay() {
        let mut name = "_Z1fP1aSt4pairIS0_S0_E".to_owned();
        for step in 1..40 {
            // Each step adds two substitutions: the template and the type.
            let substitution = in_base_36(2 * step);
            name.push_str(&format!("St4pairIS{substitution}_S{substitution}_E"));
        }
        check(&name, &name);
    }

    fn in_base_36(value: u32) -> String {
        [value / 36, value % 36]
            .into_iter()
            .skip_while(|digit| *digit == 0)
            .filter_map(|digit| char::from_digit(digit, 36))
            .map(|digit| digit.to_ascii_uppercase())
            .collect()
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(tail in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), prefix in 0..4_usize) {
            let mut name = [&b""[..], b"_Z", b"_R", b"_ZN"][prefix].to_vec();
            name.extend(tail);
            proptest::prop_assert!(demangle(&name).len() <= LONGEST_DEMANGLED);
        }

        #[test]
        fn any_grammar_is_survived(tail in "[NSTIEPRKLJFDCtdsvijxclmbf0-9_a]{0,400}", prefix in 0..3_usize) {
            let name = format!("{}{tail}", ["_Z", "_R", "_ZN"][prefix]);
            proptest::prop_assert!(demangle(name.as_bytes()).len() <= LONGEST_DEMANGLED);
        }
    }
}
