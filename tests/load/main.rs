//! `ddp-load` as a person runs it: each scenario for a short time with few users, its output and its
//! exit codes.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

mod compare;
mod markup;
mod soak;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::markup::Markup;

/// What came of a run.
struct Run {
    output: Output,
    folder: TempDir,
}

impl Run {
    /// With these words, and both kinds of files written.
    fn of(words: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddp-load"));
        let output = command
            .args(words.split(' '))
            .arg("--json")
            .arg(folder.path().join("report.json"))
            .arg("--html")
            .arg(folder.path().join("report.html"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Self { output, folder }
    }

    fn code(&self) -> i32 {
        self.output.status.code().unwrap()
    }

    fn errors(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    fn table(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Everything that holds for each run that passes; answers the report.
    fn passed(&self) -> Value {
        let told = format!("{}\n{}", self.errors(), self.table());
        assert_eq!(self.code(), 0, "{told}");
        assert!(self.table().contains("passed: 0 errors"), "{told}");
        let report: Value =
            serde_json::from_str(&fs::read_to_string(self.file("report.json")).unwrap()).unwrap();
        assert_eq!(report["schema"], 1);
        assert_eq!(report["passed"], true, "{told}");
        assert_eq!(report["error_count"], 0, "{told}");
        assert_eq!(report["errors"], serde_json::json!({}));
        assert_eq!(report["target"]["embedded"], true);
        assert!(report["machine"]["cores"].as_u64().unwrap() > 0);
        assert!(report["machine"]["kernel"].is_string());
        assert!(report["machine"]["congestion_control"].is_string());
        assert_eq!(report["program"]["version"], env!("CARGO_PKG_VERSION"));
        assert!(
            report["program"]["rustc"]
                .as_str()
                .unwrap()
                .starts_with("1.")
        );
        for (name, figures) in report["measures"].as_object().unwrap() {
            let figure = |key: &str| figures[key].as_u64().unwrap();
            let rising = ["p50", "p90", "p99", "p999", "max"].map(figure);
            assert!(rising.is_sorted() && rising[0] > 0, "{name}: {figures}");
            assert!(self.table().contains(name), "{told}");
            // The parts of the series are the whole.
            let parts = report["series"].as_array().unwrap().iter();
            let parts = parts.filter_map(|point| point["measures"][name]["count"].as_u64());
            assert_eq!(parts.sum::<u64>(), figure("count"), "{name}");
        }
        check_page(&self.file("report.html"), &report);
        report
    }
}

/// One line for each measure in each of three plots, and nothing from elsewhere.
fn check_page(file: &Path, report: &Value) {
    let page = fs::read_to_string(file).unwrap();
    let markup = Markup::read(&page).unwrap_or_else(|fault| panic!("{fault}\n{page}"));
    assert_eq!(markup.count("svg"), 3);
    let measures = report["measures"].as_object().unwrap();
    assert_eq!(markup.count("polyline"), 3 * measures.len());
    for points in markup.values("polyline", "points") {
        for point in points.split(' ').filter(|point| !point.is_empty()) {
            let (x, y) = point.split_once(',').unwrap();
            let [x, y] = [x, y].map(|number| number.parse::<f64>().unwrap());
            assert!((0.0..=900.0).contains(&x), "{points}");
            assert!((0.0..=320.0).contains(&y), "{points}");
        }
    }
    assert_eq!(
        markup.count("script") + markup.count("link") + markup.count("img"),
        0
    );
    for name in measures.keys() {
        assert!(page.contains(&format!("<dt>{name}</dt>")), "{name}");
    }
}

fn count(report: &Value, measure: &str) -> u64 {
    report["measures"][measure]["count"].as_u64().unwrap_or(0)
}

#[test]
fn idle_users_come_in_once_and_stay() {
    let report = Run::of("run idle --embedded --users 30 --ramp 200/s --duration 500ms").passed();
    for measure in ["upgrade", "connect", "login", "subscribe"] {
        assert_eq!(count(&report, measure), 30, "{measure}");
    }
    assert_eq!(report["counts"]["attempts"], 30);
    let last = report["series"].as_array().unwrap().last().unwrap();
    assert_eq!(last["settled"], 30);
}

#[test]
fn every_message_of_a_chat_reaches_all_who_listen_over_tls() {
    let report = Run::of("run chat --embedded=tls --users 40 --ramp 200/s --duration 1s").passed();
    let counts = &report["counts"];
    // 20 messages, 10 signs of typing and 10 looks into a room, at moments that are drawn by lot.
    assert!(
        (20..=60).contains(&count(&report, "round_trip")),
        "{counts}"
    );
    assert_eq!(counts["calls"], counts["results"]);
    assert!(count(&report, "delivery") > count(&report, "round_trip"));
    assert_eq!(counts["owed"], counts["deliveries"]);
    // A full handshake for each socket, and for each question of a browser.
    assert_eq!(report["tls_handshakes"]["full"], 60);
    assert_eq!(report["tls_handshakes"]["resumed"], 0);
}

#[test]
fn what_is_said_in_one_room_is_heard_by_everybody() {
    let report = Run::of("run fan-out --embedded --users 40 --ramp 200/s --duration 1s").passed();
    let said = count(&report, "round_trip");
    assert!((2..=10).contains(&said), "{said}");
    assert_eq!(count(&report, "delivery"), 40 * said);
}

#[test]
fn visitors_come_at_their_rate_and_resume_tls() {
    let words = "run connect-rate --embedded=tls --resume-tls --users 100 --duration 1s";
    let report = Run::of(words).passed();
    assert_eq!(count(&report, "visit"), 50);
    assert_eq!(report["counts"]["left"], 50);
    let resumed = report["tls_handshakes"]["resumed"].as_u64().unwrap();
    assert!(resumed > 25, "{}", report["tls_handshakes"]);
}

/// Browsers come back after 10 ms, the others would after seconds.
#[test]
fn everybody_who_is_cut_off_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("browsers.toml");
    let text = "users = 30\nramp = \"200/s\"\nduration = \"30s\"\nclients = { web = 1 }\n[storm]\n";
    fs::write(&file, text).unwrap();
    let report = Run::of(&format!("run {} --embedded", file.display())).passed();
    assert_eq!(report["scenario"]["name"], "browsers");
    assert_eq!(count(&report, "back"), 30);
    assert_eq!(report["counts"]["cut"], 30);
    assert_eq!(report["counts"]["attempts"], 60);
}

#[test]
fn gets_are_sent_at_their_rate() {
    let run = Run::of("run http --embedded --duration 1s");
    let report = run.passed();
    assert!(run.table().starts_with("http: 32 connections, http://"));
    assert_eq!(count(&report, "request"), 500);
    assert!(report["counts"]["response_bytes"].as_u64().unwrap() > 100_000);
}

#[test]
fn gets_at_saturation_are_as_many_as_are_answered() {
    let report = Run::of("run http-saturation --embedded --duration 1s").passed();
    assert!(count(&report, "request") > 100);
}

#[test]
fn a_wrong_key_is_named_with_its_line_and_nothing_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    fs::write(&file, "users = 3\n\n[chat]\nmesages = \"1/s\"\n").unwrap();
    let run = Run::of(&format!("run {} --embedded", file.display()));
    assert_eq!(run.code(), 64);
    let said = run.errors();
    assert!(
        said.contains("mine.toml:4: unknown field `mesages`"),
        "{said}"
    );
    assert!(!run.file("report.json").exists());
}

#[test]
fn bad_arguments_are_refused() {
    for (words, said) in [
        ("run idle", "--target"),
        ("run nothing --embedded", "connect-rate"),
        ("run idle --target localhost", "is no target"),
        (
            "run idle --embedded --target http://x",
            "cannot be used with",
        ),
        ("run idle --embedded --duration 5", "is no time"),
        ("run idle --embedded --users 0", "users has to be"),
        ("run idle --embedded --from 127.0.0.9-127.0.0.1", "go up"),
        ("run fan-out --embedded --users 5", "speakers"),
        ("run drain --target http://127.0.0.1:1", "--admin"),
    ] {
        let run = Run::of(words);
        assert_eq!(run.code(), 64, "{words}");
        assert!(run.errors().contains(said), "{words}: {}", run.errors());
    }
}

#[test]
fn a_target_that_nobody_serves_is_a_failed_run() {
    let deaf = deaf_socket();
    let target = deaf.local_addr().unwrap().as_socket().unwrap();
    let words = format!("run http --target http://{target} --duration 1s");
    let run = Run::of(&words);
    assert_eq!(run.code(), 1, "{}", run.errors());
    let report: Value =
        serde_json::from_str(&fs::read_to_string(run.file("report.json")).unwrap()).unwrap();
    assert_eq!(report["passed"], false);
    let refused = &report["errors"]["connection refused, or TLS failed"];
    assert!(refused.as_u64().unwrap() >= 32, "{report}");
    assert!(run.table().contains("failed: "), "{}", run.table());
}

/// Bound and never listening: nobody else gets the port, and a connection is refused.
fn deaf_socket() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&any.into()).unwrap();
    socket
}

