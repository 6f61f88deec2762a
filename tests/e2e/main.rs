//! The gateway between real clients and simulated servers, over real sockets.

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod nameserver;
mod pool;
mod tls;
mod websocket;
