//! Everything under the lock of [`Logins`](super::Logins).

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    task::{Context, Waker},
    time::Instant,
};

use super::{
    CLAIM_WITHIN, LoginOutcome, LoginSettings,
    lane::Lane,
    limit,
    meters::{LaneMeters, LoginMeters},
    report::{LaneReport, LoginsReport},
    throttle::{FORGET_AFTER, Throttle, part},
};
use crate::base::id::StreamerId;

#[derive(Debug)]
pub(super) struct State {
    settings: LoginSettings,
    lanes: HashMap<StreamerId, Lane>,
    whole: Throttle,
    /// What other gateways leave to a streamer without logins.
    idle_share: f64,
    /// Since when there is no login at all, until the whole's limit was forgotten.
    idle_since: Option<Instant>,
    /// In all lanes.
    waiting: usize,
    /// Number of the next ticket.
    next_ticket: u64,
    /// Number of the next login.
    next_login: u64,
    /// By ticket.
    flights: HashMap<u64, Flight>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// The latest time anybody told; a freed place is given on with this one.
    pub(super) clock: Instant,
    /// Who drives the time, and what it was told.
    pub(super) driver: Option<Waker>,
    pub(super) told: Option<Instant>,
    pub(super) hurried: bool,
}

/// A login that counts.
#[derive(Debug)]
struct Flight {
    streamer: StreamerId,
    /// Its number in the order of beginning.
    login: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// It is the ticket's turn, but it has not noticed yet.
    SetAside {
        until: Instant,
    },
    Begun {
        at: Instant,
        deadline: Instant,
    },
}

/// How a login ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Answered(LoginOutcome),
    TimedOut,
    /// Client or streamer is gone.
    Gone,
}

impl State {
    pub(super) fn new(settings: LoginSettings, now: Instant) -> Self {
        Self {
            whole: Throttle::new(settings.of_whole(), 0, now),
            settings,
            lanes: HashMap::new(),
            idle_share: 1.0,
            idle_since: None,
            waiting: 0,
            next_ticket: 0,
            next_login: 0,
            flights: HashMap::new(),
            deadlines: BTreeSet::new(),
            clock: now,
            driver: None,
            told: None,
            hurried: false,
        }
    }

    pub(super) fn reconfigure(&mut self, settings: LoginSettings) {
        if settings == self.settings {
            return;
        }
        let anew = settings.pace && !self.settings.pace;
        self.whole.reconfigure(settings.of_whole(), self.clock);
        for lane in self.lanes.values_mut() {
            lane.reconfigure(settings.of_streamer(), self.clock);
            if anew {
                lane.restart(self.next_login);
            }
        }
        if anew {
            self.whole.restart(self.next_login);
        }
        self.settings = settings;
    }

    /// What other gateways leave of the pace: of all, of streamers with logins, of others.
    pub(super) fn set_shares(&mut self, whole: f64, of: impl Fn(&StreamerId) -> f64, idle: f64) {
        self.whole.set_share(whole, self.clock);
        for (id, lane) in &mut self.lanes {
            lane.set_share(of(id), self.clock);
        }
        self.idle_share = idle;
    }

    /// Logins that wait or are in flight: all, and by streamer.
    pub(super) fn demand(&self) -> (u32, Vec<(StreamerId, u32)>) {
        let count = |waiting: usize, in_flight: u32| {
            let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
            waiting.saturating_add(in_flight)
        };
        let lanes = self.lanes.iter().map(|(id, lane)| {
            let logins = count(lane.waiting(), lane.throttle().in_flight());
            (id.clone(), logins)
        });
        let lanes = lanes.filter(|(_, logins)| *logins > 0).collect();
        (count(self.waiting, self.whole.in_flight()), lanes)
    }

    /// A ticket for this streamer; `None` when the queue is full. The caller has served those who
    /// wait.
    pub(super) fn enter(&mut self, streamer: &StreamerId) -> Option<u64> {
        if self.waiting >= self.settings.queue_length && !self.has_room(streamer) {
            return None;
        }
        Some(self.push(streamer))
    }

    /// Whether there is room besides the reserve.
    pub(super) fn accepting(&self) -> bool {
        let length = self.settings.queue_length;
        self.waiting < (length - length / 10).max(1)
    }

    /// A ticket in any case, for one that has been in the queue before.
    pub(super) fn push(&mut self, streamer: &StreamerId) -> u64 {
        let (next, now) = (self.next_login, self.clock);
        let lane = self.lanes.entry(streamer.clone()).or_insert_with(|| {
            let meters = LaneMeters::new(streamer);
            let mut lane = Lane::new(self.settings.of_streamer(), next, meters, now);
            lane.set_share(self.idle_share, now);
            lane
        });
        let number = self.next_ticket;
        self.next_ticket += 1;
        lane.push(number, now);
        self.waiting += 1;
        self.idle_since = None;
        number
    }

