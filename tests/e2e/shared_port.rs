//! Several gateways on one port.

use std::{fs, net::SocketAddr, path::Path};

use rustix::process::Signal;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::support::{
    certificate::Pair,
    deployment::{self, Plan, Servers},
    metrics::Metrics,
    process::Gateway,
    socket::{Client, Way},
    until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_a_port_and_one_goes() {
    let servers = Servers::start(2).await;
    let folder = tempfile::tempdir().unwrap();
    let (_held, address) = held_port();
    let file = write(folder.path(), &servers, address, true);
    let mut gateways: Vec<Gateway> = (0..2).map(|_| Gateway::run(&file)).collect();
    let mut admins = Vec::new();
    for gateway in &mut gateways {
        let line = gateway.line("listening: http://");
        assert!(line.contains("may share the port"), "{line}");
        admins.push(gateway.address("admin: http://"));
    }
    for admin in &admins {
        until("the streamers to be in rotation", async || {
            Metrics::read(*admin).await.sum("streamer_up", &[]) == 2.0
        })
        .await;
    }
    // One of these settings alone is not enough.
    let alone = folder.path().join("alone");
    fs::create_dir(&alone).unwrap();
    let file = write(&alone, &servers, address, false);
    let mut third = Gateway::run(&file);
    let line = third.line("cannot listen on");
    assert!(line.contains("reuse_port = true"), "{line}");
    assert!(!third.ended().await.success());

    let accepted = async |admin: SocketAddr| {
        Metrics::read(admin)
            .await
            .sum("connections_accepted_total", &[])
    };
    let mut clients = Vec::new();
    until("both to have had clients", async || {
        clients.push(Client::raw(address, Way::Plain).await);
        accepted(admins[0]).await > 3.0 && accepted(admins[1]).await > 3.0
    })
    .await;
    let mut sum = 0.0;
    for admin in &admins {
        sum += accepted(*admin).await;
    }
    assert_eq!(sum, f64::from(u32::try_from(clients.len()).unwrap()));

    // One goes, as for an update; who comes from then on finds the other.
    let before = accepted(admins[1]).await;
    gateways[0].signal(Signal::TERM);
    gateways[0].line("drain");
    let ended = gateways[0].ended();
    let (ended, ()) = tokio::join!(ended, async {
        drop(clients);
    });
    assert!(ended.success());
    for _ in 0..20 {
        let mut client = Client::raw(address, Way::Plain).await;
        assert_eq!(client.call("demo:echo", json!(["x"])).await["result"], "x");
    }
    assert_eq!(accepted(admins[1]).await, before + 20.0);
}

/// A port that only those get who share it.
fn held_port() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

fn write(
    folder: &Path,
    servers: &Servers,
    address: SocketAddr,
    shared: bool,
) -> std::path::PathBuf {
    let certificate = Pair::write(folder, "tls", &["localhost"]);
    let plan = Plan {
        listeners: Some(format!(
            "[[listener]]\naddress = \"{address}\"\nreuse_port = {shared}\n"
        )),
        tables: "[drain]\ndelay = \"0s\"\nspread = \"100ms\"\n".to_owned(),
        ..Plan::default()
    };
    let file = folder.join("proxy.toml");
    fs::write(&file, deployment::text(&plan, servers, &certificate)).unwrap();
    file
}
