//! The walker's step on stacks made by hand: each rule, each way to end.

use std::collections::HashMap;

use profiler_common::{
    limits::MAX_USER_FRAMES,
    process::{Mapping, kind},
    row::{CfaRule, Page, RbpRule, Row},
    stop::StopReason,
    walk::{MAX_STEPS, Target, Walk, flags, step},
};

const CODE: u64 = 0x5000_0000;
const JIT: u64 = 0x6000_0000;
const XOL: u64 = 0x7000_0000;
const STACK: u64 = 0x7fff_0000;

/// A process with code that has rows at [`CODE`], code without at [`JIT`] and a uprobes page at [`XOL`].
#[derive(Default)]
struct Process {
    memory: HashMap<u64, u64>,
    mappings: Vec<Mapping>,
    pages: Vec<Page>,
    rows: Vec<Row>,
    frames: Vec<u64>,
    uprobe_original: Option<u64>,
    uprobe_returns: Vec<u64>,
}

impl Target for Process {
    fn read(&self, runtime_address: u64) -> Option<u64> {
        self.memory.get(&runtime_address).copied()
    }
    fn mapping(&self, index: u32) -> Option<&Mapping> {
        self.mappings.get(index as usize)
    }
    fn page(&self, index: u32) -> Option<Page> {
        self.pages.get(index as usize).copied()
    }
    fn row(&self, index: u32) -> Option<Row> {
        self.rows.get(index as usize).copied()
    }
    fn push(&mut self, index: u32, ip: u64, _sp: u64) {
        assert_eq!(index as usize, self.frames.len(), "frames are pushed in order");
        self.frames.push(ip);
    }
    fn uprobe_instruction(&self, _ip: u64) -> Option<u64> {
        self.uprobe_original
    }
    fn uprobe_return(&mut self, index: u32) -> Option<u64> {
        self.uprobe_returns.get(index as usize).copied()
    }
}

impl Process {
    /// Code at `CODE + offset` follows the rows; the mapping of another process lies before ours.
    fn new(rows: &[Row]) -> Self {
        let foreign = Mapping {
            start: CODE,
            end: CODE + 0x10000,
            bias: CODE,
            page_base: 1,
            kind: kind::PENDING,
        };
        let mapping = |start, kind| Mapping {
            start,
            end: start + 0x1000,
            bias: start,
            page_base: 0,
            kind,
        };
        Self {
            mappings: vec![
                foreign,
                mapping(CODE, kind::ROWS),
                mapping(JIT, kind::FRAME_POINTERS),
                mapping(XOL, kind::UPROBES),
            ],
            pages: vec![Page::new(0, rows.len() as u32)],
            rows: rows.to_vec(),
            ..Self::default()
        }
    }

    fn word(mut self, address: u64, value: u64) -> Self {
        self.memory.insert(address, value);
        self
    }

    /// Walks from `ip` with the stack pointer at [`STACK`]; why it ended and the frames.
    fn walk(&mut self, ip: u64, bp: u64) -> (StopReason, Vec<u64>) {
        self.walk_from(Walk {
            ip,
            bp,
            sp: STACK,
            flags: flags::INTERRUPTED,
            ..Walk::default()
        })
    }

    fn walk_from(&mut self, walk: Walk) -> (StopReason, Vec<u64>) {
        let count = self.mappings.len() as u32 - 1;
        let mut walk = Walk {
            first_mapping: 1,
            mapping_hint: 1,
            mapping_count: count,
            stop: StopReason::DepthLimit as u32,
            ..walk
        };
        let mut steps = 0;
        while steps < MAX_STEPS && step(&mut walk, self) {
            steps += 1;
        }
        assert_eq!(walk.frames as usize, self.frames.len());
        (
            StopReason::from_number(walk.stop as u8).expect("a known reason"),
            std::mem::take(&mut self.frames),
        )
    }
}

fn row(offset: u16, cfa: CfaRule, cfa_offset: i64, rbp: RbpRule, rbp_offset: i64) -> Row {
    Row::new(offset, cfa, cfa_offset, rbp, rbp_offset).expect("offsets that fit")
}

/// 0x000 a leaf, 0x100 the root, 0x200 a gap.
fn leaf_and_root(leaf: Row) -> Vec<Row> {
    vec![
        leaf,
        Row::marker(0x100, CfaRule::Root),
        Row::marker(0x200, CfaRule::Gap),
    ]
}

