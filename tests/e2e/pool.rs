//! Pools over real sockets: discovery, probes, and how soon a streamer is out and back.
//!
//! The limits of 2 s and 0.5 s are those of the promise, each measured once, by a [`Stopwatch`] that
//! does not count the time for which the machine kept the process from running. That the schedule
//! of the probes keeps them in every phase is proven with a virtual clock (`tests/properties/pool.rs`);
//! here it is about the wire.

use std::{
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ddp_gateway::{
    base::id::{PoolName, StreamerAddr},
    config::model,
    control::pool_task::{self, Events},
    demo::streamer::{Mode, Streamer, StreamerOptions},
    discovery::Listing,
    pool::{Health, Outcome, Pool, Wish},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use crate::{
    nameserver::{Mood, NameServer, Zone},
    support::{Looks, stopwatch::Stopwatch},
};

/// A streamer that is stopped or silent is out of rotation within this.
const OUT: Duration = Duration::from_secs(2);
/// One that is back is used within this.
const BACK: Duration = Duration::from_millis(500);
/// For everything that has no limit of its own.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pool that is driven as in the process.
struct Running {
    pool: Arc<Pool>,
    config: watch::Sender<Arc<model::Pool>>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(config: model::Pool) -> Self {
        let pool = Pool::new(pool_task::settings(&config), Instant::now());
        let (config, changes) = watch::channel(Arc::new(config));
        let task = tokio::spawn(pool_task::run(
            pool.clone(),
            changes,
            Listing::default(),
            Events::default(),
        ));
        Self { pool, config, task }
    }

    /// Waits until `condition` holds.
    async fn until(&self, what: &str, condition: impl Fn(&Pool) -> bool) {
        let mut looks = Looks::start();
        while looks.again().await {
            if condition(&self.pool) {
                return;
            }
        }
        panic!("{what}: {:#?}", self.pool.report(Instant::now()));
    }

    async fn until_eligible(&self, count: usize) {
        let what = format!("{count} streamers in rotation");
        self.until(&what, |pool| eligible(pool).len() == count)
            .await;
    }

    /// Waits until this one is taken out of rotation, for less than [`OUT`].
    async fn out_in_time(&self, address: SocketAddr) {
        let watch = Stopwatch::start("out of rotation");
        self.until("out of rotation", |pool| !eligible(pool).contains(&address))
            .await;
        let took = watch.read();
        assert!(took < OUT, "out of rotation after {took:?}");
    }

    /// Waits until this one is in rotation again, for less than [`BACK`].
    async fn back_in_time(&self, address: SocketAddr) {
        let watch = Stopwatch::start("back in rotation");
        self.until("back in rotation", |pool| eligible(pool).contains(&address))
            .await;
        let took = watch.read();
        assert!(took < BACK, "back in rotation after {took:?}");
    }

    fn reconfigure(&self, change: impl FnOnce(&mut model::Pool)) {
        self.config.send_modify(|config| {
            let mut changed = model::Pool::clone(config);
            change(&mut changed);
            *config = Arc::new(changed);
        });
    }
}

fn eligible(pool: &Pool) -> Vec<SocketAddr> {
    let view = pool.view();
    let eligible = view.entries.iter().filter(|entry| entry.eligible());
    eligible.map(|entry| entry.streamer.addr.0).collect()
}

fn config(streamers: &[SocketAddr]) -> model::Pool {
    model::Pool {
        name: PoolName::from("default"),
        streamers: streamers.iter().copied().map(StreamerAddr).collect(),
        dns: Vec::new(),
        nats: None,
        kubernetes: None,
        sessions_per_streamer: 500,
        queue: model::Queue {
            length: 10_000,
            wait: Duration::from_secs(60),
        },
        slow_start: Duration::from_secs(10),
        attach_timeout: Duration::from_secs(5),
        health: model::Health {
            interval: Duration::from_millis(400),
            timeout: Duration::from_millis(500),
            ddp_interval: Duration::from_secs(10),
            failures: 2,
            max_ejected: 0.5,
        },
    }
}

fn dns(server: &NameServer, name: &str, kind: model::DnsKind) -> model::Dns {
    model::Dns {
        name: name.to_owned(),
        kind,
        resolvers: vec![server.address()],
        ttl_min: Duration::from_millis(100),
        ttl_max: Duration::from_secs(30),
    }
}

async fn streamers(count: usize) -> Vec<Streamer> {
    let mut streamers = Vec::new();
    for _ in 0..count {
        streamers.push(
            Streamer::start(StreamerOptions::default())
                .await
                .expect("a free port"),
        );
    }
    streamers
}

fn addresses(streamers: &[Streamer]) -> Vec<SocketAddr> {
    streamers.iter().map(Streamer::address).collect()
}

#[tokio::test]
async fn a_pool_is_proven_by_ddp_before_it_takes_sessions() {
    let streamers = streamers(3).await;
    let running = Running::start(config(&addresses(&streamers)));
    running.until_eligible(3).await;
    for streamer in &streamers {
        let upgrades = streamer.upgrades();
        let targets: Vec<_> = upgrades
            .iter()
            .map(|upgrade| upgrade.target.as_str())
            .collect();
        // One as a rule; more if the machine was too slow for the answer to the first.
        assert!(!targets.is_empty() && targets.iter().all(|target| *target == "/websocket"));
        // The probe's own session is closed again.
        running
            .until("probes closed", |_| streamer.sessions() == 0)
            .await;
    }
    // Nothing is cold while nobody is warm.
    let report = running.pool.report(Instant::now());
    assert_eq!(report.capacity, 1_500);
    assert!(report.accepting);
}

#[tokio::test]
async fn a_hanging_streamer_is_out_within_two_seconds_and_its_return_is_used_at_once() {
    let streamers = streamers(2).await;
    let running = Running::start(config(&addresses(&streamers)));
    running.until_eligible(2).await;
    let hanging = streamers[0].address();
    streamers[0].set_mode(Mode::Hang).await.unwrap();
    running.out_in_time(hanging).await;
    running.until_eligible(1).await;
    assert_eq!(eligible(&running.pool), [streamers[1].address()]);
    streamers[0].set_mode(Mode::Normal).await.unwrap();
    running.back_in_time(hanging).await;
}

#[tokio::test]
async fn a_refusing_streamer_is_out_and_its_return_is_used_at_once() {
    let streamers = streamers(2).await;
    let running = Running::start(config(&addresses(&streamers)));
    running.until_eligible(2).await;
    let refusing = streamers[0].address();
    streamers[0].stop().await;
    running.out_in_time(refusing).await;
    streamers[0].start_again().await.unwrap();
    running.back_in_time(refusing).await;
    // The same when it answers on the connections that it has, and only refuses new ones.
    streamers[0].set_mode(Mode::Refuse).await.unwrap();
    running.out_in_time(refusing).await;
    streamers[0].set_mode(Mode::Normal).await.unwrap();
    running.back_in_time(refusing).await;
}

#[tokio::test]
async fn a_streamer_behind_a_black_hole_is_out_and_back_in_time() {
    let real = &streamers(1).await[0];
    let hole = Hole::dig(real.address()).await;
    let running = Running::start(config(&[hole.address]));
    running.until_eligible(1).await;
    hole.open.send_replace(false);
    running.out_in_time(hole.address).await;
    hole.open.send_replace(true);
    running.back_in_time(hole.address).await;
}

/// A way to a streamer that can be shut: bytes stay on it and connections get no answer.
struct Hole {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Hole {
    async fn dig(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, is_open) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut is_open = is_open.clone();
                tokio::spawn(async move {
                    is_open.wait_for(|open| *open).await.ok()?;
                    let mut far = TcpStream::connect(to).await.ok()?;
                    let mut shut = is_open.clone();
                    let shut = async { shut.wait_for(|open| !*open).await.map(drop) };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => return None,
                        shut = shut => shut.ok()?,
                    }
                    // What is under way then is lost, and nobody is told.
                    is_open.wait_for(|open| *open).await.map(drop).ok()
                });
            }
        });
        Self { address, open }
    }
}

