//! Metric names, handles and the log. Logic asks for a handle once and calls methods on it.

pub mod meters;
pub mod names;
