//! Ten thousand clients come back after a restart of everything.

mod losses;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use ddp_gateway::{
    base::id::StreamerId,
    pool::{
        SplitMix,
        logins::{LoginOutcome, LoginPermit, LoginSettings, LoginTicket, Logins},
    },
};

use super::{Alarm, MILLISECOND, RateCheck, seeds, small, with_seed};

const CLIENTS: usize = 10_000;
const STREAMERS: usize = 20;

#[test]
fn ten_thousand_returning_clients_are_all_logged_in_within_the_limits() {
    for seed in seeds(0..4) {
        with_seed(seed, |seed| {
            let settings = LoginSettings::default();
            let mut storm = Storm::new(seed, settings, Backend::HEALTHY);
            storm.run();
            println!("seed {seed}: {}", storm.outcome());
            // 100/s in all; a little more for the slow start.
            assert!(storm.settled() < Duration::from_secs(115));
            assert_eq!(storm.failed, 0, "the backend was driven into failures");
            assert!(storm.peak <= 100);
        });
    }
}

/// Half as fast as the rates are made for: the concurrency has to hold it, and does.
#[test]
fn a_slow_backend_is_found_out_and_not_driven_further() {
    for seed in seeds(0..2) {
        with_seed(seed, |seed| {
            let settings = LoginSettings::default();
            let mut storm = Storm::new(seed, settings.clone(), Backend::SLOW);
            storm.run();
            println!("seed {seed}, slow backend: {}", storm.outcome());
            assert!(storm.settled() < Duration::from_secs(300));
            // The limits go up and down around the target: that is how they find out.
            let target = settings.latency_target;
            assert!(storm.slowest_of(50) <= target);
            assert!(storm.slowest_of(99) <= 3 * target);
            assert_eq!(storm.failed, 0);
        });
    }
}

#[test]
fn without_pacing_the_same_storm_breaks_the_same_backend() {
    let settings = LoginSettings {
        pace: false,
        ..LoginSettings::default()
    };
    let mut storm = Storm::new(0, settings, Backend::HEALTHY);
    storm.run_for(Duration::from_secs(120));
    println!("not paced: {}", storm.outcome());
    assert!(storm.peak > 1_000);
    // Who failed comes again, and so the load never falls to where logins would succeed.
    assert!(storm.logged_in < CLIENTS / 2);
    assert!(storm.failed > CLIENTS);
}

/// How long a login takes, and when it fails.
#[derive(Clone, Copy)]
struct Backend {
    alone: Duration,
    /// Logins at one streamer that it serves without delay.
    streamer: f64,
    /// Logins that the database serves without delay.
    database: f64,
    /// Logins in the database from which on it fails.
    breaks_at: usize,
}

impl Backend {
    const HEALTHY: Self = Self {
        alone: Duration::from_millis(75),
        streamer: 4.0,
        database: 30.0,
        breaks_at: 1_000,
    };
    const SLOW: Self = Self {
        alone: Duration::from_millis(300),
        streamer: 2.0,
        database: 15.0,
        breaks_at: 200,
    };

    /// What is more than can be served at a time waits in line, at the slower of the two.
    fn latency(self, at_streamer: usize, in_all: usize) -> Duration {
        let share = |busy: usize, room: f64| (busy as f64 / room).max(1.0);
        let factor = share(at_streamer, self.streamer).max(share(in_all, self.database));
        self.alone.mul_f64(factor)
    }
}

struct Storm {
    logins: Arc<Logins>,
    settings: LoginSettings,
    backend: Backend,
    random: SplitMix,
    start: Instant,
    now: Instant,
    clients: Vec<Client>,
    bell: Arc<Mutex<Vec<usize>>>,
    /// When clients come and logins are answered.
    events: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Of each streamer: who waits, in the order of coming.
    lanes: HashMap<StreamerId, VecDeque<usize>>,
    at_streamer: HashMap<StreamerId, usize>,
    in_flight: usize,
    rate: RateCheck,
    rates: HashMap<StreamerId, RateCheck>,
    logged_in: usize,
    /// Logins that the backend failed.
    failed: usize,
    peak: usize,
    latencies: Vec<Duration>,
}

