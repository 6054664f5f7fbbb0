//! Whole censuses of heaps that were made by hand.

use profiler_unwinding::python::InterpreterObject;

use crate::{
    Difference, Interpreter, MAX_TYPES, Pool, PoolFound, Search, Step, Tally, Wanted,
    made::{MadePool, Memory},
};

#[path = "../../unwinding/tests/python/made.rs"]
#[expect(dead_code, reason = "the tests that it was made for use more of it")]
mod made_object;

const POOL_BYTES: usize = 16 << 10;
const HEAP: u64 = 0x7f00_0000_0000;
const TYPES: u64 = 0x7f00_1000_0000;
const TYPE: u64 = TYPES;
const DICT: u64 = TYPES + 0x400;
const LIST: u64 = TYPES + 0x800;
const STR: u64 = TYPES + 0xc00;
const CACHE: u64 = TYPES + 0x1000;
const STRINGS: u64 = 0x7f00_2000_0000;
const TABLES: u64 = 0x7f00_3000_0000;

const READY: u64 = 1 << 12;
const COLLECTED: u64 = 1 << 14;
const OF_HEAP: u64 = 1 << 9;

/// A process that runs 3.12.
struct Process {
    memory: Memory,
    strings: u64,
    /// What the interpreter's own strings are told by.
    text_type: u64,
    interpreter: Interpreter,
}

impl Process {
    fn new() -> Self {
        let file = made_object::interpreter(12);
        let mut object = InterpreterObject::read(&*file).unwrap().unwrap();
        object.type_type = Some(TYPE);
        // Its link address is where the made object exports it.
        let mut process = Self {
            memory: Memory::default(),
            strings: STRINGS,
            text_type: 0xc00,
            interpreter: Interpreter::of(&object, 0).unwrap(),
        };
        process.add_type(TYPE, TYPE, b"type", READY | COLLECTED | 1 << 31, 880);
        process.add_type(DICT, TYPE, b"dict", READY | COLLECTED | 1 << 29, 48);
        process.add_type(LIST, TYPE, b"list", READY | COLLECTED | 1 << 25, 40);
        process.add_type(STR, TYPE, b"str", READY | 1 << 28, 64);
        process.add_type(CACHE, TYPE, b"Cache", READY | COLLECTED | OF_HEAP | 1 << 4, 16);
        process
    }

    fn add_type(&mut self, at: u64, of: u64, name: &[u8], flags: u64, basic: u64) {
        let name_at = at + 0x300;
        self.memory.put(name_at, name);
        self.memory.put_words(at, &[1, of, 0, name_at, basic, 0]);
        self.memory.put_words(at + 168, &[flags]);
        self.memory.put_words(at + 264, &[0]);
    }

    fn string(&mut self, text: &str) -> u64 {
        let at = self.strings;
        self.strings += 256;
        let length = text.len() as u64;
        self.memory.put_words(at, &[1, self.text_type, length, 0, 0x64]);
        self.memory.put(at + 40, text.as_bytes());
        at
    }

    /// Puts the keys of a dict.
    fn keys(&mut self, at: u64, entries: &[(u64, u64)]) {
        // Room for 16, whose indices take 16 bytes; keys are texts.
        self.memory
            .put_words(at, &[1, 4 | 4 << 8 | 1 << 16, 5, entries.len() as u64]);
        for (index, (key, value)) in entries.iter().enumerate() {
            self.memory.put_words(at + 48 + index as u64 * 16, &[*key, *value]);
        }
    }

    fn count(&self, pools: &[&MadePool]) -> (crate::Census, crate::TypeTable) {
        let mut tally = Tally::new(self.interpreter);
        for made in pools {
            let pool = Pool::parse(made.block(0) - 48, &made.bytes, POOL_BYTES as u64).unwrap();
            assert_eq!(tally.add_pool(&self.memory, &pool, &made.bytes), PoolFound::Counted);
        }
        assert!(!tally.is_padded());
        tally.finish(&self.memory)
    }
}

fn counts(census: &crate::Census) -> Vec<(&str, u64, u64)> {
    let types = census.types.iter();
    types.map(|count| (&*count.name, count.objects, count.bytes)).collect()
}

