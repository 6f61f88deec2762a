//! Several gateways on one port, with simulated servers behind them, all in processes of their own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{admin::Gauges, embedded::Embedded};

use super::{
    certificate::Certificate,
    peer::Peer,
    proxy::{Proxy, ask},
    servers::Servers,
    setting::Setting,
    usage::Usage,
};

/// Ends with all its processes when it is dropped.
#[derive(Debug)]
pub(super) struct Fleet {
    gateways: Vec<Proxy>,
    servers: Vec<Embedded<Servers>>,
}

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) gateways: usize,
    pub(super) servers: usize,
    /// Of each gateway.
    pub(super) threads: usize,
    pub(super) files: u64,
}

/// Time of processors of all gateways up to a moment.
#[derive(Clone, Debug)]
pub(super) struct Spent(Vec<Usage>);

impl Fleet {
    /// Returns when each of them is ready.
    ///
    /// # Errors
    /// Who is not, and why.
    pub(super) async fn start(
        program: &Path,
        folder: &Path,
        certificate: &Certificate,
        size: Size,
    ) -> Result<Self, String> {
        let mut servers: Vec<Embedded<Servers>> = Vec::new();
        for _ in 0..size.servers {
            servers.push(Embedded::with(&["servers"]).await?);
        }
        let behind = all(&servers)?;
        let mut gateways: Vec<Proxy> = Vec::new();
        for n in 1..=size.gateways {
            let folder = folder.join(format!("gateway-{n}"));
            let setting = match gateways.first() {
                None => Setting::new(folder, &behind, size.threads, size.files)
                    .map(Setting::with_a_shared_port),
                Some(first) => first.setting.beside(folder),
            };
            let setting = setting.map_err(|error| format!("no port is free: {error}"))?;
            let program = PathBuf::from(program);
            let gateway = Proxy::start(Peer::Gateway, program, setting, certificate, size.threads);
            gateways.push(gateway?);
        }
        let fleet = Self { gateways, servers };
        fleet.is_ready().await?;
        Ok(fleet)
    }

    /// On the port that they share, one answers for another: each is asked by itself.
    async fn is_ready(&self) -> Result<(), String> {
        let deadline = Instant::now() + READY_LIMIT;
        for gateway in &self.gateways {
            let ready = || ask(gateway.setting.admin, "GET", "/readyz", "Connection: close");
            while ready() != Some(200) {
                if Instant::now() >= deadline {
                    return Err(format!("a gateway is not ready: {}", gateway.last_words()));
                }
                sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Where clients connect.
    pub(super) fn address(&self, is_tls: bool) -> Option<SocketAddr> {
        let setting = &self.gateways.first()?.setting;
        Some(if is_tls { setting.https } else { setting.http })
    }

    pub(super) fn spent(&self) -> Spent {
        Spent(self.gateways.iter().map(|one| one.tree().usage()).collect())
    }

    /// Of all gateways in bytes, shared pages by their share.
    pub(super) fn memory(&self) -> Option<u64> {
        let each = self.gateways.iter().map(|one| one.tree().memory());
        each.sum()
    }

    /// What each gateway says of itself.
    ///
    /// # Errors
    /// Who says nothing.
    pub(super) async fn gauges(&self) -> Result<Vec<Gauges>, String> {
        let mut all = Vec::with_capacity(self.gateways.len());
        for gateway in &self.gateways {
            all.push(Gauges::read(gateway.setting.admin).await?);
        }
        Ok(all)
    }

    /// The ends of their logs.
    pub(super) fn last_words(&self) -> String {
        let all = self.gateways.iter().map(Proxy::last_words);
        let all: Vec<String> = all.filter(|words| !words.is_empty()).collect();
        all.join(" | ")
    }

    /// Returns when nothing of them is left.
    pub(super) async fn stop(self) {
        let Self { gateways, servers } = self;
        drop(gateways);
        for one in servers {
            one.stop().await;
        }
    }
}

impl Spent {
    pub(super) fn until(&self, later: &Self) -> Duration {
        let pairs = self.0.iter().zip(&later.0);
        pairs.map(|(before, now)| before.until(now)).sum()
    }
}

/// The monolith of the first, the streamers of all.
fn all(servers: &[Embedded<Servers>]) -> Result<Servers, String> {
    let first = servers.first().ok_or("there are no servers")?;
    let streamers = servers.iter().flat_map(|one| one.place.streamers.clone());
    Ok(Servers {
        monolith: first.place.monolith,
        streamers: streamers.collect(),
    })
}

const READY_LIMIT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
