//! The client's end breaks and comes back: its leg is kept, and so is what it missed.
//!
//! - `tail`: a copy of what the client may not have, trimmed by pongs.
//! - `proof`: who claims a session shows its token before anything of it is released.
//! - `returning`: what a client that is back repeats is answered from memory.
//! - `renewal`: the document of the user, for one that begins a new session.
//!
//! Meteor's client from 3.5 on counts the messages of its session and says the number when it comes
//! back (`meteor/meteor` PR #14051, `packages/ddp-client`): it gets the same session again and the
//! messages it has missed. Any other client gets its leg back under a new session id, is told at once
//! that it is in, and reads its subscriptions as ready; what happened meanwhile it fetches on its own,
//! as after every reconnect. Which of the two a client is, is known only when it comes back: the first `connect` of
//! a page has no number in it.

mod missed;
mod portable;
mod proof;
mod renewal;
mod returning;
mod tail;

use std::{fmt, time::Instant};

pub use proof::Shown;
pub use returning::{Back, Kind as ReturnKind, Returned};
pub use tail::Tail;

use missed::{count, is_counted};
use proof::Proof;
use renewal::Renewal;
use returning::Returning;

use super::{Session, machine::Phase, reload::Reload};
use crate::{
    base::{chunk::Backlog, secret::Secret},
    ddp::{Kind as Message, Sender, message, peek},
};

/// What is kept for a return; most sessions have none of it.
#[derive(Default)]
pub(super) struct Resume {
    proof: Option<Proof>,
    tail: Option<Box<Tail>>,
    returning: Option<Box<Returning>>,
    renewal: Option<Box<Renewal>>,
    /// The web client has a new version.
    pub(super) reload: Option<Box<Reload>>,
    /// DDP messages of the gateway's own: for the streamer, and for the client.
    asks: Vec<String>,
    pub(super) replies: Vec<String>,
}

/// Messages of the gateway's own, without framing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Spoken {
    pub to_streamer: Vec<String>,
    pub to_client: Vec<String>,
}

// Answers carry tokens.
impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resume")
            .field("proof", &self.proof)
            .field("tail", &self.tail)
            .field("returning", &self.returning.is_some())
            .field("renewal", &self.renewal.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spoken")
            .field("to_streamer", &self.to_streamer.len())
            .field("to_client", &self.to_client.len())
            .finish()
    }
}

impl Session {
    /// A message goes to the client, as the streamer framed it, that [`Session::handle_streamer`] has not passed.
    /// `text` is its first bytes.
    pub fn handle_sent(&mut self, text: &[u8]) {
        self.count_sent(text, peek(text, self.framing, Sender::Server).kind);
    }

    /// A message of this kind goes to the client.
    pub(in crate::session) fn count_sent(&mut self, text: &[u8], kind: Message) {
        if is_counted(text, kind) {
            self.add_sent(1);
        }
    }

    /// Messages of the gateway's own go to the client: whole frames.
    pub fn handle_own_sent(&mut self, frames: &[u8]) {
        self.add_sent(count(frames, self.framing));
    }

    pub(super) fn add_sent(&mut self, messages: u32) {
        if let Some(book) = &mut self.book {
            book.sent = book.sent.saturating_add(messages);
        }
    }

    /// Messages that the client was sent, as it counts them.
    pub fn sent(&self) -> u32 {
        self.book.as_ref().map_or(0, |book| book.sent)
    }

    /// The client's session can be kept when the client is lost: a user is in, whose token is known,
    /// and it did not say goodbye.
    pub fn is_keepable(&self) -> bool {
        let Some(book) = &self.book else {
            return false;
        };
        self.phase == Phase::Live
            && !self.rules.timeouts.resume.is_zero()
            && !book.journal.farewell()
            && !self.is_reloading()
            && book.asker.user.is_some()
            && book.logins == super::book::Logins::default()
            && book.journal.session().is_some()
            && book.journal.has_token()
    }

    /// The client said `disconnect`: its end is meant.
    pub(super) fn handle_farewell(&mut self) {
        if let Some(book) = &mut self.book {
            book.journal.set_farewell();
        }
    }

    /// The client has gone, the leg stays for the grace period. `tail` is empty, for a session that
    /// keeps none yet. Only when [`Self::is_keepable`].
    pub fn detach(&mut self, tail: Backlog, now: Instant) {
        self.keep_tail(tail);
        self.lose_client(now + self.rules.timeouts.resume);
        if let Some(resume) = self.resume_mut() {
            if let Some(tail) = &mut resume.tail {
                tail.stop();
            }
            // A sign of life: the streamer may have waited for the client for a while.
            resume.asks.push(message::pong(None));
            if let Some(renewal) = &mut resume.renewal {
                renewal.lapse();
            }
        }
    }

