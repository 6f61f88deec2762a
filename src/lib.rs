//! Edge proxy for Rocket.Chat microservices that owns the DDP session.

// F0
pub mod base;
pub mod telemetry;
// F1
pub mod ddp;
pub mod headers;
pub mod sockjs;
pub mod ws;
// F2
pub mod config;
pub mod pool;
pub mod session;
// F3
pub mod discovery;
pub mod net;
// F4
pub mod proxy;
// F5
pub mod admin;
pub mod control;
// F6
pub mod cli;
pub mod demo;
