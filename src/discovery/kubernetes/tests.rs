//! The table against a naive model of the same, and the pace of retries.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use serde_json::{Value, json};

use super::{
    FIRST_PAUSE, LONGEST_PAUSE, Pauses, Trouble, escape,
    slice::{Event, Line, Page, Seat, Slice},
    table::{Sight, Table},
};
use crate::config::model::ServicePort;

fn seat(pod: &str, address: &str) -> Seat {
    Seat {
        address: address.parse().unwrap(),
        pod: Some(pod.to_owned()),
        uid: Some(format!("uid of {pod}")),
        ready: true,
        serving: true,
        terminating: false,
    }
}

fn ends(seat: Seat) -> Seat {
    Seat {
        ready: false,
        terminating: true,
        ..seat
    }
}

fn slice(name: &str, seats: &[Seat]) -> Slice {
    Slice {
        name: name.to_owned(),
        seats: seats.to_vec(),
        portless: false,
    }
}

fn sight(slices: &[Slice]) -> Sight {
    let mut table = Table::default();
    table.replace(slices.to_vec()).unwrap();
    table.sight()
}

fn addresses(of: &BTreeSet<SocketAddr>) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

#[test]
fn one_that_ends_serves_as_long_as_it_does() {
    let (a, b) = (seat("a", "10.0.0.1:1"), seat("b", "10.0.0.2:1"));
    let seen = sight(&[slice("s", &[ends(a.clone()), b.clone()])]);
    assert_eq!(addresses(&seen.serving), ["10.0.0.1:1", "10.0.0.2:1"]);
    assert_eq!(addresses(&seen.leaving), ["10.0.0.1:1"]);
    assert!(seen.pods["a"].1 && !seen.pods["b"].1);
    let deaf = Seat {
        serving: false,
        ..ends(a)
    };
    let seen = sight(&[slice("s", &[deaf, b])]);
    assert_eq!(addresses(&seen.serving), ["10.0.0.2:1"]);
    assert_eq!(addresses(&seen.leaving), ["10.0.0.1:1"]);
}

#[test]
fn one_that_is_not_ready_is_not_there() {
    let unready = Seat {
        ready: false,
        serving: false,
        ..seat("a", "10.0.0.1:1")
    };
    let seen = sight(&[slice("s", &[unready])]);
    assert_eq!((seen.serving.len(), seen.leaving.len()), (0, 0));
}

/// As with publishNotReadyAddresses.
#[test]
fn one_that_ends_is_leaving_though_it_is_called_ready() {
    let ready = Seat {
        ready: true,
        ..ends(seat("a", "10.0.0.1:1"))
    };
    let seen = sight(&[slice("s", &[ready])]);
    assert_eq!(addresses(&seen.leaving), ["10.0.0.1:1"]);
}

#[test]
fn a_slice_that_lags_behind_does_not_bring_back_who_ends() {
    let a = seat("a", "10.0.0.1:1");
    let (old, new) = (slice("1", std::slice::from_ref(&a)), slice("2", &[ends(a)]));
    for slices in [[old.clone(), new.clone()], [new, old]] {
        assert_eq!(addresses(&sight(&slices).leaving), ["10.0.0.1:1"]);
    }
}

