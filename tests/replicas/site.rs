//! Gateways as processes of their own, whose clients come one by one.

use std::{fs, net::SocketAddr, path::Path};

use ddp_gateway::{ddp::Framing, demo::streamer::Streamer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use crate::support::{
    deployment::Servers, eventually, http, metrics::Metrics, process::Gateway, settles,
    socket::Client, socket::Way, until,
};

pub(crate) struct Site {
    pub(crate) servers: Servers,
    pub(crate) gateways: Vec<Replica>,
    folder: TempDir,
}

pub(crate) struct Replica {
    process: Gateway,
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    /// For other gateways.
    peer: SocketAddr,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self {
            servers: Servers::start(2).await,
            gateways: Vec::new(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// One more gateway on this bus. `of` gets its configuration's path and starts it.
    pub(crate) async fn gateway(
        &mut self,
        url: &str,
        tables: &str,
        of: impl FnOnce(&Path) -> Gateway,
    ) {
        let streamers = self.servers.streamers.iter().map(Streamer::address);
        let streamers: Vec<_> = streamers.map(|address| format!("\"{address}\"")).collect();
        let number = self.gateways.len();
        let config = self.folder.path().join(format!("proxy-{number}.toml"));
        let text = format!(
            "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nmonolith = \"http://{}\"\n\
             streamers = [{}]\nwatch = false\ntrusted_proxies = [\"127.0.0.1\"]\n{tables}\n\
             [log]\nformat = \"text\"\n[pool]\nslow_start = \"0s\"\n[affinity]\nsecret = \"{SECRET}\"\n\
             [replicas]\nenabled = true\nurl = \"{url}\"\nlisten = \"127.0.0.1:0\"\n",
            self.servers.monolith.address(),
            streamers.join(", "),
        );
        fs::write(&config, text).unwrap();
        let mut process = of(&config);
        self.gateways.push(Replica {
            address: process.said("listening: http://").await,
            admin: process.said("admin: http://").await,
            peer: process.said("fetch sessions here address=").await,
            process,
        });
    }

    /// Waits until each gateway has its streamers and counts with all the others.
    pub(crate) async fn is_together(&self) {
        let others = self.gateways.len() - 1;
        for gateway in &self.gateways {
            settles(
                "others, and streamers that are up",
                (others, 2),
                async || {
                    let page = gateway.page("/replicas").await;
                    let others = page["others"].as_array().map_or(0, Vec::len);
                    let page = gateway.page("/streamers").await;
                    let rows = page["pools"][0]["streamers"].as_array().unwrap().clone();
                    (
                        others,
                        rows.iter().filter(|row| row["health"] == "up").count(),
                    )
                },
            )
            .await;
            until("it to know who there is", async || {
                gateway.page("/replicas").await["state"] == "together"
            })
            .await;
        }
    }

    /// Waits until each gateway would hand sessions over, which it does while it knows somebody.
    pub(crate) async fn hands_over(&self) {
        for gateway in &self.gateways {
            eventually("a word for other gateways", async || {
                let mut stream = TcpStream::connect(gateway.peer).await.ok()?;
                stream.read_u128().await.ok()
            })
            .await;
        }
    }

    /// Waits until each gateway knows how many sessions the others have, in all so many.
    pub(crate) async fn counts(&self, sessions: u64) {
        for gateway in &self.gateways {
            settles("sessions here and elsewhere", sessions, async || {
                let page = gateway.page("/streamers").await;
                let rows = page["pools"][0]["streamers"].as_array().unwrap().clone();
                let number = |row: &Value, key: &str| row[key].as_u64().unwrap();
                let both = |row| number(row, "sessions") + number(row, "elsewhere");
                rows.iter().map(both).sum()
            })
            .await;
        }
    }
}

impl Replica {
    pub(crate) async fn page(&self, path: &str) -> Value {
        http::get(self.admin, path).await.json()
    }

    pub(crate) async fn count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        Metrics::read(self.admin).await.sum(name, labels)
    }

    /// The day that it says it is.
    pub(crate) fn date(&mut self) -> String {
        let output = self.process.output();
        output.lines().next().unwrap()[..10].to_owned()
    }

    /// A client behind a proxy that says it has this address.
    pub(crate) async fn client_from(&self, address: &str) -> Client {
        let headers = [("X-Forwarded-For", address)];
        Client::connect(
            self.address,
            Way::Plain,
            Framing::Raw,
            "/websocket",
            &headers,
        )
        .await
    }

    pub(crate) async fn user(&self, name: &str) -> Client {
        let mut client = self.client_from("203.0.113.200").await;
        let token = json!([{ "resume": format!("demo-{name}") }]);
        let answer = client.call("login", token).await;
        assert_eq!(answer["result"]["id"], format!("uid-{name}"), "{answer}");
        client
    }
}

const SECRET: &str = "a secret of at least thirty-two bytes";
