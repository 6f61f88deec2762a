//! Handles of the metrics of methods and subscriptions, by name.

use std::sync::OnceLock;

use metrics::{Counter, Histogram};

use crate::{
    session::journal::Name,
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
