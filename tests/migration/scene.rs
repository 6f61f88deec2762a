//! A deployment, its gateway and users who are busy.

use std::{
    env, fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use ddp_gateway::{
    demo::{
        logins::LoginModel,
        monolith::{Monolith, MonolithOptions},
        streamer::{Streamer, StreamerOptions},
        workspace::{Statuses, Workspace},
    },
    telemetry::process,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    gate::Gate,
    stage::{Stage, Totals},
    support::{
        Looks,
        apiserver::{ApiServer, Pod},
        process::Gateway,
    },
    users::{Crowd, Habits, Herald, Kind, Person, Pulse, Standing, Target},
};

/// Logins in flight at one streamer, and at all of them.
pub(crate) const STREAMER_LIMIT: usize = 8;
pub(crate) const LIMIT: usize = 24;

/// How many users there are: `MIGRATION_CLIENTS`, or else what fits into a test run.
pub(crate) fn clients() -> u32 {
    let wanted = env::var("MIGRATION_CLIENTS").map_or(USUAL, |text| {
        text.parse()
            .unwrap_or_else(|error| panic!("MIGRATION_CLIENTS={text:?} is no number: {error}"))
    });
    // This process has the users' ends and those of the streamers, of which each user has two while
    // it moves.
    let needed = 3 * u64::from(wanted) + 1000;
    let limit = process::raise_descriptor_limit();
    assert!(
        needed <= limit,
        "{wanted} clients need {needed} open files in one process, and {limit} are allowed: raise \
         the limit (ulimit -Hn), or set MIGRATION_CLIENTS to at most {}",
        limit.saturating_sub(1000) / 3
    );
    wanted
}

const USUAL: u32 = 240;
/// Users of one room. Each user is in two rooms.
const NEIGHBOURS: u32 = 20;
/// Users that each user watches.
const WATCHED: u32 = 8;
/// Every so many-th user is away.
const AWAY: u32 = 10;
/// Subscriptions that a client has at its start, besides those of its user's habits.
const SUBSCRIPTIONS: u8 = 12;

/// What is different from test to test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) streamers: usize,
    /// So many of them are running.
    pub(crate) up: usize,
    /// The last one can be killed.
    pub(crate) mortal: bool,
    /// The key `mode`.
    pub(crate) rebalance: &'static str,
    /// Events reach the streamers one after the other, so much apart.
    pub(crate) skew: Duration,
    /// The gateway finds the streamers through the API of Kubernetes.
    pub(crate) kubernetes: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            streamers: 3,
            up: 3,
            mortal: false,
            rebalance: "off",
            skew: Duration::ZERO,
            kubernetes: false,
        }
    }
}

pub(crate) struct Scene {
    pub(crate) clients: u32,
    pub(crate) rooms: u32,
    pub(crate) streamers: Vec<Streamer>,
    /// What the gateway takes for the last streamer, if it can be killed.
    pub(crate) gate: Option<Gate>,
    /// Where the gateway finds the streamers, if not in its configuration.
    pub(crate) api: Option<ApiServer>,
    pub(crate) workspace: Workspace,
    pub(crate) crowd: Crowd,
    pub(crate) herald: Option<Herald>,
    /// Since the users are busy, of all stages.
    pub(crate) total: Totals,
    pub(crate) gateway: Gateway,
    pub(crate) admin: SocketAddr,
    pub(crate) pulse: Pulse,
    /// Of the stage that is under way, and the gateway's processor time then.
    pub(crate) began: Instant,
    pub(crate) cpu: Duration,
    pub(crate) presence: Statuses,
    pub(crate) changes: Statuses,
    _monolith: Monolith,
    _folder: TempDir,
}

