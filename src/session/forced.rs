//! Who was logged out by force a moment ago.
//!
//! A streamer cuts the sockets of a user that was deactivated, or logged out of a device, without a
//! word, as it does with all sockets when it dies. Told in advance by the message bus, the gateway
//! ends such a client at once and as what it is, rather than at a random moment and with the promise
//! that all will be well; it neither keeps the session for a return nor holds the cut against the
//! streamer.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;

use super::Journal;

/// Forced logouts of late; one per process. Names are kept as hashes.
#[derive(Debug, Default)]
pub struct ForcedLogouts {
    hasher: RandomState,
    table: Mutex<Table>,
    /// Whether somebody listens for them.
    expected: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    /// When each was logged out last.
    when: HashMap<u64, Instant>,
    /// In the order of their coming.
    order: VecDeque<(Instant, u64)>,
}

/// Whose logout it is.
#[derive(Clone, Copy, Debug, Hash)]
enum Whose<'a> {
    User(&'a str),
    Session(&'a str),
}

impl ForcedLogouts {
    /// A user is logged out everywhere, or in one session only.
    pub fn add(&self, user: &str, session: Option<&str>, now: Instant) {
        let whose = session.map_or(Whose::User(user), Whose::Session);
        let key = self.hasher.hash_one(whose);
        let mut table = self.lock(now);
        if table.order.len() >= MOST {
            table.forget_first();
        }
        table.when.insert(key, now);
        table.order.push_back((now, key));
    }

    /// Whether it is over for a session that began at `opened`: one that began after the logout has
    /// nothing to do with it.
    pub fn covers(&self, journal: &Journal, opened: Instant, now: Instant) -> bool {
        let table = self.lock(now);
        if table.order.is_empty() {
            return false;
        }
        let (user, client, streamer) = (journal.user(), journal.session(), journal.upstream());
        let sessions = client.as_deref().into_iter().chain(streamer.as_deref());
        let user = user.as_deref().map(Whose::User);
        sessions.map(Whose::Session).chain(user).any(|whose| {
            let when = table.when.get(&self.hasher.hash_one(whose));
            when.is_some_and(|when| opened <= *when)
        })
    }

    /// Says whether forced logouts are listened for.
    pub fn expect(&self, expected: bool) {
        self.expected.store(expected, Ordering::Relaxed);
    }

    /// How long to wait before a client whose leg was cut is told anything: the news that it is
    /// logged out may be on its way.
    pub fn patience(&self) -> Duration {
        match self.expected.load(Ordering::Relaxed) {
            true => NEWS_WITHIN,
            false => Duration::ZERO,
        }
    }

    fn lock(&self, now: Instant) -> MutexGuard<'_, Table> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((when, _)) = table.order.front()
            && now.saturating_duration_since(*when) >= KEPT
        {
            table.forget_first();
        }
        table
    }
}

impl Table {
    fn forget_first(&mut self) {
        if let Some((when, key)) = self.order.pop_front()
            && self.when.get(&key) == Some(&when)
        {
            self.when.remove(&key);
        }
    }
}

/// A streamer cuts the sockets within a moment; newer ones give themselves 5 s.
const KEPT: Duration = Duration::from_secs(30);
/// Far more than are logged out by force within [`KEPT`], even when a directory removes many.
const MOST: usize = 20_000;
const NEWS_WITHIN: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{ForcedLogouts, KEPT, MOST};
    use crate::session::{Journal, journal::Bounds};

    const LATER: Duration = Duration::from_millis(1);

    fn of(user: &str, name: &str, upstream: &str) -> Journal {
        let mut journal = Journal::new(Bounds::default());
        journal.set_session(name);
        journal.set_upstream(upstream);
        journal.log_in(user, None);
        journal
    }

    #[test]
    fn a_user_or_a_session_by_either_of_its_names() {
        let start = Instant::now();
        let now = start + LATER;
        let session = of("u1", "s1", "s2");
        let covered = |user: &str, name: Option<&str>| {
            let logouts = ForcedLogouts::default();
            logouts.add(user, name, now);
            logouts.covers(&session, start, now)
        };
        assert!(covered("u1", None));
        assert!(covered("u1", Some("s1")) && covered("u1", Some("s2")));
        assert!(!covered("u2", None) && !covered("u1", Some("s3")));
        // A user may not be taken for a session.
        assert!(!covered("s1", None) && !covered("x", Some("u1")));
    }

    #[test]
    fn only_those_from_before_and_only_for_a_while() {
        let start = Instant::now();
        let session = of("u1", "s1", "s1");
        let logouts = ForcedLogouts::default();
        logouts.add("u1", None, start + LATER);
        assert!(logouts.covers(&session, start, start + LATER));
        assert!(!logouts.covers(&session, start + LATER * 2, start + LATER * 2));
        assert!(!logouts.covers(&session, start, start + LATER + KEPT));
    }

    #[test]
    fn there_are_not_too_many() {
        let now = Instant::now();
        let logouts = ForcedLogouts::default();
        for n in 0..MOST + 10 {
            logouts.add(&n.to_string(), None, now);
        }
        assert_eq!(logouts.lock(now).order.len(), MOST);
        assert_eq!(logouts.lock(now).when.len(), MOST);
        // Again and again the same one.
        for _ in 0..MOST + 10 {
            logouts.add("u1", None, now);
        }
        assert!(logouts.covers(&of("u1", "s", "s"), now, now));
        assert_eq!(logouts.lock(now).when.len(), 1);
        assert_eq!(logouts.lock(now + KEPT).order.len(), 0);
    }
}
