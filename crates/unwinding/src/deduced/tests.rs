use std::{sync::mpsc, thread, time::Duration};

use profiler_common::row::{CfaRule, RbpRule};

use super::*;

const START: u64 = 0x1_0000;

/// Where the frame's address and the caller's `rbp` are.
type Rule = (CfaRule, i64, RbpRule, i64);

/// Holds the rules at offsets in some code against the expected ones; `None` where there is to be no rule.
#[track_caller]
fn check(code: &[u8], expect: &[(u64, Option<Rule>)]) {
    let deduced = deduce(code, START);
    for (offset, expected) in expect {
        let rule = deduced.rule(START + offset).map(|row| row.rule());
        let expected = expected
            .map(|(cfa, cfa_offset, rbp, rbp_offset)| Row::new(0, cfa, cfa_offset, rbp, rbp_offset).unwrap().rule());
        assert_eq!(rule, expected, "at {offset:#x} of {:#x?}", deduced.rules);
    }
}

const fn rsp(offset: i64) -> Option<Rule> {
    Some((CfaRule::Rsp, offset, RbpRule::Same, 0))
}

const fn saved(offset: i64, rbp: i64) -> Option<Rule> {
    Some((CfaRule::Rsp, offset, RbpRule::AtCfa, rbp))
}

#[test]
fn registers_saved_by_moves() {
    // sub rsp, 0x40; mov [rsp + 8], rbp; mov rbp, r9; lea rbp, [rbp + 0x80]; jne back; mov rbp, [rsp + 8]; add rsp, 0x40; ret
    let code = [
        0x48, 0x83, 0xec, 0x40, 0x48, 0x89, 0x6c, 0x24, 0x08, 0x4c, 0x89, 0xcd, 0x48, 0x8d, 0xad, 0x80, 0, 0, 0, 0x75,
        0xf7, 0x48, 0x8b, 0x6c, 0x24, 0x08, 0x48, 0x83, 0xc4, 0x40, 0xc3,
    ];
    let expect = [
        (0, rsp(8)),
        (4, rsp(0x48)),
        (9, rsp(0x48)),
        (12, saved(0x48, -0x40)),
        (19, saved(0x48, -0x40)),
        (21, saved(0x48, -0x40)),
        (26, rsp(0x48)),
        (30, rsp(8)),
        (31, None),
    ];
    check(&code, &expect);
}

#[test]
fn a_frame_that_is_realigned() {
    // push rbp; mov rbp, rsp; push rbx; and rsp, -64; sub rsp, 0x300; call …; lea rsp, [rbp - 8]; pop rbx; pop rbp; ret
    let code = [
        0x55, 0x48, 0x89, 0xe5, 0x53, 0x48, 0x83, 0xe4, 0xc0, 0x48, 0x81, 0xec, 0, 3, 0, 0, 0xe8, 0, 0, 1, 0, 0x48,
        0x8d, 0x65, 0xf8, 0x5b, 0x5d, 0xc3,
    ];
    let by_rbp = Some((CfaRule::Rbp, 16, RbpRule::AtCfa, -16));
    let expect = [
        (0, rsp(8)),
        (1, rsp(16)),
        (4, saved(16, -16)),
        (9, by_rbp),
        (16, by_rbp),
        (21, by_rbp),
        (25, saved(24, -16)),
        (27, rsp(8)),
    ];
    check(&code, &expect);
}

#[test]
fn a_stack_pointer_kept_on_the_stack() {
    // mov rax, rsp; and rsp, -64; sub rsp, 0x40; mov [rsp + 0x38], rax; call …; mov rsp, [rsp + 0x38]; ret
    let code = [
        0x48, 0x89, 0xe0, 0x48, 0x83, 0xe4, 0xc0, 0x48, 0x83, 0xec, 0x40, 0x48, 0x89, 0x44, 0x24, 0x38, 0xe8, 0, 0, 1,
        0, 0x48, 0x8b, 0x64, 0x24, 0x38, 0xc3,
    ];
    let expect = [
        (3, rsp(8)),
        (7, Some((CfaRule::Rax, 8, RbpRule::Same, 0))),
        (16, Some((CfaRule::DerefRspPlus8, 0x38, RbpRule::Same, 0))),
        (21, Some((CfaRule::DerefRspPlus8, 0x38, RbpRule::Same, 0))),
        (26, rsp(8)),
    ];
    check(&code, &expect);
}