impl Scene {
    /// Returns when all users are settled and busy.
    pub(crate) async fn start(plan: &Plan) -> Self {
        let clients = clients();
        let workspace = Workspace::with_logins(LoginModel {
            cost: Duration::from_millis(20),
            workers: 8,
        });
        let mut started = Vec::new();
        for n in 1..=plan.streamers {
            let options = StreamerOptions {
                lag: plan.skew * u32::try_from(n - 1).unwrap(),
                ..StreamerOptions::new(format!("streamer-{n}"), &workspace)
            };
            let streamer = Streamer::start(options).await.unwrap();
            if n > plan.up {
                streamer.stop().await;
            }
            started.push(streamer);
        }
        let monolith = Monolith::start(MonolithOptions::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("proxy.toml");
        let mut addresses: Vec<SocketAddr> = started.iter().map(Streamer::address).collect();
        let last = addresses.len() - 1;
        let gate = plan.mortal.then(|| Gate::start(addresses[last]));
        if let Some(gate) = &gate {
            addresses[last] = gate.address();
        }
        let mut api = None;
        let mut discovery = String::new();
        if plan.kubernetes {
            let server = ApiServer::start().await;
            for (n, address) in addresses.drain(..).enumerate() {
                server.put(&slice(n), &[Pod::ready(&pod(n, 0), address)]);
            }
            discovery = server.toml("");
            api = Some(server);
        }
        let addresses: Vec<String> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
        let text = format!(
            "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nmonolith = \"http://{}\"\n\
             streamers = [{}]\nwatch = false\n\
             [pool]\nsessions_per_streamer = {clients}\nslow_start = \"0s\"\n\
             [log]\naccess = false\n\
             [limits.methods]\nconnection_by_method = \"100/10s\"\nuser_by_method = \"200/10s\"\n\
             [logins]\nconcurrency = {LIMIT}\nstreamer_concurrency = {STREAMER_LIMIT}\n\
             rate = \"1000/s\"\nstreamer_rate = \"1000/s\"\n\
             [rebalance]\nmode = \"{}\"\n{discovery}",
            monolith.address(),
            addresses.join(", "),
            plan.rebalance,
        );
        fs::write(&config, text).unwrap();
        let mut gateway = Gateway::run(&config);
        let (address, admin) = (
            gateway.address("listening: http://"),
            gateway.address("admin: http://"),
        );
        let rooms = (clients / (NEIGHBOURS / 2)).max(4);
        let crowd = Crowd::start(
            Target::new(address),
            (0..clients).map(|n| person(n, clients, rooms)),
            // Fewer in a second than the monolith can log in.
            Duration::from_millis(u64::from(clients) * 4),
            SEED,
        );
        let mut scene = Self {
            clients,
            rooms,
            streamers: started,
            gate,
            api,
            workspace,
            crowd,
            herald: None,
            total: Totals::default(),
            gateway,
            admin,
            pulse: Pulse::start(),
            began: Instant::now(),
            cpu: Duration::ZERO,
            presence: Statuses::default(),
            changes: Statuses::default(),
            _monolith: monolith,
            _folder: folder,
        };
        scene.crowd.board().set_skewed(!plan.skew.is_zero());
        scene.begin().await;
        scene
    }

    async fn begin(&mut self) {
        self.everybody_is_settled().await;
        let away = u64::from(self.clients.div_ceil(AWAY));
        let workspace = self.workspace.clone();
        self.sees("who is away to be shown as that", async || {
            workspace.presence().away == away
        })
        .await;
        // What is published behind all that has changed so far.
        let board = self.crowd.board().clone();
        let workspace = self.workspace.clone();
        let publish = move |room: &str, message: Value| {
            workspace.publish("stream-room-messages", room, &[message]);
        };
        Herald::all(&board, self.rooms, &publish);
        self.sees("a first message to reach everybody", async || {
            board.traffic().delay.count() >= 2 * u64::from(self.clients)
        })
        .await;
        self.presence = self.workspace.presence();
        self.changes = self.workspace.presence_changes();
        let before = board.take();
        assert_eq!(before.breaches, 0, "{:?}", before.first_breaches);
        self.total.called = before.traffic.called;
        self.total.answered = before.traffic.answered;
        // Each user hears one in a second, and in a small crowd one in half a second.
        let per_second = (self.rooms / 2).clamp(self.rooms.min(40), 250);
        board.set_busy(true);
        self.herald = Some(Herald::start(
            board.clone(),
            self.rooms,
            per_second,
            publish,
        ));
        self.pulse.take();
        self.began = Instant::now();
        self.cpu = self.gateway.processor_time();
    }

    pub(crate) fn clients(&self) -> usize {
        self.clients as usize
    }

    /// Time for something that concerns all clients.
    fn patience(&self) -> Duration {
        Duration::from_millis(30_000 + 40 * u64::from(self.clients))
    }

    /// Waits until something holds.
    pub(crate) async fn sees(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let mut looks = Looks::within(self.patience());
        while looks.again().await {
            if holds().await {
                return;
            }
        }
        panic!(
            "waited in vain for {what}: {}\n{}\n{}",
            self.crowd.board(),
            self.crowd.board().take(),
            self.streamers
                .iter()
                .map(|streamer| format!("{} ", streamer.sessions()))
                .collect::<String>(),
        );
    }

    pub(crate) async fn everybody_is_settled(&self) {
        let board = self.crowd.board();
        self.sees("everybody to be settled", async || {
            board.count(Standing::Settled) == self.clients as usize
        })
        .await;
    }

    /// A part of a test in which nothing happens but what the users do.
    pub(crate) async fn quiet(&mut self, name: &str) -> Stage {
        let board = self.crowd.board();
        // Enough for a p99.
        let enough = board.traffic().delay.count() + 4 * u64::from(self.clients);
        self.sees("messages to come", async || {
            board.traffic().delay.count() >= enough
        })
        .await;
        self.stage(name)
    }

    /// Ends the users' business, and waits until everything that was said has been heard.
    pub(crate) async fn finish(&mut self) -> Stage {
        let board = self.crowd.board().clone();
        board.set_busy(false);
        if let Some(herald) = self.herald.take() {
            herald.finish().await;
        }
        let last = 2 * u64::from(self.clients);
        self.sees("the last message of each room to reach all", async || {
            board.have_last() >= last
        })
        .await;
        let Totals {
            called,
            answered,
            abandoned,
            ..
        } = self.total;
        self.sees("all calls to be answered", async || {
            let traffic = board.traffic();
            let open = called + traffic.called - answered - traffic.answered;
            open == abandoned + traffic.faults.abandoned
        })
        .await;
        let stage = self.stage("the end");
        println!(
            "    {} calls in all; presence {:?}, changes since the start {:?}; logins {:?}",
            self.total.called,
            self.workspace.presence(),
            self.flaps(),
            self.workspace.logins(),
        );
        assert_eq!(board.have_last(), last);
        stage
    }
}

/// The slice of a streamer: they differ in their port, which is that of a slice.
pub(crate) fn slice(n: usize) -> String {
    format!("ddp-streamer-{n}")
}

/// The name of a streamer's pod, which is another one after each restart.
pub(crate) fn pod(n: usize, restarts: u32) -> String {
    format!("ddp-streamer-{n}-{restarts}")
}

/// In the test run all three kinds of clients, half of them browsers.
fn person(n: u32, clients: u32, rooms: u32) -> Person {
    let kind = match n % 10 {
        0..5 => Kind::Web,
        5..8 => Kind::ReactNative,
        _ => Kind::SDK,
    };
    let (token, user) = (format!("demo-user{n}"), format!("uid-user{n}"));
    let home = n % rooms;
    let other = (home + 1 + (n / rooms) % (rooms - 1)) % rooms;
    let habits = Habits {
        rooms: [home, other].into(),
        all_rooms: rooms,
        watched: (1..=WATCHED).map(|step| (n + step * 7) % clients).collect(),
        away: n.is_multiple_of(AWAY),
        pause: pause(clients),
    };
    Person::new(n, kind, &token, &user, SUBSCRIPTIONS).with_habits(habits)
}

/// So that all of them together do about 250 things in a second, 600 with 5,000 users.
fn pause(clients: u32) -> Duration {
    Duration::from_millis(1000 + u64::from(clients) * 3 / 2)
}

const SEED: u64 = 0x3013;
