//! What a client holds: a place in the queue, then the right to one login.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use super::Logins;
use crate::base::id::StreamerId;

/// The queue cannot take another login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many logins wait already")]
pub struct LoginsFull;

/// How a login was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    Done,
    /// The streamer does not know the token (403). It was well enough to find that out, so for the
    /// limits this is as good as [`Self::Done`].
    Refused,
    /// Any other error.
    Failed,
}

/// A place in the queue; left by dropping it.
///
/// Room that appears is set aside for the ticket whose turn it is before it is woken, so that
/// nobody can take it meanwhile.
#[derive(Debug)]
pub struct LoginTicket {
    number: u64,
    streamer: StreamerId,
    logins: Arc<Logins>,
}

impl LoginTicket {
    pub(super) fn new(number: u64, streamer: StreamerId, logins: Arc<Logins>) -> Self {
        Self {
            number,
            streamer,
            logins,
        }
    }

    /// Ready with a permit as soon as it is this client's turn; the login is to be sent then, and
    /// its time runs from then. After that, pending for ever.
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<LoginPermit> {
        self.logins
            .poll_ticket(self.number, &self.streamer, cx, now)
            .map(|()| LoginPermit {
                number: Some(self.number),
                streamer: self.streamer.clone(),
                logins: self.logins.clone(),
            })
    }

    /// How many wait before this one for the same streamer; `None` when it waits no longer. Counts
    /// them one by one: for pages and log lines.
    pub fn place(&self) -> Option<usize> {
        self.logins.place(self.number, &self.streamer)
    }

    pub fn streamer(&self) -> &StreamerId {
        &self.streamer
    }
}

impl Drop for LoginTicket {
    fn drop(&mut self) {
        self.logins.leave(self.number, &self.streamer);
    }
}

/// The right to have one login in flight.
///
/// Dropped without [`Self::finish`] it means that the client or the streamer is gone: the place is
/// free at once, and nothing is learned, unless the answer was late already.
#[derive(Debug)]
pub struct LoginPermit {
    /// `None` once it has ended.
    number: Option<u64>,
    streamer: StreamerId,
    logins: Arc<Logins>,
}

impl LoginPermit {
    /// The answer has come. Without effect when the login has timed out before.
    pub fn finish(mut self, outcome: LoginOutcome, now: Instant) {
        if let Some(number) = self.number.take() {
            self.logins.answered(number, outcome, now);
        }
    }

    pub fn streamer(&self) -> &StreamerId {
        &self.streamer
    }
}

impl Drop for LoginPermit {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            self.logins.gone(number);
        }
    }
}
