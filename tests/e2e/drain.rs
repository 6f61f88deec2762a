//! Ending the gateway without a client noticing more than it must.

use std::{fs, path::PathBuf, time::Duration};

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tokio::{net::TcpStream, time::Instant};

use crate::support::{
    certificate::Pair,
    deployment::{self, Deployment, Plan, Servers},
    http,
    process::Gateway,
    settles,
    socket::{Client, End, Way},
    soon, until,
};

fn plan(delay: &str, spread: &str, deadline: &str) -> Plan {
    Plan {
        tables: format!(
            "[drain]\ndelay = \"{delay}\"\nspread = \"{spread}\"\ndeadline = \"{deadline}\"\n"
        ),
        ..Plan::default()
    }
}

#[tokio::test]
async fn sockets_are_closed_with_1012_spread_over_time() {
    let deployment = Deployment::of(plan("0s", "2s", "20s")).await;
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(match n % 4 {
            0 => Client::raw(deployment.plain(), Way::Plain).await,
            1 => Client::raw(deployment.tls(), Way::Tls).await,
            2 => Client::sockjs(deployment.plain(), Way::Plain).await,
            _ => Client::sockjs(deployment.tls(), Way::Tls).await,
        });
    }
    deployment.sessions(20).await;
    let started = Instant::now();
    deployment.app.drain(None).await;
    let mut ends = Vec::new();
    for mut client in clients {
        ends.push(tokio::spawn(async move {
            let end = soon("the drain to close a socket", client.end()).await;
            (end, started.elapsed())
        }));
    }
    let mut times = Vec::new();
    for end in ends {
        let (end, at) = end.await.unwrap();
        assert!(matches!(end, End::Closed(1012, _)), "{end:?}");
        times.push(at);
    }
    soon("the drain", deployment.app.wait()).await;
    times.sort();
    let spread = times[times.len() - 1] - times[0];
    assert!(
        spread > Duration::from_millis(700),
        "all at once: {times:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    settles("sessions on the streamers", 0, async || {
        deployment
            .streamers
            .iter()
            .map(|streamer| streamer.sessions())
            .sum::<usize>()
    })
    .await;
}

#[tokio::test]
async fn not_ready_but_still_serving_until_the_delay_is_over() {
    let deployment = Deployment::of(plan("2s", "100ms", "20s")).await;
    let (plain, admin) = (deployment.plain(), deployment.admin());
    deployment.app.drain(None).await;
    let ready = http::get(admin, "/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["reasons"][0]["reason"], "draining");
    assert_eq!(http::get(admin, "/healthz").await.status, 200);
    // The balancer may not know yet.
    assert_eq!(http::get(plain, "/health").await.status, 200);
    let mut late = Client::raw(plain, Way::Plain).await;
    assert_eq!(http::get(admin, "/drain").await.json()["stage"], "waiting");
    assert!(matches!(
        soon("the close", late.end()).await,
        End::Closed(1012, _)
    ));
    soon("the drain", deployment.app.wait()).await;
    assert!(TcpStream::connect(plain).await.is_err(), "still listening");
    assert_eq!(http::get(admin, "/drain").await.json()["stage"], "stopped");
    let metrics = deployment.metrics().await;
    assert_eq!(metrics.sum("draining", &[]), 1.0);
    assert_eq!(
        metrics.sum("sessions_closed_total", &[("reason", "drain")]),
        1.0
    );
}

#[tokio::test]
async fn requests_in_progress_are_finished() {
    let deployment = Deployment::of(plan("0s", "100ms", "20s")).await;
    let plain = deployment.plain();
    let mut idle = TcpStream::connect(plain).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(http::exchange(&mut idle, request).await.status, 200);
    let before = deployment.monolith.requests();
    let slow = tokio::spawn(async move { http::get(plain, "/slow?ms=1500").await });
    until("the slow request to arrive", async || {
        deployment.monolith.requests() > before
    })
    .await;
    deployment.app.drain(None).await;
    // The idle connection ends at once, the busy one with its answer.
    let mut rest = Vec::new();
    let ended = tokio::io::AsyncReadExt::read_to_end(&mut idle, &mut rest);
    assert_eq!(soon("the idle connection to end", ended).await.unwrap(), 0);
    let answer = slow.await.unwrap();
    assert_eq!(answer.status, 200);
    soon("the drain", deployment.app.wait()).await;
}

#[tokio::test]
async fn the_deadline_bounds_everything() {
    let deployment = Deployment::of(plan("0s", "100ms", "1s")).await;
    let plain = deployment.plain();
    let before = deployment.monolith.requests();
    let endless = tokio::spawn(async move {
        let mut stream = TcpStream::connect(plain).await.unwrap();
        let request = b"GET /slow?ms=60000 HTTP/1.1\r\nHost: x\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, request)
            .await
            .unwrap();
        std::future::pending::<()>().await;
    });
    until("the endless request to arrive", async || {
        deployment.monolith.requests() > before
    })
    .await;
    let started = Instant::now();
    deployment.app.drain(None).await;
    soon("the drain", deployment.app.wait()).await;
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_secs(5),
        "{took:?}"
    );
    endless.abort();
}

