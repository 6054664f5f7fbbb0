//! Assembles call frame information and objects around it, and finds real objects on the machine.

use std::fs;
use std::path::{Path, PathBuf};

use object::elf::{PF_R, PF_X, PT_GNU_EH_FRAME, PT_LOAD, SHT_NOBITS, SHT_PROGBITS};
use profiler_common::limits::PAGE_SHIFT;
use profiler_common::row::{Page, Row};
use profiler_tests::not_run::skip;
use profiler_unwinding::{CompileError, Limits, RowTable};

/// Where assembled objects have their code, and how much.
pub(crate) const CODE: u64 = 0x10_0000;
pub(crate) const CODE_BYTES: u64 = 0x10_0000;
/// Where assembled objects have their procedure linkage table: in the middle of the code.
pub(crate) const LINKAGE: u64 = CODE + 0x2_0000;
/// Where assembled objects have their `.eh_frame`.
pub(crate) const EH_FRAME: u64 = 0x1000;

/// Call frame instructions, as DWARF 5, 7.24 encodes them.
pub(crate) mod cfa {
    pub(crate) const REMEMBER: u8 = 0x0a;
    pub(crate) const RESTORE: u8 = 0x0b;

    pub(crate) fn advance(bytes: u8) -> Vec<u8> {
        vec![0x02, bytes]
    }

    pub(crate) fn def_cfa(register: u8, offset: u64) -> Vec<u8> {
        [vec![0x0c, register], super::uleb(offset)].concat()
    }

    /// `DW_CFA_offset_extended`: the register is saved at `cfa - 8 * words`.
    pub(crate) fn saved(register: u8, words: u64) -> Vec<u8> {
        [vec![0x05, register], super::uleb(words)].concat()
    }

    pub(crate) fn undefined(register: u8) -> Vec<u8> {
        vec![0x07, register]
    }

    pub(crate) fn same_value(register: u8) -> Vec<u8> {
        vec![0x08, register]
    }

    pub(crate) fn in_register(register: u8, source: u8) -> Vec<u8> {
        vec![0x09, register, source]
    }

    pub(crate) fn def_cfa_expression(expression: &[u8]) -> Vec<u8> {
        [vec![0x0f, expression.len() as u8], expression.to_vec()].concat()
    }

    pub(crate) fn expression(register: u8, expression: &[u8]) -> Vec<u8> {
        [vec![0x10, register, expression.len() as u8], expression.to_vec()].concat()
    }

    pub(crate) fn val_offset(register: u8, words: u64) -> Vec<u8> {
        [vec![0x14, register], super::uleb(words)].concat()
    }

    pub(crate) fn val_expression(register: u8, expression: &[u8]) -> Vec<u8> {
        [vec![0x16, register, expression.len() as u8], expression.to_vec()].concat()
    }
}

pub(crate) fn uleb(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// What every function's description begins with: the frame's address is `rsp + 8`, the return address below it.
pub(crate) fn usual_start() -> Vec<u8> {
    [cfa::def_cfa(7, 8), cfa::saved(16, 1)].concat()
}

/// An `.eh_frame` in the making, linked at [`EH_FRAME`].
#[derive(Clone, Debug, Default)]
pub(crate) struct EhFrame {
    pub(crate) bytes: Vec<u8>,
}

impl EhFrame {
    /// Adds a common entry; returns its offset.
    pub(crate) fn common(&mut self, augmentation: &str, return_address: u8, instructions: &[u8]) -> usize {
        let start = self.bytes.len();
        let mut body = vec![0, 0, 0, 0, 1];
        body.extend(augmentation.as_bytes());
        // Code alignment 1, data alignment -8, addresses relative to their place in 4 signed bytes.
        body.extend([0, 1, 0x78, return_address, 1, 0x1b]);
        body.extend(instructions);
        self.entry(body);
        start
    }

    /// Adds the entry of a function.
    pub(crate) fn function(&mut self, common: usize, start: u64, bytes: u32, instructions: &[u8]) {
        let place = self.bytes.len() + 4;
        let mut body = ((place - common) as u32).to_le_bytes().to_vec();
        let relative = start.wrapping_sub(EH_FRAME + place as u64 + 4) as u32;
        body.extend(relative.to_le_bytes());
        body.extend(bytes.to_le_bytes());
        body.push(0);
        body.extend(instructions);
        self.entry(body);
    }

    pub(crate) fn terminator(&mut self) {
        self.bytes.extend([0; 4]);
    }

    fn entry(&mut self, mut body: Vec<u8>) {
        while !body.len().is_multiple_of(4) {
            body.push(0);
        }
        self.bytes.extend((body.len() as u32).to_le_bytes());
        self.bytes.extend(body);
    }

    /// One function at [`CODE`], with the usual start.
    pub(crate) fn of_function(bytes: u32, instructions: &[u8]) -> Self {
        let mut eh_frame = Self::default();
        let common = eh_frame.common("zR", 16, &usual_start());
        eh_frame.function(common, CODE, bytes, instructions);
        eh_frame.terminator();
        eh_frame
    }
}

/// An object in the making. Its code is claimed by headers and has no bytes: nothing reads it.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) eh_frame: Vec<u8>,
    /// Link address and size of each executable segment; the file offset is the link address.
    pub(crate) code: Vec<(u64, u64)>,
    pub(crate) section_headers: bool,
    pub(crate) eh_frame_hdr: bool,
    pub(crate) section_type: u32,
    pub(crate) section_flags: u64,
    /// Bytes of a `.plt` that is linked at [`LINKAGE`].
    pub(crate) linkage: Vec<u8>,
    /// Size that the section header claims.
    pub(crate) claimed_bytes: Option<u64>,
}

