//! Gateways that are replicas of each other, in front of the same streamers.

use std::{net::SocketAddr, sync::Arc};

use ddp_gateway::{
    admin,
    config::Config,
    control::app::{App, Options},
    ddp::Framing,
    demo::streamer::Streamer,
    proxy::{registry::Standing, shared::Shared},
};
use serde_json::json;

use crate::{
    phone::{Line, Phone},
    server::NatsServer,
    support::{
        deployment::{self, Servers},
        http, settles,
        socket::Way,
        until,
    },
};

pub(crate) struct Site {
    pub(crate) nats: NatsServer,
    pub(crate) servers: Servers,
    pub(crate) gateways: Vec<App>,
}

impl Site {
    /// Two gateways that know each other.
    pub(crate) async fn start() -> Self {
        let nats = NatsServer::start();
        let servers = Servers::start(2).await;
        let mut gateways = Vec::new();
        for _ in 0..2 {
            let config = config(&nats, &servers, SECRET);
            gateways.push(Box::pin(gateway(config)).await);
        }
        let site = Self {
            nats,
            servers,
            gateways,
        };
        for gateway in &site.gateways {
            is_ready(gateway, site.servers.streamers.len()).await;
        }
        site
    }

    pub(crate) fn shared(&self, gateway: usize) -> &Arc<Shared> {
        self.gateways[gateway].control().shared()
    }

    pub(crate) fn line(&self, gateway: usize, framing: Framing) -> Line {
        Line {
            address: self.address(gateway),
            way: Way::Plain,
            framing,
        }
    }

    pub(crate) fn address(&self, gateway: usize) -> SocketAddr {
        self.gateways[gateway].addresses()[0].0
    }

    /// An event of the room, for all streamers.
    pub(crate) fn publish(&self, number: u64) {
        let workspace = self.servers.streamers[0].workspace();
        workspace.publish("stream-room-messages", "GENERAL", &[json!({"n": number})]);
    }

    /// Waits until a gateway has so many sessions that stand like this.
    pub(crate) async fn standing(&self, gateway: usize, standing: Standing, count: usize) {
        settles(standing.label(), count, async || {
            self.count(gateway, standing)
        })
        .await;
    }

    fn count(&self, gateway: usize, standing: Standing) -> usize {
        let mut count = 0;
        let registry = &self.shared(gateway).registry;
        registry.for_each(|entry| count += usize::from(entry.place().standing == standing));
        count
    }

    /// Waits until each session here has a leg of its own, and nothing is left of other ones.
    pub(crate) async fn legs(&self, count: usize) {
        settles("sockets of the streamers", count, async || self.sockets()).await;
        for gateway in 0..self.gateways.len() {
            let handover = &self.shared(gateway).handover;
            until("legs of their own", async || handover.borrowed().is_empty()).await;
        }
    }

    pub(crate) fn sockets(&self) -> usize {
        let streamers = self.servers.streamers.iter();
        streamers.map(|streamer| streamer.counters().sockets).sum()
    }

    /// Messages of clients that came to the streamers.
    pub(crate) fn heard(&self) -> u64 {
        let streamers = self.servers.streamers.iter();
        streamers
            .map(|streamer| streamer.counters().messages_in)
            .sum()
    }

    /// What this process counts: that of all gateways together.
    pub(crate) async fn handovers(&self, side: &str, outcome: &str) -> f64 {
        let admin = self.gateways[0].admin().unwrap();
        let metrics = crate::support::metrics::Metrics::read(admin).await;
        let labels = [("side", side), ("outcome", outcome)];
        metrics.sum("session_handovers_total", &labels)
    }

    /// From the first client on that counts, all are taken for such: at this gateway.
    pub(crate) async fn teach(&self, gateway: usize) {
        let mut phone = Phone::new(self.line(gateway, Framing::Raw), true, "teacher");
        phone.session = Some("unknown".to_owned());
        phone.connect().await;
        phone.until_in().await;
        phone
            .send_frame(tokio_tungstenite::tungstenite::Message::Close(None))
            .await;
        settles("open sessions", 0, async || {
            self.shared(gateway).registry.len()
        })
        .await;
    }
}

pub(crate) async fn gateway(config: Config) -> App {
    let options = Options {
        admin: Some(admin::serve),
        ..Options::default()
    };
    Box::pin(App::start(config, options)).await.unwrap()
}

/// Its streamers are in rotation, and it can ask others.
pub(crate) async fn is_ready(gateway: &App, streamers: usize) {
    let admin = gateway.admin().unwrap();
    settles("streamers in rotation", streamers, async || {
        let pools = http::get(admin, "/streamers").await.json();
        let streamers = pools["pools"][0]["streamers"].as_array().cloned();
        let streamers = streamers.unwrap_or_default();
        streamers.iter().filter(|it| it["health"] == "up").count()
    })
    .await;
    let handover = &gateway.control().shared().handover;
    until("the way to others", async || handover.is_open()).await;
}

pub(crate) fn config(nats: &NatsServer, servers: &Servers, secret: &str) -> Config {
    deployment::read(&text(nats, servers, secret))
}

/// Ends with the table of the replicas.
pub(crate) fn text(nats: &NatsServer, servers: &Servers, secret: &str) -> String {
    let streamers = servers.streamers.iter().map(Streamer::address);
    let streamers: Vec<_> = streamers.map(|address| format!("\"{address}\"")).collect();
    format!(
        "admin = \"127.0.0.1:0\"\nlisten = \"127.0.0.1:0\"\nmonolith = \"http://{}\"\n\
         streamers = [{}]\n\
         [websocket]\nresume_grace = \"60s\"\n[logins]\npace = false\n\
         [pool]\nsessions_per_streamer = 2000\nslow_start = \"0s\"\n\
         [health]\nddp_interval = \"1h\"\n\
         [drain]\ndelay = \"0s\"\nspread = \"1s\"\ndeadline = \"30s\"\n\
         [affinity]\nsecret = \"{secret}\"\n\
         [replicas]\nenabled = true\nurl = \"{}\"\nlisten = \"127.0.0.1:0\"\n",
        servers.monolith.address(),
        streamers.join(", "),
        nats.url(),
    )
}

pub(crate) const SECRET: &str = "a secret of at least thirty-two bytes";
