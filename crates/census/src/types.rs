//! The types of a heap: which words are addresses of types, and how many objects each has.

use std::collections::HashMap;

use profiler_unwinding::python::ProcessMemory;

use crate::{
    interpreter::Interpreter,
    names,
    sample::Sample,
    words::{is_address, word},
};

/// Types that are told apart; objects of others are counted together.
pub const MAX_TYPES: usize = 8192;
/// Words that are remembered to be no type.
const REMEMBERED: usize = 1 << 14;
/// Types of types that are remembered.
const MAX_METATYPES: usize = 256;
/// Steps from a type to the type of types: classes of classes of classes.
const MAX_STEPS: usize = 4;
/// Largest sizes that a type may state of its objects.
const MAX_BASIC_BYTES: u64 = 1 << 20;

/// Offsets in `PyTypeObject`, the same from 3.9 to 3.15.
const NAME: usize = 24;
const BASIC_SIZE: usize = 32;
const FLAGS: usize = 168;
const HEAD_BYTES: usize = 176;
/// Offset of `tp_dict`.
pub(crate) const DICT: u64 = 264;
/// `Py_TPFLAGS_READY`, `Py_TPFLAGS_HEAPTYPE`, `Py_TPFLAGS_INLINE_VALUES` (3.13), `Py_TPFLAGS_TYPE_SUBCLASS`.
const READY: u64 = 1 << 12;
const HEAP: u64 = 1 << 9;
const INLINE_VALUES: u64 = 1 << 2;
const TYPE_SUBCLASS: u64 = 1 << 31;
/// `Py_TPFLAGS_LIST_SUBCLASS`, `Py_TPFLAGS_TUPLE_SUBCLASS`, `Py_TPFLAGS_DICT_SUBCLASS`.
const LIST_SUBCLASS: u64 = 1 << 25;
const TUPLE_SUBCLASS: u64 = 1 << 26;
const DICT_SUBCLASS: u64 = 1 << 29;
/// `Py_TPFLAGS_UNICODE_SUBCLASS`, and the least bytes of a `str`, whose size is that of its longest form.
const STR_SUBCLASS: u64 = 1 << 28;
const LEAST_STR_BYTES: u64 = 40;

/// A type, and what was counted of it.
#[derive(Clone, Debug)]
pub(crate) struct Type {
    pub(crate) address: u64,
    /// `tp_name` as it is.
    pub(crate) name: Box<str>,
    flags: u64,
    /// Where its objects begin in their blocks.
    pub(crate) before: u64,
    pub(crate) basic_bytes: u64,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) sample: Sample,
}

/// How objects of a type refer to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    List,
    Tuple,
    Dict,
    Set,
    Deque,
    /// It refers without holding.
    Weak,
    Other,
}

impl Type {
    /// Bytes that each of its objects has at least.
    pub(crate) fn least_bytes(&self) -> u64 {
        if self.flags & STR_SUBCLASS != 0 {
            LEAST_STR_BYTES.min(self.basic_bytes)
        } else {
            self.basic_bytes
        }
    }

    pub(crate) fn is_of_heap(&self) -> bool {
        self.flags & HEAP != 0
    }

    pub(crate) fn has_inline_values(&self) -> bool {
        self.flags & INLINE_VALUES != 0
    }

    pub(crate) fn kind(&self) -> Kind {
        // Sets and deques have no flags; of their subclasses not even the layout is told.
        let name = match &*self.name {
            "KeyedRef" | "WeakMethod" => return Kind::Weak,
            deque @ "collections.deque" => deque,
            _ if self.is_of_heap() => "",
            name => name,
        };
        match name {
            _ if self.flags & LIST_SUBCLASS != 0 => Kind::List,
            _ if self.flags & TUPLE_SUBCLASS != 0 => Kind::Tuple,
            _ if self.flags & DICT_SUBCLASS != 0 => Kind::Dict,
            "set" | "frozenset" => Kind::Set,
            "collections.deque" => Kind::Deque,
            _ if name.starts_with("weak") => Kind::Weak,
            _ => Kind::Other,
        }
    }
}

/// What a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The address of this type.
    Type(usize),
    /// Anything else.
    NoType,
    /// Perhaps a type, and there are too many to look.
    Full,
}

/// The types found so far.
#[derive(Clone, Debug)]
pub struct TypeTable {
    interpreter: Interpreter,
    indices: HashMap<u64, usize>,
    pub(crate) types: Vec<Type>,
    metatypes: Vec<u64>,
    rejected: Box<[u64]>,
}

impl TypeTable {
    pub(crate) fn new(interpreter: Interpreter) -> Self {
        Self {
            interpreter,
            indices: HashMap::new(),
            types: Vec::new(),
            metatypes: Vec::new(),
            rejected: vec![0; REMEMBERED].into(),
        }
    }

    pub(crate) fn interpreter(&self) -> &Interpreter {
        &self.interpreter
    }

    pub(crate) fn find(&mut self, memory: &(impl ProcessMemory + ?Sized), address: u64) -> Found {
        if !is_address(address) {
            return Found::NoType;
        }
        if let Some(index) = self.indices.get(&address) {
            return Found::Type(*index);
        }
        let place = (address >> 4) as usize % REMEMBERED;
        if self.rejected[place] == address {
            return Found::NoType;
        }
        if self.types.len() >= MAX_TYPES {
            return Found::Full;
        }
        match self.read(memory, address) {
            Some(found) => {
                let index = self.types.len();
                self.types.push(found);
                self.indices.insert(address, index);
                Found::Type(index)
            }
            None => {
                self.rejected[place] = address;
                Found::NoType
            }
        }
    }

    fn read(&mut self, memory: &(impl ProcessMemory + ?Sized), address: u64) -> Option<Type> {
        let head = self.head(memory, address)?;
        let name = names::of_type(memory, word(&head, NAME)?)?;
        let flags = word(&head, FLAGS)?;
        Some(Type {
            address,
            name: name.into(),
            flags,
            before: self.interpreter.bytes_before(flags),
            basic_bytes: word(&head, BASIC_SIZE)?,
            objects: 0,
            bytes: 0,
            sample: Sample::default(),
        })
    }

    /// The first bytes of what is a type: a ready one, whose own type is the type of types or a subclass of it.
    fn head(&mut self, memory: &(impl ProcessMemory + ?Sized), address: u64) -> Option<[u8; HEAD_BYTES]> {
        let read = |address| {
            let mut head = [0; HEAD_BYTES];
            let is_ready = |head: &[u8]| word(head, FLAGS).is_some_and(|flags| flags & READY != 0);
            let has_size =
                |head: &[u8]| word(head, BASIC_SIZE).is_some_and(|size| (16..=MAX_BASIC_BYTES).contains(&size));
            (is_address(address)
                && memory.read(address, &mut head)
                && is_ready(&head)
                && has_size(&head)
                && word(&head, 0).is_some_and(|count| self.interpreter.is_reference_count(count)))
            .then_some(head)
        };
        let head = read(address)?;
        let own = word(&head, 8)?;
        let mut metatype = own;
        for _ in 0..MAX_STEPS {
            if metatype == self.interpreter.type_of_types || self.metatypes.contains(&metatype) {
                let is_new = own != self.interpreter.type_of_types && !self.metatypes.contains(&own);
                if is_new && self.metatypes.len() < MAX_METATYPES {
                    self.metatypes.push(own);
                }
                return Some(head);
            }
            let above =
                read(metatype).filter(|head| word(head, FLAGS).is_some_and(|flags| flags & TYPE_SUBCLASS != 0))?;
            metatype = word(&above, 8)?;
        }
        None
    }
}
