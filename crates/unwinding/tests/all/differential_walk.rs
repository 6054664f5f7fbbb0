//! The walker with compiled rows, on running programs stopped at random, held against framehop and against a complete
//! unwinder by the book, frame by frame.
//!
//! All three take each step from the same registers, so that one wrong frame is one disagreement.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, FrameAddress, Module, Unwinder};
use profiler_common::process::{Mapping, kind};
use profiler_common::row::{CfaRule, Page, Row};
use profiler_common::stop::StopReason;
use profiler_common::walk::{self, MAX_STEPS, Target, Walk, flags};
use profiler_tests::not_run::skip;
use profiler_unwinding::{CallFrames, Limits};

use crate::reference::{RBP, RIP, RSP, ReferenceModule, Registers, Step};
use crate::support::python;
use crate::tracee::{CodeMapping, Tracee};

/// Rules that framehop does not know: it evaluates no expression that reads memory, and no other base registers.
const NOT_IN_FRAMEHOP: [CfaRule; 7] = [
    CfaRule::SignalFrame,
    CfaRule::DerefRbp,
    CfaRule::DerefRspPlus8,
    CfaRule::R10,
    CfaRule::R13,
    CfaRule::Rax,
    CfaRule::R11,
];

/// What one program's stacks came to.
#[derive(Debug, Default)]
struct Tally {
    stacks: u64,
    frames: u64,
    deepest: u32,
    frames_like_framehop: u64,
    frames_like_reference: u64,
    /// Frames left by rows that were deduced from code.
    deduced: u64,
    /// Frames left with each CFA rule.
    rules: BTreeMap<u8, u64>,
    stops: BTreeMap<&'static str, u64>,
    /// Frames in each object.
    objects: BTreeMap<String, u64>,
    disagreements: Vec<String>,
}

/// The maps of the walker, for one process.
#[derive(Default)]
struct Tables {
    mappings: Vec<Mapping>,
    pages: Vec<Page>,
    rows: Vec<Row>,
}

/// Everything known of a process's code; rebuilt when it maps or unmaps objects.
struct Code {
    tables: Tables,
    /// The object behind each of `tables.mappings`, where it has rows.
    modules: Vec<Option<&'static ReferenceModule<'static>>>,
    /// What all of it was built from; as many as `tables.mappings`.
    mappings: Vec<CodeMapping>,
    framehop: UnwinderX86_64<Vec<u8>>,
}

impl Code {
    fn of(mappings: Vec<CodeMapping>, objects: &HashMap<String, &'static Object>) -> Self {
        let mut code = Self {
            tables: Tables::default(),
            modules: Vec::new(),
            mappings: Vec::new(),
            framehop: UnwinderX86_64::new(),
        };
        for mapping in &mappings {
            let placed = objects
                .get(&mapping.path)
                .and_then(|object| code.place(mapping, object));
            if placed.is_none() {
                let (start, end) = (mapping.runtime.start, mapping.runtime.end);
                code.tables.mappings.push(Mapping {
                    start,
                    end,
                    kind: kind::FRAME_POINTERS,
                    ..Mapping::default()
                });
                code.modules.push(None);
            }
        }
        code.mappings = mappings;
        code
    }

    fn place(&mut self, mapping: &CodeMapping, object: &'static Object) -> Option<()> {
        let module = object.module.as_ref()?;
        let table = &module.table;
        let bias = module
            .call_frames
            .segments()
            .bias(mapping.runtime.start, mapping.file_offset)?;
        let covered = table.covered(mapping.runtime.clone(), bias)?;
        let tables = &mut self.tables;
        tables.mappings.push(Mapping {
            start: covered.start,
            end: covered.end,
            bias,
            page_base: (tables.pages.len() as u32).wrapping_sub(table.first_page as u32),
            kind: kind::ROWS,
        });
        let first_row = tables.rows.len() as u32;
        tables.pages.extend(table.pages.iter().map(|page| match *page {
            Page::EMPTY => Page::EMPTY,
            page => Page::new(first_row + page.first(), page.count()),
        }));
        tables.rows.extend(&table.rows);
        self.modules.push(Some(&module.reference));
        let link_address = module.call_frames.link_address();
        let bytes = module.call_frames.bytes();
        self.framehop.add_module(Module::new(
            mapping.path.clone(),
            mapping.runtime.clone(),
            bias,
            ExplicitModuleSectionInfo {
                eh_frame_svma: Some(link_address..link_address + bytes.len() as u64),
                eh_frame: Some(bytes.to_vec()),
                ..ExplicitModuleSectionInfo::default()
            },
        ));
        Some(())
    }
}

