//! The smallest object that is taken for an interpreter, of any version, and memory made up for it.

use profiler_unwinding::python::ProcessMemory;

/// Where the parts of the object lie, in the file and by link address.
const DYNAMIC: usize = 0x100;
const HASH: usize = 0x200;
const SYMBOLS: usize = 0x300;
const STRINGS: usize = 0x500;
const VERSION: usize = 0x800;
const FUNCTION: usize = 0x840;
const LOOP: usize = 0x880;
const CODE_TYPE: usize = 0xa00;
const TEXT_TYPE: usize = 0xc00;
const BYTES_TYPE: usize = 0xd00;
const MEMBERS: usize = 0xe00;
const NAMES: usize = 0xf00;
/// At the end: the file has no more of it than what it states of itself.
pub(crate) const RUNTIME: usize = 0x1000;

/// Where a type has the list of its members.
const TYPE_MEMBERS: usize = 240;
/// Where it is said where the members of code objects are, which the dynamic linker fills in.
pub(crate) const CODE_MEMBERS: u64 = (CODE_TYPE + TYPE_MEMBERS) as u64;

/// `mov rax, fs:-40`; `ret`.
const VARIABLE: [u8; 10] = [0x64, 0x48, 0x8b, 0x04, 0x25, 0xd8, 0xff, 0xff, 0xff, 0xc3];

/// What the newer versions state, as Debian's builds do.
pub(crate) fn debug_offsets(minor: u8) -> Option<&'static [u8]> {
    match minor {
        13 => Some(include_bytes!("offsets/3.13.bin")),
        14 => Some(include_bytes!("offsets/3.14.bin")),
        15 => Some(include_bytes!("offsets/3.15.bin")),
        _ => None,
    }
}

/// An object that exports what an interpreter of this version does.
pub(crate) fn interpreter(minor: u8) -> Vec<u8> {
    let offsets = debug_offsets(minor);
    let mut file = vec![0; RUNTIME + offsets.map_or(0, <[u8]>::len)];
    let mut symbols = vec![
        ("_PyRuntime", RUNTIME as u64, 0),
        ("PyCode_Type", CODE_TYPE as u64, 0),
        ("PyUnicode_Type", TEXT_TYPE as u64, 0),
        ("PyBytes_Type", BYTES_TYPE as u64, 0),
        ("_PyEval_EvalFrameDefault", LOOP as u64, 16),
        ("PyGILState_GetThisThreadState", FUNCTION as u64, VARIABLE.len() as u64),
        ("PyCode_NewWithPosOnlyArgs", LOOP as u64, 0),
    ];
    if minor >= 9 {
        symbols.push(("PyModule_AddType", LOOP as u64, 0));
    }
    if minor >= 10 {
        symbols.push(("PyModule_AddObjectRef", LOOP as u64, 0));
    }
    if minor >= 11 {
        symbols.push(("Py_Version", VERSION as u64, 4));
    }
    write_headers(&mut file);
    write_symbols(&mut file, &symbols);
    write_members(&mut file, minor);
    put(&mut file, FUNCTION, &VARIABLE);
    // Their version is the one that they were recorded from.
    let version = match offsets {
        Some(offsets) => offsets[8..12].to_vec(),
        None => (0x0300_02f0 | u32::from(minor) << 16).to_le_bytes().to_vec(),
    };
    put(&mut file, VERSION, &version);
    put(&mut file, RUNTIME, offsets.unwrap_or_default());
    file
}

pub(crate) fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn words<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn write_headers(file: &mut [u8]) {
    put(file, 0, b"\x7fELF\x02\x01\x01");
    // Shared object, x86-64, version.
    put(file, 16, &[3, 0, 62, 0, 1, 0, 0, 0]);
    // Program headers: where, of what size, how many.
    put(file, 32, &words([64]));
    put(file, 54, &[56, 0, 2, 0]);
    // Loaded as a whole; and the dynamic section.
    put(file, 64, &[1, 0, 0, 0, 5, 0, 0, 0]);
    let bytes = file.len() as u64;
    put(file, 72, &words([0, 0, 0, bytes, bytes, 4096]));
    put(file, 120, &[2, 0, 0, 0, 6, 0, 0, 0]);
    let dynamic = DYNAMIC as u64;
    put(file, 128, &words([dynamic, dynamic, dynamic, 0x50, 0x50, 8]));
    // DT_HASH, DT_STRTAB, DT_SYMTAB, DT_NEEDED.
    put(
        file,
        DYNAMIC,
        &words([4, HASH as u64, 5, STRINGS as u64, 6, SYMBOLS as u64, 1, 1, 0, 0]),
    );
}