impl Object {
    pub(crate) fn new(eh_frame: &EhFrame) -> Self {
        Self {
            eh_frame: eh_frame.bytes.clone(),
            code: vec![(CODE, CODE_BYTES)],
            section_headers: true,
            eh_frame_hdr: false,
            section_type: SHT_PROGBITS.0,
            section_flags: 2,
            linkage: Vec::new(),
            claimed_bytes: None,
        }
    }

    /// As a separate debug file has it.
    pub(crate) fn without_bytes(mut self) -> Self {
        self.section_type = SHT_NOBITS.0;
        self
    }

    pub(crate) fn file(&self) -> Vec<u8> {
        let mut file = vec![0; EH_FRAME as usize];
        file.extend(&self.eh_frame);
        // Rounded so that a pointer to it is easy to compute; 8 bytes of header follow.
        file.resize(file.len().next_multiple_of(8), 0);
        let hdr = file.len() as u64;
        let pointer = (EH_FRAME as u32).wrapping_sub(hdr as u32 + 4);
        file.extend([1, 0x1b, 0xff, 0xff]);
        file.extend(pointer.to_le_bytes());
        let names = file.len() as u64;
        file.extend(b"\0.eh_frame\0.shstrtab\0.plt\0");
        file.resize(file.len().next_multiple_of(8), 0);
        let linkage = file.len() as u64;
        file.extend(&self.linkage);
        file.resize(file.len().next_multiple_of(8), 0);
        let sections = file.len() as u64;
        if self.section_headers {
            let claimed = self.claimed_bytes.unwrap_or(self.eh_frame.len() as u64);
            file.extend([0; 64]);
            let linkage_bytes = self.linkage.len() as u64;
            file.extend(
                [
                    section(1, self.section_type, self.section_flags, EH_FRAME, EH_FRAME, claimed),
                    section(11, 3, 0, names, names, 26),
                    section(21, SHT_PROGBITS.0, 6, LINKAGE, linkage, linkage_bytes),
                ]
                .concat(),
            );
        }
        let mut headers = vec![program_header(PT_LOAD.0, PF_R.0, 0, sections)];
        headers.extend(
            self.code
                .iter()
                .map(|(at, size)| program_header(PT_LOAD.0, PF_R.0 | PF_X.0, *at, *size)),
        );
        if self.eh_frame_hdr {
            headers.push(program_header(PT_GNU_EH_FRAME.0, PF_R.0, hdr, 8));
        }
        let mut start = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        start.extend([3, 0, 62, 0, 1, 0, 0, 0]);
        for value in [0, 64, if self.section_headers { sections } else { 0 }] {
            start.extend(value.to_le_bytes());
        }
        start.extend([0, 0, 0, 0, 64, 0, 56, 0, headers.len() as u8, 0, 64, 0]);
        start.extend(if self.section_headers { [4, 0, 2, 0] } else { [0; 4] });
        start.extend(headers.concat());
        file[..start.len()].copy_from_slice(&start);
        file
    }

    pub(crate) fn compile(&self) -> Result<RowTable, CompileError> {
        profiler_unwinding::compile(&*self.file(), &Limits::default())
    }
}

