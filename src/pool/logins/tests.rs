//! The login queue as a machine, with a clock that the test turns.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::PrometheusBuilder;

use super::{
    CLAIM_WITHIN, LoginOutcome, LoginPermit, LoginSettings, LoginTicket, Logins, LoginsFull,
};
use crate::telemetry::names;

struct Bench {
    logins: Arc<Logins>,
    settings: LoginSettings,
    now: Instant,
}

impl Bench {
    /// Rates far away, unless `change` brings them near.
    fn new(change: impl FnOnce(&mut LoginSettings)) -> Self {
        let mut settings = LoginSettings {
            streamer_rate: 100_000,
            rate: 100_000,
            ..LoginSettings::default()
        };
        change(&mut settings);
        let now = Instant::now();
        Self {
            logins: Logins::new(settings.clone(), now),
            settings,
            now,
        }
    }

    fn wait(&self, streamer: &str) -> LoginTicket {
        self.logins.wait(&streamer.into(), self.now).unwrap()
    }

    fn poll(&self, ticket: &mut LoginTicket) -> Option<LoginPermit> {
        match ticket.poll(&mut Context::from_waker(Waker::noop()), self.now) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    /// A login that begins at once.
    fn begin(&self, streamer: &str) -> LoginPermit {
        self.poll(&mut self.wait(streamer)).expect("there is room")
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.logins.handle_timeout(self.now);
    }

    fn reconfigure(&mut self, change: impl FnOnce(&mut LoginSettings)) {
        change(&mut self.settings);
        self.logins.reconfigure(self.settings.clone(), self.now);
    }

    fn limit(&self, streamer: &str) -> u32 {
        let report = self.logins.report(self.now);
        report.streamer(&streamer.into()).limit
    }

    fn in_flight(&self) -> u32 {
        self.logins.report(self.now).in_flight
    }

    /// As many logins as may be in flight, all of them answered after `millis`.
    fn window(&mut self, streamer: &str, millis: u64) {
        let permits: Vec<_> = (0..self.limit(streamer))
            .map(|_| self.begin(streamer))
            .collect();
        self.pass(millis);
        for permit in permits {
            permit.finish(LoginOutcome::Done, self.now);
        }
    }
}

#[test]
fn a_full_streamer_holds_up_nobody_but_its_own() {
    let bench = Bench::new(|_| {});
    let mut tickets: Vec<_> = ["a", "a", "a", "b", "a", "b"]
        .map(|to| bench.wait(to))
        .into();
    let begun: Vec<_> = tickets
        .iter_mut()
        .map(|ticket| bench.poll(ticket))
        .collect();
    let turns: Vec<_> = begun.iter().map(Option::is_some).collect();
    assert_eq!(turns, [true, true, false, true, false, true]);
    assert_eq!(tickets[2].place(), Some(0));
    assert_eq!(tickets[4].place(), Some(1));
    assert_eq!(tickets[5].place(), None);
}

#[test]
fn the_whole_is_limited_too_and_gives_in_the_order_of_arrival() {
    let bench = Bench::new(|settings| settings.concurrency = 5);
    let first = bench.begin("a");
    let mut second = bench.wait("b");
    let mut third = bench.wait("c");
    assert!(bench.poll(&mut third).is_none());
    drop(first);
    assert!(bench.poll(&mut third).is_none());
    assert!(bench.poll(&mut second).is_some());
}

#[test]
fn the_queue_is_bounded_though_who_need_not_wait_is_never_refused() {
    let bench = Bench::new(|settings| settings.queue_length = 1);
    let _three: Vec<_> = (0..3).map(|_| bench.wait("a")).collect();
    let refused = bench.logins.wait(&"a".into(), bench.now).unwrap_err();
    assert_eq!(refused, LoginsFull);
    bench.begin("b");
}

#[test]
fn a_limit_grows_window_by_window_up_to_its_maximum() {
    let mut bench = Bench::new(|_| {});
    let mut limits = Vec::new();
    for _ in 0..10 {
        limits.push(bench.limit("a"));
        bench.window("a", 80);
    }
    assert_eq!(limits, [2, 3, 4, 5, 6, 7, 8, 9, 10, 10]);
}

#[test]
fn answers_that_come_easily_below_the_limit_do_not_raise_it() {
    let mut bench = Bench::new(|settings| settings.streamer_concurrency = 20);
    for _ in 0..50 {
        let permit = bench.begin("a");
        bench.pass(50);
        permit.finish(LoginOutcome::Done, bench.now);
    }
    assert_eq!(bench.limit("a"), 4);
}

#[test]
fn one_moment_of_trouble_halves_a_limit_once() {
    for end in [LoginOutcome::Done, LoginOutcome::Failed] {
        let mut bench = Bench::new(|settings| settings.streamer_concurrency = 40);
        let permits: Vec<_> = (0..8).map(|_| bench.begin("a")).collect();
        bench.pass(match end {
            LoginOutcome::Failed => 5,
            LoginOutcome::Done | LoginOutcome::Refused => 3_000,
        });
        for permit in permits {
            permit.finish(end, bench.now);
        }
        assert_eq!(bench.limit("a"), 4, "{end:?}");
        bench.window("a", 3_000);
        assert_eq!(bench.limit("a"), 2, "{end:?}");
        bench.window("a", 3_000);
        bench.window("a", 3_000);
        assert_eq!(bench.limit("a"), 1, "{end:?}");
    }
}

#[test]
fn a_refused_token_is_no_sign_of_trouble() {
    let bench = Bench::new(|_| {});
    for _ in 0..50 {
        bench.begin("a").finish(LoginOutcome::Refused, bench.now);
    }
    assert_eq!(bench.limit("a"), 2);
}

/// Its logins are held to one at a time; the others shall not pay for it.
#[test]
fn one_ill_streamer_does_not_slow_the_whole_down() {
    let mut bench = Bench::new(|_| {});
    let before = bench.logins.report(bench.now).limit;
    for _ in 0..20 {
        let ill: Vec<_> = (0..bench.limit("ill"))
            .map(|_| bench.begin("ill"))
            .collect();
        for _ in 0..60 {
            for streamer in ["a", "b", "c", "d"] {
                bench.window(streamer, 20);
            }
        }
        for permit in ill {
            permit.finish(LoginOutcome::Done, bench.now);
        }
    }
    assert_eq!(bench.limit("ill"), 1);
    assert_eq!(bench.limit("a"), 10);
    assert!(bench.logins.report(bench.now).limit >= before);
}

#[test]
fn a_login_without_an_answer_makes_room_after_its_time_and_counts_as_failed() {
    let mut bench = Bench::new(|settings| settings.streamer_concurrency = 20);
    let permits: Vec<_> = (0..4).map(|_| bench.begin("a")).collect();
    let mut next = bench.wait("a");
    assert!(bench.poll(&mut next).is_none());
    let deadline = bench.now + bench.settings.timeout;
    assert_eq!(bench.logins.next_timeout(), Some(deadline));
    bench.now = deadline;
    bench.logins.handle_timeout(deadline);
    assert_eq!(bench.limit("a"), 2);
    let next = bench.poll(&mut next).expect("room was made");
    assert_eq!(bench.in_flight(), 1);
    // What comes later than that has no effect, whatever it is.
    for (at, permit) in permits.into_iter().enumerate() {
        if at % 2 == 0 {
            permit.finish(LoginOutcome::Done, bench.now);
        }
    }
    assert_eq!(bench.in_flight(), 1);
    assert_eq!(bench.limit("a"), 2);
    drop(next);
    assert_eq!(bench.in_flight(), 0);
}

#[test]
fn who_goes_makes_room_at_once_and_tells_nothing_unless_it_was_late() {
    let mut bench = Bench::new(|settings| settings.streamer_concurrency = 10);
    for _ in 0..30 {
        let both = [bench.begin("a"), bench.begin("a")];
        bench.pass(500);
        drop(both);
        assert_eq!(bench.in_flight(), 0);
    }
    assert_eq!(bench.limit("a"), 2);
    let both = [bench.begin("a"), bench.begin("a")];
    bench.pass(1_500);
    drop(both);
    assert_eq!(bench.limit("a"), 1);
}

#[test]
fn a_ticket_whose_turn_it_was_gives_its_place_back() {
    let bench = Bench::new(|_| {});
    let _first = bench.begin("a");
    let unclaimed = bench.wait("a");
    let mut waiting = bench.wait("a");
    assert!(bench.poll(&mut waiting).is_none());
    drop(unclaimed);
    assert!(bench.poll(&mut waiting).is_some());
}

/// A client that stops in the middle of a message must not keep the place from the others.
#[test]
fn who_does_not_come_to_its_turn_is_passed_over_and_queues_anew() {
    let mut bench = Bench::new(|settings| settings.streamer_concurrency = 1);
    let mut absent = bench.wait("a");
    let mut others: Vec<_> = (0..2).map(|_| bench.wait("a")).collect();
    assert!(others.iter_mut().all(|ticket| bench.poll(ticket).is_none()));
    assert_eq!(bench.logins.next_timeout(), Some(bench.now + CLAIM_WITHIN));
    bench.now += CLAIM_WITHIN;
    bench.logins.handle_timeout(bench.now);
    let first = bench.poll(&mut others[0]).expect("the place is free");
    assert_eq!(absent.place(), None);
    assert!(bench.poll(&mut absent).is_none());
    assert_eq!((others[1].place(), absent.place()), (Some(0), Some(1)));
    drop(first);
    let second = bench.poll(&mut others[1]).expect("came before");
    drop(second);
    assert!(bench.poll(&mut absent).is_some());
    assert_eq!(bench.limit("a"), 1);
}

#[test]
fn who_was_passed_over_may_go_without_a_trace() {
    let mut bench = Bench::new(|_| {});
    let absent = bench.wait("a");
    bench.now += CLAIM_WITHIN;
    bench.logins.handle_timeout(bench.now);
    drop(absent);
    let report = bench.logins.report(bench.now);
    assert_eq!((report.waiting, report.in_flight), (0, 0));
}

#[test]
fn a_streamer_that_comes_back_begins_anew() {
    let mut bench = Bench::new(|_| {});
    let up = bench.now;
    for _ in 0..8 {
        bench.window("a", 80);
    }
    bench.logins.came_up(&"a".into(), up);
    assert_eq!(bench.limit("a"), 10);
    bench.pass(100);
    bench.logins.came_up(&"a".into(), bench.now);
    assert_eq!(bench.limit("a"), 2);
    // Told again, it knows already.
    bench.window("a", 80);
    bench
        .logins
        .came_up(&"a".into(), bench.now - Duration::from_millis(80));
    assert_eq!(bench.limit("a"), 3);
}

#[test]
fn what_was_learned_is_forgotten_with_time_and_gauges_are_zero_again() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let gauge = |value: u32| {
        let name = names::STREAMER_LOGINS_LIMIT.name;
        page.render()
            .contains(&format!("{name}{{streamer=\"a\"}} {value}\n"))
    };
    metrics::with_local_recorder(&recorder, || {
        let mut bench = Bench::new(|settings| settings.concurrency = 10);
        for _ in 0..20 {
            bench.window("a", 80);
        }
        assert_eq!(bench.logins.report(bench.now).limit, 10);
        assert!(gauge(10), "{}", page.render());
        assert_eq!(bench.logins.streamers(), ["a".into()]);
        let forgotten = bench.logins.next_timeout().unwrap();
        assert_eq!(forgotten - bench.now, Duration::from_secs(10));
        bench.now = forgotten;
        bench.logins.handle_timeout(forgotten);
        assert!(bench.logins.streamers().is_empty());
        assert!(gauge(0), "{}", page.render());
        assert_eq!(bench.logins.report(bench.now).limit, 2);
        assert_eq!(bench.limit("a"), 2);
        assert_eq!(bench.logins.next_timeout(), None);
    });
}

