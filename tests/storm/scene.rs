//! A deployment, its gateway and its users.

use std::{
    env, fs,
    net::SocketAddr,
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
use futures_util::future::join_all;
use tempfile::TempDir;

use crate::{
    support::{metrics::Metrics, process::Gateway, until},
    users::{Crowd, Kind, Person, Pulse, Spread, Standing, Tally, Target},
    witness::{Seen, Witness},
};

/// What is different from storm to storm.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) clients: usize,
    pub(crate) streamers: usize,
    pub(crate) logins: LoginModel,
    /// Subscriptions of each user.
    pub(crate) subscriptions: u8,
    /// Tables of `proxy.toml`.
    pub(crate) tables: String,
    /// For everybody to be settled, each time.
    pub(crate) patience: Duration,
}

/// How many users the storm has: `STORM_CLIENTS`, or else what fits into a test run.
pub(crate) fn clients() -> usize {
    let wanted = env::var("STORM_CLIENTS").map_or(USUAL, |text| {
        text.parse()
            .unwrap_or_else(|error| panic!("STORM_CLIENTS={text:?} is no number: {error}"))
    });
    // This process has the users' and the streamers' ends, the gateway both others. A web client
    // asks for `/info` on a connection of its own.
    let needed = 2 * wanted + wanted / 10 + RESERVE;
    let limit = usize::try_from(process::raise_descriptor_limit()).unwrap_or(usize::MAX);
    assert!(
        needed <= limit,
        "a storm of {wanted} clients needs {needed} open files in one process, and {limit} are \
         allowed: raise the limit (ulimit -Hn), or set STORM_CLIENTS to at most {}",
        limit.saturating_sub(RESERVE) * 10 / 21
    );
    wanted
}

const USUAL: usize = 1500;
/// Open files for all that is not a client.
const RESERVE: usize = 500;

pub(crate) struct Scene {
    streamers: Vec<Streamer>,
    workspace: Workspace,
    crowd: Crowd,
    _gateway: Gateway,
    address: SocketAddr,
    admin: SocketAddr,
    pulse: Pulse,
    patience: Duration,
    _monolith: Monolith,
    _folder: TempDir,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From the return of the streamers until everybody was settled.
    pub(crate) settled: Duration,
    /// How late the users' process was for what it wanted to do.
    pub(crate) late: Spread,
    /// The users' view, from the death of the streamers on.
    pub(crate) tally: Tally,
    /// Most logins in flight and so on since the start, on each streamer and on all.
    pub(crate) each: Vec<LoginCounters>,
    pub(crate) all: LoginCounters,
    /// Part of the upgrades that the gateway answered within 50 ms, by its own clock.
    pub(crate) in_time: f64,
    /// The same as somebody sees it who has nothing else to do.
    pub(crate) witness: Seen,
}

impl Scene {
    /// Returns when every user has logged in and has its subscriptions.
    pub(crate) async fn start(weather: &Weather) -> Self {
        let workspace = Workspace::with_logins(weather.logins);
        let mut streamers = Vec::new();
        for n in 1..=weather.streamers {
            let options = StreamerOptions::new(format!("streamer-{n}"), &workspace);
            streamers.push(Streamer::start(options).await.unwrap());
        }
        let monolith = Monolith::start(MonolithOptions::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("proxy.toml");
        let addresses = streamers.iter().map(|s| format!("\"{}\"", s.address()));
        let text = format!(
            "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nmonolith = \"http://{}\"\n\
             streamers = [{}]\nwatch = false\n{}\n",
            monolith.address(),
            addresses.collect::<Vec<_>>().join(", "),
            weather.tables
        );
        fs::write(&config, text).unwrap();
        let mut gateway = Gateway::run(&config);
        let (address, admin) = (
            gateway.address("listening: http://"),
            gateway.address("admin: http://"),
        );
        let scene = Self {
            crowd: Crowd::start(
                Target::new(address),
                people(weather),
                // Fewer in a second than the monolith can log in.
                Duration::from_millis(weather.clients as u64 * 6),
                SEED,
            ),
            streamers,
            workspace,
            _gateway: gateway,
            address,
            admin,
            pulse: Pulse::start(),
            patience: weather.patience,
            _monolith: monolith,
            _folder: folder,
        };
        scene.everybody_is_settled().await;
        scene
    }

    async fn everybody_is_settled(&self) {
        let deadline = Instant::now() + self.patience;
        if let Err(standing) = self.crowd.all(Standing::Settled, deadline).await {
            panic!(
                "not everybody is settled after {:?}: {standing}\n{}",
                self.patience,
                self.crowd.board().take()
            );
        }
    }

    /// Kills all streamers, brings them back when everybody has noticed, and waits until all is
    /// well.
    pub(crate) async fn storm(&self) -> Outcome {
        let before = Metrics::read(self.admin).await;
        self.crowd.board().take();
        self.pulse.take();
        let witness = Witness::start(self.address);
        join_all(self.streamers.iter().map(Streamer::stop)).await;
        let board = self.crowd.board();
        until("everybody has lost the session", async || {
            board.count(Standing::Settled) == 0
        })
        .await;
        let back = Instant::now();
        for streamer in &self.streamers {
            streamer.start_again().await.unwrap();
        }
        self.everybody_is_settled().await;
        let settled = back.elapsed();
        let witness = witness.end();
        let late = self.pulse.take();
        Outcome {
            settled,
            late,
            tally: board.take(),
            each: self
                .streamers
                .iter()
                .map(|streamer| streamer.counters().logins)
                .collect(),
            all: self.workspace.logins(),
            witness,
            in_time: share_within(&before, &Metrics::read(self.admin).await, "0.05"),
        }
    }
}

/// Part of the upgrades between two looks that was answered within a bucket's bound.
fn share_within(before: &Metrics, after: &Metrics, bound: &str) -> f64 {
    let answered = |bound| {
        let labels = [("le", bound)];
        let in_all = |metrics: &Metrics| metrics.sum("accept_seconds_bucket", &labels);
        in_all(after) - in_all(before)
    };
    assert!(answered("+Inf") > 0.0, "no upgrade was counted");
    answered(bound) / answered("+Inf")
}

/// Half of them in browsers, the others on phones and with the SDK.
fn people(weather: &Weather) -> Vec<Person> {
    let clients = u32::try_from(weather.clients).unwrap();
    (0..clients)
        .map(|n| {
            let kind = match n % 10 {
                0..5 => Kind::Web,
                5..8 => Kind::ReactNative,
                _ => Kind::SDK,
            };
            let (token, user) = (format!("demo-user{n}"), format!("uid-user{n}"));
            Person::new(n, kind, &token, &user, weather.subscriptions)
        })
        .collect()
}

const SEED: u64 = 0x5707;
