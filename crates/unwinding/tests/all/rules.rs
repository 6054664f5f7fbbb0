//! Each form of call frame information and the row it becomes.

use profiler_common::row::{CfaRule, RbpRule, Row};
use profiler_unwinding::{CompileError, UnsupportedRule};

use crate::support::{CODE, CODE_BYTES, EhFrame, Object, cfa, check_layout, rows_at, usual_start};

const RAX: u8 = 0;
const RCX: u8 = 2;
const RBP: u8 = 6;
const RSP: u8 = 7;
const RIP: u8 = 16;

/// `breg7 8; breg16 0; lit15; and; lit<threshold>; ge; lit3; shl; plus`.
fn plt_expression(threshold: u8) -> Vec<u8> {
    vec![0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x30 + threshold, 0x2a, 0x33, 0x24, 0x22]
}

fn row(cfa_rule: CfaRule, cfa_offset: i64, rbp_rule: RbpRule, rbp_offset: i64) -> Row {
    Row::new(0, cfa_rule, cfa_offset, rbp_rule, rbp_offset).unwrap()
}

fn plain(cfa_rule: CfaRule, cfa_offset: i64) -> Row {
    row(cfa_rule, cfa_offset, RbpRule::Same, 0)
}

fn gap() -> Row {
    Row::marker(0, CfaRule::Gap)
}

fn unsupported() -> Row {
    Row::marker(0, CfaRule::Unsupported)
}

/// Compiles a function of 16 bytes at the start of a page and checks its first row.
#[track_caller]
fn check(instructions: &[u8], expected: Row) {
    let table = Object::new(&EhFrame::of_function(16, instructions)).compile().unwrap();
    assert_eq!(rows_at(&table), [(CODE, expected), (CODE + 16, gap())]);
}

#[track_caller]
fn check_unsupported(instructions: &[u8], reason: UnsupportedRule) {
    let table = Object::new(&EhFrame::of_function(16, instructions)).compile().unwrap();
    assert_eq!(rows_at(&table), [(CODE, unsupported()), (CODE + 16, gap())]);
    for kind in UnsupportedRule::ALL {
        assert_eq!(
            table.statistics.unsupported_rules(kind),
            u64::from(kind == reason),
            "{}",
            kind.name()
        );
    }
    assert_eq!(
        (table.statistics.code_bytes, table.statistics.unsupported_bytes),
        (16, 16)
    );
}

#[test]
fn registers_and_offsets() {
    check(&[], plain(CfaRule::Rsp, 8));
    check(&cfa::def_cfa(RSP, 4096), plain(CfaRule::Rsp, 4096));
    check(
        &cfa::def_cfa(RSP, 8 * ((1 << 23) - 1)),
        plain(CfaRule::Rsp, 8 * ((1 << 23) - 1)),
    );
    check(&cfa::def_cfa(RBP, 16), plain(CfaRule::Rbp, 16));
    check(&cfa::def_cfa(10, 0), plain(CfaRule::R10, 0));
    check(&cfa::def_cfa(11, 8), plain(CfaRule::R11, 8));
    check(&cfa::def_cfa(13, 0), plain(CfaRule::R13, 0));
    check(&cfa::def_cfa(RAX, 8), plain(CfaRule::Rax, 8));
    check_unsupported(&cfa::def_cfa(RCX, 8), UnsupportedRule::CfaRegister);
    check_unsupported(&cfa::def_cfa(RSP, 12), UnsupportedRule::CfaOffset);
    check_unsupported(&cfa::def_cfa(RSP, 8 << 23), UnsupportedRule::CfaOffset);
    // An offset that turns negative when it is read as a signed number.
    check_unsupported(&cfa::def_cfa(RSP, 1 << 63), UnsupportedRule::CfaOffset);
}

#[test]
fn expressions() {
    let expression = cfa::def_cfa_expression;
    check(&expression(&plt_expression(11)), plain(CfaRule::Plt, 0));
    check(&expression(&plt_expression(10)), plain(CfaRule::Plt10, 0));
    check_unsupported(&expression(&plt_expression(12)), UnsupportedRule::CfaExpression);
    check(&expression(&[0x77, 16]), plain(CfaRule::Rsp, 16));
    check(&expression(&[0x76, 0x70, 0x06]), plain(CfaRule::DerefRbp, -16));
    check_unsupported(
        &expression(&[0x76, 0x70, 0x06, 0x23, 8]),
        UnsupportedRule::CfaExpression,
    );
    check(
        &expression(&[0x77, 0x98, 1, 0x06, 0x23, 8]),
        plain(CfaRule::DerefRspPlus8, 0x98),
    );
    check_unsupported(
        &expression(&[0x77, 0x98, 1, 0x06, 0x23, 16]),
        UnsupportedRule::CfaExpression,
    );
    check_unsupported(&expression(&[0x77, 0x98, 1, 0x06]), UnsupportedRule::CfaExpression);
    check_unsupported(&expression(&[]), UnsupportedRule::CfaExpression);
    // The expression for procedure linkage tables with one operation more.
    check_unsupported(
        &expression(&[plt_expression(11), vec![0x96]].concat()),
        UnsupportedRule::CfaExpression,
    );
    // An unknown operation.
    check_unsupported(&expression(&[0xff]), UnsupportedRule::CfaExpression);
}

