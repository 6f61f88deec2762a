//! The simulated servers behind all proxies, in a process of their own.

use std::net::SocketAddr;

use ddp_gateway::{demo::deployment::Deployment, telemetry::process};
use serde::{Deserialize, Serialize};

use crate::embedded;

/// Where they listen.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Servers {
    pub(crate) monolith: SocketAddr,
    pub(crate) streamers: Vec<SocketAddr>,
}

/// Serves until standard input ends.
///
/// # Errors
/// What could not be started.
pub(crate) async fn serve() -> Result<(), String> {
    process::raise_descriptor_limit();
    let deployment = Deployment::start(STREAMERS)
        .await
        .map_err(|error| format!("the simulated servers cannot be started: {error}"))?;
    let servers = Servers {
        monolith: deployment.monolith.address(),
        streamers: deployment
            .streamers()
            .iter()
            .map(|one| one.address())
            .collect(),
    };
    embedded::tell_and_wait(&servers).await
}

const STREAMERS: usize = 4;
