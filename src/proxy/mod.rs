//! The data path: requests, upgrades, relays.

pub mod route;
pub mod target;
