//! The admin listener: health, metrics, sessions, reload and drain, apart from the public ports;
//! and the commands that ask for it.

mod call;
mod client;
mod levelling;
mod operator;
mod progress;
mod replicas;
mod routes;
mod server;
mod sources;
mod table;

pub use call::CallError;
pub use client::{DrainTarget, drain};
pub use levelling::{RebalanceError, RebalanceOrder};
pub use operator::{OrderError, StreamerOrder, streamers};
pub use progress::Screen;
pub use replicas::replicas;
pub use server::serve;