#[test]
fn users_whom_nobody_lets_in_do_not_wait_for_long() {
    let deaf = deaf_socket();
    let target = deaf.local_addr().unwrap().as_socket().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("browsers.toml");
    fs::write(&file, "users = 4\nclients = { web = 1 }\n[idle]\n").unwrap();
    let run = Run::of(&format!("run {} --target http://{target}", file.display()));
    assert_eq!(run.code(), 1, "{}", run.errors());
    assert!(
        run.table().contains("user who is not in"),
        "{}",
        run.table()
    );
    assert!(
        run.table().contains("no 200 from /sockjs/info"),
        "{}",
        run.table()
    );
}

#[test]
fn too_few_open_files_are_said_before_anything_begins() {
    let output = Command::new("sh")
        .arg("-c")
        .arg("ulimit -n 256 && exec \"$0\" run idle --embedded --users 1000 --ramp 1000/s")
        .arg(env!("CARGO_BIN_EXE_ddp-load"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("need 1200 open files, and 256 are allowed"),
        "{said}"
    );
}

/// All are moved while they chat, and nothing is lost, doubled, or noticed.
#[test]
fn nobody_notices_a_drain() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("moving.toml");
    let text = "users = 40\nramp = \"200/s\"\nduration = \"1s\"\n[chat]\nrooms = 4\n\
                rooms_per_user = 2\nmessages = \"20/s\"\n\
                [drain]\nstreamers = 2\nafter = \"100ms\"\n";
    fs::write(&file, text).unwrap();
    let report = Run::of(&format!("run {} --embedded", file.display())).passed();
    assert_eq!(count(&report, "drain"), 2);
    let counts = &report["counts"];
    // A third of them at least is on the fullest of three.
    assert!(counts["moved"].as_u64().unwrap() >= 2 * 13, "{counts}");
    assert_eq!(counts["closed_by_drain"], 0, "{counts}");
    assert_eq!(counts["attempts"], 40);
    assert_eq!(counts["owed"], counts["deliveries"]);
}

