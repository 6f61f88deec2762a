//! The recorder behind all handles, in the form that Prometheus reads.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::names;

/// Installs the recorder at the first call; all calls give the same handle.
///
/// Handles made before the first call record nothing, so a process calls this before it builds
/// anything else. When another recorder is installed already, the page stays empty.
pub fn recorder() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&REQUEST_BUCKETS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(
                    Matcher::Full(names::SESSION_SECONDS.name.to_owned()),
                    &SESSION_BUCKETS,
                )
            })
            .expect("the lists of buckets are not empty")
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_ok() {
            names::describe();
        }
        handle
    })
}

/// From a request that never left the machine to one that nearly timed out.
const REQUEST_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0,
];

/// From a socket that failed at once to one that was open for a week.
const SESSION_BUCKETS: [f64; 10] = [
    1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 604_800.0,
];
