//! Who may log in, and when: the queue in front of the streamers' most expensive call.
//!
//! A login costs the deployment about a hundred reads of its database (the user's subscriptions
//! follow it), a broadcast and a presence update, while an idle session costs next to nothing. After
//! a restart all clients log in within the same second. So a login needs a [`LoginPermit`], and of
//! these there are only as many as the streamer and the monolith behind all of them bear.
//!
//! [`Logins`] is a machine that others drive, as [`Pool`](super::Pool) is: a session asks
//! ([`Logins::wait`]) and says what became of it ([`LoginPermit::finish`]), time passes by
//! [`Logins::handle_timeout`]. Of all that wait, the one that came first and whose streamer has room
//! goes next; a streamer that is full holds up nobody but its own.
//!
//! Streamers are told apart by their id alone: pools may share one, and then share its limits.

mod herd;
mod lane;
mod limit;
mod meters;
pub(super) mod pacer;
mod report;
mod state;
mod throttle;
mod ticket;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use crate::base::id::StreamerId;

pub use report::{LaneReport, LoginsReport};
pub use ticket::{CLAIM_WITHIN, LoginOutcome, LoginPermit, LoginTicket, LoginsFull};

use herd::Herd;
use meters::LoginMeters;
use state::{Ending, State};
use throttle::Bounds;

/// How logins are paced.
///
/// The defaults come from Rocket.Chat's own measure, 500 users on a streamer, and from what a login
/// sets off: itself, 20 to 40 subscriptions with several reads of MongoDB each (a hundred reads in
/// all), one write of the session, one of the presence, and two broadcasts to every streamer.
///
/// - `rate` 100/s: 10,000 reads and 200 writes a second, which a small replica set bears beside the
///   chat that goes on. 5,000 users are in after 50 s, 10,000 after 100 s.
/// - `streamer_rate` 50/s: a streamer is one thread of Node.js, and a login with what follows keeps
///   it busy for about 10 ms. Half of its time remains for those who are in. 500 users are in
///   after 10 s, the time that the pool's slow start takes as well.
/// - `streamer_concurrency` 10: a login takes 50 to 100 ms, so 50 a second are 5 at a time; twice
///   that lets the rate be the limit while all is well.
/// - `concurrency` 100: the same for all, and room for logins that take a second.
/// - `latency_target` 1 s: ten times what a login takes when nothing else happens. Nine tenths of
///   it are waiting in the backend then, where chat waits too; it is better done here.
/// - `timeout` 60 s: longer than the database needs to elect a new primary (10 to 30 s).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginSettings {
    /// `false`: everybody at once, nothing is limited or learned.
    pub pace: bool,
    /// Most logins in flight at one streamer. A limit that adapts begins at a fifth of it.
    pub streamer_concurrency: u32,
    /// Most logins in flight at all streamers together.
    pub concurrency: u32,
    /// Logins that may begin in a second, per streamer; with a burst of a tenth of that.
    pub streamer_rate: u32,
    /// Logins that may begin in a second at all streamers together; with a burst of a tenth.
    pub rate: u32,
    /// A login that takes longer says that there are too many.
    pub latency_target: Duration,
    /// A login without an answer for this long has failed.
    pub timeout: Duration,
    /// Logins that may wait.
    pub queue_length: usize,
}

impl Default for LoginSettings {
    fn default() -> Self {
        Self {
            pace: true,
            streamer_concurrency: 10,
            concurrency: 100,
            streamer_rate: 50,
            rate: 100,
            latency_target: Duration::from_secs(1),
            timeout: Duration::from_secs(60),
            queue_length: 10_000,
        }
    }
}

impl LoginSettings {
    fn of_streamer(&self) -> Bounds {
        Bounds {
            most: self.streamer_concurrency,
            rate: self.streamer_rate,
        }
    }

    fn of_whole(&self) -> Bounds {
        Bounds {
            most: self.concurrency,
            rate: self.rate,
        }
    }
}

/// All logins of the process, those that wait and those in flight.
#[derive(Debug)]
pub struct Logins {
    state: Mutex<State>,
    /// A lock of its own: it is taken once for each session that is lost.
    herd: Mutex<Herd>,
    meters: LoginMeters,
}

impl Logins {
    pub fn new(settings: LoginSettings, now: Instant) -> Arc<Self> {
        let logins = Self {
            meters: LoginMeters::new(),
            state: Mutex::new(State::new(settings, now)),
            herd: Mutex::default(),
        };
        logins.settle(logins.lock());
        Arc::new(logins)
    }

    /// Takes effect at once for logins that wait; what is in flight stays in flight, even above a
    /// lower limit, and keeps its deadline.
    pub fn reconfigure(&self, settings: LoginSettings, now: Instant) {
        let mut state = self.lock_at(now);
        state.reconfigure(settings);
        self.settle(state);
    }

    /// Queues a login at `streamer`, behind all that wait for that one already. The ticket may be
    /// ready at once.
    ///
    /// # Errors
    /// When there is no room and as many wait as may.
    pub fn wait(
        self: &Arc<Self>,
        streamer: &StreamerId,
        now: Instant,
    ) -> Result<LoginTicket, LoginsFull> {
        let mut state = self.lock_at(now);
        // Time may have opened what was closed; who waits comes first.
        let mut wakers = state.serve(&self.meters);
        let Some(number) = state.enter(streamer) else {
            self.meters.queue_full.increment(1);
            self.release(state, wakers);
            return Err(LoginsFull);
        };
        wakers.extend(state.serve(&self.meters));
        self.release(state, wakers);
        Ok(LoginTicket::new(number, streamer.clone(), self.clone()))
    }

