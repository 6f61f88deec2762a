//! `ddp-load compare` against a real peer: that everybody gets the same load and that the figures are
//! of whom they are said to be. The figures themselves say nothing here.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpStream,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

fn compare(words: &str, home: &Path) -> Output {
    command(words, home).output().unwrap()
}

fn command(words: &str, home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddp-load"));
    command
        .args(words.split(' '))
        .arg("--home")
        .arg(home)
        .arg("--gateway")
        .arg(env!("CARGO_BIN_EXE_ddp-gateway"))
        .stdin(Stdio::null());
    command
}

fn told(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|text| String::from_utf8_lossy(text))
        .join("\n")
}

#[test]
fn the_gateway_and_nginx_take_turns() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("outcome.json");
    let words = format!(
        "compare --quick --rounds 1 --peers direct,gateway,nginx --cases rtt-500,idle,reload,storm \
         --json {}",
        file.display()
    );
    let output = compare(&words, home.path());
    let told = told(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let outcome: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(outcome["faults"], serde_json::json!([]));
    assert_eq!(outcome["quick"], true);
    let version = outcome["candidates"][2]["version"].as_str().unwrap();
    assert!(version.starts_with("nginx version"), "{version}");
    assert!(
        outcome["configs"]["nginx.conf"]
            .as_str()
            .unwrap()
            .contains("proxy_pass")
    );
    let figure = |case: &str, way: &str, figure: &str, peer: &str| {
        let mut all = outcome["figures"].as_array().unwrap().iter();
        let found = all.find(|one| {
            one["case"] == case
                && one["way"] == way
                && one["figure"] == figure
                && one["peer"] == peer
        });
        found.cloned()
    };
    let median = |case: &str, way: &str, what: &str, peer: &str| {
        let found = figure(case, way, what, peer);
        let found = found.unwrap_or_else(|| panic!("{case} {way} {what} {peer}: {told}"));
        found["middle"]["median"].as_f64().unwrap()
    };
    for way in ["plain", "tls"] {
        for peer in ["gateway", "nginx"] {
            assert!(median("rtt-500", way, "cost", peer) > 1.0, "{told}");
            assert!(median("rtt-500", way, "p50", peer) > 1.0, "{told}");
            assert_eq!(median("rtt-500", way, "errors", peer), 0.0, "{told}");
            assert!(median("idle", way, "memory", peer) > 0.0, "{told}");
            assert!(figure("idle", way, "given_back", peer).is_some());
        }
        let theirs = figure("rtt-500", way, "cost", "nginx").unwrap();
        let ratio = theirs["gateway_ratio"]["median"].as_f64().unwrap();
        let own = median("rtt-500", way, "cost", "gateway");
        let expected = own / median("rtt-500", way, "cost", "nginx");
        assert!((ratio - expected).abs() < 1e-9, "{ratio} {expected}");
    }
    assert!(median("rtt-500", "plain", "p50", "direct") > 1.0);
    assert!(figure("rtt-500", "plain", "cost", "direct").is_none());
    // A change of its configuration cuts nobody off, with either of them.
    for peer in ["gateway", "nginx"] {
        assert_eq!(median("reload", "plain", "cut", peer), 0.0, "{told}");
    }
    // A streamer that dies is noticed by those who were on it, about a quarter.
    for way in ["plain", "tls"] {
        for peer in ["gateway", "nginx"] {
            let cut = median("storm", way, "cut", peer);
            assert!((5.0..=20.0).contains(&cut), "{cut} {told}");
            assert!(median("storm", way, "back", peer) > 1.0, "{told}");
        }
    }
    let table = String::from_utf8(output.stdout).unwrap();
    for part in [
        "| direct | gateway | nginx |",
        "| DDP round trip, 500 connections, 2,000/s, TLS | CPU, us |",
        "take no figure of it for good",
        "of nginx |",
    ] {
        assert!(table.contains(part), "{part}: {table}");
    }
    // Nothing is left behind but what was asked for.
    let left = fs::read_dir(home.path()).unwrap().count();
    assert_eq!(left, 1);
}

