//! Emptying single streamers while the others go on: on the operator's order, or because discovery
//! does not list one any more.
//!
//! What is wanted stands in the pool ([`AdminState::Drain`], `PoolView::leaving`), which is where it
//! ends as well: this task looks there before each session that it has moved, and keeps nothing but
//! the pace. Moves that are under way when it ends arrive.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;
use tracing::{info, warn};

use super::{
    app::{Control, Inner},
    drain::Stage,
    moves::{self, Key},
};
use crate::{
    base::id::PoolName,
    pool::{AdminState, Emptying, Ends, Entry, Pool, PoolView, Seen, Streamer, Tally, Turn},
    proxy::mailbox::Command,
    session::Disconnect,
};

/// The drains under way, with what each has done.
#[derive(Debug, Default)]
pub(super) struct StreamerDrains {
    running: Mutex<BTreeMap<Key, Emptying>>,
    /// Pools whose discovery is not believed that so many streamers leave.
    doubted: Mutex<BTreeSet<PoolName>>,
}

/// How far the drain of a streamer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamerDrain {
    pub pool: String,
    pub streamer: String,
    pub address: String,
    /// On the operator's order.
    pub draining: bool,
    /// Its sessions are moved because discovery does not list it any more; who cannot be moved
    /// stays.
    pub leaving: bool,
    /// Since the order.
    pub since_seconds: Option<u64>,
    /// Sessions on it, those under way among them.
    pub left: u32,
    /// Sessions that went to another streamer, without their clients' noticing.
    pub moved: u64,
    /// Moves that are not over.
    pub under_way: usize,
    /// Sessions that were told to end, because they could not be moved.
    pub closed: u64,
    /// Sessions that could not be moved, by the reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Sessions that leave in a second, at most.
    pub rate: Option<u32>,
    /// Until it is empty; `null` when there is no telling.
    pub eta_seconds: Option<u64>,
    /// Whether another streamer of the pool takes its clients.
    pub others: bool,
}

/// No streamer has this id or address.
#[derive(Clone, Debug, thiserror::Error)]
#[error("there is no streamer {name}; there are: {}", .known.join(", "))]
pub struct UnknownStreamer {
    pub name: String,
    /// The ids that there are.
    pub known: Vec<String>,
}

impl Control {
    /// Empties the streamers with this id or address: they get no new sessions, and those they have
    /// move to others, the idlest first, `rate` in a second, or else as many as may log in. Those
    /// that cannot be moved end with 1012 after that. When it is under way already, it goes on, at
    /// the new rate if there is one.
    ///
    /// # Errors
    /// When there is no such streamer.
    pub fn drain_streamer(
        &self,
        name: &str,
        rate: Option<NonZeroU32>,
    ) -> Result<Vec<StreamerDrain>, UnknownStreamer> {
        let now = Instant::now();
        for found in find(&self.0, name)? {
            found.pool.drain(&found.streamer.id, rate, now);
        }
        step(&self.0, now);
        self.0.moves_due.notify_one();
        let drains = self.streamer_drain(name)?;
        for drain in &drains {
            let StreamerDrain {
                pool,
                streamer,
                left,
                ..
            } = drain;
            if drain.others {
                info!(
                    pool,
                    streamer,
                    sessions = left,
                    rate = drain.rate,
                    "streamer {streamer} is being emptied on the operator's order"
                );
            } else {
                warn!(
                    pool,
                    streamer,
                    sessions = left,
                    rate = drain.rate,
                    "streamer {streamer} is being emptied on the operator's order, and no other \
                     streamer of pool {pool} takes its clients: they will wait; undrain it or add one"
                );
            }
        }
        Ok(drains)
    }

    /// Takes the streamers with this id or address back into rotation. Those of their sessions that
    /// have not been told to move or to end stay.
    ///
    /// # Errors
    /// When there is no such streamer.
    pub fn undrain_streamer(&self, name: &str) -> Result<Vec<StreamerDrain>, UnknownStreamer> {
        let now = Instant::now();
        for found in find(&self.0, name)? {
            if let AdminState::Drain { .. } = found.admin {
                found
                    .pool
                    .set_admin(&found.streamer.id, AdminState::Ready, now);
            }
        }
        step(&self.0, now);
        self.streamer_drain(name)
    }

    /// The streamers with this id or address, drained or not.
    ///
    /// # Errors
    /// When there is no such streamer.
    pub fn streamer_drain(&self, name: &str) -> Result<Vec<StreamerDrain>, UnknownStreamer> {
        Ok(describe(&self.0, find(&self.0, name)?, Instant::now()))
    }

