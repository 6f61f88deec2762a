//! Sessions that go from one gateway to another: two gateways, a real `nats-server`, clients that come
//! back to the wrong one.
//!
//! `tests/run` installs what they need. Whatever is missing is a failure, never a skip.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

mod back;
mod between;
mod crowd;
mod drain;
mod drain_live;
mod owner;
mod peer;
mod reload;

#[allow(dead_code, reason = "tests of one gateway use the rest")]
#[path = "../e2e/resume/phone.rs"]
mod phone;
#[allow(dead_code, reason = "tests of the bus use the rest")]
#[path = "../nats/server.rs"]
mod server;
mod site;
#[path = "../support/mod.rs"]
mod support;
