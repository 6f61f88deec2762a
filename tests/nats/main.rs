//! Streamers found on a real `nats-server`, with real Moleculer nodes and NATS services from npm.
//!
//! `tests/run` installs what they need. Whatever is missing is a failure, never a skip.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]
#![allow(dead_code, reason = "not every theme is here yet")]

mod listener;
mod moleculer;
mod node;
mod server;
mod site;
#[path = "../support/mod.rs"]
mod support;