fn program_header(kind: u32, flags: u32, at: u64, size: u64) -> Vec<u8> {
    let mut header = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    for value in [at, at, at, size, size, 0x1000] {
        header.extend(value.to_le_bytes());
    }
    header
}

fn section(name: u32, kind: u32, flags: u64, address: u64, offset: u64, size: u64) -> Vec<u8> {
    let mut header = [name.to_le_bytes(), kind.to_le_bytes()].concat();
    for value in [flags, address, offset, size, 0, 8, 0] {
        header.extend(value.to_le_bytes());
    }
    header
}

/// Checks what the walker relies on.
pub(crate) fn check_layout(table: &RowTable, limits: &Limits) {
    assert!(table.rows.len() <= limits.max_rows as usize, "more rows than allowed");
    assert!(
        table.pages.len() <= limits.max_pages as usize,
        "more pages than allowed"
    );
    assert!(
        table.pages.first().is_some_and(|page| *page != Page::EMPTY),
        "the first page holds no code"
    );
    assert!(
        table.pages.last().is_some_and(|page| *page != Page::EMPTY),
        "the last page holds no code"
    );
    let mut next = 0;
    for (index, page) in table.pages.iter().enumerate() {
        if *page == Page::EMPTY {
            continue;
        }
        assert_eq!(page.first(), next, "page {index} does not follow the one before");
        assert!(
            (1..=1 << PAGE_SHIFT).contains(&page.count()),
            "page {index} has {} rows",
            page.count()
        );
        next += page.count();
        let rows = &table.rows[page.first() as usize..next as usize];
        assert_eq!(rows[0].page_offset(), 0, "page {index} does not begin at 0");
        for pair in rows.windows(2) {
            assert!(
                pair[0].page_offset() < pair[1].page_offset(),
                "page {index}: {pair:?} do not ascend"
            );
            assert_ne!(pair[0].rule(), pair[1].rule(), "page {index}: {pair:?} could be merged");
        }
    }
    assert_eq!(next as usize, table.rows.len(), "rows belong to no page");
}

/// The rows of each page with their link addresses.
pub(crate) fn rows_at(table: &RowTable) -> Vec<(u64, Row)> {
    let mut rows = Vec::new();
    for (index, page) in table.pages.iter().enumerate() {
        let start = (table.first_page + index as u64) << PAGE_SHIFT;
        let range = page.first() as usize..(page.first() + page.count()) as usize;
        rows.extend(
            table.rows[range]
                .iter()
                .map(|row| (start + u64::from(row.page_offset()), row.at(0))),
        );
    }
    rows
}

/// A file of this machine, or the vDSO.
#[derive(Debug)]
pub(crate) struct RealObject {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// Objects that systems of this kind have; says which of them this one lacks.
pub(crate) fn real_objects() -> Vec<RealObject> {
    const DIRECTORIES: [&str; 4] = [
        "/lib/x86_64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib64",
        "/lib64",
    ];
    const NAMES: [&str; 6] = [
        "ld-linux-x86-64.so.2",
        "libc.so.6",
        "libm.so.6",
        "libstdc++.so.6",
        "libpython3.11.so.1.0",
        "libcrypto.so.3",
    ];
    let mut paths = vec![std::env::current_exe().unwrap()];
    for name in NAMES {
        match DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(name))
            .find(|path| path.exists())
        {
            Some(path) => paths.push(path),
            None => skip(&format!("{name} is not here")),
        }
    }
    match python() {
        Some(path) => paths.push(path),
        None => skip("there is no python3"),
    }
    let mut objects: Vec<_> = paths
        .into_iter()
        .map(|path| RealObject {
            name: path.display().to_string(),
            bytes: fs::read(&path).unwrap(),
        })
        .collect();
    match vdso() {
        Some(bytes) => objects.push(RealObject {
            name: "[vdso]".to_owned(),
            bytes,
        }),
        None => skip("[vdso] cannot be read"),
    }
    objects
}

/// The interpreter itself, not a script that starts it.
pub(crate) fn python() -> Option<PathBuf> {
    let path = ["/usr/bin/python3", "/usr/local/bin/python3"]
        .into_iter()
        .find(|path| Path::new(path).exists())?;
    fs::canonicalize(path).ok()
}

fn vdso() -> Option<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let mut bytes = vec![0; (end - start) as usize];
    fs::File::open("/proc/self/mem")
        .ok()?
        .read_exact_at(&mut bytes, start)
        .ok()?;
    Some(bytes)
}
