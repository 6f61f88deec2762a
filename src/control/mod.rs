//! Building, reloading and ending the process.

pub mod app;
mod apply;
mod banner;
mod bounds;
pub mod drain;
mod events_task;
mod handover_task;
pub mod listeners;
mod login_task;
mod moves;
pub mod pool_task;
mod pools;
pub mod rebalance;
pub mod reload;
pub mod replicas_task;
mod restart;
mod signals;
pub mod status;
pub mod streamer_drain;
mod upkeep;
mod watch;
