//! Whose copies of events are listened to: one streamer's at a time, without a socket and without a
//! clock.
//!
//! Moleculer sends a copy of a broadcast event to each node that has a service for it. So one
//! streamer's copies are all that there is to hear, and the others' would be the same again. A
//! streamer that is heard for long might be one that the others have lost, so the next one follows
//! after a while. Logins are told to monoliths only; they are of use as samples, and since nobody
//! knows what else a monolith is told, it is listened to for a moment now and then.

use std::time::{Duration, Instant};

use super::event::{Hearers, Hears, Name};

/// Whom to listen to, and until when.
#[derive(Debug)]
pub(super) struct Rota {
    heard: Vec<Heard>,
    /// When the next one is listened to.
    turn_at: Instant,
    sample_at: Instant,
}

#[derive(Debug)]
struct Heard {
    node: String,
    /// `None`: until it is the next one's turn.
    until: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Hear(String),
    Leave(String),
}

impl Rota {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: Vec::new(),
            turn_at: now,
            sample_at: now,
        }
    }

    /// What to do now; `draw` is random.
    pub(super) fn poll(&mut self, hearers: &Hearers, draw: u64, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        let has_lookout = |heard: &[Heard]| heard.iter().any(|heard| heard.until.is_none());
        self.heard.retain(|heard| {
            let there = hearers.0.contains_key(&heard.node);
            let stays = there && heard.until.is_none_or(|until| now < until);
            if !stays {
                steps.push(Step::Leave(heard.node.clone()));
            }
            stays
        });
        if self.turn_at <= now || !has_lookout(&self.heard) {
            self.turn_at = now + TURN;
            let next = self.choose(hearers, draw, |hears| hears.includes(Name::ForceLogout));
            if let Some(next) = next {
                // What is on its way to the one before is heard, too.
                for heard in &mut self.heard {
                    heard.until.get_or_insert(now + OVERLAP);
                }
                steps.push(Step::Hear(next.clone()));
                self.heard.push(Heard {
                    node: next,
                    until: None,
                });
            }
        }
        if self.sample_at <= now {
            // Soon, if there is none: one that starts with the gateway is not known at once.
            self.sample_at = now + SAMPLE;
            let next = self.choose(hearers, draw, |hears| {
                hears.includes(Name::Login) || hears.includes(Name::Connected)
            });
            if let Some(next) = next {
                self.sample_at = now + SAMPLE_EVERY;
                steps.push(Step::Hear(next.clone()));
                self.heard.push(Heard {
                    node: next,
                    until: Some(now + SAMPLE),
                });
            }
        }
        steps
    }

    /// When to call [`Self::poll`], if nothing changes.
    pub(super) fn next_timeout(&self) -> Instant {
        let ends = self.heard.iter().filter_map(|heard| heard.until).min();
        let next = self.turn_at.min(self.sample_at);
        ends.map_or(next, |end| end.min(next))
    }

    fn choose(
        &self,
        hearers: &Hearers,
        draw: u64,
        wanted: impl Fn(Hears) -> bool,
    ) -> Option<String> {
        let fits = |(node, hears): &(&String, &Hears)| {
            wanted(**hears) && self.heard.iter().all(|heard| heard.node != **node)
        };
        let count = hearers.0.iter().filter(fits).count() as u64;
        let nth = usize::try_from(draw.checked_rem(count)?).ok()?;
        let mut fitting = hearers.0.iter().filter(fits);
        fitting.nth(nth).map(|(node, _)| node.clone())
    }
}

