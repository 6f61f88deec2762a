//! A pool whose streamers serve the clients of other gateways too.

use std::{task::Waker, time::Instant};

use crate::base::id::StreamerId;

use super::{Pool, as_gauge};

/// What this gateway has of a streamer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharing {
    pub streamer: StreamerId,
    pub held: u32,
    /// Sessions that it may have, of all gateways together.
    pub limit: u32,
}

/// What it may have, and what the others have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// `None`: there is no other gateway to leave anything to.
    pub claim: Option<u32>,
    pub elsewhere: u32,
}

/// What the other gateways say of the whole pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Elsewhere {
    gateways: u32,
    clients: u64,
}

impl Pool {
    /// Settles with the other gateways who may have how many sessions where. `agree` gets all
    /// sessions, the clients that wait and the streamers, and answers for each streamer in the same
    /// order; no session begins meanwhile. Who waits gets what room there is by it.
    pub fn share(&self, now: Instant, agree: impl FnOnce(u32, u32, &[Sharing]) -> Vec<Shared>) {
        let mut state = self.lock_at(now);
        let view = self.view.load();
        let sharing = |entry: &super::Entry| Sharing {
            streamer: entry.streamer.id.clone(),
            held: entry.streamer.sessions(),
            limit: entry.limit,
        };
        let all: Vec<Sharing> = view.entries.iter().map(sharing).collect();
        let leaving = view.leaving.iter().map(|entry| entry.streamer.sessions());
        let sessions = all.iter().map(|one| one.held).chain(leaving);
        let sessions = sessions.fold(0, u32::saturating_add);
        let waiting = u32::try_from(state.queue.len()).unwrap_or(u32::MAX);
        let mut more = false;
        for (entry, shared) in view.entries.iter().zip(agree(sessions, waiting, &all)) {
            more |= entry.streamer.slots().share(shared.claim, shared.elsewhere);
        }
        let wakers = match more {
            true => self.serve(&mut state),
            false => Vec::new(),
        };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// What the other gateways have in the whole pool: their number, and their sessions and waiting
    /// clients.
    pub fn set_elsewhere(&self, gateways: u32, clients: u64) {
        self.lock().elsewhere = Elsewhere { gateways, clients };
    }

    /// Brings the gauge up to date. Sessions come and go without a word to it, so it is for whoever
    /// looks. With other gateways it is this one's part, so that the sum of all is
    /// [`Self::wanted`].
    pub fn measure_demand(&self) {
        let (own, elsewhere) = self.clients();
        let wanted = as_gauge(self.wanted());
        #[expect(clippy::cast_precision_loss, reason = "counts of clients")]
        let part = match own + elsewhere.clients {
            0 => 1.0 / (f64::from(elsewhere.gateways) + 1.0),
            all => own as f64 / all as f64,
        };
        self.meters.wanted.set(wanted * part);
    }

    /// Sessions and waiting clients of this gateway, and of the others.
    pub(super) fn clients(&self) -> (u64, Elsewhere) {
        let state = self.lock();
        let view = self.view.load();
        let entries = view.entries.iter().chain(&view.leaving);
        let sessions: u64 = entries
            .map(|entry| u64::from(entry.streamer.sessions()))
            .sum();
        (sessions + state.queue.len() as u64, state.elsewhere)
    }
}

impl Elsewhere {
    pub(super) fn clients(self) -> u64 {
        self.clients
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use super::{Pool, Shared};
    use crate::pool::{PickError, Settings, Wish};

    fn pool(now: Instant) -> Arc<Pool> {
        let mut settings = Settings::named("default");
        settings.sessions_per_streamer = 10;
        let pool = Pool::new(settings, now);
        let endpoints = [1, 2].map(|n| {
            let address = ([127, 0, 0, n], 4000).into();
            (
                format!("s{n}").as_str().into(),
                crate::base::id::StreamerAddr(address),
            )
        });
        pool.apply(&endpoints.into_iter().collect(), now);
        for _ in ["health", "ddp"] {
            for probe in pool.due(100, now) {
                pool.probed(&probe, Ok(()), now);
            }
        }
        pool
    }

    #[test]
    fn no_more_than_the_claim_and_never_above_the_limit() {
        let now = Instant::now();
        let pool = pool(now);
        let share = |claims: [Option<u32>; 2], elsewhere: [u32; 2]| {
            pool.share(now, |_, _, all| {
                let shared = |at: usize| Shared {
                    claim: claims[at],
                    elsewhere: elsewhere[at],
                };
                (0..all.len()).map(shared).collect()
            });
        };
        let pick = || pool.pick(&Wish::default(), &[], now);
        // The one with the fewest sessions of all gateways.
        share([Some(3), Some(3)], [7, 1]);
        let mut permits: Vec<_> = (0..3).map(|_| pick().unwrap()).collect();
        assert!(permits.iter().all(|one| one.streamer().id.as_str() == "s2"));
        permits.extend((0..3).map(|_| pick().unwrap()));
        assert_eq!(pick().unwrap_err(), PickError::Full);
        // Whoever waits gets what is claimed next, but not beyond what others leave.
        let waiting: Vec<_> = (0..9)
            .map(|_| pool.wait(Wish::default(), now).unwrap())
            .collect();
        share([Some(4), Some(9)], [7, 4]);
        assert_eq!(pool.waiting(), 6);
        share([None, None], [0, 0]);
        assert_eq!(pool.waiting(), 0);
        pool.set_elsewhere(1, 6);
        assert_eq!(pool.wanted(), 3);
        drop((waiting, permits));
        assert_eq!(pool.wanted(), 1);
    }
}