#[tokio::test]
async fn a_failure_of_real_traffic_is_looked_into_at_once() {
    let streamers = streamers(2).await;
    let mut config = config(&addresses(&streamers));
    // The regular probe would not come for a long time.
    config.health.interval = Duration::from_secs(60);
    let running = Running::start(config);
    running.until_eligible(2).await;
    let view = running.pool.view();
    let first = view.find(&streamers[0].address().to_string().as_str().into());
    let first = first.unwrap().streamer.clone();
    streamers[0].stop().await;
    // One client's failure alone would not take it out.
    first.report(Outcome::ConnectFailed, Instant::now());
    running
        .until("a hurried probe", |_| first_failed(&running.pool, &first))
        .await;
}

/// The pool has noticed on its own: the cause is a probe, not the client's report.
fn first_failed(pool: &Pool, streamer: &ddp_gateway::pool::Streamer) -> bool {
    let view = pool.view();
    let health = view.find(&streamer.id).map(|entry| entry.health);
    matches!(health, Some(Health::Down { .. }))
}

#[tokio::test]
async fn a_streamer_that_answers_http_but_not_ddp_gets_nobody() {
    let streamers = streamers(2).await;
    streamers[0].set_mode(Mode::HalfDead).await.unwrap();
    let mut config = config(&addresses(&streamers));
    config.health.ddp_interval = Duration::from_millis(300);
    let running = Running::start(config);
    running
        .until("the half-dead one is down", |pool| {
            let view = pool.view();
            let down =
                |entry: &&ddp_gateway::pool::Entry| matches!(entry.health, Health::Down { .. });
            view.entries.iter().filter(down).count() == 1
        })
        .await;
    running.until_eligible(1).await;
    assert_eq!(eligible(&running.pool), [streamers[1].address()]);
    let rows = running.pool.view().rows(Instant::now());
    let row = rows.iter().find(|row| row.health == "down").unwrap();
    assert!(
        row.cause.as_ref().unwrap().starts_with("DDP probe"),
        "{row:?}"
    );
    // The other one turns half-dead while it is in rotation.
    streamers[0].set_mode(Mode::Normal).await.unwrap();
    running.back_in_time(streamers[0].address()).await;
    running.until_eligible(2).await;
    streamers[1].set_mode(Mode::HalfDead).await.unwrap();
    running.until_eligible(1).await;
    assert_eq!(eligible(&running.pool), [streamers[0].address()]);
}

