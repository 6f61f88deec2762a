//! The gateway between real clients and simulated servers, over real sockets.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod abuse;
mod access_log;
mod admin;
mod dialogue;
mod drain;
mod full;
mod hostile;
mod http;
mod kubernetes;
mod listeners;
mod logins;
mod nameserver;
mod new_version;
mod outage;
mod pool;
mod quotas;
mod rebalance;
mod reload;
mod resume;
mod shared_port;
mod start;
mod streamer_drain;
mod tls;
mod websocket;
mod workers;
