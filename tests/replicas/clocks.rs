//! Gateways whose clocks do not agree.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use ddp_gateway::ddp::Framing;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    phone::{Line, Phone},
    server::NatsServer,
    site::Site,
    support::{process::Gateway, socket::Way, until},
};

/// The library that puts a process ahead of its time, by more than any time for which a gateway
/// keeps something or takes something for good.
fn library(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replicas/ahead.c");
    let library = folder.join("ahead.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .output()
        .expect("there is a C compiler: rustc links with it");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    library
}

fn ahead(config: &Path) -> Gateway {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddp-gateway"));
    command.arg("run").arg("--config").arg(config);
    command.env("LD_PRELOAD", library(config.parent().unwrap()));
    Gateway::of(command)
}

fn line(address: SocketAddr) -> Line {
    Line {
        address,
        way: Way::Plain,
        framing: Framing::Raw,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_a_day_apart_they_count_together_and_hand_sessions_over() {
    let nats = NatsServer::start();
    let mut site = Site::start().await;
    site.gateway(&nats.url(), "", Gateway::run).await;
    site.gateway(&nats.url(), "", ahead).await;
    site.is_together().await;
    site.hands_over().await;
    let (here, there) = (site.gateways[0].date(), site.gateways[1].date());
    assert_ne!(here, there, "the clocks agree");
    let mut others = [
        site.gateways[0].user("ben").await,
        site.gateways[1].user("ben").await,
    ];
    site.counts(2).await;
    // Both ways: tickets, tokens and seals are good at the other one.
    let mut number = 0;
    for at in [0, 1] {
        let address = |at: usize| line(site.gateways[at].address);
        let mut phone = Phone::in_room(address(at), true, "ann").await;
        site.counts(3).await;
        let session = phone.session.clone();
        phone.cut();
        until("the session to be kept", async || {
            let phase = [("phase", "detached")];
            site.gateways[at].count("sessions", &phase).await == 1.0
        })
        .await;
        phone.line = address(1 - at);
        phone.connect().await;
        number += 1;
        let event = json!({"n": number});
        let workspace = site.servers.streamers[0].workspace();
        workspace.publish("stream-room-messages", "GENERAL", &[event]);
        phone.until_event(number).await;
        assert_eq!(phone.session, session);
        let taken = [("side", "taken"), ("outcome", "done")];
        let taken = site.gateways[1 - at].count("session_handovers_total", &taken);
        assert_eq!(taken.await, 1.0);
        site.counts(3).await;
        phone.send_frame(Message::Close(None)).await;
        site.counts(2).await;
    }
    for other in &mut others {
        other.streamer().await;
    }
}
