//! Clients that ask too much, or nothing any more: each meets its own end, and those beside it do
//! not feel it.
//!
//! The gateway is a process of its own, so that its heap can be looked at.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use ddp_gateway::demo::streamer::Streamer;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    runtime,
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use crate::support::{
    certificate::Pair,
    deployment::{Plan, Servers, text},
    http,
    metrics::Metrics,
    process::Gateway,
    settles,
    socket::{Client, End, Way},
    soon, until,
};

/// Neighbours of the one who misbehaves; some on its streamer, some on the other.
const NEIGHBOURS: usize = 8;
/// Round trips of each of them in a round.
const ROUND: usize = 150;
/// Rounds to learn what is usual, and rounds of which one has to be so. What slows the neighbours
/// down because of the one who misbehaves is in all of them; what the machine does besides is not.
const USUAL_ROUNDS: usize = 3;
const ROUNDS: usize = 12;
/// Rounds of which the middle one is compared.
const COMPARED_ROUNDS: usize = 7;

struct Street {
    gateway: Gateway,
    address: SocketAddr,
    admin: SocketAddr,
    servers: Servers,
    /// The same once more, without neighbours: what happens there costs this machine as much as
    /// here, and is nobody's business here.
    next_door: House,
    neighbours: Vec<Client>,
    /// What a round trip takes while everybody behaves.
    usual: Duration,
    heap: f64,
    /// Lines on the metrics page, so that none comes from a name that somebody made up.
    series: usize,
    _folder: TempDir,
}

/// A gateway in front of streamers of its own.
struct House {
    gateway: Gateway,
    address: SocketAddr,
    admin: SocketAddr,
    servers: Servers,
    _folder: TempDir,
}

impl House {
    async fn start(tables: &str) -> Self {
        let servers = Servers::start(2).await;
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan {
            keys: "watch = false\n".to_owned(),
            tables: format!("{tables}\n[limits]\nmessages = \"5000/s\"\nmessages_burst = 20000\n"),
            listeners: Some("[[listener]]\naddress = \"127.0.0.1:0\"\n".to_owned()),
            ..Plan::default()
        };
        let certificate = Pair::write(folder.path(), "unused", &["localhost"]);
        let config = folder.path().join("proxy.toml");
        fs::write(&config, text(&plan, &servers, &certificate)).unwrap();
        let mut gateway = Gateway::run(&config);
        let address = gateway.address("listening: http://");
        let admin = gateway.address("admin: http://");
        Self {
            gateway,
            address,
            admin,
            servers,
            _folder: folder,
        }
    }
}

impl Street {
    /// With `tables` besides room for the neighbours' many pings.
    async fn start(tables: &str) -> Self {
        let House {
            gateway,
            address,
            admin,
            servers,
            _folder,
        } = House::start(tables).await;
        let neighbours = (0..NEIGHBOURS).map(|n| async move {
            let mut client = match n % 2 {
                0 => Client::raw(address, Way::Plain).await,
                _ => Client::sockjs(address, Way::Plain).await,
            };
            log_in(&mut client, &format!("neighbour{n}")).await;
            client
        });
        let mut street = Self {
            gateway,
            address,
            admin,
            servers,
            next_door: House::start(tables).await,
            neighbours: join_all(neighbours).await,
            usual: Duration::ZERO,
            heap: 0.0,
            series: 0,
            _folder,
        };
        street.usual = Duration::MAX;
        for _ in 0..USUAL_ROUNDS {
            street.usual = street.usual.min(street.round().await);
        }
        let metrics = street.metrics().await;
        street.heap = metrics.sum("heap_bytes", &[]);
        street.series = metrics.text().lines().count();
        assert!(street.heap > 0.0, "{}", metrics.text());
        street
    }

    /// 99 of 100 round trips of the neighbours in one round are not longer.
    async fn round(&mut self) -> Duration {
        let rounds = self.neighbours.iter_mut().map(ping_often);
        let mut times: Vec<Duration> = join_all(rounds).await.concat();
        times.sort();
        times[times.len() * 99 / 100]
    }

    /// The middle one of some rounds.
    async fn rounds(&mut self) -> Duration {
        let mut rounds = Vec::new();
        for _ in 0..COMPARED_ROUNDS {
            rounds.push(self.round().await);
        }
        rounds.sort();
        rounds[COMPARED_ROUNDS / 2]
    }

