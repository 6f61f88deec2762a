//! A new configuration, and what nobody must notice of it.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ddp_gateway::telemetry::process;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::support::{
    certificate::Pair,
    deployment::{Deployment, Plan, Servers},
    http, settles,
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
async fn limits_apply_to_live_sockets() {
    let deployment = quiet(Plan::default()).await;
    let mut client = Client::raw(deployment.plain(), Way::Plain).await;
    let limited = async || {
        let metrics = deployment.metrics().await;
        metrics.sum("limited_total", &[("reason", "messages")])
    };
    for n in 0..10 {
        client.call("demo:echo", json!([n])).await;
    }
    assert_eq!(limited().await, 0.0);
    let text = deployment.text_of(deployment.plan());
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

/// One client of the storm: echoes its own numbers and counts the events of everybody.
struct Talker {
    client: Client,
    calls: u64,
    tick: Option<u64>,
}

impl Talker {
    async fn start(deployment: &Deployment, n: usize) -> Self {
        let (address, way) = match n % 2 {
            0 => (deployment.plain(), Way::Plain),
            _ => (deployment.tls(), Way::Tls),
        };
        let mut client = match n % 4 {
            0 | 1 => Client::raw(address, way).await,
            _ => Client::sockjs(address, way).await,
        };
        if n.is_multiple_of(10) {
            let sub = json!({"msg": "sub", "id": "t", "name": "stream-notify-all",
                "params": ["tick", false]});
            client.send(&sub).await;
            client.message("ready").await;
        }
        Self {
            client,
            calls: 0,
            tick: None,
        }
    }

    /// Sends a number and takes everything up to its return.
    async fn echo(&mut self) -> Result<(), String> {
        self.calls += 1;
        let (id, sent) = (self.calls.to_string(), self.calls);
        let call = json!({"msg": "method", "id": id, "method": "demo:echo", "params": [sent]});
        self.client.send(&call).await;
        loop {
            let message = self.client.next().await.map_err(|end| format!("{end:?}"))?;
            match message["msg"].as_str() {
                Some("result") if message["id"] == *id && message["result"] == sent => {
                    return Ok(());
                }
                Some("result") => return Err(format!("lost: {message} instead of {sent}")),
                Some("changed") => self.tick(&message)?,
                Some("ping") => self.client.send(&json!({"msg": "pong"})).await,
                _ => {}
            }
        }
    }

    fn tick(&mut self, message: &Value) -> Result<(), String> {
        let tick = message["fields"]["args"][0].as_u64();
        let gapless = match (self.tick, tick) {
            (None, Some(_)) => true,
            (Some(last), Some(tick)) => tick == last + 1,
            (_, None) => false,
        };
        self.tick = tick;
        if gapless {
            Ok(())
        } else {
            Err(format!("a gap before {message}"))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_under_two_thousand_sockets_lose_nothing() {
    const SOCKETS: usize = 2000;
    const RELOADS: usize = 100;
    // A client, the gateway's two ends and the streamer: four descriptors per socket.
    let descriptors = process::raise_descriptor_limit();
    assert!(
        descriptors > 4 * SOCKETS as u64 + 500,
        "only {descriptors} descriptors"
    );
    let deployment = quiet(Plan {
        streamers: 4,
        tables: "[pool]\nsessions_per_streamer = 1000\n".to_owned(),
        ..Plan::default()
    })
    .await;
    let deployment = Arc::new(deployment);
    let other = Servers::start(0).await;

    let running = Arc::new(AtomicBool::new(true));
    let echoes = Arc::new(AtomicU64::new(0));
    let ready = Arc::new(AtomicUsize::new(0));
    let opening = Arc::new(Semaphore::new(50));
    let mut talkers = JoinSet::new();
    for n in 0..SOCKETS {
        let (deployment, running) = (deployment.clone(), running.clone());
        let (echoes, ready, opening) = (echoes.clone(), ready.clone(), opening.clone());
        talkers.spawn(async move {
            let turn = opening.acquire().await.unwrap();
            let mut talker = Talker::start(&deployment, n).await;
            drop(turn);
            ready.fetch_add(1, Ordering::Relaxed);
            while running.load(Ordering::Relaxed) {
                soon("an echo", talker.echo())
                    .await
                    .unwrap_or_else(|fault| panic!("client {n}: {fault}"));
                echoes.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(500 + (n as u64 * 37) % 1000)).await;
            }
            talker
        });
    }
    let opened = Instant::now();
    while ready.load(Ordering::Relaxed) < SOCKETS {
        assert!(
            opened.elapsed() < Duration::from_secs(180),
            "sockets do not open"
        );
        if let Some(ended) = talkers.try_join_next() {
            ended.unwrap();
        }
        sleep(Duration::from_millis(50)).await;
    }
    deployment.sessions(SOCKETS).await;

    let base = deployment.text_of(deployment.plan());
    let workspace = deployment.streamers[0].workspace().clone();
    let mut certificate = deployment.certificate.clone();
    for n in 0..RELOADS {
        workspace.publish("stream-notify-all", "tick", &[json!(n)]);
        let mut text = base.clone();
        if n % 2 == 1 {
            text.push_str(&route(&other));
        }
        text.push_str(&format!(
            "[limits]\nmessages = \"{}/s\"\n[websocket]\nbuffer = \"{}KiB\"\n",
            20 + n % 5,
            1025 + n
        ));
        if n % 5 == 0 {
            certificate = Pair::write(deployment.folder.path(), "tls", &["localhost"]);
        }
        if n % 10 == 9 {
            let broken = reload(&deployment, &format!("{text}\nnonsense")).await;
            assert_eq!(broken.status, 422);
        }
        let answer = reload(&deployment, &text).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        if n % 5 == 0 {
            let fresh = http::tls(deployment.tls(), "localhost", &[]).await.unwrap();
            let seen = fresh.get_ref().1.peer_certificates().unwrap()[0].to_vec();
            assert_eq!(seen, certificate.der);
        }
    }
    // Traffic after the last reload too, from everybody.
    let so_far = echoes.load(Ordering::Relaxed);
    until("another round of echoes", async || {
        echoes.load(Ordering::Relaxed) > so_far + 2 * SOCKETS as u64
    })
    .await;

    let metrics = deployment.metrics().await;
    assert_eq!(
        metrics.sum("sessions_closed_total", &[]),
        0.0,
        "sockets were closed"
    );
    assert_eq!(
        metrics.sum("config_reloads_total", &[("result", "ok")]),
        101.0
    );
    assert_eq!(metrics.sum("config_generation", &[]), 101.0);
    assert_eq!(deployment.app.control().progress().sessions, SOCKETS);
    settles("old configurations", true, async || {
        deployment.metrics().await.sum("config_snapshots", &[]) <= 2.0
    })
    .await;

    running.store(false, Ordering::Relaxed);
    let mut ticked = 0;
    while let Some(talker) = talkers.join_next().await {
        let mut talker = talker.unwrap();
        if talker.tick.is_some() {
            // Whatever is still on its way arrives with one more echo.
            talker.echo().await.unwrap();
            assert_eq!(talker.tick, Some(RELOADS as u64 - 1));
            ticked += 1;
        }
    }
    assert_eq!(ticked, SOCKETS / 10);
}
