//! The login queue as part of a running gateway: driven, shown, reloaded, told of streamers.

use std::{
    future::poll_fn,
    sync::Arc,
    time::{Duration, Instant},
};

use ddp_gateway::{
    base::id::StreamerId,
    demo::streamer::Mode,
    pool::logins::{LoginOutcome, LoginPermit, Logins},
};
use serde_json::json;

use crate::support::{
    deployment::{Deployment, Plan},
    http, settles, soon,
};

fn plan(logins: &str) -> Plan {
    Plan {
        keys: "watch = false\n".to_owned(),
        tables: format!("[logins]\n{logins}"),
        ..Plan::default()
    }
}

fn logins(deployment: &Deployment) -> &Arc<Logins> {
    &deployment.app.control().shared().logins
}

fn first(deployment: &Deployment) -> StreamerId {
    StreamerId::new(deployment.streamers[0].address().to_string())
}

async fn begin(logins: &Arc<Logins>, streamer: &StreamerId) -> LoginPermit {
    let mut ticket = logins.wait(streamer, Instant::now()).unwrap();
    let turn = poll_fn(|cx| ticket.poll(cx, Instant::now()));
    soon("a login's turn", turn).await
}

#[tokio::test]
async fn who_waits_for_the_rate_is_woken_and_an_unanswered_login_makes_room() {
    let deployment = Deployment::of(plan(
        "streamer_rate = \"20/s\"\nstreamer_concurrency = 5\ntimeout = \"1s\"\n",
    ))
    .await;
    let (logins, streamer) = (logins(&deployment), first(&deployment));
    let start = Instant::now();
    for _ in 0..8 {
        let permit = begin(logins, &streamer).await;
        permit.finish(LoginOutcome::Refused, Instant::now());
    }
    // Two at once, the others at 20 a second.
    assert!(start.elapsed() >= Duration::from_millis(6 * 50));
    let limit = logins.report(Instant::now()).streamer(&streamer).limit;
    let mut silent = Vec::new();
    for _ in 0..limit {
        silent.push(begin(logins, &streamer).await);
    }
    let after = begin(logins, &streamer).await;
    let metrics = deployment.metrics().await;
    assert!(metrics.sum("logins_total", &[("outcome", "timed_out")]) >= 1.0);
    assert!(metrics.sum("logins_total", &[("outcome", "refused")]) >= 8.0);
    drop(after);
}

#[tokio::test]
async fn the_queue_is_shown_and_follows_a_reload() {
    let deployment = Deployment::of(plan("streamer_concurrency = 1\n")).await;
    let (queue, streamer) = (logins(&deployment), first(&deployment));
    let permit = begin(queue, &streamer).await;
    let _waiting = queue.wait(&streamer, Instant::now()).unwrap();
    let page = http::get(deployment.admin(), "/streamers").await.json();
    let all = &page["logins"];
    assert_eq!(
        (&all["paced"], &all["waiting"], &all["in_flight"]),
        (&json!(true), &json!(1), &json!(1)),
        "{all}"
    );
    assert_eq!(
        (&all["limit"], &all["rate_limit"]),
        (&json!(20), &json!(100))
    );
    for row in page["pools"][0]["streamers"].as_array().unwrap() {
        let busy = u32::from(row["id"] == streamer.as_str());
        let logins = &row["logins"];
        assert_eq!(logins["waiting"], busy, "{row}");
        assert_eq!(logins["in_flight"], busy, "{row}");
        assert_eq!(logins["limit"], 1, "{row}");
        assert_eq!(logins["rate_limit"], 50, "{row}");
    }
    let labels = [("streamer", streamer.as_str())];
    let metrics = deployment.metrics().await;
    assert_eq!(metrics.sum("streamer_logins_waiting", &labels), 1.0);
    assert_eq!(metrics.sum("streamer_logins_in_flight", &labels), 1.0);

    let reloaded = deployment.text_of(&plan("pace = false\nrate = \"7/s\"\n"));
    std::fs::write(deployment.config_file(), reloaded).unwrap();
    let answer = http::post(deployment.admin(), "/reload").await.json();
    assert_eq!(answer["changes"], json!(["[logins] changed"]));
    let page = http::get(deployment.admin(), "/streamers").await.json();
    let all = &page["logins"];
    assert_eq!(
        (&all["paced"], &all["waiting"], &all["in_flight"]),
        (&json!(false), &json!(0), &json!(2)),
        "{all}"
    );
    assert_eq!(all["rate_limit"], 7);
    permit.finish(LoginOutcome::Done, Instant::now());
}

#[tokio::test]
async fn a_streamer_that_was_away_begins_slowly() {
    let deployment = Deployment::of(plan(
        "streamer_concurrency = 5\nstreamer_rate = \"10000/s\"\nrate = \"10000/s\"\n",
    ))
    .await;
    let (logins, streamer) = (logins(&deployment), first(&deployment));
    let limit = || logins.report(Instant::now()).streamer(&streamer).limit;
    let mut held = vec![begin(logins, &streamer).await];
    while limit() < 5 {
        while held.len() < limit() as usize {
            held.push(begin(logins, &streamer).await);
        }
        let permit = held.remove(0);
        permit.finish(LoginOutcome::Done, Instant::now());
    }
    // One is held all the time, so that nothing is forgotten because nobody logs in.
    held.truncate(1);
    assert_eq!(limit(), 5);
    deployment.streamers[0]
        .set_mode(Mode::Refuse)
        .await
        .unwrap();
    deployment.streamers_in_rotation(1).await;
    assert_eq!(limit(), 5);
    deployment.streamers[0]
        .set_mode(Mode::Normal)
        .await
        .unwrap();
    settles("the limit", 1, async || limit()).await;
    assert_eq!(logins.report(Instant::now()).in_flight, 1);
}