#[test]
fn frame_pointers() {
    check(&cfa::saved(RBP, 2), row(CfaRule::Rsp, 8, RbpRule::AtCfa, -16));
    check(&cfa::same_value(RBP), plain(CfaRule::Rsp, 8));
    check(&cfa::in_register(RBP, RBP), plain(CfaRule::Rsp, 8));
    check(
        &cfa::expression(RBP, &[0x76, 0]),
        row(CfaRule::Rsp, 8, RbpRule::AtRbp, 0),
    );
    check(
        &cfa::expression(RBP, &[0x76, 0x78]),
        row(CfaRule::Rsp, 8, RbpRule::AtRbp, -8),
    );
    let lost = row(CfaRule::Rsp, 8, RbpRule::Lost, 0);
    check(&cfa::expression(RBP, &[0x77, 0]), lost);
    check(&cfa::val_expression(RBP, &[0x76, 0]), lost);
    check(&cfa::in_register(RBP, RCX), lost);
    check(&cfa::val_offset(RBP, 2), lost);
    check(&cfa::undefined(RBP), lost);
    check(
        &cfa::saved(RBP, 1 << 15),
        row(CfaRule::Rsp, 8, RbpRule::AtCfa, -8 << 15),
    );
    check(&cfa::saved(RBP, (1 << 15) + 1), lost);
}

#[test]
fn return_addresses_and_stack_pointers() {
    check(&cfa::undefined(RIP), Row::marker(0, CfaRule::Root));
    check_unsupported(&cfa::saved(RIP, 2), UnsupportedRule::ReturnAddress);
    check_unsupported(&cfa::in_register(RIP, 5), UnsupportedRule::ReturnAddress);
    check_unsupported(&cfa::same_value(RIP), UnsupportedRule::ReturnAddress);
    check(&cfa::val_offset(RSP, 0), plain(CfaRule::Rsp, 8));
    check_unsupported(&cfa::val_offset(RSP, 1), UnsupportedRule::StackPointer);
    check_unsupported(&cfa::saved(RSP, 3), UnsupportedRule::StackPointer);
}

#[test]
fn other_return_address_column_is_unsupported() {
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zR", 17, &[cfa::def_cfa(RSP, 8), cfa::saved(17, 1)].concat());
    eh_frame.function(common, CODE, 16, &[]);
    let table = Object::new(&eh_frame).compile().unwrap();
    assert_eq!(rows_at(&table)[0], (CODE, unsupported()));
    assert_eq!(table.statistics.unsupported_rules(UnsupportedRule::ReturnAddress), 1);
}

#[test]
fn return_address_never_mentioned_is_unsupported() {
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zR", 16, &cfa::def_cfa(RSP, 8));
    eh_frame.function(common, CODE, 16, &[]);
    let table = Object::new(&eh_frame).compile().unwrap();
    assert_eq!(rows_at(&table)[0], (CODE, unsupported()));
}

#[test]
fn signal_trampoline() {
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zRS", 16, &usual_start());
    eh_frame.function(common, CODE, 9, &cfa::def_cfa_expression(&[0x77, 0xa0, 1, 0x06]));
    let table = Object::new(&eh_frame).compile().unwrap();
    assert_eq!(
        rows_at(&table),
        [(CODE, Row::marker(0, CfaRule::SignalFrame)), (CODE + 9, gap())]
    );
}

#[test]
fn instructions_in_the_middle() {
    let push = [cfa::advance(1), cfa::def_cfa(RSP, 16), cfa::saved(RBP, 2)].concat();
    let frame = [cfa::advance(3), cfa::def_cfa(RBP, 16)].concat();
    let early_return = [vec![cfa::REMEMBER], cfa::advance(4), cfa::def_cfa(RSP, 8)].concat();
    let back = [cfa::advance(1), vec![cfa::RESTORE]].concat();
    let table = Object::new(&EhFrame::of_function(32, &[push, frame, early_return, back].concat()))
        .compile()
        .unwrap();
    let in_frame = row(CfaRule::Rbp, 16, RbpRule::AtCfa, -16);
    assert_eq!(
        rows_at(&table),
        [
            (CODE, plain(CfaRule::Rsp, 8)),
            (CODE + 1, row(CfaRule::Rsp, 16, RbpRule::AtCfa, -16)),
            (CODE + 4, in_frame),
            (CODE + 8, row(CfaRule::Rsp, 8, RbpRule::AtCfa, -16)),
            (CODE + 9, in_frame),
            (CODE + 32, gap()),
        ]
    );
    assert_eq!(table.statistics.rules, 5);
}

