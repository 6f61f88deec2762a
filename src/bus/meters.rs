//! What is counted about one connection.

use metrics::{Counter, Gauge};

use crate::telemetry::names;

/// Handles, made once per user of a bus.
#[derive(Clone, Debug)]
pub struct Meters {
    /// 1 while there is a connection.
    pub up: Gauge,
    pub(super) connected: Counter,
    pub(super) disconnected: Counter,
    pub(super) failed: Counter,
    pub(super) refused: Counter,
    pub(super) lame_duck: Counter,
    pub(super) slow_consumer: Counter,
    pub(super) too_large: Counter,
    pub(super) no_room: Counter,
}

impl Meters {
    /// `source` tells several connections of one process apart.
    pub fn new(source: &str) -> Self {
        let event = |event| names::NATS_EVENTS.counter(&[source, event]);
        let dropped = |why| names::NATS_DROPPED.counter(&[source, why]);
        Self {
            up: names::NATS_CONNECTED.gauge(&[source]),
            connected: event("connected"),
            disconnected: event("disconnected"),
            failed: event("failed"),
            refused: event("refused"),
            lame_duck: event("lame_duck"),
            slow_consumer: event("slow_consumer"),
            too_large: dropped("too_large"),
            no_room: dropped("no_room"),
        }
    }
}
