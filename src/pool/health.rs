//! What is known about a streamer's health, from probes and from real traffic.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// Health of one streamer as the choice sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No probe has come back yet; gets no sessions.
    Unknown { since: Instant },
    /// Proven by a DDP probe.
    Up { since: Instant, ramp: Ramp },
    /// Real traffic fails on it, but taking it out would leave too few: the last choice.
    Degraded { since: Instant, cause: Cause },
    /// Out of rotation.
    Down {
        since: Instant,
        cause: Cause,
        back: Back,
    },
}

impl Health {
    /// Lower-case word for pages and labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown",
            Self::Up { .. } => "up",
            Self::Degraded { .. } => "degraded",
            Self::Down { .. } => "down",
        }
    }

    pub fn since(self) -> Instant {
        match self {
            Self::Unknown { since }
            | Self::Up { since, .. }
            | Self::Degraded { since, .. }
            | Self::Down { since, .. } => since,
        }
    }

    pub fn cause(self) -> Option<Cause> {
        match self {
            Self::Unknown { .. } | Self::Up { .. } => None,
            Self::Degraded { cause, .. } | Self::Down { cause, .. } => Some(cause),
        }
    }

    /// New sessions may go there, if only as the last resort.
    pub fn in_rotation(self) -> bool {
        matches!(self, Self::Up { .. } | Self::Degraded { .. })
    }
}

/// How much of its limit a streamer that came up may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ramp {
    /// All of it.
    Full,
    /// A share that rises evenly from a tenth to all of it over `over`.
    Rising { from: Instant, over: Duration },
}

impl Ramp {
    /// Sessions allowed at `now`; at least 1.
    pub fn capacity(self, limit: u32, now: Instant) -> u32 {
        match self {
            Self::Full => limit,
            Self::Rising { from, over } => {
                let risen = now.saturating_duration_since(from).as_micros();
                let over = over.as_micros().max(1);
                if risen >= over {
                    return limit;
                }
                let share = (u128::from(limit) * risen / over).max(u128::from(limit / 10));
                u32::try_from(share).unwrap_or(limit).max(1)
            }
        }
    }
}

/// What brings a streamer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// The next DDP probe that succeeds.
    Proof,
    /// A DDP probe that succeeds after this moment; until then it answers probes but fails clients.
    After(Instant),
}

/// Why a streamer is out, or suspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Probe(ProbeKind, Fault),
    Traffic(Outcome),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe(ProbeKind::Health, fault) => write!(f, "GET /health: {fault}"),
            Self::Probe(ProbeKind::Ddp, fault) => write!(f, "DDP probe: {fault}"),
            Self::Traffic(outcome) => write!(f, "client traffic: {}", outcome.label()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// `GET /health`.
    Health,
    /// Upgrade, `server_id`, `connect`, `connected`, close.
    Ddp,
}

impl ProbeKind {
    pub fn label(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Ddp => "ddp",
        }
    }
}

/// How a probe failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No TCP connection.
    Connect,
    /// No answer in time.
    Timeout,
    /// The connection ended before the answer was complete.
    Closed,
    /// An answer, but not a healthy streamer's.
    Answer,
    /// The probe could not be made for a reason of our own (no descriptor, no memory): says
    /// nothing about the streamer.
    Ours,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connection refused or unreachable",
            Self::Timeout => "no answer in time",
            Self::Closed => "connection cut before the answer",
            Self::Answer => "wrong answer",
            Self::Ours => "not probed for lack of resources",
        })
    }
}

/// How real traffic to a streamer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A client was attached.
    Ok,
    /// No TCP connection.
    ConnectFailed,
    /// TCP, but no valid WebSocket handshake or no `connected`.
    HandshakeFailed,
    /// The attach took too long.
    TimedOut,
    /// A live session's leg was cut without a close frame, or by a breach of the protocol.
    Reset,
}

impl Outcome {
    /// Value of the `reason` label; `ok` is not exported.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ConnectFailed => "connect",
            Self::HandshakeFailed => "handshake",
            Self::TimedOut => "timeout",
            Self::Reset => "reset",
        }
    }
}
