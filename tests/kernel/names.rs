//! Hostile names: what a process calls itself reaches no terminal and no document as it is.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, process::Command};

use profiler_tests::programs::Running;

use crate::{FAST_HZ, host, only, wait_until_watched};

/// Colours, a cleared screen, markup, a separator of folded stacks, and a byte that is no UTF-8.
const NAME: &[u8] = b"\x1b[31m<b>&\";\n\xff";
const THREAD: &[u8] = b"\x1b[2J</t>&;";

#[test]
fn escape_sequences_and_markup_in_names_do_no_harm() {
    let Some(host) = host() else { return };
    let program = host.path("folder").join(OsStr::from_bytes(NAME));
    fs::create_dir(host.path("folder")).unwrap();
    fs::rename(host.rust("named"), &program).unwrap();
    let daemon = host.daemon(&only(FAST_HZ, &format!("{}/**", host.path("folder").display())));
    let named = Running::start(Command::new(&program).arg(OsStr::from_bytes(THREAD)));
    let pid = named.pid().to_string();
    wait_until_watched(&daemon, named.pid());
    daemon.wait_for_samples(named.pid(), 500, crate::SAMPLES_WITHIN);

    let profile = |format: &str| {
        let output = daemon.flamegraph(named.pid(), &["--last", "10m", "--format", format]);
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(!has_controls(&output.stderr), "{:?}", output.stderr);
        output.stdout
    };
    let svg = profile("svg");
    assert!(!has_controls(&svg));
    let document = roxmltree::Document::parse(&svg).unwrap_or_else(|error| panic!("{error}: {svg}"));
    assert!(
        document
            .descendants()
            .all(|node| !node.has_tag_name("b") && !node.has_tag_name("t"))
    );
    assert!(svg.contains("&lt;b&gt;"), "the name is there, escaped");
    for format in ["folded", "json", "speedscope"] {
        assert!(!has_controls(&profile(format)), "{format}");
    }
    for line in profile("folded").lines() {
        assert!(
            line.rsplit_once(' ')
                .is_some_and(|(_, count)| count.parse::<u64>().is_ok()),
            "{line:?}"
        );
    }
    for arguments in [&["ps"][..], &["ps", "--pid", &pid], &["ps", "--json"], &["status"]] {
        let output = daemon.cli(arguments);
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(
            !has_controls(&output.stdout) && !has_controls(&output.stderr),
            "{arguments:?}: {output:?}"
        );
    }
    assert!(!has_controls(&daemon.log()), "{:?}", daemon.log());
}

/// Whether a terminal would do more than show the text.
fn has_controls(text: &str) -> bool {
    text.chars().any(|c| c.is_control() && c != '\n' && c != '\t')
}
