//! What one configuration means for new requests: one allocation, replaced as a whole by a reload.

use std::sync::Arc;

use metrics::Gauge;

use super::{record::Meters, route::RouteTable};
use crate::{
    base::{id::Generation, secret::Secret},
    config::model::Config,
    headers::cookie::Seal,
    net::monolith::Monolith,
    pool::Pool,
    sockjs::Pages,
    telemetry::{meters::Counted, names},
};

/// Lists have the order of the lists in the configuration.
#[derive(Debug)]
pub struct Snapshot {
    pub generation: Generation,
    pub config: Arc<Config>,
    pub routes: RouteTable,
    pub pools: Vec<Arc<Pool>>,
    pub monoliths: Vec<Arc<Monolith>>,
    /// Reads and makes the affinity cookie.
    pub seal: Seal,
    pub(super) pages: Pages,
    pub(super) meters: Arc<Meters>,
    _counted: Counted,
}

impl Snapshot {
    /// The snapshot of a process that starts. `pools` belong to the configuration's pools in order;
    /// `start_secret` seals cookies when no secret is configured.
    ///
    /// Must be called within the runtime, because the monolith's servers are watched from here on.
    pub fn first(
        config: Arc<Config>,
        pools: Vec<Arc<Pool>>,
        start_secret: &Secret<Vec<u8>>,
    ) -> Arc<Self> {
        let meters = Arc::new(Meters::new());
        Self::build(Generation::FIRST, config, pools, start_secret, &[], meters)
    }

    /// The snapshot after this one. Connections to monolith servers that stay are kept.
    pub fn next(
        &self,
        config: Arc<Config>,
        pools: Vec<Arc<Pool>>,
        start_secret: &Secret<Vec<u8>>,
    ) -> Arc<Self> {
        Self::build(
            self.generation.next(),
            config,
            pools,
            start_secret,
            &self.monoliths,
            self.meters.clone(),
        )
    }

    fn build(
        generation: Generation,
        config: Arc<Config>,
        pools: Vec<Arc<Pool>>,
        start_secret: &Secret<Vec<u8>>,
        old: &[Arc<Monolith>],
        meters: Arc<Meters>,
    ) -> Arc<Self> {
        let mut monoliths: Vec<Arc<Monolith>> = Vec::with_capacity(config.monoliths.len());
        for monolith in &config.monoliths {
            // A server that several monoliths share is one server, with one health.
            let known = old.iter().chain(&monoliths).map(Arc::as_ref);
            let next = Monolith::new(&monolith.servers, known);
            monoliths.push(next);
        }
        let secret = config.affinity.secret.as_ref().unwrap_or(start_secret);
        let gauge: Gauge = names::CONFIG_SNAPSHOTS.gauge(&[]);
        Arc::new(Self {
            generation,
            routes: RouteTable::new(&config),
            pools,
            monoliths,
            seal: Seal::new(secret.expose()),
            pages: Pages::new(),
            meters,
            config,
            _counted: Counted::new(&gauge),
        })
    }
}
