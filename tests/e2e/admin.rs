//! The admin listener.

use std::collections::BTreeSet;

use futures_util::SinkExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    deployment::{Deployment, Plan},
    http, settles,
    socket::{Client, Way, open},
    until,
};

#[tokio::test]
async fn tells_health_streamers_and_metrics() {
    let deployment = Deployment::start().await;
    let admin = deployment.admin();

    let healthy = http::get(admin, "/healthz").await;
    assert_eq!(
        (healthy.status, &healthy.json()["status"]),
        (200, &"ok".into())
    );
    let ready = http::get(admin, "/readyz").await;
    assert_eq!(ready.status, 200, "{}", ready.text());
    assert_eq!(ready.json()["degraded"].as_array().unwrap().len(), 0);

    let streamers = http::get(admin, "/streamers").await.json();
    let rows = streamers["pools"][0]["streamers"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row["health"] == "up"));

    let metrics = deployment.metrics().await;
    assert_eq!(
        metrics.sum("build_info", &[("version", env!("CARGO_PKG_VERSION"))]),
        1.0
    );
    assert_eq!(metrics.sum("streamer_up", &[("pool", "default")]), 2.0);
    assert_eq!(metrics.sum("config_last_reload_successful", &[]), 1.0);
    assert!(metrics.sum("max_descriptors", &[]) > 0.0);
    assert!(metrics.sum("certificate_expiry_timestamp_seconds", &[]) > 0.0);
    assert_eq!(metrics.sum("panics_total", &[]), 0.0);

    // Histograms with buckets, so that several gateways can be added up.
    assert_eq!(http::get_tls(deployment.tls(), "/health").await.status, 200);
    let metrics = deployment.metrics().await;
    assert_eq!(
        metrics.sum("tls_handshake_seconds_bucket", &[("le", "+Inf")]),
        1.0
    );
    assert!(metrics.sum("http_request_seconds_bucket", &[("le", "+Inf")]) >= 1.0);
    for line in metrics.text().lines().filter(|line| !line.starts_with('#')) {
        assert!(
            line.is_empty() || line.starts_with("ddp_gateway_"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_pool_without_streamers_is_degraded_but_ready() {
    let deployment = Deployment::start().await;
    for streamer in &deployment.streamers {
        streamer.stop().await;
    }
    deployment.streamers_in_rotation(0).await;
    let ready = http::get(deployment.admin(), "/readyz").await;
    assert_eq!(ready.status, 200);
    assert_eq!(ready.json()["degraded"][0]["part"], "pool default");
}

#[tokio::test]
async fn only_answers_what_it_knows() {
    let deployment = Deployment::start().await;
    let admin = deployment.admin();
    let index = http::get(admin, "/").await;
    assert!(index.text().contains("/metrics"));
    let missing = http::get(admin, "/nothing").await;
    assert_eq!(missing.status, 404);
    assert!(missing.json()["error"].as_str().unwrap().contains("GET /"));
    let wrong = http::post(admin, "/metrics").await;
    assert_eq!(
        (wrong.status, wrong.header("allow")),
        (405, Some("GET, HEAD"))
    );
    for query in ["/sessions?limit=x", "/sessions?after=zz"] {
        let answer = http::get(admin, query).await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.json()["error"].is_string());
    }
    // None of it on the public port.
    let public = http::get(deployment.plain(), "/metrics").await;
    assert!(!public.text().contains("ddp_gateway"));
}

#[tokio::test]
async fn takes_no_orders_from_web_pages() {
    let deployment = Deployment::start().await;
    let mut stream = tokio::net::TcpStream::connect(deployment.admin())
        .await
        .unwrap();
    let request = "POST /drain HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.test\r\n\
                   Content-Length: 0\r\n\r\n";
    let answer = http::exchange(&mut stream, request.as_bytes()).await;
    assert_eq!(answer.status, 403);
    let progress = http::get(deployment.admin(), "/drain").await.json();
    assert_eq!(progress["stage"], "running");
}

#[tokio::test]
async fn can_be_switched_off_and_moved_by_a_reload() {
    let deployment = Deployment::start().await;
    let first = deployment.admin();
    let plan = Plan {
        keys: "admin = \"off\"\n".to_owned(),
        ..deployment.plan().clone()
    };
    deployment
        .app
        .reload(deployment.config_of(&plan))
        .await
        .unwrap();
    assert_eq!(deployment.app.admin(), None);
    until("the admin port to close", async || {
        tokio::net::TcpStream::connect(first).await.is_err()
    })
    .await;
    let plan = deployment.plan().clone();
    deployment
        .app
        .reload(deployment.config_of(&plan))
        .await
        .unwrap();
    assert_eq!(http::get(deployment.admin(), "/healthz").await.status, 200);
}

#[tokio::test]
async fn sessions_are_listed_page_by_page_while_they_live() {
    let deployment = Deployment::start().await;
    let admin = deployment.admin();
    let mut clients = Vec::new();
    for n in 0..7 {
        clients.push(match n % 2 {
            0 => Client::raw(deployment.plain(), Way::Plain).await,
            _ => Client::sockjs(deployment.tls(), Way::Tls).await,
        });
    }
    for client in &mut clients {
        client.call("demo:echo", json!(["hello"])).await;
    }
    // Counters move while sockets are open.
    settles("messages from clients", 14.0, async || {
        deployment
            .metrics()
            .await
            .sum("session_messages_total", &[("direction", "up")])
    })
    .await;
    let mut seen = BTreeSet::new();
    let mut page = "/sessions?limit=3".to_owned();
    let mut pages = 0;
    loop {
        let answer = http::get(admin, &page).await.json();
        assert_eq!(answer["total"], 7);
        pages += 1;
        for row in answer["sessions"].as_array().unwrap() {
            assert!(seen.insert(row["id"].to_string()), "twice: {row}");
            assert_eq!(row["client"], "127.0.0.1");
            assert_eq!(row["phase"], "anonymous");
            assert_eq!(row["messages_up"], 2);
            assert!(row["bytes_up"].as_u64() > Some(0) && row["bytes_down"].as_u64() > Some(0));
            assert_eq!(row["tls"].as_bool().unwrap(), row["framing"] == "sockjs");
            assert!(row["streamer"].is_string());
        }
        match answer["next_after"].as_str() {
            Some(after) => page = format!("/sessions?limit=3&after={after}"),
            None => break,
        }
    }
    assert_eq!((seen.len(), pages), (7, 3));
    let streamers = http::get(admin, "/streamers").await.json();
    assert_eq!(streamers["pools"][0]["sessions"], 7);
    for client in clients {
        client.close().await;
    }
    settles("sessions", json!(0), async || {
        http::get(admin, "/sessions").await.json()["total"].clone()
    })
    .await;
}

#[tokio::test]
async fn the_effective_configuration_shows_no_secret() {
    let secret = "correct-horse-battery-staple-correct-horse";
    let plan = Plan {
        tables: format!("[affinity]\nsecret = \"{secret}\"\n"),
        ..Plan::default()
    };
    let deployment = Deployment::of(plan).await;
    let effective = http::get(deployment.admin(), "/config").await;
    assert_eq!(effective.status, 200);
    assert!(effective.text().contains("monolith = "));
    assert!(effective.text().contains("# default"));
    assert!(!effective.text().contains(secret), "{}", effective.text());
}

/// What an autoscaler reads: more streamers than there are, as long as clients wait for one.
#[tokio::test]
async fn tells_how_many_streamers_are_wanted() {
    let deployment = Deployment::of(Plan {
        tables: "[pool]\nsessions_per_streamer = 1\n".to_owned(),
        ..Plan::default()
    })
    .await;
    let wanted = async || {
        let labels = [("pool", "default")];
        let gauge = deployment.metrics().await.sum("streamers_wanted", &labels);
        let page = http::get(deployment.admin(), "/streamers").await.json();
        (gauge, page["pools"][0]["wanted"].as_u64())
    };
    assert_eq!(wanted().await, (1.0, Some(1)));
    let _first = Client::raw(deployment.plain(), Way::Plain).await;
    let _second = Client::raw(deployment.plain(), Way::Plain).await;
    let (mut third, _) = open(deployment.plain(), Way::Plain, "/websocket", &[])
        .await
        .unwrap();
    let connect = Message::text(r#"{"msg":"connect","version":"1","support":["1"]}"#);
    third.send(connect).await.unwrap();
    until("a third streamer is wanted", async || {
        wanted().await == (3.0, Some(3))
    })
    .await;
}
