//! What a census has counted.

use std::sync::Arc;

use crate::sample::new_addresses;

/// Objects of one type, or of several types of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeCount {
    /// With the module for classes of programs. It comes from the process: escape it for every output.
    pub name: Arc<str>,
    /// Objects.
    pub objects: u64,
    /// Bytes of the blocks that they are in.
    pub bytes: u64,
    /// A few of their addresses, in an order that two censuses share.
    pub(crate) sample: Vec<u64>,
}

impl TypeCount {
    /// A count without addresses, as it is kept in files.
    pub fn new(name: impl Into<Arc<str>>, objects: u64, bytes: u64) -> Self {
        Self {
            name: name.into(),
            objects,
            bytes,
            sample: Vec::new(),
        }
    }

    /// A few of the objects that are new since an earlier census, as far as that can be told by the few that each keeps. Without
    /// an earlier count all are.
    pub fn new_since(&self, earlier: Option<&Self>) -> Vec<u64> {
        match earlier {
            Some(earlier) if earlier.sample.is_empty() && earlier.objects > 0 => Vec::new(),
            Some(earlier) => new_addresses(&earlier.sample, &self.sample),
            None => self.sample.clone(),
        }
    }
}

/// The objects of a heap at one time: of pools that were in use and were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// By bytes, the most first.
    pub types: Vec<TypeCount>,
    /// Blocks of objects whose type is beyond [`MAX_TYPES`](crate::MAX_TYPES), and their bytes; among them may be some of no object.
    pub further_objects: u64,
    /// Their bytes.
    pub further_bytes: u64,
    /// Blocks that hold no object: tables of dicts, items of lists, buffers.
    pub other_blocks: u64,
    /// Their bytes.
    pub other_bytes: u64,
    /// Pools that were counted.
    pub pools: u64,
    /// Pools that changed while they were read, and were not counted.
    pub torn_pools: u64,
}

impl Census {
    /// Objects of all types.
    pub fn objects(&self) -> u64 {
        let known = self.types.iter().map(|count| count.objects);
        known.fold(self.further_objects, u64::saturating_add)
    }

    /// Their bytes.
    pub fn object_bytes(&self) -> u64 {
        let known = self.types.iter().map(|count| count.bytes);
        known.fold(self.further_bytes, u64::saturating_add)
    }

    /// The count of a type.
    pub fn of(&self, name: &str) -> Option<&TypeCount> {
        self.types.iter().find(|count| &*count.name == name)
    }
}