const TURN: Duration = Duration::from_secs(300);
const OVERLAP: Duration = Duration::from_secs(2);
const SAMPLE_EVERY: Duration = Duration::from_secs(60);
const SAMPLE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Instant};

    use proptest::{collection::vec, prelude::*};

    use super::{Hearers, Hears, OVERLAP, Rota, SAMPLE, Step, TURN};

    fn hearers(nodes: &[(&str, &[&str])]) -> Hearers {
        let nodes = nodes
            .iter()
            .map(|(node, names)| ((*node).to_owned(), Hears::of(names.iter().copied())));
        Hearers(nodes.collect())
    }

    const STREAMER: &[&str] = &["user.forceLogout"];
    const MONOLITH: &[&str] = &["accounts.login"];

    fn hear(node: &str) -> Step {
        Step::Hear(node.to_owned())
    }

    fn leave(node: &str) -> Step {
        Step::Leave(node.to_owned())
    }

    #[test]
    fn one_after_the_other_with_some_overlap() {
        let start = Instant::now();
        let mut rota = Rota::new(start);
        let both = hearers(&[("a", STREAMER), ("b", STREAMER)]);
        assert_eq!(rota.poll(&both, 0, start), [hear("a")]);
        assert_eq!(rota.poll(&both, 0, start + TURN / 2), []);
        let turn = start + TURN;
        assert_eq!(rota.poll(&both, 0, turn), [hear("b")]);
        assert_eq!(rota.next_timeout(), turn + OVERLAP);
        assert_eq!(rota.poll(&both, 0, turn + OVERLAP), [leave("a")]);
        // It goes before its turn is over.
        let one = hearers(&[("a", STREAMER)]);
        assert_eq!(rota.poll(&one, 0, turn + OVERLAP), [leave("b"), hear("a")]);
        // Nobody else is there: it is heard on.
        assert_eq!(rota.poll(&one, 0, turn + TURN * 3), []);
    }

    #[test]
    fn samples_are_short() {
        let start = Instant::now();
        let mut rota = Rota::new(start);
        let both = hearers(&[("a", STREAMER), ("m", MONOLITH)]);
        assert_eq!(rota.poll(&both, 0, start), [hear("a"), hear("m")]);
        assert_eq!(rota.poll(&both, 0, start + SAMPLE), [leave("m")]);
        assert_eq!(rota.poll(&both, 0, start + SAMPLE * 2), []);
        // The first that comes later is heard soon, and is not waited for in a hurry.
        let mut rota = Rota::new(start);
        let one = hearers(&[("a", STREAMER)]);
        assert_eq!(rota.poll(&one, 0, start), [hear("a")]);
        assert_eq!(rota.next_timeout(), start + SAMPLE);
        assert_eq!(rota.poll(&both, 0, start + SAMPLE / 2), []);
        assert_eq!(rota.poll(&both, 0, start + SAMPLE), [hear("m")]);
        assert_eq!(rota.next_timeout(), start + SAMPLE * 2);
    }

    proptest! {
        /// One is heard whenever there is one, at most three are, and every step makes sense.
        #[test]
        fn whoever_comes_and_goes(steps in vec((0u8..64, any::<u64>(), 0u64..200), 0..60)) {
            let (mut now, mut open) = (Instant::now(), BTreeSet::new());
            let mut rota = Rota::new(now);
            for (there, draw, pause) in steps {
                now += std::time::Duration::from_secs(pause);
                let names = ["a", "b", "c", "m", "n", "o"];
                let present = (0..6).filter(|n| there & 1 << n != 0).map(|n| {
                    (names[n], if n < 3 { STREAMER } else { MONOLITH })
                });
                let present = hearers(&present.collect::<Vec<_>>());
                for step in rota.poll(&present, draw, now) {
                    match step {
                        Step::Hear(node) => prop_assert!(open.insert(node)),
                        Step::Leave(node) => prop_assert!(open.remove(&node)),
                    }
                }
                let lookout = open.iter().any(|node| present.0[node] == Hears::of(STREAMER.iter().copied()));
                prop_assert_eq!(lookout, there & 7 != 0);
                prop_assert!(open.len() <= 3, "{:?}", open);
                prop_assert!(rota.next_timeout() > now);
            }
        }
    }
}
