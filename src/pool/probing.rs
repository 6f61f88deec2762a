//! When each streamer is probed. Who does it, and how, is not known here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    health::{Health, Outcome, ProbeKind},
    pick::SplitMix,
    streamer::Streamer,
};

/// How often and how patiently streamers are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Pause between two `GET /health` of a streamer in rotation.
    pub interval: Duration,
    /// Pause between two DDP probes of a streamer in rotation. Each costs the deployment a
    /// broadcast on its message bus, hence a pause of its own.
    pub ddp_interval: Duration,
    /// For each probe.
    pub timeout: Duration,
}

/// An order to probe. Its result goes to [`Pool::probed`](super::Pool::probed).
#[derive(Clone, Debug)]
pub struct Probe {
    pub streamer: Arc<Streamer>,
    pub kind: ProbeKind,
    pub(super) began: Instant,
    /// For the TCP connection: short while the streamer is out, so that its return is noticed
    /// soon even when packets to it vanish without a trace.
    pub connect_timeout: Duration,
    /// For the whole probe.
    pub timeout: Duration,
}

/// When the next probes of one streamer are due.
///
/// In rotation both kinds run at their own pace, one probe of each at a time. Out of rotation
/// `GET /health`, which is cheap, runs at a fast pace, and each good answer calls for a DDP probe,
/// which decides. None of these waits for an earlier one that a silent streamer swallowed: it would
/// hold back the streamer's return by the whole time limit of a probe.
#[derive(Debug)]
pub(super) struct Schedule {
    health: Line,
    ddp: Line,
}

/// Probes of one kind.
#[derive(Debug, Default)]
struct Line {
    /// When the next one begins.
    at: Option<Instant>,
    /// How many have begun and not ended.
    running: u32,
    /// When the latest one began.
    began: Option<Instant>,
    /// When the latest of those that have ended began.
    judged: Option<Instant>,
}

impl Schedule {
    /// Probe at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            health: Line {
                at: Some(now),
                ..Line::default()
            },
            ddp: Line::default(),
        }
    }

    /// When [`Self::take`] has something.
    pub(super) fn next(&self, pace: &Pace) -> Option<Instant> {
        let health = self.health.due_at(pace);
        let ddp = self.ddp.due_at(pace);
        [health, ddp].into_iter().flatten().min()
    }

    /// Whether a probe that begins now is one beside others: it may wait for those of streamers
    /// that have none under way.
    pub(super) fn is_crowded(&self) -> bool {
        self.health.running > 0 || self.ddp.running > 0
    }

    /// The kind of probe that is due; it counts as running until [`Self::ended`].
    pub(super) fn take(&mut self, health: Health, pace: &Pace, now: Instant) -> Option<ProbeKind> {
        if self.health.take(pace, now) {
            // Further apart when probes may last longer than usual, so that they never run out.
            let pause = pace.interval.min(FAST).max(pace.timeout / OVERLAP);
            self.health.at = (!health.in_rotation()).then(|| now + pause);
            return Some(ProbeKind::Health);
        }
        self.ddp.take(pace, now).then_some(ProbeKind::Ddp)
    }

    /// A probe that began at `began` ended. False when its result is out of date, because one that
    /// began later has ended already: answers may overtake each other.
    pub(super) fn ended(&mut self, kind: ProbeKind, began: Instant) -> bool {
        let line = match kind {
            ProbeKind::Health => &mut self.health,
            ProbeKind::Ddp => &mut self.ddp,
        };
        line.running = line.running.saturating_sub(1);
        let news = line.judged.is_none_or(|judged| judged < began);
        if news {
            line.judged = Some(began);
        }
        news
    }

    /// A DDP probe that began at `began` brought the streamer up: what began earlier, and may be lost
    /// still, says nothing any more.
    pub(super) fn proven(&mut self, began: Instant) {
        let judged = &mut self.health.judged;
        *judged = Some(judged.map_or(began, |judged| judged.max(began)));
    }

    /// What follows a result that is news, and after which the streamer's health is `health`.
    /// `may_return`: a DDP probe could bring it up.
    pub(super) fn done(
        &mut self,
        kind: ProbeKind,
        ok: bool,
        health: Health,
        may_return: bool,
        clock: (&Pace, &mut SplitMix, Instant),
    ) {
        let (pace, random, now) = clock;
        match (kind, health.in_rotation()) {
            (ProbeKind::Health, true) => {
                self.health.at = Some(match ok {
                    true => now + jitter(pace.interval, random),
                    // Whether it was a hiccup shall be known soon.
                    false => now + pace.interval.min(RETRY),
                });
            }
            (ProbeKind::Health, false) => {
                self.health.at_latest(now + pace.interval.min(FAST));
                if ok && may_return && self.ddp.may_begin(now) {
                    self.ddp.at = Some(now);
                }
            }
            (ProbeKind::Ddp, true) => {
                self.ddp.at = Some(match ok {
                    true => now + jitter(pace.ddp_interval, random),
                    false => now + pace.ddp_interval.min(DDP_RETRY),
                });
            }
            // A good answer to `GET /health` calls for the next one.
            (ProbeKind::Ddp, false) => self.health.at_latest(now + pace.interval.min(FAST)),
        }
    }

    /// Client traffic fails: ask the streamer itself soon, though not again and again. A failed
    /// attach asks for both kinds, since a streamer may answer one and not the other.
    pub(super) fn hurry(&mut self, outcome: Outcome, now: Instant) {
        self.health.hurry(FAST, now);
        if outcome != Outcome::Reset {
            self.ddp.hurry(DDP_HURRY, now);
        }
    }

    /// A DDP probe is due at `at`, if none runs or comes earlier.
    pub(super) fn ddp_at(&mut self, at: Instant) {
        if self.ddp.running == 0 {
            self.ddp.at_latest(at);
        }
    }

    /// Somebody works on the streamer.
    pub(super) fn stop(&mut self) {
        self.health.stop();
        self.ddp.stop();
    }
}

