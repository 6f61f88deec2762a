//! What has to be done from time to time while nothing happens.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

use super::app::Inner;
use crate::telemetry::{export, names, process};

/// Runs until the process stops.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // Histograms collect samples until somebody sorts them into their buckets.
        export::recorder().run_upkeep();
        inner.gate.sweep();
        inner.shared.quotas.sweep(Instant::now());
        observe(&inner);
    }
}

/// Publishes what is only known by looking.
pub(super) fn observe(inner: &Inner) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of bytes and files fit into 52 bits"
    )]
    let publish = |metric: names::Metric, value: usize| metric.gauge(&[]).set(value as f64);
    publish(names::BACKLOG_BYTES, inner.shared.budget.used());
    for pool in &inner.shared.snapshot.load().pools {
        pool.measure_demand();
    }
    if let Some(heap) = process::heap_in_use() {
        publish(names::HEAP_BYTES, heap);
    }
    if let Some(open) = process::open_descriptors() {
        publish(names::OPEN_DESCRIPTORS, open);
    }
}

const PERIOD: Duration = Duration::from_secs(5);
