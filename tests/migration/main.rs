//! Sessions move from streamer to streamer while their clients are busy, and no client notices.
//!
//! The gateway is a process of its own, the streamers and the users are in this one. The users hear
//! numbered messages in their rooms, call methods that are counted where they are executed, type,
//! watch each other's presence, and open and close subscriptions. By hand:
//!
//!     MIGRATION_CLIENTS=5000 cargo test --release --test migration -- --nocapture --test-threads 1
//!
//! What is printed says how long each part took, and how late events were in it.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

mod gate;
mod orders;
mod scene;
mod stage;
#[path = "../support/mod.rs"]
mod support;
#[path = "../../loadtests/users/mod.rs"]
mod users;

use std::time::Duration;

use crate::{
    scene::{Plan, Scene},
    users::{Ended, Faults},
};

/// What the others see is worth something only if this passes: the harness itself loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_misses_anything_where_nothing_happens() {
    let mut scene = Scene::start(&Plan::default()).await;
    scene.quiet("nothing happens").await.is_calm();
    scene.finish().await.is_calm();
    scene.nobody_noticed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streamers_are_emptied_one_after_the_other_and_nobody_notices() {
    let mut scene = Scene::start(&Plan::default()).await;
    scene.quiet("before").await.is_calm();
    for n in 0..3 {
        scene.drain(n).await;
        scene.undrain(n).await;
        scene
            .stage(&format!("streamer {} emptied", n + 1))
            .is_calm();
    }
    scene.quiet("after").await.is_calm();
    scene.finish().await.is_calm();
    scene.nobody_noticed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_streamers_are_restarted_one_after_the_other_and_nobody_notices() {
    // As a busy message bus has it.
    let plan = Plan {
        skew: Duration::from_millis(70),
        rebalance: "fast",
        ..Plan::default()
    };
    let mut scene = Scene::start(&plan).await;
    scene.quiet("before").await.is_calm();
    for n in 0..3 {
        scene.drain(n).await;
        scene.streamers[n].stop().await;
        scene.streamers[n].start_again().await.unwrap();
        scene.undrain(n).await;
        scene
            .stage(&format!("streamer {} restarted", n + 1))
            .is_calm();
    }
    // Each that came back got its share again; the last one gets it now.
    scene.is_level().await;
    scene.stage("all are level again").is_calm();
    scene.quiet("after").await.is_calm();
    scene.finish().await.is_calm();
    scene.nobody_noticed();
}

/// A rolling update of which nobody tells the gateway but Kubernetes: no order, no hook.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pods_are_replaced_by_kubernetes_and_nobody_notices() {
    let plan = Plan {
        skew: Duration::from_millis(70),
        rebalance: "fast",
        kubernetes: true,
        ..Plan::default()
    };
    let mut scene = Scene::start(&plan).await;
    scene.quiet("before").await.is_calm();
    for n in 0..3 {
        scene.replace_pod(n).await;
        scene.stage(&format!("pod {} replaced", n + 1)).is_calm();
    }
    scene.is_level().await;
    scene.stage("all are level again").is_calm();
    scene.quiet("after").await.is_calm();
    scene.finish().await.is_calm();
    scene.nobody_noticed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_streamer_gets_its_share_and_nobody_notices() {
    let plan = Plan {
        up: 2,
        rebalance: "fast",
        ..Plan::default()
    };
    let mut scene = Scene::start(&plan).await;
    scene.quiet("before").await.is_calm();
    scene.streamers[2].start_again().await.unwrap();
    scene.is_level().await;
    scene.stage("a third streamer gets its share").is_calm();
    scene.quiet("after").await.is_calm();
    // And it stays so.
    let skew = scene.skew();
    assert!(skew <= 1.1, "{skew}");
    println!("    skew {skew:.3}");
    scene.finish().await.is_calm();
    scene.nobody_noticed();
}

/// Its clients, and only they, are closed; each of them comes back once, when a login is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_is_killed_and_only_its_clients_are_closed() {
    let mut scene = Scene::start(&Plan {
        mortal: true,
        ..Plan::default()
    })
    .await;
    scene.quiet("before").await.is_calm();
    let lost = scene.streamers[2].sessions();
    assert!(lost > 0);
    scene.gate.as_mut().unwrap().kill();
    let board = scene.crowd.board().clone();
    scene
        .sees("its clients to be back", async || {
            board.back() == lost as u64
        })
        .await;
    scene.everybody_is_settled().await;
    let stage = scene.stage("one of three is killed");
    let tally = &stage.tally;
    println!("    back        {}", tally.back);
    let closed = [("reason", "streamer_lost")];
    let closed = scene.metrics().await.sum("sessions_closed_total", &closed);
    assert_eq!(closed.to_string(), lost.to_string());
    assert_eq!(tally.ended.len(), 1, "{:?}", tally.ended);
    assert_eq!(tally.ended[&Ended::Closed(Some(1012))], lost as u64);
    // One attempt of each brought it back.
    assert_eq!(tally.attempts.len(), lost);
    assert_eq!(tally.most_attempts(Duration::from_secs(1)).0, 1);
    assert_eq!(tally.errors.len(), 0, "{:?}", tally.errors);
    // Whoever went away was seen to go, and what it had asked remains unanswered.
    let unavoidable = Faults {
        flaps: tally.traffic.faults.flaps,
        abandoned: tally.traffic.faults.abandoned,
        ..Faults::default()
    };
    assert_eq!(
        tally.traffic.faults, unavoidable,
        "{:?}",
        tally.first_breaches
    );
    assert_eq!(
        tally.breaches, unavoidable.flaps,
        "{:?}",
        tally.first_breaches
    );
    scene.quiet("after").await.is_calm();
    scene.finish().await.is_calm();
    assert!(scene.workspace.counted().most <= 1);
    scene.logins_were_paced();
}
