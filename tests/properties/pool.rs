//! A pool under random operations: what is counted adds up, and nobody who waits is forgotten.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use ddp_gateway::{
    base::id::{StreamerAddr, StreamerId},
    pool::{
        AdminState, Cause, Expectation, Fault, Health, Outcome, Pace, Permit, Pool, Probe,
        ProbeKind, Settings, SplitMix, Streamer, Ticket, Wish,
    },
};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[test]
fn permits_add_up_and_the_queue_is_fair_under_any_order_of_events() {
    for seed in 0..150 {
        let mut world = World::new(seed);
        for step in 0..600 {
            let event = world.step();
            world.check(&format!("seed {seed}, step {step}, after {event}"));
        }
        world.end();
    }
}

#[test]
fn every_client_gets_its_turn_while_the_pool_changes_under_many_threads() {
    const LIMIT: u32 = 3;
    let mut settings = Settings::named("threads");
    settings.sessions_per_streamer = LIMIT;
    let pool = Pool::new(settings, Instant::now());
    pool.apply(&endpoints(&NAMES), Instant::now());
    probe_all(&pool, Instant::now(), |_, _| Ok(()));
    let holders: HashMap<_, _> = NAMES.map(|name| (name, AtomicU32::new(0))).into();
    let served = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let give_up = Instant::now() + Duration::from_secs(60);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let (pool, holders, served) = (&pool, &holders, &served);
                scope.spawn(move || {
                    let mut random = SplitMix(client);
                    for _ in 0..2_000 {
                        let mut held = Vec::new();
                        for _ in 0..=random.below(4) {
                            let wish = Wish::default();
                            let permit = match pool.pick(&wish, &[], Instant::now()) {
                                Ok(permit) => Some(permit),
                                // Whoever holds places must not wait for more: the classic
                                // deadlock would be the test's own.
                                Err(_) if !held.is_empty() => None,
                                Err(_) => Some(await_turn(pool, give_up)),
                            };
                            if let Some(permit) = permit {
                                let counter = &holders[permit.streamer().id.as_str()];
                                let now_there = counter.fetch_add(1, Ordering::SeqCst) + 1;
                                assert!(now_there <= LIMIT, "{now_there} sessions on one streamer");
                                held.push(permit);
                                served.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        for permit in held {
                            holders[permit.streamer().id.as_str()].fetch_sub(1, Ordering::SeqCst);
                            drop(permit);
                        }
                    }
                })
            })
            .collect();
        // Meanwhile streamers come and go, though never all of them.
        let churn = scope.spawn(|| {
            let mut random = SplitMix(99);
            while !done.load(Ordering::Relaxed) {
                let now = Instant::now();
                match random.below(3) {
                    0 => {
                        let from = usize::try_from(random.below(3)).unwrap();
                        pool.apply(&endpoints(&NAMES[from..]), now);
                    }
                    1 => {
                        let admin = match random.below(2) {
                            0 => AdminState::Ready,
                            _ => AdminState::Drain {
                                since: now,
                                rate: None,
                            },
                        };
                        pool.set_admin(&NAMES[4].into(), admin, now);
                    }
                    _ => pool.advance(now),
                }
                probe_all(&pool, now, |_, _| Ok(()));
                thread::yield_now();
            }
        });
        for client in clients {
            client.join().expect("a client failed");
        }
        done.store(true, Ordering::Relaxed);
        churn.join().expect("the churn failed");
    });
    assert!(served.load(Ordering::Relaxed) >= 8 * 2_000);
    assert_eq!(pool.waiting(), 0);
    let sessions: u32 = (pool.view().entries.iter())
        .map(|entry| entry.streamer.sessions())
        .sum();
    assert_eq!(sessions, 0);
}

#[test]
fn the_whole_pool_comes_back_at_once_for_all_who_wait() {
    let mut settings = Settings::named("storm");
    settings.queue_length = 5_000;
    let mut now = Instant::now();
    let pool = Pool::new(settings, now);
    pool.apply(&endpoints(&NAMES), now);
    probe_all(&pool, now, |_, _| Ok(()));
    // An hour of quiet life, then everything is gone.
    now += Duration::from_secs(3_600);
    for _ in 0..20 {
        now += Duration::from_millis(100);
        probe_all(&pool, now, |_, _| Err(Fault::Connect));
    }
    assert!(!pool.view().any_eligible());
    let mut tickets: Vec<_> = (0..2_400)
        .map(|_| pool.wait(Wish::default(), now).unwrap())
        .collect();
    assert_eq!(pool.waiting(), 2_400);
    // Back: every one of them is served within what the prober needs, half a second at most.
    let back = now;
    while pool.waiting() > 0 {
        now += Duration::from_millis(10);
        assert!(now - back <= Duration::from_millis(500), "starved");
        pool.advance(now);
        probe_all(&pool, now, |_, _| Ok(()));
    }
    let mut cx = Context::from_waker(Waker::noop());
    let permits: Vec<_> = tickets
        .iter_mut()
        .map(|ticket| ticket.poll(&mut cx, now))
        .collect();
    assert!(permits.iter().all(Poll::is_ready));
}

