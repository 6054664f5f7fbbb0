//! Who holds the objects that are new.
//!
//! In: a few addresses of new objects, and all pools again, once a round. Out: for each type the chains of holders from the
//! outermost that could be found, such as the global of a module, to the objects. In a round the direct holders of what is looked
//! for are found, and of those the one that holds the most of it is looked for in the next.

mod containers;
mod path;

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use profiler_unwinding::python::ProcessMemory;

use crate::{
    Pool,
    dicts::Dicts,
    tally::{Object, object_in},
    types::{Kind, TypeTable},
    words::{is_address, word},
};
use containers::{Reference, items, references};

pub use path::{Holder, Holders, Step};

/// Types whose holders are searched at one time.
pub const MAX_SEARCHED_TYPES: usize = 3;
/// Objects of each type whose holders are searched.
const MAX_ADDRESSES: usize = 128;
/// Links of a chain at most, which is as many rounds.
const MAX_ROUNDS: usize = 8;
/// References noted in a round, and of them to one object.
const MAX_EDGES: usize = 1 << 16;
const MAX_EDGES_TO_ONE: u16 = 256;
/// Objects that are kept of all chains.
const MAX_NODES: usize = 1 << 13;
/// Bits of the filter before the table of what is looked for.
const FILTER_BITS: u64 = 1 << 16;

/// New objects of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The type.
    pub name: Arc<str>,
    /// Addresses of some of them.
    pub addresses: Vec<u64>,
}

/// What an object on a chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The object that a chain ends at; its type is known otherwise.
    Leaf,
    /// An object of this type.
    Object { found: usize, kind: Kind, items: u64 },
    /// A block that is no object, of so many bytes.
    Block { bytes: u64 },
}

/// A link of a chain.
#[derive(Clone, Debug)]
struct Node {
    address: u64,
    what: What,
    parent: Option<Link>,
    /// Objects that hang on it.
    weight: u32,
    /// Its holder is still to be found.
    is_open: bool,
    /// The dict of a module or a class: nothing needs to hold that.
    root: Option<path::Root>,
}

/// How an object is held.
#[derive(Clone, Copy, Debug)]
struct Link {
    by: usize,
    through: Reference,
}

/// A reference to something that is looked for.
#[derive(Clone, Copy, Debug)]
struct Edge {
    target: usize,
    holder: u64,
    what: What,
    through: Reference,
}

/// A search over several rounds.
#[derive(Clone, Debug)]
pub struct Search {
    table: TypeTable,
    wanted: Vec<Wanted>,
    /// Type and node of each object whose holders are searched.
    leaves: Vec<(usize, usize)>,
    nodes: Vec<Node>,
    known: HashMap<u64, usize>,
    targets: HashMap<u64, usize>,
    filter: Box<[u64]>,
    edges: Vec<Edge>,
    edges_to: Vec<u16>,
    rounds: usize,
}

impl Search {
    /// A search for the holders of these objects.
    pub fn new(table: TypeTable, mut wanted: Vec<Wanted>) -> Self {
        wanted.truncate(MAX_SEARCHED_TYPES);
        let mut search = Self {
            table,
            wanted: Vec::new(),
            leaves: Vec::new(),
            nodes: Vec::new(),
            known: HashMap::new(),
            targets: HashMap::new(),
            filter: vec![0; (FILTER_BITS / 64) as usize].into(),
            edges: Vec::new(),
            edges_to: Vec::new(),
            rounds: 0,
        };
        for (of, wanted) in wanted.iter_mut().enumerate() {
            wanted.addresses.truncate(MAX_ADDRESSES);
            for address in &wanted.addresses {
                let node = search.node(*address, What::Leaf);
                search.nodes[node].weight += 1;
                search.leaves.push((of, node));
            }
        }
        search.wanted = wanted;
        search.aim();
        search
    }

    /// Whether another round may find more.
    pub fn goes_on(&self) -> bool {
        self.rounds < MAX_ROUNDS && !self.targets.is_empty()
    }

    /// Looks through a pool, given all its bytes. One that is torn is left out.
    pub fn add_pool(&mut self, memory: &(impl ProcessMemory + ?Sized), pool: &Pool, bytes: &[u8]) {
        let Some(blocks) = pool.blocks(bytes) else { return };
        let dicts = Dicts {
            interpreter: *self.table.interpreter(),
            memory,
        };
        for (address, block) in blocks {
            if self.edges.len() >= MAX_EDGES {
                return;
            }
            let (holder, what) = match object_in(&mut self.table, memory, block) {
                Object::At(found, beginning) => {
                    let kind = self.table.types[found].kind();
                    let object = &block[beginning..];
                    let items = items(kind, object);
                    let holder = address.wrapping_add(beginning as u64);
                    let what = What::Object { found, kind, items };
                    if kind == Kind::Weak {
                        continue;
                    }
                    references(&dicts, kind, object, |reference| self.note(holder, what, reference));
                    (holder, what)
                }
                Object::None | Object::Further => {
                    let bytes = pool.block_bytes();
                    (address, What::Block { bytes })
                }
            };
            for at in (0..block.len()).step_by(8) {
                let Some(to) = word(block, at) else { break };
                let at = address.wrapping_add(at as u64);
                self.note(holder, what, Reference { to, at, key: 0 });
            }
        }
    }

