//! One client as the gateway sees it, as a machine without I/O.
//!
//! Knows frames and DDP, but no pool, no socket and no clock: the relay tells it what arrived and
//! when, and asks it what to do.

mod book;
mod client;
pub mod disconnect;
pub mod journal;
pub mod limits;
mod machine;
pub mod quota;
mod streamer;
mod turn;

pub use client::Passage;
pub use disconnect::{Disconnect, Side};
pub use journal::Journal;
pub use limits::Limiter;
pub use machine::{Action, LoginState, Phase, Rules, Session, Timeouts, Verdict};
pub use quota::{Asked, Asker, QuotaRules, Quotas, Refused, Rule, Strike};
pub use turn::{Effects, Login, Note, Turn};
