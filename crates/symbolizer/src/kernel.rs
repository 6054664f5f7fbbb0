//! Names of kernel code, from the text of `/proc/kallsyms`.

use std::collections::HashMap;

/// Longest line that is looked at; the kernel's own limit for a name is 512.
const LONGEST_LINE: usize = 1024;
/// Symbols that are kept; kernels with every driver loaded stay below 400,000.
const MAX_SYMBOLS: usize = 1 << 20;
/// Bytes of names that are kept.
const MAX_NAME_BYTES: usize = 64 << 20;
/// Modules that are told apart.
const MAX_MODULES: usize = u16::MAX as usize;
/// How far the last symbol of a module reaches: the text does not say where the module ends.
const LAST_SYMBOL_REACH: u64 = 16 << 10;

/// Why there are no names for kernel code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelSymbolsError {
    /// The kernel hides addresses from this process.
    #[error(
        "the kernel shows no addresses in /proc/kallsyms ({symbols} symbols, all at zero): CAP_SYSLOG is missing, or \
         kernel.kptr_restrict is 2"
    )]
    Hidden {
        /// Symbols listed.
        symbols: usize,
    },
    /// There is no text symbol at all.
    #[error("/proc/kallsyms lists no text symbols: the kernel was built without CONFIG_KALLSYMS")]
    Empty,
    /// The list is longer than any real one.
    #[error("/proc/kallsyms lists more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much is accepted.
        limit: usize,
    },
}

/// A function of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelSymbol<'a> {
    /// Its name.
    pub name: &'a str,
    /// The module that it belongs to, `None` for the kernel itself.
    pub module: Option<&'a str>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    address: u64,
    name_offset: u32,
    name_length: u16,
    /// 0 for the kernel itself, otherwise one more than the index of the module.
    module: u16,
}

/// The functions of the running kernel, sorted by address.
#[derive(Debug)]
pub struct KernelSymbols {
    entries: Box<[Entry]>,
    names: Box<str>,
    modules: Box<[Box<str>]>,
    text_end: u64,
}

impl KernelSymbols {
    /// Parses the whole text at once; [`KernelSymbolsBuilder`] takes it in parts.
    ///
    /// # Errors
    ///
    /// See [`KernelSymbolsError`].
    pub fn parse(text: &[u8]) -> Result<Self, KernelSymbolsError> {
        let mut builder = KernelSymbolsBuilder::default();
        builder.add(text)?;
        builder.build()
    }

    /// The function at an address.
    pub fn resolve(&self, runtime_address: u64) -> Option<KernelSymbol<'_>> {
        let after = self.entries.partition_point(|entry| entry.address <= runtime_address);
        let entry = self.entries[..after].last()?;
        if entry.module == 0 {
            if runtime_address >= self.text_end {
                return None;
            }
        } else {
            let next = self.entries.get(after).filter(|next| next.module == entry.module);
            if next.is_none() && runtime_address - entry.address >= LAST_SYMBOL_REACH {
                return None;
            }
        }
        let start = entry.name_offset as usize;
        let name = self.names.get(start..start + usize::from(entry.name_length))?;
        let module = entry
            .module
            .checked_sub(1)
            .and_then(|index| self.modules.get(usize::from(index)));
        Some(KernelSymbol {
            name,
            module: module.map(|module| &**module),
        })
    }

    /// Number of functions known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Memory that the table occupies.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.entries) + self.names.len()
    }
}

/// Builds [`KernelSymbols`] from the text of `/proc/kallsyms` in parts of any size.
#[derive(Debug, Default)]
pub struct KernelSymbolsBuilder {
    entries: Vec<Entry>,
    names: String,
    modules: Vec<Box<str>>,
    module_indices: HashMap<Box<str>, u16>,
    /// The start of a line whose end has not come yet.
    partial: Vec<u8>,
    /// Within a line that is too long to be looked at.
    skipping: bool,
    text_end: Option<u64>,
    text_symbols: usize,
}

impl KernelSymbolsBuilder {
    /// Adds the next part of the text.
    ///
    /// # Errors
    ///
    /// [`KernelSymbolsError::TooMany`] when there are more symbols than any kernel has.
    pub fn add(&mut self, text: &[u8]) -> Result<(), KernelSymbolsError> {
        for part in text.split_inclusive(|byte| *byte == b'\n') {
            let (line, complete) = match part.strip_suffix(b"\n") {
                Some(line) => (line, true),
                None => (part, false),
            };
            if self.partial.len() + line.len() > LONGEST_LINE {
                self.skipping = true;
            }
            if self.skipping {
                self.partial.clear();
                self.skipping = !complete;
            } else if complete && self.partial.is_empty() {
                self.add_line(line)?;
            } else {
                self.partial.extend_from_slice(line);
                if complete {
                    let line = std::mem::take(&mut self.partial);
                    self.add_line(&line)?;
                }
            }
        }
        Ok(())
    }

