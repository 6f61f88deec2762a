//! How probes and real traffic move a streamer from one state of health to another.

use std::time::{Duration, Instant};

use super::health::{Back, Cause, Fault, Health, Outcome, ProbeKind, Ramp};

/// Thresholds, see [`Machine`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Thresholds {
    /// Consecutive failures, of one kind of probe or of attaches, that take a streamer out.
    pub(super) failures: u32,
    /// A streamer that joins others which are warm is filled over this time.
    pub(super) slow_start: Duration,
}

/// What an event did to a streamer's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transition {
    pub(super) from: Health,
    pub(super) to: Health,
}

/// The health of one streamer and how it got there. Pure: time comes in as an argument.
#[derive(Debug)]
pub(super) struct Machine {
    health: Health,
    /// Consecutive failures by kind of probe.
    health_failures: u32,
    ddp_failures: u32,
    /// Consecutive failed attaches of clients.
    attach_failures: u32,
    resets: Resets,
    ejections: Ejections,
}

impl Machine {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            health: Health::Unknown { since: now },
            health_failures: 0,
            ddp_failures: 0,
            attach_failures: 0,
            resets: Resets {
                from: now,
                count: 0,
            },
            ejections: Ejections::None,
        }
    }

    pub(super) fn health(&self) -> Health {
        self.health
    }

    /// Discovery brought it back, or it has a new address: to be proven again. Ejections are
    /// remembered, so that leaving and coming back does not wipe the record.
    pub(super) fn forget_proof(&mut self, now: Instant) {
        self.health_failures = 0;
        self.ddp_failures = 0;
        self.attach_failures = 0;
        self.health = Health::Unknown { since: now };
    }

    /// A probe came back. `ramp` is how the streamer would start if this brings it up.
    pub(super) fn probed(
        &mut self,
        kind: ProbeKind,
        result: Result<(), Fault>,
        thresholds: &Thresholds,
        ramp: Ramp,
        now: Instant,
    ) -> Option<Transition> {
        if result == Err(Fault::Ours) {
            return None;
        }
        let failures = match kind {
            ProbeKind::Health => &mut self.health_failures,
            ProbeKind::Ddp => &mut self.ddp_failures,
        };
        let fault = match result {
            Ok(()) => {
                *failures = 0;
                return match (kind, self.health) {
                    (ProbeKind::Ddp, _) if self.may_return(now) => {
                        self.attach_failures = 0;
                        // Whatever failed before is over, `GET /health` included.
                        self.health_failures = 0;
                        let ramp = match self.health {
                            // It kept its sessions and its share of new ones.
                            Health::Degraded { .. } => Ramp::Full,
                            _ => ramp,
                        };
                        self.become_(Health::Up { since: now, ramp })
                    }
                    _ => None,
                };
            }
            Err(fault) => fault,
        };
        *failures = failures.saturating_add(1);
        let failures = *failures;
        let cause = Cause::Probe(kind, fault);
        let down = Health::Down {
            since: now,
            cause,
            back: Back::Proof,
        };
        match self.health {
            // It never was in rotation: the first failure is news enough.
            Health::Unknown { .. } => self.become_(down),
            Health::Up { .. } | Health::Degraded { .. } if failures >= thresholds.failures => {
                self.become_(down)
            }
            // It does not only fail clients, it is gone: its return is not held back then.
            Health::Down {
                since,
                back: Back::After(_),
                ..
            } if failures >= thresholds.failures => {
                self.health = Health::Down {
                    since,
                    cause,
                    back: Back::Proof,
                };
                None
            }
            Health::Up { .. } | Health::Degraded { .. } | Health::Down { .. } => None,
        }
    }

    /// Real traffic ended so. `may_eject`: the pool can spare it. `sessions`: on it now.
    pub(super) fn reported(
        &mut self,
        outcome: Outcome,
        may_eject: bool,
        sessions: u32,
        thresholds: &Thresholds,
        now: Instant,
    ) -> Option<Transition> {
        let over = match outcome {
            Outcome::Ok => {
                self.attach_failures = 0;
                self.ejections.calm_down(now);
                return match self.health {
                    Health::Degraded { .. } => self.become_(Health::Up {
                        since: now,
                        ramp: Ramp::Full,
                    }),
                    _ => None,
                };
            }
            // A streamer cuts single sockets for reasons of its own (a user is logged out by
            // force), so only a burst says something about the streamer.
            Outcome::Reset => {
                self.resets.one_more(now) >= thresholds.failures.max(sessions / 4).max(3)
            }
            Outcome::ConnectFailed | Outcome::HandshakeFailed | Outcome::TimedOut => {
                self.attach_failures = self.attach_failures.saturating_add(1);
                self.attach_failures >= thresholds.failures
            }
        };
        if !over || !self.health.in_rotation() {
            return None;
        }
        let cause = Cause::Traffic(outcome);
        if may_eject {
            self.attach_failures = 0;
            let back = Back::After(now + self.ejections.next(now));
            self.become_(Health::Down {
                since: now,
                cause,
                back,
            })
        } else if matches!(self.health, Health::Up { .. }) {
            self.become_(Health::Degraded { since: now, cause })
        } else {
            None
        }
    }

    /// The ramp has no purpose any more: no other streamer carries the load meanwhile.
    pub(super) fn end_ramp(&mut self) {
        if let Health::Up { ramp, .. } = &mut self.health {
            *ramp = Ramp::Full;
        }
    }

    /// A DDP probe that succeeds at `now` would bring it up (again).
    pub(super) fn may_return(&self, now: Instant) -> bool {
        match self.health {
            Health::Up { .. } => false,
            Health::Unknown { .. } => true,
            // The probe disproves nothing of what clients saw: give them a moment.
            Health::Degraded { since, .. } => {
                now.saturating_duration_since(since) >= FIRST_EJECTION
            }
            Health::Down { back, .. } => match back {
                Back::Proof => true,
                Back::After(at) => now >= at,
            },
        }
    }

    fn become_(&mut self, to: Health) -> Option<Transition> {
        let from = std::mem::replace(&mut self.health, to);
        Some(Transition { from, to })
    }
}

/// Legs cut within the current second.
#[derive(Debug)]
struct Resets {
    from: Instant,
    count: u32,
}

impl Resets {
    fn one_more(&mut self, now: Instant) -> u32 {
        if now.saturating_duration_since(self.from) >= RESET_WINDOW {
            *self = Self {
                from: now,
                count: 0,
            };
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}

/// How often in a row real traffic took the streamer out.
#[derive(Clone, Copy, Debug)]
enum Ejections {
    None,
    Some { last: Instant, length: Duration },
}

impl Ejections {
    /// Length of the ejection that begins now: twice the last one, bounded.
    fn next(&mut self, now: Instant) -> Duration {
        self.calm_down(now);
        let length = match *self {
            Self::None => FIRST_EJECTION,
            Self::Some { length, .. } => (length * 2).min(LONGEST_EJECTION),
        };
        *self = Self::Some { last: now, length };
        length
    }

    /// Forgets after a quiet time of several times the last ejection.
    fn calm_down(&mut self, now: Instant) {
        if let Self::Some { last, length } = *self
            && now.saturating_duration_since(last) > length * 5
        {
            *self = Self::None;
        }
    }
}

const RESET_WINDOW: Duration = Duration::from_secs(1);
const FIRST_EJECTION: Duration = Duration::from_secs(1);
const LONGEST_EJECTION: Duration = Duration::from_secs(60);