#[test]
fn an_address_that_is_given_to_another_pod_is_that_one_s() {
    let (old, new) = (ends(seat("a", "10.0.0.1:1")), seat("b", "10.0.0.1:1"));
    let third = seat("a", "10.0.0.1:1");
    for order in [[0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let seats = [old.clone(), new.clone(), third.clone()];
        let slices = order.map(|at: usize| slice(&format!("{at}"), &seats[at..=at]));
        let seen = sight(&slices);
        assert_eq!(addresses(&seen.serving), ["10.0.0.1:1"]);
        assert!(seen.leaving.is_empty(), "{order:?}");
        assert_eq!(seen.pods.keys().collect::<Vec<_>>(), ["b"]);
    }
}

#[test]
fn a_pod_with_two_addresses_is_one_streamer() {
    let (four, six) = (seat("a", "10.0.0.1:1"), seat("a", "[fd00::1]:1"));
    let seen = sight(&[
        slice("6", std::slice::from_ref(&six)),
        slice("4", std::slice::from_ref(&four)),
    ]);
    assert_eq!(addresses(&seen.serving), ["10.0.0.1:1"]);
    let seen = sight(&[slice("6", &[ends(six)]), slice("4", &[ends(four)])]);
    assert_eq!(addresses(&seen.leaving), ["10.0.0.1:1", "[fd00::1]:1"]);
    assert_eq!(seen.pods["a"], ("10.0.0.1:1".parse().unwrap(), true));
}

/// As in a StatefulSet, where the next pod has the name of the last one.
#[test]
fn a_name_is_that_of_the_pod_which_stays() {
    let old = ends(seat("a", "10.0.0.1:1"));
    let new = Seat {
        uid: Some("another".to_owned()),
        ..seat("a", "10.0.0.2:1")
    };
    let seen = sight(&[slice("s", &[old, new])]);
    assert_eq!(addresses(&seen.serving), ["10.0.0.2:1"]);
    assert_eq!(addresses(&seen.leaving), ["10.0.0.1:1"]);
    assert_eq!(seen.pods["a"], ("10.0.0.2:1".parse().unwrap(), false));
}

#[test]
fn no_more_is_held_than_a_service_can_have() {
    let many: Vec<_> = (0..4097_u32)
        .map(|n| seat("p", &format!("10.0.{}.{}:1", n / 250, n % 250)))
        .collect();
    let mut table = Table::default();
    let before = slice("s", &[seat("a", "10.0.0.1:1")]);
    table.replace(vec![before]).unwrap();
    assert_eq!(
        table.replace(vec![slice("t", &many)]),
        Err(Trouble::TooMuch)
    );
    assert_eq!(table.sight().serving.len(), 1);
    assert_eq!(
        table.apply(Event::Is(slice("t", &many))),
        Err(Trouble::TooMuch)
    );
    let slices = (0..257).map(|n| slice(&n.to_string(), &[])).collect();
    assert_eq!(table.replace(slices), Err(Trouble::TooMuch));
}

/// What happens to the slices of a Service.
#[derive(Clone, Debug)]
enum Step {
    Put(usize, Vec<Seat>),
    Drop(usize),
    Bookmark,
    /// The watch expired meanwhile.
    List,
}

fn seats() -> impl Strategy<Value = Vec<Seat>> {
    let pod = prop_oneof![Just(None), (0..4_u8).prop_map(Some)];
    let seat = (0..5_u8, pod, any::<[bool; 5]>());
    let seat = seat.prop_map(|(ip, pod, [six, twin, ready, serving, terminating])| Seat {
        address: match six {
            true => SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(ip)], 3000)),
            false => SocketAddr::from(([10, 0, 0, ip], 3000)),
        },
        pod: pod.map(|pod| format!("pod-{pod}")),
        uid: pod.map(|pod| format!("{pod}{twin}")),
        ready,
        serving,
        terminating,
    });
    prop::collection::vec(seat, 0..5)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4_usize, seats()).prop_map(|(slice, seats)| Step::Put(slice, seats)),
        2 => (0..4_usize).prop_map(Step::Drop),
        1 => Just(Step::Bookmark),
        1 => Just(Step::List),
    ];
    prop::collection::vec(step, 0..30)
}

/// As the API server writes it.
fn object(name: &str, seats: &[Seat], version: usize) -> Value {
    let endpoints: Vec<_> = seats
        .iter()
        .map(|seat| {
            let mut endpoint = json!({
                "addresses": [seat.address.ip().to_string()],
                "conditions": {
                    "ready": seat.ready, "serving": seat.serving, "terminating": seat.terminating,
                },
                "nodeName": "node", "zone": "here",
            });
            if let Some(pod) = &seat.pod {
                endpoint["targetRef"] = json!({
                    "kind": "Pod", "namespace": "chat", "name": pod, "uid": seat.uid,
                });
            }
            endpoint
        })
        .collect();
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": name, "namespace": "chat", "resourceVersion": version.to_string(),
            "labels": { "kubernetes.io/service-name": "ddp-streamer" },
        },
        "addressType": "IPv4",
        "endpoints": match endpoints.is_empty() { true => Value::Null, false => json!(endpoints) },
        "ports": [{ "name": "http", "port": 3000, "protocol": "TCP" }],
    })
}

