//! What is counted about one bus.

use metrics::Counter;

use super::packet::Unusable;
use crate::{bus, telemetry::names};

/// Handles, made once per source.
#[derive(Clone, Debug)]
pub(super) struct Meters {
    pub(super) link: bus::Meters,
    used: Counter,
    unusable: [(Unusable, Counter); Unusable::ALL.len()],
}

impl Meters {
    pub(super) fn new(source: &str) -> Self {
        let packets = |result| names::NATS_PACKETS.counter(&[source, result]);
        Self {
            link: bus::Meters::new(source),
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