    /// A login at this streamer would begin at once.
    fn has_room(&self, streamer: &StreamerId) -> bool {
        let lane = self.lanes.get(streamer);
        self.is_open(&self.whole)
            && lane.is_none_or(|lane| lane.waiting() == 0 && self.is_open(lane.throttle()))
    }

    fn is_open(&self, throttle: &Throttle) -> bool {
        !self.settings.pace || throttle.is_open(self.clock)
    }

    /// Gives room to those who wait, in their order. The wakers are for after the lock.
    pub(super) fn serve(&mut self, meters: &LoginMeters) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while self.waiting > 0 && self.is_open(&self.whole) {
            let open = (self.lanes.iter()).filter(|(_, lane)| self.is_open(lane.throttle()));
            let oldest = open
                .filter_map(|(id, lane)| Some((lane.head()?, id)))
                .min_by_key(|(number, _)| *number);
            let Some((_, streamer)) = oldest else {
                break;
            };
            let streamer = streamer.clone();
            wakers.extend(self.set_aside(streamer, meters));
        }
        wakers
    }

    /// It is the turn of the first in this lane.
    fn set_aside(&mut self, streamer: StreamerId, meters: &LoginMeters) -> Option<Waker> {
        let lane = self.lanes.get_mut(&streamer)?;
        let (number, since, waker) = lane.pop()?;
        let paced = self.settings.pace;
        lane.begin(paced, self.clock);
        self.whole.begin(paced, self.clock);
        self.waiting -= 1;
        meters.waited(self.clock.saturating_duration_since(since));
        let until = self.clock + CLAIM_WITHIN;
        let flight = Flight {
            streamer,
            login: self.next_login,
            stage: Stage::SetAside { until },
        };
        self.next_login += 1;
        self.deadlines.insert((until, number));
        self.flights.insert(number, flight);
        waker
    }

    /// The ticket takes what was set aside for it; from now on the login's time runs.
    pub(super) fn claim(&mut self, number: u64) -> bool {
        let Some(flight) = self.flights.get_mut(&number) else {
            return false;
        };
        let Stage::SetAside { until } = flight.stage else {
            return false;
        };
        self.deadlines.remove(&(until, number));
        let deadline = self.clock + self.settings.timeout;
        flight.stage = Stage::Begun {
            at: self.clock,
            deadline,
        };
        self.deadlines.insert((deadline, number));
        true
    }

    /// Its turn was over before it came: it is neither waiting nor is anything set aside for it.
    pub(super) fn is_passed_over(&self, number: u64, streamer: &StreamerId) -> bool {
        let waits = |lane: &Lane| lane.is_waiting(number);
        !self.flights.contains_key(&number) && !self.lanes.get(streamer).is_some_and(waits)
    }

    pub(super) fn watch(
        &mut self,
        number: u64,
        streamer: &StreamerId,
        cx: &Context<'_>,
    ) -> Option<Waker> {
        self.lanes.get_mut(streamer)?.watch(number, cx)
    }

    pub(super) fn place(&self, number: u64, streamer: &StreamerId) -> Option<usize> {
        self.lanes.get(streamer)?.before(number)
    }

    /// A ticket is dropped: it leaves the queue, or gives back what was set aside for it.
    pub(super) fn leave(&mut self, number: u64, streamer: &StreamerId) -> Option<Waker> {
        let lane = self.lanes.get_mut(streamer)?;
        if let Some(waker) = lane.leave(number, self.clock) {
            self.waiting -= 1;
            self.rest();
            return waker;
        }
        self.give_back(number);
        None
    }

    /// What was set aside for this ticket, if it was; it is not a login then.
    fn give_back(&mut self, number: u64) -> bool {
        let Entry::Occupied(flight) = self.flights.entry(number) else {
            return false;
        };
        let Stage::SetAside { until } = flight.get().stage else {
            return false;
        };
        let flight = flight.remove();
        self.deadlines.remove(&(until, number));
        if let Some(lane) = self.lanes.get_mut(&flight.streamer) {
            lane.end(self.clock);
        }
        self.whole.end();
        self.rest();
        true
    }

    /// A login ended; without effect when it had ended before.
    pub(super) fn end(&mut self, number: u64, ending: Ending, meters: &LoginMeters) {
        let Some(flight) = self.flights.remove(&number) else {
            return;
        };
        let Stage::Begun { at, deadline } = flight.stage else {
            debug_assert!(false, "a login that has not begun was answered");
            return;
        };
        self.deadlines.remove(&(deadline, number));
        let took = self.clock.saturating_duration_since(at);
        let late = took > self.settings.latency_target;
        let good = match ending {
            Ending::Answered(LoginOutcome::Done | LoginOutcome::Refused) => Some(!late),
            Ending::Answered(LoginOutcome::Failed) | Ending::TimedOut => Some(false),
            // Of a client that lost patience it is known that it had reason to.
            Ending::Gone => late.then_some(false),
        };
        match ending {
            Ending::Answered(outcome) => meters.answered(outcome, took),
            Ending::TimedOut => meters.timed_out.increment(1),
            Ending::Gone => meters.gone.increment(1),
        }
        self.whole.end();
        let lane = self.lanes.get_mut(&flight.streamer);
        debug_assert!(lane.is_some(), "a lane with a login in flight is kept");
        let learned = good.filter(|_| self.settings.pace);
        if let Some(lane) = lane {
            lane.end(self.clock);
            if let Some(good) = learned {
                lane.learn(flight.login, good, self.next_login);
            }
        }
        if let Some(good) = learned {
            self.whole.learn(flight.login, good, self.next_login);
        }
        self.rest();
    }

    /// Ends what has timed out, passes over who did not come, forgets what is long idle.
    pub(super) fn expire(&mut self, meters: &LoginMeters) {
        while let Some((deadline, number)) = self.deadlines.first().copied()
            && deadline <= self.clock
        {
            self.deadlines.remove(&(deadline, number));
            if self.give_back(number) {
                meters.passed_over.increment(1);
            } else {
                self.end(number, Ending::TimedOut, meters);
            }
        }
        let now = self.clock;
        self.lanes
            .retain(|_, lane| lane.forget_at().is_none_or(|at| at > now));
        if self.idle_since.is_some_and(|at| at + FORGET_AFTER <= now) {
            self.idle_since = None;
            self.whole.restart(self.next_login);
        }
    }

    pub(super) fn came_up(&mut self, streamer: &StreamerId, since: Instant) {
        if let Some(lane) = self.lanes.get_mut(streamer) {
            lane.came_up(since, self.next_login);
        }
    }

    /// When something happens by itself.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let forget = self.lanes.values().filter_map(Lane::forget_at).min();
        let rest = self.idle_since.map(|since| since + FORGET_AFTER);
        let opens = self.opens_at();
        [deadline, forget, rest, opens].into_iter().flatten().min()
    }

    /// When the next one may begin if no login ends until then.
    fn opens_at(&self) -> Option<Instant> {
        if self.waiting == 0 || !self.settings.pace {
            return None;
        }
        let whole = self.whole.opens_at()?;
        let lanes = self.lanes.values().filter(|lane| lane.waiting() > 0);
        let lane = lanes.filter_map(|lane| lane.throttle().opens_at()).min()?;
        Some(whole.max(lane))
    }

    /// Whom to tell that the next timeout is earlier than it was.
    pub(super) fn hurry(&mut self) -> Option<Waker> {
        let next = self.next_timeout()?;
        if self.told.is_some_and(|told| told <= next) {
            return None;
        }
        self.told = Some(next);
        self.hurried = true;
        self.driver.take()
    }

    pub(super) fn rate_limit(&self) -> u32 {
        self.whole.rate_limit()
    }

    /// `None`: nothing is limited.
    pub(super) fn paced_rate(&self) -> Option<u32> {
        self.settings.pace.then(|| self.rate_limit())
    }

    pub(super) fn streamers(&self) -> Vec<StreamerId> {
        self.lanes.keys().cloned().collect()
    }

    pub(super) fn report(&mut self) -> LoginsReport {
        let (now, settings) = (self.clock, &self.settings);
        let idle = LaneReport {
            waiting: 0,
            in_flight: 0,
            limit: part(limit::start(settings.streamer_concurrency), self.idle_share),
            rate: 0,
            rate_limit: part(settings.streamer_rate, self.idle_share),
        };
        let mut streamers: Vec<_> = self
            .lanes
            .iter_mut()
            .map(|(id, lane)| {
                let report = LaneReport {
                    waiting: lane.waiting(),
                    in_flight: lane.throttle().in_flight(),
                    limit: lane.throttle().limit(),
                    rate: lane.rate(now),
                    rate_limit: lane.throttle().rate_limit(),
                };
                (id.clone(), report)
            })
            .collect();
        streamers.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        LoginsReport {
            paced: settings.pace,
            waiting: self.waiting,
            in_flight: self.whole.in_flight(),
            limit: self.whole.limit(),
            rate: self.whole.rate(now),
            rate_limit: self.whole.rate_limit(),
            queue_length: settings.queue_length,
            idle,
            streamers,
        }
    }

    pub(super) fn measure(&self, meters: &LoginMeters) {
        meters.limit.set(self.whole.limit());
        meters.rate_limit.set(self.whole.rate_limit());
    }

    /// Notes when the last login has ended.
    fn rest(&mut self) {
        if self.waiting == 0 && self.whole.in_flight() == 0 {
            self.idle_since = Some(self.clock);
        }
    }
}
