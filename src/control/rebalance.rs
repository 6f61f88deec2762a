//! Levelling the streamers of each pool: by itself, or on the operator's order.
//!
//! When, who and how many is decided by [`Balance`]; here is what it sees and what it leads to.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use metrics::{Counter, Gauge};
use serde::Serialize;
use tracing::{info, warn};

use super::{
    app::{Control, Inner},
    drain::Stage,
    moves::{self, Key},
};
use crate::{
    base::id::{PoolName, StreamerId},
    config::model::{Rebalance, RebalanceMode},
    pool::{
        Pool, Seen,
        balance::{Balance, Done, Event, Finish, Terms},
        level::{Share, plan, skew},
    },
    proxy::registry::Standing,
    telemetry::names,
};

/// How each pool is levelled.
#[derive(Debug, Default)]
pub(super) struct Rebalances(Mutex<BTreeMap<PoolName, Watched>>);

#[derive(Debug)]
struct Watched {
    balance: Balance,
    meters: Meters,
}

#[derive(Debug)]
struct Meters {
    skew: Gauge,
    running: Gauge,
    /// In the order of [`Finish::ALL`].
    finished: [Counter; Finish::ALL.len()],
}

/// How even a pool is, and what is done about it.
#[derive(Clone, Debug, Serialize)]
pub struct PoolBalance {
    pub pool: String,
    /// `off`, `slow` or `fast`.
    pub mode: &'static str,
    /// A run begins by itself when the fullest streamer has this share more than the mean.
    pub threshold: f64,
    /// Sessions that move in a second, at most.
    pub rate: u32,
    /// The fullest streamer in relation to the mean; 1 is even.
    pub skew: f64,
    /// Whether sessions are being moved.
    pub running: bool,
    /// Why.
    pub because: Option<&'static str>,
    pub since_seconds: Option<u64>,
    /// Sessions that have moved in this run, or else in the last one.
    pub moved: u64,
    /// Moves that are not over.
    pub under_way: usize,
    /// Sessions that are to move yet.
    pub left: u32,
    /// Sessions that were told to move and stayed, by the reason; of this run, or else the last one.
    pub refused: BTreeMap<&'static str, u64>,
    /// `null` when there is no telling.
    pub eta_seconds: Option<u64>,
    /// How the last run ended: `balanced`, `stuck`, `stopped`.
    pub last: Option<&'static str>,
    /// What each streamer in rotation would give or get now.
    pub streamers: Vec<Share>,
}

impl Control {
    /// How even the pools are; changes nothing.
    pub fn balances(&self) -> Vec<PoolBalance> {
        let now = Instant::now();
        let mut pools = self.0.rebalances.lock();
        prepare(&self.0, &mut pools, now);
        describe(&self.0, &pools, now)
    }

    /// Levels all pools now, whatever the thresholds and even when it is switched off.
    pub fn rebalance(&self) -> Vec<PoolBalance> {
        let now = Instant::now();
        let mut pools = self.0.rebalances.lock();
        prepare(&self.0, &mut pools, now);
        for (pool, watched) in pools.iter_mut() {
            let event = watched.balance.order(now);
            watched.note(pool, event);
        }
        self.0.moves_due.notify_one();
        describe(&self.0, &pools, now)
    }

    /// Stops what is under way; sessions that are between two streamers arrive.
    pub fn stop_rebalance(&self) -> Vec<PoolBalance> {
        let now = Instant::now();
        let mut pools = self.0.rebalances.lock();
        prepare(&self.0, &mut pools, now);
        for (pool, watched) in pools.iter_mut() {
            let event = watched.balance.stop(now);
            watched.note(pool, event);
        }
        describe(&self.0, &pools, now)
    }
}

/// Tells the sessions whose turn it is; returns when to come again.
pub(super) fn step(inner: &Inner, now: Instant) -> Instant {
    let mut pools = inner.rebalances.lock();
    prepare(inner, &mut pools, now);
    let snapshot = inner.shared.snapshot.load();
    let stopping = inner.exit.stage() != Stage::Running;
    let waiting = inner.shared.logins.report(now).waiting > 0;
    let most = moves::most_under_way(inner, now);
    let mut wake_at = now + LONGEST_PAUSE;
    for pool in &snapshot.pools {
        let Some(watched) = pools.get_mut(pool.name()) else {
            continue;
        };
        let held = stopping || inner.streamer_drains.is_busy(pool.name());
        // Clients that want to log in come first.
        let most = if held || waiting { 0 } else { most };
        watched.step(inner, pool, held, most, now);
        wake_at = wake_at.min(watched.balance.next_timeout(now));
    }
    wake_at
}

/// One for each pool that there is, with the terms that hold now.
fn prepare(inner: &Inner, pools: &mut BTreeMap<PoolName, Watched>, now: Instant) {
    let snapshot = inner.shared.snapshot.load();
    let terms = terms(&snapshot.config.rebalance, inner.shared.logins.rate_limit());
    pools.retain(|name, watched| {
        let stays = snapshot.pools.iter().any(|pool| pool.name() == name);
        if !stays {
            watched.meters.running.set(0.0);
        }
        stays
    });
    for pool in &snapshot.pools {
        let name = pool.name();
        let watched = pools.entry(name.clone()).or_insert_with(|| Watched {
            balance: Balance::new(terms, rand::random(), now),
            meters: Meters::new(name),
        });
        let event = watched.balance.set_terms(terms, now);
        watched.note(name, event);
    }
}

