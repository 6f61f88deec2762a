//! The login queue as a machine, with a clock that the test turns.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use super::{LoginOutcome, LoginPermit, LoginSettings, LoginTicket, Logins, LoginsFull};

struct Bench {
    logins: Arc<Logins>,
    now: Instant,
}

impl Bench {
    fn new(change: impl FnOnce(&mut LoginSettings)) -> Self {
        let mut settings = LoginSettings {
            // Rates are looked at where they matter.
            streamer_rate: 100_000,
            rate: 100_000,
            ..LoginSettings::default()
        };
        change(&mut settings);
        let now = Instant::now();
        Self {
            logins: Logins::new(settings, now),
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

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.logins.handle_timeout(self.now);
    }

    fn limit(&self, streamer: &str) -> u32 {
        self.logins
            .report(self.now)
            .streamer(&streamer.into())
            .limit
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
fn the_queue_is_bounded_though_nobody_is_refused_who_need_not_wait() {
    let bench = Bench::new(|settings| settings.queue_length = 1);
    let _first: Vec<_> = (0..3).map(|_| bench.wait("a")).collect();
    let refused = bench.logins.wait(&"a".into(), bench.now).unwrap_err();
    assert_eq!(refused, LoginsFull);
    bench.wait("b");
}

#[test]
fn one_moment_of_trouble_halves_a_limit_once() {
    let mut bench = Bench::new(|settings| settings.streamer_concurrency = 40);
    let mut tickets: Vec<_> = (0..8).map(|_| bench.wait("a")).collect();
    let permits: Vec<_> = tickets
        .iter_mut()
        .map(|ticket| bench.poll(ticket).unwrap())
        .collect();
    assert_eq!(bench.limit("a"), 8);
    bench.pass(3_000);
    for permit in permits {
        permit.finish(LoginOutcome::Done, bench.now);
    }
    assert_eq!(bench.limit("a"), 4);
}
