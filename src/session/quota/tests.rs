use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use super::{Abuse, Asker, Quota, QuotaRules, Quotas, Refused, Rule, Strike};

const SECOND: Duration = Duration::from_secs(1);

fn quota(requests: u32, seconds: u64) -> Option<Quota> {
    let requests = NonZeroU32::new(requests).unwrap();
    Some(Quota::new(requests, Duration::from_secs(seconds)))
}

/// A clock, the accounts and the rules.
struct Bench {
    quotas: Quotas,
    rules: QuotaRules,
    now: Instant,
}

impl Bench {
    fn new(rules: QuotaRules) -> Self {
        let now = Instant::now();
        Self {
            quotas: Quotas::new(1, now),
            rules,
            now,
        }
    }

    fn charge(&self, asker: &Asker, name: &str) -> Result<(), Refused> {
        self.quotas.charge(&self.rules, asker, name, self.now)
    }

    fn strike(&self, asker: &Asker) -> Strike {
        self.quotas.strike(&self.rules, asker, self.now)
    }

    /// Charges until it is refused.
    fn passes(&self, asker: &Asker, name: &str) -> u32 {
        (0..10_000)
            .find(|_| self.charge(asker, name).is_err())
            .expect("nothing is refused")
    }
}

/// A connection of its own client, without login and at an address that is exempt.
fn guest(connection: u64) -> Asker {
    Asker {
        connection,
        user: None,
        client: connection + 1_000_000,
        address: None,
    }
}

const NOTHING: QuotaRules = QuotaRules {
    connection: None,
    user: None,
    address: None,
    connection_method: None,
    user_method: None,
    abuse: None,
};

#[test]
fn rocket_chats_defaults() {
    let bench = Bench::new(QuotaRules::default());
    let guest = guest(1);
    assert_eq!(bench.passes(&guest, "readMessages"), 10);
    let refused = bench.charge(&guest, "readMessages").unwrap_err();
    assert_eq!(refused.rule, Rule::ConnectionMethod);
    assert_eq!(refused.wait, SECOND);
    // Another name has an account of its own, and streams four times as much.
    assert_eq!(bench.passes(&guest, "loadHistory"), 10);
    assert_eq!(bench.passes(&guest, "stream-notify-room"), 40);
    assert_eq!(bench.passes(&guest, "streamer"), 10);

    // Eight connections of one user: 20 and 80 by name, 600 and 1200 in all.
    let of_user = |connection| Asker {
        user: Some(7),
        ..self::guest(connection)
    };
    let passed: Vec<u32> = (11..19)
        .map(|n| bench.passes(&of_user(n), "readMessages"))
        .collect();
    assert_eq!(passed, [10, 10, 0, 0, 0, 0, 0, 0]);
    let refused = bench.charge(&of_user(13), "readMessages").unwrap_err();
    assert_eq!((refused.rule, refused.wait), (Rule::UserMethod, SECOND / 2));
    let many = |asker: &Asker| {
        (0..2000)
            .take_while(|n| bench.charge(asker, &format!("method{n}")).is_ok())
            .count()
    };
    assert_eq!(many(&of_user(11)), 590);
    assert_eq!(many(&of_user(14)), 590);
    // The user has used up 20 + 590 + 590 = 1200.
    let refused = bench.charge(&of_user(15), "else").unwrap_err();
    assert_eq!((refused.rule, refused.wait), (Rule::User, SECOND / 20));
    let refused = bench.charge(&of_user(11), "else").unwrap_err();
    assert_eq!(
        (refused.rule, refused.wait),
        (Rule::Connection, SECOND / 10)
    );
}

#[test]
fn an_address_is_charged_for_all_behind_it() {
    let bench = Bench::new(QuotaRules {
        address: quota(100, 10),
        ..NOTHING
    });
    let behind = |connection, address| Asker {
        address: Some(address),
        ..guest(connection)
    };
    for n in 0..100 {
        assert_eq!(bench.charge(&behind(n, 1), "m"), Ok(()));
    }
    let refused = bench.charge(&behind(100, 1), "m").unwrap_err();
    assert_eq!(refused.rule, Rule::Address);
    assert_eq!(bench.charge(&behind(100, 2), "m"), Ok(()));
    assert_eq!(bench.charge(&guest(100), "m"), Ok(()));
}

#[test]
fn a_refused_call_costs_nothing() {
    let mut bench = Bench::new(QuotaRules {
        connection: quota(100, 100),
        connection_method: quota(1, 10),
        ..NOTHING
    });
    let guest = guest(1);
    assert_eq!(bench.charge(&guest, "a"), Ok(()));
    for _ in 0..1000 {
        assert!(bench.charge(&guest, "a").is_err());
    }
    for n in 0..99 {
        assert_eq!(bench.charge(&guest, &format!("b{n}")), Ok(()), "{n}");
    }
    assert_eq!(
        bench.charge(&guest, "c").unwrap_err().rule,
        Rule::Connection
    );
    // The wait is that of all rules together, and enough.
    let refused = bench.charge(&guest, "a").unwrap_err();
    assert_eq!(refused.rule, Rule::ConnectionMethod);
    bench.now += refused.wait - Duration::from_nanos(1);
    assert!(bench.charge(&guest, "a").is_err());
    bench.now += Duration::from_nanos(1);
    assert_eq!(bench.charge(&guest, "a"), Ok(()));
}