/// The binary with servers behind it.
struct Process {
    gateway: Gateway,
    _servers: Servers,
    folder: TempDir,
}

impl Process {
    async fn start(plan: &Plan) -> Self {
        let servers = Servers::start(1).await;
        let folder = tempfile::tempdir().unwrap();
        let certificate = Pair::write(folder.path(), "tls", &["localhost"]);
        let path = folder.path().join("proxy.toml");
        fs::write(&path, deployment::text(plan, &servers, &certificate)).unwrap();
        Self {
            gateway: Gateway::run(&path),
            _servers: servers,
            folder,
        }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("proxy.toml")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_and_exits_with_0() {
    let mut process = Process::start(&plan("200ms", "500ms", "20s")).await;
    let plain = process.gateway.address("listening: http://");
    let mut client = Client::raw(plain, Way::Plain).await;
    assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
    process.gateway.signal(Signal::TERM);
    assert!(matches!(
        soon("the close", client.end()).await,
        End::Closed(1012, _)
    ));
    let status = process.gateway.ended().await;
    let output = process.gateway.output();
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(output.contains("draining: not ready any more"), "{output}");
    assert!(
        output.contains("drained: nothing is open any more"),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once() {
    let mut process = Process::start(&plan("60s", "60s", "300s")).await;
    let plain = process.gateway.address("listening: http://");
    let mut client = Client::raw(plain, Way::Plain).await;
    process.gateway.signal(Signal::TERM);
    process.gateway.line("draining: not ready any more");
    process.gateway.signal(Signal::TERM);
    let started = Instant::now();
    let status = process.gateway.ended().await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(status.code(), Some(1));
    soon("the socket to end", client.end()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_drains_through_the_admin_listener_and_waits() {
    let mut process = Process::start(&plan("300ms", "500ms", "20s")).await;
    let plain = process.gateway.address("listening: http://");
    let admin = process.gateway.address("admin: http://");
    let mut client = Client::raw(plain, Way::Plain).await;
    let mut command = Gateway::with(&["drain", "--wait", "--admin", &format!("http://{admin}")]);
    assert!(matches!(
        soon("the close", client.end()).await,
        End::Closed(1012, _)
    ));
    let status = command.ended().await;
    let said = command.output();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("waiting: 1 sockets"), "{said}");
    assert!(said.contains("the gateway has ended"), "{said}");
    assert_eq!(process.gateway.ended().await.code(), Some(0));
    // Nobody there any more.
    let mut again = Gateway::with(&["drain", "--admin", &format!("http://{admin}")]);
    assert_eq!(again.ended().await.code(), Some(1));
    assert!(
        again.output().contains("no gateway answers"),
        "{}",
        again.output()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reloads_and_a_broken_file_changes_nothing() {
    let mut plan = plan("0s", "0s", "5s");
    plan.keys = "watch = false\n".to_owned();
    let mut process = Process::start(&plan).await;
    let plain = process.gateway.address("listening: http://");
    let good = fs::read_to_string(process.config()).unwrap();
    fs::write(
        process.config(),
        format!("{good}\n[http]\nbody_limt = \"1MiB\"\n"),
    )
    .unwrap();
    process.gateway.signal(Signal::HUP);
    let fault = process.gateway.line("configuration refused");
    assert!(
        fault.contains("body_limt") && fault.contains("body_limit"),
        "{fault}"
    );
    assert_eq!(http::get(plain, "/health").await.status, 200);
    fs::write(
        process.config(),
        format!("{good}\n[http]\nbody_limit = \"1MiB\"\n"),
    )
    .unwrap();
    process.gateway.signal(Signal::HUP);
    process.gateway.line("configuration loaded");
    assert_eq!(http::get(plain, "/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_follows_a_reload_and_is_json_to_the_last_line() {
    let mut plan = plan("0s", "0s", "5s");
    plan.keys = "watch = false\n".to_owned();
    let mut process = Process::start(&plan).await;
    let plain = process.gateway.address("listening: http://");
    assert_eq!(http::get(plain, "/health?mark=1").await.status, 200);
    process.gateway.line("\"event\":\"request\"");
    let good = fs::read_to_string(process.config()).unwrap();
    let quiet = format!("{good}\n[log]\naccess = false\nfilter = \"warn\"\n");
    fs::write(process.config(), quiet).unwrap();
    process.gateway.signal(Signal::HUP);
    until("the reload", async || {
        let before = process
            .gateway
            .output()
            .matches("\"event\":\"request\"")
            .count();
        assert_eq!(http::get(plain, "/health").await.status, 200);
        // A line that is logged is out well before this one has come back.
        http::get(plain, "/slow?ms=100").await;
        process
            .gateway
            .output()
            .matches("\"event\":\"request\"")
            .count()
            == before
    })
    .await;
    process.gateway.signal(Signal::TERM);
    process.gateway.ended().await;
    let output = process.gateway.output();
    assert!(!output.contains("draining"), "the filter is warn: {output}");
    for line in output.lines() {
        let parsed: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(
            parsed["timestamp"].is_string() && parsed["level"].is_string(),
            "{line}"
        );
    }
}
