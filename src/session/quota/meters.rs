//! Handles to the metrics of refusals, made once.

use metrics::{Counter, Gauge};

use super::{Asked, Rule};
use crate::telemetry::names;

#[derive(Debug)]
pub(super) struct QuotaMeters {
    pub(super) cells: Gauge,
    pub(super) penalties: Counter,
    /// By [`Rule`].
    methods: [Counter; Rule::ALL.len()],
    subs: [Counter; Rule::ALL.len()],
}

impl QuotaMeters {
    pub(super) fn new() -> Self {
        let limited = |asked: Asked| {
            Rule::ALL.map(|rule| names::LIMITED_REQUESTS.counter(&[rule.label(), asked.label()]))
        };
        Self {
            cells: names::QUOTA_CELLS.gauge(&[]),
            penalties: names::PENALTIES.counter(&[]),
            methods: limited(Asked::Method),
            subs: limited(Asked::Sub),
        }
    }

    pub(super) fn limited(&self, rule: Rule, asked: Asked) -> &Counter {
        let counters = match asked {
            Asked::Method => &self.methods,
            Asked::Sub => &self.subs,
        };
        &counters[rule as usize]
    }
}
