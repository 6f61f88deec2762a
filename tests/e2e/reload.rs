//! A new configuration, and what nobody must notice of it.

mod heavy;

use std::{fs, time::Duration};

use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

use crate::support::{
    deployment::{Deployment, Plan, Servers},
    http,
    socket::{Client, Way},
    soon, until,
};

/// A deployment that reloads only when it is told to.
async fn quiet(mut plan: Plan) -> Deployment {
    plan.keys.push_str("watch = false\n");
    Deployment::of(plan).await
}

async fn reload(deployment: &Deployment, text: &str) -> http::Answer {
    fs::write(deployment.config_file(), text).unwrap();
    http::post(deployment.admin(), "/reload").await
}

/// A route for `/other` to a second monolith.
fn route(other: &Servers) -> String {
    format!(
        "[[route]]\npath = \"/other\"\nmonolith = \"http://{}\"\n",
        other.monolith.address()
    )
}

#[tokio::test]
async fn a_changed_file_is_noticed_and_applies_to_open_connections() {
    let deployment = Deployment::start().await;
    let other = Servers::start(0).await;
    let mut open = TcpStream::connect(deployment.plain()).await.unwrap();
    let request = b"GET /other/health HTTP/1.1\r\nHost: x\r\n\r\n";
    http::exchange(&mut open, request).await;
    let before = other.monolith.requests();
    let text = deployment.text_of(deployment.plan());
    fs::write(
        deployment.config_file(),
        format!("{text}\n{}", route(&other)),
    )
    .unwrap();
    until("the new route", async || {
        http::exchange(&mut open, request).await;
        other.monolith.requests() > before
    })
    .await;
    let outcome = http::get(deployment.admin(), "/reload").await.json();
    assert_eq!(
        (&outcome["successful"], &outcome["generation"]),
        (&json!(true), &json!(2))
    );
    let metrics = deployment.metrics().await;
    assert_eq!(metrics.sum("config_generation", &[]), 2.0);
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_every_fault_is_told() {
    let deployment = quiet(Plan::default()).await;
    let mut client = Client::raw(deployment.plain(), Way::Plain).await;
    let text = deployment.text_of(deployment.plan());
    let broken = format!("{text}\n[http]\nbody_limt = \"1MiB\"\n[drain]\ndelay = \"soon\"\n");
    let answer = reload(&deployment, &broken).await;
    assert_eq!(answer.status, 422);
    let faults: Vec<String> = answer.json()["faults"]
        .as_array()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("body_limt") && faults[0].contains("body_limit"));
    assert!(faults[1].contains("delay") && faults[1].contains("proxy.toml"));
    let metrics = deployment.metrics().await;
    assert_eq!(metrics.sum("config_last_reload_successful", &[]), 0.0);
    assert_eq!(
        metrics.sum("config_reloads_total", &[("result", "failed")]),
        1.0
    );
    assert_eq!(metrics.sum("config_generation", &[]), 1.0);
    let ready = http::get(deployment.admin(), "/readyz").await;
    assert_eq!(ready.status, 200);
    assert_eq!(ready.json()["degraded"][0]["part"], "configuration");
    assert_eq!(
        client.call("demo:echo", json!(["still"])).await["result"],
        "still"
    );
    // And it recovers.
    assert_eq!(reload(&deployment, &text).await.status, 200);
    let metrics = deployment.metrics().await;
    assert_eq!(metrics.sum("config_last_reload_successful", &[]), 1.0);
    assert_eq!(
        metrics.sum("config_reloads_total", &[("result", "unchanged")]),
        1.0
    );
}

