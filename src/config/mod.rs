//! From `proxy.toml` to a [`Config`] in which everything has been checked.

pub mod model;
