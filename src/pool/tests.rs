//! The pool as a machine, with a clock that the test turns.

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroU32,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use super::{
    AdminState, Fault, Health, Outcome, Permit, PickError, Pool, ProbeKind, QueueFull, Settings,
    Ticket, Wish,
};
use crate::base::id::{StreamerAddr, StreamerId};

const WHOLE: Wish = Wish {
    preferred: None,
    expected: None,
};

/// A pool and a clock that the test turns.
struct Bench {
    pool: Arc<Pool>,
    now: Instant,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::named("default");
        change(&mut settings);
        let now = Instant::now();
        Self {
            pool: Pool::new(settings, now),
            now,
        }
    }

    fn apply(&self, names: &[&str]) {
        self.pool.apply(&endpoints(names), self.now);
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.pool.advance(self.now);
    }

    /// Runs every probe that is due; `alive` says how it ends.
    fn probe(&self, alive: impl Fn(&str, ProbeKind) -> Result<(), Fault>) {
        loop {
            let probes = self.pool.due(100, self.now);
            if probes.is_empty() {
                return;
            }
            for probe in probes {
                let result = alive(probe.streamer.id.as_str(), probe.kind);
                self.pool.probed(&probe, result, self.now);
            }
        }
    }

    fn pick(&self) -> Result<Permit, PickError> {
        self.pool.pick(&WHOLE, &[], self.now)
    }

    fn poll(&self, ticket: &mut Ticket) -> Option<Permit> {
        match ticket.poll(&mut Context::from_waker(Waker::noop()), self.now) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    fn health(&self, id: &str) -> Health {
        let view = self.pool.view();
        view.find(&id.into()).map(|entry| entry.health).unwrap()
    }
}

fn endpoints(names: &[&str]) -> BTreeMap<StreamerId, StreamerAddr> {
    let addr = StreamerAddr(SocketAddr::from(([127, 0, 0, 1], 1)));
    names.iter().map(|name| ((*name).into(), addr)).collect()
}

#[test]
fn nobody_is_picked_before_a_ddp_probe() {
    let bench = Bench::new(|_| {});
    assert_eq!(bench.pick().unwrap_err(), PickError::NoneUp);
    bench.apply(&["a"]);
    assert_eq!(bench.pick().unwrap_err(), PickError::NoneUp);
    bench.probe(|_, kind| match kind {
        ProbeKind::Health => Ok(()),
        ProbeKind::Ddp => Err(Fault::Timeout),
    });
    assert_eq!(bench.health("a").label(), "down");
    assert_eq!(bench.pick().unwrap_err(), PickError::NoneUp);
}

#[test]
fn goes_by_fewest_sessions_and_expected_ones() {
    let bench = Bench::new(|_| {});
    bench.apply(&["a", "b", "c"]);
    bench.probe(|_, _| Ok(()));
    let expected: Vec<_> = (0..30)
        .map(|_| bench.pool.expect(&WHOLE, bench.now).unwrap())
        .collect();
    for entry in &bench.pool.view().entries {
        assert_eq!(entry.streamer.expected(), 10);
    }
    drop(expected);
    let _permits: Vec<_> = (0..30).map(|_| bench.pick().unwrap()).collect();
    for entry in &bench.pool.view().entries {
        assert_eq!(entry.streamer.sessions(), 10);
    }
}

#[test]
fn a_full_pool_queues_in_order_and_its_queue_is_bounded() {
    let bench = Bench::new(|settings| {
        settings.sessions_per_streamer = 1;
        settings.queue_length = 2;
    });
    bench.apply(&["a"]);
    bench.probe(|_, _| Ok(()));
    let permit = bench.pick().unwrap();
    assert_eq!(bench.pick().unwrap_err(), PickError::Full);
    assert!(bench.pool.accepting());
    let mut first = bench.pool.wait(WHOLE, bench.now).unwrap();
    let mut second = bench.pool.wait(WHOLE, bench.now).unwrap();
    assert_eq!(bench.pool.wait(WHOLE, bench.now).unwrap_err(), QueueFull);
    assert!(!bench.pool.accepting());
    drop(permit);
    assert_eq!(bench.pick().unwrap_err(), PickError::Full, "barged in");
    assert!(bench.poll(&mut second).is_none());
    let permit = bench.poll(&mut first).unwrap();
    // One that goes without taking what was set aside for it passes it on.
    drop(permit);
    let mut third = bench.pool.wait(WHOLE, bench.now).unwrap();
    drop(second);
    assert!(bench.poll(&mut third).is_some());
}

