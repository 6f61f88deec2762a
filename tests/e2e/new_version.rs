//! The web client has a new version, and all web clients load their pages anew.

use std::time::{Duration, Instant};

use ddp_gateway::demo::workspace::Workspace;
use serde_json::json;

use crate::support::{
    deployment::{Deployment, Plan},
    settles,
    socket::{Client, Way},
};

const CLIENTS: u32 = 60;
const RATE: u32 = 20;

/// A page that was loaded: its user is in, and it wants to know when there is a new version.
async fn load(deployment: &Deployment, name: &str) -> (Client, String) {
    let mut client = Client::sockjs(deployment.plain(), Way::Plain).await;
    let token = json!([{ "resume": format!("demo-{name}") }]);
    client.call("login", token).await;
    let sub = json!({
        "msg": "sub", "id": "v", "name": "meteor_autoupdate_clientVersions", "params": [],
    });
    client.send(&sub).await;
    let version = loop {
        let added = client.message("added").await;
        if added["collection"] == "meteor_autoupdate_clientVersions" {
            break added["fields"]["version"].as_str().unwrap().to_owned();
        }
    };
    client.message("ready").await;
    (client, version)
}

fn workspace(deployment: &Deployment) -> &Workspace {
    deployment.streamers[0].workspace()
}

async fn detached(deployment: &Deployment) -> f64 {
    let metrics = deployment.metrics().await;
    metrics.sum("sessions", &[("phase", "detached")])
}

/// Seconds that logins have waited in the gateway, all together.
async fn login_waits(deployment: &Deployment) -> f64 {
    let metrics = deployment.metrics().await;
    metrics.sum("login_wait_seconds_sum", &[])
}

/// Each is told at a moment of its own, over as long as the logins take; so hardly anybody waits for
/// a login with an empty page. Whoever goes without a goodbye then is not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn clients_reload_one_after_the_other() {
    let deployment = Deployment::of(Plan {
        tables: format!("[logins]\nrate = \"{RATE}/s\"\nstreamer_rate = \"{RATE}/s\"\n"),
        ..Plan::default()
    })
    .await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let (client, version) = load(&deployment, &format!("user{n}")).await;
        assert_eq!(version, "demo");
        clients.push(client);
    }
    let waited = login_waits(&deployment).await;
    let began = Instant::now();
    workspace(&deployment).set_client_version("v2");
    let deployment = std::sync::Arc::new(deployment);
    let reloads = clients.into_iter().enumerate().map(|(n, mut client)| {
        let deployment = deployment.clone();
        tokio::spawn(async move {
            let changed = client.message("changed").await;
            assert_eq!(changed["id"], "web.browser");
            assert_eq!(changed["fields"]["version"], "v2");
            let told = began.elapsed();
            drop(client);
            let (client, version) = load(&deployment, &format!("user{n}")).await;
            assert_eq!(version, "v2");
            (told, client)
        })
    });
    let (mut told, mut back) = (Vec::new(), Vec::new());
    for reload in reloads.collect::<Vec<_>>() {
        let (moment, client) = reload.await.unwrap();
        told.push(moment);
        back.push(client);
    }
    told.sort();
    let whole = Duration::from_secs(1) * CLIENTS / RATE;
    // By chance, each within three seconds: in half of that time about half of them.
    let early = told.iter().filter(|moment| **moment < whole / 2).count();
    assert!((10..50).contains(&early), "{early} of {CLIENTS}: {told:?}");
    assert!(*told.last().unwrap() > whole / 2, "{told:?}");
    // All at once, they would wait for a second and a half on average.
    let waited = login_waits(&deployment).await - waited;
    assert!(waited < f64::from(CLIENTS) * 0.75, "{waited} s in all");
    assert_eq!(detached(&deployment).await, 0.0);
    let metrics = deployment.metrics().await;
    assert_eq!(metrics.sum("reloads_held_total", &[]), f64::from(CLIENTS));
    settles("the wave", 0.0, async || {
        let metrics = deployment.metrics().await;
        metrics.sum("reload_wave_seconds", &[])
    })
    .await;
    // A monolith has started and says the same again: that is no news.
    workspace(&deployment).set_client_version("v2");
    let mut last = back.pop().unwrap();
    assert_eq!(last.message("changed").await["fields"]["version"], "v2");
    let metrics = deployment.metrics().await;
    assert_eq!(metrics.sum("reloads_held_total", &[]), f64::from(CLIENTS));
}

/// Logins are not paced, so nothing is.
#[tokio::test(flavor = "multi_thread")]
async fn at_once_when_logins_are_not_paced() {
    let deployment = Deployment::of(Plan {
        tables: "[logins]\npace = false\nrate = \"1/s\"\n".to_owned(),
        ..Plan::default()
    })
    .await;
    let mut clients = Vec::new();
    for n in 0..5 {
        clients.push(load(&deployment, &format!("user{n}")).await.0);
    }
    workspace(&deployment).set_client_version("v2");
    for client in &mut clients {
        assert_eq!(client.message("changed").await["fields"]["version"], "v2");
    }
    assert_eq!(
        deployment.metrics().await.sum("reloads_held_total", &[]),
        0.0
    );
}
