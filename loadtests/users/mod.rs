//! Simulated users: what the clients of Rocket.Chat do to whatever they connect to, and what they
//! see of it.
//!
//! A [`Crowd`] is many users in one process, each a task with one socket and no buffer while it is
//! silent. A user behaves like one [`Kind`] of client in all that a server can notice: transport,
//! order of its messages, heartbeat, and above all when it comes back after a loss. What the users
//! see goes to a [`Board`]: where all of them stand now, and a [`Tally`] of what has happened since
//! it was last taken.
//!
//! A user with [`Habits`] does things while it is logged in: it calls methods, types, looks into rooms,
//! and checks the numbers of what it hears. What was wrong with that is in [`Traffic`].
//!
//! A user with [`Talk`] writes and types at a rate, for programs that measure.
//!
//! `Dialogue`, `Busy`, `Talking`, `Hearing`, `Reconnect` and the subscriptions compute; only `attempt`, `socket` and `crowd` touch
//! a socket or a clock.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each program uses its part"
)]

mod attempt;
mod board;
mod busy;
mod chance;
mod crowd;
mod dialogue;
mod doing;
mod habits;
mod hearing;
mod herald;
mod kind;
mod pulse;
mod reconnect;
mod series;
mod socket;
mod subscriptions;
mod talk;
mod tally;
mod traffic;
mod wire;

pub use self::{
    board::{Board, Standing},
    crowd::{Crowd, Person, Target},
    habits::{Habits, room_name},
    herald::Herald,
    kind::Kind,
    pulse::Pulse,
    socket::dial,
    talk::{Echo, Talk},
    tally::{Ended, Spread, Tally},
    traffic::{Faults, Traffic},
    wire::{Tls, Wire},
};
