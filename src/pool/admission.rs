//! Where clients wait for room: a bounded queue, first come, first served.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::{
    Pool,
    pick::Wish,
    streamer::{Permit, Streamer},
};

/// The queue cannot take another client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many clients wait for a streamer already")]
pub struct QueueFull;

/// A place in the queue; left by dropping it.
///
/// Room that appears goes to the queue's head and to nobody else: its slot is taken for it before
/// it is woken, so that neither a newcomer nor another waiting client can take it meanwhile.
#[derive(Debug)]
pub struct Ticket {
    number: u64,
    deadline: Instant,
    pool: Arc<Pool>,
}

impl Ticket {
    pub(super) fn new(number: u64, deadline: Instant, pool: Arc<Pool>) -> Self {
        Self {
            number,
            deadline,
            pool,
        }
    }

    /// Ready with a permit as soon as it is this client's turn. After that, pending for ever.
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Permit> {
        self.pool.poll_ticket(self.number, cx, now)
    }

    /// When the client has waited long enough; the caller gives up then by dropping the ticket.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.pool.leave(self.number, self.deadline);
    }
}

/// The queue itself, under the pool's lock.
#[derive(Debug, Default)]
pub(super) struct Queue {
    next: u64,
    waiting: BTreeMap<u64, Waiter>,
    /// Those whose turn it was and who have not taken their permit yet.
    granted: HashMap<u64, Arc<Streamer>>,
}

#[derive(Debug)]
struct Waiter {
    wish: Wish,
    waker: Option<Waker>,
}

/// What polling a ticket gave.
#[derive(Debug)]
pub(super) enum Polled {
    Granted(Arc<Streamer>),
    /// With the waker that was replaced, to be dropped once the lock is released.
    Pending(Option<Waker>),
}

/// How a ticket ended.
#[derive(Debug)]
pub(super) enum Left {
    /// It had its permit.
    Served,
    /// Room had been set aside for it; the caller gives the slot back.
    Unclaimed(Arc<Streamer>),
    /// It was still waiting. The waker is to be dropped once the lock is released: what a waker
    /// drags along is not known here.
    Waiting(Option<Waker>),
}

impl Queue {
    /// Clients that wait, not counting those whose turn it was.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Appends a client; returns the number of its ticket.
    pub(super) fn push(&mut self, wish: Wish) -> u64 {
        let number = self.next;
        self.next += 1;
        self.waiting.insert(number, Waiter { wish, waker: None });
        number
    }

    /// A ticket that never waited, because there was room.
    pub(super) fn push_granted(&mut self, streamer: Arc<Streamer>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.granted.insert(number, streamer);
        number
    }

    /// What the client whose turn it is would like.
    pub(super) fn head(&self) -> Option<&Wish> {
        self.waiting
            .first_key_value()
            .map(|(_, waiter)| &waiter.wish)
    }

    /// Sets `streamer` aside for the head, whose slot the caller has taken. The waker is to be
    /// called once the lock is released.
    pub(super) fn grant_head(&mut self, streamer: Arc<Streamer>) -> Option<Waker> {
        let (number, waiter) = self.waiting.pop_first()?;
        self.granted.insert(number, streamer);
        waiter.waker
    }

    /// Takes what was set aside for this ticket, or remembers whom to wake.
    pub(super) fn poll(&mut self, number: u64, cx: &Context<'_>) -> Polled {
        if let Some(streamer) = self.granted.remove(&number) {
            return Polled::Granted(streamer);
        }
        let before = match self.waiting.get_mut(&number) {
            Some(Waiter {
                waker: Some(waker), ..
            }) if waker.will_wake(cx.waker()) => None,
            Some(waiter) => waiter.waker.replace(cx.waker().clone()),
            None => None,
        };
        Polled::Pending(before)
    }

    pub(super) fn leave(&mut self, number: u64) -> Left {
        if let Some(waiter) = self.waiting.remove(&number) {
            return Left::Waiting(waiter.waker);
        }
        match self.granted.remove(&number) {
            Some(streamer) => Left::Unclaimed(streamer),
            None => Left::Served,
        }
    }
}
