//! The simulated servers behind all proxies, in a process of their own.

use std::net::SocketAddr;

use ddp_gateway::{demo::deployment::Deployment, telemetry::process};
use serde::{Deserialize, Serialize};

use crate::embedded;

use super::proxy::ask;

/// Where they listen.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Servers {
    pub(crate) monolith: SocketAddr,
    pub(crate) streamers: Vec<SocketAddr>,
}

impl Servers {
    /// Cuts all connections of the first streamer, and takes no more.
    ///
    /// # Errors
    /// Why it lives on.
    pub(super) fn kill(&self) -> Result<(), String> {
        self.order("/demo/streamers/1/stop")
    }

    /// Has the first streamer take connections again.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn revive(&self) -> Result<(), String> {
        self.order("/demo/streamers/1/start")
    }

    fn order(&self, path: &str) -> Result<(), String> {
        match ask(
            self.monolith,
            "POST",
            path,
            "Content-Length: 0\r\nConnection: close",
        ) {
            Some(200) => Ok(()),
            answer => Err(format!(
                "the simulated servers answer {path} with {answer:?}"
            )),
        }
    }
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
