//! A gateway that ends gives the sessions whose clients are away to others.

use ddp_gateway::{ddp::Framing, proxy::registry::Standing};

use crate::{
    phone::Phone,
    site::Site,
    support::{settles, soon},
};

#[tokio::test]
async fn a_drain_hands_over_those_whose_clients_are_away() {
    let site = Site::start().await;
    site.teach(0).await;
    let mut phones = Vec::new();
    for n in 0..PHONES {
        let framing = [Framing::Raw, Framing::SockJs][n % 2];
        let mut phone = Phone::in_room(site.line(0, framing), n % 3 > 0, &format!("ann{n}")).await;
        phone.cut();
        phones.push(phone);
    }
    site.standing(0, Standing::Detached, PHONES).await;
    site.publish(1);
    site.gateways[0].drain(None).await;
    site.standing(1, Standing::Detached, PHONES).await;
    site.publish(2);
    // Not at its deadline: there is nothing to wait for when each has a leg of its own.
    soon("the end of the drain", site.gateways[0].wait()).await;
    settles("sessions", (0, PHONES), async || {
        let sessions = |gateway: usize| site.shared(gateway).registry.len();
        (sessions(0), sessions(1))
    })
    .await;
    site.legs(PHONES).await;
    site.publish(3);
    let mut last = 3;
    for mut phone in phones {
        let session = phone.session.clone();
        phone.line.address = site.address(1);
        phone.connect().await;
        phone.until_in().await;
        last += 1;
        site.publish(last);
        phone.until_event(last).await;
        match phone.counts() {
            true => {
                assert_eq!(phone.session, session);
                assert_eq!(phone.numbers(), (1..=last).collect::<Vec<_>>());
                assert_eq!(phone.ready, ["room", "services"]);
            }
            false => {
                assert_ne!(phone.session, session);
                assert_eq!(phone.numbers(), [last]);
            }
        }
        phone.cut();
    }
    assert_eq!(site.handovers("given", "done").await, PHONES as f64);
}

const PHONES: usize = 6;
