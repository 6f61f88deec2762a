//! A client's connection breaks and the client comes back: its streamer notices nothing.

mod moving;
mod phone;

use std::{collections::BTreeMap, future::poll_fn};

use ddp_gateway::{base::id::StreamerId, ddp::Framing};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use phone::{Line, Phone};

use crate::support::{
    deployment::{Deployment, Plan},
    metrics::Metrics,
    settles,
    socket::{Client, Way, open},
    soon, until,
};

fn lines(deployment: &Deployment) -> Vec<Line> {
    let mut lines = Vec::new();
    for (way, address) in [
        (Way::Plain, deployment.plain()),
        (Way::Tls, deployment.tls()),
    ] {
        for framing in [Framing::Raw, Framing::SockJs] {
            lines.push(Line {
                address,
                way,
                framing,
            });
        }
    }
    lines
}

async fn with_grace(grace: &str) -> Deployment {
    Deployment::of(Plan {
        tables: format!("[websocket]\nresume_grace = \"{grace}\"\n[logins]\npace = false\n{QUIET}"),
        ..Plan::default()
    })
    .await
}

fn publish(deployment: &Deployment, number: u64) {
    let workspace = deployment.streamers[0].workspace();
    workspace.publish("stream-room-messages", "GENERAL", &[json!({"n": number})]);
}

async fn in_phase(deployment: &Deployment, phase: &str) -> usize {
    let metrics = deployment.metrics().await;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    let count = metrics.sum("sessions", &[("phase", phase)]) as usize;
    count
}

async fn resumes(deployment: &Deployment, outcome: &str) -> f64 {
    let metrics = deployment.metrics().await;
    metrics.sum("resumes_total", &[("outcome", outcome)])
}

/// Sockets of the streamers: open now, and ever opened.
fn sockets(deployment: &Deployment) -> (usize, u64) {
    let counters = deployment.streamers.iter().map(|one| one.counters());
    counters.fold((0, 0), |(open, total), counters| {
        (open + counters.sockets, total + counters.sockets_total)
    })
}

/// Messages of clients that came to the streamers.
fn heard(deployment: &Deployment) -> u64 {
    let counters = deployment
        .streamers
        .iter()
        .map(|streamer| streamer.counters());
    counters.map(|counters| counters.messages_in).sum()
}

/// Publishes an event and waits until the gateway has read it `times` times.
async fn publish_to(times: usize, deployment: &Deployment, number: u64) {
    const BYTES: usize = 10_000;
    let read = async || {
        let metrics = deployment.metrics().await;
        metrics.sum("session_bytes_total", &[("direction", "down")])
    };
    #[expect(clippy::cast_precision_loss, reason = "small")]
    // What else comes meanwhile has less than one of them.
    let all = read().await + (times * BYTES) as f64;
    let workspace = deployment.streamers[0].workspace();
    let event = json!({"n": number, "text": "x".repeat(BYTES)});
    workspace.publish("stream-room-messages", "GENERAL", &[event]);
    until("the gateway has the event", async || read().await >= all).await;
}

/// From the first client on that counts, all are taken for such.
async fn teach(deployment: &Deployment) {
    let mut phone = Phone::new(lines(deployment)[0], true, "teacher");
    phone.session = Some("unknown".to_owned());
    phone.connect().await;
    phone.until_in().await;
    phone.send_frame(Message::Close(None)).await;
    deployment.sessions(0).await;
}