#[test]
fn damaged_instructions_leave_the_rest_of_the_function_unsupported() {
    // A state is restored that was never remembered.
    let instructions = [
        cfa::advance(4),
        cfa::def_cfa(RSP, 16),
        cfa::advance(4),
        vec![cfa::RESTORE],
    ]
    .concat();
    let table = Object::new(&EhFrame::of_function(32, &instructions)).compile().unwrap();
    assert_eq!(
        rows_at(&table),
        [
            (CODE, plain(CfaRule::Rsp, 8)),
            (CODE + 4, plain(CfaRule::Rsp, 16)),
            (CODE + 8, unsupported()),
            (CODE + 32, gap()),
        ]
    );
    assert_eq!(table.statistics.unsupported_rules(UnsupportedRule::Malformed), 1);
    assert_eq!(table.statistics.unsupported_bytes, 24);
}

#[test]
fn instructions_beyond_the_end_of_the_function_are_cut_off() {
    let instructions = [cfa::advance(200), cfa::def_cfa(RSP, 16)].concat();
    check(&instructions, plain(CfaRule::Rsp, 8));
}

/// Compiles functions given as (start, bytes, words of the frame) and checks all rows.
#[track_caller]
fn check_functions(functions: &[(u64, u32, u64)], expected: &[(u64, Row)]) {
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zR", 16, &usual_start());
    for (start, bytes, words) in functions {
        eh_frame.function(common, *start, *bytes, &cfa::def_cfa(RSP, words * 8));
    }
    let table = Object::new(&eh_frame).compile().unwrap();
    check_layout(&table, &profiler_unwinding::Limits::default());
    assert_eq!(rows_at(&table), expected);
}

#[test]
fn functions_in_any_order_with_gaps_and_equal_neighbours() {
    let rsp = |words: i64| plain(CfaRule::Rsp, 8 * words);
    check_functions(
        &[
            (CODE + 64, 16, 2),
            (CODE, 16, 1),
            (CODE + 16, 16, 1),
            (CODE + 32, 16, 2),
        ],
        &[
            (CODE, rsp(1)),
            (CODE + 32, rsp(2)),
            (CODE + 48, gap()),
            (CODE + 64, rsp(2)),
            (CODE + 80, gap()),
        ],
    );
}

#[test]
fn overlapping_functions_the_first_holds() {
    let rsp = |words: i64| plain(CfaRule::Rsp, 8 * words);
    check_functions(
        &[(CODE, 100, 1), (CODE + 10, 10, 2), (CODE + 15, 200, 3)],
        &[(CODE, rsp(1)), (CODE + 100, rsp(3)), (CODE + 215, gap())],
    );
    check_functions(
        &[(CODE, 16, 1), (CODE, 32, 2)],
        &[(CODE, rsp(1)), (CODE + 16, rsp(2)), (CODE + 32, gap())],
    );
}

#[test]
fn pages_begin_with_the_rule_in_force() {
    let rsp = |words: i64| plain(CfaRule::Rsp, 8 * words);
    let page = 0x1_0000;
    // Not at a page's start, over two borders, then nothing for three pages, then up to exactly a page's end.
    check_functions(
        &[(CODE + 0x100, 2 * page, 1), (CODE + 6 * u64::from(page) - 16, 16, 2)],
        &[
            (CODE, gap()),
            (CODE + 0x100, rsp(1)),
            (CODE + 0x1_0000, rsp(1)),
            (CODE + 0x2_0000, rsp(1)),
            (CODE + 0x2_0100, gap()),
            (CODE + 0x5_0000, gap()),
            (CODE + 0x5_fff0, rsp(2)),
        ],
    );
}

