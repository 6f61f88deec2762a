//! How much one client may send, with governor's token buckets.
//!
//! A client over its limit is not refused anything: what it has sent is passed on, and then nothing
//! more is read from it until the buckets have recovered. TCP carries the pressure back to it. Only
//! one that is held back for a long time without ever pausing is closed.

use std::{cell::Cell, num::NonZeroU32, ops::Add, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
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

/// Two accounts and the debt that has not been paid from them yet.
///
/// There are as many of these as clients, so it holds only what differs between them; what
/// governor needs besides is made anew for each charge.
#[derive(Debug, Default)]
pub struct Limiter {
    messages: Account,
    bytes: Account,
    messages_unpaid: u32,
    bytes_unpaid: u32,
    /// Since when each read has been followed by a wait, in milliseconds after the session's start
    /// plus one; 0 for never.
    held_since: u32,
    /// When the last such wait was over, told likewise.
    released: u32,
}

/// What a charge means for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// Read on.
    Paid,
    /// Read nothing from the client until then, which is counted from the session's start.
    Wait { until: Duration, over: Over },
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
    /// Puts what was just read on the client's account and pays what the buckets hold. `now` is
    /// counted from the session's start.
    ///
    /// Called with zeros it only tries to pay the debt.
    pub fn charge(
        &mut self,
        allowance: &Allowance,
        messages: u32,
        bytes: u32,
        now: Duration,
    ) -> Charge {
        let (rate, burst) = (allowance.messages_per_second, allowance.messages_burst);
        self.messages_unpaid = self.messages_unpaid.saturating_add(messages);
        let unpaid = &mut self.messages_unpaid;
        let messages_paid = self.messages.pay(rate, burst, unpaid, now);
        let (rate, burst) = (allowance.bytes_per_second, allowance.bytes_burst);
        self.bytes_unpaid = self.bytes_unpaid.saturating_add(bytes);
        let unpaid = &mut self.bytes_unpaid;
        let bytes_paid = self.bytes.pay(rate, burst, unpaid, now);
        let (until, over) = match (messages_paid, bytes_paid) {
            (None, None) => {
                if messages > 0 || bytes > 0 {
                    self.held_since = 0;
                    self.released = 0;
                } else {
                    self.released = told(now);
                }
                return Charge::Paid;
            }
            (Some(messages), Some(bytes)) if bytes > messages => (bytes, Over::Bytes),
            (Some(messages), _) => (messages, Over::Messages),
            (None, Some(bytes)) => (bytes, Over::Bytes),
        };
        let at = told(now);
        let paused = self.released > 0 && at.saturating_sub(self.released) >= PAUSE_MILLIS;
        if self.held_since == 0 || paused {
            self.held_since = at;
        }
        self.released = 0;
        let held = Duration::from_millis(u64::from(at.saturating_sub(self.held_since)));
        if held >= allowance.abuse_after {
            return Charge::Abuse;
        }
        Charge::Wait { until, over }
    }
}

/// A time as milliseconds plus one.
fn told(now: Duration) -> u32 {
    let millis = u32::try_from(now.as_millis()).unwrap_or(u32::MAX);
    millis.saturating_add(1)
}

/// Who sends nothing for this long after a wait has paused.
const PAUSE_MILLIS: u32 = 1_000;

/// When the bucket will be full, in nanoseconds after the session's start.
#[derive(Clone, Copy, Debug, Default)]
struct Account(u64);

impl Account {
    /// Pays from the bucket; the moment of the next possible payment when something is left.
    fn pay(
        &mut self,
        per_second: NonZeroU32,
        burst: NonZeroU32,
        unpaid: &mut u32,
        now: Duration,
    ) -> Option<Duration> {
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let clock = ToldClock(Cell::new(0));
        let bucket = Bucket::new(quota, ToldState(Cell::new(self.0)), clock);
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        bucket.clock().0.set(now);
        let mut until = None;
        while let Some(due) = NonZeroU32::new((*unpaid).min(burst.get())) {
            match bucket.check_n(due) {
                Ok(Ok(())) => *unpaid -= due.get(),
                Ok(Err(not_until)) => {
                    until = Some(Duration::from_nanos(not_until.earliest_possible().0));
                    break;
                }
                // Impossible, since `due` is at most the burst; an unlimited client is the safe
                // reading of a limiter that contradicts itself.
                Err(_) => *unpaid = 0,
            }
        }
        self.0 = bucket.into_state_store().0.get();
        until
    }
}

