//! Any bytes as the heap of a Python process: pools, types, dicts and other containers.
//!
//! The first byte chooses the version. The rest is what is mapped at one address, and where a pool may be it is made likelier to
//! be one: the fuzzer is not to find headers, but what is wrong behind them.

use std::sync::OnceLock;

use profiler_census::{Difference, HEADER_BYTES, Interpreter, MAX_TYPES, Pool, PoolFound, Search, Tally, Wanted};
use profiler_unwinding::python::{InterpreterObject, ProcessMemory};

use crate::made;

/// Where the heap lies, and where in it the type of types is.
const BASE: u64 = 0x7f00_0000_0000;
const TYPE_OF_TYPES: u64 = BASE + 0x200;
/// The first version whose heap is known, and how many there are.
const FIRST_MINOR: u8 = 9;
const VERSIONS: usize = 7;
/// Pools of an input.
const POOLS: u64 = 3;

fn interpreter(choice: u8) -> Interpreter {
    static INTERPRETERS: [OnceLock<Interpreter>; VERSIONS] = [const { OnceLock::new() }; VERSIONS];
    let index = usize::from(choice) % VERSIONS;
    *INTERPRETERS[index].get_or_init(|| {
        let file = made::interpreter(FIRST_MINOR + index as u8);
        let mut object = InterpreterObject::read(&*file).unwrap().unwrap();
        object.type_type = Some(TYPE_OF_TYPES);
        Interpreter::of(&object, 0).unwrap()
    })
}

/// The input again and again, from the base on.
struct Heap<'a> {
    bytes: &'a [u8],
    end: u64,
}

impl ProcessMemory for Heap<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let end = address.checked_add(buffer.len() as u64);
        if address < BASE || end.is_none_or(|end| end > self.end) {
            return false;
        }
        let from = (address - BASE) as usize % self.bytes.len();
        let bytes = self.bytes.iter().cycle().skip(from);
        buffer.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        true
    }
}

/// A header that fits, from what the input has in its place.
fn mend(pool: &mut [u8], address: u64, pool_bytes: u64) {
    let class = u32::from(pool[36] % 32);
    let block = (class + 1) * 16;
    let most = (pool_bytes as u32 - HEADER_BYTES as u32) / block;
    let carved = 1 + u32::from(u16::from_le_bytes([pool[40], pool[41]])) % most;
    let used = 1 + u32::from(u16::from_le_bytes([pool[0], pool[1]])) % carved;
    pool[..4].copy_from_slice(&used.to_le_bytes());
    for at in [16, 24] {
        pool[at..at + 8].copy_from_slice(&address.to_le_bytes());
    }
    let last = pool_bytes as u32 - block;
    for (at, half) in [
        (32, 0),
        (36, class),
        (40, HEADER_BYTES as u32 + carved * block),
        (44, last),
    ] {
        pool[at..at + 4].copy_from_slice(&half.to_le_bytes());
    }
    // A list of free blocks that fits, if the input does not have one.
    if pool[2] & 1 == 0 {
        let mut next = 0_u64;
        for index in used..carved {
            let at = HEADER_BYTES + (index * block) as usize;
            pool[at..at + 8].copy_from_slice(&next.to_le_bytes());
            next = address + at as u64;
        }
        pool[8..16].copy_from_slice(&next.to_le_bytes());
    }
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let [choice, bytes @ ..] = data else { return };
    if bytes.is_empty() {
        return;
    }
    let interpreter = interpreter(*choice);
    let pool_bytes = interpreter.pool_bytes();
    let memory = Heap {
        bytes,
        end: BASE + 64 * pool_bytes,
    };
    let mut tally = Tally::new(interpreter);
    let mut pools = Vec::new();
    for index in 0..POOLS {
        let address = BASE + index * pool_bytes;
        let mut pool = vec![0; pool_bytes as usize];
        assert!(memory.read(address, &mut pool));
        assert!(Pool::parse(address, &pool[..HEADER_BYTES - 1], pool_bytes).is_none());
        if choice & 0x80 == 0 {
            mend(&mut pool, address, pool_bytes);
        }
        let Some(header) = Pool::parse(address, &pool, pool_bytes) else {
            continue;
        };
        assert!((HEADER_BYTES..=pool.len()).contains(&header.used_bytes()));
        // What lies behind is not needed.
        if tally.add_pool(&memory, &header, &pool[..header.used_bytes()]) == PoolFound::Counted {
            pools.push((header, pool));
        } else {
            tally.add_torn();
        }
    }
    let (census, table) = tally.finish(&memory);
    assert_eq!(census.pools, pools.len() as u64);
    assert!(census.types.len() <= MAX_TYPES && census.types.iter().all(|count| count.objects > 0));
    let given_out = pools.len() as u64 * pool_bytes;
    assert!(census.object_bytes() + census.other_bytes <= given_out);
    let none = Default::default();
    let difference = Difference::between(&none, &census);
    assert_eq!(difference.grown().count(), census.types.len());
    assert!(Difference::between(&census, &census).changes.is_empty());
    let wanted = census.types.iter().map(|count| Wanted {
        name: count.name.clone(),
        addresses: count.new_since(None),
    });
    let mut search = Search::new(table, wanted.collect());
    let mut rounds = 0;
    while search.goes_on() {
        rounds += 1;
        assert!(rounds <= 16);
        for (pool, bytes) in &pools {
            search.add_pool(&memory, pool, bytes);
        }
        search.end_round(&memory);
    }
    for holders in search.finish(&memory) {
        let hung: u32 = holders.holders.iter().map(|holder| holder.objects).sum();
        assert!(hung + holders.without <= holders.searched);
        for holder in holders.holders {
            assert!(!holder.steps.is_empty() && holder.steps.len() <= 16);
            assert!(holder.steps.iter().all(|step| step.to_string().len() < 2048));
        }
    }
}
