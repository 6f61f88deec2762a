//! What every other floor may use: ids, deadlines, bounded byte queues, sharded maps, secrets, quoting,
//! packing, sealing.
//!
//! Imports nothing of the crate. Knows no socket, no runtime and no clock.

pub mod chunk;
pub mod id;
pub mod packing;
pub mod quote;
pub mod sealing;
pub mod secret;
pub mod shard;
pub mod timers;
