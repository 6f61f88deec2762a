//! Streamers: who they are, how they are, who gets a place on one. No I/O.
//!
//! A [`Pool`] is a machine that others drive: discovery tells it who there is ([`Pool::apply`]), a
//! prober asks what to do ([`Pool::due`]) and reports ([`Pool::probed`]), sessions report how real
//! traffic went ([`Streamer::report`]), the message bus how busy a machine is ([`Pool::beat`]), time
//! passes by [`Pool::advance`]. Everybody else sees an
//! immutable [`PoolView`]. Places are guards: [`Permit`] for a session, [`Expectation`] for a
//! client about to become one, [`Ticket`] for one that waits.
//!
//! One lock per pool covers the counts, the queue and the health. It is taken once or twice in the
//! life of a session and never while bytes are forwarded; in exchange there is no moment at which
//! a slot is free and a waiting client does not know.

mod admission;
pub mod balance;
mod care;
mod demand;
mod emptying;
mod health;
mod heat;
pub mod level;
pub mod logins;
mod machine;
mod members;
mod meters;
mod moves;
mod notice;
mod pick;
mod places;
mod probing;
mod recall;
mod sharing;
mod streamer;
mod view;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use crate::base::id::PoolName;

pub use admission::{QueueFull, Ticket};
pub use emptying::{Emptying, Ends, Tally, Turn};
pub use health::{Back, Cause, Fault, Health, Outcome, ProbeKind, Ramp};
pub use moves::{Progress, Seen};
pub use pick::{PickError, SplitMix, Wish};
pub use probing::{Pace, Probe};
pub use recall::Recall;
pub use sharing::{Shared, Sharing};
pub use streamer::{AdminState, Expectation, Permit, Streamer};
pub use view::{Entry, PoolView, Report, Row};

use admission::Queue;
use machine::Thresholds;
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
    /// Sessions and waiting clients of the pool at other gateways.
    elsewhere: sharing::Elsewhere,
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
                elsewhere: sharing::Elsewhere::default(),
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

    /// The pool for the admin pages.
    pub fn report(&self, now: Instant) -> Report {
        let streamers = self.view().rows(now);
        Report {
            pool: self.name.to_string(),
            accepting: self.accepting(),
            waiting: self.waiting(),
            wanted: self.wanted(),
            sessions: streamers.iter().map(|row| u64::from(row.sessions)).sum(),
            capacity: streamers.iter().map(|row| u64::from(row.capacity)).sum(),
            streamers,
        }
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
        let view = members.view(&self.name, settings.sessions_per_streamer, *clock);
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

#[cfg(test)]
mod tests;
