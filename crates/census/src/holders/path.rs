//! Chains of holders in words.

use std::{cmp::Reverse, collections::HashMap, fmt, sync::Arc};

use profiler_unwinding::python::ProcessMemory;

use super::{Link, Node, Search, What};
use crate::{
    dicts::Dicts,
    names::of_key,
    tally::full_name,
    types::{DICT, Kind, TypeTable},
};

/// Steps shown of a chain: objects that are looked for may hold each other.
const MAX_STEPS: usize = 12;
/// Chains shown of one type.
const MAX_HOLDERS: usize = 3;
/// Entries of a dict among which those are looked for that every module, and every class, has.
const MARKS_WITHIN: u64 = 12;
/// Offset of `tp_dictoffset`.
const DICT_OFFSET: u64 = 288;
/// Words before an object where its dict, or before 3.13 its values, may be.
const MANAGED_DICT: u64 = 24;
const MANAGED_VALUES: u64 = 32;
/// Shown for a key that is no short text.
const UNNAMED: &str = "?";

/// A dict that is held by what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Root {
    Module(String),
    Class(String),
}

/// A part of a chain, the outermost first. Names come from the process: escape them for every output.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A global variable.
    Global {
        /// Its module.
        module: String,
        /// Its name.
        name: String,
    },
    /// An attribute of a class.
    ClassAttribute {
        /// The class.
        class: String,
        /// The attribute.
        name: String,
    },
    /// An attribute of an instance.
    Attribute {
        /// The class of the instance.
        class: String,
        /// The attribute.
        name: String,
    },
    /// A list, tuple, dict, set or deque.
    Container {
        /// Its type.
        kind: String,
        /// How many items it has.
        items: u64,
    },
    /// Another object.
    Object {
        /// Its type.
        kind: String,
    },
    /// Memory of the allocator that is no object.
    Block,
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global { module, name } => write!(out, "module {module}, global {name}"),
            Self::ClassAttribute { class, name } => write!(out, "class {class}, attribute {name}"),
            Self::Attribute { class, name } => write!(out, "instance of {class}, attribute {name}"),
            Self::Container { kind, items } => write!(out, "{kind} of {items} items"),
            Self::Object { kind } => write!(out, "instance of {kind}"),
            Self::Block => write!(out, "memory that is no object"),
        }
    }
}

/// A chain by which objects are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// From the outermost holder that was found to the direct one. Of containers that are alike, the largest is shown.
    pub steps: Vec<Step>,
    /// Of the objects looked for, those that hang on it.
    pub objects: u32,
    /// It begins at a module or a class. Otherwise what holds the outermost was not found: a local variable, C code, or an object
    /// larger than is seen.
    pub is_rooted: bool,
}

/// Who holds the new objects of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    /// The type.
    pub name: Arc<str>,
    /// New objects that were looked for.
    pub searched: u32,
    /// Chains, that of the most objects first.
    pub holders: Vec<Holder>,
    /// New objects of which no holder was found.
    pub without: u32,
}

/// Whether a dict is that of a module or of a class.
pub(super) fn root_of(table: &TypeTable, memory: &(impl ProcessMemory + ?Sized), dict: u64) -> Option<Root> {
    let dicts = Dicts {
        interpreter: *table.interpreter(),
        memory,
    };
    let text = |key| {
        let value = dicts.find(dict, key, MARKS_WITHIN)?;
        of_key(memory, table.interpreter(), value)
    };
    if let Some(name) = text("__name__").filter(|_| dicts.find(dict, "__spec__", MARKS_WITHIN).is_some()) {
        return Some(Root::Module(name));
    }
    let module = text("__module__")?;
    // Classes that no object has are known by their module alone.
    let class = table
        .types
        .iter()
        .filter(|found| found.is_of_heap())
        .find(|found| dicts.word(found.address.wrapping_add(DICT)) == Some(dict))
        .map_or_else(|| format!("of module {module}"), |found| full_name(&dicts, found));
    Some(Root::Class(class))
}

/// All chains in words, those that are alike taken together.
pub(super) fn describe(search: &Search, memory: &(impl ProcessMemory + ?Sized)) -> Vec<Holders> {
    let describer = Describer {
        search,
        dicts: Dicts {
            interpreter: *search.table.interpreter(),
            memory,
        },
    };
    let wanted = search.wanted.iter().enumerate();
    wanted
        .map(|(of, wanted)| {
            let mut alike: HashMap<(u64, Vec<Step>), Holder> = HashMap::new();
            let mut without = 0;
            for (_, leaf) in search.leaves.iter().filter(|(leaf_of, _)| *leaf_of == of) {
                let chain = search.above(*leaf);
                let top = &search.nodes[chain[chain.len() - 1]];
                let mut steps = describer.steps(&chain);
                steps.truncate(MAX_STEPS);
                if steps.is_empty() {
                    without += 1;
                    continue;
                }
                let sizeless = steps.iter().map(without_size).collect();
                let holder = alike.entry((top.address, sizeless)).or_insert_with(|| Holder {
                    steps: steps.clone(),
                    objects: 0,
                    is_rooted: top.root.is_some(),
                });
                holder.objects += 1;
                for (shown, step) in holder.steps.iter_mut().zip(steps) {
                    if let (Step::Container { items, .. }, Step::Container { items: others, .. }) = (shown, step) {
                        *items = others.max(*items);
                    }
                }
            }
            let mut holders: Vec<Holder> = alike.into_values().collect();
            holders.sort_by_cached_key(|holder| (Reverse(holder.objects), format!("{:?}", holder.steps)));
            holders.truncate(MAX_HOLDERS);
            Holders {
                name: Arc::clone(&wanted.name),
                searched: wanted.addresses.len() as u32,
                holders,
                without,
            }
        })
        .collect()
}