impl Line {
    fn due_at(&self, pace: &Pace) -> Option<Instant> {
        let lost = self
            .began
            .filter(|_| self.running > 0)
            .map(|began| began + pace.timeout * 2 + LOST_AFTER);
        match self.at {
            Some(at) if self.running < OVERLAP => Some(at),
            // Whoever ran them may be gone, and the results with it.
            _ => lost,
        }
    }

    fn take(&mut self, pace: &Pace, now: Instant) -> bool {
        if self.due_at(pace).is_none_or(|at| at > now) {
            return false;
        }
        if self.at.is_none() || self.running >= OVERLAP {
            self.running = 0;
        }
        self.running += 1;
        self.began = Some(now);
        self.at = None;
        true
    }

    fn at_latest(&mut self, latest: Instant) {
        self.at = Some(self.at.map_or(latest, |at| at.min(latest)));
    }

    /// Whether none runs, or one that takes longer than a streamer that works needs.
    fn may_begin(&self, now: Instant) -> bool {
        self.running == 0 || self.began.is_none_or(|began| now >= began + DDP_AGAIN)
    }

    fn hurry(&mut self, gap: Duration, now: Instant) {
        if let Some(at) = &mut self.at {
            let soon = now + SOON;
            let soon = self.began.map_or(soon, |began| soon.max(began + gap));
            *at = (*at).min(soon);
        }
    }

    fn stop(&mut self) {
        self.at = None;
        self.running = 0;
    }
}

impl Probe {
    pub(super) fn new(
        streamer: Arc<Streamer>,
        kind: ProbeKind,
        health: Health,
        pace: &Pace,
        now: Instant,
    ) -> Self {
        let connect_timeout = match health {
            Health::Down { .. } => pace.timeout.min(CONNECT_WHILE_DOWN),
            Health::Unknown { .. } | Health::Up { .. } | Health::Degraded { .. } => pace.timeout,
        };
        Self {
            streamer,
            kind,
            began: now,
            connect_timeout,
            timeout: pace.timeout,
        }
    }
}

/// Between nine and eleven tenths of `pause`, so that probes of many streamers (and of many
/// gateways) do not march in step.
fn jitter(pause: Duration, random: &mut SplitMix) -> Duration {
    let tenth = pause / 10;
    let micros = u64::try_from(tenth.as_micros()).unwrap_or(u64::MAX / 4);
    pause - tenth + Duration::from_micros(random.below(micros.saturating_mul(2)))
}

/// Pause between probes of a streamer that is out: its return shall be used within half a second.
const FAST: Duration = Duration::from_millis(150);
const CONNECT_WHILE_DOWN: Duration = Duration::from_millis(250);
/// Between two DDP probes of a streamer that is out and answers `GET /health`.
const DDP_AGAIN: Duration = Duration::from_millis(250);
/// After the first failure of a streamer in rotation.
const RETRY: Duration = Duration::from_millis(50);
const DDP_RETRY: Duration = Duration::from_millis(500);
/// Between DDP probes that failures of traffic call for.
const DDP_HURRY: Duration = Duration::from_secs(1);
/// Failures of traffic come in bursts; one probe answers for all of them.
const SOON: Duration = Duration::from_millis(20);
const LOST_AFTER: Duration = Duration::from_secs(5);
/// Probes of one kind under way to a streamer that is out: as many as begin, at the fast pace, within
/// the usual time limit of one.
const OVERLAP: u32 = 4;
