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
        let known = subject == "MOL.DISCOVER" || subject.starts_with("MOL.DISCOVER.");
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

/// One that says nothing any more is forgotten, and the other one stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_noticed_by_silence() {
    let server = NatsServer::start();
    let hosts = Hosts::start(2).await;
    let gateway = hosts.gateway_on(&server.url()).await;
    let mut first = hosts.node(0, &server.url()).await;
    let _second = hosts.node(1, &server.url()).await;
    gateway.serves_from(&[&hosts.host(0), &hosts.host(1)]).await;
    first.crash().await;
    gateway.source_says("nats", &[&hosts.host(1)], &[]).await;
    gateway.serves_from(&[&hosts.host(1)]).await;
    gateway.source_is("nats", "fresh").await;
}

/// A process that starts again on its host takes clients again.
#[tokio::test(flavor = "multi_thread")]
async fn a_streamer_that_is_back_serves_again() {
    let server = NatsServer::start();
    let hosts = Hosts::start(2).await;
    let gateway = hosts.gateway_on(&server.url()).await;
    let mut first = hosts.node(0, &server.url()).await;
    let _second = hosts.node(1, &server.url()).await;
    gateway.serves_from(&[&hosts.host(0), &hosts.host(1)]).await;
    first.stop().await;
    gateway
        .source_says("nats", &[&hosts.host(1)], &[&hosts.host(0)])
        .await;
    let _again = hosts.node(0, &server.url()).await;
    gateway
        .source_says("nats", &[&hosts.host(0), &hosts.host(1)], &[])
        .await;
    gateway.serves_from(&[&hosts.host(0), &hosts.host(1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_apart() {
    let server = NatsServer::start();
    let url = server.url();
    let hosts = Hosts::start(2).await;
    let _without = hosts.node(0, &url).await;
    let mut within = hosts.plan(1, &url);
    within.namespace = "eu";
    let _within = Node::moleculer(within).await;
    let eu = hosts.discovery(&url, "namespace = \"eu\"");
    let (eu, without) = (hosts.gateway("", &eu).await, hosts.gateway_on(&url).await);
    eu.serves_from(&[&hosts.host(1)]).await;
    without.serves_from(&[&hosts.host(0)]).await;
}

/// Plain JSON is read like EJSON; others, and another protocol, are passed over and counted.
#[tokio::test(flavor = "multi_thread")]
async fn other_serialisers_and_protocols_are_counted() {
    let server = NatsServer::start();
    let url = server.url();
    let hosts = Hosts::start(1).await;
    let listener = Listener::on(&url).await;
    let gateway = hosts.gateway_on(&url).await;
    until("the gateway to listen", async || {
        !listener.of_gateways().is_empty()
    })
    .await;
    for payload in [
        "\u{1}cbor",
        "{\"ver\":\"5\",\"sender\":\"x\",\"services\":[]}",
        "{",
        "{\"ver\":\"4\",\"sender\":\"*\"}",
    ] {
        listener
            .client
            .publish("MOL.INFO", payload.into())
            .await
            .unwrap();
    }
    let mut plan = hosts.plan(0, &url);
    plan.serializer = Some("JSON");
    let _node = Node::moleculer(plan).await;
    gateway.serves_from(&[&hosts.host(0)]).await;
    let metrics = gateway.metrics().await;
    for result in ["serialiser", "version", "malformed", "sender"] {
        let counted = metrics.sum("nats_packets_total", &[("result", result)]);
        assert!((counted - 1.0).abs() < f64::EPSILON, "{result}: {counted}");
    }
}

/// Whoever says goodbye in the name of all does not empty the pool, and is soon contradicted.
#[tokio::test(flavor = "multi_thread")]
async fn a_liar_closes_nobody() {
    let server = NatsServer::start();
    let url = server.url();
    let hosts = Hosts::start(2).await;
    let gateway = hosts.gateway_on(&url).await;
    let nodes = [hosts.node(0, &url).await, hosts.node(1, &url).await];
    gateway.serves_from(&[&hosts.host(0), &hosts.host(1)]).await;
    let mut client = gateway.client().await;
    let listener = Listener::on(&url).await;
    for node in &nodes {
        let goodbye = json!({"ver": "4", "sender": node.id}).to_string();
        listener
            .client
            .publish("MOL.DISCONNECT", goodbye.into())
            .await
            .unwrap();
    }
    gateway
        .source_says("nats", &[], &[&hosts.host(0), &hosts.host(1)])
        .await;
    // Their next heartbeats show that they are there, so they are asked, and answer.
    gateway
        .source_says("nats", &[&hosts.host(0), &hosts.host(1)], &[])
        .await;
    gateway.serves_from(&[&hosts.host(0), &hosts.host(1)]).await;
    client.streamer().await;
    drop(nodes);
}

/// A streamer whose address is in no range that streamers have is not believed, and that is said.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_out_of_range_are_not_believed() {
    let server = NatsServer::start();
    let url = server.url();
    let hosts = Hosts::start(2).await;
    let ranges = format!("networks = [\"{}\"]", hosts.host(1));
    let gateway = hosts.gateway("", &hosts.discovery(&url, &ranges)).await;
    let _first = hosts.node(0, &url).await;
    until("the streamer to be heard and not believed", async || {
        let source = gateway.source("nats").await;
        let error = source["error"].as_str().unwrap_or_default();
        error.starts_with("streamers are heard, but none has an address")
    })
    .await;
    let _second = hosts.node(1, &url).await;
    gateway.serves_from(&[&hosts.host(1)]).await;
    gateway.source_is("nats", "fresh").await;
}
