//! Who was logged out by force a moment ago.
//!
//! A streamer cuts the sockets of a user that was deactivated, or logged out of a device, without a
//! word, as it does with all sockets when it dies. Told in advance by the message bus, the gateway
//! ends such a client at once and as what it is, rather than at a random moment and with the promise
//! that all will be well; it neither keeps the session for a return nor holds the cut against the
//! streamer.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use foldhash::quality::RandomState;

use super::Session;
use crate::base::id::SessionId;

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
    /// Names that sessions had on second legs which were cut a moment ago, and whose they were.
    cut: VecDeque<(Instant, u64, SessionId)>,
}

/// Whose logout it is.
#[derive(Clone, Copy, Debug, Hash)]
enum Whose<'a> {
    User(&'a str),
    Session(&'a str),
    /// A session of which a name was known.
    Known(SessionId),
}

/// All that a session may be meant by.
#[derive(Clone, Debug)]
pub struct Names<'a> {
    pub id: SessionId,
    pub user: Option<Cow<'a, str>>,
    /// What the client calls it, the streamer in charge, and the one that it comes from or moves to,
    /// where these differ.
    pub sessions: [Option<Cow<'a, str>>; 3],
}

impl Names<'_> {
    fn whose(&self) -> impl Iterator<Item = Whose<'_>> {
        let sessions = self.sessions.iter().flatten();
        let user = self.user.iter().map(|user| Whose::User(user));
        let sessions = sessions.map(|session| Whose::Session(session));
        sessions.chain(user).chain([Whose::Known(self.id)])
    }
}

impl Session {
    /// What a forced logout may mean the session by, which the gateway knows as `id`.
    pub fn names(&self, id: SessionId) -> Option<Names<'_>> {
        let journal = self.journal()?;
        Some(Names {
            id,
            user: journal.user(),
            sessions: [
                journal.session(),
                journal.upstream(),
                self.other_name().map(Cow::Borrowed),
            ],
        })
    }
}

impl ForcedLogouts {
    /// A user is logged out everywhere, or in one session only. Returns the session here that was
    /// meant, if it had this name on a leg that was cut a moment ago, and that alone told of it.
    pub fn add(&self, user: &str, session: Option<&str>, now: Instant) -> Option<SessionId> {
        let whose = session.map_or(Whose::User(user), Whose::Session);
        let key = self.hasher.hash_one(whose);
        let mut table = self.lock(now);
        table.add(key, now);
        let cut = table.cut.iter().find(|(_, name, _)| *name == key);
        let meant = cut.map(|(_, _, meant)| *meant);
        if let Some(meant) = meant {
            table.add(self.hasher.hash_one(Whose::Known(meant)), now);
        }
        meant
    }

    /// The streamer that was to have a session next has cut its leg: the news that the session was
    /// logged out by the name that it had there may be on its way.
    pub fn leg_cut(&self, session: SessionId, name: &str, now: Instant) {
        if self.expected.load(Ordering::Relaxed) {
            let key = self.hasher.hash_one(Whose::Session(name));
            let mut table = self.lock(now);
            if table.cut.len() >= MOST_CUT {
                table.cut.pop_front();
            }
            table.cut.push_back((now, key, session));
        }
    }

    /// Whether it is over for a session that began at `opened`: one that began after the logout has
    /// nothing to do with it.
    pub fn covers(&self, names: &Names<'_>, opened: Instant, now: Instant) -> bool {
        let table = self.lock(now);
        if table.order.is_empty() {
            return false;
        }
        names.whose().any(|whose| {
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
        while let Some((when, ..)) = table.cut.front()
            && now.saturating_duration_since(*when) >= CUT_KEPT
        {
            table.cut.pop_front();
        }
        table
    }
}

impl Table {
    fn add(&mut self, key: u64, now: Instant) {
        if self.order.len() >= MOST {
            self.forget_first();
        }
        self.when.insert(key, now);
        self.order.push_back((now, key));
    }

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
/// As long as the news may be late in any case.
const CUT_KEPT: Duration = Duration::from_secs(1);
/// Of sessions that are moving.
const MOST_CUT: usize = 1_000;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{CUT_KEPT, ForcedLogouts, KEPT, MOST, MOST_CUT, Names};
    use crate::base::id::SessionId;

    const LATER: Duration = Duration::from_millis(1);

    const ID: SessionId = SessionId(7);

    fn of<'a>(user: &'a str, sessions: [&'a str; 3]) -> Names<'a> {
        Names {
            id: ID,
            user: Some(user.into()),
            sessions: sessions.map(|name| Some(name.into())),
        }
    }

    #[test]
    fn a_user_or_a_session_by_any_of_its_names() {
        let start = Instant::now();
        let now = start + LATER;
        let names = of("u1", ["s1", "s2", "s3"]);
        let covered = |user: &str, name: Option<&str>| {
            let logouts = ForcedLogouts::default();
            assert_eq!(logouts.add(user, name, now), None);
            logouts.covers(&names, start, now)
        };
        assert!(covered("u1", None));
        for name in ["s1", "s2", "s3"] {
            assert!(covered("u1", Some(name)), "{name}");
        }
        assert!(!covered("u2", None) && !covered("u1", Some("s4")));
        // A user may not be taken for a session.
        assert!(!covered("s1", None) && !covered("x", Some("u1")));
    }

    /// The streamer that a session moves to cuts its leg, and then the news comes that named it: by
    /// that time nothing but this table knows the name.
    #[test]
    fn news_of_a_leg_that_was_cut_a_moment_ago_finds_its_session() {
        let start = Instant::now();
        let names = of("u1", ["s1", "s2", "s2"]);
        let logouts = ForcedLogouts::default();
        logouts.expect(true);
        logouts.leg_cut(ID, "up-3", start);
        logouts.leg_cut(SessionId(8), "up-4", start);
        assert_eq!(logouts.add("u1", Some("up-5"), start), None);
        assert!(!logouts.covers(&names, start, start));
        assert_eq!(logouts.add("u1", Some("up-3"), start), Some(ID));
        assert!(logouts.covers(&names, start, start));
        let late = start + CUT_KEPT;
        assert_eq!(logouts.add("u1", Some("up-4"), late), None);
        for number in 0..=MOST_CUT {
            logouts.leg_cut(ID, &number.to_string(), late);
        }
        assert_eq!(logouts.lock(late).cut.len(), MOST_CUT);
        // Where nobody listens, nothing is kept.
        let deaf = ForcedLogouts::default();
        deaf.leg_cut(ID, "up-3", start);
        assert_eq!(deaf.add("u1", Some("up-3"), start), None);
    }

    #[test]
    fn only_those_from_before_and_only_for_a_while() {
        let start = Instant::now();
        let session = of("u1", ["s1", "s1", "s1"]);
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
        assert!(logouts.covers(&of("u1", ["s"; 3]), now, now));
        assert_eq!(logouts.lock(now).when.len(), 1);
        assert_eq!(logouts.lock(now + KEPT).order.len(), 0);
    }
}
