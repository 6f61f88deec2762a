//! One configuration after another: everything that can fail first, then everything else.

use std::sync::Arc;

use tracing::warn;

use super::{
    app::{Inner, Reading, State, bind_admin},
    bounds,
    drain::Stage,
    reload::{self, Applied, ReloadError},
};
use crate::config::{self, model::Config};

impl Inner {
    /// Makes this the configuration in use, or changes nothing.
    pub(super) async fn apply(
        self: &Arc<Self>,
        config: Config,
        reading: Reading,
    ) -> Result<Applied, ReloadError> {
        let mut state = self.state.lock().await;
        let result = self.replace(&mut state, config, reading);
        reload::record(&result.as_ref());
        result
    }

    fn replace(
        self: &Arc<Self>,
        state: &mut State,
        config: Config,
        reading: Reading,
    ) -> Result<Applied, ReloadError> {
        if self.exit.stage() != Stage::Running {
            return Err(ReloadError::Stopping);
        }
        let config = Arc::new(config);
        // Everything that can fail, before anything is changed.
        let prepared = state
            .listeners
            .prepare(&config)
            .map_err(ReloadError::Listeners)?;
        let moved = config.admin != state.admin.as_ref().map(|admin| admin.address);
        let admin = match (config.admin, self.admin_server) {
            (Some(address), Some(_)) if moved => Some((address, bind_admin(address)?)),
            _ => None,
        };
        if let Some(log) = &self.log {
            log.set(&config.log.filter, config.log.access)
                .map_err(|error| ReloadError::Value {
                    key: "log.filter",
                    reason: error.to_string(),
                })?;
        }
        // From here on nothing fails.
        let changed = *state.config != *config;
        let changes = config::diff(&state.config, &config);
        let mut warnings: Vec<String> = prepared
            .kept
            .iter()
            .map(|fault| format!("certificate {fault}; the old one stays in use"))
            .collect();
        if config.log.format != state.config.log.format {
            warnings.push("log.format takes effect at the next start".to_owned());
        }
        if config.workers != state.config.workers {
            warnings.push("workers takes effect at the next start".to_owned());
        }
        if config.pin_workers != state.config.pin_workers {
            warnings.push("pin_workers takes effect at the next start".to_owned());
        }
        for listener in &config.listeners {
            let mut old = state.config.listeners.iter();
            let same = old.find(|old| old.address == listener.address);
            if same.is_some_and(|old| old.reuse_port != listener.reuse_port) {
                let address = listener.address;
                warnings.push(format!(
                    "reuse_port of {address} takes effect at the next start"
                ));
            }
        }
        for warning in &warnings {
            warn!("{warning}");
        }
        if changed {
            self.gate.reconfigure(bounds::gate_terms(&config));
            let pools = state.pools.apply(&config.pools);
            let snapshot =
                self.shared
                    .snapshot
                    .load()
                    .next(config.clone(), pools, &self.start_secret);
            self.shared.install(snapshot);
            self.fellows.reconfigure(config.replicas.as_deref());
        }
        state.listeners.apply(prepared, &self.server());
        if moved {
            if let Some(old) = state.admin.take() {
                old.stop.cancel();
            }
            state.admin = admin.map(|(address, bound)| self.start_admin(address, bound));
        }
        state.config = config;
        state.reading = reading;
        self.publish_addresses(state);
        Ok(Applied {
            generation: self.shared.snapshot.load().generation,
            changed,
            changes,
            warnings,
        })
    }
}
