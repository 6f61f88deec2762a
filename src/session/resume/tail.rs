//! What was sent to a client and may not have arrived.
//!
//! A copy of the frames, in order, from the last message on that the client surely has. What proves
//! that it has one is the pong to a ping that was sent behind it: a socket delivers in order. So an
//! idle session holds nothing here, and a busy one what it sends within a second or two.

use std::time::{Duration, Instant};

use super::missed::{Missed, split};
use crate::{
    base::{
        chunk::Backlog,
        packing::{Garbled, Packer, Unpacker},
    },
    ddp::Framing,
};

/// Bytes that are kept of one session.
pub(super) const TAIL_BYTES: usize = 256 * 1024;

/// Messages that are kept of one session.
pub(super) const TAIL_MESSAGES: u32 = 1_000;

/// From the first message without a fence behind it to the next fence.
pub(super) const FENCE_AFTER: Duration = Duration::from_secs(1);

/// The last messages of a session. Numbers of messages are as Meteor's client counts them: from
/// `connected`, which is the first, without pings and pongs.
#[derive(Debug)]
pub struct Tail {
    bytes: Backlog,
    /// Messages before the first one in here.
    base: u32,
    /// The last message before the first one in here is the `connected` of a resumed session, of
    /// which nobody knows whether the client has it.
    reopened: bool,
    /// What is in here is not all since `base`: a bound was reached.
    broken: bool,
    fence: Option<Fence>,
    fences: u32,
    /// When the next fence is wanted, and that it is.
    due: Option<Instant>,
    wanted: bool,
}

/// A ping among the messages, whose pong has not come.
#[derive(Clone, Copy, Debug)]
struct Fence {
    number: u32,
    /// Bytes in the tail before it, and messages of the session.
    bytes: usize,
    sent: u32,
}

/// The client was told more, or less, than is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Uncovered;

impl Tail {
    /// Keeps what is sent after the first `sent` messages, in `bytes`, which is empty.
    pub(super) fn new(bytes: Backlog, sent: u32) -> Self {
        debug_assert!(bytes.is_empty());
        Self {
            bytes,
            base: sent,
            reopened: false,
            broken: false,
            fence: None,
            fences: 0,
            due: None,
            wanted: false,
        }
    }

    /// Frames, or parts of them, went to the client. What is over a bound is not kept, and nothing
    /// after it until `settle`.
    pub fn record(&mut self, frames: &[u8]) {
        if !self.broken && self.bytes.push(frames, TAIL_BYTES).is_err() {
            self.break_off();
        }
    }

    /// A bound was reached.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The client has been sent `sent` messages, the last of them whole.
    pub(super) fn settle(&mut self, sent: u32, now: Instant) {
        if sent.saturating_sub(self.base) > TAIL_MESSAGES {
            self.break_off();
        }
        if self.broken {
            self.base = sent;
            self.reopened = false;
            self.broken = false;
        } else if !self.bytes.is_empty() && self.fence.is_none() && !self.wanted {
            self.due.get_or_insert(now + FENCE_AFTER);
        }
    }

    /// Nothing is sent any more, so no fence either: the client is gone.
    pub(super) fn stop(&mut self) {
        self.fence = None;
        self.due = None;
        self.wanted = false;
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.wanted = true;
        }
    }

    pub(super) fn wants_fence(&self) -> bool {
        self.wanted
    }

    /// The payload of a ping that stands behind all that was recorded: `sent` messages.
    pub(super) fn place_fence(&mut self, sent: u32) -> [u8; 4] {
        self.fences = self.fences.wrapping_add(1);
        self.wanted = false;
        self.fence = Some(Fence {
            number: self.fences,
            bytes: self.bytes.len(),
            sent,
        });
        self.fences.to_be_bytes()
    }

    /// A pong of the client.
    pub(super) fn handle_pong(&mut self, payload: &[u8]) {
        let Some(fence) = self.fence else { return };
        if payload != fence.number.to_be_bytes() {
            return;
        }
        self.fence = None;
        self.base = fence.sent;
        self.reopened = false;
        let mut left = fence.bytes;
        while left > 0 && !self.bytes.is_empty() {
            let front = self.bytes.front().len().min(left);
            self.bytes.advance(front);
            left -= front;
        }
    }

    /// What a client that has `received` of `sent` messages has missed, if all of it is here and
    /// ends with a whole message.
    pub(super) fn missed_since(
        &self,
        received: u64,
        sent: u32,
        messages: Vec<Missed>,
    ) -> Result<Vec<Missed>, Uncovered> {
        let kept = messages.iter().filter(|missed| missed.counted).count() as u64;
        let base = u64::from(self.base);
        if self.broken || base + kept != u64::from(sent) || received > u64::from(sent) {
            return Err(Uncovered);
        }
        let mut known = match received.checked_sub(base) {
            Some(known) => known,
            None if self.reopened && received + 1 == base => 0,
            None => return Err(Uncovered),
        };
        Ok(messages
            .into_iter()
            .skip_while(|missed| {
                let skip = known > 0;
                known -= u64::from(skip && missed.counted);
                skip
            })
            .collect())
    }

    /// Everything that is kept, message by message; `None` when it ends within one or cannot be read.
    pub(super) fn take(&mut self, framing: Framing) -> Option<Vec<Missed>> {
        let mut all = Vec::with_capacity(self.bytes.len());
        while !self.bytes.is_empty() {
            let front = self.bytes.front().len();
            all.extend_from_slice(self.bytes.front());
            self.bytes.advance(front);
        }
        split(&all, framing)
    }

    /// Begins anew behind `connected`, the last of `sent` messages.
    pub(super) fn reopen(&mut self, sent: u32, resumed: bool) {
        self.bytes.clear();
        self.stop();
        self.base = sent;
        self.reopened = resumed;
        self.broken = false;
    }

    /// Writes what is kept. Nothing is being sent: there is no fence.
    pub(super) fn pack(&self, out: &mut Packer) {
        let mut all = Vec::with_capacity(self.bytes.len());
        self.bytes.chunks().for_each(|chunk| all.extend(chunk));
        out.bytes(&all);
        out.number(self.base.into());
        out.flag(self.reopened);
        out.flag(self.broken);
    }

    /// What another gateway has kept, in `bytes`, which is empty.
    pub(super) fn unpack(bytes: Backlog, from: &mut Unpacker<'_>) -> Result<Self, Garbled> {
        let kept = from.bytes()?;
        let mut tail = Self::new(bytes, from.number_u32()?);
        tail.reopened = from.flag()?;
        tail.broken = from.flag()?;
        tail.record(kept);
        Ok(tail)
    }

    fn break_off(&mut self) {
        self.bytes.clear();
        self.stop();
        self.broken = true;
    }
}

#[cfg(test)]
mod tests;
