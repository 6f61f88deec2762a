//! All streamers die and come back under many simulated users of the three kinds.
//!
//! The gateway is a process of its own, the streamers and the users are in this one. By hand:
//!
//!     STORM_CLIENTS=5000 cargo test --test storm -- --nocapture everybody
//!
//! What is printed says how the users fared, and how late the machine itself was.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

mod scene;
#[path = "../support/mod.rs"]
mod support;
#[path = "../../loadtests/users/mod.rs"]
mod users;
mod witness;

use std::time::Duration;

use ddp_gateway::demo::logins::LoginModel;

use crate::scene::{Outcome, Scene, Weather, clients};

/// Logins in flight at one streamer, and at all of them.
const STREAMER_LIMIT: usize = 8;
const LIMIT: usize = 24;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_comes_back_and_logins_are_paced() {
    let clients = clients();
    let free = through("logins at once", &weather(clients, "pace = false")).await;
    let pace = format!(
        "concurrency = {LIMIT}\nstreamer_concurrency = {STREAMER_LIMIT}\n\
         rate = \"1000/s\"\nstreamer_rate = \"1000/s\""
    );
    let paced = through("logins paced", &weather(clients, &pace)).await;

    assert!(paced.all.most_in_flight <= LIMIT, "{:?}", paced.all);
    for one in &paced.each {
        assert!(one.most_in_flight <= STREAMER_LIMIT, "{one:?}");
    }
    // What the limits keep away: without them this test would see it.
    assert!(free.all.most_in_flight > LIMIT, "{:?}", free.all);
    assert!(free.all.slowest > paced.all.slowest, "{:?}", free.all);
}

/// Browsers are judged only while this process is not later than that for what is due.
const TOLERABLE: Duration = Duration::from_millis(100);

/// One storm, in which everything holds that has to hold in every storm.
async fn through(name: &str, weather: &Weather) -> Outcome {
    let scene = Scene::start(weather).await;
    let outcome = scene.storm().await;
    report(name, weather, &outcome);
    calm(weather, &outcome);
    outcome
}

/// Four streamers, and a monolith that logs 200 users in within a second.
fn weather(clients: usize, logins: &str) -> Weather {
    let streamers = 4;
    Weather {
        clients,
        streamers,
        logins: LoginModel {
            cost: Duration::from_millis(40),
            workers: 8,
        },
        subscriptions: 15,
        // Room for all on half of them: the first one that is back takes more than its share.
        tables: format!(
            "[pool]\nsessions_per_streamer = {}\nslow_start = \"0s\"\n\
             [log]\naccess = false\n[logins]\n{logins}\n",
            clients.div_ceil(streamers) * 2
        ),
        patience: Duration::from_millis(30_000 + 20 * clients as u64),
    }
}

fn report(name: &str, weather: &Weather, outcome: &Outcome) {
    let each: Vec<usize> = outcome.each.iter().map(|one| one.most_in_flight).collect();
    println!(
        "{name}: {} clients, {} streamers; settled {:.1?} after the streamers were back\n\
         \x20   machine     late by {}\n{}\n\
         \x20   logins      most in flight {}, on each streamer {each:?}, most in a second {}, \
         slowest there {:.1?}",
        weather.clients,
        weather.streamers,
        outcome.settled,
        outcome.late,
        outcome.tally,
        outcome.all.most_in_flight,
        outcome.all.most_per_second,
        outcome.all.slowest,
    );
    println!(
        "    gateway     {:.2} % of the upgrades answered within 50 ms\n    witness's o {}",
        outcome.in_time * 100.0,
        outcome.witness.opened,
    );
}

/// What holds in every storm.
fn calm(weather: &Weather, outcome: &Outcome) {
    let Outcome { tally, .. } = outcome;
    assert_eq!(tally.breaches, 0, "{:?}", tally.first_breaches);
    assert_eq!(tally.errors.len(), 0, "{:?}", tally.errors);
    assert!(tally.logins >= weather.clients as u64);
    // A client whose transport opens comes back once. One whose transport does not open in time may
    // try again after 10 ms, twice, and then waits for seconds; who is accepted and then closed
    // would come back a hundred times in a second.
    let (most, dense) = tally.most_attempts(Duration::from_secs(1));
    assert!(
        most <= 4 && dense <= 3,
        "{most} attempts of one client, {dense} of them within a second"
    );
    // Two for each browser that gave the WebSocket up, which it does after 0.6 s without an answer.
    // On a machine that is itself late that says nothing about the gateway.
    if outcome.late.at(0.99) < TOLERABLE {
        assert!(
            tally.fallbacks <= weather.clients as u64 / 50,
            "browsers went to polling: {}",
            tally.fallbacks
        );
    }
    let seen = &outcome.witness;
    assert!(seen.failed.is_empty(), "no `o`: {:?}", seen.failed[0]);
    assert!(seen.opened.count() > 100, "{:?}", seen.opened);
    assert!(
        outcome.in_time >= 0.99,
        "only {:.2} % of the upgrades were answered within 50 ms",
        outcome.in_time * 100.0
    );
}
