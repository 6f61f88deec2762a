//! What a session is told while it judges messages, and where its own messages go.

use std::time::{Duration, Instant};

use super::{
    journal::Name,
    quota::{Asked, Quotas, Rule},
};

/// The circumstances of one call: the time, the limits shared by all sessions, and who takes the
/// effects.
#[derive(Debug)]
pub struct Turn<'a, E> {
    pub now: Instant,
    pub quotas: &'a Quotas,
    pub effects: &'a mut E,
}

/// What a session causes besides its verdict.
pub trait Effects {
    /// A DDP message for the client, without framing. It goes out behind the message that is
    /// passing to the client now, never within it.
    fn reply(&mut self, message: String);

    /// A DDP message for the new leg of a move, without framing.
    fn shadow(&mut self, message: String);

    /// The client gets this message with the version of the web client, with its subscription or
    /// as a change; if that makes it load its page anew with many others, how long it is held back.
    fn client_version(&mut self, _json: &str, _changed: bool) -> Option<Duration> {
        None
    }

    /// Something worth counting happened.
    fn note(&mut self, note: Note);
}

/// Something worth counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A method or subscription was answered by the gateway because of this rule.
    Limited { rule: Rule, kind: Asked },
    /// A user, or a client without one, gets nothing but refusals for a while.
    Penalised,
    /// A method has its `result`.
    Method { name: Name, took: Duration },
    /// A subscription has its `ready`, or was refused by the streamer.
    Sub { name: Name, took: Duration },
    /// A login has its `result`; `took` is from its arrival, the wait for its turn included. On the
    /// new leg of a move: from the order to move.
    Login { outcome: Login, took: Duration },
    /// The streamer answered what the client had not asked; the answer was swallowed.
    Unasked,
    /// The session is on another streamer; `took` is from the order.
    Moved { took: Duration },
}

/// How a login ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// The user is in.
    In,
    /// 403: the token or password is not (any more) good, and whoever said so is in good health.
    Refused,
    /// Any other error.
    Failed,
}
