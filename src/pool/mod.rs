//! Streamers: who they are, how they are, who gets a place on one. No I/O.
//!
//! A [`Pool`] is a machine that others drive: discovery tells it who there is ([`Pool::apply`]), a
//! prober asks what to do ([`Pool::due`]) and reports ([`Pool::probed`]), sessions report how real
//! traffic went ([`Streamer::report`]), time passes by [`Pool::advance`]. Everybody else sees an
//! immutable [`PoolView`]. Places are guards: [`Permit`] for a session, [`Expectation`] for a
//! client about to become one, [`Ticket`] for one that waits.
//!
//! One lock per pool covers the counts, the queue and the health. It is taken once or twice in the
//! life of a session and never while bytes are forwarded; in exchange there is no moment at which
//! a slot is free and a waiting client does not know.

mod admission;
mod health;
mod members;
mod meters;
mod notice;
mod pick;
mod probing;
mod recall;
mod streamer;
mod view;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use crate::base::id::{PoolName, StreamerAddr, StreamerId};

pub use admission::{QueueFull, Ticket};
pub use health::{Back, Cause, Fault, Health, Outcome, ProbeKind, Ramp};
pub use pick::{PickError, SplitMix, Wish};
pub use probing::{Pace, Probe};
pub use recall::Recall;
pub use streamer::{AdminState, Expectation, Permit, Streamer};
pub use view::{Entry, PoolView, Report, Row};

use admission::{Left, Polled, Queue};
use health::Thresholds;
use members::Members;
use meters::PoolMeters;

/// How a pool behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub name: PoolName,
    /// For breaking ties and for jitter; different in each process.
    pub seed: u64,
    /// Sessions that one streamer may hold.
    pub sessions_per_streamer: u32,
    /// Clients that may wait for room.
    pub queue_length: usize,
    /// How long one may wait.
    pub queue_wait: Duration,
    /// A streamer that joins others which are warm is filled over this time.
    pub slow_start: Duration,
    /// Consecutive failures, of one kind of probe or of attaches, that take a streamer out.
    pub failures: u32,
    /// Largest share of the pool, 0.0 to 1.0, that may be out because of client traffic.
    pub max_ejected: f64,
    pub pace: Pace,
}

impl Settings {
    /// Defaults for a pool of this name, with seed 0.
    pub fn named(name: impl Into<PoolName>) -> Self {
        Self {
            name: name.into(),
            seed: 0,
            sessions_per_streamer: 500,
            queue_length: 10_000,
            queue_wait: Duration::from_secs(60),
            slow_start: Duration::from_secs(10),
            failures: 2,
            max_ejected: 0.5,
            pace: Pace {
                interval: Duration::from_millis(500),
                ddp_interval: Duration::from_secs(10),
                timeout: Duration::from_millis(600),
            },
        }
    }

    fn thresholds(&self) -> Thresholds {
        Thresholds {
            failures: self.failures.max(1),
            slow_start: self.slow_start,
        }
    }
}

/// The streamers of one pool and the clients that wait for them; lives as long as the process.
#[derive(Debug)]
pub struct Pool {
    name: PoolName,
    view: ArcSwap<PoolView>,
    state: Mutex<State>,
    meters: PoolMeters,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    members: Members,
    queue: Queue,
    random: SplitMix,
    /// The latest time anybody told; a freed slot is given on with this one.
    clock: Instant,
    /// Since when no streamer is in rotation.
    none_up_since: Option<Instant>,
    /// Who runs the probes, to be told when one is due earlier than it was.
    prober: Option<Waker>,
    hurried: bool,
}

