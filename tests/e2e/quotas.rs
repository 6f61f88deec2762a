//! Limits by method, user and client, as clients meet them.
//!
//! The intervals are an hour, so that nothing comes back while a slow machine runs the test.

use std::fs;

use ddp_gateway::ddp::Framing;
use serde_json::{Value, json};

use crate::support::{
    deployment::{Deployment, Plan},
    http, settles,
    socket::{Client, Way},
    soon,
};

fn plan(methods: &str) -> Plan {
    Plan {
        keys: "watch = false\n".to_owned(),
        tables: format!("[limits.methods]\n{methods}"),
        ..Plan::default()
    }
}

/// What came back from a call: its result, or the code of its error.
async fn call(client: &mut Client, method: &str) -> Result<Value, Value> {
    let mut answer = client.call(method, json!([1])).await;
    match answer["error"].take() {
        Value::Null => Ok(answer["result"].take()),
        error => Err(error["error"].clone()),
    }
}

/// How many calls pass in a row.
async fn passes(client: &mut Client, method: &str) -> usize {
    for passed in 0..100 {
        if let Err(code) = call(client, method).await {
            assert_eq!(code, "too-many-requests");
            return passed;
        }
    }
    panic!("nothing is refused")
}

/// A client of this browser, which keeps no cookies.
async fn browser(deployment: &Deployment, agent: &str) -> Client {
    let headers = [("User-Agent", agent)];
    let address = deployment.plain();
    Client::connect(address, Way::Plain, Framing::Raw, "/websocket", &headers).await
}

async fn log_in(client: &mut Client, token: &str) {
    let answer = client.call("login", json!([{ "resume": token }])).await;
    assert!(answer["error"].is_null(), "{answer}");
}

#[tokio::test]
async fn what_is_over_the_limit_is_an_error_of_that_one_call() {
    let deployment = Deployment::of(plan("connection_by_method = \"3/1h\"\n")).await;
    let raw = Client::raw(deployment.plain(), Way::Plain).await;
    let sockjs = Client::sockjs(deployment.tls(), Way::Tls).await;
    for mut client in [raw, sockjs] {
        assert_eq!(passes(&mut client, "demo:echo").await, 3);

        let request = json!({"msg": "method", "id": "m1", "method": "demo:echo", "params": []});
        client.send(&request).await;
        let mut result = client.message("result").await;
        let wait = result["error"]["details"]["timeToReset"].as_u64().unwrap();
        assert!((1..=1_200_000).contains(&wait), "{wait}");
        let seconds = wait.div_ceil(1000);
        let reason = format!(
            "Error, too many requests. Please slow down. You must wait {seconds} seconds before trying again."
        );
        let error = json!({
            "isClientSafe": true, "error": "too-many-requests", "reason": reason,
            "details": {"timeToReset": wait}, "message": format!("{reason} [too-many-requests]"),
            "errorType": "Meteor.Error",
        });
        assert_eq!(
            result.take(),
            json!({"msg": "result", "id": "m1", "error": error})
        );
        let updated = soon("updated", client.next()).await.unwrap();
        assert_eq!(updated, json!({"msg": "updated", "methods": ["m1"]}));

        // Everything else goes on: other methods, pings, and the publications that are there.
        assert!(call(&mut client, "demo:whoami").await.is_ok());
        client.send(&json!({"msg": "ping", "id": "p"})).await;
        assert_eq!(client.message("pong").await["id"], "p");
        for n in 0..12 {
            let id = format!("s{n}");
            let params = json!(["public-settings-changed", false]);
            client
                .send(
                    &json!({"msg": "sub", "id": id, "name": "stream-notify-all", "params": params}),
                )
                .await;
            assert_eq!(client.message("ready").await["subs"], json!([id]));
        }
        client
            .send(&json!({"msg": "sub", "id": "s12", "name": "stream-notify-all", "params": ["x"]}))
            .await;
        let nosub = client.message("nosub").await;
        assert_eq!(
            (&nosub["id"], &nosub["error"]["error"]),
            (&json!("s12"), &json!("too-many-requests"))
        );
    }
    let metrics = deployment.metrics().await;
    let limited = |kind| {
        let labels = [("rule", "connection_by_method"), ("kind", kind)];
        metrics.sum("limited_requests_total", &labels)
    };
    assert_eq!((limited("method"), limited("sub")), (4.0, 2.0));
    assert_eq!(metrics.sum("penalties_total", &[]), 0.0);
}

