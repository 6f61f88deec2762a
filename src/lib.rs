//! Edge proxy for Rocket.Chat microservices that owns the DDP session.

pub mod base;
pub mod telemetry;
pub mod config;