#[test]
fn objects_are_told_from_other_blocks() {
    let mut process = Process::new();
    let module = process.string("app");
    let key = process.string("__module__");
    process.keys(TABLES, &[(key, module)]);
    process.memory.put_words(TABLES + 0x800, &[1, DICT, 1, 0, TABLES, 0]);
    process.memory.put_words(CACHE + 264, &[TABLES + 0x800]);
    let mut made = MadePool::new(HEAP, POOL_BYTES, 64);
    made.carve(12);
    // Behind the head of the collector, at the beginning, and behind the words for an attribute dict and that head.
    made.fill(0, &[0, 0, 1, DICT]);
    made.fill(1, &[0, 0, 2, LIST]);
    made.fill(2, &[1, STR, 3]);
    made.fill(3, &[0xffff_ffff, STR, 3]);
    made.fill(4, &[0, 0, 0, 0, 1, CACHE]);
    // Not where objects of that type begin; no count of references; a count that is an address; no types.
    made.fill(5, &[1, DICT]);
    made.fill(6, &[0, 0, 0, LIST]);
    made.fill(7, &[HEAP, STR]);
    made.fill(8, &[1, HEAP + 64]);
    made.fill(9, &[1, TYPES + 8]);
    made.fill(10, &[1, 3, 1, u64::MAX, 1, 16]);
    made.free(&[11]);
    let (census, _) = process.count(&[&made]);
    assert_eq!(
        counts(&census),
        [("str", 2, 128), ("app.Cache", 1, 64), ("dict", 1, 64), ("list", 1, 64)]
    );
    assert_eq!((census.other_blocks, census.other_bytes, census.pools), (6, 384, 1));
    assert_eq!((census.objects(), census.object_bytes()), (5, 320));
}

#[test]
fn more_types_than_are_told_apart_are_counted_together() {
    let mut process = Process::new();
    let most = MAX_TYPES as u64 + 500;
    let first = TYPES + 0x10_0000;
    let mut pools = Vec::new();
    for index in 0..most {
        let at = first + index * 0x400;
        process.add_type(at, TYPE, format!("t{index}").as_bytes(), READY, 16);
    }
    for start in (0..most).step_by(1000) {
        let address = HEAP + start / 1000 * POOL_BYTES as u64;
        let mut made = MadePool::new(address, POOL_BYTES, 16);
        let blocks = (most - start).min(1000);
        made.carve(blocks as u32);
        for block in 0..blocks {
            made.fill(block, &[1, first + (start + block) * 0x400]);
        }
        pools.push(made);
    }
    let (census, _) = process.count(&pools.iter().collect::<Vec<_>>());
    assert_eq!(census.types.len(), MAX_TYPES);
    assert_eq!((census.further_objects, census.other_blocks), (500, 0));
    assert_eq!(census.objects(), most);
}

#[test]
fn what_has_no_name_and_what_is_no_type_of_types_is_no_type() {
    let mut process = Process::new();
    let at = |index: u64| TYPES + 0x10_0000 + index * 0x400;
    process.add_type(at(0), TYPE, b"\xff\xfe", READY, 16);
    process.add_type(at(1), TYPE, b"", READY, 16);
    process.add_type(at(2), DICT, b"of_dict", READY, 16);
    process.add_type(at(3), at(3), b"of_itself", READY, 16);
    process.add_type(at(4), TYPE, b"unready", 0, 16);
    process.add_type(at(5), TYPE, b"huge", READY, 1 << 40);
    // A type of types of a program, and a type of that.
    process.add_type(at(6), TYPE, b"Meta", READY | 1 << 31, 880);
    process.add_type(at(7), at(6), b"of_meta", READY, 16);
    // Larger than its block.
    process.add_type(at(8), TYPE, b"large", READY, 64);
    let mut made = MadePool::new(HEAP, POOL_BYTES, 32);
    made.carve(9);
    for index in 0..9 {
        made.fill(index, &[1, at(index)]);
    }
    let (census, _) = process.count(&[&made]);
    assert_eq!(counts(&census), [("of_meta", 1, 32)]);
    assert_eq!(census.other_blocks, 8);
}