#[test]
fn rates_hold_for_each_streamer_and_for_all() {
    let mut bench = Bench::new(|settings| {
        settings.streamer_concurrency = 1_000;
        settings.concurrency = 1_000;
        settings.streamer_rate = 20;
        settings.rate = 30;
    });
    let mut tickets: Vec<_> = (0..100).map(|at| bench.wait(["a", "b"][at % 2])).collect();
    let mut begun = [0, 0];
    let mut permits = Vec::new();
    let start = bench.now;
    loop {
        for ticket in &mut tickets {
            if let Some(permit) = bench.poll(ticket) {
                begun[usize::from(permit.streamer().as_str() == "b")] += 1;
                permits.push(permit);
            }
        }
        // Bursts are a tenth of a second's worth: 2 and 3.
        let passed = u32::try_from((bench.now - start).as_micros()).unwrap() + 1;
        assert!(begun[0].max(begun[1]) <= 2 + passed * 20 / 1_000_000);
        assert!(begun[0] + begun[1] <= 3 + passed * 30 / 1_000_000);
        if bench.logins.report(bench.now).waiting == 0 {
            break;
        }
        let next = bench.logins.next_timeout().unwrap();
        assert!(next > bench.now, "a driver would turn round and round");
        bench.now = next;
        bench.logins.handle_timeout(next);
    }
    // 97 behind the burst, at 30 a second.
    let took = bench.now - start;
    let expected = Duration::from_millis(97 * 1_000 / 30);
    assert!(
        took >= expected && took < expected + Duration::from_millis(100),
        "{took:?}"
    );
    assert_eq!(begun, [50, 50]);
}