    /// Ends a round: each object that was looked for gets its holder, and those are looked for next.
    pub fn end_round(&mut self, memory: &(impl ProcessMemory + ?Sized)) {
        self.rounds += 1;
        let edges = std::mem::take(&mut self.edges);
        let mut weights: HashMap<u64, u32> = HashMap::new();
        let mut counted: HashSet<(u64, usize)> = HashSet::new();
        for edge in &edges {
            if counted.insert((edge.holder, edge.target)) {
                *weights.entry(edge.holder).or_default() += self.nodes[edge.target].weight;
            }
        }
        let mut by_target: HashMap<usize, Vec<Edge>> = HashMap::new();
        for edge in edges {
            by_target.entry(edge.target).or_default().push(edge);
        }
        let mut open: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].is_open).collect();
        // The order of a table must not decide who is held by whom.
        open.sort_unstable();
        for target in open {
            self.nodes[target].is_open = false;
            let mut candidates = by_target.remove(&target).unwrap_or_default();
            candidates.sort_by_key(|edge| {
                let is_block = matches!(edge.what, What::Block { .. });
                (is_block, Reverse(weights.get(&edge.holder).copied()), edge.holder)
            });
            for edge in candidates {
                if self.link(memory, target, &edge) {
                    break;
                }
            }
        }
        self.aim();
    }

    /// What was found.
    pub fn finish(self, memory: &(impl ProcessMemory + ?Sized)) -> Vec<Holders> {
        path::describe(&self, memory)
    }

    fn note(&mut self, holder: u64, what: What, reference: Reference) {
        let mut to = reference.to;
        // 3.12 marks the address of an instance's values.
        if to & 7 == 7 && self.table.interpreter().minor == 12 {
            to = to.wrapping_add(1);
        }
        let (place, bit) = place(to);
        if self.filter[place] & bit == 0 || !is_address(to) || self.edges.len() >= MAX_EDGES {
            return;
        }
        let Some(target) = self.targets.get(&to).copied() else {
            return;
        };
        let is_own = self.nodes[target].address == holder;
        if is_own || self.edges_to[target] >= MAX_EDGES_TO_ONE {
            return;
        }
        self.edges_to[target] += 1;
        self.edges.push(Edge {
            target,
            holder,
            what,
            through: Reference { to, ..reference },
        });
    }

    /// Hangs an object on a holder, unless it would hang on itself.
    fn link(&mut self, memory: &(impl ProcessMemory + ?Sized), target: usize, edge: &Edge) -> bool {
        let is_new = !self.known.contains_key(&edge.holder);
        if is_new && self.nodes.len() >= MAX_NODES {
            return false;
        }
        let by = self.node(edge.holder, edge.what);
        let above = self.above(by);
        if above.contains(&target) {
            return false;
        }
        let weight = self.nodes[target].weight;
        for node in above {
            self.nodes[node].weight = self.nodes[node].weight.saturating_add(weight);
        }
        let through = edge.through;
        self.nodes[target].parent = Some(Link { by, through });
        if is_new && let What::Object { kind: Kind::Dict, .. } = edge.what {
            self.nodes[by].root = path::root_of(&self.table, memory, edge.holder);
            self.nodes[by].is_open = self.nodes[by].root.is_none();
        }
        true
    }

    /// A node and those that it hangs on.
    fn above(&self, from: usize) -> Vec<usize> {
        let mut above = vec![from];
        let mut next = self.nodes[from].parent;
        while let Some(link) = next.filter(|_| above.len() < MAX_NODES) {
            above.push(link.by);
            next = self.nodes[link.by].parent;
        }
        above
    }

    fn node(&mut self, address: u64, what: What) -> usize {
        if let Some(node) = self.known.get(&address) {
            let known = &mut self.nodes[*node];
            // It was looked for before it was met.
            if known.what == What::Leaf {
                known.what = what;
            }
            return *node;
        }
        let node = self.nodes.len();
        self.nodes.push(Node {
            address,
            what,
            parent: None,
            weight: 0,
            is_open: true,
            root: None,
        });
        self.known.insert(address, node);
        node
    }

    /// Sets what the next round looks for.
    fn aim(&mut self) {
        self.targets.clear();
        self.filter.fill(0);
        self.edges_to = vec![0; self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_open) {
            let bytes = match node.what {
                What::Block { bytes } => bytes,
                // An instance with a dict and no collector is looked for by itself only.
                What::Leaf | What::Object { .. } => 8,
            };
            for offset in (0..bytes).step_by(8) {
                let address = node.address.wrapping_add(offset);
                self.targets.insert(address, index);
                let (place, bit) = place(address);
                self.filter[place] |= bit;
            }
        }
    }
}

/// Where the filter has an address.
fn place(address: u64) -> (usize, u64) {
    let bit = (address >> 3 ^ address >> 19) % FILTER_BITS;
    ((bit / 64) as usize, 1 << (bit % 64))
}