#[tokio::test]
async fn a_user_is_limited_on_all_connections_and_nobody_else_is() {
    let deployment = Deployment::of(plan("user_by_method = \"5/1h\"\n")).await;
    let mut clients = Vec::new();
    for token in ["demo-alice", "demo-alice", "demo-bob"] {
        let mut client = browser(&deployment, "one and the same").await;
        log_in(&mut client, token).await;
        clients.push(client);
    }
    let [first, second, other] = clients.as_mut_slice() else {
        panic!("three clients")
    };
    for _ in 0..3 {
        assert!(call(first, "demo:echo").await.is_ok());
    }
    assert_eq!(passes(second, "demo:echo").await, 2);
    assert_eq!(passes(first, "demo:echo").await, 0);
    assert_eq!(passes(other, "demo:echo").await, 5);
}

#[tokio::test]
async fn a_flood_ends_with_1008_and_its_client_meets_refusals_wherever_it_comes_back() {
    let deployment = Deployment::of(plan(
        "connection_by_method = \"1/1h\"\nabuse = \"5/1h\"\npenalty = \"1h\"\n",
    ))
    .await;
    let mut neighbour = browser(&deployment, "neighbour").await;
    let mut flood = browser(&deployment, "flood").await;
    for n in 0..7 {
        let id = n.to_string();
        flood
            .send(&json!({"msg": "method", "id": id, "method": "demo:echo", "params": []}))
            .await;
    }
    let end = soon("the flood's end", flood.end()).await;
    assert_eq!(end.code(), Some(1008), "{end:?}");

    let mut again = browser(&deployment, "flood").await;
    for method in ["demo:whoami", "rooms/get"] {
        assert_eq!(
            call(&mut again, method).await,
            Err(json!("too-many-requests"))
        );
    }
    // The same address, but somebody else.
    assert!(call(&mut neighbour, "demo:echo").await.is_ok());
    // A web client that is refused its login would throw its token away.
    log_in(&mut again, "demo-alice").await;
    let metrics = deployment.metrics().await;
    let penalty = [("rule", "penalty"), ("kind", "method")];
    assert_eq!(metrics.sum("limited_requests_total", &penalty), 2.0);
    assert_eq!(metrics.sum("penalties_total", &[]), 1.0);
    settles("sockets closed for abuse", 1.0, async || {
        let labels = [("reason", "rate_abuse"), ("by", "gateway")];
        let metrics = deployment.metrics().await;
        metrics.sum("sessions_closed_total", &labels)
    })
    .await;
}

#[tokio::test]
async fn a_reload_changes_the_limits_of_open_sockets() {
    let deployment = Deployment::of(plan(
        "connection = \"off\"\nconnection_by_method = \"2/1h\"\n",
    ))
    .await;
    let mut client = Client::raw(deployment.plain(), Way::Plain).await;
    assert_eq!(passes(&mut client, "demo:echo").await, 2);
    // What was used up stays used up: 2 of half an hour each.
    for (methods, more) in [
        ("connection = \"off\"\nconnection_by_method = \"6/3h\"\n", 4),
        (
            "connection = \"10/1h\"\nconnection_by_method = \"off\"\n",
            10,
        ),
    ] {
        fs::write(deployment.config_file(), deployment.text_of(&plan(methods))).unwrap();
        let answer = http::post(deployment.admin(), "/reload").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(passes(&mut client, "demo:echo").await, more, "{methods}");
    }
}

/// Names that nobody knows cost neither memory nor labels.
#[tokio::test]
async fn random_names_leave_nothing_behind() {
    let deployment = Deployment::of(plan("connection = \"50/1h\"\nabuse = \"off\"\n")).await;
    let mut client = Client::raw(deployment.plain(), Way::Plain).await;
    let mut passed = 0;
    for n in 0..200 {
        let id = format!("s{n}");
        client
            .send(&json!({"msg": "sub", "id": id, "name": format!("name{n}"), "params": []}))
            .await;
        let nosub = client.message("nosub").await;
        passed += usize::from(nosub["error"]["error"] == 404);
    }
    assert_eq!(passed, 50);
    let quotas = &deployment.app.control().shared().quotas;
    assert!(quotas.len() <= 51, "{} accounts", quotas.len());
    let metrics = deployment.metrics().await;
    assert!(!metrics.text().contains("name7"));
    assert_eq!(passes(&mut client, "demo:echo").await, 0);
    client.close().await;
}
