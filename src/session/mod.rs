//! One client as the gateway sees it, as a machine without I/O.
//!
//! Knows frames and DDP, but no pool, no socket and no clock: the relay tells it what arrived and
//! when, and asks it what to do.
//!
//! [`Session::handle_client`] and [`Session::handle_streamer`] judge a message by its beginning and
//! give a [`Verdict`]; what is not clear by then is put together by the relay and comes back to
//! [`Session::handle_assembled`]. What a message causes besides, an answer of the gateway's own or
//! something to count, goes to [`Effects`]. `machine` has the phases and timers, `client` and
//! `streamer` the two sides of the dialogue, [`journal`] what was asked and is unanswered, [`quota`]
//! how much may be asked, [`resume`] what
//! is kept when the client's end breaks, [`portable`] a session as bytes for another gateway.

mod book;
mod client;
pub mod disconnect;
mod forced;
pub mod journal;
pub mod limits;
mod machine;
pub mod migration;
pub mod portable;
pub mod quota;
mod reload;
pub mod resume;
mod streamer;
mod turn;

pub use client::Passage;
pub use disconnect::{Disconnect, Side};
pub use forced::{ForcedLogouts, Names};
pub use journal::Journal;
pub use limits::Limiter;
pub use machine::{Action, LoginState, Phase, Rules, Session, Timeouts, Verdict};
pub use portable::{Arrival, Unpackable, Unreadable};
pub use quota::{Asked, Asker, QuotaRules, Quotas, Refused, Rule, Strike};
pub use resume::{Back, ReturnKind, Returned, Shown, Spoken, Tail};
pub use turn::{Effects, Login, Note, Turn};
