//! A kernel that is too old for our programs: the daemon stays up, says what is missing, and leaves nothing behind.

use profiler_config::OLDEST_KERNEL;

use crate::{FAST_HZ, host, only, only_line, skip, start};

#[test]
fn a_kernel_that_is_too_old_is_refused_in_words() {
    let Some(host) = host() else { return };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|number| number.parse::<u8>().ok());
    let kernel = (numbers.next().unwrap(), numbers.next().unwrap());
    if kernel >= OLDEST_KERNEL {
        skip("this kernel is new enough");
        return;
    }
    let program = host.rust("mixed");
    let mixed = start(&program, &[]);
    let daemon = host.daemon(&only(FAST_HZ, "mixed"));
    let status = daemon.status();
    let parts = status["parts"].as_array().unwrap();
    let sampling = parts.iter().find(|part| part["name"] == "sampling").unwrap();
    assert_eq!(sampling["state"], "unsupported", "{sampling}");
    for field in ["reason", "remedy"] {
        let words = sampling[field].as_str().unwrap();
        assert!(words.len() > 10, "{field}: {sampling}");
    }
    println!("{}: {}", sampling["reason"], sampling["remedy"]);

    let pid = mixed.pid().to_string();
    let output = daemon.cli(&["flamegraph", "--pid", &pid, "--duration", "1s", "-o", "-"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
    only_line(&output);
    let log = daemon.log();
    assert!(log.contains("nothing can be sampled"), "{log}");
}
