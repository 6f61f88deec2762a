//! The admin listener.

use crate::support::{
    deployment::{Deployment, Plan},
    http, until,
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