#[tokio::test]
async fn a_client_that_counts_misses_nothing_and_gets_nothing_twice() {
    let deployment = with_grace("60s").await;
    teach(&deployment).await;
    let mut number = 0;
    for (n, line) in lines(&deployment).into_iter().enumerate() {
        let mut phone = Phone::in_room(line, true, &format!("ann{n}")).await;
        let before = sockets(&deployment);
        let session = phone.session.clone();
        let first = number;
        for round in 0..3 {
            number += 1;
            publish(&deployment, number);
            phone.until_event(number).await;
            // In flight while the connection breaks, and answered meanwhile.
            let heard_before = heard(&deployment);
            let call = phone.call("demo:sleep", json!([100])).await;
            let text = format!("{n}-{round}");
            phone.say(&text).await;
            until("both are with the streamer", async || {
                heard(&deployment) >= heard_before + 2
            })
            .await;
            phone.cut();
            settles("detached", 1 + n, async || {
                in_phase(&deployment, "detached").await
            })
            .await;
            number += 1;
            publish(&deployment, number);
            phone.connect().await;
            phone.until_event(number).await;
            phone.until_answered().await;
            assert_eq!(phone.session, session, "{line:?}");
            let answered = phone
                .results
                .iter()
                .filter(|result| result["id"] == call.as_str());
            assert_eq!(answered.count(), 1);
        }
        let numbers: Vec<u64> = (first + 1..=number).collect();
        assert_eq!(phone.numbers(), numbers, "{line:?}");
        assert_eq!(phone.ready, ["room", "services"], "ready once: {line:?}");
        assert_eq!(
            sockets(&deployment),
            before,
            "the streamers noticed: {line:?}"
        );
        let texts = [format!("{n}-0"), format!("{n}-1"), format!("{n}-2")];
        while phone.texts().len() < texts.len() {
            phone.read().await;
        }
        assert_eq!(phone.texts(), texts, "{line:?}");
        phone.cut();
        settles("detached", 1 + n, async || {
            in_phase(&deployment, "detached").await
        })
        .await;
    }
    assert_eq!(resumes(&deployment, "resumed").await, 12.0);
    assert_eq!(resumes(&deployment, "rebound").await, 0.0);
}

#[tokio::test]
async fn a_client_that_does_not_count_keeps_its_leg_under_a_new_id() {
    let deployment = with_grace("60s").await;
    for (n, line) in lines(&deployment).into_iter().enumerate() {
        let mut phone = Phone::in_room(line, false, &format!("bob{n}")).await;
        let before = sockets(&deployment);
        let services = phone.documents.clone();
        assert!(!services.is_empty());
        for _ in 0..2 {
            let session = phone.session.clone();
            let call = phone.call("demo:sleep", json!([100])).await;
            phone.cut();
            settles("detached", n + 1, async || {
                in_phase(&deployment, "detached").await
            })
            .await;
            publish_to(n + 1, &deployment, 1).await;
            phone.connect().await;
            phone.until_in().await;
            phone.until_answered().await;
            assert_ne!(phone.session, session);
            assert_eq!(phone.results.last().unwrap()["id"], call.as_str());
            // What it has forgotten with its old session is there again.
            while !services
                .iter()
                .all(|document| phone.documents.contains(document))
            {
                phone.read().await;
            }
            assert_eq!(
                sockets(&deployment),
                before,
                "the streamers noticed: {line:?}"
            );
        }
        assert_eq!(phone.results.len(), 2);
        publish(&deployment, 7);
        phone.until_event(7).await;
        assert_eq!(
            phone.numbers(),
            [7],
            "what it fetches on its own is not sent"
        );
        phone.cut();
        settles("detached", n + 1, async || {
            in_phase(&deployment, "detached").await
        })
        .await;
    }
    assert_eq!(resumes(&deployment, "rebound").await, 8.0);
}

#[tokio::test]
async fn one_that_does_not_count_is_in_at_once_while_others_wait_to_log_in() {
    let deployment = Deployment::of(Plan {
        streamers: 1,
        tables: format!(
            "[websocket]\nresume_grace = \"60s\"\n[logins]\ntimeout = \"60s\"\n{QUIET}"
        ),
        ..Plan::default()
    })
    .await;
    let shared = deployment.app.control().shared().clone();
    let logins = &shared.logins;
    let streamer = StreamerId::new(deployment.streamers[0].address().to_string());
    for (n, line) in lines(&deployment).into_iter().enumerate() {
        let user = format!("ann{n}");
        let mut phone = Phone::in_room(line, false, &user).await;
        let before = sockets(&deployment);
        // Everybody else is logging in. Its own login ends after the answer, and may widen the limit.
        let report = || logins.report(Instant::now().into_std()).streamer(&streamer);
        settles("logins", 0, async || report().in_flight).await;
        let limit = report().limit;
        let mut others = Vec::new();
        for _ in 0..limit {
            let mut ticket = logins
                .wait(&streamer, Instant::now().into_std())
                .expect("there is room in the queue");
            let turn = poll_fn(|cx| ticket.poll(cx, Instant::now().into_std()));
            others.push(soon("a login's turn", turn).await);
        }
        phone.cut();
        settles("detached", 1, async || {
            in_phase(&deployment, "detached").await
        })
        .await;
        phone.connect().await;
        phone.until_welcome().await;
        let number = n as u64 + 1;
        publish(&deployment, number);
        phone.until_event(number).await;
        let own = |phone: &Phone| {
            let mut documents = phone.documents.iter();
            documents.any(|document| document["id"] == format!("uid-{user}"))
        };
        assert!(!own(&phone) && !phone.is_logged_in(), "{line:?}");
        // Lost again while it waits.
        phone.cut();
        settles("detached", 1, async || {
            in_phase(&deployment, "detached").await
        })
        .await;
        phone.connect().await;
        phone.until_welcome().await;
        assert!(!own(&phone) && !phone.is_logged_in(), "{line:?}");
        drop(others);
        phone.until_in().await;
        assert!(own(&phone), "the document came before `updated`: {line:?}");
        assert_eq!(sockets(&deployment), before, "{line:?}");
        assert_eq!(phone.numbers(), [number]);
        phone.send_frame(Message::Close(None)).await;
        deployment.sessions(0).await;
    }
    assert_eq!(resumes(&deployment, "rebound").await, 8.0);
}

