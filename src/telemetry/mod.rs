//! Metric names, handles and the log. Logic asks for a handle once and calls methods on it.

pub mod export;
pub mod log;
pub mod meters;
pub mod names;
pub mod panic;
pub mod process;
pub mod seldom;
