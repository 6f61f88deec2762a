//! Clients that come back to another gateway.

use ddp_gateway::{ddp::Framing, proxy::registry::Standing};
use serde_json::json;

use crate::{
    phone::Phone,
    site::Site,
    support::{settles, until},
};

#[tokio::test]
async fn a_client_that_counts_misses_nothing_and_gets_nothing_twice() {
    misses_nothing(Framing::Raw).await;
}

#[tokio::test]
async fn nor_does_one_with_sockjs() {
    misses_nothing(Framing::SockJs).await;
}

async fn misses_nothing(framing: Framing) {
    let site = Site::start().await;
    site.teach(0).await;
    site.teach(1).await;
    let mut number = 0;
    let mut at = 0;
    let user = format!("{framing:?}").to_lowercase();
    let mut phone = Phone::in_room(site.line(at, framing), true, &user).await;
    let session = phone.session.clone();
    let first = number;
    for round in 0..ROUNDS {
        number += 1;
        site.publish(number);
        phone.until_event(number).await;
        // In flight while the connection breaks, and answered meanwhile.
        let heard = site.heard();
        let call = phone.call("demo:sleep", json!([100])).await;
        let text = format!("{user}-{round}");
        phone.say(&text).await;
        until("both are with the streamer", async || {
            site.heard() >= heard + 2
        })
        .await;
        // Its end is noticed, or is not.
        let lost = if round == 1 { phone.vanish() } else { None };
        if lost.is_none() {
            phone.cut();
            site.standing(at, Standing::Detached, 1).await;
        }
        number += 1;
        site.publish(number);
        at = 1 - at;
        phone.line.address = site.address(at);
        phone.connect().await;
        phone.until_event(number).await;
        phone.until_answered().await;
        assert_eq!(phone.session, session, "{framing:?}");
        let answered = phone.results.iter();
        let answered = answered.filter(|result| result["id"] == call.as_str());
        assert_eq!(answered.count(), 1);
        // By the leg of the gateway before.
        number += 1;
        site.publish(number);
        phone.until_event(number).await;
        settles("sessions", (0, 1), async || {
            let sessions = |gateway: usize| site.shared(gateway).registry.len();
            (sessions(1 - at), sessions(at))
        })
        .await;
        reads_until_settled(&mut phone, &site).await;
    }
    let numbers: Vec<u64> = (first + 1..=number).collect();
    assert_eq!(phone.numbers(), numbers, "{framing:?}");
    assert_eq!(phone.ready, ["room", "services"], "{framing:?}");
    let texts: Vec<String> = (0..ROUNDS).map(|round| format!("{user}-{round}")).collect();
    assert_eq!(phone.texts(), texts, "{framing:?}");
    phone.send_frame(goodbye()).await;
    site.legs(0).await;
    for side in ["taken", "given"] {
        assert_eq!(site.handovers(side, "done").await, ROUNDS as f64);
    }
}

#[tokio::test]
async fn one_that_does_not_count_keeps_its_leg_under_a_new_id() {
    let site = Site::start().await;
    for framing in [Framing::Raw, Framing::SockJs] {
        let user = format!("{framing:?}").to_lowercase();
        let mut phone = Phone::in_room(site.line(0, framing), false, &user).await;
        let services = phone.documents.clone();
        assert!(!services.is_empty());
        let session = phone.session.clone();
        let call = phone.call("demo:sleep", json!([100])).await;
        phone.cut();
        site.standing(0, Standing::Detached, 1).await;
        site.publish(1);
        phone.line.address = site.address(1);
        phone.connect().await;
        phone.until_in().await;
        phone.until_answered().await;
        assert_ne!(phone.session, session);
        assert_eq!(phone.results.last().unwrap()["id"], call.as_str());
        // What it has forgotten with its old session is there again.
        while !services.iter().all(|it| phone.documents.contains(it)) {
            phone.read().await;
        }
        reads_until_settled(&mut phone, &site).await;
        site.publish(7);
        phone.until_event(7).await;
        assert_eq!(phone.numbers(), [7], "what it fetches on its own");
        phone.send_frame(goodbye()).await;
        site.legs(0).await;
    }
    assert_eq!(site.handovers("taken", "done").await, 2.0);
}

#[tokio::test]
async fn who_has_the_name_and_not_the_token_begins_anew() {
    let site = Site::start().await;
    let mut ann = Phone::in_room(site.line(0, Framing::Raw), true, "ann").await;
    let mut eve = Phone::new(site.line(1, Framing::Raw), true, "eve");
    eve.session = ann.session.clone();
    eve.connect().await;
    while eve.session == ann.session {
        eve.read().await;
    }
    eve.until_logged_in().await;
    assert_eq!(site.handovers("given", "not_given").await, 1.0);
    assert_eq!(site.shared(0).registry.len(), 1);
    // She notices nothing of it.
    site.publish(1);
    ann.until_event(1).await;
    // A name that nobody has is answered alike.
    let mut bob = Phone::new(site.line(1, Framing::Raw), true, "bob");
    bob.session = Some("nobody has it".to_owned());
    bob.connect().await;
    bob.until_logged_in().await;
    assert_ne!(bob.session.as_deref(), Some("nobody has it"));
}

#[tokio::test]
async fn without_the_bus_it_is_a_newcomer_and_later_it_is_not() {
    let mut site = Site::start().await;
    let mut phone = Phone::in_room(site.line(0, Framing::Raw), true, "ann").await;
    let session = phone.session.clone();
    site.nats.kill();
    for gateway in 0..2 {
        let handover = &site.shared(gateway).handover;
        until("the way to others is closed", async || !handover.is_open()).await;
    }
    site.publish(1);
    phone.until_event(1).await;
    phone.cut();
    phone.line.address = site.address(1);
    phone.connect().await;
    phone.until_in().await;
    assert_ne!(phone.session, session);
    site.nats.start_again();
    for gateway in 0..2 {
        let handover = &site.shared(gateway).handover;
        until("the way to others", async || handover.is_open()).await;
    }
    let session = phone.session.clone();
    phone.cut();
    phone.line.address = site.address(0);
    site.standing(1, Standing::Detached, 1).await;
    phone.connect().await;
    site.publish(2);
    phone.until_event(2).await;
    assert_eq!(phone.session, session);
}

/// There, and back again.
const ROUNDS: usize = 2;

/// Reads until the session has a leg of its own, and only that.
async fn reads_until_settled(phone: &mut Phone, site: &Site) {
    tokio::select! {
        () = site.legs(1) => {}
        () = async { loop { phone.read().await } } => {}
    }
}

fn goodbye() -> tokio_tungstenite::tungstenite::Message {
    tokio_tungstenite::tungstenite::Message::Close(None)
}