/// One file of a process, read once.
struct Object {
    module: Option<ObjectModule>,
}

struct ObjectModule {
    call_frames: CallFrames<'static>,
    table: profiler_unwinding::RowTable,
    reference: ReferenceModule<'static>,
}

impl Object {
    fn read(tracee: &Tracee, mapping: &CodeMapping) -> &'static Self {
        let bytes = if mapping.path == "[vdso]" {
            tracee.read_range(mapping.runtime.clone()).map(Vec::from)
        } else {
            fs::read(&mapping.path).ok()
        };
        // A handful of files for the life of the test process: what borrows from them may as well live as long.
        let bytes: &'static [u8] = bytes.unwrap_or_default().leak();
        let limits = Limits::default();
        let module = CallFrames::read(bytes, &limits).ok().and_then(|call_frames| {
            let table = call_frames.compile(&limits).ok()?;
            Some(ObjectModule {
                reference: ReferenceModule::new(&call_frames),
                table,
                call_frames,
            })
        });
        Box::leak(Box::new(Self { module }))
    }
}

/// Memory and tables for one walk.
struct Stopped<'a> {
    tracee: &'a Tracee,
    tables: &'a Tables,
}

impl Target for Stopped<'_> {
    fn read(&self, runtime_address: u64) -> Option<u64> {
        self.tracee.read(runtime_address)
    }

    fn mapping(&self, index: u32) -> Option<&Mapping> {
        self.tables.mappings.get(index as usize)
    }

    fn page(&self, index: u32) -> Option<Page> {
        self.tables.pages.get(index as usize).copied()
    }

    fn row(&self, index: u32) -> Option<Row> {
        self.tables.rows.get(index as usize).copied()
    }

    fn push(&mut self, _index: u32, _ip: u64, _sp: u64) {}

    fn uprobe_instruction(&self, _ip: u64) -> Option<u64> {
        None
    }

    fn uprobe_return(&mut self, _index: u32) -> Option<u64> {
        None
    }
}

impl Tally {
    /// Walks the stack of a stopped program with all three.
    fn walk(&mut self, tracee: &Tracee, code: &Code, cache: &mut CacheX86_64) {
        let mut registers: Registers = tracee.registers().map(Some);
        let known = |number: usize| registers[number].unwrap_or_default();
        let mut walk = Walk {
            ip: known(RIP),
            sp: known(RSP),
            bp: known(RBP),
            r10: known(10),
            r11: known(11),
            r13: known(13),
            rax: known(0),
            mapping_count: code.tables.mappings.len() as u32,
            flags: flags::INTERRUPTED,
            ..Walk::default()
        };
        let mut target = Stopped {
            tracee,
            tables: &code.tables,
        };
        let mut steps = 0;
        loop {
            let before = walk;
            let goes_on = walk::step(&mut walk, &mut target);
            self.frames += 1;
            self.deepest = self.deepest.max(walk.frames);
            let interrupted = before.flags & flags::INTERRUPTED != 0;
            let address = before.ip.wrapping_sub(u64::from(!interrupted));
            // Of an address in no mapping there is only the mapping of the frame before.
            let mapping = code.tables.mappings.get(walk.mapping_hint as usize);
            let mapping = mapping.filter(|mapping| (mapping.start..mapping.end).contains(&address));
            let module = code.modules.get(walk.mapping_hint as usize).copied().flatten();
            if let (Some(module), Some(mapping)) = (module, mapping) {
                let link_address = address.wrapping_sub(mapping.bias);
                let reference = module.step(link_address, &registers, &|address| tracee.read(address));
                // Where the book has no function, the rows are deduced from the code.
                let is_deduced = goes_on && matches!(reference, Step::NoFunction);
                if is_deduced {
                    self.hold_against_code(&before, &walk, tracee);
                    registers = [None; 17];
                    (registers[RSP], registers[RBP]) = (Some(walk.sp), Some(walk.bp));
                } else {
                    self.hold_against_reference(&before, &walk, goes_on, &reference);
                }
                if let Step::Caller { registers: caller, .. } = reference {
                    registers = *caller;
                }
                *self
                    .objects
                    .entry(code.mappings[walk.mapping_hint as usize].path.clone())
                    .or_default() += 1;
                let row = self.count_rule(code, link_address, mapping);
                if !is_deduced && !NOT_IN_FRAMEHOP.iter().any(|rule| *rule as u8 == row) {
                    self.hold_against_framehop(&before, &walk, goes_on, code, cache, tracee);
                }
            } else {
                registers = [None; 17];
                (registers[RSP], registers[RBP]) = (Some(walk.sp), Some(walk.bp));
            }
            registers[RIP] = Some(walk.ip);
            steps += 1;
            if !goes_on || steps == MAX_STEPS {
                break;
            }
        }
        self.stacks += 1;
        let stop = StopReason::from_number(walk.stop as u8).unwrap();
        *self.stops.entry(stop.name()).or_default() += 1;
    }