#[tokio::test]
async fn the_whole_pool_comes_back_and_those_who_wait_are_served_within_half_a_second() {
    let streamers = streamers(3).await;
    let running = Running::start(config(&addresses(&streamers)));
    running.until_eligible(3).await;
    for streamer in &streamers {
        streamer.stop().await;
    }
    running.until_eligible(0).await;
    let waiting: Vec<_> = (0..1_200)
        .map(|_| {
            let pool = running.pool.clone();
            let mut ticket = pool.wait(Wish::default(), Instant::now()).unwrap();
            tokio::spawn(async move { poll_fn(|cx| ticket.poll(cx, Instant::now())).await })
        })
        .collect();
    assert_eq!(running.pool.waiting(), 1_200);
    let back = Stopwatch::start("all who waited are served");
    for streamer in &streamers {
        streamer.start_again().await.unwrap();
    }
    let mut permits = Vec::new();
    for client in waiting {
        permits.push(timeout(PATIENCE, client).await.unwrap().unwrap());
    }
    let took = back.read();
    assert!(took < BACK, "served after {took:?}");
    // All of them found room, and no streamer more than it may have.
    for entry in &running.pool.view().entries {
        assert!(entry.streamer.sessions() <= 500);
    }
    drop(permits);
    assert_eq!(running.pool.report(Instant::now()).sessions, 0);
}