#[test]
fn a_streamer_that_falls_silent_is_out_and_back_in_time_in_every_phase() {
    const OUT: Duration = Duration::from_secs(2);
    const BACK: Duration = Duration::from_millis(500);
    for seed in 0..300 {
        for silence in [Silence::Whole, Silence::Ddp, Silence::Refusal] {
            let mut wire = Wire::new(seed);
            wire.pass_until("proven", BACK, Wire::is_up);
            wire.pass(10_000);
            wire.silence = silence;
            let out = match silence {
                // The pause between two DDP probes, one that was just answered, two that fail.
                Silence::Ddp => Duration::from_millis(11_000 + 100 + 500 + 500 + 500),
                _ => OUT,
            };
            wire.pass_until("out", out, |wire| !wire.is_up());
            wire.begun.clear();
            wire.pass(3_000);
            let asked = wire.asked(ProbeKind::Ddp);
            wire.silence = Silence::None;
            wire.pass_until("back", BACK, Wire::is_up);
            // What was swallowed before the return does not take it out again.
            wire.pass_while("stays", Duration::from_secs(3), Wire::is_up);
            // Only the regular one may come; more of them want a good answer to `GET /health`.
            assert!(asked.len() <= 1 || silence == Silence::Ddp);
            for pair in asked.windows(2) {
                let pause = pair[1] - pair[0];
                assert!(
                    pause >= Duration::from_millis(250),
                    "seed {seed}: DDP probes {pause:?} apart are a burden on the message bus"
                );
            }
        }
    }
}

/// One streamer at the other end of a wire on which answers take their time.
struct Wire {
    pool: Arc<Pool>,
    now: Instant,
    random: SplitMix,
    silence: Silence,
    flying: Vec<Flying>,
    /// When probes of each kind began.
    begun: Vec<(ProbeKind, Instant)>,
}

struct Flying {
    probe: Probe,
    /// When the streamer answers, or `None`: it never does.
    answer: Option<Instant>,
    give_up: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    None,
    /// Probes are swallowed; those under way too.
    Whole,
    Ddp,
    /// Not silent, but gone.
    Refusal,
}

impl Wire {
    fn new(seed: u64) -> Self {
        let mut settings = Settings::named("wire");
        settings.seed = seed;
        settings.pace = Pace {
            interval: Duration::from_millis(400),
            ddp_interval: Duration::from_secs(10),
            timeout: Duration::from_millis(500),
        };
        let now = Instant::now();
        let pool = Pool::new(settings, now);
        pool.apply(&endpoints(&NAMES[..1]), now);
        Self {
            pool,
            now,
            random: SplitMix(seed),
            silence: Silence::None,
            flying: Vec::new(),
            begun: Vec::new(),
        }
    }

    fn is_up(&self) -> bool {
        self.pool.view().any_eligible()
    }

    fn asked(&self, kind: ProbeKind) -> Vec<Instant> {
        let of_kind = self.begun.iter().filter(|(begun, _)| *begun == kind);
        of_kind.map(|(_, at)| *at).collect()
    }

    /// Lets some time pass, up to this many milliseconds.
    fn pass(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(self.random.below(millis));
        while self.step(end) {}
    }

    fn pass_until(&mut self, what: &str, limit: Duration, holds: impl Fn(&Self) -> bool) {
        let start = self.now;
        while !holds(self) {
            assert!(self.step(start + limit), "not {what} within {limit:?}");
        }
    }

    fn pass_while(&mut self, what: &str, time: Duration, holds: impl Fn(&Self) -> bool) {
        let start = self.now;
        while self.step(start + time) {
            assert!(holds(self), "no longer {what} after {:?}", self.now - start);
        }
    }