    /// Lets a script run next door, here, and next door again: what it costs the neighbours here
    /// beyond what it costs the machine is nothing.
    async fn feels_no_more_than_next_door(
        &mut self,
        script: impl Fn(SocketAddr) -> Script,
    ) -> Vec<Answers> {
        let (here, there) = (self.address, self.next_door.address);
        let beside = script(there);
        let before = self.rounds().await;
        beside.stop().await;
        let own = script(here);
        let now = self.rounds().await;
        let floods = own.ended().await;
        let beside = script(there);
        let behind = self.rounds().await;
        beside.stop().await;
        println!(
            "p99 of the neighbours, median of {COMPARED_ROUNDS} rounds: {:?} in peace, {before:?} and \
             {behind:?} while it runs next door, {now:?} while it runs here",
            self.usual
        );
        let most = before.max(behind) * 2 + Duration::from_millis(2);
        assert!(
            now <= most,
            "{now:?}, but at most {most:?} was to be expected"
        );
        floods
    }

    /// To be called while somebody misbehaves.
    async fn feels_nothing(&mut self) {
        let most = 3 * self.usual + Duration::from_millis(10);
        let mut seen = Vec::new();
        while seen.len() < ROUNDS {
            let now = self.round().await;
            seen.push(now);
            if now < most && seen.len() >= USUAL_ROUNDS {
                println!(
                    "p99 of the neighbours: {:?} before, now {seen:?}",
                    self.usual
                );
                return;
            }
        }
        panic!(
            "p99 of the neighbours: {:?} before, now {seen:?}",
            self.usual
        );
    }

    /// When it is over: memory is back, and no series has come from what a client made up.
    async fn is_as_before(&mut self, series: usize) {
        until("the heap is what it was, and 4 MiB", async || {
            let heap = self.metrics().await.sum("heap_bytes", &[]);
            heap < self.heap + f64::from(4 << 20)
        })
        .await;
        let lines = self.metrics().await.text().lines().count();
        assert!(
            lines <= self.series + series,
            "{} lines of metrics became {lines}",
            self.series
        );
        self.feels_nothing().await;
    }

    async fn metrics(&self) -> Metrics {
        Metrics::read(self.admin).await
    }

    /// Waits until so many sessions have ended for this reason, and says what the log calls it.
    async fn closed(&mut self, reason: &str, count: usize) {
        let what = format!("sessions closed for {reason}");
        let labels = [("reason", reason), ("by", "gateway")];
        settles(&what, count.to_string(), async || {
            let closed = self.metrics().await.sum("sessions_closed_total", &labels);
            closed.to_string()
        })
        .await;
        self.gateway.line(reason);
    }

    fn messages_in(&self) -> u64 {
        let streamers = self.servers.streamers.iter().map(Streamer::counters);
        streamers.map(|counters| counters.messages_in).sum()
    }
}

async fn log_in(client: &mut Client, name: &str) {
    let token = json!([{ "resume": format!("demo-{name}") }]);
    let answer = client.call("login", token).await;
    assert_eq!(answer["result"]["id"], format!("uid-{name}"), "{answer}");
}

async fn ping_often(client: &mut Client) -> Vec<Duration> {
    let mut times = Vec::with_capacity(ROUND);
    for n in 0..ROUND {
        let sent = Instant::now();
        let id = n.to_string();
        client.send(&json!({"msg": "ping", "id": id})).await;
        while client.message("pong").await["id"] != *id {}
        times.push(sent.elapsed());
    }
    times
}

/// Answers of the gateway to one who asks too much.
#[derive(Debug, Default)]
struct Answers {
    served: usize,
    limited: usize,
    end: Option<End>,
}

/// Sends requests as fast as they are taken until the connection is closed, and reads all answers.
async fn flood(mut client: Client, request: impl Fn(usize) -> Value) -> Answers {
    let mut answers = Answers::default();
    for n in 0.. {
        if client.try_send(&request(n)).await.is_err() {
            break;
        }
        // Some answers in between, so that neither side's buffers decide what is measured.
        if n % 50 == 49 && !answers.read(&mut client, 50).await {
            return answers;
        }
    }
    answers.read(&mut client, usize::MAX).await;
    answers
}

