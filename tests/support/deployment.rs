//! A gateway in this process, with simulated streamers and a simulated monolith behind it.

use std::{fs, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use ddp_gateway::{
    admin,
    config::{self, Config, Environment},
    control::app::{App, Options, Origin, Reading},
    demo::{
        monolith::{Monolith, MonolithOptions},
        streamer::{Streamer, StreamerOptions},
        workspace::Workspace,
    },
    net::workers::{Placement, Threads},
};
use tempfile::TempDir;

use super::{certificate::Pair, http, metrics::Metrics, settles};

/// What a test wants. The defaults: two streamers, a plain listener and one with TLS for
/// `localhost`, the admin listener, all on free ports of the loopback interface.
#[derive(Clone, Debug)]
pub struct Plan {
    pub streamers: usize,
    /// Goes above the first table of `proxy.toml`.
    pub keys: String,
    /// Goes below; listeners are added to it.
    pub tables: String,
    /// Idle time of the streamers instead of their 30 s.
    pub streamer_idle: Option<Duration>,
    /// Instead of the two listeners; with their own `[[listener]]` lines.
    pub listeners: Option<String>,
    /// Streamers that the test runs itself, behind those of the deployment.
    pub foreign: Vec<SocketAddr>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            streamers: 2,
            keys: String::new(),
            tables: String::new(),
            listeners: None,
            streamer_idle: None,
            foreign: Vec::new(),
        }
    }
}

/// Everything that runs for one test; ends when dropped.
#[derive(Debug)]
pub struct Deployment {
    pub app: App,
    pub streamers: Vec<Streamer>,
    pub monolith: Monolith,
    pub folder: TempDir,
    /// Of the listener with TLS.
    pub certificate: Pair,
    plan: Plan,
    /// Behind `app`, whose connections they carry.
    _threads: Threads,
}

impl Deployment {
    /// With the defaults of [`Plan`].
    pub async fn start() -> Self {
        Self::of(Plan::default()).await
    }

    /// Returns when all streamers are in rotation.
    pub async fn of(plan: Plan) -> Self {
        // Holds a whole configuration: too large to be part of the future of each test.
        Box::pin(Self::start_all(plan)).await
    }

    async fn start_all(plan: Plan) -> Self {
        let servers = Servers::start_idle(plan.streamers, plan.streamer_idle).await;
        let folder = tempfile::tempdir().unwrap();
        let certificate = Pair::write(folder.path(), "tls", &["localhost"]);
        let text = text(&plan, &servers, &certificate);
        let path = folder.path().join("proxy.toml");
        fs::write(&path, &text).unwrap();
        let environment = Environment::empty();
        let loaded = config::load(&path, &environment).unwrap_or_else(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            panic!("{text}\n{}", faults.join("\n"))
        });
        // Two, so that sessions come back on another one than they were on.
        let threads = Threads::start(NonZeroUsize::new(2), Placement::Free).unwrap();
        let options = Options {
            origin: Origin::File { path, environment },
            reading: Reading {
                effective: loaded.effective(),
                files: loaded.files,
            },
            admin: Some(admin::serve),
            workers: threads.workers(),
            ..Options::default()
        };
        let app = Box::pin(App::start(loaded.config, options)).await.unwrap();
        let deployment = Self {
            app,
            _threads: threads,
            streamers: servers.streamers,
            monolith: servers.monolith,
            folder,
            certificate,
            plan,
        };
        deployment
            .streamers_in_rotation(deployment.streamers.len() + deployment.plan.foreign.len())
            .await;
        deployment
    }

    /// The first listener that is configured; plain text by default.
    pub fn plain(&self) -> SocketAddr {
        self.app.addresses()[0].0
    }

    /// The second one; TLS by default.
    pub fn tls(&self) -> SocketAddr {
        self.app.addresses()[1].0
    }

    pub fn admin(&self) -> SocketAddr {
        self.app.admin().unwrap()
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("proxy.toml")
    }

    /// The text of `proxy.toml` with another plan for the same servers.
    pub fn text_of(&self, plan: &Plan) -> String {
        let addresses = self.streamers.iter().map(Streamer::address);
        compose(
            plan,
            &addresses.collect::<Vec<_>>(),
            self.monolith.address(),
            &self.certificate,
        )
    }

    /// As [`Self::text_of`], read.
    pub fn config_of(&self, plan: &Plan) -> Config {
        read(&self.text_of(plan))
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub async fn metrics(&self) -> Metrics {
        Metrics::read(self.admin()).await
    }

    /// Waits until this many streamers take new sessions.
    pub async fn streamers_in_rotation(&self, count: usize) {
        settles("streamers in rotation", count, async || {
            let pools = http::get(self.admin(), "/streamers").await.json();
            let streamers = pools["pools"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|pool| pool["streamers"].as_array().into_iter().flatten());
            streamers
                .filter(|streamer| streamer["health"] == "up")
                .count()
        })
        .await;
    }

    /// Waits until this many client sockets are open.
    pub async fn sessions(&self, count: usize) {
        settles("open sessions", count, async || {
            self.app.control().shared().registry.len()
        })
        .await;
    }
}

/// The simulated servers without a gateway.
#[derive(Debug)]
pub struct Servers {
    pub streamers: Vec<Streamer>,
    pub monolith: Monolith,
}

impl Servers {
    pub async fn start(streamers: usize) -> Self {
        Self::start_idle(streamers, None).await
    }

    /// With streamers that ping, and then close, after this silence.
    pub async fn start_idle(streamers: usize, idle: Option<Duration>) -> Self {
        let workspace = Workspace::default();
        let mut started = Vec::new();
        for n in 1..=streamers {
            let mut options = StreamerOptions::new(format!("streamer-{n}"), &workspace);
            options.idle = idle.unwrap_or(options.idle);
            started.push(Streamer::start(options).await.unwrap());
        }
        Self {
            streamers: started,
            monolith: Monolith::start(MonolithOptions::default()).await.unwrap(),
        }
    }
}

/// A configuration from its text.
pub fn read(text: &str) -> Config {
    match config::from_str("test", text, &Environment::empty()) {
        Ok(loaded) => loaded.config,
        Err(faults) => {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            panic!("{text}\n{}", faults.join("\n"))
        }
    }
}

/// The text of `proxy.toml` for these servers.
pub fn text(plan: &Plan, servers: &Servers, certificate: &Pair) -> String {
    let addresses = servers.streamers.iter().map(Streamer::address);
    compose(
        plan,
        &addresses.collect::<Vec<_>>(),
        servers.monolith.address(),
        certificate,
    )
}

fn compose(
    plan: &Plan,
    streamers: &[SocketAddr],
    monolith: SocketAddr,
    certificate: &Pair,
) -> String {
    let streamers: Vec<String> = streamers
        .iter()
        .chain(&plan.foreign)
        .map(|address| format!("\"{address}\""))
        .collect();
    let listeners = plan.listeners.clone().unwrap_or_else(|| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\ntls = [{}]\n",
            certificate.toml()
        )
    });
    let admin = if plan.keys.contains("admin =") {
        ""
    } else {
        "admin = \"127.0.0.1:0\"\n"
    };
    format!(
        "{admin}monolith = \"http://{monolith}\"\nstreamers = [{}]\n{}\n{listeners}\n{}\n",
        streamers.join(", "),
        plan.keys,
        plan.tables,
    )
}
