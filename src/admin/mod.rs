//! The admin listener: health, metrics, sessions, reload and drain, apart from the public ports.

mod client;
mod routes;
mod server;

pub use client::{DrainError, DrainTarget, drain};
pub use server::serve;
