//! A gateway that ends sends its clients away, and they go on at another one.

use std::time::Duration;

use ddp_gateway::ddp::Framing;
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    phone::Phone,
    site::Site,
    support::{metrics::Metrics, settles, soon},
};

/// Meteor's clients, old and new, with and without SockJS, while there is talk in their room: whoever
/// counts has missed nothing, nobody logs in anew, and the gateway that ends waits for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_sent_away_are_taken_over_by_another_gateway() {
    let site = Site::start().await;
    site.teach(0).await;
    site.teach(1).await;
    let calls = stream::iter(0..PHONES).map(|n| {
        let line = site.line(0, [Framing::Raw, Framing::SockJs][n % 2]);
        async move { Phone::in_room(line, n % 4 > 1, &format!("user{n}")).await }
    });
    let mut phones: Vec<Phone> = calls.buffer_unordered(PHONES).collect().await;
    site.publish(1);
    for phone in &mut phones {
        phone.until_event(1).await;
    }
    let sessions: Vec<_> = phones.iter().map(|phone| phone.session.clone()).collect();
    site.gateways[0].drain(None).await;
    let talk = async {
        let mut ticks = interval(Duration::from_millis(50));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 2..LAST {
            ticks.tick().await;
            site.publish(number);
        }
    };
    let going = stream::iter(phones.iter_mut()).for_each_concurrent(None, |phone| async {
        assert_eq!(phone.until_closed().await, Some(1012));
        phone.line.address = site.address(1);
        phone.connect().await;
        phone.until_in().await;
    });
    tokio::join!(talk, going);
    site.publish(LAST);
    for (phone, session) in phones.iter_mut().zip(&sessions) {
        phone.until_event(LAST).await;
        let numbers = phone.numbers();
        match phone.counts() {
            true => {
                assert_eq!(phone.session, *session);
                assert_eq!(numbers, (1..=LAST).collect::<Vec<_>>());
                assert_eq!(phone.ready, ["room", "services"]);
            }
            false => {
                assert_ne!(phone.session, *session);
                assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
            }
        }
    }
    assert_eq!(site.handovers("given", "done").await, PHONES as f64);
    // Each gets a leg of its own, and what is over is not waited for.
    let reading = stream::iter(phones.iter_mut()).for_each_concurrent(None, |phone| async {
        loop {
            phone.read().await;
        }
    });
    let ended = async {
        soon("the end of the drain", site.gateways[0].wait()).await;
        site.legs(PHONES).await;
    };
    tokio::select! {
        () = reading => {}
        () = ended => {}
    }
    site.publish(LAST + 1);
    for phone in &mut phones {
        phone.until_event(LAST + 1).await;
    }
}

/// A call that is answered while its client is between the two gateways runs once, and has one answer.
#[tokio::test]
async fn a_call_under_way_is_answered_at_the_other_gateway() {
    let site = Site::start().await;
    site.teach(0).await;
    site.teach(1).await;
    let mut phone = Phone::in_room(site.line(0, Framing::Raw), true, "ann").await;
    let session = phone.session.clone();
    // Longer than any session has to stay: they are closed within a second.
    let call = phone.call("demo:sleep", json!([2_000])).await;
    phone.say("once").await;
    site.gateways[0].drain(None).await;
    assert_eq!(phone.until_closed().await, Some(1012));
    phone.line.address = site.address(1);
    phone.connect().await;
    phone.until_answered().await;
    site.publish(1);
    phone.until_event(1).await;
    assert_eq!(phone.session, session);
    assert_eq!(phone.texts(), ["once"]);
    let answers = phone.results.iter();
    let answers = answers.filter(|result| result["id"] == call.as_str());
    assert_eq!(answers.count(), 1);
}

/// React Native and others ask for no session: they are newcomers at the other gateway, and what they
/// had is given up some seconds later, long before the deadline.
#[tokio::test]
async fn who_asks_for_no_session_does_not_keep_the_gateway() {
    let site = Site::start().await;
    let mut phone = Phone::in_room(site.line(0, Framing::Raw), false, "ann").await;
    let session = phone.session.take();
    site.gateways[0].drain(None).await;
    assert_eq!(phone.until_closed().await, Some(1012));
    phone.session = None;
    phone.line.address = site.address(1);
    phone.connect().await;
    phone.until_in().await;
    assert_ne!(phone.session, session);
    soon("the end of the drain", site.gateways[0].wait()).await;
    settles("sockets of the streamers", 1, async || site.sockets()).await;
    assert_eq!(site.handovers("given", "done").await, 0.0);
    let metrics = Metrics::read(site.gateways[1].admin().unwrap()).await;
    let labels = [("reason", "drain")];
    assert_eq!(metrics.sum("sessions_closed_total", &labels), 1.0);
    site.publish(1);
    phone.until_event(1).await;
}

const PHONES: usize = 16;

/// The last event while they change.
const LAST: u64 = 60;