#[tokio::test]
async fn listeners_come_and_go_while_connections_live_on() {
    let deployment = quiet(Plan::default()).await;
    let removed = deployment.tls();
    let mut client = Client::raw(removed, Way::Tls).await;
    let mut kept = Client::raw(deployment.plain(), Way::Plain).await;

    let plain_only = Plan {
        listeners: Some("[[listener]]\naddress = \"127.0.0.1:0\"\n".to_owned()),
        keys: deployment.plan().keys.clone(),
        ..Plan::default()
    };
    let answer = reload(&deployment, &deployment.text_of(&plain_only)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(deployment.app.addresses().len(), 1);
    until("the listener to close", async || {
        TcpStream::connect(removed).await.is_err()
    })
    .await;
    assert_eq!(client.call("demo:echo", json!([1])).await["result"], 1);
    assert_eq!(kept.call("demo:echo", json!([2])).await["result"], 2);

    let answer = reload(&deployment, &deployment.text_of(deployment.plan())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(http::get_tls(deployment.tls(), "/health").await.status, 200);
    assert_eq!(client.call("demo:echo", json!([3])).await["result"], 3);
}

#[tokio::test]
async fn an_address_in_use_refuses_the_whole_reload() {
    let deployment = quiet(Plan::default()).await;
    let other = Servers::start(0).await;
    let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = held.local_addr().unwrap();
    let text = format!(
        "{}\n{}\n[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"{taken}\"\n",
        deployment.text_of(deployment.plan()),
        route(&other),
    );
    let answer = reload(&deployment, &text).await;
    assert_eq!(answer.status, 422);
    let fault = answer.json()["faults"][0].to_string();
    assert!(
        fault.contains(&taken.to_string()) && fault.contains("another process"),
        "{fault}"
    );
    assert_eq!(deployment.app.addresses().len(), 2, "nothing was opened");
    let before = other.monolith.requests();
    http::get(deployment.plain(), "/other/health").await;
    assert_eq!(
        other.monolith.requests(),
        before,
        "the route was not applied either"
    );
    drop(held);
    let answer = reload(&deployment, &text).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(http::get(taken, "/health").await.status, 200);
}

#[tokio::test]
async fn the_largest_message_is_another_one_for_live_sockets() {
    let deployment = quiet(Plan::default()).await;
    let mut client = Client::raw(deployment.plain(), Way::Plain).await;
    let long = "x".repeat(4_000);
    let answer = client.call("demo:echo", json!([long])).await;
    assert_eq!(answer["result"], long.as_str());
    let plan = deployment.text_of(deployment.plan());
    let text = format!("{plan}\n[websocket]\nmessage_limit = \"2KiB\"\n");
    let answer = reload(&deployment, &text).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    client.call("demo:echo", json!(["short"])).await;
    let call = json!({"msg": "method", "id": "9", "method": "demo:echo", "params": [long]});
    client.send(&call).await;
    assert_eq!(soon("the end", client.end()).await.code(), Some(1009));
}

#[tokio::test]
async fn limits_apply_to_live_sockets() {
    let deployment = quiet(Plan::default()).await;
    let mut client = Client::raw(deployment.plain(), Way::Plain).await;
    let methods = "[limits.methods]\nconnection_by_method = \"1000/1s\"\n";
    let text = format!("{}\n{methods}", deployment.text_of(deployment.plan()));
    assert_eq!(reload(&deployment, &text).await.status, 200);
    let limited = async || {
        let metrics = deployment.metrics().await;
        metrics.sum("limited_total", &[("reason", "messages")])
    };
    for n in 0..10 {
        client.call("demo:echo", json!([n])).await;
    }
    assert_eq!(limited().await, 0.0);
    let limits = "[limits]\nmessages = \"2/s\"\nmessages_burst = 2\n";
    let answer = reload(&deployment, &format!("{text}\n{limits}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let started = Instant::now();
    for n in 1..=6 {
        let answer = client.call("demo:echo", json!([n])).await;
        assert_eq!(answer["result"], n, "{answer}");
    }
    // Two at once, and two per second for the others.
    assert!(started.elapsed() > Duration::from_millis(1500));
    assert!(limited().await > 0.0);
}
