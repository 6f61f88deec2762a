//! The admin listener: health, metrics, sessions, reload and drain, apart from the public ports;
//! and the commands that ask for it.

mod call;
mod client;
mod operator;
mod routes;
mod server;
mod table;

pub use call::CallError;
pub use client::{DrainTarget, drain};
pub use operator::{OrderError, Screen, StreamerOrder, streamers};
pub use server::serve;
