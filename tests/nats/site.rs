//! A gateway that finds its streamers on a bus.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ddp_gateway::{
    admin,
    control::app::{App, Options},
    demo::{
        monolith::{Monolith, MonolithOptions},
        streamer::{Streamer, StreamerOptions},
        workspace::Workspace,
    },
    telemetry::log::{Format, Log},
};
use serde_json::Value;

use crate::{
    node::{Node, Plan},
    support::{
        deployment, http,
        metrics::Metrics,
        settles,
        socket::{Client, Way},
    },
};

/// Simulated streamers, each on a host of its own, all on the same port.
#[derive(Debug)]
pub(crate) struct Hosts {
    pub(crate) streamers: Vec<Streamer>,
    monolith: Monolith,
}

impl Hosts {
    pub(crate) async fn start(count: u8) -> Self {
        let workspace = Workspace::default();
        let streamers = loop {
            // The port that the first one gets may be taken at the address of another one.
            match Self::try_start(count, &workspace).await {
                Ok(streamers) => break streamers,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}"),
            }
        };
        Self {
            streamers,
            monolith: Monolith::start(MonolithOptions::default()).await.unwrap(),
        }
    }

    async fn try_start(count: u8, workspace: &Workspace) -> io::Result<Vec<Streamer>> {
        let mut streamers: Vec<Streamer> = Vec::new();
        for n in 1..=count {
            let port = streamers.first().map_or(0, |first| first.address().port());
            let mut options = StreamerOptions::new(format!("streamer-{n}"), workspace);
            options.address = SocketAddr::new(Self::ip(n), port);
            streamers.push(Streamer::start(options).await?);
        }
        Ok(streamers)
    }

    fn ip(n: u8) -> IpAddr {
        Ipv4Addr::new(127, 0, 0, 10 + n).into()
    }

    /// HTTP port of all of them.
    pub(crate) fn port(&self) -> u16 {
        self.streamers[0].address().port()
    }

    /// Address of the host of the nth one, from 0.
    pub(crate) fn host(&self, n: usize) -> String {
        self.streamers[n].address().ip().to_string()
    }

    /// What the nth one says about itself on the bus.
    pub(crate) fn plan(&self, n: usize, url: &str) -> Plan {
        Plan::streamer(url, self.host(n))
    }

    pub(crate) async fn node(&self, n: usize, url: &str) -> Node {
        Node::moleculer(self.plan(n, url)).await
    }

    /// A gateway with these further keys and tables; it may know no streamer yet.
    pub(crate) async fn gateway(&self, keys: &str, tables: &str) -> Gateway {
        Box::pin(Gateway::start(self, keys, tables)).await
    }

    /// One with nothing but a bus.
    pub(crate) async fn gateway_on(&self, url: &str) -> Gateway {
        self.gateway("", &self.discovery(url, "")).await
    }

    fn text(&self, keys: &str, tables: &str) -> String {
        format!(
            "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nmonolith = \"http://{}\"\n{keys}\n\
             [pool]\nslow_start = \"0s\"\n{tables}",
            self.monolith.address()
        )
    }

    /// The table of the bus.
    pub(crate) fn discovery(&self, url: &str, more: &str) -> String {
        format!(
            "[discovery.nats]\nurl = \"{url}\"\nport = {}\nheartbeat_timeout = \"4s\"\n{more}\n",
            self.port()
        )
    }
}

#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) app: App,
}

impl Gateway {
    async fn start(hosts: &Hosts, keys: &str, tables: &str) -> Self {
        // Shown when the test fails.
        let _ = Log::install(Format::Text, "info,ddp_gateway=debug", true);
        let text = hosts.text(keys, tables);
        let options = Options {
            admin: Some(admin::serve),
            ..Options::default()
        };
        let app = App::start(deployment::read(&text), options).await.unwrap();
        Self { app }
    }

    pub(crate) async fn reload(&self, hosts: &Hosts, tables: &str) {
        let config = deployment::read(&hosts.text("", tables));
        Box::pin(self.app.reload(config)).await.unwrap();
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.app.admin().unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::raw(self.app.addresses()[0].0, Way::Plain).await
    }

    pub(crate) async fn page(&self) -> Value {
        http::get(self.admin(), "/streamers").await.json()["pools"][0].clone()
    }

    /// How often something happened to the connection to the bus.
    pub(crate) async fn events(&self, event: &str) -> f64 {
        let metrics = Metrics::read(self.admin()).await;
        metrics.sum("nats_events_total", &[("event", event)])
    }

    pub(crate) async fn ready(&self) -> Value {
        let answer = http::get(self.admin(), "/readyz").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::read(self.admin()).await
    }

    /// Waits until the streamers in rotation are those at these hosts.
    pub(crate) async fn serves_from(&self, hosts: &[&str]) {
        settles("streamers in rotation", strings(hosts), async || {
            let page = self.page().await;
            let streamers = page["streamers"].as_array().into_iter().flatten();
            let ready = streamers
                .filter(|streamer| streamer["health"] == "up" && streamer["admin"] == "ready");
            hosts_of(ready.map(|streamer| &streamer["address"]))
        })
        .await;
    }

    /// Waits until the streamer at this host has so many sessions.
    pub(crate) async fn sessions_at(&self, host: &str, count: u64) {
        settles("sessions of the streamer", count, async || {
            let page = self.page().await;
            let mut streamers = page["streamers"].as_array().unwrap().iter();
            let there = |streamer: &&Value| {
                let address = streamer["address"].as_str().unwrap_or_default();
                address.starts_with(&format!("{host}:"))
            };
            let streamer = streamers.find(there);
            streamer.map_or(0, |streamer| streamer["sessions"].as_u64().unwrap())
        })
        .await;
    }

    /// Waits until a source says that these stay and those are about to end.
    pub(crate) async fn source_says(&self, kind: &str, staying: &[&str], leaving: &[&str]) {
        let wanted = (strings(staying), strings(leaving));
        settles(kind, wanted, async || {
            let source = self.source(kind).await;
            let streamers: Vec<&Value> = source["streamers"].as_array().unwrap().iter().collect();
            let (leaving, staying): (Vec<&Value>, Vec<&Value>) = streamers
                .into_iter()
                .partition(|one| one["leaving"] == true);
            let hosts = |all: Vec<&Value>| hosts_of(all.iter().map(|one| &one["address"]));
            (hosts(staying), hosts(leaving))
        })
        .await;
    }

    pub(crate) async fn source_is(&self, kind: &str, status: &str) -> Value {
        settles(kind, status.to_owned(), async || {
            let source = self.source(kind).await;
            source["status"].as_str().unwrap_or_default().to_owned()
        })
        .await;
        self.source(kind).await
    }

    pub(crate) async fn source(&self, kind: &str) -> Value {
        let page = self.page().await;
        let sources = page["sources"].as_array().unwrap().iter();
        let mut found = sources.filter(|source| source["kind"] == kind);
        found.next().cloned().unwrap_or_default()
    }
}

fn strings(hosts: &[&str]) -> Vec<String> {
    hosts.iter().map(ToString::to_string).collect()
}

fn hosts_of<'a>(addresses: impl Iterator<Item = &'a Value>) -> Vec<String> {
    let addresses = addresses.filter_map(Value::as_str);
    let mut hosts: Vec<String> = addresses
        .map(|address| address.parse::<SocketAddr>().unwrap().ip().to_string())
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts
}
