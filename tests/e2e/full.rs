//! A gateway that is as full as it can be: of sessions, of connections, of open files.

use std::{fs, net::SocketAddr, path::PathBuf};

use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::support::{
    certificate::Pair,
    deployment::{self, Plan, Servers},
    http::{self, Answer},
    metrics::Metrics,
    process::Gateway,
    socket::{Client, Way},
    soon, until,
};

/// As many users as one streamer takes, and more of them who come and go, as fast as it goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_upgrade_fails_while_all_places_are_taken() {
    const PLACES: usize = 30;
    const STAY: usize = 24;
    const AT_A_TIME: usize = 64;
    const EACH: usize = 25;
    let plan = Plan {
        tables: format!(
            "[pool]\nsessions_per_streamer = {PLACES}\nslow_start = \"0s\"\n{TALKATIVE}"
        ),
        ..Plan::default()
    };
    let mut process = Process::start(1, &plan, None).await;
    let mut stay = process.clients(STAY).await;
    let mut visitors = JoinSet::new();
    for _ in 0..AT_A_TIME {
        let plain = process.plain;
        visitors.spawn(async move {
            for _ in 0..EACH {
                // Each of the steps fails the test when it fails.
                let mut client = Client::raw(plain, Way::Plain).await;
                assert_eq!(client.call("demo:echo", json!([1])).await["result"], 1);
                client.close().await;
            }
        });
    }
    let mut most_waiting: f64 = 0.0;
    while !visitors.is_empty() {
        let metrics = Metrics::read(process.admin).await;
        most_waiting = most_waiting.max(metrics.sum("pool_waiting", &[]));
        assert!(metrics.sum("streamer_sessions", &[]) <= to_number(PLACES));
        if let Some(visitor) = visitors.try_join_next() {
            visitor.unwrap();
        }
        // Who is in goes on as if nobody else were there.
        for client in &mut stay {
            assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
        }
    }
    assert!(most_waiting >= 1.0, "there was room all the time");
    let metrics = Metrics::read(process.admin).await;
    for refusals in [
        "pool_refused_total",
        "connections_refused_total",
        "http_refusals_total",
        "accept_errors_total",
    ] {
        assert_eq!(metrics.sum(refusals, &[]), 0.0, "{refusals}");
    }
    let upgraded = metrics.sum("sessions_opened_total", &[]);
    assert_eq!(upgraded, to_number(STAY + AT_A_TIME * EACH));
    assert!(process.gateway.is_running());
}

/// The limit that is known at the start: some descriptors are kept, so nothing runs out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_one_too_many_for_the_descriptors_is_told_so_at_any_rate() {
    let mut process = Process::start(1, &talkative(), Some(400)).await;
    let room = process.room();
    let mut stay = process.clients(room).await;

    const AT_A_TIME: usize = 50;
    const EACH: usize = 40;
    let mut refused = JoinSet::new();
    for _ in 0..AT_A_TIME {
        let plain = process.plain;
        refused.spawn(async move {
            for _ in 0..EACH {
                assert_full(&upgrade(plain).await);
            }
        });
    }
    while !refused.is_empty() {
        for client in &mut stay {
            assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
        }
        while let Some(one) = refused.try_join_next() {
            one.unwrap();
        }
    }
    let line = process.gateway.line("clients are refused");
    assert!(line.contains("LimitNOFILE"), "{line}");
    let metrics = Metrics::read(process.admin).await;
    let reason = [("reason", "descriptors")];
    assert_eq!(
        metrics.sum("connections_refused_total", &reason),
        to_number(AT_A_TIME * EACH)
    );
    assert_eq!(metrics.sum("accept_errors_total", &[]), 0.0);
    assert_eq!(
        metrics.sum("sessions", &[("phase", "anonymous")]),
        to_number(room)
    );

    stay.pop().unwrap().close().await;
    until("a place for one", async || {
        upgrade(process.plain).await.status == 101
    })
    .await;
}

/// A limit that nobody knew of: another one lowered it, or the whole machine has no more files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_descriptor_clients_are_told_so_and_nothing_else_ends() {
    let mut process = Process::start(1, &talkative(), None).await;
    let mut stay = process.clients(5).await;
    let before = process.limit_to_what_is_open();
    let (full, mut held) = process.fill().await;
    assert_full(&full);
    let holding = held.len();

    const AT_A_TIME: usize = 40;
    const EACH: usize = 5;
    let mut refused = JoinSet::new();
    for _ in 0..AT_A_TIME {
        let plain = process.plain;
        refused.spawn(async move {
            let mut let_in = Vec::new();
            for _ in 0..EACH {
                let (answer, stream) = open(plain).await;
                match answer.status {
                    // By the descriptor of a probe that has just ended.
                    101 => let_in.push(stream),
                    _ => assert_full(&answer),
                }
            }
            let_in
        });
    }
    while !refused.is_empty() {
        for client in &mut stay {
            assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
        }
        while let Some(one) = refused.try_join_next() {
            held.extend(one.unwrap());
        }
    }
    let let_in = held.len() - holding;
    assert!(let_in <= 10, "{let_in} of {}", AT_A_TIME * EACH);
    // One who connects and says nothing is told so too, and holds nobody up for long.
    let mut silent = TcpStream::connect(process.plain).await.unwrap();
    let answer = soon("a word", http::read_answer(&mut silent, false)).await;
    assert_full(&answer);
    let line = process.gateway.line("no file descriptor left");
    assert!(line.contains("LimitNOFILE"), "{line}");

    // Free descriptors are used at once, whoever gives them back.
    drop(held);
    until("a place for one", async || {
        upgrade(process.plain).await.status == 101
    })
    .await;
    process.set_limit(before);
    let metrics = Metrics::read(process.admin).await;
    let told = to_number(AT_A_TIME * EACH + 2 - let_in);
    for (name, least) in [
        ("connections_refused_total", told),
        ("accept_errors_total", told),
    ] {
        let found = metrics.sum(name, &[("reason", "descriptors")]);
        assert!(found >= least, "{name}: {found} of {least}");
    }
    for client in &mut stay {
        assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
    }
}

