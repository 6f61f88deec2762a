//! A deployment, its gateways and its users.

use std::{
    env, fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ddp_gateway::{
    demo::{
        logins::{LoginCounters, LoginModel},
        monolith::{Monolith, MonolithOptions},
        streamer::{Streamer, StreamerOptions},
        workspace::Workspace,
    },
    telemetry::process,
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::{
    support::{Looks, http, process::Gateway, until},
    users::{Crowd, Kind, Person, Standing, Target},
};

/// Of all gateways together.
pub(crate) const CONCURRENCY: usize = 60;
pub(crate) const RATE: u32 = 100;

/// How many users there are: `REPLICAS_CLIENTS`, or else what fits into a test run.
fn clients() -> usize {
    let wanted = env::var("REPLICAS_CLIENTS").map_or(USUAL, |text| {
        text.parse()
            .unwrap_or_else(|error| panic!("REPLICAS_CLIENTS={text:?} is no number: {error}"))
    });
    let limit = usize::try_from(process::raise_descriptor_limit()).unwrap_or(usize::MAX);
    let needed = 2 * wanted + wanted / 10 + 1000;
    assert!(
        needed <= limit,
        "{wanted} users need {needed} open files in one process, and {limit} are allowed"
    );
    wanted
}

const USUAL: usize = 240;

pub(crate) struct Scene {
    clients: usize,
    limit: usize,
    streamers: Vec<Streamer>,
    workspace: Workspace,
    gateways: Vec<Replica>,
    crowds: Vec<Crowd>,
    /// Users that were let in.
    inside: usize,
    longest_pause: Arc<AtomicU64>,
    watcher: JoinHandle<()>,
    _monolith: Monolith,
    _folder: TempDir,
}

struct Replica {
    process: Gateway,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Scene {
    /// A gateway for each bus, which is a URL or several with `", "` between them, and streamers with `room` times as many places as there
    /// will be users.
    pub(crate) async fn start(urls: &[String], streamers: usize, room: f64) -> Self {
        let clients = clients();
        let limit = (clients as f64 * room / streamers as f64).ceil() as usize;
        let workspace = Workspace::with_logins(LoginModel {
            cost: Duration::from_millis(20),
            workers: 32,
        });
        let mut started = Vec::new();
        for n in 1..=streamers {
            let options = StreamerOptions::new(format!("streamer-{n}"), &workspace);
            started.push(Streamer::start(options).await.unwrap());
        }
        let monolith = Monolith::start(MonolithOptions::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let addresses = started.iter().map(|one| format!("\"{}\"", one.address()));
        let addresses: Vec<String> = addresses.collect();
        let mut gateways = Vec::new();
        for (n, url) in urls.iter().enumerate() {
            let config = folder.path().join(format!("proxy-{n}.toml"));
            let text = format!(
                "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nmonolith = \"http://{}\"\n\
                 streamers = [{}]\nwatch = false\n\
                 [pool]\nsessions_per_streamer = {limit}\nslow_start = \"0s\"\n\
                 [logins]\nconcurrency = {CONCURRENCY}\nstreamer_concurrency = 30\n\
                 rate = \"{RATE}/s\"\nstreamer_rate = \"{RATE}/s\"\n\
                 [drain]\ndelay = \"0s\"\nspread = \"1s\"\n\
                 [log]\naccess = false\n\
                 [replicas]\nenabled = true\nurl = [\"{url}\"]\n",
                monolith.address(),
                addresses.join(", "),
            );
            fs::write(&config, text).unwrap();
            let mut process = Gateway::run(&config);
            let address = process.address("listening: http://");
            let admin = process.address("admin: http://");
            gateways.push(Replica {
                process,
                address,
                admin,
            });
        }
        let longest_pause = Arc::new(AtomicU64::new(0));
        let watcher = tokio::spawn(watch(longest_pause.clone()));
        Self {
            clients,
            limit,
            streamers: started,
            workspace,
            gateways,
            crowds: Vec::new(),
            inside: 0,
            longest_pause,
            watcher,
            _monolith: monolith,
            _folder: folder,
        }
    }

    pub(crate) fn clients(&self) -> usize {
        self.clients
    }

    /// Sessions that a streamer may have.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Sessions that one streamer had at most; the sockets of gateways that look how it is are none.
    pub(crate) fn most(&self) -> usize {
        let most = self
            .streamers
            .iter()
            .map(|one| one.counters().most_sessions);
        most.max().unwrap_or(0)
    }

    /// The longest time for which the machine did not let anything happen here.
    pub(crate) fn longest_pause(&self) -> Duration {
        Duration::from_micros(self.longest_pause.load(Ordering::Relaxed))
    }

    pub(crate) fn logins(&self) -> LoginCounters {
        self.workspace.logins()
    }

    /// A part of all users comes, each to the next gateway.
    pub(crate) fn let_in(&mut self, part: f64) {
        let count = (self.clients as f64 * part) as usize;
        let numbers = self.inside..(self.inside + count).min(self.clients);
        self.inside = numbers.end;
        let mut target = Target::new(self.gateways[0].address);
        target.addresses = self.gateways.iter().map(|one| one.address).collect();
        let person = |n: usize| {
            let kind = [Kind::Web, Kind::ReactNative, Kind::SDK][n % 3];
            let (token, user) = (format!("demo-user{n}"), format!("uid-user{n}"));
            Person::new(u32::try_from(n).unwrap(), kind, &token, &user, 4)
        };
        let people = numbers.map(person);
        let spread = Duration::from_millis(count as u64 * 2);
        self.crowds.push(Crowd::start(target, people, spread, 7));
    }

    /// Waits until something holds.
    async fn sees(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let patience = Duration::from_millis(30_000 + 40 * self.clients as u64);
        let mut looks = Looks::within(patience);
        while looks.again().await {
            if holds().await {
                return;
            }
        }
        let mut pages = String::new();
        for gateway in &self.gateways {
            pages += &http::get(gateway.admin, "/replicas").await.text();
            pages += &http::get(gateway.admin, "/streamers").await.text();
        }
        panic!("waited in vain for {what}: {pages}");
    }

    pub(crate) async fn everybody_is_settled(&self) {
        self.sees("everybody to be settled", async || {
            let settled = self
                .crowds
                .iter()
                .map(|crowd| crowd.board().count(Standing::Settled));
            settled.sum::<usize>() == self.inside
        })
        .await;
    }

    pub(crate) async fn everybody_is_together(&self) {
        for at in 0..self.gateways.len() {
            self.knows(at, self.gateways.len() - 1).await;
            self.sees("streamers in rotation", async || {
                let page = self.page(at, "/streamers").await;
                let rows = page["pools"][0]["streamers"].as_array().cloned();
                rows.unwrap_or_default()
                    .iter()
                    .all(|row| row["health"] == "up")
            })
            .await;
        }
    }

    /// Waits until a gateway counts with so many others.
    pub(crate) async fn knows(&self, at: usize, others: usize) {
        self.sees("gateways to find each other", async || {
            let page = self.page(at, "/replicas").await;
            page["others"]
                .as_array()
                .is_some_and(|all| all.len() == others)
                && page["state"] != "learning"
        })
        .await;
    }

    /// Waits until each gateway has heard all the others since then.
    pub(crate) async fn all_hear_each_other(&self, since: Instant) {
        let others = self.gateways.len() - 1;
        self.sees("gateways to hear each other", async || {
            for at in 0..self.gateways.len() {
                let passed = since.elapsed().as_secs_f64();
                let page = self.page(at, "/replicas").await;
                let heard = page["others"].as_array().into_iter().flatten();
                let heard = heard.filter(|one| one["heard_seconds_ago"].as_f64() < Some(passed));
                if heard.count() < others {
                    return false;
                }
            }
            true
        })
        .await;
    }

    pub(crate) async fn is_degraded(&self, at: usize, why: &str) {
        self.sees("a degraded gateway", async || {
            let page = self.page(at, "/readyz").await;
            page["ready"] == true && page["degraded"].to_string().contains(why)
        })
        .await;
    }

    /// Waits until each gateway knows how many sessions the others have on each streamer.
    pub(crate) async fn counts_are_right(&self) {
        self.sees("counts that are right", async || {
            let mut rows: Vec<Vec<(u64, u64)>> = Vec::new();
            for at in 0..self.gateways.len() {
                let page = self.page(at, "/streamers").await;
                let streamers = page["pools"][0]["streamers"].as_array().unwrap();
                let row = |row: &Value| {
                    let number = |key: &str| row[key].as_u64().unwrap();
                    (number("sessions"), number("elsewhere"))
                };
                rows.push(streamers.iter().map(row).collect());
            }
            let sums: Vec<u64> = (0..self.streamers.len())
                .map(|streamer| rows.iter().map(|row| row[streamer].0).sum())
                .collect();
            sums.iter().sum::<u64>() == self.inside as u64
                && rows.iter().all(|row| {
                    let both = row.iter().map(|(own, elsewhere)| own + elsewhere);
                    both.eq(sums.iter().copied())
                })
        })
        .await;
    }

    /// No socket has ended, no attempt has failed.
    pub(crate) fn nobody_noticed(&self) {
        for crowd in &self.crowds {
            let tally = crowd.board().take();
            assert!(tally.ended.is_empty(), "{:?}", tally.ended);
            assert_eq!(tally.breaches, 0, "{:?}", tally.first_breaches);
        }
    }

    pub(crate) fn never_too_many(&self) {
        let (most, limit) = (self.most(), self.limit);
        assert!(most <= limit, "{most} on one streamer, which takes {limit}");
    }

    /// An orderly end of one gateway.
    pub(crate) async fn stop(&mut self, at: usize) {
        let gateway = &mut self.gateways[at].process;
        gateway.signal(Signal::TERM);
        until("a gateway to end", async || !gateway.is_running()).await;
    }

    async fn page(&self, at: usize, path: &str) -> Value {
        http::get(self.gateways[at].admin, path).await.json()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

async fn watch(longest: Arc<AtomicU64>) {
    let mut looks = Looks::within(Duration::from_secs(3600));
    let mut last = Instant::now();
    while looks.again().await {
        let pause = u64::try_from(last.elapsed().as_micros()).unwrap_or(u64::MAX);
        longest.fetch_max(pause, Ordering::Relaxed);
        last = Instant::now();
    }
}
