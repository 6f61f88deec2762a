//! Handles to the pool's metrics, made once.

use metrics::{Counter, Gauge};

use crate::{
    base::id::{PoolName, StreamerId},
    telemetry::names,
};

use super::health::{Health, Outcome, ProbeKind};

#[derive(Debug)]
pub(super) struct PoolMeters {
    pub(super) waiting: Gauge,
    pub(super) wanted: Gauge,
    pub(super) queue_full: Counter,
    pub(super) wait_timeout: Counter,
    pub(super) no_streamer: Counter,
    pub(super) up: Gauge,
    pub(super) degraded: Gauge,
    pub(super) down: Gauge,
    pub(super) unknown: Gauge,
    pub(super) draining: Gauge,
    health_probes: Results,
    ddp_probes: Results,
    failures: Failures,
    to_up: Counter,
    to_degraded: Counter,
    to_down: Counter,
}

#[derive(Debug)]
struct Results {
    ok: Counter,
    failed: Counter,
}

#[derive(Debug)]
struct Failures {
    connect: Counter,
    handshake: Counter,
    timeout: Counter,
    reset: Counter,
}

impl PoolMeters {
    pub(super) fn new(pool: &PoolName) -> Self {
        let pool = pool.as_str();
        let refused = |reason| names::POOL_REFUSED.counter(&[pool, reason]);
        let streamers = |state| names::POOL_STREAMERS.gauge(&[pool, state]);
        let failures = |outcome: Outcome| names::STREAMER_FAILURES.counter(&[outcome.label()]);
        let to = |health| names::STREAMER_TRANSITIONS.counter(&[health]);
        let probes = |kind: ProbeKind| Results {
            ok: names::STREAMER_PROBES.counter(&[kind.label(), "ok"]),
            failed: names::STREAMER_PROBES.counter(&[kind.label(), "failed"]),
        };
        Self {
            waiting: names::POOL_WAITING.gauge(&[pool]),
            wanted: names::STREAMERS_WANTED.gauge(&[pool]),
            queue_full: refused("queue_full"),
            wait_timeout: refused("wait_timeout"),
            no_streamer: refused("no_streamer"),
            up: streamers("up"),
            degraded: streamers("degraded"),
            down: streamers("down"),
            unknown: streamers("unknown"),
            draining: streamers("draining"),
            health_probes: probes(ProbeKind::Health),
            ddp_probes: probes(ProbeKind::Ddp),
            failures: Failures {
                connect: failures(Outcome::ConnectFailed),
                handshake: failures(Outcome::HandshakeFailed),
                timeout: failures(Outcome::TimedOut),
                reset: failures(Outcome::Reset),
            },
            to_up: to("up"),
            to_degraded: to("degraded"),
            to_down: to("down"),
        }
    }

    pub(super) fn probe(&self, kind: ProbeKind, ok: bool) {
        let results = match kind {
            ProbeKind::Health => &self.health_probes,
            ProbeKind::Ddp => &self.ddp_probes,
        };
        let counter = if ok { &results.ok } else { &results.failed };
        counter.increment(1);
    }

    pub(super) fn traffic(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Ok => return,
            Outcome::ConnectFailed => &self.failures.connect,
            Outcome::HandshakeFailed => &self.failures.handshake,
            Outcome::TimedOut => &self.failures.timeout,
            Outcome::Reset => &self.failures.reset,
        };
        counter.increment(1);
    }

    pub(super) fn transition(&self, to: Health) {
        let counter = match to {
            Health::Unknown { .. } => return,
            Health::Up { .. } => &self.to_up,
            Health::Degraded { .. } => &self.to_degraded,
            Health::Down { .. } => &self.to_down,
        };
        counter.increment(1);
    }
}

/// The gauge that follows the sessions of a streamer.
pub(super) fn sessions(pool: &PoolName, streamer: &StreamerId) -> Gauge {
    names::STREAMER_SESSIONS.gauge(&[pool.as_str(), streamer.as_str()])
}

/// Of one streamer whose heartbeats are heard.
#[derive(Debug)]
pub(super) struct HeatMeters {
    pub(super) cpu: Gauge,
    pub(super) hot: Gauge,
}

impl HeatMeters {
    pub(super) fn new(pool: &PoolName, streamer: &StreamerId) -> Self {
        let labels = [pool.as_str(), streamer.as_str()];
        Self {
            cpu: names::STREAMER_CPU_PERCENT.gauge(&labels),
            hot: names::STREAMER_HOT.gauge(&labels),
        }
    }
}

/// Of one streamer.
#[derive(Debug)]
pub(super) struct StreamerMeters {
    pub(super) up: Gauge,
    pub(super) capacity: Gauge,
    pub(super) draining: Gauge,
}

impl StreamerMeters {
    pub(super) fn new(pool: &PoolName, streamer: &StreamerId) -> Self {
        let labels = [pool.as_str(), streamer.as_str()];
        Self {
            up: names::STREAMER_UP.gauge(&labels),
            capacity: names::STREAMER_CAPACITY.gauge(&labels),
            draining: names::STREAMER_DRAINING.gauge(&labels),
        }
    }
}