#[test]
fn rsp_rule_reaches_the_root() {
    let mut process =
        Process::new(&leaf_and_root(row(0, CfaRule::Rsp, 16, RbpRule::Same, 0))).word(STACK + 8, CODE + 0x110);
    assert_eq!(
        process.walk(CODE + 5, 0),
        (StopReason::Root, vec![CODE + 5, CODE + 0x110])
    );
}

#[test]
fn a_return_address_is_looked_up_before_itself() {
    // The call was the last instruction before 0x100; the root's row begins there and must not be used.
    let rows = vec![
        row(0, CfaRule::Rsp, 16, RbpRule::Same, 0),
        row(0x80, CfaRule::Rsp, 8, RbpRule::Same, 0),
        Row::marker(0x100, CfaRule::Root),
    ];
    let mut process = Process::new(&rows)
        .word(STACK + 8, CODE + 0x100)
        .word(STACK + 16, CODE + 0x101);
    assert_eq!(
        process.walk(CODE + 5, 0),
        (StopReason::Root, vec![CODE + 5, CODE + 0x100, CODE + 0x101])
    );
}

#[test]
fn rbp_rule_restores_rbp() {
    let rows = vec![
        row(0, CfaRule::Rbp, 16, RbpRule::AtCfa, -16),
        row(0x80, CfaRule::Rbp, 16, RbpRule::AtCfa, -16),
        Row::marker(0x100, CfaRule::Root),
    ];
    let mut process = Process::new(&rows)
        .word(STACK + 0x20, STACK + 0x40)
        .word(STACK + 0x28, CODE + 0x90)
        .word(STACK + 0x40, 0)
        .word(STACK + 0x48, CODE + 0x110);
    assert_eq!(
        process.walk(CODE + 5, STACK + 0x20),
        (StopReason::Root, vec![CODE + 5, CODE + 0x90, CODE + 0x110])
    );
}

#[test]
fn realigned_frames() {
    // Prologue: CFA is r10. Body: CFA is at rbp - 8, rbp saved at rbp.
    let prologue = leaf_and_root(row(0, CfaRule::R10, 0, RbpRule::Same, 0));
    let mut process = Process::new(&prologue).word(STACK + 0x38, CODE + 0x110);
    let walk = Walk {
        ip: CODE + 5,
        sp: STACK,
        r10: STACK + 0x40,
        flags: flags::INTERRUPTED,
        ..Walk::default()
    };
    assert_eq!(process.walk_from(walk).0, StopReason::Root);
    let body = leaf_and_root(row(0, CfaRule::DerefRbp, -8, RbpRule::AtRbp, 0));
    let mut process = Process::new(&body)
        .word(STACK + 0x18, STACK + 0x40)
        .word(STACK + 0x20, 0x1234)
        .word(STACK + 0x38, CODE + 0x110);
    assert_eq!(process.walk(CODE + 5, STACK + 0x20).0, StopReason::Root);
}

#[test]
fn registers_are_known_in_the_innermost_frame_only() {
    for (rule, value) in [
        (CfaRule::R10, 1),
        (CfaRule::R11, 2),
        (CfaRule::R13, 3),
        (CfaRule::Rax, 4),
    ] {
        let rows = vec![
            row(0, CfaRule::Rsp, 8, RbpRule::Same, 0),
            row(0x80, rule, 8, RbpRule::Same, 0),
            Row::marker(0x100, CfaRule::Root),
        ];
        let mut process = Process::new(&rows)
            .word(STACK, CODE + 0x90)
            .word(STACK + value * 0x100, CODE + 0x110);
        let registers = Walk {
            sp: STACK,
            r10: STACK + 0x100,
            r11: STACK + 0x200,
            r13: STACK + 0x300,
            rax: STACK + 0x400,
            flags: flags::INTERRUPTED,
            ..Walk::default()
        };
        assert_eq!(
            process
                .walk_from(Walk {
                    ip: CODE + 5,
                    ..registers
                })
                .0,
            StopReason::RegisterUnknown,
            "{rule:?}"
        );
        assert_eq!(
            process
                .walk_from(Walk {
                    ip: CODE + 0x90,
                    ..registers
                })
                .0,
            StopReason::Root,
            "{rule:?}"
        );
    }
}

