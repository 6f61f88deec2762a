//! The two examples of the README, exactly as they stand there.

use ddp_gateway::config;

use crate::support::load;

const SMALLEST: &str = r#"listen = "127.0.0.1:8080"
monolith = "http://127.0.0.1:3000"
streamers = ["127.0.0.1:4001", "127.0.0.1:4002"]
"#;

const WITH_TLS: &str = r#"admin = "127.0.0.1:9901"
monolith = "http://127.0.0.1:3000"
streamers = ["127.0.0.1:4001", "127.0.0.1:4002"]
[[listener]]
address = "127.0.0.1:8080"
[[listener]]
address = "127.0.0.1:8443"
tls = [{ cert = "certs/tls.crt", key = "certs/tls.key" }]
"#;

#[test]
fn three_lines_are_enough() {
    let config = load(SMALLEST);
    let listener = &config.listeners[0];
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(listener.address.to_string(), "127.0.0.1:8080");
    assert!(listener.tls.is_empty() && !listener.http2);
    assert_eq!(config.admin.unwrap().to_string(), "127.0.0.1:9901");
    assert_eq!(config.routes.len(), 1);
    assert_eq!(config.routes[0].pool, Some(0));
    assert_eq!(&*config.monoliths[0].servers[0].host, "127.0.0.1");
    assert_eq!(config.monoliths[0].servers[0].port, 3000);
    let pool = &config.pools[0];
    let streamers: Vec<String> = pool.streamers.iter().map(ToString::to_string).collect();
    assert_eq!(streamers, ["127.0.0.1:4001", "127.0.0.1:4002"]);
    assert_eq!(pool.sessions_per_streamer, 500);
    assert_eq!(pool.name.as_str(), config::DEFAULT_POOL);
    assert_eq!(config.http.body_limit, 200 << 20);
}

#[test]
fn tls_adds_a_listener() {
    let config = load(WITH_TLS);
    assert_eq!(config.listeners.len(), 2);
    assert!(config.listeners[0].tls.is_empty());
    let tls = &config.listeners[1];
    assert_eq!(tls.tls.len(), 1);
    assert_eq!(tls.tls[0].cert.to_str(), Some("certs/tls.crt"));
    assert_eq!(tls.tls[0].key.to_str(), Some("certs/tls.key"));
    assert!(tls.http2);
    assert!(!tls.http2_websocket);
}