type Bucket = RateLimiter<NotKeyed, ToldState, ToldClock, NoOpMiddleware<ToldInstant>>;

/// governor keeps its state in here for one call.
#[derive(Debug)]
struct ToldState(Cell<u64>);

impl StateStore for ToldState {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let before = Some(self.0.get()).filter(|before| *before > 0);
        let (outcome, after) = measure(before.map(Nanos::new))?;
        self.0.set(after.as_u64());
        Ok(outcome)
    }
}

/// governor asks a clock; this one answers what it was told.
#[derive(Clone, Debug)]
struct ToldClock(Cell<u64>);

/// Nanoseconds since the session's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ToldInstant(u64);

impl Clock for ToldClock {
    type Instant = ToldInstant;

    fn now(&self) -> ToldInstant {
        ToldInstant(self.0.get())
    }
}

impl Add<Nanos> for ToldInstant {
    type Output = Self;

    fn add(self, other: Nanos) -> Self {
        Self(self.0.saturating_add(other.as_u64()))
    }
}

impl Reference for ToldInstant {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.saturating_sub(earlier.0).into()
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.saturating_sub(duration.as_u64()))
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use super::{Allowance, Charge, Limiter, Over};

    fn allowance() -> Allowance {
        let n = |n| NonZeroU32::new(n).unwrap();
        Allowance {
            messages_per_second: n(20),
            messages_burst: n(200),
            bytes_per_second: n(10_000),
            bytes_burst: n(50_000),
            abuse_after: Duration::from_secs(30),
        }
    }

    #[test]
    fn a_burst_after_login_passes() {
        let mut limiter = Limiter::default();
        for _ in 0..60 {
            let charge = limiter.charge(&allowance(), 1, 300, Duration::ZERO);
            assert_eq!(charge, Charge::Paid);
        }
    }

    #[test]
    fn a_flood_is_slowed_to_the_rate_and_then_ended() {
        let mut limiter = Limiter::default();
        let mut now = Duration::from_secs(5);
        let start = now;
        let mut sent = 0_u32;
        loop {
            sent += 1;
            let mut charge = limiter.charge(&allowance(), 1, 10, now);
            while let Charge::Wait { until, over } = charge {
                assert_eq!(over, Over::Messages);
                assert!(until > now);
                now = until;
                charge = limiter.charge(&allowance(), 0, 0, now);
            }
            if charge == Charge::Abuse {
                break;
            }
            assert!(sent < 10_000, "never ended");
        }
        let took = (now - start).as_secs();
        assert!((30..=31).contains(&took), "ended after {took} s");
        assert!((790..=810).contains(&sent), "{sent} messages passed");
    }

    #[test]
    fn a_message_larger_than_the_burst_is_paid_in_parts() {
        let mut limiter = Limiter::default();
        let mut now = Duration::from_secs(5);
        let start = now;
        let mut charge = limiter.charge(&allowance(), 1, 150_000, now);
        while let Charge::Wait { until, over } = charge {
            assert_eq!(over, Over::Bytes);
            now = until;
            charge = limiter.charge(&allowance(), 0, 0, now);
        }
        assert_eq!(charge, Charge::Paid);
        let took = (now - start).as_secs_f64();
        assert!((9.9..10.1).contains(&took), "{took}");
    }

    #[test]
    fn a_pause_forgives() {
        let mut limiter = Limiter::default();
        let mut now = Duration::from_secs(5);
        for _ in 0..10 {
            assert!(!matches!(
                limiter.charge(&allowance(), 100, 10, now),
                Charge::Abuse
            ));
            now += Duration::from_secs(20);
            while let Charge::Wait { until, .. } = limiter.charge(&allowance(), 0, 0, now) {
                now = until;
            }
        }
    }

    #[test]
    fn a_burst_long_after_a_wait_is_no_abuse() {
        let mut limiter = Limiter::default();
        let mut now = Duration::from_secs(5);
        for _ in 0..3 {
            let mut charge = limiter.charge(&allowance(), 210, 10, now);
            assert!(matches!(charge, Charge::Wait { .. }), "{charge:?}");
            while let Charge::Wait { until, .. } = charge {
                now = until;
                charge = limiter.charge(&allowance(), 0, 0, now);
            }
            assert_eq!(charge, Charge::Paid);
            now += Duration::from_secs(600);
        }
    }

    #[test]
    fn costs_little_memory() {
        assert!(size_of::<Limiter>() <= 32, "{}", size_of::<Limiter>());
    }
}
