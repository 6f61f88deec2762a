//! What one run is like: who takes part, and how they behave.

use std::{num::NonZeroU32, time::Duration};

use ddp_gateway::{
    ddp::Framing,
    session::{
        QuotaRules, Rules, Timeouts,
        limits::Allowance,
        quota::{Abuse, Quota},
    },
};

use crate::dice::Dice;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theme {
    /// A client with all its habits and a streamer as it is: nothing gets lost.
    Ordinary,
    /// A streamer that does what DDP forbids.
    Nasty,
    /// Narrow limits, which change.
    Limited,
    /// Everything breaks off at some time.
    Broken,
}

pub(crate) struct Plan {
    pub(crate) theme: Theme,
    pub(crate) dice: Dice,
    pub(crate) framing: Framing,
    pub(crate) steps: usize,
    pub(crate) rules: Rules,
    /// The client calls methods with ids that are in flight.
    pub(crate) reuses_ids: bool,
    /// The client sends requests of more than 64 KiB.
    pub(crate) oversized: bool,
    /// The client sends long runs of requests before anything is answered.
    pub(crate) floods: bool,
    pub(crate) malformed: bool,
    /// The client's first message is something else, or there is none.
    pub(crate) no_connect: bool,
    pub(crate) logs_out: bool,
    /// What the streamer does wrong.
    pub(crate) nasty: Nasty,
    /// In percent of the steps that it takes part in: how often the streamer answers.
    pub(crate) diligence: usize,
    /// Timers are sometimes looked at too late.
    pub(crate) late: bool,
    /// Something ends the session before its time.
    pub(crate) breaks: bool,
    /// The longest pause of everybody.
    pub(crate) pause: Duration,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Nasty {
    pub(crate) updated_first: bool,
    pub(crate) grouped: bool,
    pub(crate) ghosts: bool,
    pub(crate) repeats: bool,
    pub(crate) greets_again: bool,
    pub(crate) batches: bool,
    pub(crate) msg_last: bool,
    pub(crate) large: bool,
}

impl Plan {
    pub(crate) fn draw(theme: Theme, seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ ((theme as u64) << 56));
        let framing = *dice.pick(&[Framing::Raw, Framing::SockJs]);
        let (ordinary, limited, broken) = (
            theme == Theme::Ordinary,
            theme == Theme::Limited,
            theme == Theme::Broken,
        );
        let is_nasty = theme == Theme::Nasty;
        let nasty = Nasty {
            updated_first: is_nasty && dice.chance(60),
            grouped: is_nasty && dice.chance(60),
            ghosts: is_nasty && dice.chance(60),
            repeats: is_nasty && dice.chance(60),
            greets_again: is_nasty && dice.chance(60),
            batches: is_nasty && framing == Framing::SockJs && dice.chance(60),
            msg_last: is_nasty && dice.chance(40),
            large: is_nasty && dice.chance(40),
        };
        let floods = ordinary && dice.chance(10);
        let pause = *dice.pick(&[
            Duration::from_millis(20),
            Duration::from_millis(700),
            Duration::from_secs(8),
        ]);
        Self {
            theme,
            framing,
            steps: if floods { 900 } else { 250 },
            reuses_ids: ordinary && dice.chance(30),
            oversized: (ordinary || broken) && dice.chance(25),
            floods,
            malformed: broken && dice.chance(30),
            no_connect: broken && dice.chance(15),
            logs_out: (ordinary || broken) && dice.chance(20),
            nasty,
            diligence: if floods {
                2
            } else {
                *dice.pick(&[15, 50, 100])
            },
            late: broken && dice.chance(30),
            breaks: broken,
            pause,
            rules: rules(limited, &mut dice),
            dice,
        }
    }
}

/// What a configuration may say; narrow limits when they are what the run is about.
pub(crate) fn rules(narrow: bool, dice: &mut Dice) -> Rules {
    let n =
        |n: usize| NonZeroU32::new(u32::try_from(n).expect("small")).expect("limits are not zero");
    let timeouts = Timeouts {
        resume: Duration::ZERO,
        connect: Duration::from_secs(10),
        idle: Duration::from_secs(*dice.pick(&[20, 50, 90])),
        stall: Duration::from_secs(*dice.pick(&[5, 20])),
    };
    if !narrow {
        let wide = n(1_000_000);
        return Rules {
            timeouts,
            allowance: Allowance {
                messages_per_second: wide,
                messages_burst: wide,
                bytes_per_second: n(1_000_000_000),
                bytes_burst: n(1_000_000_000),
                abuse_after: Duration::from_secs(30),
            },
            quotas: QuotaRules {
                connection: None,
                user: None,
                address: None,
                connection_method: None,
                user_method: None,
                abuse: None,
            },
        };
    }
    let mut quota = |percent: usize, most: usize| {
        dice.chance(percent).then(|| {
            let interval = Duration::from_millis(100 + dice.draw() % 20_000);
            Quota::new(n(1 + dice.below(most)), interval)
        })
    };
    let quotas = QuotaRules {
        connection: quota(50, 60),
        user: quota(50, 60),
        address: quota(30, 90),
        connection_method: quota(70, 10),
        user_method: quota(50, 10),
        abuse: quota(50, 100).map(|refusals| Abuse {
            refusals,
            penalty: Duration::from_secs(20),
        }),
    };
    Rules {
        timeouts,
        quotas,
        allowance: Allowance {
            messages_per_second: n(*dice.pick(&[2, 20, 1_000])),
            messages_burst: n(*dice.pick(&[5, 200, 10_000])),
            bytes_per_second: n(*dice.pick(&[500, 10_000, 1_000_000])),
            bytes_burst: n(*dice.pick(&[2_000, 50_000, 1_000_000])),
            abuse_after: Duration::from_secs(30),
        },
    }
}
