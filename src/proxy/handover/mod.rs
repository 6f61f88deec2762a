//! Detached sessions that go on at another gateway.
//!
//! A client comes to this gateway with the id of a session that is not here. Whoever has it is asked
//! for on the bus (`packet`), and gives a ticket for its peer listener. There this gateway shows the
//! ticket and the client's token (`take`); the owner compares the token as for a client of its own,
//! packs the session (`parcel`), and becomes a pipe between the leg that it has and this gateway
//! (`give`, `pipe`), so that nothing is lost and nothing sent twice at the change. The session then
//! moves to a leg of this gateway's own, as any session moves to another streamer, and the pipe ends.
//!
//! At each moment one of the two has the session: up to one byte (`wire`) it is the owner's, who
//! keeps it if anything fails until then, and behind that byte it is the taker's.
//!
//! A gateway that drains offers the sessions whose clients are away to others, in the same form.

mod give;
pub mod packet;
mod parcel;
mod pipe;
mod take;
mod ticket;
mod wire;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwapOption;
use metrics::{Counter, Gauge, Histogram};
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use give::{give_away, serve};
pub use packet::{NameHash, Taker};
pub(super) use take::{Errand, Fetch};
pub use ticket::Ticket;

use ticket::{Grant, Tickets};

use super::{registry::Standing, shared::Shared};
use crate::{
    base::{id::SessionId, sealing::Sealer},
    telemetry::names,
};

/// What the process knows about sessions that change between gateways.
#[derive(Debug)]
pub struct Handover {
    desk: ArcSwapOption<Desk>,
    tickets: Mutex<Tickets>,
    /// Questions on the bus that have no answer yet.
    lookups: Arc<Semaphore>,
    /// Sessions here whose leg is at another gateway.
    borrowed: Mutex<HashSet<SessionId>>,
    meters: Meters,
}

/// The way to the other gateways, while there is one.
#[derive(Debug)]
pub struct Desk {
    /// Where questions for the bus go.
    pub questions: mpsc::Sender<Question>,
    /// Where calls for gateways that take sessions go; the answers are all that came in time.
    pub calls: mpsc::Sender<oneshot::Sender<Vec<Taker>>>,
    /// The same at all replicas.
    pub sealer: Sealer,
}

/// Who has this session?
#[derive(Debug)]
pub struct Question {
    pub name: NameHash,
    /// `None`: nobody.
    pub answer: oneshot::Sender<Option<Whereabouts>>,
}

/// Where a gateway is reached, and what lets one in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    pub peer: SocketAddr,
    pub ticket: Ticket,
}

#[derive(Debug)]
struct Meters {
    pipes: Gauge,
    /// From a client's `connect` until its session is here.
    seconds: Histogram,
    found: Counter,
    unknown: Counter,
    crowded: Counter,
}

/// Which way a session went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Given,
    Taken,
}

impl Handover {
    pub(super) fn new() -> Self {
        let lookups = |outcome| names::OWNER_LOOKUPS.counter(&[outcome]);
        Self {
            desk: ArcSwapOption::empty(),
            tickets: Mutex::default(),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            borrowed: Mutex::default(),
            meters: Meters {
                pipes: names::HANDOVER_PIPES.gauge(&[]),
                seconds: names::HANDOVER_SECONDS.histogram(&[]),
                found: lookups("found"),
                unknown: lookups("unknown"),
                crowded: lookups("crowded"),
            },
        }
    }

    /// Other gateways can be asked from now on.
    pub fn open(&self, desk: Desk) {
        self.desk.store(Some(Arc::new(desk)));
    }

    /// There is no way to other gateways any more. What is under way goes on.
    pub fn close(&self) {
        self.desk.store(None);
    }

    pub fn is_open(&self) -> bool {
        self.desk.load().is_some()
    }

    /// Sessions here whose leg is at another gateway: they are to move to one of their own.
    pub fn borrowed(&self) -> Vec<SessionId> {
        self.lock_borrowed().iter().copied().collect()
    }

    /// A session has come whose leg is at another gateway.
    pub(super) fn borrow(&self, session: SessionId) {
        self.lock_borrowed().insert(session);
    }

    /// It is over, or has a leg of its own.
    pub fn settle(&self, session: SessionId) {
        self.lock_borrowed().remove(&session);
    }

    /// A ticket for whoever has been told such a name, if the session is here and may be given.
    pub fn ticket_for(&self, name: NameHash, shared: &Shared) -> Option<Ticket> {
        let entry = shared.detached.find_hashed(name, &shared.registry)?;
        let fits = matches!(
            entry.place().standing,
            Standing::LoggedIn | Standing::Detached
        );
        fits.then(|| self.issue(Grant::Claim(entry.id)))?
    }

    /// A ticket for whoever wants to hand over up to so many sessions.
    pub fn ticket_to_offer(&self, sessions: u32) -> Option<Ticket> {
        (sessions > 0).then(|| self.issue(Grant::Offer(sessions)))?
    }

    fn issue(&self, grant: Grant) -> Option<Ticket> {
        let ticket = Ticket::fresh(rand::random());
        self.lock_tickets().issue(ticket, grant, Instant::now())
    }

    fn redeem(&self, ticket: Ticket) -> Option<Grant> {
        self.lock_tickets().redeem(ticket, Instant::now())
    }

    /// Who has the session; asked on the bus.
    async fn look_up(&self, desk: &Desk, name: &str) -> Option<Whereabouts> {
        let Ok(_turn) = self.lookups.clone().try_acquire_owned() else {
            self.meters.crowded.increment(1);
            return None;
        };
        let (answer, answered) = oneshot::channel();
        let name = NameHash::of(name);
        let found = match desk.questions.try_send(Question { name, answer }) {
            Ok(()) => answered.await.ok().flatten(),
            Err(_) => None,
        };
        match found {
            Some(_) => self.meters.found.increment(1),
            None => self.meters.unknown.increment(1),
        }
        found
    }

    fn count(side: Side, outcome: &'static str) {
        let side = match side {
            Side::Given => "given",
            Side::Taken => "taken",
        };
        names::HANDOVERS.counter(&[side, outcome]).increment(1);
    }

    fn lock_tickets(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_borrowed(&self) -> MutexGuard<'_, HashSet<SessionId>> {
        self.borrowed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clients that come back to the wrong gateway at one moment; more are newcomers at once.
pub const LOOKUPS: usize = 512;