#[test]
fn rules_can_be_switched_off_and_changed_at_any_time() {
    let mut bench = Bench::new(QuotaRules::default());
    let guest = guest(1);
    assert_eq!(bench.passes(&guest, "m"), 10);
    bench.rules.connection_method = quota(12, 12);
    assert_eq!(bench.passes(&guest, "m"), 2);
    bench.rules.connection_method = None;
    assert_eq!(bench.passes(&guest, "m"), 588);
    bench.rules = NOTHING;
    for _ in 0..10_000 {
        assert_eq!(bench.charge(&guest, "m"), Ok(()));
        assert_eq!(bench.strike(&guest), Strike::Noted);
    }
    // A narrower rule finds an account that was filled under the wider one: the wait ends.
    bench.rules.connection = quota(1, 1);
    bench.now += bench.charge(&guest, "m").unwrap_err().wait;
    assert_eq!(bench.charge(&guest, "m"), Ok(()));
}

#[test]
fn abuse_is_punished_for_a_while() {
    let mut bench = Bench::new(QuotaRules {
        abuse: Some(Abuse {
            refusals: quota(20, 10).unwrap(),
            penalty: 30 * SECOND,
        }),
        ..QuotaRules::default()
    });
    let user = |connection| Asker {
        user: Some(5),
        address: Some(9),
        ..guest(connection)
    };
    let neighbour = Asker {
        user: Some(6),
        ..user(2)
    };
    for _ in 0..20 {
        assert_eq!(bench.strike(&user(1)), Strike::Noted);
        assert_eq!(bench.charge(&user(1), "m"), bench.charge(&user(1), "m"));
    }
    assert_eq!(bench.quotas.penalty(&user(1), bench.now), None);
    assert_eq!(bench.strike(&user(1)), Strike::Abuse);
    bench.now += 10 * SECOND;
    // Whatever connection the user comes back on; but not who only shares the address or the client.
    let penalty = Refused {
        rule: Rule::Penalty,
        wait: 20 * SECOND,
    };
    assert_eq!(bench.charge(&user(3), "anything"), Err(penalty));
    assert_eq!(
        bench.quotas.penalty(&user(3), bench.now),
        Some(penalty.wait)
    );
    assert_eq!(bench.charge(&neighbour, "m"), Ok(()));
    assert_eq!(bench.charge(&guest(1), "m"), Ok(()));

    // The count has begun anew: a client that asks a few times more is only refused.
    for _ in 0..20 {
        assert_eq!(bench.strike(&user(3)), Strike::Noted);
    }
    bench.now += 20 * SECOND;
    assert_eq!(bench.charge(&user(3), "m"), Ok(()));
    assert_eq!(bench.quotas.penalty(&user(3), bench.now), None);
}

/// A web client that is refused its login forgets who it is.
#[test]
fn a_login_is_limited_for_its_connection_only() {
    let bench = Bench::new(QuotaRules {
        user: quota(1, 60),
        address: quota(1, 60),
        user_method: quota(1, 60),
        ..QuotaRules::default()
    });
    let from = |connection| Asker {
        user: Some(1),
        address: Some(1),
        ..guest(connection)
    };
    assert_eq!(bench.passes(&from(1), "m"), 1);
    while bench.strike(&from(1)) == Strike::Noted {}
    assert_eq!(bench.charge(&from(2), "m").unwrap_err().rule, Rule::Penalty);
    for connection in 1..100 {
        assert_eq!(bench.passes(&from(connection), "login"), 10);
        let refused = bench.charge(&from(connection), "login").unwrap_err();
        assert_eq!(refused.rule, Rule::ConnectionMethod);
    }
}

/// Every thread on connections of its own, all of them one user at one address.
#[test]
fn threads_share_what_there_is() {
    let bench = Bench::new(QuotaRules {
        user: quota(1000, 60),
        address: quota(900, 60),
        user_method: quota(800, 60),
        abuse: QuotaRules::default().abuse,
        ..NOTHING
    });
    let passed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let bench = &bench;
                scope.spawn(move || {
                    (0..2000)
                        .filter(|n| {
                            let asker = Asker {
                                user: Some(1),
                                address: Some(1),
                                ..guest(thread * 10_000 + n)
                            };
                            bench.charge(&asker, "m").is_ok()
                        })
                        .count()
                })
            })
            .collect();
        let counts = threads.into_iter().map(|thread| thread.join().unwrap());
        counts.sum()
    });
    assert_eq!(passed, 800);
    // The two wider rules were charged for those that passed and no others.
    let asker = Asker {
        user: Some(1),
        address: Some(1),
        ..guest(1)
    };
    assert_eq!(bench.passes(&asker, "else"), 100);
}