fn terms(rebalance: &Rebalance, logins: u32) -> Terms {
    let (automatic, rate) = match rebalance.mode {
        RebalanceMode::Off => (false, logins / SLOWER),
        RebalanceMode::Slow => (true, logins / SLOWER),
        RebalanceMode::Fast => (true, logins),
    };
    Terms {
        automatic,
        threshold: rebalance.threshold,
        rate: rate.max(1),
    }
}

fn describe(inner: &Inner, pools: &BTreeMap<PoolName, Watched>, now: Instant) -> Vec<PoolBalance> {
    let snapshot = inner.shared.snapshot.load();
    let rebalance = &snapshot.config.rebalance;
    let row = |pool: &std::sync::Arc<Pool>| {
        let watched = pools.get(pool.name())?;
        let levels = pool.view().levels(now);
        let running = watched.balance.running(&levels, now);
        let last = watched.balance.last();
        let Done { moved, refused } = match (&running, last) {
            (Some(running), _) => running.done.clone(),
            (None, Some((_, done))) => done.clone(),
            (None, None) => Done::default(),
        };
        let eta = running.as_ref().and_then(|running| running.eta);
        Some(PoolBalance {
            pool: pool.name().to_string(),
            mode: match rebalance.mode {
                RebalanceMode::Off => "off",
                RebalanceMode::Slow => "slow",
                RebalanceMode::Fast => "fast",
            },
            threshold: rebalance.threshold,
            rate: watched.balance.terms().rate,
            skew: (skew(&levels) * 1000.0).round() / 1000.0,
            running: running.is_some(),
            because: running.as_ref().map(|running| running.cause.label()),
            since_seconds: running
                .as_ref()
                .map(|running| now.saturating_duration_since(running.since).as_secs()),
            moved,
            under_way: running.as_ref().map_or(0, |running| running.under_way),
            left: running.as_ref().map_or(0, |running| running.left),
            refused,
            eta_seconds: eta.map(|eta| eta.as_secs() + u64::from(eta.subsec_nanos() > 0)),
            last: last.map(|(finish, _)| finish.label()),
            streamers: plan(&levels),
        })
    };
    snapshot.pools.iter().filter_map(row).collect()
}

impl Watched {
    fn step(&mut self, inner: &Inner, pool: &Pool, held: bool, most: usize, now: Instant) {
        let name = pool.name();
        let levels = pool.view().levels(now);
        self.meters.skew.set(skew(&levels));
        for (id, streamer) in self.balance.asked(now) {
            let from = Key {
                pool: name.clone(),
                streamer,
            };
            let progress = moves::progress(inner, id, &from);
            self.balance.heard(id, progress, now);
        }
        let event = self.balance.watch(&levels, held, now);
        self.note(name, event);
        if self.balance.wants_look(now) {
            let there = look(inner, name, now);
            self.balance.saw(&there, now);
        }
        while let Some((id, streamer)) = self.balance.next(&levels, most, now) {
            let from = Key {
                pool: name.clone(),
                streamer,
            };
            if let Some(entry) = moves::still_on(inner, id, &from) {
                entry.order_move(true);
                self.balance.told(id, from.streamer, now);
            }
        }
    }

    fn note(&self, pool: &PoolName, event: Option<Event>) {
        match event {
            None => {}
            Some(Event::Begun(cause)) => {
                self.meters.running.set(1.0);
                info!(
                    %pool,
                    rate = self.balance.terms().rate,
                    "the streamers of pool {pool} are being levelled ({}): sessions move to those \
                     with fewer; `ddp-gateway rebalance --stop` stops it",
                    cause.label()
                );
            }
            Some(Event::Finished(finish)) => {
                self.meters.running.set(0.0);
                let at = Finish::ALL.iter().position(|other| *other == finish);
                if let Some(counter) = at.and_then(|at| self.meters.finished.get(at)) {
                    counter.increment(1);
                }
                let done = self.balance.last().map(|(_, done)| done.clone());
                let Done { moved, refused } = done.unwrap_or_default();
                match finish {
                    Finish::Balanced | Finish::Stopped => info!(
                        %pool, moved, ?refused,
                        "levelling the streamers of pool {pool} has ended: {}", finish.label()
                    ),
                    Finish::Stuck => warn!(
                        %pool, moved, ?refused,
                        "the streamers of pool {pool} could not be levelled: the sessions that are \
                         left cannot be moved, or no streamer has room for them"
                    ),
                }
            }
        }
    }
}

/// Sessions that might move, by streamer.
fn look(inner: &Inner, pool: &PoolName, now: Instant) -> BTreeMap<StreamerId, Vec<Seen>> {
    let mut there: BTreeMap<StreamerId, Vec<Seen>> = BTreeMap::new();
    inner.shared.registry.for_each(|entry| {
        let place = entry.place();
        // Whoever logs in is busy enough.
        if place.standing == Standing::LoggingIn || entry.pool.name() != pool {
            return;
        }
        if let Some(key) = moves::whereabouts(entry, &place) {
            let sessions = there.entry(key.streamer).or_default();
            sessions.push(moves::seen(entry, &place, now));
        }
    });
    there
}

impl Meters {
    fn new(pool: &PoolName) -> Self {
        let pool = pool.as_str();
        let running = names::REBALANCING.gauge(&[pool]);
        running.set(0.0);
        Self {
            skew: names::POOL_SKEW.gauge(&[pool]),
            running,
            finished: Finish::ALL.map(|finish| names::REBALANCES.counter(&[pool, finish.label()])),
        }
    }
}

impl Rebalances {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PoolName, Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// "slow" is the pace of logins by this.
const SLOWER: u32 = 10;

const LONGEST_PAUSE: Duration = Duration::from_secs(1);
