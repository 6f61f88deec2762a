//! What the gateway says of itself when it starts.

use std::net::SocketAddr;

use tracing::{info, warn};

use super::bounds::Memory;
use crate::{
    base::id::ListenAddr,
    config::model::{Config, Listener, ProxyProtocol},
    net::workers::Workers,
    telemetry::process::VERSION,
};

/// Logs one line per fact, in the order in which a person asks.
pub(super) fn announce(
    config: &Config,
    addresses: &[ListenAddr],
    admin: Option<SocketAddr>,
    connections: usize,
    workers: &Workers,
) {
    info!("ddp-gateway {VERSION} is up");
    for line in facts(config, addresses, admin, connections, workers) {
        info!("{line}");
    }
    for line in unprotected(config, addresses, admin) {
        warn!("unprotected: {line}");
    }
}

fn facts(
    config: &Config,
    addresses: &[ListenAddr],
    admin: Option<SocketAddr>,
    connections: usize,
    workers: &Workers,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (listener, address) in config.listeners.iter().zip(addresses) {
        lines.push(describe(listener, *address));
    }
    for pool in &config.pools {
        let mut sources: Vec<String> = pool.streamers.iter().map(ToString::to_string).collect();
        sources.extend(pool.dns.iter().map(|dns| format!("dns {}", dns.name)));
        let bus = pool.nats.as_ref();
        sources.extend(bus.map(|bus| format!("bus {}", bus.name())));
        let service = pool.kubernetes.as_ref();
        sources.extend(service.map(|service| format!("kubernetes {}", service.name())));
        lines.push(format!(
            "streamers of pool {}: {} (up to {} sessions each)",
            pool.name,
            sources.join(", "),
            pool.sessions_per_streamer
        ));
    }
    for monolith in &config.monoliths {
        let servers: Vec<String> = monolith
            .servers
            .iter()
            .map(|server| format!("http://{}:{}", server.host, server.port))
            .collect();
        lines.push(format!("monolith: {}", servers.join(", ")));
    }
    lines.push(match admin {
        Some(admin) => format!("admin: http://{admin}/ (metrics, sessions, reload, drain)"),
        None => "admin: off".to_owned(),
    });
    if !workers.are_none() {
        lines.push(workers.to_string());
    }
    let memory = Memory::of(config, connections);
    lines.push(format!(
        "room for {connections} client connections; memory: about {} when all are idle sockets, \
         at most {} when all are at their limits",
        mebibytes(memory.idle),
        mebibytes(memory.worst)
    ));
    lines
}

fn describe(listener: &Listener, address: ListenAddr) -> String {
    let scheme = if listener.tls.is_empty() {
        "http"
    } else {
        "https"
    };
    let mut extras = Vec::new();
    if !listener.tls.is_empty() {
        extras.push(if listener.http2 {
            "HTTP/2 and HTTP/1.1"
        } else {
            "HTTP/1.1"
        });
    }
    if listener.proxy_protocol == ProxyProtocol::Required {
        extras.push("behind a PROXY header");
    }
    if listener.redirect_https.is_some() {
        extras.push("redirects to https");
    }
    if listener.reuse_port {
        extras.push("other gateways may share the port");
    }
    match extras.as_slice() {
        [] => format!("listening: {scheme}://{address}"),
        extras => format!("listening: {scheme}://{address} ({})", extras.join(", ")),
    }
}

fn unprotected(
    config: &Config,
    addresses: &[ListenAddr],
    admin: Option<SocketAddr>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for (listener, address) in config.listeners.iter().zip(addresses) {
        let plain = listener.tls.is_empty() && listener.redirect_https.is_none();
        if plain && !address.0.ip().is_loopback() {
            lines.push(format!(
                "{address} speaks plain http on a network address; passwords pass \
                 readable unless something in front adds TLS"
            ));
        }
        if listener.proxy_protocol == ProxyProtocol::Required {
            lines.push(format!(
                "{address} believes the PROXY header of everybody who reaches it; let \
                 only the balancer do that"
            ));
        }
    }
    if admin.is_some_and(|admin| !admin.ip().is_loopback()) {
        lines.push(
            "the admin pages are on a network address and have no password; let only \
             Prometheus and operators reach them"
                .to_owned(),
        );
    }
    if config.websocket.origins.is_empty() {
        lines.push(
            "sockets are accepted from pages of any origin (websocket.origins is \
             empty)"
                .to_owned(),
        );
    }
    lines
}

fn mebibytes(bytes: u64) -> String {
    let mebibytes = bytes / (1024 * 1024);
    match mebibytes {
        0..10_000 => format!("{mebibytes} MiB"),
        _ => format!("{} GiB", mebibytes / 1024),
    }
}