#[test]
fn traffic_takes_out_a_bounded_share_and_probes_the_rest() {
    let mut bench = Bench::new(|settings| settings.max_ejected = 0.5);
    bench.apply(&["a", "b"]);
    bench.probe(|_, _| Ok(()));
    let view = bench.pool.view();
    for entry in &view.entries {
        for _ in 0..10 {
            entry.streamer.report(Outcome::TimedOut, bench.now);
        }
    }
    assert_eq!(bench.health("a").label(), "down");
    assert_eq!(bench.health("b").label(), "degraded");
    assert_eq!(bench.pick().unwrap().streamer().id, "b".into());
    for _ in 0..10 {
        bench.pass(100);
        bench.probe(|_, _| Err(Fault::Connect));
    }
    assert_eq!(bench.health("b").label(), "down");
    assert_eq!(bench.pick().unwrap_err(), PickError::NoneUp);
    // Both are proven to be gone, so nothing holds back their return.
    bench.pass(250);
    bench.probe(|_, _| Ok(()));
    assert_eq!(
        bench
            .pool
            .view()
            .entries
            .iter()
            .filter(|e| e.eligible())
            .count(),
        2
    );
}

#[test]
fn each_ejection_is_longer_until_it_is_quiet() {
    let mut bench = Bench::new(|_| {});
    bench.apply(&["a", "b"]);
    bench.probe(|_, _| Ok(()));
    let mut lengths = Vec::new();
    for _ in 0..4 {
        let view = bench.pool.view();
        let streamer = &view.find(&"a".into()).unwrap().streamer;
        for _ in 0..2 {
            streamer.report(Outcome::HandshakeFailed, bench.now);
        }
        let out = bench.now;
        while bench.health("a").label() != "up" {
            bench.pass(100);
            bench.probe(|_, _| Ok(()));
        }
        lengths.push((bench.now - out).as_secs());
    }
    assert_eq!(lengths, [1, 2, 4, 8]);
}

#[test]
fn slow_start_only_beside_a_warm_streamer() {
    let mut bench = Bench::new(|settings| settings.sessions_per_streamer = 100);
    bench.apply(&["a", "b"]);
    bench.probe(|id, _| {
        if id == "a" {
            Ok(())
        } else {
            Err(Fault::Connect)
        }
    });
    let capacity = |bench: &Bench, id: &str| {
        let view = bench.pool.view();
        view.find(&id.into()).unwrap().capacity(bench.now)
    };
    assert_eq!(capacity(&bench, "a"), 100, "the first one starts at once");
    for _ in 0..200 {
        bench.pass(100);
        bench.probe(|id, _| {
            if id == "a" {
                Ok(())
            } else {
                Err(Fault::Connect)
            }
        });
    }
    bench.pass(200);
    bench.probe(|_, _| Ok(()));
    assert_eq!(capacity(&bench, "b"), 10);
    bench.pass(5_000);
    assert_eq!(capacity(&bench, "b"), 50);
    // The warm one goes: nobody is left to carry the load meanwhile.
    bench.pool.set_admin(
        &"a".into(),
        AdminState::Drain {
            since: bench.now,
            rate: None,
        },
        bench.now,
    );
    assert_eq!(capacity(&bench, "b"), 100);
    assert_eq!(capacity(&bench, "a"), 0);
}

