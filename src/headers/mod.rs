//! HTTP header rules of a proxy: hop-by-hop, forwarding, the affinity cookie.

pub mod cookie;
pub mod forwarded;
pub mod hop;
pub mod screen;
