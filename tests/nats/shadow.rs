//! Logouts that name a session as only the streamer knows it that the session is moving to.

use std::time::Duration;

use ddp_gateway::demo::streamer::Mode;
use serde_json::json;

use crate::{
    node::{Node, Plan},
    server::NatsServer,
    site::{Gateway, Hosts},
    support::{settles, socket::End, soon, until},
};

/// What comes first.
#[derive(Clone, Copy, Debug)]
enum First {
    /// The news that the session is logged out.
    News,
    /// The end of its leg.
    Cut,
}

#[tokio::test(flavor = "multi_thread")]
async fn news_of_a_session_that_is_moving_ends_it_before_its_new_leg_is_cut() {
    a_session_is_logged_out_while_it_moves(First::News).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cut_of_its_new_leg_may_come_first() {
    a_session_is_logged_out_while_it_moves(First::Cut).await;
}

async fn a_session_is_logged_out_while_it_moves(first: First) {
    let server = NatsServer::start();
    let url = server.url();
    let hosts = Hosts::start(2).await;
    let _nodes = [hosts.node(0, &url).await, hosts.node(1, &url).await];
    let mut monolith = Node::moleculer(Plan::monolith(&url)).await;
    let patient = "[health]\ninterval = \"2s\"\ntimeout = \"10s\"";
    let tables = format!("{}{patient}\n", hosts.discovery(&url, ""));
    let gateway = hosts.gateway("", &tables).await;
    gateway.serves_from(&[&hosts.host(0), &hosts.host(1)]).await;
    let mut client = gateway.client().await;
    let token = json!([{ "resume": "demo-ann" }]);
    client.call("login", token).await;
    let room = json!({"msg": "sub", "id": "room", "name": "stream-room-messages", "params": ["GENERAL", false]});
    client.send(&room).await;
    client.message("ready").await;
    is_heard(&gateway, &mut monolith).await;
    let on = usize::from(client.streamer().await == "streamer-2");
    let target = &hosts.streamers[1 - on];
    // So that the new leg is not in charge for a while after its login.
    target.set_mode(Mode::Slow(SLOW)).await.unwrap();
    let drained = format!("{}:{}", hosts.host(on), hosts.port());
    let control = gateway.app.control();
    control.drain_streamer(&drained, None).unwrap();
    until("the new leg", async || {
        target.sessions_of("uid-ann").len() == 1
    })
    .await;
    let named = target.sessions_of("uid-ann").remove(0);
    assert_ne!(named, client.session);
    let news = json!(["uid-ann", named]);
    match first {
        First::News => monolith.broadcast("user.forceLogout", news).await,
        First::Cut => {
            target.terminate_user("uid-ann");
            settles("moves that were given up", 1.0, async || {
                let metrics = gateway.metrics().await;
                let unreachable = [("outcome", "unreachable")];
                metrics.sum("session_moves_total", &unreachable)
            })
            .await;
            monolith.broadcast("user.forceLogout", news).await;
        }
    }
    let logged_out = End::Closed(1001, "logged out by the server, log in again".to_owned());
    assert_eq!(soon("the end", client.end()).await, logged_out, "{first:?}");
}

/// Waits until the gateway hears what this node tells all others.
async fn is_heard(gateway: &Gateway, node: &mut Node) {
    let heard = async || {
        let metrics = gateway.metrics().await;
        metrics.sum("nats_heard_total", &[("event", "forced_logout")])
    };
    let before = heard().await;
    until("an event to be heard", async || {
        node.broadcast("user.forceLogout", json!(["uid-nobody"]))
            .await;
        heard().await > before
    })
    .await;
}

const SLOW: Duration = Duration::from_secs(2);