#[tokio::test]
async fn a_client_is_back_before_its_loss_is_noticed() {
    let deployment = with_grace("15s").await;
    teach(&deployment).await;
    let mut dead = Vec::new();
    for (n, line) in lines(&deployment).into_iter().enumerate() {
        for counts in [true, false] {
            let mut phone = Phone::in_room(line, counts, &format!("eve{n}")).await;
            let before = sockets(&deployment);
            let session = phone.session.clone();
            publish(&deployment, 1);
            phone.until_event(1).await;
            // Its network is gone: what is sent goes nowhere.
            dead.push(phone.vanish());
            for number in 2..10 {
                publish(&deployment, number);
            }
            phone.connect().await;
            phone.until_logged_in().await;
            publish(&deployment, 10);
            phone.until_event(10).await;
            assert_eq!(phone.session == session, counts, "{line:?}");
            let expected: Vec<u64> = if counts {
                (1..=10).collect()
            } else {
                vec![1, 10]
            };
            assert_eq!(phone.numbers(), expected, "{line:?} {counts}");
            assert_eq!(sockets(&deployment), before);
            phone.send_frame(Message::Close(None)).await;
        }
    }
}

#[tokio::test]
async fn nothing_is_released_to_another_token() {
    let deployment = with_grace("60s").await;
    teach(&deployment).await;
    let line = lines(&deployment)[0];
    let mut phone = Phone::in_room(line, true, "ann").await;
    let session = phone.session.clone();

    // A live session stays with its client.
    let mut thief = Phone::new(line, true, "mallory");
    thief.session.clone_from(&session);
    thief.connect().await;
    thief.until_logged_in().await;
    assert_ne!(thief.session, session);
    assert_eq!(
        thief
            .documents
            .iter()
            .filter(|document| document["id"] == "uid-ann")
            .count(),
        0
    );
    publish(&deployment, 1);
    phone.until_event(1).await;

    // One that has lost its client ends.
    let open = sockets(&deployment).0;
    phone.cut();
    settles("detached", 1, async || {
        in_phase(&deployment, "detached").await
    })
    .await;
    publish(&deployment, 2);
    let mut thief = Phone::new(line, true, "mallory");
    thief.session.clone_from(&session);
    thief.connect().await;
    thief.until_logged_in().await;
    assert_ne!(thief.session, session);
    assert_eq!(thief.numbers(), [] as [u64; 0]);
    settles("sockets", open, async || sockets(&deployment).0).await;
    assert_eq!(resumes(&deployment, "refused").await, 2.0);

    // Its client is then a newcomer like any other.
    phone.ready.clear();
    phone.connect().await;
    phone.until_in().await;
    assert_ne!(phone.session, session);
    assert_eq!(resumes(&deployment, "resumed").await, 0.0);
}

#[tokio::test]
async fn a_claim_without_a_login_is_a_newcomer() {
    let deployment = with_grace("60s").await;
    let line = lines(&deployment)[0];
    let mut phone = Phone::in_room(line, true, "ann").await;
    phone.cut();
    settles("detached", 1, async || {
        in_phase(&deployment, "detached").await
    })
    .await;
    for first in [
        Some(json!({"msg": "sub", "id": "x", "name": "stream-notify-all", "params": ["e", false]})),
        None,
    ] {
        let (socket, _) = open(line.address, line.way, "/websocket", &[])
            .await
            .unwrap();
        let mut client = Client::connect_as(
            socket,
            Framing::Raw,
            &json!({"msg": "connect", "version": "1", "support": ["1"],
                    "session": phone.session, "receivedCount": 3}),
            first.as_ref(),
        )
        .await;
        assert_ne!(Some(&client.session), phone.session.as_ref());
        if first.is_some() {
            assert_eq!(client.message("ready").await["subs"][0], "x");
        }
        client.close().await;
    }
    assert_eq!(in_phase(&deployment, "detached").await, 1);
}

