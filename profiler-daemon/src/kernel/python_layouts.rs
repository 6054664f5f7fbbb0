//! The layouts of Python interpreters in the kernel's map: slots shared by content.
//!
//! A slot is written before the first entry that names it, and given to another layout only when the last run of mappings
//! that it was entered with has been given back: by then no walk can read it.

use std::{collections::HashMap, os::fd::AsFd as _};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use profiler_common::python::{MAX_PYTHON_LAYOUTS, PythonLayout};
use zerocopy::IntoBytes as _;

use super::{
    load::{LoadError, take_map},
    sys::SharedMemory,
};

const MAP: &str = "PYTHON_LAYOUTS";

/// The index that stands for no layout.
pub(super) const NO_LAYOUT: u32 = 0;

/// The map and what is known of its use.
#[derive(Debug)]
pub(super) struct PythonLayouts {
    memory: SharedMemory,
    /// Kept open, so that its memory is seen among what the daemon holds.
    _map: MapData,
    slots: Slots,
}

impl PythonLayouts {
    /// Takes the map out of a loaded object.
    pub(super) fn new(object: &mut Ebpf) -> Result<Self, LoadError> {
        let Map::Array(map) = take_map(object, MAP)? else {
            return Err(LoadError::MissingMap { map: MAP });
        };
        let length = MAX_PYTHON_LAYOUTS as usize * size_of::<PythonLayout>();
        let memory =
            SharedMemory::map(map.fd().as_fd(), length).map_err(|source| LoadError::ShareMap { map: MAP, source })?;
        Ok(Self {
            memory,
            _map: map,
            slots: Slots::new(MAX_PYTHON_LAYOUTS),
        })
    }

    /// Index of a layout for one more user; [`NO_LAYOUT`] if all slots are in use.
    pub(super) fn take(&mut self, layout: &PythonLayout) -> u32 {
        let Some((slot, is_new)) = self.slots.take(layout) else {
            return NO_LAYOUT;
        };
        if is_new {
            let offset = slot as usize * size_of::<PythonLayout>();
            self.memory.write(offset, layout.as_bytes());
        }
        slot
    }

    /// Ends a use.
    pub(super) fn give_back(&mut self, slot: u32) {
        self.slots.give_back(slot);
    }
}

/// Who uses which index.
#[derive(Debug)]
struct Slots {
    by_layout: HashMap<PythonLayout, u32>,
    users: HashMap<u32, (PythonLayout, u32)>,
    free: Vec<u32>,
}

impl Slots {
    fn new(count: u32) -> Self {
        Self {
            by_layout: HashMap::new(),
            users: HashMap::new(),
            free: (NO_LAYOUT + 1..count).rev().collect(),
        }
    }

    /// The slot of a layout and whether it has to be written; `None` if there is no room.
    fn take(&mut self, layout: &PythonLayout) -> Option<(u32, bool)> {
        if let Some(&slot) = self.by_layout.get(layout) {
            self.users.entry(slot).or_insert((*layout, 0)).1 += 1;
            return Some((slot, false));
        }
        let slot = self.free.pop()?;
        self.by_layout.insert(*layout, slot);
        self.users.insert(slot, (*layout, 1));
        Some((slot, true))
    }

    fn give_back(&mut self, slot: u32) {
        let Some((layout, users)) = self.users.get_mut(&slot) else {
            return;
        };
        *users -= 1;
        if *users == 0 {
            self.by_layout.remove(layout);
            self.users.remove(&slot);
            self.free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(code_type: u64) -> PythonLayout {
        PythonLayout {
            code_type,
            ..PythonLayout::default()
        }
    }

    #[test]
    fn equal_layouts_share_a_slot_until_the_last_user_has_gone() {
        let mut slots = Slots::new(3);
        let (first, is_new) = slots.take(&layout(1)).unwrap();
        assert!(is_new && first != NO_LAYOUT);
        assert_eq!(slots.take(&layout(1)), Some((first, false)));
        let (second, _) = slots.take(&layout(2)).unwrap();
        assert_ne!(second, first);
        assert_eq!(slots.take(&layout(3)), None);
        slots.give_back(first);
        assert_eq!(slots.take(&layout(3)), None, "it is in use still");
        slots.give_back(first);
        assert_eq!(slots.take(&layout(3)), Some((first, true)));
        slots.give_back(NO_LAYOUT);
        assert_eq!(slots.take(&layout(2)), Some((second, false)));
    }
}