/// The members of code objects: a name and an offset each, 40 bytes apart.
fn write_members(file: &mut [u8], minor: u8) {
    let (first_line, filename) = match minor {
        ..=10 => (40, 104),
        11 => (72, 112),
        _ => (68, 112),
    };
    put(file, CODE_TYPE + TYPE_MEMBERS, &words([MEMBERS as u64]));
    let members = [
        ("co_firstlineno", first_line),
        ("co_filename", filename),
        ("co_name", filename + 8),
    ];
    for (index, (name, offset)) in members.into_iter().enumerate() {
        let name_at = NAMES + 32 * index;
        put(file, name_at, name.as_bytes());
        put(file, MEMBERS + 40 * index, &words([name_at as u64, 0, offset]));
    }
}

fn write_symbols(file: &mut [u8], symbols: &[(&str, u64, u64)]) {
    let mut strings = b"\0libc.so.6\0".to_vec();
    // One bucket with all of them, the first of which stands for none.
    let count = symbols.len() as u32 + 1;
    let mut hash = vec![1, count, 1, 0];
    for (index, (name, address, size)) in symbols.iter().enumerate() {
        let number = index as u32 + 1;
        hash.push(if number + 1 < count { number + 1 } else { 0 });
        let at = SYMBOLS + 24 * number as usize;
        put(file, at, &(strings.len() as u32).to_le_bytes());
        // Global, in section 1.
        put(file, at + 4, &[0x11, 0, 1, 0]);
        put(file, at + 8, &words([*address, *size]));
        strings.extend_from_slice(name.as_bytes());
        strings.push(0);
    }
    let hash: Vec<u8> = hash.iter().flat_map(|half| half.to_le_bytes()).collect();
    put(file, HASH, &hash);
    put(file, STRINGS, &strings);
}

/// Memory of a process: the object at its link addresses, and behind it what somebody made up, again and again.
#[derive(Debug)]
pub(crate) struct MadeUp<'data> {
    pub(crate) object: &'data [u8],
    pub(crate) bytes: &'data [u8],
    /// Words that are as given whatever was made up: where they lie, and what they are.
    pub(crate) words: &'data [(u64, u64)],
}

/// An interpreter's state in made-up memory, and its lock.
const INTERPRETER: u64 = 0x2_0000;
const LOCK: u64 = 0x3_0000;

/// Words by which an interpreter of this version is running: a key in use, an interpreter, its lock.
pub(crate) fn running(minor: u8) -> Vec<(u64, u64)> {
    let (interpreters, key) = match minor {
        8 => (32, Some(1392)),
        9 | 10 => (32, Some(584)),
        11 => (40, Some(592)),
        12 => (40, Some(1544)),
        13 => (632, Some(2160)),
        14 => (808, Some(2336)),
        _ => (936, None),
    };
    let runtime = RUNTIME as u64;
    let mut words = vec![
        (runtime + interpreters, INTERPRETER),
        // The next one, and where the pointer to the lock is.
        (INTERPRETER, 0),
        (INTERPRETER + 7264, 0),
        (INTERPRETER + 7272, 0),
        (INTERPRETER + 16, LOCK),
        (INTERPRETER + 384, LOCK),
    ];
    words.extend(key.map(|key| (runtime + key, 1)));
    words
}

/// Bytes of it.
const MEMORY_BYTES: u64 = 1 << 24;

impl ProcessMemory for MadeUp<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let end = address.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > MEMORY_BYTES) {
            return false;
        }
        let start = address as usize;
        for (at, byte) in (start..).zip(&mut *buffer) {
            let made_up = || at.checked_rem(self.bytes.len()).map_or(0, |at| self.bytes[at]);
            *byte = self.object.get(at).copied().unwrap_or_else(made_up);
        }
        for (word_start, word) in self.words {
            for (at, given) in (*word_start as usize..).zip(word.to_le_bytes()) {
                if let Some(byte) = at.checked_sub(start).and_then(|at| buffer.get_mut(at)) {
                    *byte = given;
                }
            }
        }
        true
    }
}