#[test]
fn ways_that_do_not_end_as_they_must() {
    let refused = |code: &[u8]| check(code, &[(0, None)]);
    // A return with a word left on the stack, without the caller's rbp, with arguments taken away.
    refused(&[0x50, 0xc3]);
    refused(&[0x31, 0xed, 0xc3]);
    refused(&[0xc2, 8, 0]);
    // The stack pointer cannot be told: mov rsp, rdi; ret
    refused(&[0x48, 0x89, 0xfc, 0xc3]);
    // A jump through a register in the middle of a function: push rbx; jmp rax
    refused(&[0x53, 0xff, 0xe0]);
    // An endless loop, a trap alone, what is no instruction, what runs off the end.
    refused(&[0xeb, 0xfe]);
    refused(&[0x0f, 0x0b]);
    refused(&[0x50, 0x06]);
    refused(&[0x58]);
    refused(&[]);
    // Ways that meet with different stacks: je +1; push rax; ret
    refused(&[0x74, 0x01, 0x50, 0xc3]);
    // A jump into the middle of an instruction: je +1; mov eax, 0xc3c3c3c3; ret
    refused(&[0x74, 0x01, 0xb8, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3]);
    // A jump to other code with a word left on the stack.
    refused(&[0x50, 0xe9, 0, 0, 1, 0]);
}

#[test]
fn jumps_to_other_functions() {
    // jmp far; padding; a function that falls into the next one's return: je +…
    check(&[0xe9, 0, 0, 1, 0], &[(0, rsp(8))]);
    check(&[0xff, 0xe0], &[(0, rsp(8))]);
    let mut code = vec![0x50, 0x58, 0xeb, 0x0c];
    code.resize(16, 0xcc);
    code.extend([0x53, 0x5b, 0xc3]);
    check(
        &code,
        &[
            (0, rsp(8)),
            (1, rsp(16)),
            (2, rsp(8)),
            (4, None),
            (16, rsp(8)),
            (17, rsp(16)),
            (18, rsp(8)),
        ],
    );
    assert_eq!(deduce(&code, START).functions, 1);
}

#[test]
fn behind_code_that_cannot_be_followed() {
    // push rbx; jmp rax; padding; then a block of that function, which pops what it did not push; then a function
    let mut code = vec![0x53, 0xff, 0xe0];
    code.resize(16, 0x90);
    code.extend([0x5b, 0xc3]);
    code.resize(32, 0);
    code.extend([0x50, 0x58, 0xc3]);
    check(&code, &[(0, None), (16, None), (17, None), (32, rsp(8)), (33, rsp(16))]);
    // Bytes that are no code first.
    let mut code = vec![0x06; 16];
    code.extend([0x50, 0x58, 0xc3]);
    check(&code, &[(0, None), (16, rsp(8)), (17, rsp(16))]);
}

#[test]
fn what_a_call_may_change() {
    // push rbp; mov [rsp - 16], rbx; call …; pop rbp; ret: rbp is safe in its slot, and registers that calls preserve are.
    let code = [0x55, 0x48, 0x89, 0x5c, 0x24, 0xf0, 0xe8, 0, 0, 1, 0, 0x5d, 0xc3];
    check(&code, &[(11, rsp(16)), (12, rsp(8))]);
    // mov [rsp - 8], rbp; xor ebp, ebp; call …; mov rbp, [rsp - 8]; ret: the call overwrites it.
    let code = [
        0x48, 0x89, 0x6c, 0x24, 0xf8, 0x31, 0xed, 0xe8, 0, 0, 1, 0, 0x48, 0x8b, 0x6c, 0x24, 0xf8, 0xc3,
    ];
    check(&code, &[(0, None)]);
    // The same without a call.
    let code = [
        0x48, 0x89, 0x6c, 0x24, 0xf8, 0x31, 0xed, 0x48, 0x8b, 0x6c, 0x24, 0xf8, 0xc3,
    ];
    check(&code, &[(5, rsp(8)), (7, saved(8, -16)), (12, rsp(8))]);
    // mov r11, rsp; call …; mov rsp, r11; ret
    check(
        &[0x49, 0x89, 0xe3, 0xe8, 0, 0, 1, 0, 0x4c, 0x89, 0xdc, 0xc3],
        &[(0, None)],
    );
}