    /// All streamers that are being emptied or kept empty.
    pub fn streamer_drains(&self) -> Vec<StreamerDrain> {
        describe(&self.0, drained(&self.0), Instant::now())
    }
}

/// A streamer and what the operator wants of it.
struct Found {
    pool: Arc<Pool>,
    streamer: Arc<Streamer>,
    admin: AdminState,
}

impl Found {
    fn key(&self) -> Key {
        Key {
            pool: self.pool.name().clone(),
            streamer: self.streamer.id.clone(),
        }
    }
}

fn find(inner: &Inner, name: &str) -> Result<Vec<Found>, UnknownStreamer> {
    let snapshot = inner.shared.snapshot.load();
    let mut found = Vec::new();
    for pool in &snapshot.pools {
        found.extend(pool.find(name).into_iter().map(|(streamer, admin)| Found {
            pool: pool.clone(),
            streamer,
            admin,
        }));
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let mut known = Vec::new();
    for pool in &snapshot.pools {
        let view = pool.view();
        let entries = view.entries.iter().chain(&view.leaving);
        known.extend(entries.map(|entry| entry.streamer.id.to_string()));
    }
    known.sort();
    known.dedup();
    Err(UnknownStreamer {
        name: name.to_owned(),
        known,
    })
}

/// Streamers to be emptied: on order, or because discovery does not list them any more.
fn drained(inner: &Inner) -> Vec<Found> {
    let snapshot = inner.shared.snapshot.load();
    let mut drained = Vec::new();
    for pool in &snapshot.pools {
        let view = pool.view();
        let ordered = |admin| matches!(admin, AdminState::Drain { .. });
        let move_leaving =
            snapshot.config.rebalance.leaving && inner.streamer_drains.believes(pool, &view);
        let listed = view.entries.iter().filter(|entry| ordered(entry.admin));
        let leaving = view.leaving.iter().filter(|entry| {
            let wanted = ordered(entry.admin) || move_leaving && entry.admin == AdminState::Ready;
            wanted && entry.streamer.sessions() > 0
        });
        drained.extend(listed.chain(leaving).map(|entry| Found {
            pool: pool.clone(),
            streamer: entry.streamer.clone(),
            admin: entry.admin,
        }));
    }
    drained
}

fn describe(inner: &Inner, found: Vec<Found>, now: Instant) -> Vec<StreamerDrain> {
    let running = inner.streamer_drains.lock();
    let row = |found: Found| {
        let left = found.streamer.sessions();
        let emptying = running.get(&found.key());
        let since = match found.admin {
            AdminState::Drain { since, .. } => Some(since),
            AdminState::Ready | AdminState::Maint { .. } => None,
        };
        let tally = emptying.map_or_else(Tally::default, |emptying| emptying.tally().clone());
        StreamerDrain {
            pool: found.pool.name().to_string(),
            streamer: found.streamer.id.to_string(),
            address: found.streamer.addr.to_string(),
            draining: since.is_some(),
            leaving: since.is_none() && emptying.is_some(),
            since_seconds: since.map(|since| now.saturating_duration_since(since).as_secs()),
            left,
            moved: tally.moved,
            under_way: emptying.map_or(0, Emptying::under_way),
            closed: tally.closed,
            refused: tally.refused,
            rate: emptying.map(Emptying::rate),
            eta_seconds: emptying
                .and_then(|emptying| emptying.remaining(left))
                .map(|eta| eta.as_secs() + u64::from(eta.subsec_nanos() > 0)),
            others: found.pool.view().any_eligible(),
        }
    };
    found.into_iter().map(row).collect()
}

/// Tells the sessions whose turn it is; returns when to come again.
pub(super) fn step(inner: &Inner, now: Instant) -> Instant {
    let mut running = inner.streamer_drains.lock();
    // When the process closes its sockets, nobody needs another streamer.
    let drained = match inner.exit.stage() {
        Stage::Running | Stage::Waiting => drained(inner),
        Stage::Closing | Stage::Stopped => Vec::new(),
    };
    let wanted: BTreeMap<Key, AdminState> = drained
        .iter()
        .map(|found| (found.key(), found.admin))
        .collect();
    running.retain(|key, _| wanted.contains_key(key));
    // Those without a rate of their own share what the login pace allows.
    let sharing = drained
        .iter()
        .filter(|found| found.streamer.sessions() > 0)
        .filter(|found| !matches!(found.admin, AdminState::Drain { rate: Some(_), .. }))
        .count();
    let sharing = u32::try_from(sharing).unwrap_or(u32::MAX).max(1);
    let share = (inner.shared.logins.rate_limit() / sharing).max(1);
    for (key, admin) in wanted {
        let (rate, ends) = match admin {
            AdminState::Drain { rate, .. } => (rate.map_or(share, NonZeroU32::get), Ends::Told),
            AdminState::Ready | AdminState::Maint { .. } => (share, Ends::ByThemselves),
        };
        let emptying = running.entry(key.clone()).or_insert_with(|| {
            if ends == Ends::ByThemselves {
                info!(
                    pool = %key.pool, streamer = %key.streamer, rate,
                    "streamer {} is not discovered any more and still has sessions: they are \
                     moved to others; [rebalance] leaving = false would leave them there",
                    key.streamer
                );
            }
            Emptying::new(rate, ends, rand::random(), now)
        });
        emptying.set_rate(rate, now);
        emptying.set_ends(ends);
    }
    for (key, emptying) in running.iter_mut() {
        for id in emptying.asked(now) {
            emptying.heard(id, moves::progress(inner, id, key), now);
        }
    }
    look(inner, &mut running, now);
    let mut under_way: usize = running.values().map(Emptying::under_way).sum();
    let most = moves::most_under_way(inner, now);
    let mut wake_at = now + LOOK_EVERY;
    for (key, emptying) in running.iter_mut() {
        // What the others leave, but one at least: nobody waits for nothing.
        let others = under_way - emptying.under_way();
        emptying.set_most(most.saturating_sub(others).max(1));
        let before = emptying.under_way();
        while let Some(turn) = emptying.next(now) {
            if tell(inner, turn, key) {
                emptying.told(turn, now);
            }
        }
        under_way += emptying.under_way() - before;
        wake_at = wake_at.min(emptying.next_timeout().unwrap_or(now + LOOK_EVERY));
    }
    wake_at.max(now + SHORTEST_PAUSE)
}

/// Tells those drains that want to know which sessions are on their streamers.
fn look(inner: &Inner, running: &mut BTreeMap<Key, Emptying>, now: Instant) {
    let mut there: BTreeMap<Key, Vec<Seen>> = running
        .iter()
        .filter(|(_, emptying)| emptying.wants_look(now))
        .map(|(key, _)| (key.clone(), Vec::new()))
        .collect();
    if there.is_empty() {
        return;
    }
    inner.shared.registry.for_each(|entry| {
        let place = entry.place();
        if let Some(key) = moves::whereabouts(entry, &place)
            && let Some(sessions) = there.get_mut(&key)
        {
            sessions.push(moves::seen(entry, &place, now));
        }
    });
    for (key, sessions) in there {
        if let Some(emptying) = running.get_mut(&key) {
            emptying.saw(&sessions, now);
        }
    }
}

/// Tells a session what to do, if it is still there.
fn tell(inner: &Inner, turn: Turn, key: &Key) -> bool {
    let (Turn::Move(id) | Turn::End(id)) = turn;
    let Some(entry) = moves::still_on(inner, id, key) else {
        return false;
    };
    match turn {
        Turn::Move(_) => entry.order_move(false),
        Turn::End(_) => entry.mailbox.send(Command::Close {
            reason: Disconnect::StreamerDrain,
            after: Duration::ZERO,
        }),
    }
    true
}

impl StreamerDrains {
    /// Whether those that discovery has dropped are likely to go: an answer that lacks most of them
    /// is more likely wrong, and would crowd all clients onto a few streamers.
    fn believes(&self, pool: &Pool, view: &PoolView) -> bool {
        let serving =
            |entry: &&Entry| entry.admin == AdminState::Ready && entry.streamer.sessions() > 0;
        let (leaving, left) = (
            view.leaving.iter().filter(serving).count(),
            view.entries.len(),
        );
        let name = pool.name();
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        if leaving <= left {
            doubted.remove(name);
            return true;
        }
        if doubted.insert(name.clone()) {
            warn!(
                pool = %name, leaving, left,
                "discovery has dropped {leaving} streamers of pool {name} that still serve, and lists \
                 {left}: their sessions are not moved; look at the DNS or the list, or drain those \
                 that are to go"
            );
        }
        false
    }

    /// Whether sessions are to leave a streamer of this pool yet.
    pub(super) fn is_busy(&self, pool: &PoolName) -> bool {
        let running = self.lock();
        let mut here = running.iter().filter(|(key, _)| key.pool == *pool);
        here.any(|(_, emptying)| emptying.is_busy())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Emptying>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change of the pace of logins is noticed within this.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What is late by less than this is not late.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
