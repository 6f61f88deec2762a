//! The gateway in a process of its own, with simulated servers in another one behind it.

use std::{path::Path, thread::available_parallelism};

use ddp_gateway::telemetry::process;

use crate::embedded::{Embedded, Place};

use super::{
    certificate::Certificate, peer::Peer, proxy::Proxy, servers::Servers, setting::Setting,
};

/// Ends with both processes.
pub(crate) struct Apart {
    pub(crate) place: Place,
    proxy: Proxy,
    servers: Embedded<Servers>,
}

impl Apart {
    /// # Errors
    /// Why one of the two does not serve.
    pub(crate) async fn start(program: &Path) -> Result<Self, String> {
        // It is started in another folder.
        let program = program
            .canonicalize()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let servers: Embedded<Servers> = Embedded::with(&["servers"]).await?;
        let peer = Peer::Gateway;
        let threads = available_parallelism().map_or(1, usize::from);
        let name = format!("ddp-load-{:016x}", rand::random::<u64>());
        let folder = std::env::temp_dir().join(name);
        let files = process::raise_descriptor_limit();
        let setting = Setting::new(folder, &servers.place, threads, files)
            .map_err(|error| format!("no port is free: {error}"))?;
        let certificate = Certificate::make()?;
        let trusted = setting.folder.join("tls.crt");
        let file = peer.files().first().map_or("", |(name, _)| name);
        let config = setting.folder.join(file);
        let place = Place {
            http: setting.http,
            https: setting.https,
            admin: setting.admin,
            certificate: trusted,
            config,
        };
        let proxy = Proxy::start(peer, program, setting, &certificate, threads)?;
        Ok(Self {
            place,
            proxy,
            servers,
        })
    }

    pub(crate) fn process(&self) -> u32 {
        self.proxy.tree().0
    }

    /// Returns when nothing of them is left.
    pub(crate) async fn stop(self) {
        let Self { proxy, servers, .. } = self;
        drop(proxy);
        servers.stop().await;
    }
}
