//! The pool as everybody else sees it: immutable, replaced as a whole.

use std::{sync::Arc, time::Instant};

use serde::Serialize;

use crate::base::id::{PoolName, StreamerId};

use super::{
    health::{Back, Health},
    streamer::{AdminState, Streamer},
};

/// One consistent picture of the streamers of a pool and their health.
///
/// Counts of sessions are not part of the picture: they are read from the [`Streamer`]s.
#[derive(Debug)]
pub struct PoolView {
    pub name: PoolName,
    /// Sorted by id; what discovery lists, without those that are leaving.
    pub entries: Vec<Entry>,
    /// Gone from discovery, but with sessions when the picture was made.
    pub leaving: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub streamer: Arc<Streamer>,
    pub admin: AdminState,
    pub health: Health,
    /// Sessions it may hold when it is warm.
    pub limit: u32,
    /// Percent of its machine's CPU, if its heartbeats are heard.
    pub cpu: Option<u8>,
    /// It gets fewer newcomers, because its CPU is far above the others'.
    pub hot: bool,
}

impl Entry {
    /// New sessions may go there.
    pub fn eligible(&self) -> bool {
        self.admin == AdminState::Ready && self.health.in_rotation()
    }

    /// Sessions it may hold at `now`; 0 when it takes none.
    pub fn capacity(&self, now: Instant) -> u32 {
        match self.health {
            _ if !self.eligible() => 0,
            Health::Up { ramp, .. } => ramp.capacity(self.limit, now),
            Health::Degraded { .. } | Health::Unknown { .. } | Health::Down { .. } => self.limit,
        }
    }

    pub fn has_room(&self, now: Instant) -> bool {
        let (own, elsewhere) = (self.streamer.sessions(), self.streamer.sessions_of_others());
        self.streamer.claim().is_none_or(|claim| own < claim)
            && own.saturating_add(elsewhere) < self.capacity(now)
    }

    fn row(&self, leaving: bool, now: Instant) -> Row {
        Row {
            id: self.streamer.id.to_string(),
            address: self.streamer.addr.to_string(),
            admin: if leaving {
                "leaving"
            } else {
                self.admin.label()
            },
            health: self.health.label(),
            cause: self.health.cause().map(|cause| cause.to_string()),
            since_seconds: now.saturating_duration_since(self.health.since()).as_secs(),
            ejected_seconds: match self.health {
                Health::Down {
                    back: Back::After(at),
                    ..
                } => Some(at.saturating_duration_since(now).as_secs()),
                _ => None,
            },
            sessions: self.streamer.sessions(),
            elsewhere: self.streamer.sessions_of_others(),
            claim: self.streamer.claim(),
            expected: self.streamer.expected(),
            capacity: if leaving { 0 } else { self.capacity(now) },
            limit: self.limit,
            cpu_percent: self.cpu,
            hot: self.hot,
        }
    }
}

impl PoolView {
    pub(super) fn empty(name: PoolName) -> Self {
        Self {
            name,
            entries: Vec::new(),
            leaving: Vec::new(),
        }
    }

    pub fn find(&self, id: &StreamerId) -> Option<&Entry> {
        self.entries
            .binary_search_by(|entry| entry.streamer.id.cmp(id))
            .ok()
            .map(|at| &self.entries[at])
    }

    /// At least one streamer takes new sessions (though it may be full).
    pub fn any_eligible(&self) -> bool {
        self.entries.iter().any(Entry::eligible)
    }

    /// Some streamer has room at `now`.
    pub fn any_room(&self, now: Instant) -> bool {
        self.entries.iter().any(|entry| entry.has_room(now))
    }

    /// One row per streamer, for the admin pages.
    pub fn rows(&self, now: Instant) -> Vec<Row> {
        let listed = self.entries.iter().map(|entry| entry.row(false, now));
        let leaving = self
            .leaving
            .iter()
            .filter(|entry| entry.streamer.sessions() > 0)
            .map(|entry| entry.row(true, now));
        listed.chain(leaving).collect()
    }
}

/// A streamer on the admin pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub id: String,
    pub address: String,
    /// `ready`, `drain`, `maint`, or `leaving` (gone from discovery, its sessions live on).
    pub admin: &'static str,
    /// `unknown`, `up`, `degraded` or `down`.
    pub health: &'static str,
    /// Why it is degraded or down.
    pub cause: Option<String>,
    /// Time in this state of health.
    pub since_seconds: u64,
    /// Time until it is tried again, when client traffic took it out.
    pub ejected_seconds: Option<u64>,
    pub sessions: u32,
    /// Sessions that other gateways have on it.
    pub elsewhere: u32,
    /// Sessions that this gateway may have on it without asking the others; `null` while there are
    /// none.
    pub claim: Option<u32>,
    /// Clients promised to it that hold no place yet.
    pub expected: u32,
    /// Sessions that it may hold now.
    pub capacity: u32,
    /// Sessions that it may hold when it is warm.
    pub limit: u32,
    /// CPU of its machine, when the message bus tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u8>,
    /// It gets fewer newcomers because of that.
    pub hot: bool,
}

/// A pool on the admin pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub pool: String,
    /// New clients are welcome.
    pub accepting: bool,
    /// Clients waiting for room.
    pub waiting: usize,
    /// Streamers that the sessions and the waiting clients ask for; see [`Pool::wanted`](super::Pool::wanted).
    pub wanted: usize,
    pub sessions: u64,
    pub capacity: u64,
    pub streamers: Vec<Row>,
}
