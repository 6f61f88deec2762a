//! Quotas against a model that fills buckets with fractions, under a clock that the tests turn.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use ddp_gateway::session::{
    Asker, QuotaRules, Quotas, Rule, Strike,
    quota::{Abuse, Quota},
};
use proptest::{
    collection::vec,
    option,
    prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest},
    sample::select,
};

const NAMES: [&str; 4] = [
    "sendMessage",
    "stream-notify-room",
    "stream-room-messages",
    "login",
];

fn quota() -> impl Strategy<Value = Option<Quota>> {
    option::weighted(
        0.8,
        (1_u32..20, 1_u64..20_000).prop_map(|(requests, ms)| {
            Quota::new(
                NonZeroU32::new(requests).expect("at least 1"),
                Duration::from_millis(ms),
            )
        }),
    )
}

fn rules() -> impl Strategy<Value = QuotaRules> {
    (quota(), quota(), quota(), quota(), quota()).prop_map(
        |(connection, user, address, connection_method, user_method)| QuotaRules {
            connection,
            user,
            address,
            connection_method,
            user_method,
            abuse: None,
        },
    )
}

/// One call, after a pause in microseconds.
#[derive(Clone, Debug)]
struct Call {
    pause: u64,
    asker: Asker,
    name: &'static str,
}

fn call() -> impl Strategy<Value = Call> {
    let pause = select(vec![0, 0, 0, 1, 300, 20_000, 400_000, 5_000_000]);
    let asker = (0_u64..4, option::of(0_u64..3), option::of(0_u64..2)).prop_map(
        |(connection, user, address)| Asker {
            connection,
            user,
            client: connection,
            address,
        },
    );
    (pause, any::<u16>(), asker, select(NAMES.to_vec())).prop_map(|(pause, more, asker, name)| {
        Call {
            pause: pause + pause * u64::from(more) / 65_536,
            asker,
            name,
        }
    })
}

/// The rules that a call is charged to, and on whose account.
fn charges(rules: &QuotaRules, call: &Call) -> Vec<(Rule, u64, &'static str, Quota, u32)> {
    let Asker {
        connection,
        mut user,
        mut address,
        ..
    } = call.asker;
    if call.name == "login" {
        (user, address) = (None, None);
    }
    let factor = if call.name.starts_with("stream-") {
        4
    } else {
        1
    };
    [
        (Rule::Connection, Some(connection), "", rules.connection, 1),
        (Rule::User, user, "", rules.user, 1),
        (Rule::Address, address, "", rules.address, 1),
        (
            Rule::ConnectionMethod,
            Some(connection),
            call.name,
            rules.connection_method,
            factor,
        ),
        (Rule::UserMethod, user, call.name, rules.user_method, factor),
    ]
    .into_iter()
    .filter_map(|(rule, who, name, quota, factor)| Some((rule, who?, name, quota?, factor)))
    .collect()
}