    /// Goes to the next event; false when there is none before `end`.
    fn step(&mut self, end: Instant) -> bool {
        let ends = self.flying.iter().map(|flying| flying.ends(self.silence));
        let next = ends.map(|(at, _)| at).chain(self.pool.next_due()).min();
        let next = next.map_or(end, |next| next.max(self.now));
        if next >= end {
            self.now = end;
            return false;
        }
        self.now = next;
        self.pool.advance(next);
        if let Some(at) = (self.flying.iter()).position(|one| one.ends(self.silence).0 <= next) {
            let flying = self.flying.remove(at);
            let (_, result) = flying.ends(self.silence);
            self.pool.probed(&flying.probe, result, next);
        }
        for probe in self.pool.due(100, next) {
            self.begun.push((probe.kind, next));
            let takes = Duration::from_millis(self.random.below(80));
            let heard = !swallows(self.silence, probe.kind);
            self.flying.push(Flying {
                answer: heard.then_some(next + takes),
                give_up: next + probe.timeout,
                probe,
            });
        }
        true
    }
}

impl Flying {
    /// When the probe ends and how, should the streamer remain as it is.
    fn ends(&self, silence: Silence) -> (Instant, Result<(), Fault>) {
        match self.answer {
            _ if silence == Silence::Refusal => {
                (self.give_up.min(self.refused()), Err(Fault::Connect))
            }
            Some(at) if !swallows(silence, self.probe.kind) => (at, Ok(())),
            _ => (self.give_up, Err(Fault::Timeout)),
        }
    }

    fn refused(&self) -> Instant {
        self.give_up - self.probe.timeout + Duration::from_millis(1)
    }
}

fn swallows(silence: Silence, kind: ProbeKind) -> bool {
    match silence {
        Silence::None | Silence::Refusal => false,
        Silence::Whole => true,
        Silence::Ddp => kind == ProbeKind::Ddp,
    }
}

/// A pool, streamers that behave in various ways, and clients in all stages.
struct World {
    pool: Arc<Pool>,
    random: SplitMix,
    now: Instant,
    limit: u32,
    max_ejected: f64,
    condition: BTreeMap<&'static str, Condition>,
    permits: Vec<Permit>,
    expectations: Vec<Expectation>,
    /// In the order of arrival.
    tickets: Vec<Waiting>,
    /// Every streamer ever seen, so that a lost count is found even when it has left.
    seen: Vec<Arc<Streamer>>,
    sessions_before: HashMap<StreamerId, u32>,
}

#[derive(Clone, Copy)]
enum Condition {
    Good,
    Refusing,
    HalfDead,
}

struct Waiting {
    ticket: Ticket,
    alarm: Arc<Alarm>,
    /// It was polled, so it is to be woken.
    polled: bool,
}

