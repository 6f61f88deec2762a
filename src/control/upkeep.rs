//! What has to be done from time to time while nothing happens.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::Gauge;
use tokio::time::{MissedTickBehavior, interval};

use super::app::Inner;
use crate::{
    base::id::{PoolName, StreamerId},
    proxy::registry::Registry,
    telemetry::{export, names, process},
};

/// Runs until the process stops.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut logged_in = LoggedIn::default();
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
        inner.shared.reloads.settle(Instant::now());
        logged_in.publish(&inner.shared.registry);
        observe(&inner);
    }
}

/// The gauges of logged-in sessions per streamer.
#[derive(Default)]
struct LoggedIn(BTreeMap<(PoolName, StreamerId), Gauge>);

impl LoggedIn {
    fn publish(&mut self, registry: &Registry) {
        let counts = registry.logged_in();
        for key in counts.keys() {
            self.0
                .entry(key.clone())
                .or_insert_with_key(|(pool, streamer)| {
                    names::STREAMER_LOGGED_IN.gauge(&[pool.as_str(), streamer.as_str()])
                });
        }
        // Streamers that are gone are said to have none, once.
        self.0.retain(|key, gauge| {
            let count = counts.get(key).copied().unwrap_or(0);
            gauge.set(f64::from(count));
            count > 0
        });
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
    if let Some(resident) = process::resident_memory() {
        publish(names::RESIDENT_BYTES, resident);
    }
    if let Some(open) = process::open_descriptors() {
        publish(names::OPEN_DESCRIPTORS, open);
    }
}

const PERIOD: Duration = Duration::from_secs(5);