/// The same by comparing each with each.
fn naive(state: &BTreeMap<usize, Vec<Seat>>) -> Sight {
    let all: Vec<&Seat> = state.values().flatten().collect();
    let same_pod = |a: &Seat, b: &Seat| (&a.pod, &a.uid) == (&b.pod, &b.uid);
    let same_place = |a: &Seat, b: &Seat| a.address == b.address;
    // For a pod at an address: whether it ends, and whether it is ready and serves, as said by
    // those who know whether it ends.
    let facts = |of: &Seat| {
        let about = all
            .iter()
            .filter(|seat| same_place(seat, of) && same_pod(seat, of));
        let ends = about.clone().any(|seat| seat.terminating);
        let about: Vec<_> = about.filter(|seat| seat.terminating == ends).collect();
        let ready = about.iter().any(|seat| seat.ready);
        let serves = about.iter().any(|seat| seat.ready == ready && seat.serving);
        (ends, ready, serves)
    };
    // Whose address it is: of one that stays before one that ends, of a ready one before another.
    let owner = |address: SocketAddr| {
        let here = all.iter().filter(|seat| seat.address == address);
        here.min_by_key(|seat| {
            let (ends, ready, _) = facts(seat);
            (ends, !ready, seat.uid.clone(), seat.pod.clone())
        })
    };
    let places: BTreeSet<SocketAddr> = all.iter().map(|seat| seat.address).collect();
    let mut sight = Sight::default();
    for address in &places {
        let seat = owner(*address).unwrap();
        let (ends, ready, serves) = facts(seat);
        if ends {
            sight.leaving.insert(*address);
        }
        // The best address of its pod.
        let best = seat.pod.as_ref().map(|pod| {
            let mine = places.iter().filter(|place| {
                let owner = owner(**place).unwrap();
                owner.pod.as_ref() == Some(pod)
            });
            let best = mine.min_by_key(|place| {
                let (ends, ..) = facts(owner(**place).unwrap());
                (ends, place.is_ipv6(), **place)
            });
            *best.unwrap()
        });
        if best.is_none_or(|best| best == *address) {
            if let Some(pod) = &seat.pod {
                sight.pods.insert(pod.clone(), (*address, ends));
            }
            if (ends && serves) || (!ends && ready) {
                sight.serving.insert(*address);
            }
        }
    }
    sight
}

proptest! {
    #[test]
    fn whatever_happens_the_table_is_as_a_naive_one(steps in steps()) {
        let port = ServicePort::Name("http".to_owned());
        let mut table = Table::default();
        let mut state: BTreeMap<usize, Vec<Seat>> = BTreeMap::new();
        for (at, step) in steps.into_iter().enumerate() {
            let version = at + 1;
            let name = |slice: usize| format!("ddp-streamer-{slice}");
            let (kind, object) = match step {
                Step::Put(slice, seats) => {
                    let kind = if state.contains_key(&slice) { "MODIFIED" } else { "ADDED" };
                    let object = object(&name(slice), &seats, version);
                    state.insert(slice, seats);
                    (kind, object)
                }
                Step::Drop(slice) => {
                    let seats = state.remove(&slice).unwrap_or_default();
                    ("DELETED", object(&name(slice), &seats, version))
                }
                Step::Bookmark => ("BOOKMARK", json!({
                    "kind": "EndpointSlice", "endpoints": null, "ports": null,
                    "metadata": { "resourceVersion": version.to_string() },
                })),
                Step::List => {
                    let items = state.iter().map(|(slice, seats)| object(&name(*slice), seats, 1));
                    let list = json!({
                        "kind": "EndpointSliceList", "items": items.collect::<Vec<_>>(),
                        "metadata": { "resourceVersion": version.to_string() },
                    });
                    let page = Page::parse(list.to_string().as_bytes(), &port).unwrap();
                    prop_assert_eq!(page.version, version.to_string());
                    table.replace(page.slices).unwrap();
                    prop_assert_eq!(table.sight(), naive(&state));
                    continue;
                }
            };
            let line = json!({ "type": kind, "object": object }).to_string();
            let Line { event, version: said } = Line::parse(line.as_bytes(), &port).unwrap();
            prop_assert_eq!(said, Some(version.to_string()));
            let before = table.clone();
            let changed = table.apply(event).unwrap();
            prop_assert_eq!(changed, table != before);
            prop_assert_eq!(table.sight(), naive(&state));
        }
    }

    #[test]
    fn no_bytes_of_a_server_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let port = ServicePort::Number(3000);
        let _ = Line::parse(&bytes, &port);
        let _ = Page::parse(&bytes, &port);
        let _ = super::message(&bytes);
    }
}

#[test]
fn pauses_grow_up_to_a_bound_and_a_good_watch_ends_them() {
    let mut pauses = Pauses::default();
    let mut most = FIRST_PAUSE;
    for _ in 0..40 {
        let pause = pauses.after_bad(None);
        assert!(pause >= most / 2 && pause <= most, "{pause:?} of {most:?}");
        most = (most * 2).min(LONGEST_PAUSE);
    }
    // One that ends as soon as it begins is no good watch.
    assert!(pauses.after_good(Duration::ZERO) >= LONGEST_PAUSE / 2);
    assert_eq!(pauses.after_good(Duration::from_secs(1)), Duration::ZERO);
    assert!(pauses.after_bad(None) <= FIRST_PAUSE);
    // What the server asks for is heeded within reason.
    assert_eq!(
        pauses.after_bad(Some(Duration::from_secs(7))),
        Duration::from_secs(7)
    );
    assert_eq!(pauses.after_bad(Some(Duration::MAX)), LONGEST_PAUSE);
}

#[test]
fn what_stands_in_a_query_is_escaped() {
    let mut out = String::new();
    escape("eyJ2Ijoi/+=&?#é~", &mut out);
    assert_eq!(out, "eyJ2Ijoi%2F%2B%3D%26%3F%23%C3%A9~");
}