/// So few that not even those help that were kept for telling it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_cannot_even_refuse_waits_and_goes_on() {
    let mut process = Process::start(1, &talkative(), None).await;
    let mut stay = process.clients(5).await;
    let before = process.set_limit(Rlimit {
        current: Some(8),
        maximum: None,
    });
    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        let plain = process.plain;
        waiting.spawn(async move { upgrade(plain).await.status });
    }
    // More often than there are descriptors that are kept; each pause is twice as long as the one
    // before.
    for _ in 0..10 {
        process.gateway.line("cannot accept connections");
        for client in &mut stay {
            assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
        }
    }
    process.set_limit(before);
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.unwrap(), 101, "it had only to wait");
    }
    let errors = Metrics::read(process.admin).await;
    let errors = errors.sum("accept_errors_total", &[("reason", "descriptors")]);
    assert!(
        (10.0..100.0).contains(&errors),
        "{errors}: accept is called again and again"
    );

    // What is kept for refusing had to be given up, and is there again.
    process.limit_to_what_is_open();
    let (full, _held) = process.fill().await;
    assert_full(&full);
}

fn talkative() -> Plan {
    Plan {
        tables: TALKATIVE.to_owned(),
        ..Plan::default()
    }
}

/// A gateway in a process of its own.
struct Process {
    gateway: Gateway,
    plain: SocketAddr,
    admin: SocketAddr,
    _servers: Servers,
    _folder: TempDir,
}

impl Process {
    async fn start(streamers: usize, plan: &Plan, descriptors: Option<u32>) -> Self {
        let servers = Servers::start(streamers).await;
        let folder = tempfile::tempdir().unwrap();
        let certificate = Pair::write(folder.path(), "tls", &["localhost"]);
        let path: PathBuf = folder.path().join("proxy.toml");
        fs::write(&path, deployment::text(plan, &servers, &certificate)).unwrap();
        let mut gateway = match descriptors {
            Some(descriptors) => Gateway::run_with_descriptors(&path, descriptors),
            None => Gateway::run(&path),
        };
        let plain = gateway.address("listening: http://");
        let admin = gateway.address("admin: http://");
        until("the streamers to be in rotation", async || {
            Metrics::read(admin).await.sum("streamer_up", &[]) == to_number(streamers)
        })
        .await;
        Self {
            gateway,
            plain,
            admin,
            _servers: servers,
            _folder: folder,
        }
    }

    /// Connections that it says it has room for.
    fn room(&mut self) -> usize {
        let line = self.gateway.line("room for ");
        let (_, rest) = line.split_once("room for ").unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    }

    async fn clients(&self, count: usize) -> Vec<Client> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(Client::raw(self.plain, Way::Plain).await);
        }
        clients
    }

    /// No number above those that are in use; returns the limit from before.
    fn limit_to_what_is_open(&self) -> Rlimit {
        let folder = format!("/proc/{}/fd", self.gateway.pid().as_raw_nonzero());
        let open = fs::read_dir(folder).unwrap();
        let numbers = open.filter_map(|file| file.unwrap().file_name().to_str()?.parse().ok());
        let highest: u64 = numbers.max().unwrap();
        self.set_limit(Rlimit {
            current: Some(highest + 1),
            maximum: None,
        })
    }

    /// Takes the numbers in between that are free yet, until somebody is told that there are none.
    async fn fill(&self) -> (Answer, Vec<TcpStream>) {
        let mut held = Vec::new();
        while held.len() < 1000 {
            let mut stream = TcpStream::connect(self.plain).await.unwrap();
            let answer = http::exchange(&mut stream, KEPT).await;
            if answer.text().contains("The server is full") {
                return (answer, held);
            }
            held.push(stream);
        }
        panic!("the limit is not reached")
    }

    /// Only the soft limit; returns the one from before.
    fn set_limit(&self, wanted: Rlimit) -> Rlimit {
        let pid = Some(self.gateway.pid());
        let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
        let wanted = Rlimit {
            maximum: hard,
            ..wanted
        };
        prlimit(pid, Resource::Nofile, wanted).unwrap()
    }
}

/// What a client gets that wants a socket.
async fn upgrade(address: SocketAddr) -> Answer {
    open(address).await.0
}

/// The same with its connection.
async fn open(address: SocketAddr) -> (Answer, TcpStream) {
    let stream = TcpStream::connect(address);
    let mut stream = soon("a connection", stream).await.unwrap();
    stream.write_all(UPGRADE).await.unwrap();
    let answer = soon("an answer", http::read_answer(&mut stream, true)).await;
    if answer.status != 101 {
        // The end, not a reset.
        let mut rest = Vec::new();
        soon("the end", stream.read_to_end(&mut rest))
            .await
            .unwrap();
    }
    (answer, stream)
}

fn assert_full(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(answer.header("connection"), Some("close"));
}

fn to_number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// Clients that are asked again and again whether they are still served.
const TALKATIVE: &str = "[limits]\nmessages = \"10000/s\"\n\
    [limits.methods]\nconnection = \"off\"\nconnection_by_method = \"off\"\naddress = \"off\"\n";
const KEPT: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
const UPGRADE: &[u8] = b"GET /websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n";
