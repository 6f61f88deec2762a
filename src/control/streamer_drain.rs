//! Emptying one streamer on the operator's order, while the others go on.
//!
//! What is wanted stands in the pool ([`AdminState::Drain`]), which is where it ends as well: this
//! task looks there before each session that it closes, and keeps nothing but the pace.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use serde::Serialize;
use tokio::{
    sync::Notify,
    time::{sleep, sleep_until},
};
use tracing::{info, warn};

use super::app::{Control, Inner};
use crate::{
    base::id::{PoolName, SessionId, StreamerId},
    pool::{AdminState, Emptying, Pool, Streamer},
    proxy::{
        mailbox::Command,
        registry::{Entry, Standing},
    },
    session::Disconnect,
};

/// The drains under way, with what each has done.
#[derive(Debug, Default)]
pub(super) struct StreamerDrains {
    running: Mutex<BTreeMap<Key, Emptying>>,
    hurry: Notify,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    pool: PoolName,
    streamer: StreamerId,
}

/// How far the drain of a streamer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamerDrain {
    pub pool: String,
    pub streamer: String,
    pub address: String,
    pub draining: bool,
    /// Since the order.
    pub since_seconds: Option<u64>,
    /// Sessions on it.
    pub left: u32,
    /// Sessions that were told to end.
    pub closed: u64,
    /// Sessions that end in a second.
    pub rate: Option<u32>,
    /// Until it is empty.
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
    /// end with 1012, `rate` in a second, or else as many as may log in. When it is under way
    /// already, it goes on, at the new rate if there is one.
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
        self.0.streamer_drains.hurry.notify_one();
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
    /// have not been told to end stay.
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

/// Streamers to be emptied, those among them that discovery does not list any more.
fn drained(inner: &Inner) -> Vec<Found> {
    let snapshot = inner.shared.snapshot.load();
    let mut drained = Vec::new();
    for pool in &snapshot.pools {
        let view = pool.view();
        let leaving = view
            .leaving
            .iter()
            .filter(|entry| entry.streamer.sessions() > 0);
        for entry in view.entries.iter().chain(leaving) {
            if let AdminState::Drain { .. } = entry.admin {
                drained.push(Found {
                    pool: pool.clone(),
                    streamer: entry.streamer.clone(),
                    admin: entry.admin,
                });
            }
        }
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
        StreamerDrain {
            pool: found.pool.name().to_string(),
            streamer: found.streamer.id.to_string(),
            address: found.streamer.addr.to_string(),
            draining: since.is_some(),
            since_seconds: since.map(|since| now.saturating_duration_since(since).as_secs()),
            left,
            closed: emptying.map_or(0, Emptying::closed),
            rate: emptying.map(Emptying::rate),
            eta_seconds: emptying
                .map(|emptying| emptying.remaining(left))
                .map(|eta| eta.as_secs() + u64::from(eta.subsec_nanos() > 0)),
            others: found.pool.view().any_eligible(),
        }
    };
    found.into_iter().map(row).collect()
}

/// Runs until the process stops.
///
/// A defect that panics in here costs a second and not the drains.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        let driven = AssertUnwindSafe(drive(&inner)).catch_unwind();
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = driven => {}
        }
        tracing::error!(
            "the task that empties streamers ended by a panic and starts again: report this defect"
        );
        sleep(RESTART_PAUSE).await;
    }
}

async fn drive(inner: &Inner) -> ! {
    loop {
        let wake_at = step(inner, Instant::now());
        tokio::select! {
            () = inner.streamer_drains.hurry.notified() => {}
            () = sleep_until(wake_at.into()) => {}
        }
    }
}

/// Closes the sessions whose turn it is; returns when to come again.
fn step(inner: &Inner, now: Instant) -> Instant {
    let mut running = inner.streamer_drains.lock();
    let drained = drained(inner);
    let wanted: BTreeMap<Key, AdminState> = drained
        .iter()
        .map(|found| (found.key(), found.admin))
        .collect();
    running.retain(|key, _| wanted.contains_key(key));
    // Those without a rate of their own share what the login pace allows.
    let sharing = drained
        .iter()
        .filter(|found| found.streamer.sessions() > 0)
        .filter(|found| matches!(found.admin, AdminState::Drain { rate: None, .. }))
        .count();
    let sharing = u32::try_from(sharing).unwrap_or(u32::MAX).max(1);
    let share = (inner.shared.logins.rate_limit() / sharing).max(1);
    for (key, admin) in wanted {
        let rate = match admin {
            AdminState::Drain {
                rate: Some(rate), ..
            } => rate.get(),
            _ => share,
        };
        running
            .entry(key)
            .or_insert_with(|| Emptying::new(rate, rand::random(), now))
            .set_rate(rate, now);
    }
    look(inner, &mut running, now);
    let mut wake_at = now + LOOK_EVERY;
    for (key, emptying) in running.iter_mut() {
        while let Some(id) = emptying.next(now) {
            if close(inner, id, key) {
                emptying.told(id, now);
            }
        }
        wake_at = wake_at.min(emptying.next_timeout());
    }
    wake_at
}

/// Tells those drains that want to know which sessions are on their streamers.
fn look(inner: &Inner, running: &mut BTreeMap<Key, Emptying>, now: Instant) {
    let mut seen: BTreeMap<Key, Vec<SessionId>> = running
        .iter()
        .filter(|(_, emptying)| emptying.wants_look(now))
        .map(|(key, _)| (key.clone(), Vec::new()))
        .collect();
    if seen.is_empty() {
        return;
    }
    inner.shared.registry.for_each(|entry| {
        if let Some(key) = whereabouts(entry)
            && let Some(ids) = seen.get_mut(&key)
        {
            ids.push(entry.id);
        }
    });
    for (key, ids) in seen {
        if let Some(emptying) = running.get_mut(&key) {
            emptying.saw(ids, now);
        }
    }
}

/// Ends a session, if it is still there.
fn close(inner: &Inner, id: SessionId, key: &Key) -> bool {
    let Some(entry) = inner.shared.registry.find(id) else {
        return false;
    };
    if whereabouts(&entry).as_ref() != Some(key) {
        return false;
    }
    entry.mailbox.send(Command::Close {
        reason: Disconnect::StreamerDrain,
        after: Duration::ZERO,
    });
    true
}

/// The streamer that serves a session now.
fn whereabouts(entry: &Entry) -> Option<Key> {
    let place = entry.place();
    match place.standing {
        Standing::Anonymous | Standing::LoggingIn | Standing::LoggedIn => Some(Key {
            pool: entry.pool.name().clone(),
            streamer: place.streamer?,
        }),
        // One that is being attached is seen when it is; the others have none.
        Standing::Greeting | Standing::Parked | Standing::Attaching | Standing::Closing => None,
    }
}

impl StreamerDrains {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Emptying>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change of the pace of logins is noticed within this.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const RESTART_PAUSE: Duration = Duration::from_secs(1);
