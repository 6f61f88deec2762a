//! How the gateway is: what `/readyz` says.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{app::Control, reload::Outcome};
use crate::{base::id::PoolName, discovery::SourceReport, pool::Health};

/// Something that does not work as it should though clients are still welcome.
#[derive(Clone, Debug, Serialize)]
pub struct Degraded {
    pub part: String,
    pub detail: String,
}

impl Control {
    /// Why the gateway is too young for clients.
    pub fn starting(&self) -> Option<&'static str> {
        if self.0.started.elapsed() > START_PATIENCE {
            return None;
        }
        let snapshot = self.0.shared.snapshot.load();
        let undecided = snapshot.pools.iter().any(|pool| {
            let view = pool.view();
            !view.any_eligible()
                && (view.entries.is_empty()
                    || view
                        .entries
                        .iter()
                        .any(|entry| matches!(entry.health, Health::Unknown { .. })))
        });
        undecided.then_some("no streamer has answered its first probe yet")
    }

    /// What each source of discovery says about a pool, the one that is right first.
    pub fn sources(&self, pool: &PoolName) -> Vec<SourceReport> {
        self.0.listings.of(pool).report(Instant::now())
    }

    /// What does not work as it should.
    pub fn degraded(&self) -> Vec<Degraded> {
        let snapshot = self.0.shared.snapshot.load();
        let mut found = Vec::new();
        for pool in &snapshot.pools {
            if !pool.view().any_eligible() {
                found.push(Degraded {
                    part: format!("pool {}", pool.name()),
                    detail: "no streamer is in rotation: clients wait, GET /streamers tells why"
                        .to_owned(),
                });
            }
        }
        for pool in &snapshot.pools {
            for source in self.sources(pool.name()) {
                if let Some(error) = source.error {
                    found.push(Degraded {
                        part: format!("discovery {} {}", source.kind, source.source),
                        detail: format!(
                            "{error}; the {} streamers that it knew stay",
                            source.streamers.len()
                        ),
                    });
                }
            }
        }
        if let Some(replicas) = self.replicas()
            && let Some(error) = replicas.error
        {
            found.push(Degraded {
                part: format!("replicas {} ({})", replicas.bus, replicas.subject),
                detail: format!(
                    "{error}; this gateway counts sessions, logins and quotas without the others"
                ),
            });
        }
        for monolith in &snapshot.monoliths {
            for (server, up) in monolith.servers() {
                if !up {
                    found.push(Degraded {
                        part: format!("monolith {server}"),
                        detail: "out of rotation: it does not answer".to_owned(),
                    });
                }
            }
        }
        if let Some(Outcome {
            result: Err(error), ..
        }) = self.last_reload()
        {
            found.push(Degraded {
                part: "configuration".to_owned(),
                detail: format!(
                    "the last reload was refused with {} faults: see GET /reload",
                    error.faults().len()
                ),
            });
        }
        found
    }
}

/// A gateway whose streamers do not answer is ready all the same after this: its other half, the
/// way to the monolith, may be what is needed.
const START_PATIENCE: Duration = Duration::from_secs(5);