#[test]
fn blocks_with_pads_are_recognised() {
    let process = Process::new();
    let mut made = MadePool::new(HEAP, POOL_BYTES, 96);
    made.carve(100);
    for index in 0..100 {
        made.fill(index, &[0x4000_0000_0000_0000, 0xfdfd_fdfd_fdfd_fd6f, 1, DICT]);
    }
    let pool = Pool::parse(HEAP, &made.bytes, POOL_BYTES as u64).unwrap();
    let mut tally = Tally::new(process.interpreter);
    tally.add_pool(&process.memory, &pool, &made.bytes);
    assert!(tally.is_padded());
}

/// A module with a global, an instance with an attribute, a list, and dicts in it.
#[test]
fn a_chain_of_holders_is_followed_to_the_module() {
    let mut process = Process::new();
    let [name, spec, app, global, attribute] =
        ["__name__", "__spec__", "app", "CACHE", "items"].map(|text| process.string(text));
    let mut made = MadePool::new(HEAP, POOL_BYTES, 64);
    made.carve(100);
    let object = |made: &MadePool, index| made.block(index) + 16;
    let dicts: Vec<u64> = (10..90).map(|index| object(&made, index)).collect();
    for index in 10..90 {
        made.fill(index, &[0, 0, 1, DICT, 0, 0, TABLES + 0x8000, 0]);
    }
    process.keys(TABLES + 0x8000, &[]);
    // The list.
    made.fill(1, &[0, 0, 1, LIST, dicts.len() as u64, TABLES + 0x4000]);
    process.memory.put_words(TABLES + 0x4000, &dicts);
    // The instance, its dict before it: 3.12 has three words between that and the object.
    let instance = made.block(2) + 32;
    made.fill(2, &[0, object(&made, 3), 0, 0, 1, CACHE]);
    made.fill(3, &[0, 0, 1, DICT, 1, 0, TABLES + 0x1000, 0]);
    process.keys(TABLES + 0x1000, &[(attribute, object(&made, 1))]);
    // The module's dict.
    made.fill(4, &[0, 0, 1, DICT, 3, 0, TABLES + 0x2000, 0]);
    process.keys(TABLES + 0x2000, &[(name, app), (spec, app), (global, instance)]);
    // The rest holds nothing, but one that refers to itself.
    made.fill(5, &[0, 0, 1, LIST, 1, TABLES + 0x6000]);
    process.memory.put_words(TABLES + 0x6000, &[object(&made, 5)]);

    process.memory.put(HEAP, &made.bytes);
    let (census, table) = process.count(&[&made]);
    assert_eq!(census.of("dict").unwrap().objects, 82);
    let difference = Difference::between(&crate::Census::default(), &census);
    assert_eq!(&*difference.grown().next().unwrap().name, "dict");
    let wanted = [("dict", dicts[..40].to_vec()), ("list", vec![object(&made, 5)])];
    let wanted = wanted.map(|(name, addresses)| Wanted {
        name: name.into(),
        addresses,
    });
    let mut search = Search::new(table, wanted.to_vec());
    let pool = Pool::parse(HEAP, &made.bytes, POOL_BYTES as u64).unwrap();
    let mut rounds = 0;
    while search.goes_on() {
        rounds += 1;
        search.add_pool(&process.memory, &pool, &made.bytes);
        search.end_round(&process.memory);
    }
    assert!(rounds <= 5, "{rounds}");
    let found = search.finish(&process.memory);
    assert_eq!(
        (found[0].searched, found[0].without, found[0].holders.len()),
        (40, 0, 1)
    );
    let holder = &found[0].holders[0];
    assert!(holder.is_rooted);
    assert_eq!(holder.objects, 40);
    let text: Vec<String> = holder.steps.iter().map(Step::to_string).collect();
    assert_eq!(
        text,
        [
            "module app, global CACHE",
            "instance of Cache, attribute items",
            "list of 80 items"
        ]
    );
    assert_eq!((found[1].without, found[1].holders.len()), (1, 0));
}