#[test]
fn calls_are_answered() {
    let words = "run calls --embedded --users 60 --ramp 200/s --duration 1s";
    let report = Run::of(words).passed();
    let calls = count(&report, "round_trip");
    // A hundred in a second, at moments that are drawn by lot.
    assert!((40..=160).contains(&calls), "{calls}");
    assert_eq!(report["counts"]["results"], calls);
}

#[test]
fn requests_of_several_kinds_come_by_their_shares() {
    let report = Run::of("run http-mix --embedded --duration 1s").passed();
    // A third of a hundredth of a second cannot be told exactly.
    assert!((300..=301).contains(&count(&report, "request")));
    let sent = report["counts"]["request_bytes"].as_u64().unwrap();
    // Four of a hundred.
    assert!((6..=18).contains(&(sent / (300 << 10))), "{sent}");
    assert!(report["counts"]["response_bytes"].as_u64().unwrap() > 2_000_000);
}

#[test]
fn files_go_up() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("up.toml");
    let text = "duration = \"500ms\"\n[http]\nconnections = 2\n\
                requests = [{ path = \"/upload\", upload = \"1MiB\" }]\n";
    fs::write(&file, text).unwrap();
    let report = Run::of(&format!("run {} --embedded", file.display())).passed();
    let sent = report["counts"]["request_bytes"].as_u64().unwrap();
    assert_eq!(sent, count(&report, "request") << 20);
}

#[test]
fn the_scenarios_are_listed() {
    let output = Command::new(env!("CARGO_BIN_EXE_ddp-load"))
        .arg("scenarios")
        .output()
        .unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    for name in ["idle", "chat", "fan-out", "connect-rate", "storm", "http"] {
        let known = listed
            .lines()
            .any(|line| line.starts_with(&format!("{name} ")));
        assert!(known, "{name}: {listed}");
    }
}
