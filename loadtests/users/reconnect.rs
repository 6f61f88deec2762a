//! When each kind of client comes back.

use std::time::Duration;

use super::{chance::Chance, kind::Kind};

/// What a client remembers of its earlier tries.
#[derive(Clone, Debug)]
pub(super) enum Reconnect {
    /// `meteor/meteor:packages/retry/retry.js`: the count is that of tries since the transport was
    /// last open.
    Meteor {
        count: u32,
    },
    Fixed {
        every: Duration,
        left: Option<u32>,
    },
}

/// How the connection was lost, as far as it matters for coming back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The transport was never open.
    Unopened,
    /// It was open, and ended with this code.
    Opened(Option<u16>),
    /// The client closed because the server was silent.
    GivenUp,
}

impl Reconnect {
    pub(super) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Web => Self::Meteor { count: 0 },
            Kind::ReactNative => Self::Fixed {
                every: Duration::from_secs(5),
                left: None,
            },
            Kind::Sdk { every, tries } => Self::Fixed { every, left: tries },
        }
    }

    /// Pause before the next try; `None` when there will be none.
    pub(super) fn after(
        &mut self,
        kind: Kind,
        loss: Loss,
        chance: &mut Chance,
    ) -> Option<Duration> {
        match self {
            Self::Meteor { count } => {
                if loss != Loss::Unopened {
                    *count = 0;
                }
                let pause = meteor_pause(*count, chance);
                *count = count.saturating_add(1);
                Some(pause)
            }
            Self::Fixed { every, left } => {
                // The app takes every 4000 for a close of its own. Its own it does repair.
                if kind == Kind::ReactNative && loss == Loss::Opened(Some(4000)) {
                    return None;
                }
                // The SDK's own close for silence is not repaired (RocketChat/Rocket.Chat#36023).
                if matches!(kind, Kind::Sdk { .. }) && loss == Loss::GivenUp {
                    return None;
                }
                if let Some(left) = left {
                    *left = left.checked_sub(1)?;
                }
                Some(*every)
            }
        }
    }
}

/// 10 ms twice, then 1 s * 2.2^count with a quarter of jitter, up to five minutes.
fn meteor_pause(count: u32, chance: &mut Chance) -> Duration {
    if count < 2 {
        return Duration::from_millis(10);
    }
    let power = 2.2_f64.powi(i32::try_from(count.min(10)).unwrap_or(10));
    let seconds = power.min(300.0);
    chance.around(Duration::from_secs_f64(seconds), 0.25)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(kind: Kind, losses: &[Loss]) -> Vec<Option<Duration>> {
        let (mut reconnect, mut chance) = (Reconnect::new(kind), Chance::new(7));
        losses
            .iter()
            .map(|loss| reconnect.after(kind, *loss, &mut chance))
            .collect()
    }

    #[test]
    fn meteor_backs_off_until_the_transport_opens() {
        let losses = [Loss::Unopened; 12];
        let seconds: Vec<f64> = pauses(Kind::Web, &losses)
            .iter()
            .map(|pause| pause.map_or(0.0, |pause| pause.as_secs_f64()))
            .collect();
        let means = [
            0.01, 0.01, 4.84, 10.6, 23.4, 51.5, 113.0, 249.0, 300.0, 300.0,
        ];
        for (pause, mean) in seconds.iter().zip(means) {
            assert!((pause / mean - 1.0).abs() < 0.26, "{pause} around {mean}");
        }
        let losses = [
            Loss::Unopened,
            Loss::Unopened,
            Loss::Opened(None),
            Loss::GivenUp,
        ];
        let short = Some(Duration::from_millis(10));
        assert_eq!(pauses(Kind::Web, &losses), [short; 4]);
    }

    #[test]
    fn the_others_come_back_at_fixed_times_or_never() {
        let five = Some(Duration::from_secs(5));
        let losses = [Loss::Unopened, Loss::Opened(Some(1001)), Loss::GivenUp];
        assert_eq!(pauses(Kind::ReactNative, &losses), [five; 3]);
        let theirs = [Loss::Opened(Some(4000))];
        assert_eq!(pauses(Kind::ReactNative, &theirs), [None]);

        let livechat = Kind::Sdk {
            every: Duration::from_secs(10),
            tries: Some(2),
        };
        let ten = Some(Duration::from_secs(10));
        let losses = [Loss::Opened(None); 3];
        assert_eq!(pauses(livechat, &losses), [ten, ten, None]);
        assert_eq!(pauses(Kind::SDK, &[Loss::GivenUp]), [None]);
    }
}
