//! The message bus, NATS: connections to it, and what can be said and heard by them.
//!
//! Two things use it, each by a connection of its own: discovery, which finds streamers, and the
//! replicas, which share what they count. A [`Link`] belongs to the task that keeps it and hears
//! what becomes of it. A [`Post`] is for everybody else: it is there before the first connection,
//! outlives each of them, and says at once that the bus is away.

mod link;
mod messages;
mod meters;
mod post;

pub use self::{
    link::{Link, LinkError, Turn, jitter},
    messages::{Message, Messages},
    meters::Meters,
    post::{Hearing, Post, Unanswered},
};
