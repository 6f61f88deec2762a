//! Limits in time as they are without a word in the configuration, on a clock that the test moves.
//!
//! Bytes go over real sockets, and nothing is concluded from silence: before time moves, the other
//! side has said that what was sent has arrived.

use std::time::Duration;

use tokio::{io::AsyncReadExt, sync::mpsc};

use super::{
    Origin, Raw, Reluctant, Served, demo,
    http2::{self, ping, until_ping},
    read_head, within,
};
use crate::support::clock::Clock;

const SECOND: Duration = Duration::from_secs(1);
/// Timers go by whole milliseconds.
const TICK: Duration = Duration::from_millis(2);

/// Takes bodies in, and says how much came with each read.
async fn taker() -> (Origin, mpsc::UnboundedReceiver<usize>) {
    let (say, said) = mpsc::unbounded_channel();
    let origin = Origin::start(move |mut stream| {
        let say = say.clone();
        async move {
            if !read_head(&mut stream).await.starts_with("POST") {
                return;
            }
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = stream.read(&mut piece).await {
                let _ = say.send(read);
            }
        }
    })
    .await;
    (origin, said)
}

/// Sends a piece of a body, and waits until all of it has reached the monolith.
async fn send(raw: &mut Raw, bytes: usize, taken: &mut mpsc::UnboundedReceiver<usize>) {
    raw.send(vec![b'x'; bytes]).await;
    let mut left = bytes;
    while left > 0 {
        left -= within(taken.recv()).await.unwrap();
    }
}

const UPLOAD: &str = "POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n";

#[tokio::test]
async fn a_body_below_the_lowest_rate_is_refused_after_one_window() {
    let (origin, mut taken) = taker().await;
    let served = Served::start(&[origin.address]).await;
    let clock = Clock::stop();
    let mut raw = served.connect().await;
    raw.send(UPLOAD).await;
    for _ in 0..10 {
        // Each of these bytes would be enough for any limit on silence.
        send(&mut raw, 1, &mut taken).await;
        clock.pass(SECOND - TICK).await;
    }
    // Just below ten seconds it is still taken.
    send(&mut raw, 1, &mut taken).await;
    clock.pass(11 * TICK).await;
    let answer = raw.rest().await;
    assert_eq!(answer.status(), 408, "{}", answer.text());
}

#[tokio::test]
async fn a_body_at_the_lowest_rate_may_take_its_time() {
    let (origin, mut taken) = taker().await;
    let served = Served::start(&[origin.address]).await;
    let rate = served.shared.snapshot.load().config.http.min_rate;
    let rate = usize::try_from(rate).unwrap();
    assert!(rate > 0, "there is a lowest rate without configuration");
    let clock = Clock::stop();
    let mut raw = served.connect().await;
    raw.send(UPLOAD).await;
    for _ in 0..35 {
        send(&mut raw, rate + rate / 10, &mut taken).await;
        clock.pass(SECOND).await;
    }
    send(&mut raw, 1, &mut taken).await;
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_75_seconds() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let clock = Clock::stop();
    let mut raw = served.connect().await;
    for _ in 0..3 {
        raw.send("GET /demo/whoami HTTP/1.1\r\nHost: h\r\n\r\n")
            .await;
        raw.until("\"monolith\"}").await;
        // Would the connection end now, the next request had no answer.
        clock.pass(74 * SECOND).await;
    }
    raw.send("GET /demo/whoami HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    raw.until("\"monolith\"}").await;
    clock.pass(75 * SECOND + TICK).await;
    assert!(raw.rest().await.bytes.is_empty());
    served.rests().await;
}

#[tokio::test]
async fn half_a_head_is_ended_after_ten_seconds() {
    let monolith = demo().await;
    let served = Served::start(&[monolith.address()]).await;
    let clock = Clock::stop();
    let mut raw = served.connect().await;
    // The head is known to be open once the answer to the request before it is there.
    raw.send("GET /demo/whoami HTTP/1.1\r\nHost: h\r\n\r\nGET")
        .await;
    raw.until("\"monolith\"}").await;
    clock.pass(9 * SECOND).await;
    raw.send(" /demo/whoami HTTP/1.1\r\nHost: h\r\n\r\nGET /x")
        .await;
    raw.until("\"monolith\"}").await;
    clock.pass(10 * SECOND + TICK).await;
    assert!(raw.rest().await.bytes.is_empty());
    served.rests().await;
}

#[tokio::test]
async fn an_http2_client_that_vanished_is_noticed_by_two_pings() {
    let mut monolith = Reluctant::start().await;
    let served = Served::start_http2(&[monolith.origin.address], |_| {}).await;
    let clock = Clock::stop();
    let mut raw = http2::open(&served).await;
    // As long as a request is under way no limit on idle connections applies.
    raw.send(http2::get(1)).await;
    monolith.asked().await;
    for _ in 0..2 {
        clock.pass(20 * SECOND + TICK).await;
        let asked = until_ping(&mut raw, false).await.unwrap();
        // Who answers stays.
        raw.send(ping(true, &asked)).await;
        // The gateway has read it when it answers the next frame.
        raw.send(ping(false, &[7; 8])).await;
        assert_eq!(until_ping(&mut raw, true).await.unwrap(), [7; 8]);
    }
    clock.pass(20 * SECOND + TICK).await;
    until_ping(&mut raw, false).await.unwrap();
    // It is gone, and answers nothing any more.
    clock.pass(20 * SECOND + TICK).await;
    while http2::next_frame(&mut raw).await.is_some() {}
    served.rests().await;
}
