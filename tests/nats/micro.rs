//! `BROKER=nats`: services of NATS itself, which tell hosts and nothing else.

use std::net::{IpAddr, Ipv4Addr};

use crate::{
    listener::Listener,
    nameserver::{NameServer, Zone},
    node::{Node, Plan},
    server::NatsServer,
    site::Hosts,
};

/// A host is known by its name in the DNS. When its service answers no more, its clients move.
#[tokio::test(flavor = "multi_thread")]
async fn who_answers_no_more_is_about_to_end() {
    let server = NatsServer::start();
    let url = server.url();
    let hosts = Hosts::start(2).await;
    let listener = Listener::on(&url).await;
    let address: IpAddr = hosts.host(0).parse().unwrap();
    assert_ne!(address, IpAddr::V4(Ipv4Addr::LOCALHOST));
    let plan = Plan::streamer(&url, hosts.host(0));
    let name = format!("{}.test", plan.host);
    let names = NameServer::start(Zone::with_ttl(1).address(&name, address))
        .await
        .unwrap();
    let mut first = Node::micro(plan).await;
    let _second = Node::micro(Plan::streamer(&url, hosts.host(1))).await;
    let port = hosts.port();
    let tables = format!(
        "{}[discovery.dns]\nname = \"{name}\"\nport = {port}\nresolvers = [\"{}\"]\n",
        hosts.discovery(&url, "broker = \"nats\""),
        names.address()
    );
    let keys = format!("streamers = [\"{}:{port}\"]", hosts.host(1));
    let gateway = hosts.gateway(&keys, &tables).await;
    gateway.serves_from(&[&hosts.host(0), &hosts.host(1)]).await;
    let source = gateway.source_is("nats", "fresh").await;
    assert_eq!(
        source["streamers"].as_array().map(Vec::len),
        Some(2),
        "{source}"
    );
    first.stop().await;
    gateway.serves_from(&[&hosts.host(1)]).await;
    let said = listener.subjects();
    assert!(said.iter().any(|subject| subject == "$SRV.PING.streamer"));
    assert!(
        !said.iter().any(|subject| subject.starts_with("MOL")),
        "{said:?}"
    );
}
