//! What is kept of names from window to window, in as much memory as the budget leaves.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use crate::{budget, kernel, symbols::Symbols};

/// By what the caches are divided while they are to be small.
const SMALL: u64 = 4;

/// Names, and the only way to them: past the question whether their caches are of the right size.
#[derive(Debug)]
pub(super) struct Caches<'a> {
    settings: &'a profiler_config::Symbols,
    proc_root: &'a Path,
    stop: &'a Arc<AtomicBool>,
    are_small: bool,
    symbols: Option<Symbols>,
}

impl<'a> Caches<'a> {
    /// Caches of the configured size, which are made when names are first asked for. `proc_root` is where procfs is mounted; what
    /// has no name when `stop` is set stays without one.
    pub(super) fn new(settings: &'a profiler_config::Symbols, proc_root: &'a Path, stop: &'a Arc<AtomicBool>) -> Self {
        Self {
            settings,
            proc_root,
            stop,
            are_small: false,
            symbols: None,
        }
    }

    /// Names that are cached in as little memory as the budget wants. Where that has changed, all of them are found anew.
    pub(super) fn symbols(&mut self, budget: &budget::Board) -> &mut Symbols {
        if budget.wants_small_caches() != self.are_small {
            self.are_small = !self.are_small;
            // The old ones go before the new ones come.
            self.symbols = None;
            kernel::give_back_memory();
        }
        self.symbols.get_or_insert_with(|| {
            let settings = profiler_config::Symbols {
                cache_bytes: self.settings.cache_bytes / if self.are_small { SMALL } else { 1 },
                ..self.settings.clone()
            };
            Symbols::new(&settings, self.proc_root).until(self.stop)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::{
        stacks::{
            held_file::HeldFile,
            window::{CodeObject, CodeSource, Location},
        },
        symbols::tests::{SETTINGS, named, own_location},
    };

    /// A function of this program with a known name.
    #[inline(never)]
    fn kept() -> u64 {
        std::hint::black_box(11)
    }

    /// The same place in an object that passes for the same, and in which nothing can be found.
    fn in_blank_file(location: &Location) -> Location {
        let Location::Object { object, link_address } = location else {
            panic!("{location:?}");
        };
        let CodeSource::File { identity, .. } = &object.source else {
            panic!("{object:?}");
        };
        let blank: File = tempfile::tempfile().unwrap();
        let source = CodeSource::File {
            identity: *identity,
            descriptor: HeldFile::new(blank.into(), false),
            path: Box::default(),
        };
        Location::Object {
            object: Arc::new(CodeObject {
                name: Arc::clone(&object.name),
                is_interpreter: false,
                source,
            }),
            link_address: *link_address,
        }
    }

    #[test]
    fn what_is_cached_goes_when_caches_are_to_be_small_and_when_they_need_not_be_any_more() {
        assert_eq!(kept(), 11);
        let (budget, stop) = (budget::Board::default(), Arc::default());
        let mut caches = Caches::new(&SETTINGS, Path::new("/proc"), &stop);
        let here = own_location(kept as fn() -> u64 as usize);
        let blank = in_blank_file(&here);
        let mut is_known = |location: &Location| {
            let frames = named(caches.symbols(&budget), std::slice::from_ref(location));
            frames
                .iter()
                .any(|(_, function, _)| function.ends_with("caches::tests::kept"))
        };
        assert!(is_known(&here));
        assert!(is_known(&blank), "its names are cached");
        budget.set_small_caches(true);
        assert!(!is_known(&blank), "they are not cached any more");
        assert!(!is_known(&here), "that there are none is cached");
        budget.set_small_caches(false);
        assert!(is_known(&here));
    }
}
