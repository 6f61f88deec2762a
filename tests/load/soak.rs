//! The soak in short: a gateway of its own process must be after each round what it was before, and
//! one that grows has to be told.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::markup::Markup;

const SCENARIO: &str = "users = 20\nramp = \"200/s\"\nclients = { web = 1 }\nsubscriptions = 5\n\
                        duration = \"1s\"\n[churn]\nvisits = 20\nvisit_rate = \"200/s\"\n\
                        rest = \"200ms\"\n";
/// Who has just come back from a storm is not moved, so a round of both takes seconds.
const STORMS: &str = "drains = 0\nrounds = 14\n";
const DRAINS: &str = "storm = false\nrounds = 9\n";

/// Reads what it has to of the folder's `soak.toml`, writes `soak.json` and `soak.html`.
fn soak(folder: &Path, gateway: &Path, what: &str) -> Command {
    fs::write(folder.join("soak.toml"), format!("{SCENARIO}{what}")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddp-load"));
    command
        .arg("run")
        .arg(folder.join("soak.toml"))
        .arg("--gateway")
        .arg(gateway)
        .arg("--json")
        .arg(folder.join("soak.json"))
        .arg("--html")
        .arg(folder.join("soak.html"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn told(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|text| String::from_utf8_lossy(text))
        .join("\n")
}

fn report(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("soak.json")).unwrap()).unwrap()
}

const FIGURES: [&str; 3] = ["heap_bytes", "resident_bytes", "descriptors"];

/// Answers the report, and how many rounds there were.
fn stays_level(what: &str) -> (Value, u64) {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Path::new(env!("CARGO_BIN_EXE_ddp-gateway"));
    let output = soak(folder.path(), gateway, what).output().unwrap();
    let told = told(&output);
    assert!(output.status.success(), "{} {told}", output.status);
    assert!(told.contains("passed: 0 errors"), "{told}");
    let report = report(folder.path());
    let mut rounds = 0;
    for figure in FIGURES {
        let trend = &report["trends"][figure];
        assert_eq!(trend["grows"], false, "{told}");
        assert!(trend["mean"].as_f64().unwrap() > 10.0, "{told}");
        rounds = trend["looks"].as_array().unwrap().len();
        assert!(rounds >= 9, "{told}");
    }
    let page = fs::read_to_string(folder.path().join("soak.html")).unwrap();
    let markup = Markup::read(&page).unwrap_or_else(|fault| panic!("{fault}\n{page}"));
    assert_eq!(markup.count("svg"), 3 + FIGURES.len());
    println!("{told}");
    (report, rounds as u64)
}

#[test]
fn storms_leave_nothing_behind() {
    let (report, rounds) = stays_level(STORMS);
    assert_eq!(report["counts"]["left"], 20 * rounds);
    assert_eq!(report["counts"]["cut"], 20 * rounds);
    assert_eq!(report["measures"]["back"]["count"], 20 * rounds);
}

#[test]
fn drains_leave_nothing_behind() {
    let (report, rounds) = stays_level(DRAINS);
    assert_eq!(report["counts"]["left"], 20 * rounds);
    assert_eq!(report["measures"]["drain"]["count"], rounds);
    assert!(report["counts"]["moved"].as_u64().unwrap() >= 6 * rounds);
}

/// Clients that come and stay take a descriptor and some memory each, more and more.
#[test]
fn growth_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = folder.path().join("gateway");
    let copy = folder.path().join("copy.toml");
    // Where it listens is chosen anew each time: `run --config FILE`.
    let script = format!(
        "#!/bin/sh\ncp \"$3\" {copy}.part && mv {copy}.part {copy} && exec {program} \"$@\"\n",
        copy = copy.display(),
        program = env!("CARGO_BIN_EXE_ddp-gateway")
    );
    fs::write(&gateway, script).unwrap();
    fs::set_permissions(&gateway, fs::Permissions::from_mode(0o755)).unwrap();
    let (done, is_done) = mpsc::channel::<()>();
    let guests = thread::spawn(move || {
        let mut guests = Vec::new();
        while is_done.recv_timeout(Duration::from_millis(25)) == Err(RecvTimeoutError::Timeout) {
            guests.extend(address(&copy).and_then(guest));
        }
        guests.len()
    });
    let output = soak(folder.path(), &gateway, STORMS).output().unwrap();
    drop(done);
    let guests = guests.join().unwrap();
    let told = told(&output);
    assert!(guests > 100, "{guests} {told}");
    assert_eq!(output.status.code(), Some(1), "{} {told}", output.status);
    assert!(told.contains("not everything stays as it was"), "{told}");
    let report = report(folder.path());
    assert_eq!(report["passed"], false);
    assert_eq!(report["error_count"], 0, "{told}");
    assert_eq!(report["trends"]["descriptors"]["grows"], true, "{told}");
    // What is held for the storms hides some of the heap; pages are taken and not given back.
    let grows = |figure: &str| report["trends"][figure]["grows"] == true;
    assert!(grows("heap_bytes") || grows("resident_bytes"), "{told}");
}

/// Of the listener in plain text, once the file is there.
fn address(copy: &Path) -> Option<SocketAddr> {
    let text = fs::read_to_string(copy).ok()?;
    let (_, listener) = text.split_once("[[listener]]")?;
    listener.split('"').nth(1)?.parse().ok()
}

/// One who has asked for something, and may ask again.
fn guest(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    let asked = stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    asked.ok().map(|()| stream)
}
