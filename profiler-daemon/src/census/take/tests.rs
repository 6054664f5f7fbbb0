//! What is left of a count is told.

use std::process;

use profiler_unwinding::python::InterpreterObject;

use super::*;

#[path = "../../../../crates/unwinding/tests/python/made.rs"]
#[expect(dead_code, reason = "the tests that it was made for use more of it")]
mod made_object;

const MEMORY_BYTES: usize = 1 << 20;

/// A count of the memory of this process, with this to say what is there.
fn count<'a>(memory: &'a PacedMemory<'a>, pagemap: &str) -> Count<'a> {
    let file = made_object::interpreter(12);
    let mut object = InterpreterObject::read(&*file).unwrap().unwrap();
    object.type_type = Some(1);
    let interpreter = Interpreter::of(&object, 0).unwrap();
    Count {
        memory,
        pagemap: File::open(pagemap).unwrap(),
        interpreter,
        tally: Tally::new(interpreter),
        pools: Pools::default(),
        swapped_pools: 0,
        unknown_bytes: 0,
        pagemap_bytes: 0,
        buffer: vec![0; interpreter.pool_bytes() as usize],
    }
}

#[test]
fn what_is_left_of_a_part_is_told() {
    let target = Target::open(&ProcFs::new("/proc"), Pid(process::id())).unwrap();
    let there = vec![1_u8; MEMORY_BYTES];
    let left = |within, pagemap: &str| {
        let pace = Pace::new(within, &|_| false);
        let memory = PacedMemory::new(target.open_file("mem").unwrap(), &pace);
        let mut count = count(&memory, pagemap);
        let start = (there.as_ptr() as u64).next_multiple_of(count.interpreter.pool_bytes());
        let range = start..start + MEMORY_BYTES as u64 / 2;
        (count.count_part(range), count.unknown_bytes)
    };
    let (half, long) = (MEMORY_BYTES as u64 / 2, Duration::from_secs(600));
    assert_eq!(left(long, "/proc/self/pagemap"), (0, 0));
    assert_eq!(
        left(Duration::ZERO, "/proc/self/pagemap"),
        (half, 0),
        "the time is over"
    );
    assert_eq!(left(long, "/dev/null"), (0, half), "nobody says what is there");
}