#[test]
fn another_rate_does_not_forgive_what_was_used_too_early() {
    let mut bench = Bench::new(|settings| {
        settings.streamer_concurrency = 1_000;
        settings.streamer_rate = 100;
    });
    let _burst: Vec<_> = (0..10).map(|_| bench.begin("a")).collect();
    let mut next = bench.wait("a");
    bench.reconfigure(|settings| settings.streamer_rate = 20);
    assert!(bench.poll(&mut next).is_none());
    let opens = bench.logins.next_timeout().unwrap();
    assert_eq!(opens - bench.now, Duration::from_millis(50));
    // A larger burst comes with time.
    bench.reconfigure(|settings| settings.streamer_rate = 1_000_000);
    assert!(bench.poll(&mut next).is_none());
    bench.pass(1);
    assert!(bench.poll(&mut next).is_some());
}

#[test]
fn pacing_can_be_switched_off_and_on() {
    let mut bench = Bench::new(|settings| settings.rate = 10);
    let mut tickets: Vec<_> = (0..200).map(|_| bench.wait("a")).collect();
    bench.reconfigure(|settings| settings.pace = false);
    let permits: Vec<_> = tickets
        .iter_mut()
        .filter_map(|ticket| bench.poll(ticket))
        .collect();
    assert_eq!(permits.len(), 200);
    assert_eq!(bench.in_flight(), 200);
    bench.pass(5_000);
    drop(permits);
    bench.reconfigure(|settings| settings.pace = true);
    assert_eq!(bench.limit("a"), 2);
    bench.begin("a");
}

