//! What a session knows about its client's requests; made when `connect` is here.

use super::{journal::Journal, migration::Migration, quota::Asker, resume::Resume};
use crate::base::secret::Secret;

/// The journal and what belongs to the limits and to the login.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) journal: Journal,
    pub(super) asker: Asker,
    pub(super) logins: Logins,
    /// Messages that the client was sent, as Meteor's client counts them.
    pub(super) sent: u32,
    /// What the session needs in case that the client's end breaks.
    pub(super) resume: Option<Box<Resume>>,
    /// What most sessions are without most of the time.
    pub(super) aside: Option<Box<Aside>>,
}

// A size that the allocator has.
const _: () = assert!(size_of::<Book>() <= 128);

#[derive(Debug)]
pub(super) enum Aside {
    /// The token of the login that is under way, until its answer says whether it is good. None is
    /// kept while there are several: the answer does not say whose it is.
    Offered(Secret<String>),
    /// The session is being moved: not while a login is under way.
    Moving(Migration),
}

/// Logins of the client that have no answer yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Logins {
    /// Held back until it is their turn, and everything behind them with them.
    pub(super) held: u16,
    /// Sent to the streamer.
    pub(super) running: u16,
}
