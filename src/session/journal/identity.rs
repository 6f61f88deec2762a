//! Who the client is: session id, user, token.
//!
//! These stand before everything else in the arena. The user's id is one byte in the parameters of subscriptions, so
//! they are packed anew when it changes: a web client subscribes before it knows that its login was accepted.

use std::borrow::Cow;

use crate::base::secret::Secret;

use super::{
    Journal,
    arena::{Arena, Head, Kind, NoRoom, Record},
    entry::packed_params,
    packed::{pack, unpack},
};

/// Longest session id, user id and token, in bytes. Known ones have at most 43.
pub const LONGEST_TEXT: usize = 512;

impl Journal {
    /// The session id that the client knows. One longer than [`LONGEST_TEXT`] is not kept.
    pub fn set_session(&mut self, client_visible: &str) {
        self.forget(Kind::Session);
        self.keep(Kind::Session, client_visible);
    }

    /// The streamer's name for the session, if it is not the one that the client knows. One longer than
    /// [`LONGEST_TEXT`] is not kept.
    pub fn set_upstream(&mut self, session: &str) {
        self.forget(Kind::Upstream);
        if self.session().as_deref() != Some(session) {
            self.keep(Kind::Upstream, session);
        }
    }

    /// The streamer's name for the session, when the client knows another one: since a move.
    pub fn upstream(&self) -> Option<Cow<'_, str>> {
        self.text(Kind::Upstream)
    }

    /// The streamer accepted a login. `token` is what logs the same user in again, if the session has seen it. Texts
    /// longer than [`LONGEST_TEXT`] are not kept.
    pub fn log_in(&mut self, user: &str, token: Option<&str>) {
        self.set_user(user);
        if let Some(token) = token {
            self.keep(Kind::Token, token);
        }
    }

    /// Forgets user, token and presence.
    pub fn log_out(&mut self) {
        self.set_user("");
        self.presence = None;
    }

    pub fn session(&self) -> Option<Cow<'_, str>> {
        self.text(Kind::Session)
    }

    pub fn user(&self) -> Option<Cow<'_, str>> {
        self.text(Kind::User)
    }

    pub fn has_token(&self) -> bool {
        self.identity().any(|record| record.head.is(Kind::Token))
    }

    pub fn token(&self) -> Option<Secret<String>> {
        self.text(Kind::Token)
            .map(|token| Secret::new(token.into_owned()))
    }

    /// The id of the user, `""` without one.
    pub(super) fn own_user(&self) -> Cow<'_, str> {
        self.user().unwrap_or_default()
    }

    pub(super) fn text(&self, kind: Kind) -> Option<Cow<'_, str>> {
        self.identity()
            .find(|record| record.head.is(kind))
            .map(|record| unpack(self.arena.body(&record), ""))
    }

    /// The records before the first subscription, method or document.
    fn identity(&self) -> impl Iterator<Item = Record> {
        let other = [Kind::Sub, Kind::Method, Kind::Document];
        self.arena
            .records()
            .take_while(move |record| !other.into_iter().any(|kind| record.head.is(kind)))
    }

    /// Changes whose id stands as one byte in parameters, and forgets the token.
    fn set_user(&mut self, user: &str) {
        let user = if user.len() > LONGEST_TEXT { "" } else { user };
        self.forget(Kind::Token);
        if self.own_user() == user {
            return;
        }
        match self.with_user(user) {
            Ok(arena) => self.arena = arena,
            Err(NoRoom) => self.overflow(),
        }
        self.forget(Kind::User);
        if !user.is_empty() {
            self.keep(Kind::User, user);
        }
    }

    pub(super) fn keep(&mut self, kind: Kind, text: &str) {
        if text.len() > LONGEST_TEXT {
            return;
        }
        let mut packed = Vec::with_capacity(text.len() + 1);
        pack(text, "", &mut packed);
        // Without room even in the bare journal it is not kept, as documented with `Bounds`.
        let _ = self.insert(0, Head::new(kind), 0, &packed);
    }

    fn forget(&mut self, kind: Kind) {
        let record = self.identity().find(|record| record.head.is(kind));
        if let Some(record) = record {
            self.arena.remove(&record);
        }
    }

    /// The same entries with parameters packed for another user.
    fn with_user(&self, user: &str) -> Result<Arena, NoRoom> {
        let old_user = self.own_user();
        let mut arena = Arena::default();
        for record in self.arena.records() {
            let body = self.arena.body(&record);
            let packed_for_user = record.head.is(Kind::Sub) && !record.head.has(Head::SET);
            let body = match packed_params(body).filter(|_| packed_for_user && !self.overflowed) {
                Some(params) => {
                    let mut changed = body[..body.len() - params.len()].to_vec();
                    pack(&unpack(params, &old_user), user, &mut changed);
                    Cow::Owned(changed)
                }
                None => Cow::Borrowed(body),
            };
            arena.push(record.head, record.since, &body, self.bounds.bytes())?;
        }
        Ok(arena)
    }
}
