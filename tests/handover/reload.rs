//! Terms that change while gateways act as one.

use std::pin::pin;

use ddp_gateway::control::app::App;
use futures_util::StreamExt;
use serde_json::Value;

use crate::{
    site::{SECRET, Site, config},
    support::{settles, soon, until},
};

/// A gateway that is to be alone, or to meet others elsewhere, tells those that it leaves: they do
/// not count with it for a moment longer.
#[tokio::test]
async fn a_gateway_that_goes_its_own_way_takes_its_leave() {
    let site = Site::start().await;
    let client = async_nats::connect(site.nats.url()).await.unwrap();
    let mut state = client.subscribe("ddp-gateway.state").await.unwrap();
    // From here on the server has the subscription.
    soon("a packet", state.next()).await.unwrap();
    let leaves = state.filter_map(|message| async move {
        let packet: Value = serde_json::from_slice(&message.payload).unwrap();
        let id = packet["id"].as_str().unwrap().to_owned();
        (packet["leaves"] == true).then_some(id)
    });
    let mut leaves = pin!(leaves);
    for subject in [None, Some("others")] {
        let own = id(&site.gateways[0]);
        let mut other = config(&site.nats, &site.servers, SECRET);
        other.replicas = other.replicas.zip(subject).map(|(mut replicas, subject)| {
            replicas.subject = subject.to_owned();
            replicas
        });
        site.gateways[0].reload(other).await.unwrap();
        assert_eq!(soon("the farewell", leaves.next()).await, Some(own));
        settles("gateways that are known", 0, async || {
            known(&site.gateways[1])
        })
        .await;
        // And back.
        let together = config(&site.nats, &site.servers, SECRET);
        site.gateways[0].reload(together).await.unwrap();
        for gateway in &site.gateways {
            settles("gateways that are known", 1, async || known(gateway)).await;
        }
        if subject.is_some() {
            let handover = |gateway: &App| gateway.control().shared().handover.is_open();
            until("the way to each other", async || {
                site.gateways.iter().all(handover)
            })
            .await;
        }
    }
}

fn id(gateway: &App) -> String {
    gateway.control().replicas().unwrap().id
}

fn known(gateway: &App) -> usize {
    gateway.control().replicas().unwrap().others.len()
}