#[test]
fn a_signal_frame_restores_registers_from_the_frame() {
    // The trampoline at 0x40; the interrupted code at 0x80 finds its CFA in r10, which is in the frame.
    let rows = vec![
        row(0, CfaRule::Rsp, 8, RbpRule::Same, 0),
        Row::marker(0x40, CfaRule::SignalFrame),
        row(0x80, CfaRule::R10, 0, RbpRule::Same, 0),
        Row::marker(0x100, CfaRule::Root),
    ];
    let frame = STACK + 8;
    let other_stack = STACK - 0x8000;
    let mut process = Process::new(&rows)
        .word(STACK, CODE + 0x41)
        .word(frame + 56, other_stack + 0x40)
        .word(frame + 120, 0)
        .word(frame + 160, other_stack)
        .word(frame + 168, CODE + 0x80)
        .word(other_stack + 0x38, CODE + 0x110);
    // 0x80 is the very first instruction of its function: minus one would find the trampoline again.
    let expect = vec![CODE + 5, CODE + 0x41, CODE + 0x80, CODE + 0x110];
    assert_eq!(process.walk(CODE + 5, 0), (StopReason::Root, expect));
}

#[test]
fn plt_stubs() {
    for (rule, threshold) in [(CfaRule::Plt, 11), (CfaRule::Plt10, 10)] {
        for low in 0..16 {
            let pushed = if low >= threshold { 8 } else { 0 };
            let mut process =
                Process::new(&leaf_and_root(row(0, rule, 0, RbpRule::Same, 0))).word(STACK + pushed, CODE + 0x110);
            assert_eq!(
                process.walk(CODE + 0x20 + low, 0).0,
                StopReason::Root,
                "{rule:?} at {low}"
            );
        }
    }
}

#[test]
fn frame_pointers_through_generated_code() {
    let mut process = Process::new(&leaf_and_root(row(0, CfaRule::Rsp, 8, RbpRule::Same, 0)))
        .word(STACK + 0x20, STACK + 0x40)
        .word(STACK + 0x28, JIT + 0x50)
        .word(STACK + 0x40, 0)
        .word(STACK + 0x48, CODE + 0x110);
    let expect = vec![JIT + 5, JIT + 0x50, CODE + 0x110];
    assert_eq!(process.walk(JIT + 5, STACK + 0x20), (StopReason::Root, expect));
    let mut process = Process::new(&[]);
    assert_eq!(process.walk(JIT + 5, 0).0, StopReason::FramePointerEnd);
    assert_eq!(process.walk(JIT + 5, STACK + 4).0, StopReason::FramePointerImplausible);
    assert_eq!(process.walk(JIT + 5, STACK - 8).0, StopReason::FramePointerImplausible);
    assert_eq!(
        process.walk(JIT + 5, STACK + (2 << 20)).0,
        StopReason::FramePointerImplausible
    );
    assert_eq!(process.walk(JIT + 5, STACK + 8).0, StopReason::ReadFailed);
}

#[test]
fn uprobes_page() {
    let rows = leaf_and_root(row(0, CfaRule::Rsp, 8, RbpRule::Same, 0));
    // A copied instruction stands for the original; a replaced return address for the caller.
    let mut process = Process::new(&rows).word(STACK, XOL).word(STACK + 8, CODE + 0x110);
    process.uprobe_original = Some(CODE + 5);
    process.uprobe_returns = vec![CODE + 6];
    assert_eq!(
        process.walk(XOL + 0x80, 0),
        (StopReason::Root, vec![CODE + 5, CODE + 6, CODE + 0x110])
    );
    // Nothing known of it.
    let mut process = Process::new(&rows).word(STACK, XOL);
    assert_eq!(process.walk(XOL + 0x80, 0), (StopReason::Uprobe, vec![XOL + 0x80]));
    assert_eq!(process.walk(CODE + 5, 0), (StopReason::Uprobe, vec![CODE + 5, XOL]));
    // An original that is in the page again must not loop.
    process.uprobe_original = Some(XOL + 0x80);
    assert_eq!(process.walk(XOL + 0x80, 0).0, StopReason::Uprobe);
}

