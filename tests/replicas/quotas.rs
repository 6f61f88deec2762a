//! The limits of one user and of one address, who use two gateways.
//!
//! The intervals are an hour, so that nothing comes back while a slow machine runs the test.

use serde_json::json;

use crate::{
    server::NatsServer,
    site::{Replica, Site},
    support::{process::Gateway, socket::Client, soon, until},
};

struct Scene {
    site: Site,
    _nats: NatsServer,
}

impl Scene {
    async fn start(methods: &str) -> Self {
        let nats = NatsServer::start();
        let mut site = Site::start().await;
        let tables = format!("[limits.methods]\nconnection_by_method = \"off\"\n{methods}");
        for _ in 0..2 {
            site.gateway(&nats.url(), &tables, Gateway::run).await;
        }
        site.is_together().await;
        Self { site, _nats: nats }
    }

    fn gateway(&self, at: usize) -> &Replica {
        &self.site.gateways[at]
    }

    /// Waits until a gateway has heard of so many accounts that were used at the other one.
    async fn has_heard(&self, at: usize, charges: f64) {
        until("what was used elsewhere", async || {
            let heard = [("direction", "heard")];
            let heard = self.gateway(at).count("replica_charges_total", &heard);
            heard.await >= charges
        })
        .await;
    }
}

async fn is_answered(client: &mut Client, method: &str) -> bool {
    let answer = client.call(method, json!([1])).await;
    if answer["error"].is_null() {
        return true;
    }
    assert_eq!(answer["error"]["error"], "too-many-requests", "{answer}");
    false
}

/// How many calls of up to so many pass in a row.
async fn passes(client: &mut Client, most: usize) -> usize {
    for passed in 0..most {
        if !is_answered(client, "demo:echo").await {
            return passed;
        }
    }
    most
}

#[tokio::test]
async fn a_user_has_one_quota_for_a_method_at_two_gateways() {
    let scene = Scene::start("user_by_method = \"20/1h\"\n").await;
    let mut here = scene.gateway(0).user("ann").await;
    let mut there = scene.gateway(1).user("ann").await;
    let mut other = scene.gateway(1).user("bob").await;
    assert_eq!(passes(&mut here, 12).await, 12);
    scene.has_heard(1, 1.0).await;
    assert_eq!(passes(&mut there, 20).await, 8);
    assert_eq!(passes(&mut other, 30).await, 20);
    // And back: what was used there is used here.
    scene.has_heard(0, 1.0).await;
    assert_eq!(passes(&mut here, 20).await, 0);
}

/// A user who is quicker than the word from one gateway to the other has the quota at each, and no
/// more: it is owed, and once both know they refuse alike.
#[tokio::test]
async fn before_the_word_is_there_nobody_has_more_than_the_quota_at_each() {
    let scene = Scene::start("user_by_method = \"20/1h\"\n").await;
    let mut here = scene.gateway(0).user("ann").await;
    let mut there = scene.gateway(1).user("ann").await;
    let (one, other) = tokio::join!(passes(&mut here, 30), passes(&mut there, 30));
    assert!(
        one <= 20 && other <= 20 && one + other >= 20,
        "{one} {other}"
    );
    for at in [0, 1] {
        scene.has_heard(at, 1.0).await;
    }
    assert_eq!(
        (passes(&mut here, 1).await, passes(&mut there, 1).await),
        (0, 0)
    );
}

#[tokio::test]
async fn an_address_has_one_quota_at_two_gateways() {
    let scene = Scene::start("address = \"30/1h\"\n").await;
    let mut here = scene.gateway(0).client_from("203.0.113.7").await;
    let mut there = scene.gateway(1).client_from("203.0.113.7").await;
    let mut neighbour = scene.gateway(1).client_from("203.0.113.8").await;
    assert_eq!(passes(&mut here, 15).await, 15);
    scene.has_heard(1, 1.0).await;
    assert_eq!(passes(&mut there, 30).await, 15);
    assert_eq!(passes(&mut neighbour, 40).await, 30);
    scene.has_heard(0, 1.0).await;
    assert_eq!(passes(&mut here, 1).await, 0);
}

/// Who was closed for a flood at one gateway is refused everything at the other one, at once, and on
/// a connection that is there already.
#[tokio::test]
async fn a_penalty_holds_at_both() {
    let limits = "connection = \"3/1h\"\nabuse = \"5/1h\"\npenalty = \"1h\"\n";
    let scene = Scene::start(limits).await;
    let mut flood = scene.gateway(0).user("ann").await;
    let mut there = scene.gateway(1).user("ann").await;
    let mut other = scene.gateway(1).user("bob").await;
    for n in 0..12 {
        let id = format!("flood-{n}");
        let call = json!({"msg": "method", "id": id, "method": "demo:echo", "params": []});
        if flood.try_send(&call).await.is_err() {
            break;
        }
    }
    assert_eq!(
        soon("the flood's end", flood.end()).await.code(),
        Some(1008)
    );
    until("the penalty to be there", async || {
        // Each has the quota of a connection for itself.
        let mut again = scene.gateway(1).user("ann").await;
        !is_answered(&mut again, "demo:whoami").await
    })
    .await;
    assert!(!is_answered(&mut there, "demo:whoami").await);
    let labels = [("rule", "penalty")];
    let refused = scene.gateway(1).count("limited_requests_total", &labels);
    assert_eq!(refused.await, 2.0);
    assert!(is_answered(&mut other, "demo:whoami").await);
    // A web client that is refused its login would throw its token away.
    scene.gateway(1).user("ann").await;
}
