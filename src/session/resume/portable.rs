//! What is kept for a return, as another gateway reads it.

use std::time::{Duration, Instant};

use super::{
    Resume, Tail,
    renewal::{LoggingIn, Renewal},
    returning::Returning,
};
use crate::{
    base::{
        chunk::Backlog,
        packing::{Garbled, Packer, Unpacker},
    },
    session::reload::Reload,
};

impl Resume {
    /// Writes all of it; times from `now` on.
    pub(in crate::session) fn pack(&self, now: Instant, out: &mut Packer) -> Result<(), LoggingIn> {
        out.option(self.tail.as_deref(), |out, tail| tail.pack(out));
        out.option(self.returning.as_deref(), |out, returning| {
            returning.pack(now, out);
        });
        let mut packed = Ok(());
        out.option(self.renewal.as_deref(), |out, renewal| {
            packed = renewal.pack(now, out);
        });
        out.option(self.reload.as_deref(), |out, reload| reload.pack(now, out));
        for messages in [&self.asks, &self.replies] {
            out.list(messages.iter(), |out, message| out.text(message));
        }
        packed
    }

    /// The frames of the tail go into `tail`, which is empty.
    pub(in crate::session) fn unpack(
        tail: Backlog,
        now: Instant,
        from: &mut Unpacker<'_>,
    ) -> Result<Self, Garbled> {
        let tail = from.option(|from| Tail::unpack(tail, from))?;
        let returning = from.option(|from| Returning::unpack(now, from))?;
        let renewal = from.option(|from| Renewal::unpack(now, from))?;
        let reload = from.option(|from| Reload::unpack(now, from))?;
        let mut messages = || from.list(MOST_IDS, |from| from.text().map(str::to_owned));
        Ok(Self {
            proof: None,
            tail: tail.map(Box::new),
            returning: returning.map(Box::new),
            renewal: renewal.map(Box::new),
            reload: reload.map(Box::new),
            asks: messages()?,
            replies: messages()?,
        })
    }

    /// A client that claims another session is asked for its token: this one is none yet.
    pub(in crate::session) fn is_proving(&self) -> bool {
        self.proof.is_some()
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).into()
}

/// More subscriptions and methods together than a session can have.
pub(super) const MOST_IDS: usize = 4_096;