struct Client {
    streamer: StreamerId,
    stage: Stage,
}

enum Stage {
    Away,
    Waiting(LoginTicket),
    LoggingIn {
        permit: LoginPermit,
        since: Instant,
        fails: bool,
    },
    In,
}

impl Storm {
    fn new(seed: u64, settings: LoginSettings, backend: Backend) -> Self {
        let now = Instant::now();
        let mut random = SplitMix(seed);
        let ids: Vec<StreamerId> = (0..STREAMERS)
            .map(|at| format!("streamer-{at}").as_str().into())
            .collect();
        let mut events = BinaryHeap::new();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|at| {
                // Browsers are back within 10 ms, or else after 5 s, as phones are.
                let delay = match random.below(10) {
                    0..=5 => small(&mut random, 10),
                    6 | 7 => 4_000 + small(&mut random, 2_000),
                    _ => 5_000,
                };
                events.push(Reverse((now + MILLISECOND * delay, at)));
                Client {
                    streamer: ids[at % STREAMERS].clone(),
                    stage: Stage::Away,
                }
            })
            .collect();
        let rates = ids
            .iter()
            .map(|id| (id.clone(), RateCheck::new(settings.streamer_rate, now)))
            .collect();
        Self {
            logins: Logins::new(settings.clone(), now),
            rate: RateCheck::new(settings.rate, now),
            rates,
            settings,
            backend,
            random,
            start: now,
            now,
            clients,
            bell: Arc::default(),
            events,
            lanes: HashMap::new(),
            at_streamer: HashMap::new(),
            in_flight: 0,
            logged_in: 0,
            failed: 0,
            peak: 0,
            latencies: Vec::new(),
        }
    }

    fn run(&mut self) {
        self.run_for(Duration::from_secs(3_600));
        assert_eq!(self.logged_in, CLIENTS, "they starve");
        let report = self.logins.report(self.now);
        assert_eq!((report.in_flight, report.waiting), (0, 0));
    }

    fn run_for(&mut self, time: Duration) {
        while self.logged_in < CLIENTS && self.settled() < time {
            let event = self.events.peek().map(|Reverse((at, _))| *at);
            let timeout = self.logins.next_timeout();
            let next = [event, timeout].into_iter().flatten().min();
            let next = next.expect("clients are left, and nothing will ever happen");
            self.now = self.now.max(next);
            if timeout.is_some_and(|at| at <= self.now) {
                self.logins.handle_timeout(self.now);
            }
            while let Some(Reverse((at, client))) = self.events.peek().copied()
                && at <= self.now
            {
                self.events.pop();
                self.happens(client);
                self.answer_the_bell();
            }
            self.answer_the_bell();
            self.check();
        }
    }

    /// The client comes (back), or its login is answered.
    fn happens(&mut self, at: usize) {
        let client = &mut self.clients[at];
        match std::mem::replace(&mut client.stage, Stage::In) {
            Stage::Away => {
                let ticket = self.logins.wait(&client.streamer, self.now);
                client.stage = Stage::Waiting(ticket.expect("the queue has room for all"));
                let lane = self.lanes.entry(client.streamer.clone()).or_default();
                lane.push_back(at);
                self.poll(at);
            }
            Stage::LoggingIn {
                permit,
                since,
                fails,
            } => {
                self.in_flight -= 1;
                *self.at_streamer.entry(client.streamer.clone()).or_default() -= 1;
                self.latencies.push(self.now - since);
                if fails {
                    self.failed += 1;
                    client.stage = Stage::Away;
                    let again = MILLISECOND * (4_000 + small(&mut self.random, 2_000));
                    self.events.push(Reverse((self.now + again, at)));
                    permit.finish(LoginOutcome::Failed, self.now);
                } else {
                    self.logged_in += 1;
                    permit.finish(LoginOutcome::Done, self.now);
                }
            }
            Stage::Waiting(_) | Stage::In => panic!("nothing was to happen to client {at}"),
        }
    }

    fn answer_the_bell(&mut self) {
        let woken = std::mem::take(&mut *self.bell.lock().expect("the bell is whole"));
        for client in woken {
            let before = self.in_flight;
            self.poll(client);
            assert_eq!(self.in_flight, before + 1, "woken for nothing");
        }
    }

    fn poll(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let Stage::Waiting(ticket) = &mut client.stage else {
            panic!("client {at} does not wait")
        };
        let waker = Waker::from(Alarm::new(at, &self.bell));
        let Poll::Ready(permit) = ticket.poll(&mut Context::from_waker(&waker), self.now) else {
            return;
        };
        let first = self
            .lanes
            .entry(client.streamer.clone())
            .or_default()
            .pop_front();
        assert_eq!(first, Some(at), "not in the order of coming");
        let at_streamer = self.at_streamer.entry(client.streamer.clone()).or_default();
        *at_streamer += 1;
        self.in_flight += 1;
        self.peak = self.peak.max(self.in_flight);
        if self.settings.pace {
            // The limits in force now are those of the moment that the turn came: the same.
            let report = self.logins.report(self.now);
            let lane = report.streamer(&client.streamer);
            assert!(*at_streamer <= lane.limit as usize);
            assert!(lane.limit <= self.settings.streamer_concurrency);
            assert!(self.in_flight <= report.limit as usize);
            assert!(report.limit <= self.settings.concurrency);
            self.rate.begun(self.now);
            self.rates
                .get_mut(&client.streamer)
                .expect("one per streamer")
                .begun(self.now);
        }
        let latency = self.backend.latency(*at_streamer, self.in_flight);
        let jitter = 0.8 + self.random.below(400) as f64 / 1_000.0;
        let answer = self.now + latency.mul_f64(jitter);
        client.stage = Stage::LoggingIn {
            permit,
            since: self.now,
            fails: self.in_flight > self.backend.breaks_at,
        };
        self.events.push(Reverse((answer, at)));
    }

    fn check(&self) {
        let report = self.logins.report(self.now);
        if self.settings.pace {
            // Without it some take so long that they are given up here and yet run on there.
            assert_eq!(report.in_flight as usize, self.in_flight);
        }
        let waiting: usize = self.lanes.values().map(VecDeque::len).sum();
        assert_eq!(report.waiting, waiting);
        // Room and people who wait for it exist together only as long as the rate says so.
        let room = self.lanes.iter().any(|(id, lane)| {
            let state = report.streamer(id);
            !lane.is_empty() && state.in_flight < state.limit
        });
        if room && report.in_flight < report.limit {
            let next = self.logins.next_timeout().expect("the rate opens");
            assert!(next > self.now && next <= self.now + 100 * MILLISECOND);
        }
    }

    fn settled(&self) -> Duration {
        self.now - self.start
    }

    /// The slowest login of this many percent, beginning with the fastest.
    fn slowest_of(&self, percent: usize) -> Duration {
        let mut latencies = self.latencies.clone();
        latencies.sort_unstable();
        latencies[(latencies.len() - 1) * percent / 100]
    }

    /// Share of logins beyond the target.
    fn late(&self) -> f64 {
        let late = |took: &&Duration| **took > self.settings.latency_target;
        self.latencies.iter().filter(late).count() as f64 / self.latencies.len() as f64
    }

    fn outcome(&self) -> String {
        let millis = |percent| self.slowest_of(percent).as_secs_f64() * 1e3;
        format!(
            "{} logged in after {:.1} s; {} in flight at most; login p50 {:.0} ms, p99 {:.0} ms, \
             slowest {:.0} ms; {:.0} % late, {} failed",
            self.logged_in,
            self.settled().as_secs_f64(),
            self.peak,
            millis(50),
            millis(99),
            millis(100),
            self.late() * 100.0,
            self.failed
        )
    }
}