    fn count_rule(&mut self, code: &Code, link_address: u64, mapping: &Mapping) -> u8 {
        let page = mapping.page_base.wrapping_add((link_address >> 16) as u32);
        let page = code.tables.pages[page as usize];
        let rows = &code.tables.rows[page.first() as usize..(page.first() + page.count()) as usize];
        let after = rows.partition_point(|row| row.page_offset() <= link_address as u16);
        let rule = after
            .checked_sub(1)
            .map_or(CfaRule::Gap as u8, |index| rows[index].cfa_rule());
        *self.rules.entry(rule).or_default() += 1;
        rule
    }

    fn hold_against_reference(&mut self, before: &Walk, after: &Walk, goes_on: bool, reference: &Step) {
        let agrees = match (goes_on, reference) {
            (true, Step::Caller { registers, interrupted }) => {
                registers[RIP] == Some(after.ip)
                    && registers[RSP] == Some(after.sp)
                    && (registers[RBP] == Some(after.bp) || after.flags & flags::BP_LOST != 0)
                    && *interrupted == (after.flags & flags::INTERRUPTED != 0)
            }
            (true, _) => false,
            (false, Step::Root) => after.stop == StopReason::Root as u32,
            (false, Step::NoFunction) => after.stop == StopReason::NoRow as u32,
            // A walk may give up where the book goes on, if it says why; the reasons are counted.
            (false, _) => after.stop != StopReason::Root as u32,
        };
        if agrees {
            self.frames_like_reference += 1;
        } else {
            self.disagreements.push(format!(
                "the book: from {before:x?} to {after:x?}, goes on {goes_on}, but the book says {reference:x?}"
            ));
        }
    }

    /// What a return address was deduced to be must lie behind a call.
    fn hold_against_code(&mut self, before: &Walk, after: &Walk, tracee: &Tracee) {
        self.deduced += 1;
        let bytes = tracee.read(after.ip.wrapping_sub(8)).unwrap_or_default().to_le_bytes();
        // `call` of an address, and through a register or memory with and without prefixes and displacements.
        let is_call = bytes[3] == 0xe8 || (1..=6).any(|at| bytes[at] == 0xff && bytes[at + 1] & 0x38 == 0x10);
        if is_call {
            self.frames_like_reference += 1;
        } else {
            self.disagreements.push(format!(
                "the code: from {before:x?} to {after:x?}, where no call is before the address: {bytes:x?}"
            ));
        }
    }

    fn hold_against_framehop(
        &mut self,
        before: &Walk,
        after: &Walk,
        goes_on: bool,
        code: &Code,
        cache: &mut CacheX86_64,
        tracee: &Tracee,
    ) {
        let address = if before.flags & flags::INTERRUPTED != 0 {
            FrameAddress::from_instruction_pointer(before.ip)
        } else {
            FrameAddress::from_return_address(before.ip).unwrap()
        };
        let mut regs = UnwindRegsX86_64::new(before.ip, before.sp, before.bp);
        let mut read = |address| tracee.read(address).ok_or(());
        let caller = code.framehop.unwind_frame(address, &mut regs, cache, &mut read);
        let agrees = match (goes_on, &caller) {
            (true, Ok(Some(ip))) => {
                *ip == after.ip && regs.sp() == after.sp && (regs.bp() == after.bp || after.flags & flags::BP_LOST != 0)
            }
            (true, _) => false,
            (false, Ok(None)) => after.stop == StopReason::Root as u32,
            // Where there is no description framehop guesses by the frame pointer.
            (false, _) => after.stop != StopReason::Root as u32,
        };
        if agrees {
            self.frames_like_framehop += 1;
        } else {
            self.disagreements.push(format!(
                "framehop: from {before:x?} to {after:x?}, goes on {goes_on}, but framehop says {caller:x?} {regs:x?}"
            ));
        }
    }
}

