//! How many streamers the clients of now ask for, whatever there are.

use super::Pool;

impl Pool {
    /// Streamers that suffice for the sessions and the waiting clients of all gateways that are
    /// known, each of them filled to its limit. At least one: the next client must find somebody.
    pub fn wanted(&self) -> usize {
        let (own, elsewhere) = self.clients();
        let each = u64::from(self.lock().settings.sessions_per_streamer.max(1));
        let clients = own.saturating_add(elsewhere.clients());
        usize::try_from(clients.div_ceil(each).max(1)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use super::Pool;
    use crate::pool::{AdminState, Settings, Wish};

    #[test]
    fn as_many_streamers_are_wanted_as_the_clients_fill() {
        let now = Instant::now();
        let mut settings = Settings::named("default");
        settings.sessions_per_streamer = 3;
        let pool = Pool::new(settings.clone(), now);
        assert_eq!(pool.wanted(), 1, "the next client must find somebody");

        let endpoints = ["a", "b"].map(|name| {
            let address = ([127, 0, 0, 1], 4000 + u16::from(name.as_bytes()[0])).into();
            (name.into(), crate::base::id::StreamerAddr(address))
        });
        pool.apply(&endpoints.into_iter().collect(), now);
        for _ in ["health", "ddp"] {
            for probe in pool.due(100, now) {
                pool.probed(&probe, Ok(()), now);
            }
        }
        let pick = || pool.pick(&Wish::default(), &[], now).unwrap();
        let wait = |pool: &Arc<Pool>| pool.wait(Wish::default(), now).unwrap();
        let mut permits = vec![pick(), pick(), pick()];
        assert_eq!(pool.wanted(), 1);
        permits.push(pick());
        assert_eq!(pool.wanted(), 2);
        permits.extend([pick(), pick()]);
        assert_eq!(pool.wanted(), 2);
        // All are full: those who wait want one more.
        let queue: Vec<_> = (0..4).map(|_| wait(&pool)).collect();
        assert_eq!((pool.waiting(), pool.wanted()), (4, 4));
        // Whoever is on a streamer that goes away will need another place.
        pool.set_admin(
            &"a".into(),
            AdminState::Drain {
                since: now,
                rate: None,
            },
            now,
        );
        pool.apply(&Default::default(), now);
        assert_eq!(pool.wanted(), 4);
        pool.reconfigure(Settings {
            sessions_per_streamer: 10,
            ..settings
        });
        assert_eq!(pool.wanted(), 1);
        assert_eq!(pool.report(now).wanted, 1);
        drop((queue, permits));
        assert_eq!(pool.wanted(), 1);
    }
}
