//! Many clients lose their gateway's network at once, and come back to the other one.

use std::time::Duration;

use ddp_gateway::{ddp::Framing, proxy::registry::Standing};
use futures_util::{StreamExt, stream};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    phone::Phone,
    site::Site,
    support::{settles, until},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_taken_back_by_the_other_gateway() {
    let site = Site::start().await;
    site.teach(0).await;
    let calls = stream::iter(0..PHONES).map(|n| {
        let line = site.line(0, [Framing::Raw, Framing::SockJs][n % 2]);
        async move { Phone::in_room(line, n % 4 > 0, &format!("user{n}")).await }
    });
    let mut phones: Vec<Phone> = calls.buffer_unordered(50).collect().await;
    let sessions: Vec<_> = phones.iter().map(|phone| phone.session.clone()).collect();
    site.publish(1);
    for phone in &mut phones {
        phone.until_event(1).await;
    }
    // In flight when the network breaks: nobody reads these.
    let mut number = 1;
    let mut ghosts = Vec::new();
    for (n, phone) in phones.iter_mut().enumerate() {
        number += u64::from(n % 10 == 0);
        if n % 10 == 0 {
            site.publish(number);
        }
        // Every third is not noticed.
        match n % 3 {
            0 => ghosts.extend(phone.vanish()),
            _ => phone.cut(),
        }
        phone.line.address = site.address(1);
    }
    let noticed = PHONES - PHONES.div_ceil(3);
    site.standing(0, Standing::Detached, noticed).await;
    let last = number + MEANWHILE;
    let publishing = async {
        let mut ticks = interval(Duration::from_millis(20));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in number + 1..=last {
            ticks.tick().await;
            site.publish(number);
        }
    };
    // All in this process: were they more at a time, each would wait for the others' handshakes, and
    // not for the gateways, which are patient for a quarter of a second.
    let coming = stream::iter(phones.iter_mut()).for_each_concurrent(AT_ONCE, |phone| async {
        let before = phone.session.clone();
        phone.connect().await;
        phone.until_in().await;
        // Others fetch on their own what was said meanwhile.
        if phone.counts() && phone.session == before {
            phone.until_event(last).await;
        }
    });
    tokio::join!(publishing, coming);
    let last = last + 1;
    site.publish(last);
    for phone in &mut phones {
        phone.until_event(last).await;
    }
    let (mut taken_back, mut counting) = (0, 0);
    for (phone, session) in phones.iter().zip(&sessions) {
        let numbers = phone.numbers();
        // In order, and nothing twice, whoever it is.
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        if !phone.counts() {
            assert_ne!(phone.session, *session);
            continue;
        }
        counting += 1;
        if phone.session == *session {
            taken_back += 1;
            assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
        }
    }
    assert!(
        taken_back * 100 >= counting * 99,
        "{taken_back} of {counting}"
    );
    let taken = site.handovers("taken", "done").await;
    assert!(taken * 100.0 >= (PHONES * 99) as f64, "{taken} of {PHONES}");
    drop(ghosts);
    // Each gets a leg of its own, and the gateway before has nothing left of them.
    tokio::select! {
        () = all_settle(&site) => {}
        () = read_on(&mut phones) => {}
    }
    site.publish(last + 1);
    for phone in &mut phones {
        phone.until_event(last + 1).await;
    }
}

async fn all_settle(site: &Site) {
    until("legs of their own", async || {
        site.shared(1).handover.borrowed().is_empty()
    })
    .await;
    settles("sessions", (0, PHONES), async || {
        let sessions = |gateway: usize| site.shared(gateway).registry.len();
        (sessions(0), sessions(1))
    })
    .await;
    settles("sockets of the streamers", PHONES, async || site.sockets()).await;
}

async fn read_on(phones: &mut [Phone]) {
    stream::iter(phones.iter_mut())
        .for_each_concurrent(None, |phone| async {
            loop {
                phone.read().await;
            }
        })
        .await;
}

const PHONES: usize = 200;

const AT_ONCE: usize = 50;

/// Events while they come back.
const MEANWHILE: u64 = 50;