fn without_size(step: &Step) -> Step {
    match step {
        Step::Container { kind, .. } => Step::Container {
            kind: kind.clone(),
            items: 0,
        },
        other => other.clone(),
    }
}

struct Describer<'a, M: ?Sized> {
    search: &'a Search,
    dicts: Dicts<'a, M>,
}

impl<M: ProcessMemory + ?Sized> Describer<'_, M> {
    /// The steps of a chain, given from the object outwards.
    fn steps(&self, chain: &[usize]) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut outer = chain.len();
        while outer > 1 {
            outer -= 1;
            let holder = &self.search.nodes[chain[outer]];
            let held = &self.search.nodes[chain[outer - 1]];
            let Some(link) = held.parent else { break };
            // What a dict or a block of values belongs to speaks for both.
            let inner = (outer > 1)
                .then(|| self.search.nodes[chain[outer - 2]].parent)
                .flatten();
            let (step, took_both) = self.step(holder, held, link, inner);
            outer -= usize::from(took_both);
            match (&step, steps.last()) {
                // Part of a container that could not be told, inside of another.
                (Step::Block, Some(_)) => {}
                _ => steps.push(step),
            }
        }
        steps
    }

    fn step(&self, holder: &Node, held: &Node, link: Link, inner: Option<Link>) -> (Step, bool) {
        let key = |link: Link| self.key(link.through.key);
        match (&holder.root, holder.what) {
            (Some(Root::Module(module)), _) => {
                let (module, name) = (module.clone(), key(link));
                (Step::Global { module, name }, false)
            }
            (Some(Root::Class(class)), _) => {
                let (class, name) = (class.clone(), key(link));
                (Step::ClassAttribute { class, name }, false)
            }
            (None, What::Block { .. } | What::Leaf) => (Step::Block, false),
            (None, What::Object { found, kind, items }) => {
                let of_type = &self.search.table.types[found];
                let kind_name = || full_name(&self.dicts, of_type);
                if kind != Kind::Other {
                    let kind = kind_name();
                    return (Step::Container { kind, items }, false);
                }
                let offset = link.through.at.wrapping_sub(holder.address);
                let attribute = |name, both| {
                    let class = kind_name();
                    (Step::Attribute { class, name }, both)
                };
                match (held.what, inner) {
                    (What::Object { kind: Kind::Dict, .. }, Some(inner))
                        if self.is_dict_of(of_type.address, offset) =>
                    {
                        attribute(key(inner), true)
                    }
                    (What::Block { .. }, Some(inner)) if is_values(offset) => {
                        let index = inner.through.at.wrapping_sub(link.through.to) / 8;
                        match self.dicts.shared_key(of_type.address, index) {
                            Some(name) => attribute(name, true),
                            None => (Step::Object { kind: kind_name() }, false),
                        }
                    }
                    _ => match self.inline(found, offset) {
                        Some(name) => attribute(name, false),
                        None => (Step::Object { kind: kind_name() }, false),
                    },
                }
            }
        }
    }

    fn key(&self, address: u64) -> String {
        let text = of_key(self.dicts.memory, &self.dicts.interpreter, address);
        text.unwrap_or_else(|| UNNAMED.to_owned())
    }

    /// Whether the word at this offset of an instance is its dict.
    fn is_dict_of(&self, found: u64, offset: u64) -> bool {
        offset == MANAGED_DICT.wrapping_neg() || self.dicts.word(found.wrapping_add(DICT_OFFSET)) == Some(offset)
    }

    /// The attribute whose value is in the instance itself.
    fn inline(&self, found: usize, offset: u64) -> Option<String> {
        let of_type = &self.search.table.types[found];
        if !of_type.has_inline_values() || self.dicts.interpreter.minor < 13 {
            return None;
        }
        let first = of_type.basic_bytes + self.dicts.interpreter.values_head();
        let index = offset.checked_sub(first)? / 8;
        self.dicts.shared_key(of_type.address, index)
    }
}

/// Whether the word at this offset of an instance is that of its values.
fn is_values(offset: u64) -> bool {
    offset == MANAGED_DICT.wrapping_neg() || offset == MANAGED_VALUES.wrapping_neg()
}