/// Two gateways on one port, whose figures are added up.
#[test]
fn what_a_connection_costs_is_asked_with_few_and_with_many() {
    for words in ["flat --quick --rounds 1", "flat --quick --rounds 1 --tls"] {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("flat.json");
        let output = compare(&format!("{words} --json {}", file.display()), home.path());
        let told = told(&output);
        assert_eq!(output.status.code(), Some(0), "{told}");
        let flat: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(flat["faults"], serde_json::json!([]));
        assert_eq!(
            (&flat["gateways"], &flat["quick"]),
            (&2.into(), &true.into())
        );
        let levels = flat["levels"].as_array().unwrap();
        let standing: Vec<u64> = levels
            .iter()
            .map(|level| level["standing"].as_u64().unwrap())
            .collect();
        assert_eq!(standing, [20, 40, 80]);
        for level in levels {
            for figure in ["visit", "visit_takes", "heap"] {
                let median = level[figure]["median"].as_f64().unwrap();
                assert!(median > 1.0, "{figure}: {told}");
            }
        }
        assert_eq!(flat["goals"].as_array().unwrap().len(), 3);
        let table = String::from_utf8(output.stdout).unwrap();
        for part in [
            "| 80 |",
            "take no figure of it for good",
            "| CPU of a visit | <= 1.10 |",
        ] {
            assert!(table.contains(part), "{part}: {table}");
        }
        // Nothing is left behind but what was asked for.
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}

#[test]
fn numbers_that_do_not_rise_are_no_levels() {
    let home = tempfile::tempdir().unwrap();
    let output = compare("flat --standing 100,50", home.path());
    assert_eq!(output.status.code(), Some(64), "{}", told(&output));
    assert!(told(&output).contains("that rise"), "{}", told(&output));
}

#[test]
fn a_peer_that_was_asked_for_has_to_be_there() {
    let home = tempfile::tempdir().unwrap();
    for peer in ["sozu", "pingora"] {
        let words = format!("compare --quick --peers {peer} --cases connect");
        let mut command = command(&words, home.path());
        let output = command.env("PATH", home.path()).output().unwrap();
        let told = told(&output);
        assert_eq!(output.status.code(), Some(64), "{told}");
        let fault = format!("the program of {peer} is not there: --install");
        assert!(told.contains(&fault), "{told}");
    }
    let output = compare("compare --quick --cases nothing", home.path());
    let told = told(&output);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(told.contains("rtt-500"), "{told}");
}

/// Whether asked by a terminal or by a supervisor: what there is so far is shown, and no proxy lives on.
#[test]
fn who_is_told_to_stop_leaves_nothing_running() {
    for signal in ["INT", "TERM"] {
        let home = tempfile::tempdir().unwrap();
        let words = "compare --quick --rounds 50 --peers gateway --cases idle";
        let mut child = command(words, home.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        // The first turn is over, a later one is under way.
        let first = said.next().unwrap().unwrap();
        assert!(first.contains("idle plain gateway: memory"), "{first}");
        let turn = home.path().join(format!("run-{}/gateway", child.id()));
        let deadline = Instant::now() + Duration::from_secs(30);
        let admin = loop {
            let config = fs::read_to_string(turn.join("gateway.toml")).unwrap_or_default();
            let admin = config.split('"').nth(1).map(str::to_owned);
            let answers = |admin: &String| TcpStream::connect(admin).is_ok();
            if let Some(admin) = admin.filter(answers) {
                break admin;
            }
            assert!(Instant::now() < deadline, "no gateway is running");
        };
        let told = Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(told.success());
        let rest: Vec<String> = said.map_while(Result::ok).collect();
        let output = child.wait_with_output().unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{rest:?} {table}");
        assert!(table.contains("the rest: interrupted"), "{table}");
        assert!(table.contains("memory per connection"), "{table}");
        assert!(TcpStream::connect(admin).is_err(), "the gateway lives on");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