#[test]
fn the_driver_is_told_when_something_is_due_earlier() {
    let bench = Bench::new(|settings| settings.streamer_rate = 1);
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(bench.logins.next_timeout(), None);
    assert!(bench.logins.poll_hurried(&mut cx).is_pending());
    let _permit = bench.begin("a");
    assert!(bench.logins.poll_hurried(&mut cx).is_ready());
    let deadline = bench.logins.next_timeout();
    let _ticket = bench.wait("a");
    assert!(bench.logins.poll_hurried(&mut cx).is_ready());
    assert!(bench.logins.next_timeout() < deadline);
    let _another = bench.wait("a");
    assert!(bench.logins.poll_hurried(&mut cx).is_pending());
}

#[test]
fn a_herd_is_spread_over_the_time_in_which_it_may_log_in() {
    let mut bench = Bench::new(|settings| settings.rate = 100);
    let spread = |bench: &mut Bench, streamer: &str, sessions| {
        let spread = bench.logins.spread(&streamer.into(), sessions, bench.now);
        spread.as_millis()
    };
    assert_eq!(bench.logins.rate_limit(), 100);
    for (sessions, millis) in [
        (0, 1_000),
        (100, 1_000),
        (250, 2_500),
        (500, 5_000),
        (6_000, 60_000),
        (u32::MAX, 60_000),
    ] {
        let spread = spread(&mut bench, "a", sessions);
        assert_eq!(spread, millis, "{sessions} sessions");
        bench.now += Duration::from_secs(1);
    }
    // Streamers that die at the same time share the one rate of the monolith.
    assert_eq!(spread(&mut bench, "a", 500), 5_000);
    assert_eq!(spread(&mut bench, "b", 300), 8_000);
    assert_eq!(spread(&mut bench, "a", 400), 8_000);
    bench.now += Duration::from_secs(1);
    bench.reconfigure(|settings| settings.rate = 50);
    assert_eq!(spread(&mut bench, "a", 500), 10_000);
    bench.reconfigure(|settings| settings.pace = false);
    assert_eq!(spread(&mut bench, "a", 500), 1_000);
}

/// What is sized by the pace (spreads, waves, moves) is sized by what other gateways leave of it.
#[test]
fn a_herd_is_spread_by_the_share_that_other_gateways_leave() {
    let bench = Bench::new(|settings| settings.rate = 100);
    let share = |share: f64| {
        bench.logins.set_shares(share, |_| share, share, bench.now);
        let spread = bench.logins.spread(&"a".into(), 500, bench.now);
        let rates = (bench.logins.rate_limit(), bench.logins.paced_rate());
        (rates, spread.as_millis())
    };
    assert_eq!(share(1.0), ((100, Some(100)), 5_000));
    assert_eq!(share(0.25), ((25, Some(25)), 20_000));
    // Never nothing, however small the share; the longest spread bounds it.
    assert_eq!(share(0.000_1), ((1, Some(1)), 60_000));
    // The others have gone.
    assert_eq!(share(1.0), ((100, Some(100)), 5_000));
}