    /// Whether a newcomer's login has a chance. The last tenth of the queue is kept for those who are
    /// here already.
    pub fn accepting(&self) -> bool {
        self.lock().accepting()
    }

    /// A streamer is up since then. If logins from before that time were learned from, its limit
    /// begins anew.
    pub fn came_up(&self, streamer: &StreamerId, since: Instant) {
        let mut state = self.lock();
        state.came_up(streamer, since);
        self.settle(state);
    }

    /// When to call [`Self::handle_timeout`] next. [`Self::poll_hurried`] tells when that has
    /// become earlier.
    pub fn next_timeout(&self) -> Option<Instant> {
        let mut state = self.lock();
        state.told = state.next_timeout();
        state.told
    }

    /// Ends logins that got no answer, passes over clients that did not come to their turn, lets
    /// those begin whose time has come, forgets streamers without logins.
    pub fn handle_timeout(&self, now: Instant) {
        let mut state = self.lock_at(now);
        state.expire(&self.meters);
        self.settle(state);
    }

    /// Ready when [`Self::next_timeout`] is earlier than it was. One task may wait for it.
    pub fn poll_hurried(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if std::mem::take(&mut state.hurried) {
            return Poll::Ready(());
        }
        let replaced = state.driver.replace(cx.waker().clone());
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// What other gateways leave of the pace, each above 0 and at most 1: of the whole, of a streamer
    /// that has logins, and of one that has none. Takes effect at once; what is in flight stays.
    pub fn set_shares(&self, whole: f64, of: impl Fn(&StreamerId) -> f64, idle: f64, now: Instant) {
        let mut state = self.lock_at(now);
        state.set_shares(whole, of, idle);
        self.settle(state);
    }

    /// Logins that wait or are in flight: all of them, and those of each streamer that has some.
    pub fn demand(&self) -> (u32, Vec<(StreamerId, u32)>) {
        self.lock().demand()
    }

    /// Streamers with logins now or a moment ago.
    pub fn streamers(&self) -> Vec<StreamerId> {
        self.lock().streamers()
    }

    /// Logins that may begin in a second at all streamers together: what other gateways leave of
    /// [`LoginSettings::rate`] at this moment.
    pub fn rate_limit(&self) -> u32 {
        self.lock().rate_limit()
    }

    /// The same, and `None` when nothing is limited.
    pub fn paced_rate(&self) -> Option<u32> {
        self.lock().paced_rate()
    }

    /// Time over which the clients of a streamer that is losing this many sessions are told, so that
    /// they do not come back faster than they may log in: those of all streamers that are dying
    /// count, since they all come back to the same monolith. Other gateways that lose sessions of the
    /// same streamers spread them over theirs of the pace, as this one does.
    pub fn spread(&self, streamer: &StreamerId, lost: u32, now: Instant) -> Duration {
        let Some(rate) = self.lock().paced_rate() else {
            return SHORTEST_SPREAD;
        };
        let mut herd = self.herd.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = herd.add(streamer, lost, now);
        drop(herd);
        (Duration::from_secs(1) * lost / rate.max(1)).clamp(SHORTEST_SPREAD, LONGEST_SPREAD)
    }

    /// For the admin pages.
    pub fn report(&self, now: Instant) -> LoginsReport {
        self.lock_at(now).report()
    }

    /// The number changes when the ticket was passed over.
    fn poll_ticket(
        &self,
        number: &mut u64,
        streamer: &StreamerId,
        cx: &Context<'_>,
        now: Instant,
    ) -> Poll<()> {
        let mut state = self.lock_at(now);
        let mut wakers = Vec::new();
        if state.is_passed_over(*number, streamer) {
            *number = state.push(streamer);
            wakers = state.serve(&self.meters);
        }
        let begins = state.claim(*number);
        let replaced = match begins {
            true => None,
            false => state.watch(*number, streamer, cx),
        };
        self.release(state, wakers);
        drop(replaced);
        match begins {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn place(&self, number: u64, streamer: &StreamerId) -> Option<usize> {
        self.lock().place(number, streamer)
    }

    fn leave(&self, number: u64, streamer: &StreamerId) {
        let mut state = self.lock();
        let waker = state.leave(number, streamer);
        self.settle(state);
        drop(waker);
    }

    fn answered(&self, number: u64, outcome: LoginOutcome, now: Instant) {
        let mut state = self.lock_at(now);
        state.end(number, Ending::Answered(outcome), &self.meters);
        self.settle(state);
    }

    fn gone(&self, number: u64) {
        let mut state = self.lock();
        state.end(number, Ending::Gone, &self.meters);
        self.settle(state);
    }

    /// After a change: room given to who waits.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let wakers = state.serve(&self.meters);
        self.release(state, wakers);
    }

    /// Releases the lock and wakes whom there is to wake, the driver among them.
    fn release(&self, mut state: MutexGuard<'_, State>, wakers: Vec<Waker>) {
        state.measure(&self.meters);
        let driver = state.hurry();
        drop(state);
        wakers.into_iter().chain(driver).for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics halfway through a change; were it otherwise, a queue that
        // goes on with a count off by one is still better than none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_at(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.clock = state.clock.max(now);
        state
    }
}

/// Also when logins are not paced.
const SHORTEST_SPREAD: Duration = Duration::from_secs(1);
/// A client that hears nothing for longer finds out by itself.
const LONGEST_SPREAD: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
