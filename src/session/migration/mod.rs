//! Moving a live session to another streamer without the client's noticing.

mod outcome;

pub use outcome::{Aborted, Unmovable};