#[derive(Default)]
struct Alarm(AtomicU32);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = SplitMix(seed);
        let limit = 1 + draw_u32(&mut random, 5);
        let max_ejected = [0.0, 0.3, 0.5, 1.0][pick_index(&mut random, 4)];
        let now = Instant::now();
        let mut settings = Settings::named("world");
        settings.seed = seed;
        settings.sessions_per_streamer = limit;
        settings.queue_length = 8;
        settings.max_ejected = max_ejected;
        settings.slow_start = Duration::from_secs(random.below(3));
        let pool = Pool::new(settings, now);
        pool.apply(&endpoints(&NAMES[..1 + pick_index(&mut random, 6)]), now);
        Self {
            pool,
            random,
            now,
            limit,
            max_ejected,
            condition: NAMES.map(|name| (name, Condition::Good)).into(),
            permits: Vec::new(),
            expectations: Vec::new(),
            tickets: Vec::new(),
            seen: Vec::new(),
            sessions_before: HashMap::new(),
        }
    }

    fn step(&mut self) -> &'static str {
        match self.random.below(20) {
            0..=3 => {
                self.now += Duration::from_millis(self.random.below(400));
                let condition = self.condition.clone();
                self.pool.advance(self.now);
                probe_all(&self.pool, self.now, |name, kind| {
                    match (condition[name], kind) {
                        (Condition::Good, _) | (Condition::HalfDead, ProbeKind::Health) => Ok(()),
                        (Condition::HalfDead, ProbeKind::Ddp) => Err(Fault::Timeout),
                        (Condition::Refusing, _) => Err(Fault::Connect),
                    }
                });
                "time and probes"
            }
            4..=6 => self.pick(),
            7..=9 => {
                let wish = self.wish();
                let waited = self.pool.waiting();
                match self.pool.wait(wish, self.now) {
                    Ok(ticket) => self.tickets.push(Waiting {
                        ticket,
                        alarm: Arc::default(),
                        polled: false,
                    }),
                    Err(_) => assert_eq!(waited, 8, "refused with room in the queue"),
                }
                "wait"
            }
            10 | 11 => {
                if !self.permits.is_empty() {
                    let at = pick_index(&mut self.random, self.permits.len());
                    self.permits.swap_remove(at);
                }
                "release"
            }
            12 | 13 => self.poll_some(),
            14 => {
                if !self.tickets.is_empty() {
                    let at = pick_index(&mut self.random, self.tickets.len());
                    self.tickets.remove(at);
                }
                "leave"
            }
            15 => {
                let expectation = self.pool.expect(&Wish::default(), self.now);
                if self.expectations.len() > 5 {
                    self.expectations.clear();
                }
                self.expectations.extend(expectation);
                "expect"
            }
            16 => self.report(),
            17 => {
                let some: Vec<_> = NAMES
                    .into_iter()
                    .filter(|_| self.random.below(3) > 0)
                    .collect();
                let before = self.pool.view().entries.len();
                self.pool.apply(&endpoints(&some), self.now);
                if some.is_empty() {
                    assert_eq!(self.pool.view().entries.len(), before, "emptied");
                }
                "apply"
            }
            18 => {
                let name = NAMES[pick_index(&mut self.random, 6)];
                let since = self.now;
                let admin = match self.random.below(4) {
                    0 => AdminState::Drain { since, rate: None },
                    1 => AdminState::Maint { since },
                    _ => AdminState::Ready,
                };
                self.pool.set_admin(&name.into(), admin, self.now);
                "set_admin"
            }
            _ => {
                let name = NAMES[pick_index(&mut self.random, 6)];
                let condition = match self.random.below(4) {
                    0 => Condition::Refusing,
                    1 => Condition::HalfDead,
                    _ => Condition::Good,
                };
                self.condition.insert(name, condition);
                "another condition"
            }
        }
    }

    fn wish(&mut self) -> Wish {
        let preferred =
            (self.random.below(3) == 0).then(|| NAMES[pick_index(&mut self.random, 6)].into());
        Wish {
            preferred,
            ..Wish::default()
        }
    }

    fn pick(&mut self) -> &'static str {
        let wish = self.wish();
        let avoid: Vec<StreamerId> = (self.random.below(4) == 0)
            .then(|| NAMES[pick_index(&mut self.random, 6)].into())
            .into_iter()
            .collect();
        let view = self.pool.view();
        let wanted = wish.preferred.as_ref().and_then(|id| view.find(id));
        let wanted = wanted.is_some_and(|entry| {
            matches!(entry.health, Health::Up { .. })
                && entry.has_room(self.now)
                && !avoid.contains(&entry.streamer.id)
        });
        let waited = self.pool.waiting();
        if let Ok(permit) = self.pool.pick(&wish, &avoid, self.now) {
            let id = &permit.streamer().id;
            assert_eq!(waited, 0, "barged in");
            assert!(!avoid.contains(id));
            assert!(view.find(id).is_some_and(|entry| entry.eligible()));
            if wanted {
                assert_eq!(Some(id), wish.preferred.as_ref());
            }
            self.permits.push(permit);
        }
        "pick"
    }

    fn poll_some(&mut self) -> &'static str {
        if self.tickets.is_empty() {
            return "nothing";
        }
        let at = pick_index(&mut self.random, self.tickets.len());
        let waiting = &mut self.tickets[at];
        let waker = Waker::from(waiting.alarm.clone());
        match waiting
            .ticket
            .poll(&mut Context::from_waker(&waker), self.now)
        {
            Poll::Ready(permit) => {
                self.permits.push(permit);
                self.tickets.remove(at);
            }
            Poll::Pending => waiting.polled = true,
        }
        "poll"
    }

    fn report(&mut self) -> &'static str {
        let view = self.pool.view();
        if view.entries.is_empty() {
            return "nothing";
        }
        let at = pick_index(&mut self.random, view.entries.len());
        let streamer = &view.entries[at].streamer;
        let down = |view: &ddp_gateway::pool::PoolView| {
            let out =
                |entry: &&ddp_gateway::pool::Entry| matches!(entry.health, Health::Down { .. });
            view.entries.iter().filter(out).count()
        };
        let before = down(&view);
        for _ in 0..=self.random.below(3) {
            let outcome = [
                Outcome::Ok,
                Outcome::ConnectFailed,
                Outcome::HandshakeFailed,
                Outcome::TimedOut,
                Outcome::Reset,
            ][pick_index(&mut self.random, 5)];
            streamer.report(outcome, self.now);
        }
        let view = self.pool.view();
        let after = down(&view);
        if after > before {
            let listed = view.entries.len();
            assert!(
                after as f64 <= self.max_ejected * listed as f64,
                "{after} of {listed} out by traffic"
            );
            let cause = view
                .find(&streamer.id)
                .and_then(|entry| entry.health.cause());
            assert!(matches!(cause, Some(Cause::Traffic(_))));
        }
        "report"
    }

    fn check(&mut self, when: &str) {
        let view = self.pool.view();
        for entry in view.entries.iter().chain(&view.leaving) {
            if !self
                .seen
                .iter()
                .any(|seen| Arc::ptr_eq(seen, &entry.streamer))
            {
                self.seen.push(entry.streamer.clone());
            }
        }
        // Each held permit and each place set aside is one session, and nothing else is.
        let sessions: HashMap<_, _> = self
            .seen
            .iter()
            .map(|streamer| (streamer.id.clone(), streamer.sessions()))
            .collect();
        let total: usize = sessions.values().map(|count| *count as usize).sum();
        let waiting = self.pool.waiting();
        let set_aside = self.tickets.len() - waiting;
        assert_eq!(total, self.permits.len() + set_aside, "{when}");
        let expected: u32 = self.seen.iter().map(|streamer| streamer.expected()).sum();
        assert_eq!(expected as usize, self.expectations.len(), "{when}");
        for (id, count) in &sessions {
            let held = self
                .permits
                .iter()
                .filter(|permit| permit.streamer().id == *id);
            assert!(held.count() <= *count as usize, "{when}");
            // Nothing is ever given out above the limit.
            assert!(*count <= self.limit, "{when}: {count} on {id}");
            let before = self.sessions_before.get(id).copied().unwrap_or(0);
            if *count > before
                && let Some(entry) = view.find(id)
                && entry.eligible()
            {
                assert!(
                    *count <= entry.capacity(self.now),
                    "{when}: {count} on {id}"
                );
            }
        }
        self.sessions_before = sessions;
        // Room and people who wait for it do not exist at the same time.
        assert!(
            waiting == 0 || !view.any_room(self.now),
            "{when}: a lost wake-up"
        );
        assert!(waiting <= 8, "{when}");
        // Those who came first were served first, and each of them was woken exactly once.
        for (at, client) in self.tickets.iter().enumerate() {
            let woken = client.alarm.0.load(Ordering::SeqCst);
            let served = at < set_aside;
            assert_eq!(
                woken,
                u32::from(served && client.polled),
                "{when}: ticket {at}"
            );
        }
    }

    fn end(mut self) {
        self.tickets.clear();
        self.permits.clear();
        self.expectations.clear();
        self.check("the end");
        assert!(self.seen.iter().all(|streamer| streamer.load() == 0));
    }
}