proptest! {
    #[test]
    fn decisions_are_those_of_leaking_buckets(rules in rules(), calls in vec(call(), 1..400)) {
        let start = Instant::now();
        let quotas = Quotas::new(7, start);
        let mut now = start;
        // What has been asked for and has not leaked yet, and when that was true.
        let mut buckets: HashMap<(Rule, u64, &str), (f64, Instant)> = HashMap::new();
        let mut passed: HashMap<(Rule, u64, &str), Vec<Instant>> = HashMap::new();
        for call in &calls {
            now += Duration::from_micros(call.pause);
            let charges = charges(&rules, call);
            let mut margin = f64::INFINITY;
            for (rule, who, name, quota, factor) in &charges {
                let (level, at) = buckets.entry((*rule, *who, *name)).or_insert((0.0, now));
                let leaked = (now - *at).as_secs_f64() * f64::from(quota.requests().get())
                    / quota.interval().as_secs_f64();
                *level = (*level - leaked).max(0.0);
                *at = now;
                margin = margin.min(f64::from(quota.requests().get() * factor) - (*level + 1.0));
            }
            let outcome = quotas.charge(&rules, &call.asker, call.name, now);
            if margin.abs() > 1e-3 {
                prop_assert_eq!(outcome.is_ok(), margin > 0.0, "{:?}, margin {}", call, margin);
            }
            if outcome.is_err() {
                continue;
            }
            for (rule, who, name, quota, factor) in charges {
                let key = (rule, who, name);
                buckets.entry(key).and_modify(|(level, _)| *level += 1.0);
                let times = passed.entry(key).or_default();
                times.push(now);
                // In whatever time that ends now: the burst, and what the rate adds to it.
                for (count, since) in times.iter().rev().enumerate() {
                    let added = (now - *since).as_nanos() * u128::from(quota.requests().get())
                        / quota.interval().as_nanos();
                    let most = u128::from(quota.requests().get() * factor) + added;
                    prop_assert!((count as u128) < most, "{:?}: {} of {}", key, count + 1, most);
                }
            }
        }
    }

    #[test]
    fn the_wait_is_exactly_long_enough(rules in rules(), calls in vec(call(), 1..200)) {
        let mut now = Instant::now();
        let quotas = Quotas::new(7, now);
        for call in &calls {
            now += Duration::from_micros(call.pause);
            let Err(refused) = quotas.charge(&rules, &call.asker, call.name, now) else { continue };
            let moment = Duration::from_nanos(1);
            prop_assert!(refused.wait >= moment);
            let early = quotas.charge(&rules, &call.asker, call.name, now + refused.wait - moment);
            let rule = early.map_err(|refused| (refused.rule, refused.wait));
            prop_assert_eq!(rule, Err((refused.rule, moment)));
            now += refused.wait;
            prop_assert_eq!(quotas.charge(&rules, &call.asker, call.name, now), Ok(()));
        }
    }

    /// What one user meets does not depend on the others behind the address, whatever these do.
    #[test]
    fn users_behind_one_address_do_not_disturb_each_other(
        rules in rules(),
        calls in vec((call(), any::<bool>()), 1..300),
    ) {
        let start = Instant::now();
        let (alone, together) = (Quotas::new(7, start), Quotas::new(8, start));
        let rules = QuotaRules {
            address: None,
            abuse: Some(Abuse {
                refusals: Quota::new(NonZeroU32::new(3).unwrap(), Duration::from_secs(10)),
                penalty: Duration::from_secs(20),
            }),
            ..rules
        };
        let mut now = start;
        for (call, mine) in calls {
            now += Duration::from_micros(call.pause);
            if mine {
                let me = Asker { connection: 100, user: Some(100), client: 100, address: Some(1) };
                let outcome = together.charge(&rules, &me, call.name, now);
                prop_assert_eq!(outcome, alone.charge(&rules, &me, call.name, now));
                if outcome.is_err() {
                    let strike = together.strike(&rules, &me, now);
                    prop_assert_eq!(strike, alone.strike(&rules, &me, now));
                }
            } else {
                let other = Asker { address: Some(1), ..call.asker };
                if together.charge(&rules, &other, call.name, now).is_err() {
                    together.strike(&rules, &other, now);
                }
            }
        }
    }

    #[test]
    fn penalties_end(refusals in 1_u32..20, penalty in 1_u64..100_000, again in 0_u32..10) {
        let mut now = Instant::now();
        let quotas = Quotas::new(7, now);
        let penalty = Duration::from_millis(penalty);
        let rules = QuotaRules {
            abuse: Some(Abuse {
                refusals: Quota::new(NonZeroU32::new(refusals).unwrap(), Duration::from_secs(3600)),
                penalty,
            }),
            ..QuotaRules::default()
        };
        let asker = Asker { connection: 1, user: Some(1), client: 1, address: Some(1) };
        for _ in 0..refusals {
            prop_assert_eq!(quotas.strike(&rules, &asker, now), Strike::Noted);
        }
        prop_assert_eq!(quotas.strike(&rules, &asker, now), Strike::Abuse);
        // Whoever asks a few times more meanwhile does not make it longer.
        for _ in 0..again.min(refusals) {
            let refused = quotas.charge(&rules, &asker, "m", now).unwrap_err();
            prop_assert_eq!((refused.rule, refused.wait), (Rule::Penalty, penalty));
            prop_assert_eq!(quotas.strike(&rules, &asker, now), Strike::Noted);
        }
        now += penalty;
        quotas.sweep(now);
        prop_assert_eq!(quotas.charge(&rules, &asker, "m", now), Ok(()));
    }

    #[test]
    fn an_idle_table_is_empty(calls in vec(call(), 1..200)) {
        let mut now = Instant::now();
        let quotas = Quotas::new(7, now);
        let rules = QuotaRules::default();
        for call in &calls {
            now += Duration::from_micros(call.pause);
            if quotas.charge(&rules, &call.asker, call.name, now).is_err() {
                quotas.strike(&rules, &call.asker, now);
            }
        }
        prop_assert!(!quotas.is_empty());
        // The longest rule and the penalty.
        quotas.sweep(now + Duration::from_secs(60));
        prop_assert_eq!((quotas.len(), quotas.bytes()), (0, 0));
    }
}
