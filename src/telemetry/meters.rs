//! Handles to metrics, made once per component and kept there.

use metrics::{Counter, Gauge, Histogram, Label};

use super::names::{Kind, Metric};

impl Metric {
    /// A counter of this family with these label values, in the order of [`Metric::labels`].
    ///
    /// Looks the metric up in the recorder: call it when a component is made, never per frame.
    pub fn counter(&self, values: &[&str]) -> Counter {
        debug_assert_eq!(self.kind, Kind::Counter, "{}", self.name);
        metrics::counter!(self.name, self.pairs(values))
    }

    /// A gauge; see [`Self::counter`].
    pub fn gauge(&self, values: &[&str]) -> Gauge {
        debug_assert_eq!(self.kind, Kind::Gauge, "{}", self.name);
        metrics::gauge!(self.name, self.pairs(values))
    }

    /// A histogram; see [`Self::counter`].
    pub fn histogram(&self, values: &[&str]) -> Histogram {
        debug_assert_eq!(self.kind, Kind::Histogram, "{}", self.name);
        metrics::histogram!(self.name, self.pairs(values))
    }

    fn pairs(&self, values: &[&str]) -> Vec<Label> {
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        self.labels
            .iter()
            .zip(values)
            .map(|(key, value)| Label::new(*key, (*value).to_owned()))
            .collect()
    }
}

/// Adds one to a gauge and takes it off again when dropped.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    pub fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