#[test]
fn a_preferred_streamer_wins_while_it_is_up_and_has_room() {
    let bench = Bench::new(|settings| settings.sessions_per_streamer = 2);
    bench.apply(&["a", "b"]);
    bench.probe(|_, _| Ok(()));
    let wish = Wish {
        preferred: Some("b".into()),
        ..Wish::default()
    };
    let pick = |avoid: &[StreamerId]| bench.pool.pick(&wish, avoid, bench.now);
    let one = pick(&[]).unwrap();
    let two = pick(&[]).unwrap();
    assert_eq!(one.streamer().id, "b".into());
    assert_eq!(two.streamer().id, "b".into());
    assert_eq!(pick(&[]).unwrap().streamer().id, "a".into());
    drop((one, two));
    assert_eq!(pick(&["b".into()]).unwrap().streamer().id, "a".into());
    let at = bench.now;
    bench.pool.set_admin(
        &"b".into(),
        AdminState::Drain {
            since: at,
            rate: None,
        },
        at,
    );
    assert_eq!(pick(&[]).unwrap().streamer().id, "a".into());
}

#[test]
fn an_empty_answer_changes_nothing_and_a_missing_streamer_keeps_its_sessions() {
    let bench = Bench::new(|_| {});
    bench.apply(&["a", "b"]);
    bench.probe(|_, _| Ok(()));
    let wish = Wish {
        preferred: Some("a".into()),
        ..Wish::default()
    };
    let permit = bench.pool.pick(&wish, &[], bench.now).unwrap();
    bench.apply(&[]);
    assert_eq!(bench.pool.view().entries.len(), 2);
    bench.apply(&["b"]);
    assert_eq!(
        bench
            .pool
            .pick(&wish, &[], bench.now)
            .unwrap()
            .streamer()
            .id,
        "b".into()
    );
    let rows = bench.pool.view().rows(bench.now);
    assert_eq!(
        (rows[1].id.as_str(), rows[1].admin, rows[1].sessions),
        ("a", "leaving", 1)
    );
    // Back again: the session is still counted.
    bench.apply(&["a", "b"]);
    assert_eq!(bench.health("a").label(), "unknown");
    assert_eq!(permit.streamer().sessions(), 1);
    assert_eq!(
        bench
            .pool
            .view()
            .find(&"a".into())
            .unwrap()
            .streamer
            .sessions(),
        1
    );
}

#[test]
fn hopeless_when_nobody_was_up_for_long() {
    let mut bench = Bench::new(|settings| settings.queue_wait = Duration::from_secs(5));
    bench.apply(&["a"]);
    assert!(bench.pool.accepting());
    bench.pass(6_000);
    assert!(!bench.pool.accepting());
    bench.probe(|_, _| Ok(()));
    assert!(bench.pool.accepting());
}

#[test]
fn what_we_lack_ourselves_takes_nobody_out() {
    let mut bench = Bench::new(|_| {});
    bench.apply(&["a", "b"]);
    bench.probe(|_, _| Ok(()));
    for _ in 0..100 {
        bench.pass(100);
        bench.probe(|_, _| Err(Fault::Ours));
    }
    assert_eq!(
        bench
            .pool
            .view()
            .entries
            .iter()
            .filter(|e| e.eligible())
            .count(),
        2
    );
}

#[test]
fn probes_keep_their_pace() {
    let mut bench = Bench::new(|_| {});
    bench.apply(&["a", "b", "c"]);
    let (health, ddp) = (Cell::new(0), Cell::new(0));
    for _ in 0..6_000 {
        bench.pass(10);
        bench.probe(|_, kind| {
            let counter = match kind {
                ProbeKind::Health => &health,
                ProbeKind::Ddp => &ddp,
            };
            counter.set(counter.get() + 1);
            Ok(())
        });
    }
    // Three streamers, a minute: every half second, and every ten seconds.
    assert!((330..=390).contains(&health.get()), "{}", health.get());
    assert!((18..=24).contains(&ddp.get()), "{}", ddp.get());
}

