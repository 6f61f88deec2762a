//! How much one client may send, with governor's token buckets.
//!
//! A client over its limit is not refused anything: what it has sent is passed on, and then nothing
//! more is read from it until the buckets have recovered. TCP carries the pressure back to it. Only
//! one that is held back for a long time without ever pausing is closed.

use std::{
    cell::Cell,
    num::NonZeroU32,
    ops::Add,
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};

/// Messages and bytes that one client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    pub messages_per_second: NonZeroU32,
    pub messages_burst: NonZeroU32,
    pub bytes_per_second: NonZeroU32,
    pub bytes_burst: NonZeroU32,
    /// Held back without a pause for this long means abuse.
    pub abuse_after: Duration,
}

/// Two token buckets and the debt that has not been paid from them yet.
#[derive(Debug)]
pub struct Limiter {
    messages: Bucket,
    bytes: Bucket,
    started: Instant,
    /// Since when each read has been followed by a wait.
    held_since: Option<Instant>,
}

/// What a charge means for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// Read on.
    Paid,
    /// Read nothing from the client until then.
    Wait { until: Instant, over: Over },
    /// Close the client.
    Abuse,
}

/// The bucket that was empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Messages,
    Bytes,
}

impl Limiter {
    pub fn new(allowance: &Allowance, now: Instant) -> Self {
        Self {
            messages: Bucket::new(allowance.messages_per_second, allowance.messages_burst),
            bytes: Bucket::new(allowance.bytes_per_second, allowance.bytes_burst),
            started: now,
            held_since: None,
        }
    }

    /// Puts what was just read on the client's account and pays what the buckets hold.
    ///
    /// Called with zeros it only tries to pay the debt. `abuse_after` is that of the
    /// [`Allowance`].
    pub fn charge(
        &mut self,
        messages: u32,
        bytes: u32,
        abuse_after: Duration,
        now: Instant,
    ) -> Charge {
        NOW.set(u64::try_from(now.duration_since(self.started).as_nanos()).unwrap_or(u64::MAX));
        let messages_paid = self.messages.charge(messages);
        let bytes_paid = self.bytes.charge(bytes);
        let (wait, over) = match (messages_paid, bytes_paid) {
            (None, None) => {
                if messages > 0 || bytes > 0 {
                    self.held_since = None;
                }
                return Charge::Paid;
            }
            (Some(messages), Some(bytes)) if bytes > messages => (bytes, Over::Bytes),
            (Some(messages), _) => (messages, Over::Messages),
            (None, Some(bytes)) => (bytes, Over::Bytes),
        };
        let held_since = *self.held_since.get_or_insert(now);
        if now.duration_since(held_since) >= abuse_after {
            return Charge::Abuse;
        }
        Charge::Wait {
            until: self.started + Duration::from_nanos(wait.0),
            over,
        }
    }
}

#[derive(Debug)]
struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, PassClock, NoOpMiddleware<PassInstant>>,
    /// The largest sum that can be paid at once.
    burst: NonZeroU32,
    unpaid: u32,
}

impl Bucket {
    fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self {
            limiter: RateLimiter::direct_with_clock(quota, PassClock),
            burst,
            unpaid: 0,
        }
    }

    /// Adds to the debt and pays; the moment of the next possible payment when something is left.
    fn charge(&mut self, sum: u32) -> Option<PassInstant> {
        self.unpaid = self.unpaid.saturating_add(sum);
        while let Some(due) = NonZeroU32::new(self.unpaid.min(self.burst.get())) {
            match self.limiter.check_n(due) {
                Ok(Ok(())) => self.unpaid -= due.get(),
                Ok(Err(not_until)) => return Some(not_until.earliest_possible()),
                // Impossible, since `due` is at most the burst; an unlimited client is the safe
                // reading of a limiter that contradicts itself.
                Err(_) => self.unpaid = 0,
            }
        }
        None
    }
}

/// governor asks a clock; this one answers what [`Limiter::charge`] was told.
#[derive(Clone, Copy, Debug)]
struct PassClock;

/// Nanoseconds since the limiter was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PassInstant(u64);

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

impl Clock for PassClock {
    type Instant = PassInstant;

    fn now(&self) -> PassInstant {
        PassInstant(NOW.get())
    }
}

impl Add<Nanos> for PassInstant {
    type Output = Self;

    fn add(self, other: Nanos) -> Self {
        Self(self.0.saturating_add(other.as_u64()))
    }
}

impl Reference for PassInstant {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_sub(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.saturating_sub(duration.as_u64()))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        num::NonZeroU32,
        time::{Duration, Instant},
    };

    use super::{Allowance, Charge, Limiter, Over};

    const ABUSE: Duration = Duration::from_secs(30);

    fn allowance() -> Allowance {
        let n = |n| NonZeroU32::new(n).unwrap();
        Allowance {
            messages_per_second: n(20),
            messages_burst: n(200),
            bytes_per_second: n(10_000),
            bytes_burst: n(50_000),
            abuse_after: ABUSE,
        }
    }

    #[test]
    fn a_burst_after_login_passes() {
        let now = Instant::now();
        let mut limiter = Limiter::new(&allowance(), now);
        for _ in 0..60 {
            assert_eq!(limiter.charge(1, 300, ABUSE, now), Charge::Paid);
        }
    }

    #[test]
    fn a_flood_is_slowed_to_the_rate_and_then_ended() {
        let start = Instant::now();
        let mut limiter = Limiter::new(&allowance(), start);
        let mut now = start;
        let mut sent = 0_u32;
        loop {
            sent += 1;
            let mut charge = limiter.charge(1, 10, ABUSE, now);
            while let Charge::Wait { until, over } = charge {
                assert_eq!(over, Over::Messages);
                assert!(until > now);
                now = until;
                charge = limiter.charge(0, 0, ABUSE, now);
            }
            if charge == Charge::Abuse {
                break;
            }
            assert!(sent < 10_000, "never ended");
        }
        let took = now.duration_since(start).as_secs();
        assert!((30..=31).contains(&took), "ended after {took} s");
        assert!((790..=810).contains(&sent), "{sent} messages passed");
    }

    #[test]
    fn a_message_larger_than_the_burst_is_paid_in_parts() {
        let start = Instant::now();
        let mut limiter = Limiter::new(&allowance(), start);
        let mut now = start;
        let mut charge = limiter.charge(1, 150_000, ABUSE, now);
        while let Charge::Wait { until, over } = charge {
            assert_eq!(over, Over::Bytes);
            now = until;
            charge = limiter.charge(0, 0, ABUSE, now);
        }
        assert_eq!(charge, Charge::Paid);
        let took = now.duration_since(start).as_secs_f64();
        assert!((9.9..10.1).contains(&took), "{took}");
    }

    #[test]
    fn a_pause_forgives() {
        let start = Instant::now();
        let mut limiter = Limiter::new(&allowance(), start);
        let mut now = start;
        for _ in 0..10 {
            assert!(!matches!(
                limiter.charge(100, 10, ABUSE, now),
                Charge::Abuse
            ));
            now += Duration::from_secs(20);
            while let Charge::Wait { until, .. } = limiter.charge(0, 0, ABUSE, now) {
                now = until;
            }
        }
    }

    #[test]
    fn costs_little_memory() {
        assert!(size_of::<Limiter>() <= 128, "{}", size_of::<Limiter>());
    }
}