#[test]
fn lookups_follow_the_pages() {
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zR", 16, &usual_start());
    eh_frame.function(common, CODE + 0x100, 16, &[]);
    eh_frame.function(common, CODE + 0x3_0000, 16, &[]);
    let table = Object::new(&eh_frame).compile().unwrap();
    assert_eq!(table.link_range(), CODE..CODE + 0x4_0000);
    let rule = |at: u64| table.find(at).map(|row| row.at(0));
    assert_eq!(rule(CODE - 1), None);
    assert_eq!(rule(CODE), Some(gap()));
    assert_eq!(rule(CODE + 0x100), Some(plain(CfaRule::Rsp, 8)));
    assert_eq!(rule(CODE + 0x10f), Some(plain(CfaRule::Rsp, 8)));
    assert_eq!(rule(CODE + 0x110), Some(gap()));
    assert_eq!(rule(CODE + 0x1_0000), Some(gap()));
    assert_eq!(rule(CODE + 0x3_000f), Some(plain(CfaRule::Rsp, 8)));
    assert_eq!(rule(CODE + 0x4_0000), None);
}

#[test]
fn only_what_the_pages_cover_is_given_to_the_walker() {
    let table = Object::new(&EhFrame::of_function(16, &[])).compile().unwrap();
    let bias = 0x7f00_0000_0000;
    let (start, end) = (bias + CODE, bias + CODE + 0x1_0000);
    assert_eq!(table.covered(start..end, bias), Some(start..end));
    assert_eq!(table.covered(start - 4096..end + 4096, bias), Some(start..end));
    assert_eq!(
        table.covered(start + 4096..end - 4096, bias),
        Some(start + 4096..end - 4096)
    );
    assert_eq!(table.covered(end..end + 4096, bias), None);
    assert_eq!(table.covered(start - 4096..start, bias), None);
    // A mapping that begins below its bias has link addresses that wrap.
    assert_eq!(table.covered(0..4096, bias), None);
    assert_eq!(table.covered(bias - 4096..bias + 4096, bias), None);
}

#[test]
fn code_that_is_not_loaded_has_no_rows() {
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zR", 16, &usual_start());
    eh_frame.function(common, 0, 16, &[]);
    eh_frame.function(common, CODE, 0, &[]);
    eh_frame.function(common, CODE + CODE_BYTES, 16, &[]);
    assert_eq!(Object::new(&eh_frame).compile(), Err(CompileError::NoUnwindTable));
    // The end of the code cuts a function off.
    eh_frame.function(common, CODE + CODE_BYTES - 16, 32, &[]);
    let table = Object::new(&eh_frame).compile().unwrap();
    assert_eq!(table.statistics.functions_without_code, 3);
    assert_eq!(
        rows_at(&table),
        [
            (CODE + CODE_BYTES - 0x1_0000, gap()),
            (CODE + CODE_BYTES - 16, plain(CfaRule::Rsp, 8))
        ]
    );
}

#[test]
fn damaged_entries_do_not_hide_others() {
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zR", 16, &usual_start());
    let unknown = eh_frame.common("zQ", 16, &usual_start());
    eh_frame.function(unknown, CODE, 16, &[]);
    eh_frame.bytes.extend([2, 0, 0, 0, 0, 0]);
    eh_frame.function(common, CODE + 32, 16, &[]);
    // Linkers join objects that each end with a terminator.
    eh_frame.terminator();
    eh_frame.function(common, CODE + 64, 16, &[]);
    let table = Object::new(&eh_frame).compile().unwrap();
    assert_eq!(table.statistics.functions, 2);
    assert_eq!(table.statistics.functions_malformed, 2);
    assert_eq!(
        rows_at(&table),
        [
            (CODE, gap()),
            (CODE + 32, plain(CfaRule::Rsp, 8)),
            (CODE + 48, gap()),
            (CODE + 64, plain(CfaRule::Rsp, 8)),
            (CODE + 80, gap()),
        ]
    );
}

#[test]
fn entries_with_long_lengths() {
    let mut eh_frame = EhFrame::default();
    let common = eh_frame.common("zR", 16, &usual_start());
    let mut other = EhFrame {
        bytes: eh_frame.bytes.clone(),
    };
    // The same entry with its length in 8 bytes after an escape: everything in it lies 8 bytes further on.
    other.bytes.extend([0; 8]);
    other.function(common, CODE, 16, &[]);
    let short = other.bytes.split_off(eh_frame.bytes.len() + 8);
    let length = u64::from(u32::from_le_bytes(short[..4].try_into().unwrap()));
    eh_frame.bytes.extend([0xff; 4]);
    eh_frame.bytes.extend(length.to_le_bytes());
    eh_frame.bytes.extend(&short[4..]);
    let table = Object::new(&eh_frame).compile().unwrap();
    assert_eq!(rows_at(&table), [(CODE, plain(CfaRule::Rsp, 8)), (CODE + 16, gap())]);
    // A length that no file has.
    eh_frame.bytes.extend([0xff; 12]);
    assert_eq!(
        Object::new(&eh_frame).compile().unwrap().statistics.functions_malformed,
        1
    );
}