fn await_turn(pool: &Arc<Pool>, give_up: Instant) -> Permit {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut ticket = pool
        .wait(Wish::default(), Instant::now())
        .expect("the queue has room");
    loop {
        let now = Instant::now();
        assert!(now < give_up, "a client was forgotten");
        match ticket.poll(&mut Context::from_waker(&waker), now) {
            Poll::Ready(permit) => return permit,
            Poll::Pending => thread::park_timeout(give_up - now),
        }
    }
}

/// Runs every probe that is due, until none is.
fn probe_all(pool: &Pool, now: Instant, answer: impl Fn(&str, ProbeKind) -> Result<(), Fault>) {
    loop {
        let probes = pool.due(100, now);
        if probes.is_empty() {
            return;
        }
        for probe in probes {
            let result = answer(probe.streamer.id.as_str(), probe.kind);
            pool.probed(&probe, result, now);
        }
    }
}

fn endpoints(names: &[&str]) -> BTreeMap<StreamerId, StreamerAddr> {
    let addr = StreamerAddr(SocketAddr::from(([127, 0, 0, 1], 1)));
    names.iter().map(|name| ((*name).into(), addr)).collect()
}

fn pick_index(random: &mut SplitMix, len: usize) -> usize {
    usize::try_from(random.below(len as u64)).expect("below a usize")
}

fn draw_u32(random: &mut SplitMix, end: u64) -> u32 {
    u32::try_from(random.below(end)).expect("small")
}
