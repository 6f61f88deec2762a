//! The default of Rocket.Chat: Moleculer nodes, whose packets a listener hears.

use serde_json::json;

use crate::{listener::Listener, node::Node, server::NatsServer, site::Hosts, support::until};

/// A service ends before its sockets do, and that is when its clients are moved.
#[tokio::test(flavor = "multi_thread")]
async fn streamers_join_and_leave() {
    let server = NatsServer::start();
    let url = server.url();
    let hosts = Hosts::start(2).await;
    // One is there before the gateway, with a node that is no streamer; another one comes later.
    let mut first = hosts.node(0, &url).await;
    let mut other = hosts.plan(1, &url);
    other.service = "presence";
    let mut other = Node::moleculer(other).await;
    let gateway = hosts.gateway_on(&url).await;
    gateway.serves_from(&[&hosts.host(0)]).await;
    let mut client = gateway.client().await;
    assert_eq!(client.streamer().await, "streamer-1");
    let mut second = hosts.node(1, &url).await;
    gateway.serves_from(&[&hosts.host(0), &hosts.host(1)]).await;
    let source = gateway.source_is("nats", "fresh").await;
    let named = source["streamers"].as_array().unwrap().iter();
    let named: Vec<_> = named.map(|one| one["host"].as_str().unwrap()).collect();
    assert_eq!(named, ["pod-127-0-0-11", "pod-127-0-0-12"]);

    first.close().await;
    gateway
        .source_says("nats", &[&hosts.host(1)], &[&hosts.host(0)])
        .await;
    gateway.serves_from(&[&hosts.host(1)]).await;
    // The sockets of the streamer that leaves are still there; its session goes on elsewhere.
    gateway.sessions_at(&hosts.host(0), 0).await;
    assert_eq!(client.streamer().await, "streamer-2");
    first.stop().await;
    let mut second_seen = second.look().await;
    second_seen
        .0
        .retain(|id| *id == other.id || *id == second.id);
    assert_eq!(second_seen.0.len(), 2);
    let (nodes, complaints) = other.look().await;
    assert!(
        !nodes.iter().any(|id| id.starts_with("ddp-gateway")),
        "{nodes:?}"
    );
    assert_eq!(complaints, [""; 0]);
}

/// The gateway asks who is there, and that is all it ever says.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_but_discover() {
    let server = NatsServer::start();
    let url = server.url();
    let listener = Listener::on(&url).await;
    let hosts = Hosts::start(1).await;
    let gateway = hosts.gateway_on(&url).await;
    let mut node = hosts.node(0, &url).await;
    gateway.serves_from(&[&hosts.host(0)]).await;
    // A heartbeat of a node that never introduced itself: it is asked, alone, who it is.
    let stranger = json!({"ver": "4", "sender": "stranger-1", "cpu": 5}).to_string();
    listener
        .client
        .publish("MOL.HEARTBEAT", stranger.into())
        .await
        .unwrap();
    until("the stranger to be asked", async || {
        let said = listener.of_gateways();
        said.iter()
            .any(|(subject, _)| subject == "MOL.DISCOVER.stranger-1")
    })
    .await;
    node.stop().await;
    gateway.source_says("nats", &[], &[&hosts.host(0)]).await;
    drop(gateway);
    let mut last = listener.client.subscribe("last").await.unwrap();
    listener.client.publish("last", "".into()).await.unwrap();
    let _ = futures_util::StreamExt::next(&mut last).await;
    let said = listener.of_gateways();
    assert!(!said.is_empty());
    for (subject, packet) in &said {
        let known = subject == "MOL.DISCOVER" || subject == "MOL.DISCOVER.stranger-1";
        assert!(known, "{subject}: {packet}");
        assert_eq!(packet["ver"], "4");
        assert_eq!(packet.as_object().unwrap().len(), 2, "{packet}");
    }
    let odd = |subject: &String| !subject.starts_with("MOL.") && subject != "last";
    assert_eq!(
        listener
            .subjects()
            .iter()
            .filter(|subject| odd(subject))
            .count(),
        0
    );
}
