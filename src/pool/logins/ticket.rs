//! What a client holds: a place in the queue, then the right to one login.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
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
/// nobody can take it meanwhile. Not for ever, though: a client that does not come to its login
/// within [`CLAIM_WITHIN`] is passed over, and queues anew when it asks again.
#[derive(Debug)]
pub struct LoginTicket {
    stage: Stage,
    streamer: StreamerId,
    logins: Arc<Logins>,
}

#[derive(Debug)]
enum Stage {
    Queued { number: u64 },
    Begun,
}

impl LoginTicket {
    pub(super) fn new(number: u64, streamer: StreamerId, logins: Arc<Logins>) -> Self {
        Self {
            stage: Stage::Queued { number },
            streamer,
            logins,
        }
    }

    /// Ready with a permit as soon as it is this client's turn; the login is to be sent then, and
    /// its time runs from then. After that, pending for ever.
    pub fn poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<LoginPermit> {
        let Stage::Queued { number } = &mut self.stage else {
            return Poll::Pending;
        };
        ready!(self.logins.poll_ticket(number, &self.streamer, cx, now));
        let permit = LoginPermit {
            number: Some(*number),
            streamer: self.streamer.clone(),
            logins: self.logins.clone(),
        };
        self.stage = Stage::Begun;
        Poll::Ready(permit)
    }

    /// How many wait before this one for the same streamer; `None` when it waits no longer. Counts
    /// them one by one: for pages and log lines.
    pub fn place(&self) -> Option<usize> {
        match self.stage {
            Stage::Queued { number } => self.logins.place(number, &self.streamer),
            Stage::Begun => None,
        }
    }

    pub fn streamer(&self) -> &StreamerId {
        &self.streamer
    }
}

impl Drop for LoginTicket {
    fn drop(&mut self) {
        if let Stage::Queued { number } = self.stage {
            self.logins.leave(number, &self.streamer);
        }
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

/// A session that is woken needs a moment; only one whose client stops in the middle of a message
/// needs longer.
pub const CLAIM_WITHIN: Duration = Duration::from_secs(5);