    /// The finished table.
    ///
    /// # Errors
    ///
    /// [`KernelSymbolsError::Hidden`] or [`KernelSymbolsError::Empty`] when there is nothing to name code with.
    pub fn build(mut self) -> Result<KernelSymbols, KernelSymbolsError> {
        let line = std::mem::take(&mut self.partial);
        self.add_line(&line)?;
        if self.entries.is_empty() {
            return Err(match self.text_symbols {
                0 => KernelSymbolsError::Empty,
                symbols => KernelSymbolsError::Hidden { symbols },
            });
        }
        let text_end = self.text_end.unwrap_or(u64::MAX);
        // What lies behind the end of the kernel's text is code that was freed after boot.
        self.entries
            .retain(|entry| entry.module != 0 || entry.address < text_end);
        if self.entries.is_empty() {
            return Err(KernelSymbolsError::Empty);
        }
        // Stable: of several names for an address the first listed stays.
        self.entries.sort_by_key(|entry| entry.address);
        self.entries.dedup_by_key(|entry| entry.address);
        Ok(KernelSymbols {
            entries: self.entries.into_boxed_slice(),
            names: self.names.into_boxed_str(),
            modules: self.modules.into_boxed_slice(),
            text_end,
        })
    }

    /// `ffffffff81000000 T name`, and for a module `\t[module]` behind it.
    fn add_line(&mut self, line: &[u8]) -> Result<(), KernelSymbolsError> {
        let Ok(line) = std::str::from_utf8(line) else {
            return Ok(());
        };
        let mut fields = line.split_ascii_whitespace();
        let (Some(address), Some(kind), Some(name)) = (fields.next(), fields.next(), fields.next()) else {
            return Ok(());
        };
        let Ok(address) = u64::from_str_radix(address, 16) else {
            return Ok(());
        };
        if name == "_etext" && address != 0 {
            self.text_end = Some(address);
            return Ok(());
        }
        if !matches!(kind, "t" | "T" | "w" | "W") {
            return Ok(());
        }
        self.text_symbols += 1;
        if address == 0 {
            return Ok(());
        }
        if self.entries.len() >= MAX_SYMBOLS {
            return Err(KernelSymbolsError::TooMany {
                what: "symbols",
                limit: MAX_SYMBOLS,
            });
        }
        if self.names.len() + name.len() > MAX_NAME_BYTES {
            return Err(KernelSymbolsError::TooMany {
                what: "bytes of names",
                limit: MAX_NAME_BYTES,
            });
        }
        let module = fields
            .next()
            .and_then(|module| module.strip_prefix('[')?.strip_suffix(']'));
        let module = module.map_or(Ok(0), |module| self.module_index(module))?;
        let name_offset = self.names.len() as u32;
        self.names.push_str(name);
        self.entries.push(Entry {
            address,
            name_offset,
            name_length: name.len() as u16,
            module,
        });
        Ok(())
    }

