//! One streamer: who it is, where it is, and who holds a place on it.

use std::{
    fmt,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::Gauge;

use crate::base::id::{StreamerAddr, StreamerId};

use super::{Pool, health::Outcome};

/// A backend of a pool, shared by all sessions on it.
///
/// Lives as long as a session holds it, even when discovery has long forgotten it.
pub struct Streamer {
    pub id: StreamerId,
    pub addr: StreamerAddr,
    slots: Arc<Slots>,
    pool: Weak<Pool>,
}

impl Streamer {
    pub(super) fn new(
        id: StreamerId,
        addr: StreamerAddr,
        slots: Arc<Slots>,
        pool: Weak<Pool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            addr,
            slots,
            pool,
        })
    }

    /// Tells the pool how real traffic to this streamer went (passive health).
    pub fn report(&self, outcome: Outcome, now: Instant) {
        if let Some(pool) = self.pool.upgrade() {
            pool.reported(self, outcome, now);
        }
    }

    /// Sessions on it now.
    pub fn sessions(&self) -> u32 {
        self.slots.used.load(Ordering::Relaxed)
    }

    /// A leg to it was cut, whose permit is still held: how many clients will come back because of
    /// what happened. A few legs mean a user that is logged out by force; with more the streamer is
    /// dying, and all that it had before the first one was cut are counted.
    pub fn lost(&self, now: Instant) -> u32 {
        match self.slots.lost(now) {
            before if before < FEW_LOSSES => before + 1,
            before => self.sessions().saturating_add(before),
        }
    }

    /// Clients that were told they would come here and hold no permit yet.
    pub fn expected(&self) -> u32 {
        self.slots.expected.load(Ordering::Relaxed)
    }

    /// This gateway's sessions on it, and those that it expects.
    pub fn load(&self) -> u32 {
        self.sessions().saturating_add(self.expected())
    }

    /// Whether it stands for one of another gateway: it is in no pool.
    pub(super) fn is_borrowed(&self) -> bool {
        self.pool.strong_count() == 0
    }

    /// What the choice goes by: the sessions of all gateways.
    pub(super) fn whole_load(&self) -> u32 {
        self.load().saturating_add(self.sessions_of_others())
    }

    /// Sessions that other gateways have on it, as far as that is known.
    pub fn sessions_of_others(&self) -> u32 {
        self.slots.elsewhere.load(Ordering::Relaxed)
    }

    /// Sessions that this gateway may have on it though it has room for more; `None` where no
    /// other gateway is known.
    pub fn claim(&self) -> Option<u32> {
        let claim = self.slots.claim.load(Ordering::Relaxed);
        (claim != UNCLAIMED).then_some(claim)
    }

    pub(super) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }
}

impl fmt::Debug for Streamer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamer")
            .field("id", &self.id)
            .field("addr", &self.addr)
            .field("sessions", &self.sessions())
            .finish()
    }
}

/// Places taken on a streamer.
///
/// Written only under the pool's lock, which is what keeps a count below its limit; readable at any
/// time. Outlives a [`Streamer`] whose address changes and one that discovery takes away and
/// brings back.
#[derive(Debug)]
pub(super) struct Slots {
    used: AtomicU32,
    expected: AtomicU32,
    elsewhere: AtomicU32,
    claim: AtomicU32,
    gauge: Gauge,
    losses: Mutex<Losses>,
}

/// Legs that were cut, none of them long after the one before.
#[derive(Debug, Default)]
struct Losses {
    count: u32,
    last: Option<Instant>,
}

impl Slots {
    pub(super) fn new(gauge: Gauge) -> Self {
        gauge.set(0.0);
        Self {
            used: AtomicU32::new(0),
            expected: AtomicU32::new(0),
            elsewhere: AtomicU32::new(0),
            claim: AtomicU32::new(UNCLAIMED),
            gauge,
            losses: Mutex::default(),
        }
    }

    /// Counts one more; returns those before it.
    fn lost(&self, now: Instant) -> u32 {
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |last| now.saturating_duration_since(last) < LOSS_PAUSE;
        let before = match losses.last {
            Some(last) if recent(last) => losses.count,
            _ => 0,
        };
        *losses = Losses {
            count: before.saturating_add(1),
            last: Some(now),
        };
        before
    }

    /// What is shared with other gateways; true when there is more room than there was.
    pub(super) fn share(&self, claim: Option<u32>, elsewhere: u32) -> bool {
        let claim = claim.unwrap_or(UNCLAIMED);
        let claim_before = self.claim.swap(claim, Ordering::Relaxed);
        let elsewhere_before = self.elsewhere.swap(elsewhere, Ordering::Relaxed);
        claim > claim_before || elsewhere < elsewhere_before
    }

    pub(super) fn take(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
        self.gauge.increment(1.0);
    }

    pub(super) fn give(&self) {
        let before = self.used.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a permit was given back twice");
        self.gauge.decrement(1.0);
    }
}

/// A place on a streamer, held for the life of a session. Dropping it wakes the queue's head.
#[derive(Debug)]
pub struct Permit {
    streamer: Arc<Streamer>,
}

impl Permit {
    /// The caller has taken the slot already.
    pub(super) fn new(streamer: Arc<Streamer>) -> Self {
        Self { streamer }
    }

    /// A place that somebody else counts, for a leg that leads there.
    pub fn borrowed(id: StreamerId, addr: StreamerAddr) -> Self {
        let slots = Slots::new(Gauge::noop());
        slots.take();
        Self {
            streamer: Streamer::new(id, addr, Arc::new(slots), Weak::new()),
        }
    }

    /// Whether another gateway counts the place.
    pub fn is_borrowed(&self) -> bool {
        self.streamer.is_borrowed()
    }

    pub fn streamer(&self) -> &Arc<Streamer> {
        &self.streamer
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        match self.streamer.pool.upgrade() {
            Some(pool) => pool.released(&self.streamer),
            None => self.streamer.slots.give(),
        }
    }
}

/// A client that will probably take a place on this streamer; weighs on the choice of others
/// until dropped, but takes no place.
#[derive(Debug)]
pub struct Expectation {
    streamer: Arc<Streamer>,
}

impl Expectation {
    pub(super) fn new(streamer: Arc<Streamer>) -> Self {
        streamer.slots.expected.fetch_add(1, Ordering::Relaxed);
        Self { streamer }
    }

    pub fn streamer(&self) -> &Arc<Streamer> {
        &self.streamer
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.streamer.slots.expected.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the operator wants of a streamer; independent of its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    /// Takes sessions.
    Ready,
    /// Gets no new sessions, those it has are ended one by one; is still probed.
    Drain {
        since: Instant,
        /// Sessions that end in a second; `None`: as many as may log in again.
        rate: Option<NonZeroU32>,
    },
    /// Gets no new sessions, keeps those it has, is not probed: somebody works on it.
    Maint { since: Instant },
}

impl AdminState {
    /// Lower-case word for pages and labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain { .. } => "drain",
            Self::Maint { .. } => "maint",
        }
    }
}

/// No claim is a limit.
const UNCLAIMED: u32 = u32::MAX;

/// Sockets that one user has.
const FEW_LOSSES: u32 = 3;

/// What is cut after a pause of this length is another event.
const LOSS_PAUSE: Duration = Duration::from_secs(1);