#[tokio::test]
async fn a_goodbye_ends_the_leg_at_once() {
    let deployment = with_grace("60s").await;
    for line in lines(&deployment) {
        for goodbye in ["1000", "1001", "4000", "none", "disconnect", "logout"] {
            let mut phone = Phone::in_room(line, true, "ann").await;
            match goodbye {
                "disconnect" => {
                    phone.send(json!({"msg": "disconnect"})).await;
                    // Read behind it, so that it has arrived.
                    phone.call("demo:echo", json!([1])).await;
                    phone.until_answered().await;
                }
                "logout" => {
                    phone.call("logout", json!([])).await;
                    phone.until_answered().await;
                }
                "none" => phone.send_frame(Message::Close(None)).await,
                code => {
                    let frame = CloseFrame {
                        code: CloseCode::from(code.parse::<u16>().unwrap()),
                        reason: "".into(),
                    };
                    phone.send_frame(Message::Close(Some(frame))).await;
                }
            }
            phone.cut();
            deployment.sessions(0).await;
            settles("sockets", 0, async || sockets(&deployment).0).await;
        }
    }
    assert_eq!(resumes(&deployment, "expired").await, 0.0);
}

#[tokio::test]
async fn a_leg_is_kept_for_the_grace_period_and_not_at_all_without_a_user() {
    let deployment = with_grace("1s").await;
    let line = lines(&deployment)[1];
    let mut phone = Phone::in_room(line, false, "ann").await;
    let lost = Instant::now();
    phone.cut();
    settles("sockets", 0, async || sockets(&deployment).0).await;
    assert!(lost.elapsed().as_millis() >= 900, "{:?}", lost.elapsed());
    deployment.sessions(0).await;
    assert_eq!(resumes(&deployment, "expired").await, 1.0);

    // Nobody could prove that an anonymous session is its own.
    let client = Client::raw(line.address, Way::Plain).await;
    drop(client);
    deployment.sessions(0).await;
    assert_eq!(resumes(&deployment, "expired").await, 1.0);

    let off = with_grace("0s").await;
    let mut phone = Phone::in_room(lines(&off)[0], true, "ann").await;
    phone.cut();
    off.sessions(0).await;
    assert_eq!(in_phase(&off, "detached").await, 0);
    assert_eq!(resumes(&off, "expired").await, 1.0, "as before");
}

#[tokio::test]
async fn a_draining_gateway_waits_for_nobody() {
    let deployment = Deployment::of(Plan {
        tables: "[websocket]\nresume_grace = \"60s\"\n\
                 [drain]\ndelay = \"0s\"\nspread = \"20s\"\ndeadline = \"25s\"\n"
            .to_owned(),
        ..Plan::default()
    })
    .await;
    let mut phone = Phone::in_room(lines(&deployment)[0], true, "ann").await;
    phone.cut();
    settles("detached", 1, async || {
        in_phase(&deployment, "detached").await
    })
    .await;
    let started = Instant::now();
    deployment.app.drain(None).await;
    soon("the drain", deployment.app.wait()).await;
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
    assert_eq!(sockets(&deployment).0, 0);
}

/// Its sessions could be asked for by nobody, so they end with their clients.
#[tokio::test]
async fn a_gateway_that_is_alone_keeps_nothing_when_it_ends() {
    let deployment = Deployment::of(Plan {
        tables: "[websocket]\nresume_grace = \"60s\"\n\
                 [drain]\ndelay = \"0s\"\nspread = \"500ms\"\ndeadline = \"25s\"\n"
            .to_owned(),
        ..Plan::default()
    })
    .await;
    let mut phone = Phone::in_room(lines(&deployment)[0], true, "ann").await;
    let started = Instant::now();
    deployment.app.drain(None).await;
    assert_eq!(phone.until_closed().await, Some(1012));
    soon("the drain", deployment.app.wait()).await;
    assert!(started.elapsed().as_secs() < 7, "{:?}", started.elapsed());
    assert_eq!(sockets(&deployment).0, 0);
}

