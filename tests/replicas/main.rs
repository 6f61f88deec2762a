//! Several gateways in front of the same streamers, on a real `nats-server`.
//!
//! Each gateway is a process of its own; the streamers and the users are in this one. By hand, with
//! as many users as you like:
//!
//!     REPLICAS_CLIENTS=3000 cargo test --release --test replicas -- --nocapture --test-threads 1

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a panic here is a failed test, and its numbers are small"
)]

mod clocks;
mod cluster;
mod cut;
#[path = "../e2e/resume/phone.rs"]
#[allow(dead_code, reason = "tests of one gateway use the rest")]
mod phone;
mod quotas;
mod scene;
#[path = "../nats/server.rs"]
#[allow(dead_code, reason = "its other moods belong to tests of the bus")]
mod server;
mod site;
#[path = "../support/mod.rs"]
mod support;
#[path = "../../loadtests/users/mod.rs"]
mod users;

use std::time::{Duration, Instant};

use crate::{
    cut::Cut,
    scene::{CONCURRENCY, RATE, Scene},
    server::NatsServer,
};

/// There are exactly as many places as users, who come to one gateway or another by chance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_fill_the_streamers_to_the_last_place_and_no_further() {
    let server = NatsServer::start();
    let urls = [server.url(), server.url(), server.url()];
    let mut scene = Scene::start(&urls, 6, 1.0).await;
    scene.everybody_is_together().await;
    let began = Instant::now();
    scene.let_in(1.0);
    scene.everybody_is_settled().await;
    let took = began.elapsed();
    scene.counts_are_right().await;
    scene.nobody_noticed();
    scene.never_too_many();
    let logins = scene.logins();
    println!(
        "{} users settled after {took:.1?}; most sockets on a streamer {} of {}; logins {logins:?}",
        scene.clients(),
        scene.most(),
        scene.limit(),
    );
    assert!(logins.most_in_flight <= CONCURRENCY);
    // The rate and one gateway's burst; what comes through late comes at once.
    let bunched = scene.longest_pause().as_secs_f64() * f64::from(RATE);
    let most = (RATE + RATE / 10) as usize + bunched as usize;
    assert!(logins.most_per_second <= most, "of {most}: {logins:?}");
    let least = Duration::from_secs(1) * (scene.clients() as u32 * 5 / 6 - RATE / 5) / RATE;
    assert!(took >= least, "{took:?} is faster than {RATE}/s");
    // One of them goes: the others have its share soon, and its clients' places.
    scene.stop(2).await;
    scene.knows(0, 1).await;
}

/// Nobody's socket notices, whoever comes meanwhile gets in, and all is right soon after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_is_killed_in_the_middle_and_comes_back() {
    let mut server = NatsServer::start();
    let urls = [server.url(), server.url()];
    let mut scene = Scene::start(&urls, 6, 2.0).await;
    scene.everybody_is_together().await;
    scene.let_in(0.5);
    scene.everybody_is_settled().await;
    scene.counts_are_right().await;
    server.kill();
    scene
        .is_degraded(0, "the connection to the NATS server was lost")
        .await;
    for gateway in [0, 1] {
        scene.knows(gateway, 0).await;
    }
    scene.let_in(0.25);
    scene.everybody_is_settled().await;
    server.start_again();
    let began = Instant::now();
    scene.counts_are_right().await;
    let took = began.elapsed();
    println!("counts are right {took:.1?} after NATS is back");
    assert!(took < Duration::from_secs(5), "{took:?}");
    scene.let_in(0.25);
    scene.everybody_is_settled().await;
    scene.counts_are_right().await;
    scene.nobody_noticed();
    scene.never_too_many();
}

/// What one says does not reach the other, though both have a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_between_gateways_heals() {
    let server = NatsServer::start();
    let cut = Cut::start(server.port).await;
    let urls = [server.url(), cut.url()];
    let mut scene = Scene::start(&urls, 6, 2.0).await;
    scene.everybody_is_together().await;
    scene.let_in(0.5);
    scene.everybody_is_settled().await;
    scene.counts_are_right().await;
    cut.hold();
    for gateway in [0, 1] {
        scene.knows(gateway, 0).await;
    }
    scene.let_in(0.25);
    scene.everybody_is_settled().await;
    cut.release();
    let began = Instant::now();
    scene.counts_are_right().await;
    let took = began.elapsed();
    println!("counts are right {took:.1?} after the split");
    assert!(took < Duration::from_secs(5), "{took:?}");
    scene.let_in(0.25);
    scene.everybody_is_settled().await;
    scene.counts_are_right().await;
    scene.nobody_noticed();
    scene.never_too_many();
}