#[test]
fn one_who_works_on_a_streamer_is_not_disturbed() {
    let mut bench = Bench::new(|_| {});
    bench.apply(&["a", "b"]);
    bench.probe(|_, _| Ok(()));
    let since = bench.now;
    let set = |bench: &Bench, admin| bench.pool.set_admin(&"a".into(), admin, bench.now);
    assert!(set(&bench, AdminState::Maint { since }));
    for _ in 0..100 {
        bench.pass(100);
        bench.probe(|id, _| {
            assert_ne!(id, "a");
            Ok(())
        });
    }
    assert!(set(&bench, AdminState::Ready));
    // What was done to it is unknown, so it is proven first.
    assert_eq!(bench.health("a").label(), "unknown");
    bench.probe(|_, _| Ok(()));
    assert_eq!(bench.health("a").label(), "up");
    assert!(
        !bench
            .pool
            .set_admin(&"z".into(), AdminState::Ready, bench.now)
    );
}

#[test]
fn single_cut_legs_are_no_failure_but_a_burst_is() {
    let mut bench = Bench::new(|_| {});
    bench.apply(&["a", "b"]);
    bench.probe(|_, _| Ok(()));
    let a = bench
        .pool
        .view()
        .find(&"a".into())
        .unwrap()
        .streamer
        .clone();
    // Users who are logged out by force, one after the other.
    for _ in 0..20 {
        a.report(Outcome::Reset, bench.now);
        bench.pass(600);
        bench.probe(|_, _| Ok(()));
    }
    assert_eq!(bench.health("a").label(), "up");
    for _ in 0..10 {
        a.report(Outcome::Reset, bench.now);
    }
    assert_eq!(bench.health("a").label(), "down");
}

#[test]
fn a_session_that_may_move_does_so_only_where_that_levels_the_two() {
    let mut bench = Bench::new(|settings| settings.slow_start = Duration::ZERO);
    bench.apply(&["a", "b", "c"]);
    bench.probe(|_, _| Ok(()));
    let on = |id: &str, count: usize| -> Vec<Permit> {
        let wish = Wish {
            preferred: Some(id.into()),
            expected: None,
        };
        (0..count)
            .map(|_| bench.pool.pick(&wish, &[], bench.now).unwrap())
            .collect()
    };
    let (a, _b, _c) = (on("a", 4), on("b", 3), on("c", 2));
    let from = a[0].streamer();
    let optional = bench.pool.pick_to_move(from, true, bench.now).unwrap();
    assert_eq!(optional.streamer().id.as_str(), "c");
    // Now b and c have three each: one more on either would only turn things round.
    let again = bench.pool.pick_to_move(from, true, bench.now);
    assert_eq!(again.unwrap_err(), PickError::Full);
    let forced = bench.pool.pick_to_move(from, false, bench.now).unwrap();
    assert_ne!(forced.streamer().id.as_str(), "a");
    bench.pass(1);
}

#[test]
fn one_that_announces_its_leave_is_leaving_until_discovery_has_noticed_and_brought_it_back() {
    let mut bench = Bench::new(|settings| settings.slow_start = Duration::ZERO);
    bench.apply(&["a", "b"]);
    bench.probe(|_, _| Ok(()));
    let wish = Wish {
        preferred: Some("a".into()),
        expected: None,
    };
    let session = bench.pool.pick(&wish, &[], bench.now).unwrap();
    assert!(!bench.pool.announce_leave(&"nobody".into(), bench.now));
    assert!(bench.pool.announce_leave(&"a".into(), bench.now));
    let places = |bench: &Bench| {
        let view = bench.pool.view();
        let ids = |entries: &[super::Entry]| -> Vec<String> {
            let ids = entries.iter().map(|entry| entry.streamer.id.to_string());
            ids.collect()
        };
        (ids(&view.entries), ids(&view.leaving))
    };
    let leaving = (vec!["b".to_owned()], vec!["a".to_owned()]);
    assert_eq!(places(&bench), leaving);
    let next = bench.pool.pick(&wish, &[], bench.now).unwrap();
    assert_eq!(next.streamer().id.as_str(), "b");
    // Discovery still lists it, and then does not.
    bench.pass(100);
    bench.apply(&["a", "b"]);
    assert_eq!(places(&bench), leaving);
    bench.apply(&["b"]);
    assert_eq!(places(&bench), leaving);
    // Whoever comes at its place is proven anew.
    bench.apply(&["a", "b"]);
    assert_eq!(places(&bench).0, ["a", "b"]);
    assert!(matches!(bench.health("a"), Health::Unknown { .. }));
    drop(session);
}