impl Pool {
    pub fn new(settings: Settings, now: Instant) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            name: settings.name.clone(),
            view: ArcSwap::from_pointee(PoolView::empty(settings.name.clone())),
            meters: PoolMeters::new(&settings.name),
            state: Mutex::new(State {
                members: Members::new(this.clone()),
                queue: Queue::default(),
                random: SplitMix(settings.seed),
                clock: now,
                none_up_since: Some(now),
                prober: None,
                hurried: false,
                settings,
            }),
        })
    }

    pub fn name(&self) -> &PoolName {
        &self.name
    }

    /// Takes effect at once for new sessions; what is held stays held, even above a lower limit.
    /// A changed name is ignored: a pool is its name.
    pub fn reconfigure(&self, settings: Settings) {
        let mut state = self.lock();
        state.settings = Settings {
            name: self.name.clone(),
            ..settings
        };
        self.settle(state);
    }

    /// The streamers and their health as of now.
    pub fn view(&self) -> Arc<PoolView> {
        self.view.load_full()
    }

    /// Takes the complete set of streamers that discovery knows. Returns whether anything changed.
    ///
    /// An empty set is ignored: a discovery that finds nobody is more likely broken than right.
    /// A streamer that is missing gets no new sessions and keeps those it has.
    pub fn apply(&self, endpoints: &BTreeMap<StreamerId, StreamerAddr>, now: Instant) -> bool {
        if endpoints.is_empty() {
            return false;
        }
        let mut state = self.lock_at(now);
        let changed = state.members.apply(&self.name, endpoints, now);
        if changed {
            state.hurried = true;
        }
        self.settle(state);
        changed
    }

    /// Sets what the operator wants of a streamer; `false` when there is none of this id.
    pub fn set_admin(&self, id: &StreamerId, admin: AdminState, now: Instant) -> bool {
        let mut state = self.lock_at(now);
        let found = state.members.set_admin(&self.name, id, admin, now);
        state.hurried |= found;
        self.settle(state);
        found
    }

    /// Where a client with this wish would go, before it has said `connect`. Weighs on the choice
    /// of others while held. `None` when nobody has room.
    pub fn expect(&self, wish: &Wish, now: Instant) -> Option<Expectation> {
        let mut state = self.lock_at(now);
        let seed = state.random.draw();
        let view = self.view.load();
        let streamer = pick::choose(&view, wish, &[], seed, now).ok()?;
        Some(Expectation::new(streamer.clone()))
    }

    /// A place for a client, on none of the streamers in `avoid`.
    ///
    /// `Full` also when there is room but others wait for it; then [`Self::wait`] is the way.
    pub fn pick(
        &self,
        wish: &Wish,
        avoid: &[StreamerId],
        now: Instant,
    ) -> Result<Permit, PickError> {
        let mut state = self.lock_at(now);
        // Capacity may have risen with time; who waits comes first.
        let wakers = self.serve(&mut state);
        let picked = if state.queue.is_empty() {
            let seed = state.random.draw();
            let view = self.view.load();
            pick::choose(&view, wish, avoid, seed, now).map(|streamer| {
                streamer.slots().take();
                streamer.clone()
            })
        } else if self.view.load().any_eligible() {
            Err(PickError::Full)
        } else {
            Err(PickError::NoneUp)
        };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        picked.map(Permit::new)
    }

    /// Queues for a place, behind all who wait already.
    pub fn wait(self: &Arc<Self>, wish: Wish, now: Instant) -> Result<Ticket, QueueFull> {
        let mut state = self.lock_at(now);
        let wakers = self.serve(&mut state);
        let deadline = now + state.settings.queue_wait;
        let room = if state.queue.is_empty() {
            let seed = state.random.draw();
            let view = self.view.load();
            pick::choose(&view, &wish, &[], seed, now).ok().cloned()
        } else {
            None
        };
        let number = match room {
            Some(streamer) => {
                streamer.slots().take();
                Ok(state.queue.push_granted(streamer))
            }
            None if state.queue.len() < state.settings.queue_length => Ok(state.queue.push(wish)),
            None => {
                self.meters.queue_full.increment(1);
                Err(QueueFull)
            }
        };
        self.meters.waiting.set(as_gauge(state.queue.len()));
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Ok(Ticket::new(number?, deadline, self.clone()))
    }

    /// Whether a new client has a chance: some streamer has room, or the queue has and its wait
    /// is not hopeless because no streamer was in rotation for longer than a client may wait.
    ///
    /// Goes by the time of the last call that told one.
    pub fn accepting(&self) -> bool {
        let state = self.lock();
        let now = state.clock;
        if state.queue.is_empty() && self.view.load().any_room(now) {
            return true;
        }
        let hopeless = state
            .none_up_since
            .is_some_and(|since| now.saturating_duration_since(since) > state.settings.queue_wait);
        !hopeless && state.queue.len() < state.settings.queue_length
    }

    /// Clients that wait for room.
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// The pool for the admin pages.
    pub fn report(&self, now: Instant) -> Report {
        let streamers = self.view().rows(now);
        Report {
            pool: self.name.to_string(),
            accepting: self.accepting(),
            waiting: self.waiting(),
            sessions: streamers.iter().map(|row| u64::from(row.sessions)).sum(),
            capacity: streamers.iter().map(|row| u64::from(row.capacity)).sum(),
            streamers,
        }
    }

    /// Takes up to `room` probes that are due; the result of each is owed to [`Self::probed`].
    pub fn due(&self, room: usize, now: Instant) -> Vec<Probe> {
        let mut state = self.lock_at(now);
        let State {
            members, settings, ..
        } = &mut *state;
        members.due(&settings.pace, room, now)
    }

    /// When to call [`Self::advance`] and [`Self::due`] next. [`Self::poll_hurried`] tells when
    /// this has become earlier.
    pub fn next_due(&self) -> Option<Instant> {
        let state = self.lock();
        let probe = state.members.next_due(&state.settings.pace);
        // Only who waits for a slow start needs it to be looked at; the gauges follow on the side.
        let ramp = state
            .members
            .any_ramp(state.clock)
            .then(|| state.clock + RAMP_STEP);
        [probe, ramp].into_iter().flatten().min()
    }

    /// Ready when something became due earlier than [`Self::next_due`] said. For one caller.
    pub fn poll_hurried(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if std::mem::take(&mut state.hurried) {
            return Poll::Ready(());
        }
        let before = state.prober.replace(cx.waker().clone());
        drop(state);
        drop(before);
        Poll::Pending
    }

    /// The result of a probe that [`Self::due`] gave out.
    pub fn probed(&self, probe: &Probe, result: Result<(), Fault>, now: Instant) {
        self.meters.probe(probe.kind, result.is_ok());
        let mut state = self.lock_at(now);
        let State {
            members,
            settings,
            random,
            ..
        } = &mut *state;
        let transition = members.probed(probe, result, settings, random, now);
        if transition.is_some() {
            self.announce(&state, &probe.streamer, transition);
            self.settle(state);
        }
    }

    /// Lets time pass: ramps rise, old records are forgotten.
    pub fn advance(&self, now: Instant) {
        let mut state = self.lock_at(now);
        state.members.forget_old(now);
        state.members.measure(&self.meters, &self.view.load(), now);
        let wakers = self.serve(&mut state);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn reported(&self, streamer: &Streamer, outcome: Outcome, now: Instant) {
        self.meters.traffic(outcome);
        let mut state = self.lock_at(now);
        let State {
            members, settings, ..
        } = &mut *state;
        let transition = members.reported(streamer, outcome, settings, now);
        if outcome != Outcome::Ok {
            state.hurried = true;
        }
        if transition.is_some() {
            self.announce(&state, streamer, transition);
            self.settle(state);
        } else {
            wake_prober(state);
        }
    }

    fn released(&self, streamer: &Streamer) {
        let mut state = self.lock();
        streamer.slots().give();
        if state.queue.is_empty() {
            return;
        }
        let wakers = self.serve(&mut state);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn poll_ticket(&self, number: u64, cx: &Context<'_>, now: Instant) -> Poll<Permit> {
        let mut state = self.lock_at(now);
        let polled = state.queue.poll(number, cx);
        drop(state);
        match polled {
            Polled::Granted(streamer) => Poll::Ready(Permit::new(streamer)),
            Polled::Pending(replaced) => {
                drop(replaced);
                Poll::Pending
            }
        }
    }

    fn leave(&self, number: u64, deadline: Instant) {
        let mut state = self.lock();
        match state.queue.leave(number) {
            Left::Served => {}
            Left::Unclaimed(streamer) => {
                drop(state);
                drop(Permit::new(streamer));
            }
            Left::Waiting(waker) => {
                self.meters.waiting.set(as_gauge(state.queue.len()));
                if state.clock >= deadline {
                    let refused = match state.none_up_since {
                        Some(_) => &self.meters.no_streamer,
                        None => &self.meters.wait_timeout,
                    };
                    refused.increment(1);
                }
                drop(state);
                drop(waker);
            }
        }
    }

    /// Gives room to those who wait, in their order. The wakers are for after the lock.
    fn serve(&self, state: &mut State) -> Vec<Waker> {
        let mut wakers = Vec::new();
        if state.queue.is_empty() {
            return wakers;
        }
        let view = self.view.load();
        while let Some(wish) = state.queue.head() {
            let seed = state.random.draw();
            let Ok(streamer) = pick::choose(&view, wish, &[], seed, state.clock) else {
                break;
            };
            streamer.slots().take();
            wakers.extend(state.queue.grant_head(streamer.clone()));
        }
        self.meters.waiting.set(as_gauge(state.queue.len()));
        wakers
    }

    /// After a change: a new view, room given to who waits, the prober told.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let State {
            members,
            settings,
            clock,
            ..
        } = &mut *state;
        members.end_needless_ramps(settings.slow_start, *clock);
        let view = members.view(&self.name, settings.sessions_per_streamer);
        members.measure(&self.meters, &view, *clock);
        state.none_up_since = match (view.any_eligible(), state.none_up_since) {
            (true, _) => None,
            (false, None) => Some(state.clock),
            (false, since) => since,
        };
        self.view.store(Arc::new(view));
        let wakers = self.serve(&mut state);
        wake_prober(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn announce(&self, state: &State, streamer: &Streamer, transition: Option<health::Transition>) {
        if let Some(transition) = transition {
            self.meters.transition(transition.to);
            let left = state.members.in_rotation();
            notice::transition(&self.name, streamer, transition, left);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics halfway through a change; were it otherwise, a pool that
        // goes on with a count off by one is still better than none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_at(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.clock = state.clock.max(now);
        state
    }
}

/// Releases the lock and tells the prober, if there is something to tell.
fn wake_prober(mut state: MutexGuard<'_, State>) {
    let prober = if state.hurried {
        state.prober.take()
    } else {
        None
    };
    drop(state);
    if let Some(prober) = prober {
        prober.wake();
    }
}

fn as_gauge(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

const RAMP_STEP: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        collections::BTreeMap,
        net::SocketAddr,
        sync::Arc,
        task::{Context, Poll, Waker},
        time::{Duration, Instant},
    };

    use super::{
        AdminState, Fault, Health, Outcome, Permit, PickError, Pool, ProbeKind, QueueFull,
        Settings, Ticket, Wish,
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
            AdminState::Drain { since: bench.now },
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
        bench
            .pool
            .set_admin(&"b".into(), AdminState::Drain { since: at }, at);
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
}
