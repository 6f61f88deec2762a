//! What is counted about one bus.

use metrics::{Counter, Gauge};

use super::packet::Unusable;
use crate::telemetry::names;

/// Handles, made once per source.
#[derive(Clone, Debug)]
pub(super) struct Meters {
    /// 1 while there is a connection.
    pub(super) up: Gauge,
    pub(super) connected: Counter,
    pub(super) disconnected: Counter,
    pub(super) failed: Counter,
    pub(super) refused: Counter,
    pub(super) lame_duck: Counter,
    pub(super) slow_consumer: Counter,
    used: Counter,
    unusable: [(Unusable, Counter); Unusable::ALL.len()],
}

impl Meters {
    pub(super) fn new(source: &str) -> Self {
        let event = |event| names::NATS_EVENTS.counter(&[source, event]);
        let packets = |result| names::NATS_PACKETS.counter(&[source, result]);
        Self {
            up: names::NATS_CONNECTED.gauge(&[source]),
            connected: event("connected"),
            disconnected: event("disconnected"),
            failed: event("failed"),
            refused: event("refused"),
            lame_duck: event("lame_duck"),
            slow_consumer: event("slow_consumer"),
            used: packets("ok"),
            unusable: Unusable::ALL.map(|why| (why, packets(why.label()))),
        }
    }

    /// Counts a packet, and passes it on if it is of use.
    pub(super) fn packet<T>(&self, parsed: Result<T, Unusable>) -> Option<T> {
        match parsed {
            Ok(packet) => {
                self.used.increment(1);
                Some(packet)
            }
            Err(why) => {
                let counter = self.unusable.iter().find(|(known, _)| *known == why);
                counter.inspect(|(_, counter)| counter.increment(1));
                None
            }
        }
    }
}
