//! Streamers found on a real `nats-server`, with real Moleculer nodes and NATS services from npm.
//!
//! `tests/run` installs what they need. Whatever is missing is a failure, never a skip.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

mod bus;
mod check;
mod credentials;
mod events;
mod listener;
mod micro;
mod moleculer;
#[path = "../e2e/nameserver.rs"]
#[allow(dead_code, reason = "its other moods belong to tests of the DNS")]
mod nameserver;
mod node;
mod post;
mod server;
mod shadow;
mod site;
#[path = "../support/mod.rs"]
mod support;
