//! HTTP header rules of a proxy: hop-by-hop, forwarding, the affinity cookie.