#[test]
fn each_other_reason() {
    let rsp = |offset| row(0, CfaRule::Rsp, offset, RbpRule::Same, 0);
    let check = |rows: &[Row], words: &[(u64, u64)], ip: u64, reason: StopReason| {
        let mut process = Process::new(rows);
        process.memory.extend(words.iter().copied());
        assert_eq!(process.walk(ip, 0).0, reason);
    };
    check(&leaf_and_root(rsp(8)), &[], 0x1000, StopReason::NoMapping);
    // In the range of mapping 0, which is another process's, but before our own.
    check(&leaf_and_root(rsp(8)), &[], CODE + 0x2000, StopReason::NoMapping);
    check(&leaf_and_root(rsp(8)), &[], CODE + 0x210, StopReason::NoRow);
    check(&leaf_and_root(rsp(8)), &[], CODE + 5, StopReason::ReadFailed);
    check(
        &leaf_and_root(rsp(8)),
        &[(STACK, 0)],
        CODE + 5,
        StopReason::ZeroReturnAddress,
    );
    check(
        &leaf_and_root(rsp(0)),
        &[(STACK - 8, CODE + 0x110)],
        CODE + 5,
        StopReason::NotAdvancing,
    );
    check(
        &[Row::marker(0, CfaRule::Unsupported)],
        &[],
        CODE + 5,
        StopReason::UnsupportedRule,
    );
    let mut process = Process::new(&[]);
    process.pages = vec![Page::NOT_LOADED];
    assert_eq!(process.walk(CODE + 5, 0), (StopReason::PageNotLoaded, vec![CODE + 5]));
    process.pages.clear();
    assert_eq!(process.walk(CODE + 5, 0).0, StopReason::PageNotLoaded);
    process.mappings[1].kind = kind::PENDING;
    assert_eq!(process.walk(CODE + 5, 0), (StopReason::Pending, vec![CODE + 5]));
}

#[test]
fn a_lost_rbp_ends_the_walk_only_where_it_is_needed() {
    let lost = row(0, CfaRule::Rsp, 8, RbpRule::Lost, 0);
    let rows = vec![
        lost,
        row(0x80, CfaRule::Rsp, 8, RbpRule::Same, 0),
        row(0xc0, CfaRule::Rbp, 16, RbpRule::Same, 0),
        Row::marker(0x100, CfaRule::Root),
    ];
    let mut process = Process::new(&rows)
        .word(STACK, CODE + 0x90)
        .word(STACK + 8, CODE + 0x110);
    assert_eq!(process.walk(CODE + 5, STACK).0, StopReason::Root);
    let mut process = Process::new(&rows).word(STACK, CODE + 0xd0);
    assert_eq!(process.walk(CODE + 5, STACK).0, StopReason::RegisterUnknown);
}

#[test]
fn rbp_saved_relative_to_a_lost_rbp_stays_lost() {
    let lost = row(0, CfaRule::Rsp, 8, RbpRule::Lost, 0);
    let at_rbp = row(0x80, CfaRule::Rsp, 8, RbpRule::AtRbp, 0);
    let needs = row(0xc0, CfaRule::Rbp, 16, RbpRule::Same, 0);
    let rows = vec![lost, at_rbp, needs, Row::marker(0x100, CfaRule::Root)];
    let mut process = Process::new(&rows)
        .word(STACK, CODE + 0x90)
        .word(STACK + 8, CODE + 0xd0)
        .word(STACK + 0x40, STACK + 0x20);
    assert_eq!(process.walk(CODE + 5, STACK + 0x40).0, StopReason::RegisterUnknown);
}

#[test]
fn depth_is_limited() {
    let mut process = Process::new(&leaf_and_root(row(0, CfaRule::Rsp, 8, RbpRule::Same, 0)));
    for index in 0..2000 {
        process.memory.insert(STACK + index * 8, CODE + 0x10);
    }
    let (reason, frames) = process.walk(CODE + 5, 0);
    assert_eq!((reason, frames.len()), (StopReason::DepthLimit, MAX_USER_FRAMES));
}

#[test]
fn rows_keep_what_they_are_given() {
    for (cfa_offset, rbp_offset) in [
        (0, 0),
        (8, -16),
        (-8, 8),
        (64 << 20, 0),
        (-(64 << 20), -262_144),
        ((64 << 20) - 8, 262_136),
    ] {
        let row = Row::new(0xfedc, CfaRule::R11, cfa_offset, RbpRule::Lost, rbp_offset);
        let fits = cfa_offset < 64 << 20;
        assert_eq!(row.is_some(), fits, "{cfa_offset}");
        if let Some(row) = row {
            assert_eq!(
                (row.page_offset(), row.cfa_rule(), row.rbp_rule()),
                (0xfedc, CfaRule::R11 as u8, RbpRule::Lost as u8)
            );
            assert_eq!((row.cfa_offset(), row.rbp_offset()), (cfa_offset, rbp_offset));
            assert_eq!(row.at(3).rule(), row.rule());
        }
    }
    assert_eq!(Row::new(0, CfaRule::Rsp, 4, RbpRule::Same, 0), None);
    assert_eq!(Row::new(0, CfaRule::Rsp, 8, RbpRule::AtCfa, 262_144), None);
}
