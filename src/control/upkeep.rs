//! What has to be done from time to time while nothing happens.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use metrics::Gauge;
use tokio::time::{MissedTickBehavior, interval};

use super::app::Inner;
use crate::{
    base::id::{PoolName, StreamerId},
    proxy::registry::{Registry, Standing},
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
        logged_in.count(&inner.shared.registry);
        observe(&inner);
    }
}

/// Logged-in sessions per streamer, by counting them: a session keeps no room for that.
#[derive(Default)]
struct LoggedIn {
    gauges: HashMap<(PoolName, StreamerId), (Gauge, u32)>,
}

impl LoggedIn {
    fn count(&mut self, registry: &Registry) {
        for (_, count) in self.gauges.values_mut() {
            *count = 0;
        }
        registry.for_each(|entry| {
            let place = entry.place();
            if let (Standing::LoggedIn, Some(streamer)) = (place.standing, place.streamer) {
                let key = (entry.pool.name().clone(), streamer);
                let (_, count) = self.gauges.entry(key).or_insert_with_key(|key| {
                    let labels = [key.0.as_str(), key.1.as_str()];
                    (names::STREAMER_LOGGED_IN.gauge(&labels), 0)
                });
                *count += 1;
            }
        });
        // Streamers that are gone are said to have none, once.
        self.gauges.retain(|_, (gauge, count)| {
            gauge.set(f64::from(*count));
            *count > 0
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
    if let Some(open) = process::open_descriptors() {
        publish(names::OPEN_DESCRIPTORS, open);
    }
}

const PERIOD: Duration = Duration::from_secs(5);
