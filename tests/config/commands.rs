//! `check` and `config`, without a process.

use std::fs;

use clap::Parser as _;
use ddp_gateway::{
    cli::{Cli, Command, Console, Exit},
    config,
};

use crate::support::BASE;

/// Exit, standard output and standard error of a command line.
fn execute(arguments: &[&str]) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = {
        let mut console = Console::new(&mut out, &mut err);
        let cli = Cli::try_parse_from(["ddp-gateway"].iter().chain(arguments));
        let cli = cli.expect("the arguments are right");
        match cli.command {
            Command::Check(check) => check.check(&mut console),
            Command::Config(what) => what.execute(&mut console),
            other => panic!("{other:?} needs a gateway"),
        }
    };
    let text = |bytes| String::from_utf8(bytes).expect("text is UTF-8");
    (exit, text(out), text(err))
}

#[test]
fn check_says_what_is_wrong_and_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    let name = file.to_str().unwrap();
    fs::write(&file, BASE).unwrap();
    let (exit, out, err) = execute(&["check", "-c", name]);
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
    assert!(out.ends_with(
        "gateway.toml: no faults. 1 listener, 1 route, 1 pool, 1 streamer, 0 DNS names.\n"
    ));

    let service = "discovery.kubernetes.service=ddp-streamer";
    let (exit, out, _) = execute(&["check", "-c", name, "--set", service]);
    assert_eq!(exit, Exit::Done);
    assert!(
        out.ends_with("0 DNS names, 1 Kubernetes Service.\n"),
        "{out}"
    );

    let (exit, out, err) = execute(&["check", "-c", name, "--set", "http.idle_timeout=5"]);
    assert_eq!((exit, out.as_str()), (Exit::Usage, ""));
    assert!(err.contains("http.idle_timeout=5\n"), "{err}");
    assert!(err.ends_with("gateway.toml: 1 fault\n"), "{err}");
}

#[test]
fn check_reads_certificates_and_points_at_their_keys() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.toml");
    let name = file.to_str().unwrap();
    let text = format!(
        "{BASE}[[listener]]\naddress = \"127.0.0.1:8443\"\ntls = [{{ cert = \"a.crt\", key = \"a.key\" }}]\n"
    );
    fs::write(&file, text).unwrap();
    let (exit, _, err) = execute(&["check", "--config", name]);
    assert_eq!(exit, Exit::Usage);
    assert!(err.contains("`listener.tls.cert` cannot be used"), "{err}");
    assert!(err.contains("proxy.toml:5:17"), "{err}");

    let made = |host: &str| rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    let (mine, other) = (made("a.example.com"), made("b.example.com"));
    fs::write(directory.path().join("a.crt"), mine.cert.pem()).unwrap();
    fs::write(
        directory.path().join("a.key"),
        other.signing_key.serialize_pem(),
    )
    .unwrap();
    let (exit, _, err) = execute(&["check", "--config", name]);
    assert_eq!(exit, Exit::Usage);
    assert!(err.contains("`listener.tls.key` cannot be used"), "{err}");
    assert!(err.contains("is not the key of the certificate"), "{err}");

    fs::write(
        directory.path().join("a.key"),
        mine.signing_key.serialize_pem(),
    )
    .unwrap();
    let (exit, _, err) = execute(&["check", "--config", name]);
    assert_eq!((exit, err.as_str()), (Exit::Done, ""));
}

#[test]
fn without_a_file_the_beginning_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.toml");
    let (exit, _, err) = execute(&["check", "--config", missing.to_str().unwrap()]);
    assert_eq!(exit, Exit::Usage);
    assert!(err.starts_with("error: there is no file "), "{err}");
}

#[test]
fn config_prints() {
    let (exit, out, _) = execute(&["config", "default"]);
    assert_eq!((exit, out.as_str()), (Exit::Done, config::DEFAULT_FILE));
    let (exit, out, _) = execute(&["config", "schema"]);
    assert_eq!(exit, Exit::Done);
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(schema, config::schema());
}
