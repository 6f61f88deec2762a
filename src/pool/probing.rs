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
    /// For the TCP connection: short while the streamer is out, so that its return is noticed
    /// soon even when packets to it vanish without a trace.
    pub connect_timeout: Duration,
    /// For the whole probe.
    pub timeout: Duration,
}

/// When the next probes of one streamer are due.
///
/// In rotation both kinds run at their own pace. Out of rotation `GET /health`, which is cheap,
/// runs at a fast pace, and each good answer calls for a DDP probe, which decides.
#[derive(Debug)]
pub(super) struct Schedule {
    health: Turn,
    ddp: Turn,
    /// When the last probe of each kind began; `None` before the first.
    health_began: Option<Instant>,
    ddp_began: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    At(Instant),
    Running { since: Instant },
    Off,
}

impl Schedule {
    /// Probe at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            health: Turn::At(now),
            ddp: Turn::Off,
            health_began: None,
            ddp_began: None,
        }
    }

    /// When [`Self::take`] has something.
    pub(super) fn next(&self, pace: &Pace) -> Option<Instant> {
        let health = self.health.due_at(pace);
        let ddp = self.ddp.due_at(pace);
        [health, ddp].into_iter().flatten().min()
    }

    /// The kind of probe that is due; it counts as running until [`Self::done`].
    pub(super) fn take(&mut self, pace: &Pace, now: Instant) -> Option<ProbeKind> {
        for (turn, began, kind) in [
            (&mut self.health, &mut self.health_began, ProbeKind::Health),
            (&mut self.ddp, &mut self.ddp_began, ProbeKind::Ddp),
        ] {
            if turn.due_at(pace).is_some_and(|at| at <= now) {
                *turn = Turn::Running { since: now };
                *began = Some(now);
                return Some(kind);
            }
        }
        None
    }

    /// A probe ended, and the streamer's health is `health` thereafter. `may_return`: a DDP probe
    /// could bring it up.
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
                self.health = Turn::At(match ok {
                    true => now + jitter(pace.interval, random),
                    // Whether it was a hiccup shall be known soon.
                    false => now + pace.interval.min(RETRY),
                });
            }
            (ProbeKind::Health, false) => {
                self.health = Turn::At(now + pace.interval.min(FAST));
                if ok && may_return && !matches!(self.ddp, Turn::Running { .. }) {
                    self.ddp = Turn::At(now);
                }
            }
            (ProbeKind::Ddp, true) => {
                self.ddp = Turn::At(match ok {
                    true => now + jitter(pace.ddp_interval, random),
                    false => now + pace.ddp_interval.min(DDP_RETRY),
                });
            }
            (ProbeKind::Ddp, false) => self.ddp = Turn::Off,
        }
    }

    /// Client traffic fails: ask the streamer itself soon, though not again and again. A failed
    /// attach asks for both kinds, since a streamer may answer one and not the other.
    pub(super) fn hurry(&mut self, outcome: Outcome, now: Instant) {
        let soon = |began: Option<Instant>, gap| {
            let soon = now + SOON;
            began.map_or(soon, |began| soon.max(began + gap))
        };
        if let Turn::At(at) = &mut self.health {
            *at = (*at).min(soon(self.health_began, FAST));
        }
        if let Turn::At(at) = &mut self.ddp
            && outcome != Outcome::Reset
        {
            *at = (*at).min(soon(self.ddp_began, DDP_HURRY));
        }
    }

    /// A DDP probe is due at `at`, if none runs or comes earlier.
    pub(super) fn ddp_at(&mut self, at: Instant) {
        match &mut self.ddp {
            Turn::Running { .. } => {}
            Turn::At(due) => *due = (*due).min(at),
            Turn::Off => self.ddp = Turn::At(at),
        }
    }

    /// Somebody works on the streamer.
    pub(super) fn stop(&mut self) {
        self.health = Turn::Off;
        self.ddp = Turn::Off;
    }
}

impl Turn {
    fn due_at(self, pace: &Pace) -> Option<Instant> {
        match self {
            Self::At(at) => Some(at),
            // Its result was lost: whoever ran it is gone.
            Self::Running { since } => Some(since + pace.timeout * 2 + LOST_AFTER),
            Self::Off => None,
        }
    }
}

impl Probe {
    pub(super) fn new(
        streamer: Arc<Streamer>,
        kind: ProbeKind,
        health: Health,
        pace: &Pace,
    ) -> Self {
        let connect_timeout = match health {
            Health::Down { .. } => pace.timeout.min(CONNECT_WHILE_DOWN),
            Health::Unknown { .. } | Health::Up { .. } | Health::Degraded { .. } => pace.timeout,
        };
        Self {
            streamer,
            kind,
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
/// After the first failure of a streamer in rotation.
const RETRY: Duration = Duration::from_millis(50);
const DDP_RETRY: Duration = Duration::from_millis(500);
/// Between DDP probes that failures of traffic call for.
const DDP_HURRY: Duration = Duration::from_secs(1);
/// Failures of traffic come in bursts; one probe answers for all of them.
const SOON: Duration = Duration::from_millis(20);
const LOST_AFTER: Duration = Duration::from_secs(5);