    fn module_index(&mut self, module: &str) -> Result<u16, KernelSymbolsError> {
        if let Some(index) = self.module_indices.get(module) {
            return Ok(*index);
        }
        if self.modules.len() >= MAX_MODULES {
            return Err(KernelSymbolsError::TooMany {
                what: "modules",
                limit: MAX_MODULES,
            });
        }
        self.modules.push(module.into());
        let index = self.modules.len() as u16;
        self.module_indices.insert(module.into(), index);
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &[u8] = b"\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000100 T do_syscall_64
ffffffff81000200 t local.cold
ffffffff81000300 W weak_one
ffffffff81000400 D data_in_text
ffffffff81001000 T _etext
ffffffff82000000 t freed_after_boot
ffffffffc0001000 t nft_do_chain\t[nf_tables]
ffffffffc0001100 t nft_last\t[nf_tables]
ffffffffc0009000 t bpf_prog_6deef7357e7b4530\t[bpf]
";

    #[track_caller]
    fn check(address: u64, expected: Option<(&str, Option<&str>)>) {
        let symbols = KernelSymbols::parse(SAMPLE).unwrap();
        assert_eq!(
            symbols.resolve(address).map(|symbol| (symbol.name, symbol.module)),
            expected
        );
    }

    #[test]
    fn text_is_named() {
        check(0xffff_ffff_8100_0000, Some(("_stext", None)));
        check(0xffff_ffff_8100_01ff, Some(("do_syscall_64", None)));
        check(0xffff_ffff_8100_0200, Some(("local.cold", None)));
        check(0xffff_ffff_8100_0fff, Some(("weak_one", None)));
    }

    #[test]
    fn modules_are_named() {
        check(0xffff_ffff_c000_10ff, Some(("nft_do_chain", Some("nf_tables"))));
        check(0xffff_ffff_c000_1100, Some(("nft_last", Some("nf_tables"))));
        check(0xffff_ffff_c000_9010, Some(("bpf_prog_6deef7357e7b4530", Some("bpf"))));
    }

    #[test]
    fn what_is_not_text_is_not_named() {
        check(0, None);
        check(0xffff_ffff_80ff_ffff, None);
        check(0xffff_ffff_8100_1000, None);
        check(0xffff_ffff_8200_0000, None);
        check(0xffff_ffff_c000_1100 + LAST_SYMBOL_REACH, None);
        check(u64::MAX, None);
    }

    #[test]
    fn hidden_addresses_are_an_error_of_their_own() {
        let error = KernelSymbols::parse(b"0000000000000000 T _stext\n0000000000000000 T _etext\n").unwrap_err();
        assert_eq!(error, KernelSymbolsError::Hidden { symbols: 2 });
        assert!(error.to_string().contains("CAP_SYSLOG"));
        assert_eq!(KernelSymbols::parse(b"").unwrap_err(), KernelSymbolsError::Empty);
    }

    #[test]
    fn nothing_but_freed_code_is_an_error() {
        let text = b"ffffffff81001000 T _etext\nffffffff82000000 t freed_after_boot\n";
        assert_eq!(KernelSymbols::parse(text).unwrap_err(), KernelSymbolsError::Empty);
    }

    #[test]
    fn lines_that_are_too_long_are_passed_over() {
        let mut text = b"ffffffff81000000 T ".to_vec();
        text.extend(vec![b'a'; LONGEST_LINE]);
        text.extend_from_slice(b"\nffffffff81000010 T short\n");
        let symbols = KernelSymbols::parse(&text).unwrap();
        assert_eq!(symbols.len(), 1);
        assert_eq!(symbols.resolve(0xffff_ffff_8100_0011).unwrap().name, "short");
    }

    /// The names of this machine's own kernel, as far as it shows them.
    #[test]
    fn own_kernel() {
        let text = std::fs::read("/proc/kallsyms").unwrap_or_default();
        match KernelSymbols::parse(&text) {
            Ok(symbols) => {
                assert!(symbols.len() > 1000);
                for line in std::str::from_utf8(&text)
                    .unwrap()
                    .lines()
                    .filter(|line| line.contains(" T vfs_read"))
                {
                    let address = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
                    assert!(symbols.resolve(address + 1).unwrap().name.starts_with("vfs_read"));
                }
            }
            Err(error) => println!("skipped: {error}"),
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in proptest::collection::vec(any::<u8>(), 0..2000), address: u64) {
            if let Ok(symbols) = KernelSymbols::parse(&text) {
                symbols.resolve(address);
            }
        }

        /// However the text is cut into parts, and in whatever order the lines come, the names are the same.
        #[test]
        fn parts_and_order_do_not_matter(
            starts in proptest::collection::btree_map(0x1000_u64..0x9000, (0..4_usize, "[a-z_.]{1,20}"), 1..60),
            cuts in proptest::collection::vec(1..40_usize, 1..50),
            reversed: bool,
        ) {
            let modules = ["", "\t[one]", "\t[two]", "\t[three]"];
            let mut lines: Vec<_> = starts
                .iter()
                .map(|(address, (module, name))| format!("{address:016x} t {name}{}\n", modules[*module]))
                .collect();
            if reversed {
                lines.reverse();
            }
            let text = lines.concat();
            let whole = KernelSymbols::parse(text.as_bytes()).unwrap();
            let mut builder = KernelSymbolsBuilder::default();
            let mut rest = text.as_bytes();
            for cut in cuts.iter().cycle() {
                let (part, left) = rest.split_at((*cut).min(rest.len()));
                builder.add(part).unwrap();
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            let parts = builder.build().unwrap();
            prop_assert_eq!(whole.len(), starts.len());
            for (address, (module, name)) in &starts {
                let found = whole.resolve(*address).unwrap();
                prop_assert_eq!(found.name, name);
                prop_assert_eq!(found.module.unwrap_or(""), ["", "one", "two", "three"][*module]);
                prop_assert_eq!(parts.resolve(*address), Some(found));
            }
        }
    }
}
