//! What the configuration and the machine together allow: connections, and the memory they can
//! take.

use super::pool_task::PROBES_IN_FLIGHT;
use crate::{
    config::model::{Config, Ranges},
    net::{gate::GateTerms, splice, workers},
    proxy::connection::{SEND_BUFFER, STREAM_WINDOW},
    session::Quotas,
    telemetry::process,
};

/// The gate's part of the configuration, cut to what the descriptors allow.
pub(super) fn gate_terms(config: &Config) -> GateTerms {
    let affordable = affordable_connections(config, process::descriptor_limit());
    GateTerms {
        max_connections: config
            .limits
            .max_connections
            .map_or(affordable, |wanted| wanted.min(affordable)),
        max_handshakes: config.limits.handshakes,
        per_address: config.limits.connections,
        exempt: Ranges(config.trusted_proxies.0.clone()),
    }
}

/// Client connections that `descriptors` suffice for: each may need a second one towards a streamer
/// or the monolith, and some are set aside for everything else.
fn affordable_connections(config: &Config, descriptors: u64) -> usize {
    let pipes = 2 * splice::most_pipes(descriptors);
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let idle_to_monolith: usize = config
        .monoliths
        .iter()
        .map(|monolith| monolith.servers.len() * config.http.keep_alive_connections)
        .sum();
    let probes = config.pools.len() * PROBES_IN_FLIGHT;
    let workers = workers::count(config.workers);
    let reserve = RESERVE + workers * (config.listeners.len() + OF_RUNTIME) + probes + pipes;
    // Idle connections to the monolith are closed when somebody else needs the place, but half of
    // what is there is never given to them.
    let idle_to_monolith = idle_to_monolith.min(descriptors / 8);
    (descriptors.saturating_sub(reserve + idle_to_monolith) / 2).max(1)
}

/// Upper bounds of the gateway's own memory, in bytes. The kernel's socket buffers are not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// With every connection an idle socket.
    pub(super) idle: u64,
    /// With every connection at its own worst at the same time.
    pub(super) worst: u64,
}

impl Memory {
    /// Of a process with this configuration and these many client connections.
    pub(super) fn of(config: &Config, connections: usize) -> Self {
        let tls = config
            .listeners
            .iter()
            .any(|listener| !listener.tls.is_empty());
        let http2 = config.listeners.iter().any(|listener| listener.http2);
        let connections = connections as u64;
        let per_idle = if tls { IDLE_TLS } else { IDLE_PLAIN };
        let http = &config.http;
        let per_busy = per_idle
            + http.request_header_limit as u64
            + http.response_header_limit as u64
            + if http2 {
                // Requests on one connection count as connections of their own.
                COPY_BUFFERS.max(u64::from(STREAM_WINDOW) + SEND_BUFFER as u64)
            } else {
                COPY_BUFFERS
            };
        let queued: u64 = config
            .pools
            .iter()
            .map(|pool| pool.queue.length as u64 * QUEUED)
            .sum();
        let handshakes = config.limits.handshakes as u64 * HANDSHAKE;
        Self {
            idle: BASE + connections * per_idle,
            worst: BASE
                + connections * per_busy
                + config.websocket.buffer_total as u64
                + Quotas::CAPACITY_BYTES as u64
                + queued
                + handshakes,
        }
    }
}

/// For the log, the admin listener and its clients, file watches, name servers, reloads, and what is
/// kept for refusing clients.
const RESERVE: usize = 128;
/// Of each worker: what it waits on, and how it is woken.
const OF_RUNTIME: usize = 4;

/// Measured budgets of `tests/footprint.rs`.
const IDLE_PLAIN: u64 = 2 * 1024;
const IDLE_TLS: u64 = 10 * 1024;

/// What hyper and the copy of a body keep per exchange besides the heads: 8 KiB to read, 8 KiB to
/// write, towards the client and towards the monolith, and one chunk in between.
const COPY_BUFFERS: u64 = 48 * 1024;
const HANDSHAKE: u64 = 32 * 1024;
const QUEUED: u64 = 512;

/// Code, runtime, metrics, remembered sessions, a scratch buffer per thread.
const BASE: u64 = 48 * 1024 * 1024;
