//! Sessions as those see them who have them moved, and the task that does.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use tokio::time::sleep_until;

use super::{app::Inner, rebalance, restart::restarting, streamer_drain};
use crate::{
    base::id::{PoolName, SessionId, StreamerId},
    pool::{Progress, Seen},
    proxy::registry::{Entry, MoveRefused, Moving, Place, Standing},
};

/// Runs until the process stops.
///
/// A defect that panics in here costs a second and not what is under way.
pub(super) async fn run(inner: Arc<Inner>) {
    restarting(&inner, "has sessions moved", || drive(&inner)).await;
}

async fn drive(inner: &Inner) -> ! {
    loop {
        let now = Instant::now();
        let wake_at = streamer_drain::step(inner, now).min(rebalance::step(inner, now));
        tokio::select! {
            () = inner.moves_due.notified() => {}
            () = sleep_until(wake_at.into()) => {}
        }
    }
}

/// A streamer of the process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) pool: PoolName,
    pub(super) streamer: StreamerId,
}

/// The streamer that serves a session now.
pub(super) fn whereabouts(entry: &Entry, place: &Place) -> Option<Key> {
    match place.standing {
        Standing::Anonymous | Standing::LoggingIn | Standing::LoggedIn | Standing::Detached => {
            Some(Key {
                pool: entry.pool.name().clone(),
                streamer: place.streamer.clone()?,
            })
        }
        // One that is being attached is seen when it is; the others have none.
        Standing::Greeting | Standing::Parked | Standing::Attaching | Standing::Closing => None,
    }
}

pub(super) fn seen(entry: &Entry, place: &Place, now: Instant) -> Seen {
    let traffic = &entry.traffic;
    let up = traffic.messages_up.load(Ordering::Relaxed);
    let down = traffic.messages_down.load(Ordering::Relaxed);
    Seen {
        id: entry.id,
        messages: up.saturating_add(down),
        age: now.saturating_duration_since(entry.opened),
        moving: place.moving == Moving::UnderWay,
    }
}

/// How a session is that was on this streamer when it was told to move.
pub(super) fn progress(inner: &Inner, id: SessionId, from: &Key) -> Progress {
    let Some(entry) = inner.shared.registry.find(id) else {
        return Progress::Gone;
    };
    let place = entry.place();
    match whereabouts(&entry, &place) {
        None => Progress::Gone,
        Some(key) if key != *from => Progress::Moved,
        Some(_) => match place.moving {
            Moving::UnderWay => Progress::UnderWay,
            Moving::Refused(reason) => Progress::Stays {
                reason: reason.label(),
                passes: reason.passes(),
                begun: matches!(reason, MoveRefused::Aborted(_)),
            },
            // It was attached to the same streamer anew.
            Moving::No => Progress::Gone,
        },
    }
}

/// The session, if it is still on this streamer.
pub(super) fn still_on(inner: &Inner, id: SessionId, on: &Key) -> Option<Arc<Entry>> {
    let entry = inner.shared.registry.find(id)?;
    let place = entry.place();
    (whereabouts(&entry, &place).as_ref() == Some(on)).then_some(entry)
}

/// Moves that may be under way at the same time, of all causes together: those that log in, and, for
/// as long as the two legs are compared, those that have. While other clients wait for their logins,
/// only as many as those may be in flight: more would only wait as well. And only as many as there
/// are descriptors for that no client's connection may need.
pub(super) fn most_under_way(inner: &Inner, now: Instant) -> usize {
    let logins = inner.shared.logins.report(now);
    let limit = logins.limit as usize;
    let wanted = match logins.waiting > limit {
        true => limit,
        false => limit.saturating_add(logins.rate_limit as usize * OVERLAP_SECONDS),
    };
    let free = inner
        .gate
        .max_connections()
        .saturating_sub(inner.gate.open());
    let spare = free.saturating_add(SPARE_DESCRIPTORS);
    wanted.min(spare).clamp(1, MOST_UNDER_WAY)
}

/// Of those that are reserved for everything but clients.
const SPARE_DESCRIPTORS: usize = 16;

/// A leg more than it needs is kept for each session that moves for about so long.
const OVERLAP_SECONDS: usize = 2;

/// Each costs a socket and the memory of a second leg.
const MOST_UNDER_WAY: usize = 2_000;