#[tokio::test]
async fn an_idle_session_holds_no_copy() {
    let deployment = with_grace("15s").await;
    teach(&deployment).await;
    let mut phone = Phone::in_room(lines(&deployment)[3], true, "ann").await;
    for number in 1..=20 {
        publish(&deployment, number);
    }
    phone.until_event(20).await;
    let held = async || {
        Metrics::read(deployment.admin())
            .await
            .sum("backlog_bytes", &[])
    };
    assert!(held().await > 0.0, "the copies are counted");
    // The pong to the gateway's ping goes out while the phone reads on.
    tokio::select! {
        () = settles("bytes held", 0.0, held) => {}
        () = async { loop { phone.read().await } } => {}
    }
    phone.cut();
    settles("detached", 1, async || {
        in_phase(&deployment, "detached").await
    })
    .await;
    publish(&deployment, 21);
    phone.connect().await;
    phone.until_event(21).await;
    assert_eq!(phone.numbers(), (1..=21).collect::<Vec<u64>>());
}

/// Cut at once, back at once, three times over.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_a_thousand_clients_lose_their_network() {
    ddp_gateway::telemetry::process::raise_descriptor_limit();
    let deployment = Deployment::of(Plan {
        streamers: 3,
        tables: format!(
            "[websocket]\nresume_grace = \"60s\"\n[logins]\npace = false\n\
             [pool]\nsessions_per_streamer = 1000\nslow_start = \"0s\"\n{QUIET}"
        ),
        ..Plan::default()
    })
    .await;
    teach(&deployment).await;
    let lines = lines(&deployment);
    let mut phones: Vec<Phone> = stream::iter(0..CLIENTS)
        .map(|n| {
            let line = lines[n % 4];
            async move { Phone::in_room(line, n / 4 % 2 == 0, &format!("user{n}")).await }
        })
        .buffer_unordered(32)
        .collect()
        .await;
    let mut watcher = Phone::in_room(lines[0], true, "watcher").await;
    let uids: Vec<Value> = (0..CLIENTS).map(|n| json!(format!("user{n}"))).collect();
    watch(&mut watcher, &uids).await;
    let before = sockets(&deployment);
    let mut number = 0;
    for round in 0..3 {
        for phone in &mut phones {
            phone.call("demo:sleep", json!([50])).await;
        }
        number += 1;
        publish(&deployment, number);
        for (n, phone) in phones.iter_mut().enumerate() {
            // Some have read the event, others not.
            if n % 3 == 0 {
                phone.until_event(number).await;
            }
            phone.cut();
        }
        settles("detached", CLIENTS, async || {
            in_phase(&deployment, "detached").await
        })
        .await;
        number += 1;
        publish(&deployment, number);
        phones = stream::iter(phones)
            .map(|mut phone| async move {
                phone.connect().await;
                phone.until_answered().await;
                phone
            })
            .buffer_unordered(64)
            .collect()
            .await;
        number += 1;
        publish(&deployment, number);
        for phone in &mut phones {
            phone.until_event(number).await;
        }
        assert_eq!(
            sockets(&deployment),
            before,
            "the streamers noticed round {round}"
        );
    }
    let mut numbers = BTreeMap::new();
    for phone in &phones {
        assert_eq!(phone.results.len(), 3, "every method has one answer");
        if phone.counts() {
            let expected: Vec<u64> = (1..=number).collect();
            assert_eq!(phone.numbers(), expected, "nothing lost, nothing doubled");
        } else {
            let mut seen = phone.numbers();
            seen.dedup();
            assert_eq!(seen, phone.numbers(), "nothing doubled");
            *numbers.entry(seen.len()).or_insert(0) += 1;
        }
    }
    println!("events that clients without a count have seen, of {number}: {numbers:?}");
    watcher.until_event(number).await;
    let flaps = watcher.events.iter().filter(|event| {
        event["collection"] == "stream-user-presence" && event["fields"]["args"][0][1] == 0
    });
    assert_eq!(flaps.count(), 0, "a user flapped to offline");
    let half = CLIENTS as f64 / 2.0 * 3.0;
    assert_eq!(resumes(&deployment, "resumed").await, half);
    assert_eq!(resumes(&deployment, "rebound").await, half);
}

/// Watches the presence of these users.
async fn watch(phone: &mut Phone, uids: &[Value]) {
    let params = json!(["", {"added": uids}]);
    phone
        .send(json!({"msg": "sub", "id": "presence", "name": "stream-user-presence", "params": params}))
        .await;
    while !phone.ready.contains(&"presence".to_owned()) {
        phone.read().await;
    }
}

const CLIENTS: usize = 1_000;

/// No probes among the streamers' sockets.
const QUIET: &str = "[health]\nddp_interval = \"1h\"\n";
