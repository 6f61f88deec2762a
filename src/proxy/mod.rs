//! The data path: requests, upgrades, relays.