#[test]
fn without_a_user_the_client_is_punished() {
    let bench = Bench::new(QuotaRules::default());
    let mine = guest(1);
    while bench.strike(&mine) == Strike::Noted {}
    let again = Asker {
        connection: 2,
        ..mine
    };
    assert_eq!(bench.charge(&again, "m").unwrap_err().rule, Rule::Penalty);
    let logged_in = Asker {
        user: Some(mine.client),
        ..again
    };
    assert_eq!(
        bench.charge(&logged_in, "m").unwrap_err().rule,
        Rule::Penalty,
        "a user and a client with one number are one"
    );
    assert_eq!(bench.charge(&guest(2), "m"), Ok(()));
}

/// Five subscriptions for each room, all of them answered at once, as fast as somebody can click.
#[test]
fn opening_sixty_rooms_is_no_abuse() {
    let mut bench = Bench::new(QuotaRules::default());
    let user = Asker {
        user: Some(1),
        ..guest(1)
    };
    let mut refused = 0;
    for room in 0..60 {
        for name in [
            "stream-room-messages",
            "stream-notify-room",
            "stream-notify-room",
            "stream-notify-room",
            "stream-notify-room",
        ] {
            if bench.charge(&user, name).is_err() {
                refused += 1;
                assert_eq!(bench.strike(&user), Strike::Noted, "room {room}");
            }
        }
        bench.now += Duration::from_millis(100);
    }
    assert!((150..250).contains(&refused), "{refused} refused");
}

/// The messages pass `limits.messages`: 200 at once and 20 a second.
#[test]
fn a_loop_is_abuse_within_seconds() {
    let mut bench = Bench::new(QuotaRules::default());
    let user = Asker {
        user: Some(1),
        ..guest(1)
    };
    let start = bench.now;
    'flood: loop {
        let burst = if bench.now == start { 200 } else { 1 };
        for _ in 0..burst {
            if bench.charge(&user, "sendMessage").is_err() && bench.strike(&user) == Strike::Abuse {
                break 'flood;
            }
        }
        bench.now += SECOND / 20;
        assert!(bench.now < start + 60 * SECOND, "never ended");
    }
    let took = bench.now - start;
    assert!(took < 10 * SECOND, "{took:?}");
}

#[test]
fn a_million_random_names_cost_a_bounded_number_of_cells() {
    let mut bench = Bench::new(QuotaRules {
        connection_method: quota(12, 1200),
        abuse: QuotaRules::default().abuse,
        ..NOTHING
    });
    for n in 0..1_000_000 {
        // Each on a connection of its own, so that nothing but the bound helps.
        let passed = bench.charge(&guest(n), &format!("name{n}"));
        assert_eq!(passed, Ok(()), "{n}: newcomers are not refused");
    }
    assert_eq!(bench.quotas.len(), Quotas::CAPACITY);
    assert_eq!(bench.quotas.bytes(), Quotas::CAPACITY_BYTES);
    // Who has an account is held to it. Those without are not let in without end, and not punished for each other.
    assert_eq!(bench.passes(&guest(0), "name0"), 11);
    let late = guest(2_000_000);
    assert!(bench.passes(&late, "name") < 6000);
    for _ in 0..1000 {
        assert_eq!(bench.strike(&late), Strike::Noted);
    }
    // A shared account recovers 500 times as fast.
    bench.now += Duration::from_millis(200);
    assert_eq!(bench.passes(&late, "name"), 1);

    bench.now += 100 * SECOND;
    assert_eq!(bench.passes(&late, "name"), 12);
    bench.now += 1200 * SECOND;
    bench.quotas.sweep(bench.now);
    assert_eq!((bench.quotas.len(), bench.quotas.bytes()), (0, 0));
}

#[test]
fn one_connection_cannot_fill_the_table() {
    let bench = Bench::new(QuotaRules::default());
    let guest = guest(1);
    let passed = (0..100_000)
        .filter(|n| bench.charge(&guest, &format!("{n}")).is_ok())
        .count();
    assert_eq!(passed, 600);
    assert_eq!(bench.quotas.len(), 601);
}

#[test]
fn keys_tell_parts_apart_and_depend_on_the_seed() {
    let now = Instant::now();
    let (one, two) = (Quotas::new(1, now), Quotas::new(2, now));
    assert_eq!(one.key(&[b"a", b"b"]), one.key(&[b"a", b"b"]));
    assert_ne!(one.key(&[b"a", b"b"]), one.key(&[b"ab"]));
    assert_ne!(one.key(&[b"a", b"b"]), one.key(&[b"ab", b""]));
    assert_ne!(one.key(&[b"a"]), two.key(&[b"a"]));
}
