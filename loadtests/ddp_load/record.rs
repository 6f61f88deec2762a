//! What has been measured so far, and how it went over time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    trend::{Figure, Trend},
    users::{Ended, Faults, Spread, Tally},
};

/// A time that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    RoundTrip,
    Delivery,
    Request,
    Upgrade,
    Connect,
    Login,
    Subscribe,
    Visit,
    Back,
    Drain,
}

impl Measure {
    pub(crate) const ALL: [Self; 10] = [
        Self::RoundTrip,
        Self::Delivery,
        Self::Request,
        Self::Upgrade,
        Self::Connect,
        Self::Login,
        Self::Subscribe,
        Self::Visit,
        Self::Back,
        Self::Drain,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RoundTrip => "round_trip",
            Self::Delivery => "delivery",
            Self::Request => "request",
            Self::Upgrade => "upgrade",
            Self::Connect => "connect",
            Self::Login => "login",
            Self::Subscribe => "subscribe",
            Self::Visit => "visit",
            Self::Back => "back",
            Self::Drain => "drain",
        }
    }

    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::RoundTrip => "from when a call was meant to be sent until its result",
            Self::Delivery => "from when a message was meant to be sent until one hearer has it",
            Self::Request => {
                "from when a request was meant to be sent until the last byte of its answer"
            }
            Self::Upgrade => "from the start of the TCP connection until the 101",
            Self::Connect => "from the start of the TCP connection until connected",
            Self::Login => "from sending login until its result",
            Self::Subscribe => "from the first sub until the last one is answered",
            Self::Visit => "from when a visit was meant to begin until all it asked is answered",
            Self::Back => "from the loss of a session until its user is logged in again",
            Self::Drain => "from the order to drain a streamer until it is empty",
        }
    }
}

/// What happened since the last one.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    pub(crate) spreads: Vec<(Measure, Spread)>,
    pub(crate) counts: Vec<(&'static str, u64)>,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Some of them in words.
    pub(crate) examples: Vec<String>,
}

impl From<Tally> for Sample {
    fn from(tally: Tally) -> Self {
        let Faults {
            answers,
            abandoned,
            failed,
            ..
        } = tally.traffic.faults;
        let mut errors = BTreeMap::new();
        let mut counts = vec![
            (
                "attempts",
                tally.attempts.values().map(|a| a.len() as u64).sum(),
            ),
            ("logins", tally.logins),
            ("calls", tally.traffic.called),
            ("results", tally.traffic.answered),
            ("failed_calls", failed),
            ("abandoned_calls", abandoned),
            ("owed", tally.traffic.owed),
            ("deliveries", tally.traffic.delay.count()),
            ("typing_heard", tally.traffic.typed),
            ("rooms_left", tally.traffic.visits),
            ("polling_fallbacks", tally.fallbacks),
        ];
        for (ended, count) in tally.ended {
            match ended {
                Ended::Left => counts.push(("left", count)),
                Ended::Cut => counts.push(("cut", count)),
                ended => *errors.entry(ending(ended)).or_default() += count,
            }
        }
        for ((asked, error), count) in tally.errors {
            *errors.entry(format!("{asked}: {error}")).or_default() += count;
        }
        for (what, count) in [
            (
                "breach of protocol",
                tally.breaches - answers.min(tally.breaches),
            ),
            ("answer that was not asked for", answers),
            ("call without an answer", abandoned),
        ] {
            if count > 0 {
                *errors.entry(what.to_owned()).or_default() += count;
            }
        }
        Self {
            spreads: vec![
                (Measure::RoundTrip, tally.traffic.call),
                (Measure::Delivery, tally.traffic.delay),
                (Measure::Upgrade, tally.upgraded),
                (Measure::Connect, tally.connected),
                (Measure::Login, tally.login),
                (Measure::Subscribe, tally.subscribed),
                (Measure::Visit, tally.visit),
                (Measure::Back, tally.back),
            ],
            counts,
            errors,
            examples: tally.first_breaches,
        }
    }
}

fn ending(ended: Ended) -> String {
    match ended {
        Ended::Unreachable => "connection refused, or TLS failed".to_owned(),
        Ended::NoInfo => "no 200 from /sockjs/info".to_owned(),
        Ended::Refused(status) => format!("upgrade answered with {status}"),
        Ended::ClosedEarly(None) => "cut before the session was open".to_owned(),
        Ended::ClosedEarly(Some(code)) => format!("closed with {code} before it was open"),
        Ended::TurnedAway(code) => format!("turned away with {code}"),
        Ended::OpenedLate => "not open in time".to_owned(),
        Ended::Closed(None) => "session cut".to_owned(),
        Ended::Closed(Some(code)) => format!("session closed with {code}"),
        Ended::GivenUp => "silent server given up".to_owned(),
        Ended::Nonsense => "broken frame".to_owned(),
        Ended::Left => "left".to_owned(),
        Ended::Cut => "cut by us".to_owned(),
    }
}

/// One stretch of time.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    /// Its end, since the start of the run.
    pub(crate) at: Duration,
    pub(crate) took: Duration,
    pub(crate) phase: &'static str,
    /// Users who have all that they asked for at their start, at its end.
    pub(crate) settled: usize,
    pub(crate) errors: u64,
    /// How many of each measure there were, their median, their 99th percentile.
    pub(crate) measures: BTreeMap<Measure, (u64, Duration, Duration)>,
}

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) began: Instant,
    last: Duration,
    pub(crate) totals: BTreeMap<Measure, Spread>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) examples: Vec<String>,
    pub(crate) points: Vec<Point>,
    /// Figures of the gateway that must not grow.
    pub(crate) trends: BTreeMap<Figure, Trend>,
    /// Phases with their ends.
    pub(crate) phases: Vec<(&'static str, Duration)>,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            last: Duration::ZERO,
            totals: BTreeMap::new(),
            counts: BTreeMap::new(),
            errors: BTreeMap::new(),
            examples: Vec::new(),
            points: Vec::new(),
            trends: BTreeMap::new(),
            phases: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, sample: Sample, phase: &'static str, settled: usize) {
        let at = self.began.elapsed();
        let mut point = Point {
            at,
            took: at - self.last,
            phase,
            settled,
            errors: sample.errors.values().sum(),
            measures: BTreeMap::new(),
        };
        self.last = at;
        for (measure, spread) in sample.spreads {
            if spread.count() == 0 {
                continue;
            }
            let shown = (spread.count(), spread.at(0.5), spread.at(0.99));
            point.measures.insert(measure, shown);
            self.totals.entry(measure).or_default().add(&spread);
        }
        for (name, count) in sample.counts {
            *self.counts.entry(name).or_default() += count;
        }
        for (name, count) in sample.errors {
            self.error(name, count);
        }
        let room = EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(sample.examples.into_iter().take(room));
        if self.points.len() < POINTS {
            self.points.push(point);
        }
    }

    /// Of more kinds than anybody reads, the rest is one.
    pub(crate) fn error(&mut self, name: String, count: u64) {
        if count == 0 {
            return;
        }
        let is_new = !self.errors.contains_key(&name);
        let name = match is_new && self.errors.len() >= KINDS {
            true => "of other kinds".to_owned(),
            false => name,
        };
        *self.errors.entry(name).or_default() += count;
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    pub(crate) fn measured(&self, measure: Measure) -> u64 {
        self.totals.get(&measure).map_or(0, Spread::count)
    }

    pub(crate) fn all_errors(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// A day of seconds.
const POINTS: usize = 100_000;
const EXAMPLES: usize = 10;
const KINDS: usize = 50;