impl Answers {
    /// False at the end of the connection.
    async fn read(&mut self, client: &mut Client, most: usize) -> bool {
        let mut read = 0;
        while read < most {
            let message = match soon("an answer", client.next()).await {
                Ok(message) => message,
                Err(end) => {
                    self.end = Some(end);
                    return false;
                }
            };
            match message["msg"].as_str() {
                Some("result" | "nosub" | "ready") => {}
                _ => continue,
            }
            read += 1;
            if message["error"]["error"] == "too-many-requests" {
                assert!(
                    message["error"]["details"]["timeToReset"].is_u64(),
                    "{message}"
                );
                self.limited += 1;
            } else {
                self.served += 1;
            }
        }
        true
    }
}

/// The same again and again, as a script with a loop around it does, until it is told to stop.
struct Script {
    stop: CancellationToken,
    floods: JoinHandle<Vec<Answers>>,
}

impl Script {
    fn start(
        address: SocketAddr,
        name: &'static str,
        request: impl Fn(usize) -> Value + Send + Sync + 'static,
    ) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let script = async move {
            let mut floods = Vec::new();
            while !stopped.is_cancelled() || floods.len() < 3 {
                let mut client = Client::raw(address, Way::Plain).await;
                let token = json!([{ "resume": format!("demo-{name}") }]);
                client.call("login", token).await;
                floods.push(flood(client, &request).await);
            }
            floods
        };
        // On a thread of its own: the neighbours and the streamers are not to wait for it in here.
        let floods = spawn_blocking(|| {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(script)
        });
        Self { stop, floods }
    }

    async fn stop(self) -> Vec<Answers> {
        self.stop.cancel();
        soon("the floods to end", self.floods).await.unwrap()
    }

    /// What each connection of it came to; all were closed for abuse.
    async fn ended(self) -> Vec<Answers> {
        let floods = self.stop().await;
        println!("{} floods, the first one: {:?}", floods.len(), floods[0]);
        for answers in &floods {
            let code = answers.end.as_ref().and_then(End::code);
            assert_eq!(code, Some(1008), "{answers:?}");
        }
        assert!(floods[0].limited >= 250, "{:?}", floods[0]);
        for answers in &floods[1..] {
            // Whoever was closed for it gets nothing at all for a while.
            assert_eq!(answers.served, 0, "{answers:?}");
            assert!(answers.limited > 0, "{answers:?}");
        }
        floods
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_floods_methods_is_answered_and_then_closed() {
    let mut street = Street::start("").await;
    let before = street.messages_in();
    let script = |address| {
        Script::start(
            address,
            "flood",
            |n| json!({"msg": "method", "id": n.to_string(), "method": "demo:echo", "params": [n]}),
        )
    };
    let floods = street.feels_no_more_than_next_door(script).await;
    // Ten at once, and one more in each second.
    assert!((10..20).contains(&floods[0].served), "{:?}", floods[0]);
    let pings = NEIGHBOURS * ROUND * (USUAL_ROUNDS + 2 * ROUNDS);
    let passed = street.messages_in() - before;
    assert!(passed < 100 + (pings + 2 * floods.len()) as u64, "{passed}");
    // Nobody else from there is meant.
    let mut other = Client::raw(street.address, Way::Plain).await;
    log_in(&mut other, "other").await;
    assert_eq!(other.call("demo:echo", json!([1])).await["result"], 1);

    let metrics = street.metrics().await;
    let limited = |rule| {
        let labels = [("rule", rule), ("kind", "method")];
        metrics.sum("limited_requests_total", &labels)
    };
    assert!(
        limited("connection_by_method") >= 250.0,
        "{}",
        metrics.text()
    );
    assert!(limited("penalty") > 0.0, "{}", metrics.text());
    assert!(metrics.sum("penalties_total", &[]) >= 1.0);
    street.closed("rate_abuse", floods.len()).await;
    street.is_as_before(60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_subscribes_to_random_names_leaves_no_trace() {
    let mut street = Street::start("").await;
    let script = |address| {
        Script::start(address, "random", |n| {
            let name = format!("stream-{:016x}", rand::random::<u64>());
            json!({"msg": "sub", "id": n.to_string(), "name": name, "params": ["x", false]})
        })
    };
    let floods = street.feels_no_more_than_next_door(script).await;
    // 600 at once, and ten more in each second.
    assert!(floods[0].served <= 700, "{:?}", floods[0]);
    let metrics = street.metrics().await;
    let labels = [("rule", "connection"), ("kind", "sub")];
    assert!(metrics.sum("limited_requests_total", &labels) >= 250.0);
    assert!(!metrics.text().contains("stream-0"), "{}", metrics.text());
    assert!(metrics.sum("quota_cells", &[]) < 5000.0);
    street.closed("rate_abuse", floods.len()).await;
    street.is_as_before(60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_never_reads_is_closed_with_1013() {
    let mut street = Street::start("").await;
    let address = street.address;
    let readers = (0..2).map(|_| async move {
        let mut reader = Client::raw(address, Way::Plain).await;
        let params = json!(["news", false]);
        let sub = json!({"msg": "sub", "id": "r", "name": "stream-notify-all", "params": params});
        reader.send(&sub).await;
        reader.message("ready").await;
        reader
    });
    let mut readers = join_all(readers).await;
    let workspace = street.servers.streamers[0].workspace().clone();
    // 32 MiB: more than the kernel and the gateway keep for one client.
    let publishing = spawn_blocking(move || {
        let text = "x".repeat(32 << 10);
        for n in 0..1024 {
            workspace.publish("stream-notify-all", "news", &[json!(n), json!(text)]);
        }
    });
    let admin = street.admin;
    let reading = async {
        until("both are given up", async || {
            let metrics = Metrics::read(admin).await;
            metrics.sum("sessions", &[("phase", "closing")]) == 2.0
        })
        .await;
        // One begins to read now: what was on its way arrives, and the close behind it.
        soon("the close", readers[0].end()).await
    };
    let ((), end) = tokio::join!(street.feels_nothing(), reading);
    publishing.await.unwrap();
    assert_eq!(end.code(), Some(1013), "{end:?}");
    street.closed("slow_consumer", 2).await;
    let street_now = &street;
    settles("bytes that wait for somebody", 0.0, async || {
        street_now.metrics().await.sum("backlog_bytes", &[])
    })
    .await;
    street.is_as_before(60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_vanishes_without_a_word_is_offline_soon() {
    let mut street =
        Street::start("[websocket]\nidle_timeout = \"4s\"\nresume_grace = \"0s\"\n").await;
    let address = street.address;
    // Nobody reads these any more: pings are not answered, and no FIN comes.
    let mut vanished = Vec::new();
    for way in 0..2 {
        let mut client = match way {
            0 => Client::raw(address, Way::Plain).await,
            _ => Client::sockjs(address, Way::Plain).await,
        };
        log_in(&mut client, &format!("ghost{way}")).await;
        vanished.push(client);
    }
    let watched = json!(["", { "added": ["uid-ghost0", "uid-ghost1"], "removed": [] }]);
    let sub = json!({"msg": "sub", "id": "p", "name": "stream-user-presence", "params": watched});
    let watcher = &mut street.neighbours[0];
    watcher.send(&sub).await;
    watcher.message("ready").await;
    let gone = Instant::now();
    let mut offline = 0;
    while offline < 2 {
        let (watcher, others) = street.neighbours.split_first_mut().unwrap();
        let talking = async {
            // The others would be taken for ghosts as well if they were silent.
            loop {
                join_all(others.iter_mut().map(ping_often)).await;
            }
        };
        let event = tokio::select! {
            event = watcher.message("changed") => event,
            () = talking => unreachable!("it has no end"),
        };
        if event["collection"] == "stream-user-presence" && event["fields"]["args"][0][1] == 0 {
            offline += 1;
        }
    }
    let took = gone.elapsed();
    assert!(took < Duration::from_secs(12), "{took:?}");
    street.feels_nothing().await;
    street.closed("client_silent", 2).await;
    let sockets = street.servers.streamers.iter().map(Streamer::sessions);
    assert_eq!(sockets.sum::<usize>(), NEIGHBOURS);
    let rows = http::get(street.admin, "/sessions").await;
    assert!(!rows.text().contains("ghost"), "{}", rows.text());
    street.is_as_before(60).await;
}
