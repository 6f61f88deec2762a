//! What an idle session costs, measured at the program itself.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "support/mod.rs"]
mod support;

use std::{fmt::Write as _, fs, net::SocketAddr};

use futures_util::{StreamExt, stream};
use serde_json::json;

use support::{
    certificate::Pair,
    deployment::Servers,
    metrics::Metrics,
    process::Gateway,
    settles,
    socket::{Client, Way},
    until,
};

/// Sessions that are measured. The first [`WARM_UP`] pay for tables that grow in steps.
const SESSIONS: usize = 2_000;
const WARM_UP: usize = 200;

/// Heap bytes that one logged-in session with one subscription may cost.
const PLAIN_BUDGET: usize = 2 * 1024;
const TLS_BUDGET: usize = 7 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_costs_little() {
    ddp_gateway::telemetry::process::raise_descriptor_limit();
    let servers = Servers::start(2).await;
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::write(folder.path(), "tls", &["localhost"]);
    let streamers: Vec<String> = servers
        .streamers
        .iter()
        .map(|streamer| format!("\"{}\"", streamer.address()))
        .collect();
    let file = folder.path().join("proxy.toml");
    let text = format!(
        "admin = \"127.0.0.1:0\"\nmonolith = \"http://{}\"\nstreamers = [{}]\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntls = [{}]\n\
         [pool]\nsessions_per_streamer = 5000\nslow_start = \"0s\"\n[log]\nformat = \"text\"\naccess = false\n",
        servers.monolith.address(),
        streamers.join(", "),
        pair.toml(),
    );
    fs::write(&file, text).unwrap();
    let mut gateway = Gateway::run(&file);
    let plain = gateway.address("listening: http://");
    let tls = gateway.address("listening: https://");
    let admin = gateway.address("admin: http://");
    until("the streamers are in rotation", async || {
        let metrics = Metrics::read(admin).await;
        metrics.sum("streamer_up", &[]) >= 2.0
    })
    .await;

    let mut report = String::new();
    for (way, address, budget) in [
        (Way::Plain, plain, PLAIN_BUDGET),
        (Way::Tls, tls, TLS_BUDGET),
    ] {
        let mut clients = open(address, way, WARM_UP).await;
        let before = idle_heap(admin, clients.len()).await;
        clients.extend(open(address, way, SESSIONS).await);
        let after = idle_heap(admin, clients.len()).await;
        let each = after.saturating_sub(before) / SESSIONS;
        writeln!(
            report,
            "{way:?}: {each} bytes of heap per idle session, budget {budget}"
        )
        .unwrap();
        drop(clients);
        settles("sessions left", 0, async || sessions(admin).await).await;
        assert!(each > 100, "not measured: {report}");
        assert!(each <= budget, "{report}");
    }
    println!("{report}");
}

/// Clients that have logged in, subscribed, and been silent since.
async fn open(address: SocketAddr, way: Way, count: usize) -> Vec<Client> {
    stream::iter(0..count)
        .map(|n| async move {
            let mut client = Client::sockjs(address, way).await;
            client
                .call("login", json!([{"resume": format!("demo-user{n}")}]))
                .await;
            let params = json!(["GENERAL", {"useCollection": false, "args": []}]);
            client
                .send(&json!({
                    "msg": "sub", "id": "s", "name": "stream-room-messages", "params": params
                }))
                .await;
            client.message("ready").await;
            client
        })
        .buffer_unordered(16)
        .collect()
        .await
}

/// The heap in use once it has stopped to shrink: tasks of finished handshakes end a little later.
async fn idle_heap(admin: SocketAddr, expected: usize) -> usize {
    settles("sessions", expected, async || sessions(admin).await).await;
    until("all logins and subscriptions are forgiven", async || {
        Metrics::read(admin).await.sum("quota_cells", &[]) == 0.0
    })
    .await;
    let mut least = f64::MAX;
    let mut rounds_without_gain = 0;
    until("the heap is at rest", async || {
        let heap = Metrics::read(admin).await.sum("heap_bytes", &[]);
        rounds_without_gain = if heap < least * 0.999 {
            0
        } else {
            rounds_without_gain + 1
        };
        least = least.min(heap);
        rounds_without_gain > 50
    })
    .await;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a byte count"
    )]
    let least = least as usize;
    least
}

async fn sessions(admin: SocketAddr) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    let sessions = Metrics::read(admin).await.sum("sessions", &[]) as usize;
    sessions
}