    /// Keeps a copy of what is sent from here on. Between two messages only, or when nothing is sent.
    pub fn keep_tail(&mut self, tail: Backlog) {
        if let Some(book) = &mut self.book {
            let resume = book.resume.get_or_insert_default();
            if resume.tail.is_none() {
                resume.tail = Some(Box::new(Tail::new(tail, book.sent)));
            }
        }
    }

    pub fn has_tail(&self) -> bool {
        self.resume().is_some_and(|resume| resume.tail.is_some())
    }

    /// Lends the tail, to be recorded in while the session judges what is recorded.
    pub fn lend_tail(&mut self) -> Option<Box<Tail>> {
        self.resume_mut()?.tail.take()
    }

    pub fn return_tail(&mut self, tail: Option<Box<Tail>>) {
        if let Some(tail) = tail
            && let Some(resume) = self.resume_mut()
        {
            resume.tail = Some(tail);
        }
    }

    /// The client has no part of a message: the end of a pass. False when a session without client
    /// has missed more than may be kept.
    pub fn settle_tail(&mut self, now: Instant) -> bool {
        let (sent, detached) = (self.sent(), self.phase == Phase::Detached);
        let Some(tail) = self.resume_mut().and_then(|resume| resume.tail.as_mut()) else {
            return true;
        };
        if detached {
            return !tail.is_broken();
        }
        tail.settle(sent, now);
        true
    }

    /// The payload of a ping to go to the client now, behind all messages, if one is wanted.
    pub fn next_fence(&mut self) -> Option<[u8; 4]> {
        let sent = self.sent();
        let tail = self.resume_mut()?.tail.as_mut()?;
        tail.wants_fence().then(|| tail.place_fence(sent))
    }

    /// A pong of the client.
    pub fn handle_pong(&mut self, payload: &[u8]) {
        if let Some(tail) = self.resume_mut().and_then(|resume| resume.tail.as_mut()) {
            tail.handle_pong(payload);
        }
    }

    /// Whether the session that the client calls `name` is this one, and `token` its user's.
    pub fn is_proven(&self, name: &str, token: &Secret<String>) -> bool {
        let Some(journal) = self.journal() else {
            return false;
        };
        journal.session().as_deref() == Some(name)
            && journal
                .token()
                .is_some_and(|known| same(known.expose(), token.expose()))
    }

    /// Whether requests of a client that came back are still compared with those of before, or it
    /// still lacks the document of its user.
    pub fn is_returning(&self) -> bool {
        self.resume()
            .is_some_and(|resume| resume.returning.is_some() || resume.renewal.is_some())
    }

    /// Messages of the gateway's own that are to be sent.
    pub fn take_spoken(&mut self) -> Spoken {
        match self.resume_mut() {
            Some(resume) => Spoken {
                to_streamer: std::mem::take(&mut resume.asks),
                to_client: std::mem::take(&mut resume.replies),
            },
            None => Spoken::default(),
        }
    }

    /// Whether [`Session::take_spoken`] has something.
    pub fn speaks(&self) -> bool {
        self.resume()
            .is_some_and(|resume| !resume.asks.is_empty() || !resume.replies.is_empty())
    }

    /// A ping of the streamer, whose client is gone.
    pub(super) fn answer_ping(&mut self, id: Option<&str>) {
        if let Some(resume) = self.resume_mut() {
            resume.asks.push(message::pong(id));
        }
    }

    pub(super) fn next_resume_timeout(&self) -> Option<Instant> {
        let resume = self.resume()?;
        let fence = resume.tail.as_ref().and_then(|tail| tail.next_timeout());
        let settle = resume.returning.as_ref().map(|back| back.next_timeout());
        let renewal = resume.renewal.as_ref();
        let renewal = renewal.and_then(|renewal| renewal.next_timeout());
        let others = fence.into_iter().chain(settle).chain(renewal);
        others.chain(self.next_reload_timeout()).min()
    }

    pub(super) fn handle_resume_timeout(&mut self, now: Instant) {
        if let Some(tail) = self.resume_mut().and_then(|resume| resume.tail.as_mut()) {
            tail.handle_timeout(now);
        }
        self.handle_renewal_timeout(now);
        self.handle_reload_timeout(now);
        self.settle_return(now);
    }

    fn resume(&self) -> Option<&Resume> {
        self.book.as_ref()?.resume.as_deref()
    }

    fn resume_mut(&mut self) -> Option<&mut Resume> {
        self.book.as_mut()?.resume.as_deref_mut()
    }
}

/// Compares secrets in a time that does not tell where they differ.
fn same(one: &str, other: &str) -> bool {
    let differences = one
        .bytes()
        .zip(other.bytes())
        .fold(0, |differences, (one, other)| differences | (one ^ other));
    one.len() == other.len() && differences == 0
}

#[cfg(test)]
mod tests;