#[test]
fn any_bytes_are_gone_over_in_bounded_time() {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut code = vec![0; 1 << 16];
    for round in 0..8 {
        for byte in &mut code {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            // Pushes, pops, jumps and returns, so that ways are found at all.
            *byte = match round % 2 {
                0 => word as u8,
                _ => [0x50, 0x58, 0x74, 0xeb, 0xc3, 0x90, 0x55, 0x5d][word as usize % 8],
            };
        }
        assert_eq!(
            deduce(&code, u64::MAX - (1 << 15)).functions,
            0,
            "addresses that cannot be"
        );
        let deduced_here = deduce(&code, START);
        let mut end = 0;
        for (range, rule) in deduced_here.rules() {
            assert!(range.start < range.end && range.start >= end && range.end <= START + code.len() as u64);
            assert_ne!(rule.cfa_rule(), CfaRule::Root as u8);
            end = range.end;
        }
        assert!(deduced_here.bytes() <= code.len() as u64);
    }
}

/// Deduces code that would take hours if the time grew with the square of its length.
#[track_caller]
fn functions_in_time(what: &str, code: Vec<u8>) -> u64 {
    let (done, deduced) = mpsc::sync_channel(1);
    thread::spawn(move || done.send(deduce(&code, START).functions));
    deduced
        .recv_timeout(Duration::from_secs(60))
        .unwrap_or_else(|_| panic!("{what} takes too long"))
}

#[test]
fn long_padding_is_gone_over_once() {
    let paddings: [&[u8]; 8] = [
        &[0xcc],
        &[0x90],
        &[0xcc, 0x90],
        &[0x66, 0x90, 0xcc],
        &[0xcc, 0xcc, 0x0f, 0x1f, 0x44, 0, 0],
        &[0xcc, 0],
        &[0],
        &[0xc2, 8, 0, 0xcc],
    ];
    for padding in paddings {
        // ret 8, and what follows does not begin where a function would.
        let mut code = vec![0xc2, 8, 0];
        code.extend(padding.iter().cycle().take((1 << 20) + 1));
        assert_eq!(functions_in_time(&format!("padding of {padding:x?}"), code), 0);
    }
    // What is behind it is found.
    let mut code = vec![0xc2, 8, 0];
    code.resize(41, 0xcc);
    code.extend([0xc2, 8, 0, 0x50, 0x58, 0xc3]);
    code.resize(64, 0xcc);
    code.extend([0x50, 0x58, 0xc3]);
    check(&code, &[(0, None), (44, None), (64, rsp(8)), (65, rsp(16))]);
}

#[test]
fn functions_that_end_within_one_another_are_gone_over_once() {
    const FUNCTIONS: usize = 1 << 16;
    // Each jumps into a run of zeros, one byte before the one that came before it: two zeros are an instruction, so that
    // it ends within what that one left.
    let zeros = 5 * FUNCTIONS;
    let mut code = Vec::with_capacity(zeros + FUNCTIONS + 3);
    for function in 1..=FUNCTIONS {
        let target = zeros + FUNCTIONS - function;
        code.push(0xe9);
        code.extend((target as u32 - 5 * function as u32).to_le_bytes());
    }
    code.resize(zeros + FUNCTIONS, 0);
    code.extend([0xc3; 3]);
    // The last return is one of its own.
    assert_eq!(functions_in_time("a chain of functions", code), FUNCTIONS as u64 + 1);
}
