//! SockJS as text: URLs, frames, the info and iframe pages. No I/O.

pub mod frame;
pub mod path;

pub use path::{Path, Transport};
