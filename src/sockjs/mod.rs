//! SockJS as text: URLs, frames, the info and iframe pages. No I/O.

pub mod frame;
pub mod info;
pub mod path;

pub use info::{Pages, Visit};
pub use path::{Path, Transport};
