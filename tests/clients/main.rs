//! Clients and servers that nobody here wrote, run through the gateway: npm packages under Node.js,
//! and headless Chromium on the demo page.
//!
//! `tests/run` installs what they need. Whatever is missing is a failure, never a skip.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

mod backends;
mod command;
mod drain_hook;
mod hints;
mod node;
mod stopped;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};

use ddp_gateway::{
    demo::{
        deployment::Deployment,
        front::{Addresses, Front},
    },
    telemetry::log::{Format, Log},
};

use crate::{backends::Backend, node::Script};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Newcomers are spread at once, and the page's buttons work at their own speed.
const TABLES: &str = "[pool]\nslow_start = \"0s\"\n[log]\nfilter = \"info,ddp_gateway=debug\"\n";

/// The demo as `ddp-gateway demo` starts it, on free ports.
struct Demo {
    front: Front,
    _deployment: Deployment,
}

impl Demo {
    async fn start() -> Self {
        Self::with("").await
    }

    /// With these further tables.
    async fn with(tables: &str) -> Self {
        let deployment = Deployment::start(3).await.unwrap();
        let upstreams = deployment.upstreams_toml();
        let front = front(&upstreams, tables).await;
        deployment.behind(front.app().control());
        Self {
            front,
            _deployment: deployment,
        }
    }
}

async fn front(upstreams: &str, tables: &str) -> Front {
    // Shown when the test fails. Only the first test of a process can have it.
    let log = Log::install(Format::Text, "info,ddp_gateway=debug", true).ok();
    let tables = format!("{TABLES}{tables}");
    Front::start(upstreams, &tables, Addresses::free(), log)
        .await
        .unwrap()
}

/// Runs one of the client scripts against the gateway's https address.
async fn client(front: &Front, script: &str) {
    Script::new(&folder("clients").join(script))
        .arg(format!("https://{}", front.https()))
        .trusting(&front.certificate())
        .succeeds()
        .await;
}

fn folder(name: &str) -> PathBuf {
    Path::new(ROOT).join("tests").join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn sockjs_client() {
    let demo = Demo::start().await;
    client(&demo.front, "sockjs-client.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rocketchat_ddp_client() {
    let demo = Demo::start().await;
    client(&demo.front, "ddp-client.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simpleddp() {
    let demo = Demo::start().await;
    client(&demo.front, "simpleddp.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ws() {
    let demo = Demo::start().await;
    client(&demo.front, "ws-client.mjs").await;
}

/// What is over a limit is an error of that one call.
#[tokio::test(flavor = "multi_thread")]
async fn clients_bear_a_limit() {
    let demo = Demo::with("[limits.methods]\nconnection_by_method = \"3/6s\"\n").await;
    client(&demo.front, "limited.mjs").await;
}

/// The same clients, with servers of npm `sockjs` and `ws` as the streamers.
#[tokio::test(flavor = "multi_thread")]
async fn backends_of_another_kind() {
    let backends = [
        Backend::start("node-1").await,
        Backend::start("node-2").await,
    ];
    let monolith = Deployment::start(0).await.unwrap();
    let [one, two] = backends.each_ref().map(|backend| backend.port);
    let upstreams = format!(
        "monolith = \"http://{}\"\nstreamers = [\"127.0.0.1:{one}\", \"127.0.0.1:{two}\"]\n",
        monolith.monolith.address()
    );
    let front = front(&upstreams, "").await;
    for script in ["sockjs-client.mjs", "ddp-client.mjs", "simpleddp.mjs"] {
        client(&front, script).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_page_in_chromium() {
    let demo = Demo::start().await;
    let admin = demo.front.app().admin().unwrap();
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR"));
    Script::new(&folder("browser").join("demo.mjs"))
        .arg(format!("https://{}", demo.front.https()))
        .arg(format!("http://{admin}"))
        .arg(demo.front.config().display().to_string())
        .arg(pictures.display().to_string())
        .succeeds()
        .await;
}
