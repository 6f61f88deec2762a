//! What the journal says to what it is told.

use super::Name;

/// What became of a subscription or method that a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Begun {
    New,
    /// There is such a subscription on this session. Nothing was noted.
    Duplicate,
    /// A bound is reached or the id is longer than [`LONGEST_ID`](super::LONGEST_ID). Nothing was noted.
    Full,
}

/// An answer of the streamer, compared with what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Nobody asked, or the matter has been closed.
    Unknown,
    /// Answered before: a second `ready` or `result`, or the end of a subscription that was ready.
    Again,
    First(Waited),
}

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    pub name: Name,
    /// When it was asked for, in milliseconds since the session began.
    pub since: u32,
    /// Of a method: `updated` came before the result and is owed to the client. The method is finished.
    pub owes_updated: bool,
}

/// What to do with `updated` for one method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The client has the result; the method is finished.
    Forward,
    /// The result is not here. It is remembered: see [`Waited::owes_updated`].
    Early,
    Unknown,
}
