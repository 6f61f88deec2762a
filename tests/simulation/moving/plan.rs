//! What one run is like.

use std::time::Duration;

use ddp_gateway::{ddp::Framing, session::Rules};

use super::leg::Refusal;
use crate::{dice::Dice, plan};

pub(crate) struct Plan {
    pub(crate) dice: Dice,
    pub(crate) framing: Framing,
    pub(crate) logs_in: bool,
    /// What makes the session one that cannot be moved.
    pub(crate) obstacle: Option<Obstacle>,
    /// Largest difference between two streamers.
    pub(crate) skew: Duration,
    /// Largest lag of a socket of each streamer.
    pub(crate) lag: [Duration; 2],
    /// Sockets hold everything back for a while.
    pub(crate) stalls: bool,
    pub(crate) batches: bool,
    pub(crate) large: bool,
    /// An unsub may overtake its sub, and is ignored then.
    pub(crate) overtakes: bool,
    /// Longest pause of the client, and between two events.
    pub(crate) pause: Duration,
    pub(crate) chatter: Duration,
    /// Longest time that a slow method takes, and how many of a hundred are slow.
    pub(crate) slow: (Duration, usize),
    /// The streamers have other documents from the beginning.
    pub(crate) differ: bool,
    /// How often the session is moved, and what goes wrong each time.
    pub(crate) faults: Vec<Option<Fault>>,
    /// From the end of a move to the next.
    pub(crate) between: Duration,
    pub(crate) rules: Rules,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    NotLive,
    LoggingIn,
    NoToken,
    Livechat,
    UnknownPublication,
    JournalFull,
    Unseen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    DialFails,
    DialHangs,
    NewLost,
    LoginRefused,
    LoginFails,
    LoginHangs,
    Refused(Refusal),
    OldLost,
    OldHangs,
    OldCloses,
    ClientGone,
    Drained,
    LogsIn,
    LogsOut,
    /// An event that is too large to be compared.
    Huge,
    /// More events than can be kept.
    Flood,
    /// Large events that only one leg delivers for a while.
    Flooded,
}

const FAULTS: &[Fault] = &[
    Fault::DialFails,
    Fault::DialHangs,
    Fault::NewLost,
    Fault::NewLost,
    Fault::NewLost,
    Fault::LoginRefused,
    Fault::LoginFails,
    Fault::LoginHangs,
    Fault::Refused(Refusal::NotAllowed),
    Fault::Refused(Refusal::Unknown),
    Fault::Refused(Refusal::Once),
    Fault::Refused(Refusal::Always),
    Fault::Refused(Refusal::Silence),
    Fault::OldLost,
    Fault::OldLost,
    Fault::OldHangs,
    Fault::OldCloses,
    Fault::ClientGone,
    Fault::Drained,
    Fault::LogsIn,
    Fault::LogsOut,
    Fault::Huge,
    Fault::Flood,
    Fault::Flooded,
];

const OBSTACLES: &[Obstacle] = &[
    Obstacle::NotLive,
    Obstacle::LoggingIn,
    Obstacle::NoToken,
    Obstacle::Livechat,
    Obstacle::UnknownPublication,
    Obstacle::JournalFull,
    Obstacle::Unseen,
];

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ (0x6d << 56));
        let framing = *dice.pick(&[Framing::Raw, Framing::SockJs]);
        let millis = Duration::from_millis;
        let skew = *dice.pick(&[millis(1), millis(60), millis(245), millis(245)]);
        let lags = [millis(1), millis(30), millis(30), millis(400)];
        let lag = [*dice.pick(&lags), *dice.pick(&lags)];
        // Each in its turn, so that none is left out.
        let turn = |all: usize| usize::try_from(seed / 8).expect("small") % all;
        let obstacle = (seed % 8 == 1).then(|| OBSTACLES[turn(OBSTACLES.len())]);
        let moves = *dice.pick(&[1, 1, 2, 3]);
        let mut faults: Vec<_> = (0..moves)
            .map(|_| dice.chance(45).then(|| *dice.pick(FAULTS)))
            .collect();
        if seed.is_multiple_of(8) {
            faults[0] = Some(FAULTS[turn(FAULTS.len())]);
        }
        Self {
            framing,
            obstacle,
            logs_in: obstacle == Some(Obstacle::NoToken) || dice.chance(80),
            skew,
            lag,
            stalls: dice.chance(25),
            batches: framing == Framing::SockJs && dice.chance(40),
            large: dice.chance(15),
            overtakes: dice.chance(20),
            pause: *dice.pick(&[millis(40), millis(150), millis(800)]),
            chatter: *dice.pick(&[millis(15), millis(50), millis(200)]),
            slow: (
                *dice.pick(&[millis(150), millis(900), millis(4_000)]),
                *dice.pick(&[0, 10, 40]),
            ),
            differ: dice.chance(40),
            faults,
            between: *dice.pick(&[Duration::ZERO, millis(100), millis(1_500)]),
            rules: plan::rules(false, &mut dice),
            dice,
        }
    }
}
