//! NATS as it really is: it ends, it hangs, it asks to be left. No client's socket notices.

use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    listener::Listener,
    server::NatsServer,
    site::{Gateway, Hosts},
    support::{settles, socket::Client, until},
};

/// Clients that are still on the sockets that they came with.
struct Crowd {
    clients: Vec<(Client, String)>,
}

impl Crowd {
    async fn of(gateway: &Gateway, count: usize) -> Self {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = gateway.client().await;
            let streamer = client.streamer().await;
            clients.push((client, streamer));
        }
        Self { clients }
    }

    /// Each is served, on its socket, by the streamer that it had.
    async fn is_undisturbed(&mut self) {
        for (client, streamer) in &mut self.clients {
            assert_eq!(client.streamer().await, *streamer);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_started_again_in_the_middle() {
    let mut server = NatsServer::start();
    let url = server.url();
    let hosts = Hosts::start(2).await;
    let gateway = hosts.gateway_on(&url).await;
    let _nodes = [hosts.node(0, &url).await, hosts.node(1, &url).await];
    gateway.serves_from(&[&hosts.host(0), &hosts.host(1)]).await;
    let mut crowd = Crowd::of(&gateway, 20).await;
    server.kill();
    let source = gateway.source_is("nats", "stale").await;
    assert_eq!(
        source["error"],
        "the connection to the NATS server was lost"
    );
    until("a state of the gateway that names the bus", async || {
        let degraded = gateway.ready().await["degraded"].clone();
        let parts = degraded.as_array().unwrap().iter();
        parts
            .filter(|part| part["part"] == format!("discovery nats {url}"))
            .count()
            == 1
    })
    .await;
    crowd.is_undisturbed().await;
    // Nobody is forgotten for not being heard, however long it takes: here, longer than a node may
    // be silent.
    until("a long time without the bus", async || {
        gateway.source("nats").await["heard_seconds_ago"]
            .as_f64()
            .unwrap()
            > 5.0
    })
    .await;
    gateway.serves_from(&[&hosts.host(0), &hosts.host(1)]).await;
    crowd.is_undisturbed().await;
    // A newcomer is served, too.
    gateway.client().await.streamer().await;
    server.start_again();
    gateway.source_is("nats", "fresh").await;
    gateway
        .source_says("nats", &[&hosts.host(0), &hosts.host(1)], &[])
        .await;
    gateway.serves_from(&[&hosts.host(0), &hosts.host(1)]).await;
    crowd.is_undisturbed().await;
    assert_eq!(
        gateway.ready().await["degraded"].as_array().map(Vec::len),
        Some(0)
    );
}

/// A server that is there and says nothing is noticed, and so is that it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn hangs_and_goes_on() {
    let server = NatsServer::start();
    let url = server.url();
    let hosts = Hosts::start(1).await;
    let gateway = hosts.gateway_on(&url).await;
    let _node = hosts.node(0, &url).await;
    gateway.serves_from(&[&hosts.host(0)]).await;
    let mut crowd = Crowd::of(&gateway, 3).await;
    server.hang().await;
    gateway.source_is("nats", "stale").await;
    crowd.is_undisturbed().await;
    server.go_on();
    gateway.source_is("nats", "fresh").await;
    gateway.serves_from(&[&hosts.host(0)]).await;
    crowd.is_undisturbed().await;
}

/// Of several servers the first one accepts and hangs, and the second one is not there.
#[tokio::test(flavor = "multi_thread")]
async fn one_server_of_several_is_enough() {
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone_at = gone.local_addr().unwrap();
    drop(gone);
    let server = NatsServer::start();
    let hosts = Hosts::start(1).await;
    let _node = hosts.node(0, &server.url()).await;
    let urls = format!(
        "nats://{},nats://{gone_at},{}",
        hanging.local_addr().unwrap(),
        server.url()
    );
    let gateway = hosts.gateway_on(&urls).await;
    gateway.serves_from(&[&hosts.host(0)]).await;
    gateway.source_is("nats", "fresh").await;
}

/// A server that is about to end is left for another one of its cluster, which the configuration
/// does not even name.
#[tokio::test(flavor = "multi_thread")]
async fn lame_ducks_are_left() {
    let cluster = "cluster { name: test, listen: \"127.0.0.1:-1\"";
    let first = NatsServer::with(&format!("server_name: first\n{cluster} }}"));
    let second = NatsServer::with(&format!(
        "server_name: second\n{cluster}, routes: [\"nats-route://127.0.0.1:{}\"] }}",
        first.cluster_port.unwrap()
    ));
    let hosts = Hosts::start(1).await;
    let _node = hosts.node(0, &second.url()).await;
    // The servers know of each other once the node is heard at the first one.
    let gateway = hosts.gateway_on(&first.url()).await;
    gateway.serves_from(&[&hosts.host(0)]).await;
    let mut crowd = Crowd::of(&gateway, 3).await;
    first.lame_duck();
    settles("connections that were made", 2, async || {
        let connected = gateway.events("connected").await;
        (0..9).find(|count| f64::from(*count) >= connected).unwrap()
    })
    .await;
    assert!(gateway.events("lame_duck").await >= 1.0);
    drop(first);
    gateway.source_is("nats", "fresh").await;
    gateway.serves_from(&[&hosts.host(0)]).await;
    crowd.is_undisturbed().await;
}

/// When more is said than the gateway can read, it drops some, and asks again for what it may have
/// missed.
#[tokio::test(flavor = "multi_thread")]
async fn floods_are_survived() {
    let server = NatsServer::start();
    let url = server.url();
    let hosts = Hosts::start(1).await;
    let gateway = hosts.gateway_on(&url).await;
    let sender = Listener::client(&url).await;
    let services: Vec<_> = (0..3000)
        .map(|n| json!({"name": format!("service-{n}")}))
        .collect();
    let monolith = json!({"ver": "4", "sender": "monolith", "services": services}).to_string();
    until("the gateway to be overrun", async || {
        for _ in 0..300 {
            sender
                .publish("MOL.INFO", monolith.clone().into())
                .await
                .unwrap();
        }
        sender.flush().await.unwrap();
        gateway.events("slow_consumer").await > 0.0
    })
    .await;
    let _node = hosts.node(0, &url).await;
    gateway.serves_from(&[&hosts.host(0)]).await;
    gateway.source_is("nats", "fresh").await;
}

/// A reload to another bus takes over there, and leaves the first one.
#[tokio::test(flavor = "multi_thread")]
async fn another_bus_after_a_reload() {
    let (old, new) = (NatsServer::start(), NatsServer::start());
    let hosts = Hosts::start(1).await;
    let gateway = hosts.gateway_on(&old.url()).await;
    let _nodes = [
        hosts.node(0, &old.url()).await,
        hosts.node(0, &new.url()).await,
    ];
    gateway.serves_from(&[&hosts.host(0)]).await;
    let mut crowd = Crowd::of(&gateway, 3).await;
    let listener = Listener::on(&new.url()).await;
    gateway
        .reload(&hosts, &hosts.discovery(&new.url(), ""))
        .await;
    until("the other bus to be used", async || {
        let source = gateway.source("nats").await;
        source["source"] == new.url() && source["status"] == "fresh"
    })
    .await;
    assert!(!listener.of_gateways().is_empty());
    let up = |url: String| {
        let gateway = &gateway;
        async move {
            let metrics = gateway.metrics().await;
            metrics.sum("nats_connected", &[("source", &url)])
        }
    };
    settles("the connections", (0.0, 1.0), async || {
        (up(old.url()).await, up(new.url()).await)
    })
    .await;
    crowd.is_undisturbed().await;
}
