//! Every row boundary of the libraries of this machine, held against gimli.

use std::time::Instant;

use profiler_unwinding::{BuildId, CallFrames, Limits, Segments, UnsupportedRule};

use crate::oracle::check_against_gimli;
use crate::support::{check_layout, real_objects};

#[test]
fn rows_of_real_objects_say_what_gimli_says() {
    let limits = Limits::default();
    for object in real_objects() {
        let call_frames = CallFrames::read(&*object.bytes, &limits).unwrap();
        let table = call_frames.compile(&limits).unwrap();
        check_layout(&table, &limits);
        let addresses = check_against_gimli(&call_frames, &table);
        let statistics = &table.statistics;
        assert!(
            addresses as u64 >= statistics.functions,
            "{}: too few addresses compared",
            object.name
        );
        assert_eq!(statistics.functions_malformed, 0, "{}", object.name);
        let reasons: Vec<_> = UnsupportedRule::ALL
            .iter()
            .map(|reason| format!("{} {}", reason.name(), statistics.unsupported_rules(*reason)))
            .collect();
        println!(
            "{}: {addresses} addresses agree; {} functions, {} rows, {} of {} bytes of code unsupported ({})",
            object.name,
            statistics.functions,
            table.rows.len(),
            statistics.unsupported_bytes,
            statistics.code_bytes,
            reasons.join(", ")
        );
        // Hand-written assembly apart, compilers use nothing that a row cannot hold.
        assert!(
            statistics.unsupported_bytes * 50 <= statistics.code_bytes,
            "{}: too much is unsupported",
            object.name
        );
    }
}

#[test]
fn real_objects_have_code_and_mostly_a_build_id() {
    let mut with_build_id = 0;
    for object in real_objects() {
        let segments = Segments::parse(&*object.bytes).unwrap();
        assert_eq!(segments.executable().len(), 1, "{}", object.name);
        let code = segments.executable()[0];
        let start = 0x7f12_3456_7000;
        let bias = segments.bias(start, code.file_offset & !4095).unwrap();
        assert_eq!(code.link_address.wrapping_add(bias) & !4095, start, "{}", object.name);
        with_build_id += usize::from(BuildId::read(&*object.bytes).unwrap().is_some());
    }
    assert!(with_build_id >= 2);
}

/// Figures for a release build: `cargo test --release -p profiler-unwinding -- --ignored --nocapture timings`, with the
/// objects in `UNWINDING_OBJECTS`, separated by colons.
#[test]
#[ignore = "prints timings of a release build"]
fn timings() {
    let Ok(paths) = std::env::var("UNWINDING_OBJECTS") else {
        panic!("UNWINDING_OBJECTS is not set")
    };
    for path in paths.split(':') {
        let bytes = std::fs::read(path).unwrap();
        let limits = Limits::default();
        let start = Instant::now();
        let call_frames = CallFrames::read(&*bytes, &limits).unwrap();
        let id = call_frames.content_id();
        let identified = start.elapsed();
        let table = call_frames.compile(&limits).unwrap();
        let compiled = start.elapsed() - identified;
        let statistics = table.statistics;
        println!(
            "{path}: {} bytes of .eh_frame, {} functions, {} rules, {} rows, {} pages; identity {:.1} ms, rows {:.1} ms ({id})",
            call_frames.bytes().len(),
            statistics.functions,
            statistics.rules,
            table.rows.len(),
            table.pages.len(),
            identified.as_secs_f64() * 1e3,
            compiled.as_secs_f64() * 1e3,
        );
        println!("  {statistics:?}");
        if std::env::var_os("UNWINDING_CHECK").is_some() {
            check_layout(&table, &limits);
            println!(
                "  {} addresses agree with gimli",
                check_against_gimli(&call_frames, &table)
            );
        }
    }
}
