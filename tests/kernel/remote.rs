//! The command line asks a real daemon over TCP: with a token, with certificates, and with neither.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, thread, time::Duration};

use profiler_tests::{
    daemon::{Daemon, Host},
    output::Output,
    programs::wait_for,
};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::{SAMPLES_WITHIN, host, prometheus::free_port, start};

const TOKEN: &str = "of-the-tests-0123456789";

fn private(host: &Host, name: &str, text: &str) -> PathBuf {
    let path = host.path(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A certificate for a purpose, and its key, of an authority that is made here.
fn certificates(host: &Host) -> [PathBuf; 5] {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = private(host, "ca.pem", &params.self_signed(&key).unwrap().pem());
    let issuer = Issuer::new(params, key);
    let signed = |name: &str, purpose| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        [
            private(host, &format!("{name}.pem"), &certificate),
            private(host, &format!("{name}.key"), &key.serialize_pem()),
        ]
    };
    let [server, server_key] = signed("server", ExtendedKeyUsagePurpose::ServerAuth);
    let [client, client_key] = signed("client", ExtendedKeyUsagePurpose::ClientAuth);
    [authority, server, server_key, client, client_key]
}

/// What the command line says to this, once the daemon listens.
fn ask(daemon: &Daemon, arguments: &[&str]) -> Output {
    wait_for("the port", SAMPLES_WITHIN, || {
        let output = daemon.cli_anywhere(arguments);
        if output.stderr.contains("refused (os error 111)") {
            thread::sleep(Duration::from_millis(100));
            return None;
        }
        Some(output)
    })
}

#[test]
fn a_flame_graph_comes_over_tls_to_who_shows_a_certificate_and_the_token() {
    let Some(host) = host() else { return };
    let [authority, server, server_key, client, client_key] = certificates(&host);
    let token = private(&host, "token", &format!("{TOKEN}\n"));
    let wrong = private(&host, "wrong", "another-token-0123456789\n");
    let listen = free_port();
    let daemon = host.daemon(&format!(
        "[tcp]\nlisten = \"{listen}\"\nallow_profile = true\ntoken_file = {token:?}\ncertificate_file = {server:?}\n\
         key_file = {server_key:?}\nclient_ca_file = {authority:?}\n"
    ));
    let busy = start(&host.rust("named"), &[]);
    let pid = busy.pid().to_string();
    let address = format!("https://localhost:{}", listen.port());
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let all = [
        ("--address", address.clone()),
        ("--ca-file", path(&authority)),
        ("--certificate-file", path(&client)),
        ("--key-file", path(&client_key)),
        ("--token-file", path(&token)),
    ];
    let with = |change: &dyn Fn(&str, &str) -> Option<String>, verb: &[&str]| {
        let options: Vec<String> = all
            .iter()
            .filter_map(|(option, value)| Some([(*option).to_owned(), change(option, value)?]))
            .flatten()
            .collect();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        ask(&daemon, &[&options[..], verb].concat())
    };
    let as_it_is = |_: &str, value: &str| Some(value.to_owned());
    let flamegraph = [
        "flamegraph",
        "--pid",
        &pid,
        "--duration",
        "2s",
        "--format",
        "folded",
        "-o",
        "-",
    ];
    let output = with(&as_it_is, &flamegraph);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(output.stdout.contains("main"), "{}", output.stdout);

    let refused = |change: &dyn Fn(&str, &str) -> Option<String>, code: i32, words: &str| {
        let output = with(change, &["status"]);
        assert_eq!(output.code, Some(code), "{}", output.stderr);
        assert!(output.stderr.contains(words), "{words}: {}", output.stderr);
        assert_eq!(output.stdout, "", "nothing is told");
        assert!(!output.stderr.contains(TOKEN), "{}", output.stderr);
    };
    let without = |name: &'static str| move |option: &str, value: &str| (option != name).then(|| value.to_owned());
    refused(&without("--token-file"), 4, "token");
    refused(
        &|option, value| {
            Some(if option == "--token-file" {
                path(&wrong)
            } else {
                value.to_owned()
            })
        },
        4,
        "token",
    );
    // The daemon's is signed by nobody whom this system knows.
    refused(&without("--ca-file"), 1, "invalid peer certificate");
    let no_certificate =
        |option: &str, value: &str| (!["--certificate-file", "--key-file"].contains(&option)).then(|| value.to_owned());
    // What the daemon says of it may be cut off by the end of the connection.
    refused(&no_certificate, 1, "the connection to the daemon was lost");
    let in_the_clear = |option: &str, value: &str| match option {
        "--address" => Some(value.replace("https://", "http://")),
        "--token-file" => Some(value.to_owned()),
        _ => None,
    };
    refused(&in_the_clear, 1, "");
}