/// Stops a program at random points, takes some single steps from each, and walks its stack every time.
fn observe(mut tracee: Tracee, time: Duration) -> Tally {
    let mut tally = Tally::default();
    let mut objects = HashMap::new();
    let mut code = Code::of(Vec::new(), &objects);
    let mut cache = CacheX86_64::new();
    let start = Instant::now();
    let mut pause_us: u64 = 1;
    while start.elapsed() < time {
        pause_us = pause_us * 1_103_515_245 % 2_147_483_647;
        tracee.run_for(Duration::from_micros(pause_us % 1500));
        let mappings = tracee.code_mappings();
        if mappings != code.mappings {
            for mapping in &mappings {
                objects
                    .entry(mapping.path.clone())
                    .or_insert_with(|| Object::read(&tracee, mapping));
            }
            code = Code::of(mappings, &objects);
        }
        for _ in 0..24 {
            tally.walk(&tracee, &code, &mut cache);
            tracee.step();
        }
    }
    tally
}

#[track_caller]
fn check(name: &str, tally: &Tally, least_whole_percent: u64) {
    println!(
        "{name}: {} stacks, {} frames, deepest {}",
        tally.stacks, tally.frames, tally.deepest
    );
    println!(
        "  like the book {}, like framehop {}, deduced {}",
        tally.frames_like_reference, tally.frames_like_framehop, tally.deduced
    );
    println!(
        "  rules {:?}, ends {:?}, in {:?}",
        tally.rules, tally.stops, tally.objects
    );
    for disagreement in &tally.disagreements {
        println!("  {disagreement}");
    }
    assert!(tally.stacks >= 48, "{name}: only {} stacks", tally.stacks);
    assert!(
        tally.disagreements.len() as u64 * 1000 <= tally.frames,
        "{name}: {} disagreements in {} frames",
        tally.disagreements.len(),
        tally.frames
    );
    let whole = tally.stops.get(StopReason::Root.name()).copied().unwrap_or_default();
    assert!(
        whole * 100 >= tally.stacks * least_whole_percent,
        "{name}: only {whole} of {} stacks are whole",
        tally.stacks
    );
}

/// How long each program is observed: seconds in `UNWINDING_SECONDS`, or a few.
fn time() -> Duration {
    let seconds = env::var("UNWINDING_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

/// Builds the Rust program and observes it. `None`, with a note, where that is not possible.
fn observe_rust_program(arguments: &[&str]) -> Option<Tally> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/deep.rs");
    let name = format!("deep-{}-{}", std::process::id(), arguments.len());
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let built = Command::new("rustc")
        .args(["-O", "--edition", "2024", "-C", "force-frame-pointers=no", "-o"])
        .arg(&program)
        .arg(source)
        .status();
    match built {
        Ok(status) => assert!(status.success(), "rustc: {status}"),
        Err(error) => {
            skip(&format!("rustc does not start: {error}"));
            return None;
        }
    }
    let tally = Tracee::start(Command::new(&program).args(arguments)).map(|tracee| observe(tracee, time()));
    fs::remove_file(&program).unwrap();
    tally
}

#[test]
fn stacks_of_a_rust_program() {
    let Some(tally) = observe_rust_program(&[]) else { return };
    check("a Rust program", &tally, 98);
    assert!(tally.deepest > 50, "not deep: {}", tally.deepest);
    assert!(
        tally.rules.contains_key(&(CfaRule::SignalFrame as u8)),
        "no signal handler was met"
    );
}

#[test]
fn stacks_in_the_dynamic_loader_and_the_vdso() {
    let Some(tally) = observe_rust_program(&["libraries"]) else {
        return;
    };
    // The `.init` and `.fini` sections that are run as libraries come and go are described nowhere.
    check("loader and clock", &tally, 80);
    for object in ["[vdso]", "ld-linux"] {
        assert!(
            tally.objects.keys().any(|path| path.contains(object)),
            "never in {object}"
        );
    }
}

#[test]
fn stacks_of_python() {
    let Some(python) = python() else {
        skip("there is no python3");
        return;
    };
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/busy.py");
    if let Some(tracee) = Tracee::start(Command::new(python).arg(source)) {
        check("Python", &observe(tracee, time()), 98);
    }
}

/// Another program, by hand: `UNWINDING_COMMAND="program argument..."`. It prints `ready` and runs on.
#[test]
#[ignore = "needs a program to observe"]
fn stacks_of_a_given_program() {
    let Ok(command) = env::var("UNWINDING_COMMAND") else {
        panic!("UNWINDING_COMMAND is not set")
    };
    let mut words = command.split_ascii_whitespace();
    let mut command = Command::new(words.next().unwrap());
    if let Some(tracee) = Tracee::start(command.args(words)) {
        check("the given program", &observe(tracee, time()), 95);
    }
}
