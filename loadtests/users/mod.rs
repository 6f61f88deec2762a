//! Simulated users: what the clients of Rocket.Chat do to whatever they connect to, and what they
//! see of it.
//!
//! A [`Crowd`] is many users in one process, each a task with one socket and no buffer while it is
//! silent. A user behaves like one [`Kind`] of client in all that a server can notice: transport,
//! order of its messages, heartbeat, and above all when it comes back after a loss. What the users
//! see goes to a [`Board`]: where all of them stand now, and a [`Tally`] of what has happened since
//! it was last taken.
//!
//! `Dialogue`, `Reconnect` and the subscriptions compute; only `attempt`, `socket` and `crowd` touch
//! a socket or a clock.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each program uses its part"
)]

mod attempt;
mod board;
mod chance;
mod crowd;
mod dialogue;
mod kind;
mod pulse;
mod reconnect;
mod socket;
mod subscriptions;
mod tally;

pub use self::{
    board::{Board, Standing},
    crowd::{Crowd, Person, Target},
    kind::Kind,
    pulse::Pulse,
    tally::{Ended, Spread, Tally},
};
