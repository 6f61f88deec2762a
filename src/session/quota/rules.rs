//! What the configuration says about methods and subscriptions.

use std::{num::NonZeroU32, time::Duration};

/// Requests that may be made within a time: all of them at once, and then evenly.
///
/// Whoever uses it to the full makes `requests` at once and one more in each `interval / requests`. That is at most
/// twice `requests` in one interval, as with the fixed windows of Rocket.Chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    requests: NonZeroU32,
    interval: Duration,
    /// Nanoseconds for one request: worked out once, for it is wanted with each of them.
    each: u64,
}

impl Quota {
    pub fn new(requests: NonZeroU32, interval: Duration) -> Self {
        let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        // Rounded up, so that the rate is never above the rule.
        let each = nanos.div_ceil(u64::from(requests.get()));
        Self {
            requests,
            interval,
            each,
        }
    }

    pub fn requests(self) -> NonZeroU32 {
        self.requests
    }

    pub fn interval(self) -> Duration {
        self.interval
    }

    /// Nanoseconds after which one more request may come.
    pub(super) fn each(self) -> u64 {
        self.each
    }
}

/// Every rule; `None` where one is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaRules {
    /// Methods and subscriptions of one connection.
    pub connection: Option<Quota>,
    /// Of all connections of one user.
    pub user: Option<Quota>,
    /// Of all connections from one address.
    pub address: Option<Quota>,
    /// Of one name, on one connection. Names that begin with `stream-` have four times the requests in four times the
    /// interval, here and in `user_method`.
    pub connection_method: Option<Quota>,
    /// Of one name, by one user.
    pub user_method: Option<Quota>,
    pub abuse: Option<Abuse>,
}

/// When refusals have consequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abuse {
    /// Refusals that are borne.
    pub refusals: Quota,
    /// Time in which everything is refused to whoever has had more.
    pub penalty: Duration,
}

impl Default for QuotaRules {
    /// Rocket.Chat's own defaults (the settings `DDP_Rate_Limit_*`), which suit 500 users for each streamer.
    fn default() -> Self {
        let quota = |requests, seconds| {
            let requests = NonZeroU32::new(requests).unwrap_or(NonZeroU32::MIN);
            Quota::new(requests, Duration::from_secs(seconds))
        };
        Self {
            connection: Some(quota(600, 60)),
            user: Some(quota(1200, 60)),
            address: Some(quota(120_000, 60)),
            connection_method: Some(quota(10, 10)),
            user_method: Some(quota(20, 10)),
            abuse: Some(Abuse {
                refusals: quota(300, 60),
                penalty: Duration::from_secs(60),
            }),
        }
    }
}
