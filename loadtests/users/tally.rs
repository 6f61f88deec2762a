//! What users have seen over some time, in numbers.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    time::Duration,
};

use hdrhistogram::Histogram;

use super::traffic::Traffic;

/// How an attempt to have a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// Nobody took the TCP connection.
    Unreachable,
    /// SockJS's `/info` was not answered with 200 in time.
    NoInfo,
    /// The upgrade was answered with this status instead of 101.
    Refused(u16),
    /// A close code before the session was open; `None` for an end without one. Browsers go on to
    /// polling unless the code is 1000 or 3000 to 4999.
    ClosedEarly(Option<u16>),
    /// SockJS's `c[code]` in the place of `o`.
    TurnedAway(u16),
    /// The transport did not open within the client's own limit.
    OpenedLate,
    /// The session was open: a close code, SockJS's or WebSocket's, or an end without one.
    Closed(Option<u16>),
    /// The client gave up a silent server.
    GivenUp,
    /// The client left, as it wanted to.
    Left,
    /// The client's end was cut, as [`super::Board::cut`] wants it.
    Cut,
    /// The server broke a rule of WebSocket, SockJS or DDP.
    Nonsense,
}

impl Ended {
    /// Whether the transport was open, which is what resets Meteor's back-off.
    pub(super) fn was_open(self) -> bool {
        matches!(
            self,
            Self::Closed(_) | Self::GivenUp | Self::Left | Self::Cut | Self::Nonsense
        )
    }
}

/// What has happened since the last one was taken.
#[derive(Clone, Debug)]
pub struct Tally {
    /// From the start of the TCP connection to the 101.
    pub upgraded: Spread,
    /// From the same to SockJS's `o`.
    pub opened: Spread,
    /// From the same to `connected`.
    pub connected: Spread,
    /// From sending `login` to its result.
    pub login: Spread,
    /// From sending the first `sub` until the last one is answered.
    pub subscribed: Spread,
    /// From the loss of a session until its user is logged in again.
    pub back: Spread,
    /// From the moment at which a visit was meant to begin until all that it asked is answered.
    pub visit: Spread,
    /// By number of user, when each of its attempts began.
    pub attempts: BTreeMap<u32, Vec<Duration>>,
    pub ended: BTreeMap<Ended, u64>,
    /// Polling transports that browsers resorted to.
    pub fallbacks: u64,
    pub logins: u64,
    /// Errors in answers to methods and subs, by what was asked and the error's name.
    pub errors: BTreeMap<(&'static str, String), u64>,
    /// Breaches of protocol, and the first of them in words.
    pub breaches: u64,
    pub first_breaches: Vec<String>,
    /// What users with habits did and heard.
    pub traffic: Traffic,
}

impl Tally {
    /// Attempts of one user that are remembered; later ones are the last entry's.
    const ATTEMPTS: usize = 1000;
    const BREACHES: usize = 20;

    pub(super) fn new() -> Self {
        Self {
            upgraded: Spread::new(),
            opened: Spread::new(),
            connected: Spread::new(),
            login: Spread::new(),
            subscribed: Spread::new(),
            back: Spread::new(),
            visit: Spread::new(),
            attempts: BTreeMap::new(),
            ended: BTreeMap::new(),
            fallbacks: 0,
            logins: 0,
            errors: BTreeMap::new(),
            breaches: 0,
            first_breaches: Vec::new(),
            traffic: Traffic::default(),
        }
    }

    pub(super) fn attempt(&mut self, user: u32, at: Duration) {
        let attempts = self.attempts.entry(user).or_default();
        if attempts.len() < Self::ATTEMPTS {
            attempts.push(at);
        }
    }

    pub(super) fn breach(&mut self, user: u32, what: &str) {
        self.breaches += 1;
        if self.first_breaches.len() < Self::BREACHES {
            self.first_breaches.push(format!("user {user}: {what}"));
        }
    }

    /// Most attempts of one user, and most that one user began within `window`.
    pub fn most_attempts(&self, window: Duration) -> (usize, usize) {
        let all = self.attempts.values().map(Vec::len).max().unwrap_or(0);
        let dense = self.attempts.values().map(|times| densest(times, window));
        (all, dense.max().unwrap_or(0))
    }

    /// Errors of this name, whatever was asked.
    pub fn errors_named(&self, name: &str) -> u64 {
        let named = self.errors.iter().filter(|((_, error), _)| error == name);
        named.map(|(_, count)| count).sum()
    }
}

/// Most of these times, which are in order, that lie within one `window`.
fn densest(times: &[Duration], window: Duration) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (at, time) in times.iter().enumerate() {
        while *time - times[first] >= window {
            first += 1;
        }
        most = most.max(at - first + 1);
    }
    most
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, spread) in [
            ("101", &self.upgraded),
            ("o", &self.opened),
            ("connected", &self.connected),
            ("login", &self.login),
            ("subscribed", &self.subscribed),
            ("back", &self.back),
        ] {
            writeln!(f, "    {name:<11} {spread}")?;
        }
        let attempts: usize = self.attempts.values().map(Vec::len).sum();
        let (most, _) = self.most_attempts(Duration::from_secs(1));
        writeln!(f, "    attempts    {attempts}, of one user at most {most}")?;
        let ended: Vec<String> = self
            .ended
            .iter()
            .map(|(how, count)| format!("{count} {how:?}"))
            .collect();
        writeln!(f, "    ended       {}", ended.join(", "))?;
        let mut rest = String::new();
        for ((asked, error), count) in &self.errors {
            write!(rest, "{count} {asked} {error}, ")?;
        }
        write!(
            f,
            "    {} logins, {rest}{} fallbacks, {} breaches",
            self.logins, self.fallbacks, self.breaches
        )
    }
}

/// Durations, with three digits of precision from a microsecond to an hour.
#[derive(Clone, Debug)]
pub struct Spread(Histogram<u64>);

impl Spread {
    pub fn new() -> Self {
        let micros = 3_600_000_000;
        Self(Histogram::new_with_bounds(1, micros, 3).expect("these bounds are valid"))
    }

    pub fn record(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros);
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Takes over what another one has recorded.
    pub fn add(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean() / 1e6)
    }

    /// The time that this part of them, between 0 and 1, does not exceed.
    pub fn at(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }

    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }
}

impl Default for Spread {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7} times", self.count())?;
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
            write!(f, "  {name} {:>9.1?}", self.at(quantile))?;
        }
        write!(f, "  max {:>9.1?}", self.max())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_who_tries_too_often() {
        let mut tally = Tally::new();
        for ms in [0, 10, 20, 5000] {
            tally.attempt(1, Duration::from_millis(ms));
        }
        for ms in [0, 600, 1200, 1800, 2400] {
            tally.attempt(2, Duration::from_millis(ms));
        }
        assert_eq!(tally.most_attempts(Duration::from_secs(1)), (5, 3));
        assert_eq!(tally.most_attempts(Duration::from_millis(5)), (5, 1));
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut spread = Spread::new();
        for ms in 1..=1000 {
            spread.record(Duration::from_millis(ms));
        }
        let p99 = spread.at(0.99).as_secs_f64();
        assert!((p99 - 0.99).abs() < 0.002, "{p99}");
        assert_eq!(spread.count(), 1000);
    }
}