#[test]
fn flapping_in_discovery_does_not_wipe_the_record() {
    let mut bench = Bench::new(|_| {});
    bench.apply(&["a", "b"]);
    bench.probe(|_, _| Ok(()));
    let fail = |bench: &Bench| {
        let a = bench
            .pool
            .view()
            .find(&"a".into())
            .unwrap()
            .streamer
            .clone();
        a.report(Outcome::TimedOut, bench.now);
        a.report(Outcome::TimedOut, bench.now);
        let row = bench.pool.view().rows(bench.now).remove(0);
        row.ejected_seconds
    };
    assert_eq!(fail(&bench), Some(1));
    bench.apply(&["b"]);
    bench.pass(2_000);
    bench.apply(&["a", "b"]);
    bench.probe(|_, _| Ok(()));
    assert_eq!(fail(&bench), Some(2));
}

#[test]
fn records_of_those_that_left_are_bounded() {
    let mut bench = Bench::new(|_| {});
    for n in 0..1_500 {
        let name = n.to_string();
        bench.apply(&[&name]);
        bench.pass(1);
    }
    assert!(bench.pool.lock().members.len() <= 1_025);
    bench.pass(700_000);
    assert_eq!(bench.pool.lock().members.len(), 1);
}

fn admin(bench: &Bench, name: &str) -> AdminState {
    bench.pool.find(name)[0].1
}

#[test]
fn a_drain_is_kept_and_ends_when_the_streamer_has_left_empty() {
    let mut bench = Bench::new(|_| {});
    bench.apply(&["a", "b"]);
    bench.probe(|_, _| Ok(()));
    let wish = Wish {
        preferred: Some("a".into()),
        ..Wish::default()
    };
    let permit = bench.pool.pick(&wish, &[], bench.now).unwrap();
    let since = bench.now;
    let rate = NonZeroU32::new(5);
    assert!(bench.pool.drain(&"a".into(), rate, bench.now));
    assert!(!bench.pool.drain(&"z".into(), rate, bench.now));
    bench.pass(1_000);
    // Once more changes nothing but the rate, if there is one.
    bench.pool.drain(&"a".into(), None, bench.now);
    assert_eq!(admin(&bench, "a"), AdminState::Drain { since, rate });
    let rate = NonZeroU32::new(7);
    bench.pool.drain(&"a".into(), rate, bench.now);
    assert_eq!(admin(&bench, "a"), AdminState::Drain { since, rate });
    let elsewhere = bench.pool.pick(&wish, &[], bench.now).unwrap();
    assert_eq!(elsewhere.streamer().id, "b".into());
    // It leaves, as a pod does that ends, and is not empty yet.
    bench.apply(&["b"]);
    assert_eq!(bench.pool.view().leaving[0].admin.label(), "drain");
    bench.apply(&["a", "b"]);
    assert_eq!(admin(&bench, "a"), AdminState::Drain { since, rate });
    bench.apply(&["b"]);
    drop(permit);
    assert_eq!(admin(&bench, "a").label(), "drain");
    // Who is at its address now is another one.
    bench.apply(&["a", "b"]);
    assert_eq!(admin(&bench, "a"), AdminState::Ready);
}

#[test]
fn a_streamer_is_found_by_id_and_by_address() {
    let bench = Bench::new(|_| {});
    bench.apply(&["a", "b"]);
    let found = bench.pool.find("a");
    assert_eq!(found.len(), 1);
    let address = found[0].0.addr.to_string();
    let by_address = bench.pool.find(&address);
    assert!(
        by_address
            .iter()
            .any(|(streamer, _)| streamer.id == "a".into())
    );
    assert!(bench.pool.find("nobody").is_empty());
}

