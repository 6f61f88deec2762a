//! The login queue under a storm and under random operations: limits hold, nobody is forgotten.
//!
//! A failure names its seed; `LOGINS_SEED=<seed>` plays that one alone.

mod storm;
mod threads;
mod world;

use std::{
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::Wake,
    time::{Duration, Instant},
};

use ddp_gateway::pool::SplitMix;

/// All of them, or the one that the environment names.
fn seeds(all: std::ops::Range<u64>) -> Vec<u64> {
    match env::var("LOGINS_SEED") {
        Ok(seed) => vec![seed.parse().expect("LOGINS_SEED is a whole number")],
        Err(_) => all.collect(),
    }
}

/// Runs `play`; a panic in it is preceded by the seed.
fn with_seed(seed: u64, play: impl FnOnce(u64)) {
    struct Tell(u64);
    impl Drop for Tell {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("to play this one again: LOGINS_SEED={}", self.0);
            }
        }
    }
    let tell = Tell(seed);
    play(seed);
    drop(tell);
}

fn index(random: &mut SplitMix, len: usize) -> usize {
    usize::try_from(random.below(len as u64)).expect("below a usize")
}

fn small(random: &mut SplitMix, end: u64) -> u32 {
    u32::try_from(random.below(end)).expect("small")
}

/// Counts how often a client was woken, and notes which one.
struct Alarm {
    client: usize,
    rung: AtomicU32,
    bell: Arc<Mutex<Vec<usize>>>,
}

impl Alarm {
    fn new(client: usize, bell: &Arc<Mutex<Vec<usize>>>) -> Arc<Self> {
        Arc::new(Self {
            client,
            rung: AtomicU32::new(0),
            bell: bell.clone(),
        })
    }

    fn rung(&self) -> u32 {
        self.rung.load(Ordering::SeqCst)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        self.bell
            .lock()
            .expect("the bell is whole")
            .push(self.client);
    }
}

/// Asserts a rate over every window: with `burst`, no more than `burst + t * rate` within any `t`.
struct RateCheck {
    rate: u32,
    burst: u32,
    start: Instant,
    count: u32,
    /// Least of "count before this one minus what the rate allowed since the start".
    least: f64,
}

impl RateCheck {
    fn new(rate: u32, start: Instant) -> Self {
        Self {
            rate,
            burst: (rate / 10).max(1),
            start,
            count: 0,
            least: 0.0,
        }
    }

    fn begun(&mut self, now: Instant) {
        let allowed = (now - self.start).as_secs_f64() * f64::from(self.rate);
        self.least = self.least.min(f64::from(self.count) - allowed);
        self.count += 1;
        let within = f64::from(self.count) - allowed - self.least;
        assert!(
            within <= f64::from(self.burst) + 1e-3,
            "{within:.3} beyond the rate of {}/s, burst {}",
            self.rate,
            self.burst
        );
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);
