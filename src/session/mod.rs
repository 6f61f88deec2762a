//! One client as the gateway sees it, as a machine without I/O.
//!
//! Knows frames and DDP, but no pool, no socket and no clock: the relay tells it what arrived and
//! when, and asks it what to do.

pub mod disconnect;
pub mod journal;
pub mod limits;
mod machine;
pub mod quota;

pub use disconnect::{Disconnect, Side};
pub use journal::Journal;
pub use limits::Limiter;
pub use machine::{Action, Phase, Rules, Session, Timeouts, Verdict};
pub use quota::{Asked, Asker, QuotaRules, Quotas, Refused, Rule, Strike};