#[tokio::test]
async fn dns_finds_new_streamers_when_the_ttl_is_over() {
    let streamers = streamers(1).await;
    let port = streamers[0].address().port();
    let zone = Zone::with_ttl(1).address("streamers.test", Ipv4Addr::LOCALHOST.into());
    let server = NameServer::start(zone.clone()).await.unwrap();
    let mut config = config(&[]);
    config.dns = vec![dns(
        &server,
        "streamers.test",
        model::DnsKind::Address { port },
    )];
    let running = Running::start(config);
    running.until_eligible(1).await;
    // The second one has another address and the same port, as pods do.
    let second = SocketAddr::from(([127, 0, 0, 2], port));
    let options = StreamerOptions {
        address: second,
        ..StreamerOptions::default()
    };
    let _second = Streamer::start(options).await.unwrap();
    server.set_zone(zone.address("streamers.test", second.ip()));
    let start = Stopwatch::start("a new address found");
    running.until_eligible(2).await;
    let took = start.read();
    assert!(took < Duration::from_secs(3), "{took:?}");
    // The TTL is honoured in both directions: asked again after it, and not before. One round of
    // an address that has A records is one query.
    let from = server.queries();
    let (start, rounds) = (Instant::now(), Stopwatch::start("three rounds of queries"));
    running
        .until("three rounds", |_| server.queries() >= from + 3)
        .await;
    let (took, own) = (start.elapsed(), rounds.read());
    assert!(
        took > Duration::from_millis(1_900),
        "asked too often: {took:?}"
    );
    assert!(own < Duration::from_secs(5), "asked too rarely: {own:?}");
    // One that leaves the name gets no new sessions.
    server.set_zone(Zone::with_ttl(1).address("streamers.test", second.ip()));
    running
        .until("the first left", |pool| eligible(pool) == [second])
        .await;
}

#[tokio::test]
async fn whatever_becomes_of_dns_the_pool_stays() {
    let streamers = streamers(1).await;
    let port = streamers[0].address().port();
    let zone = Zone::with_ttl(0).address("streamers.test", Ipv4Addr::LOCALHOST.into());
    let server = NameServer::start(zone.clone()).await.unwrap();
    let mut config = config(&[]);
    config.dns = vec![dns(
        &server,
        "streamers.test",
        model::DnsKind::Address { port },
    )];
    let running = Running::start(config);
    running.until_eligible(1).await;
    for mood in [
        Mood::Empty,
        Mood::NoSuchName,
        Mood::Failing,
        Mood::Garbage,
        Mood::Silent,
    ] {
        server.set_mood(mood);
        let from = server.queries();
        running
            .until("a whole round", |_| server.queries() >= from + 2)
            .await;
        assert_eq!(eligible(&running.pool).len(), 1, "{mood:?}");
    }
    // The server is gone altogether, and comes back with another answer.
    let address = server.address();
    server.stop().await;
    let second = SocketAddr::from(([127, 0, 0, 3], port));
    let options = StreamerOptions {
        address: second,
        ..StreamerOptions::default()
    };
    let _second = Streamer::start(options).await.unwrap();
    assert_eq!(eligible(&running.pool).len(), 1);
    let zone = zone.address("streamers.test", second.ip());
    let _server = NameServer::start_at(address, zone).await.unwrap();
    running.until_eligible(2).await;
}

