//! Handles of the metrics of methods and subscriptions, by name.

use std::sync::OnceLock;

use metrics::{Counter, Histogram};

use super::registry::MoveRefused;
use crate::{
    session::{
        journal::Name,
        migration::{Aborted, Unmovable},
    },
    telemetry::names::{self, Metric},
};

/// Made when first needed, since a histogram of every name would be a long page.
#[derive(Debug)]
pub(super) struct RequestMeters {
    methods: ByName,
    subs: ByName,
    /// Answers that no client had asked for.
    pub(super) unasked: Counter,
}

impl RequestMeters {
    pub(super) fn new() -> Self {
        Self {
            methods: ByName::default(),
            subs: ByName::default(),
            unasked: names::UNASKED.counter(&[]),
        }
    }

    pub(super) fn method(&self, name: Name) -> &Histogram {
        self.methods.handle(&names::METHOD_SECONDS, name)
    }

    pub(super) fn sub(&self, name: Name) -> &Histogram {
        self.subs.handle(&names::SUBSCRIPTION_SECONDS, name)
    }
}

/// How moves of sessions went.
#[derive(Debug)]
pub(super) struct MoveMeters {
    pub(super) moved: Counter,
    /// From the order to the switch.
    pub(super) seconds: Histogram,
    unmovable: Vec<Counter>,
    aborted: Vec<Counter>,
}

impl MoveMeters {
    pub(super) fn new() -> Self {
        let counter = |label| names::SESSION_MOVES.counter(&[label]);
        Self {
            moved: counter("moved"),
            seconds: names::SESSION_MOVE_SECONDS.histogram(&[]),
            unmovable: Unmovable::ALL
                .iter()
                .map(|reason| counter(reason.label()))
                .collect(),
            aborted: Aborted::ALL
                .iter()
                .map(|reason| counter(reason.label()))
                .collect(),
        }
    }

    pub(super) fn refused(&self, reason: MoveRefused) -> &Counter {
        match reason {
            MoveRefused::Unmovable(reason) => &self.unmovable[reason as usize],
            MoveRefused::Aborted(reason) => &self.aborted[reason as usize],
        }
    }
}

#[derive(Debug)]
struct ByName([OnceLock<Histogram>; Name::COUNT]);

impl Default for ByName {
    fn default() -> Self {
        Self([const { OnceLock::new() }; Name::COUNT])
    }
}

impl ByName {
    fn handle(&self, metric: &Metric, name: Name) -> &Histogram {
        self.0[name.index()].get_or_init(|| metric.histogram(&[name.label()]))
    }
}
