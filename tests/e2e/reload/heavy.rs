//! Many reloads under many sockets.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ddp_gateway::telemetry::process;
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use super::{quiet, reload, route};
use crate::support::{
    certificate::Pair,
    deployment::{Deployment, Plan, Servers},
    http, settles,
    socket::{Client, Way},
    soon, until,
};

/// One client of the storm: echoes its own numbers and counts the events of everybody.
struct Talker {
    client: Client,
    calls: u64,
    /// Events so far, of those who have subscribed.
    ticks: Option<u64>,
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
        // Of every way and framing some.
        let subscribes = n.is_multiple_of(7);
        if subscribes {
            let sub = json!({"msg": "sub", "id": "t", "name": "stream-notify-all",
                "params": ["tick", false]});
            client.send(&sub).await;
            client.message("ready").await;
        }
        Self {
            client,
            calls: 0,
            ticks: subscribes.then_some(0),
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
        let expected = self.ticks.ok_or("an event without a subscription")?;
        if message["fields"]["args"][0] != expected {
            return Err(format!("{message} instead of event {expected}"));
        }
        self.ticks = Some(expected + 1);
        Ok(())
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
    let (ready, mut opened) = mpsc::unbounded_channel();
    let opening = Arc::new(Semaphore::new(50));
    let mut talkers = JoinSet::new();
    for n in 0..SOCKETS {
        let (deployment, running) = (deployment.clone(), running.clone());
        let (echoes, ready, opening) = (echoes.clone(), ready.clone(), opening.clone());
        talkers.spawn(async move {
            let turn = opening.acquire().await.unwrap();
            let mut talker = Talker::start(&deployment, n).await;
            drop(turn);
            ready.send(()).unwrap();
            // Each at a pace of its own, so that something is always under way.
            let pause = Duration::from_millis(1000 + (n as u64 * 37) % 2000);
            let mut turns = interval_at(Instant::now() + pause, pause);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while running.load(Ordering::Relaxed) {
                soon("an echo", talker.echo())
                    .await
                    .unwrap_or_else(|fault| panic!("client {n}: {fault}"));
                echoes.fetch_add(1, Ordering::Relaxed);
                turns.tick().await;
            }
            talker
        });
    }
    let all_open = async {
        for _ in 0..SOCKETS {
            tokio::select! {
                _ = opened.recv() => {}
                // Nobody leaves yet: this is one that failed, and says why.
                Some(ended) = talkers.join_next() => {
                    panic!("{:?}", ended.map(|_| "a client left"));
                }
            }
        }
    };
    timeout(Duration::from_secs(180), all_open)
        .await
        .expect("sockets do not open");
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
        echoes.load(Ordering::Relaxed) > so_far + SOCKETS as u64
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
        if talker.ticks.is_some() {
            // Whatever is still on its way comes before the answer to one more echo.
            talker.echo().await.unwrap();
            assert_eq!(talker.ticks, Some(RELOADS as u64));
            ticked += 1;
        }
    }
    assert_eq!(ticked, SOCKETS.div_ceil(7));
}