#[tokio::test]
async fn srv_records_bring_their_ports_and_targets() {
    let streamers = streamers(3).await;
    let local = IpAddr::from(Ipv4Addr::LOCALHOST);
    let mut zone = Zone::with_ttl(1);
    for (at, streamer) in streamers.iter().enumerate() {
        let target = format!("pod-{at}.test");
        let port = streamer.address().port();
        zone = zone
            .service("_ddp._tcp.test", &target, port)
            .address(&target, local);
    }
    // A target that does not exist is nobody.
    zone = zone.service("_ddp._tcp.test", "pod-9.test", 9);
    let server = NameServer::start(zone.clone()).await.unwrap();
    let mut config = config(&[]);
    config.dns = vec![dns(&server, "_ddp._tcp.test", model::DnsKind::Srv)];
    let running = Running::start(config);
    running.until_eligible(3).await;
    assert_eq!(running.pool.view().entries.len(), 3);
    // One target cannot be asked for, and a new one comes: both are there.
    let new = Streamer::start(StreamerOptions::default()).await.unwrap();
    let zone = zone
        .broken("pod-1.test")
        .service("_ddp._tcp.test", "pod-4.test", new.address().port())
        .address("pod-4.test", local);
    server.set_zone(zone);
    running.until_eligible(4).await;
}

#[tokio::test]
async fn a_reload_changes_the_set_and_leaves_sessions_alone() {
    let streamers = streamers(3).await;
    let addresses = addresses(&streamers);
    let running = Running::start(config(&addresses[..2]));
    running.until_eligible(2).await;
    let wish = Wish {
        preferred: Some(addresses[0].to_string().as_str().into()),
        ..Wish::default()
    };
    let permit = running.pool.pick(&wish, &[], Instant::now()).unwrap();
    running.reconfigure(|config| {
        config.streamers = addresses[1..].iter().copied().map(StreamerAddr).collect();
        config.sessions_per_streamer = 7;
    });
    running
        .until("the new set", |pool| {
            let eligible = eligible(pool);
            eligible.len() == 2 && !eligible.contains(&addresses[0])
        })
        .await;
    assert_eq!(permit.streamer().sessions(), 1);
    let report = running.pool.report(Instant::now());
    assert_eq!(report.sessions, 1);
    assert!(report.streamers.iter().any(|row| row.admin == "leaving"));
    assert!(report.streamers.iter().all(|row| row.limit == 7));
}

#[tokio::test]
async fn a_reload_that_leads_discovery_astray_does_not_empty_the_pool() {
    let streamers = streamers(1).await;
    let port = streamers[0].address().port();
    let zone = Zone::with_ttl(0).address("streamers.test", Ipv4Addr::LOCALHOST.into());
    let server = NameServer::start(zone).await.unwrap();
    let kind = model::DnsKind::Address { port };
    let mut config = config(&[]);
    config.dns = vec![dns(&server, "streamers.test", kind)];
    let running = Running::start(config);
    running.until_eligible(1).await;
    running.reconfigure(|config| config.dns = vec![dns(&server, "streamer.test", kind)]);
    let from = server.queries();
    running
        .until("the wrong name asked for", |_| server.queries() >= from + 4)
        .await;
    assert_eq!(eligible(&running.pool).len(), 1);
    // The task ends when nobody can configure it any more.
    let Running { config, task, .. } = running;
    drop(config);
    timeout(PATIENCE, task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_fails_exposes_a_half_dead_streamer() {
    let streamers = streamers(2).await;
    // Ten seconds between DDP probes: nobody would have noticed for long.
    let running = Running::start(config(&addresses(&streamers)));
    running.until_eligible(2).await;
    let view = running.pool.view();
    let first = streamers[0].address().to_string();
    let first = view.find(&first.as_str().into()).unwrap().streamer.clone();
    streamers[0].set_mode(Mode::HalfDead).await.unwrap();
    first.report(Outcome::TimedOut, Instant::now());
    let start = Stopwatch::start("half-dead and out");
    running.until_eligible(1).await;
    let out = start.read();
    // The pause between two DDP probes, the probe, and its repetition.
    assert!(out < Duration::from_secs(4), "{out:?}");
    assert_eq!(eligible(&running.pool), [streamers[1].address()]);
}
