//! Random operations against the login queue, checked after each of them.

use std::{
    collections::BTreeMap,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use ddp_gateway::{
    base::id::StreamerId,
    pool::{
        SplitMix,
        logins::{
            CLAIM_WITHIN, LoginOutcome, LoginPermit, LoginSettings, LoginTicket, Logins,
            LoginsReport,
        },
    },
};

use super::{Alarm, MILLISECOND, RateCheck, index, seeds, small, with_seed};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const QUEUE: usize = 12;

#[test]
fn limits_hold_and_nobody_is_forgotten_under_any_order_of_events() {
    for seed in seeds(0..200) {
        with_seed(seed, |seed| {
            let mut world = World::new(seed);
            for step in 0..500 {
                let event = world.step();
                world.check(&format!("step {step}, after {event}"));
            }
            world.end();
        });
    }
}

struct World {
    logins: Arc<Logins>,
    settings: LoginSettings,
    random: SplitMix,
    now: Instant,
    /// Rates are so high that they never matter, so that room is given at once or not at all.
    free: bool,
    /// In the order of coming.
    tickets: Vec<Waiting>,
    permits: Vec<Begun>,
    rate: RateCheck,
    rates: BTreeMap<StreamerId, RateCheck>,
    before: LoginsReport,
}

struct Waiting {
    ticket: LoginTicket,
    alarm: Arc<Alarm>,
    /// It was polled, so it is to be woken.
    polled: bool,
    turn: Turn,
    /// It was passed over and queued anew, whatever the length of the queue was.
    again: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Waits,
    /// Until then the place is its own.
    Come {
        until: Instant,
    },
    Over,
}

impl Waiting {
    fn served(&self) -> bool {
        matches!(self.turn, Turn::Come { .. })
    }
}

struct Begun {
    permit: LoginPermit,
    deadline: Instant,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SplitMix(seed);
        let free = random.below(2) == 0;
        let settings = some_settings(&mut random, free);
        let now = Instant::now();
        let logins = Logins::new(settings.clone(), now);
        Self {
            before: logins.report(now),
            rate: RateCheck::new(settings.rate, now),
            rates: BTreeMap::new(),
            logins,
            settings,
            random,
            now,
            free,
            tickets: Vec::new(),
            permits: Vec::new(),
        }
    }

    fn step(&mut self) -> &'static str {
        match self.random.below(24) {
            0..=3 => {
                let most = [2, 30, 400, 3_000, 20_000][index(&mut self.random, 5)];
                let time = MILLISECOND * small(&mut self.random, most);
                self.pass(time);
                "time"
            }
            4..=9 => self.wait(),
            10..=13 => self.poll_some(),
            14..=17 => self.finish(),
            18 => {
                if !self.permits.is_empty() {
                    let at = index(&mut self.random, self.permits.len());
                    self.permits.swap_remove(at);
                }
                "a client that went away"
            }
            19 => {
                if !self.tickets.is_empty() {
                    let at = index(&mut self.random, self.tickets.len());
                    self.tickets.remove(at);
                }
                "a client that gave up"
            }
            20 => self.vanish(),
            21 => {
                let streamer = self.streamer();
                self.pass(MILLISECOND);
                self.logins.came_up(&streamer, self.now);
                let limit = self.logins.report(self.now).streamer(&streamer).limit;
                assert!(limit <= (self.settings.streamer_concurrency / 5).max(1));
                "a streamer that came up"
            }
            22 => {
                let free = self.free;
                self.settings = some_settings(&mut self.random, free);
                self.logins.reconfigure(self.settings.clone(), self.now);
                self.rate = RateCheck::new(self.settings.rate, self.now);
                self.rates.clear();
                "other settings"
            }
            _ => {
                // Exactly what is due, and at the moment that it is.
                if let Some(next) = self.logins.next_timeout() {
                    self.pass(next.saturating_duration_since(self.now));
                }
                "the next timeout"
            }
        }
    }

    /// As a driver does it: everything at its moment.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.logins.next_timeout()
            && next <= end
        {
            self.now = self.now.max(next);
            self.logins.handle_timeout(self.now);
            let after = self.logins.next_timeout();
            assert!(after.is_none_or(|at| at > self.now), "no progress");
            self.check("a timeout");
        }
        self.now = end;
        self.logins.handle_timeout(end);
    }

    fn streamer(&mut self) -> StreamerId {
        // Some are asked for more often than others.
        let among = 1 + index(&mut self.random, NAMES.len());
        NAMES[index(&mut self.random, among)].into()
    }

    fn wait(&mut self) -> &'static str {
        let streamer = self.streamer();
        let report = self.logins.report(self.now);
        match self.logins.wait(&streamer, self.now) {
            Ok(ticket) => {
                self.tickets.push(Waiting {
                    ticket,
                    alarm: Alarm::new(0, &Arc::default()),
                    polled: false,
                    turn: Turn::Waits,
                    again: false,
                });
            }
            Err(_) => assert!(report.waiting >= QUEUE, "refused with room in the queue"),
        }
        "wait"
    }

    fn poll_some(&mut self) -> &'static str {
        if self.tickets.is_empty() {
            return "nothing";
        }
        let at = index(&mut self.random, self.tickets.len());
        if self.tickets[at].turn == Turn::Over {
            // It queues anew, behind all others.
            let mut again = self.tickets.remove(at);
            again.turn = Turn::Waits;
            again.again = true;
            again.alarm = Alarm::new(0, &Arc::default());
            self.tickets.push(again);
            return self.poll_at(self.tickets.len() - 1);
        }
        self.poll_at(at)
    }

    fn poll_at(&mut self, at: usize) -> &'static str {
        let waiting = &mut self.tickets[at];
        let waker = Waker::from(waiting.alarm.clone());
        let mut cx = Context::from_waker(&waker);
        match waiting.ticket.poll(&mut cx, self.now) {
            Poll::Ready(permit) => {
                assert!(waiting.ticket.poll(&mut cx, self.now).is_pending());
                self.tickets.remove(at);
                self.permits.push(Begun {
                    permit,
                    deadline: self.now + self.settings.timeout,
                });
            }
            Poll::Pending => {
                assert!(!waiting.served(), "it was its turn");
                waiting.polled = true;
            }
        }
        "poll"
    }

    fn finish(&mut self) -> &'static str {
        if self.permits.is_empty() {
            return "nothing";
        }
        let at = index(&mut self.random, self.permits.len());
        let begun = self.permits.swap_remove(at);
        let outcome = match self.random.below(8) {
            0 => LoginOutcome::Failed,
            1 => LoginOutcome::Refused,
            _ => LoginOutcome::Done,
        };
        begun.permit.finish(outcome, self.now);
        "an answer"
    }

    /// A streamer dies: all of its clients go at once.
    fn vanish(&mut self) -> &'static str {
        let streamer = self.streamer();
        while let Some(at) =
            (self.permits.iter()).position(|begun| *begun.permit.streamer() == streamer)
        {
            self.permits.swap_remove(at);
            self.check("a permit of a streamer that vanished");
        }
        while let Some(at) =
            (self.tickets.iter()).position(|waiting| *waiting.ticket.streamer() == streamer)
        {
            self.tickets.remove(at);
            self.check("a ticket of a streamer that vanished");
        }
        let report = self.logins.report(self.now).streamer(&streamer);
        assert_eq!((report.waiting, report.in_flight), (0, 0));
        "a streamer that vanished"
    }

    fn check(&mut self, when: &str) {
        let report = self.logins.report(self.now);
        let now = self.now;
        let (mut waiting, mut in_flight) = (0, 0);
        let mut turns = Vec::new();
        for (at, client) in self.tickets.iter_mut().enumerate() {
            let woken = client.alarm.rung();
            assert!(woken <= 1, "{when}: woken twice");
            if let Turn::Come { until } = client.turn
                && until <= now
            {
                client.turn = Turn::Over;
            }
            let place = client.ticket.place();
            if place.is_none() && client.turn == Turn::Waits {
                let until = now + CLAIM_WITHIN;
                client.turn = Turn::Come { until };
                turns.push((at, client.ticket.streamer().clone()));
            }
            let waits = client.turn == Turn::Waits;
            assert_eq!(waits, place.is_some(), "{when}: lost its turn");
            assert_eq!(
                woken,
                u32::from(!waits && client.polled),
                "{when}: ticket {at}"
            );
        }
        for name in NAMES {
            let id = StreamerId::from(name);
            let lane = report.streamer(&id);
            let own: Vec<_> = (self.tickets.iter())
                .filter(|waiting| *waiting.ticket.streamer() == id && waiting.turn != Turn::Over)
                .collect();
            // Those who came first were served first.
            let served = own.iter().filter(|waiting| waiting.served()).count();
            assert!(own.is_sorted_by_key(|waiting| !waiting.served()), "{when}");
            for (place, waiting) in own.iter().skip(served).enumerate() {
                assert_eq!(waiting.ticket.place(), Some(place), "{when}");
            }
            // Every login that counts is held by somebody, or set aside for somebody.
            let held = (self.permits.iter())
                .filter(|begun| *begun.permit.streamer() == id && begun.deadline > now)
                .count();
            assert_eq!(lane.waiting, own.len() - served, "{when}: {name}");
            assert_eq!(lane.in_flight as usize, held + served, "{when}: {name}");
            waiting += lane.waiting;
            in_flight += lane.in_flight;
            assert!(lane.limit >= 1, "{when}: {name} has no limit");
            assert!(lane.limit <= self.settings.streamer_concurrency, "{when}");
            if self.settings.pace && lane.in_flight > self.before.streamer(&id).in_flight {
                assert!(
                    lane.in_flight <= lane.limit,
                    "{when}: {name} over its limit"
                );
            }
        }
        assert_eq!(
            (report.waiting, report.in_flight),
            (waiting, in_flight),
            "{when}"
        );
        let again = self.tickets.iter().filter(|waiting| waiting.again);
        assert!(waiting <= QUEUE + again.count(), "{when}");
        assert!(report.limit >= 1 && report.limit <= self.settings.concurrency);
        if self.settings.pace {
            if in_flight > self.before.in_flight {
                assert!(in_flight <= report.limit, "{when}: over the limit for all");
            }
            for (_, streamer) in &turns {
                self.rate.begun(now);
                let rate = self.settings.streamer_rate;
                let lane = (self.rates.entry(streamer.clone()))
                    .or_insert_with(|| RateCheck::new(rate, now));
                lane.begun(now);
            }
        } else {
            assert_eq!(waiting, 0, "{when}: held back though nothing is limited");
        }
        self.check_turns(&report, &turns, when);
        self.before = report;
    }

    /// Room and people who wait for it do not exist at the same time, and who got room while
    /// somebody older waits is at a streamer that has it, when the other's has not.
    fn check_turns(&self, report: &LoginsReport, turns: &[(usize, StreamerId)], when: &str) {
        let waiting: Vec<_> = (self.tickets.iter().enumerate())
            .filter(|(_, waiting)| waiting.turn == Turn::Waits)
            .map(|(at, waiting)| (at, report.streamer(waiting.ticket.streamer())))
            .filter(|(_, lane)| lane.in_flight < lane.limit)
            .collect();
        if report.in_flight < report.limit && !waiting.is_empty() {
            assert!(!self.free, "{when}: room is not given to who waits");
            let next = self.logins.next_timeout();
            let next = next.expect("the rate opens at some time");
            assert!(next > self.now, "{when}: a lost wake-up");
            let longest = Duration::from_secs(1) + MILLISECOND;
            assert!(next <= self.now + longest, "{when}: held back too long");
        }
        if self.free
            && let (Some((oldest, _)), Some((latest, _))) = (waiting.first(), turns.last())
        {
            assert!(latest < oldest, "{when}: somebody was overtaken");
        }
    }

    fn end(mut self) {
        self.tickets.clear();
        self.permits.clear();
        let report = self.logins.report(self.now);
        assert_eq!((report.waiting, report.in_flight), (0, 0));
        while let Some(next) = self.logins.next_timeout() {
            assert!(
                next <= self.now + Duration::from_secs(10),
                "something is left"
            );
            self.now = self.now.max(next);
            self.logins.handle_timeout(self.now);
        }
        assert!(self.logins.streamers().is_empty());
    }
}

fn some_settings(random: &mut SplitMix, free: bool) -> LoginSettings {
    let rate = |random: &mut SplitMix| match free {
        true => 1_000_000_000,
        false => 1 + small(random, 60),
    };
    LoginSettings {
        pace: random.below(8) > 0,
        streamer_concurrency: 1 + small(random, 12),
        concurrency: 1 + small(random, 20),
        streamer_rate: rate(random),
        rate: rate(random),
        latency_target: MILLISECOND * (1 + small(random, 2_000)),
        timeout: Duration::from_secs(1 + random.below(20)),
        queue_length: QUEUE,
    }
}
