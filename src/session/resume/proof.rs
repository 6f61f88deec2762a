//! A client that claims a session that is kept here has to show the token of its user first.

use std::fmt;

use super::super::Session;
use crate::{
    base::secret::Secret,
    ddp::{Request, login, resume_token},
};

/// What a client has sent behind such a `connect`, unread until it is known which session is to
/// read it.
#[derive(Default)]
pub(super) struct Proof {
    waiting: Vec<String>,
    shown: Shown,
}

/// What the first of it shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    /// Nothing has come yet.
    #[default]
    Nothing,
    /// A login with this token.
    Token(Secret<String>),
    /// Something else: it is a newcomer like any other.
    Other,
}

impl Session {
    /// The client's `connect` names a session that is kept: what it sends waits until
    /// [`Session::end_proof`].
    pub fn begin_proof(&mut self) {
        if let Some(book) = &mut self.book {
            book.resume.get_or_insert_default().proof = Some(Proof::default());
        }
    }

    /// What the client has shown; `None` when nothing is to be proven.
    pub fn shown(&self) -> Option<&Shown> {
        self.proof().map(|proof| &proof.shown)
    }

    /// No more is read until it is known which session is to read it.
    pub(in crate::session) fn is_proof_shown(&self) -> bool {
        self.proof()
            .is_some_and(|proof| proof.shown != Shown::Nothing)
    }

    /// The messages that waited, in order.
    pub fn end_proof(&mut self) -> Vec<String> {
        let resume = self.book.as_mut().and_then(|book| book.resume.as_mut());
        let proof = resume.and_then(|resume| resume.proof.take());
        proof.map(|proof| proof.waiting).unwrap_or_default()
    }

    /// Takes a message of the client if it has to wait.
    pub(in crate::session) fn postpone(&mut self, json: &str) -> bool {
        let resume = self.book.as_mut().and_then(|book| book.resume.as_mut());
        let Some(proof) = resume.and_then(|resume| resume.proof.as_mut()) else {
            return false;
        };
        proof.waiting.push(json.to_owned());
        if proof.shown == Shown::Nothing {
            proof.shown = match shown(json) {
                Shown::Nothing if proof.waiting.len() >= MOST_PINGS => Shown::Other,
                shown => shown,
            };
        }
        true
    }

    /// Whether [`Self::postpone`] keeps what comes.
    pub(in crate::session) fn is_proving(&self) -> bool {
        self.proof().is_some()
    }

    fn proof(&self) -> Option<&Proof> {
        self.book.as_ref()?.resume.as_ref()?.proof.as_ref()
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof")
            .field("waiting", &self.waiting.len())
            .field("shown", &self.shown)
            .finish()
    }
}

fn shown(json: &str) -> Shown {
    match Request::parse(json) {
        Ok(Request::Ping { .. } | Request::Pong) => Shown::Nothing,
        Ok(Request::Method { method, params, .. }) if method == login::LOGIN => {
            resume_token(params).map_or(Shown::Other, Shown::Token)
        }
        _ => Shown::Other,
    }
}

/// Signs of life that are read before anything else has to come.
const MOST_PINGS: usize = 16;