#[test]
fn a_dying_streamer_counts_all_it_had_and_a_logout_its_few() {
    let mut bench = Bench::new(|_| {});
    bench.apply(&["a"]);
    bench.probe(|_, _| Ok(()));
    let mut permits: Vec<_> = (0..100)
        .map(|_| bench.pool.pick(&WHOLE, &[], bench.now).unwrap())
        .collect();
    for n in 1..=3 {
        let permit = permits.pop().unwrap();
        assert_eq!(permit.streamer().lost(bench.now), n);
    }
    // Whoever is last counts those before as well.
    for _ in 0..97 {
        let permit = permits.pop().unwrap();
        assert_eq!(permit.streamer().lost(bench.now), 100);
        bench.pass(10);
    }
    bench.pass(1_000);
    let permit = bench.pool.pick(&WHOLE, &[], bench.now).unwrap();
    assert_eq!(permit.streamer().lost(bench.now), 1);
}

/// Of 4,000 newcomers, each of whom leaves again at once, who gets how many.
fn shares(bench: &Bench) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    for _ in 0..4000 {
        let permit = bench.pool.pick(&WHOLE, &[], bench.now).unwrap();
        *shares.entry(permit.streamer().id.to_string()).or_default() += 1;
    }
    shares
}

#[test]
fn a_hot_streamer_gets_a_quarter_of_its_share_and_never_nothing() {
    let mut bench = Bench::new(|settings| settings.slow_start = Duration::ZERO);
    let address = |port| StreamerAddr(SocketAddr::from(([127, 0, 0, 1], port)));
    let addresses: BTreeMap<StreamerId, _> = ["a", "b", "c", "d"]
        .into_iter()
        .zip(1..)
        .map(|(name, port)| (name.into(), address(port)))
        .collect();
    bench.pool.apply(&addresses, bench.now);
    bench.probe(|_, _| Ok(()));
    let beats = |bench: &mut Bench, percents: [u8; 4]| {
        for _ in 0..4 {
            bench.pass(10_000);
            bench.probe(|_, _| Ok(()));
            for (address, percent) in addresses.values().zip(percents) {
                bench.pool.beat(*address, percent, bench.now);
            }
        }
    };
    let hot = |bench: &Bench| {
        let rows = bench.pool.report(bench.now).streamers;
        let hot = rows.iter().filter(|row| row.hot).map(|row| row.id.clone());
        hot.collect::<Vec<_>>()
    };
    beats(&mut bench, [95, 30, 40, 50]);
    assert_eq!(hot(&bench), ["a"]);
    assert_eq!(
        bench.pool.report(bench.now).streamers[0].cpu_percent,
        Some(95)
    );
    let spared = shares(&bench);
    // A quarter of a quarter of 4,000.
    assert!((190..310).contains(&spared["a"]), "{spared:?}");
    // Not the one that is levelled to, either.
    assert!(
        bench
            .pool
            .view()
            .levels(bench.now)
            .iter()
            .all(|level| level.id.as_str() != "a")
    );
    // Who was there before comes back there.
    let wish = Wish {
        preferred: Some("a".into()),
        expected: None,
    };
    let back = bench.pool.pick(&wish, &[], bench.now).unwrap();
    assert_eq!(back.streamer().id.as_str(), "a");
    drop(back);
    // It is the only one that has room.
    let others = ["b", "c", "d"].map(StreamerId::from);
    assert!(bench.pool.pick(&WHOLE, &others, bench.now).is_ok());
    // Nothing is heard of it any more.
    bench.pass(45_000);
    bench.probe(|_, _| Ok(()));
    assert_eq!(hot(&bench), [""; 0]);
    assert_eq!(bench.pool.report(bench.now).streamers[0].cpu_percent, None);
    assert!(shares(&bench)["a"] > 800);
}
