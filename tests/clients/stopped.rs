//! A streamer whose process is stopped by a signal: its kernel goes on to accept connections and to take
//! in what is sent, and nobody answers.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ddp_gateway::{
    control::pool_task::{self, Events},
    discovery::Listing,
    pool::Pool,
};
use rustix::process::Signal;
use tokio::sync::watch;

use crate::{
    backends::Backend,
    support::{deployment, stopwatch::Stopwatch, until},
};

#[tokio::test]
async fn a_stopped_process_is_out_and_its_return_is_used_in_time() {
    let backends = [
        Backend::start("node-1").await,
        Backend::start("node-2").await,
    ];
    let [first, second] = &backends;
    let address = |backend: &Backend| SocketAddr::from(([127, 0, 0, 1], backend.port));
    // All limits as they are without a word in the configuration.
    let config = deployment::read(&format!(
        "listen = \"127.0.0.1:0\"\nmonolith = \"http://127.0.0.1:9\"\nstreamers = [\"{}\", \"{}\"]\n",
        address(first),
        address(second),
    ));
    let config = Arc::new(config.pools[0].clone());
    let pool = Pool::new(pool_task::settings(&config), std::time::Instant::now());
    let (_config, changes) = watch::channel(config);
    tokio::spawn(pool_task::run(
        pool.clone(),
        changes,
        Listing::default(),
        Events::default(),
    ));
    let serves = |backend: &Backend| {
        let view = pool.view();
        let mut eligible = view.entries.iter().filter(|entry| entry.eligible());
        eligible.any(|entry| entry.streamer.addr.0 == address(backend))
    };
    until("both in rotation", async || serves(first) && serves(second)).await;

    first.signal(Signal::STOP).await;
    let out = Stopwatch::start("a stopped process out of rotation");
    until("out of rotation", async || !serves(first)).await;
    let took = out.read();
    assert!(took < Duration::from_secs(2), "{took:?}");
    until("the other one serves", async || serves(second)).await;

    first.signal(Signal::CONT).await;
    let back = Stopwatch::start("a process that goes on back in rotation");
    until("back in rotation", async || serves(first)).await;
    let took = back.read();
    assert!(took < Duration::from_millis(500), "{took:?}");
}
