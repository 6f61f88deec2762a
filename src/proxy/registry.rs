//! The sessions that are open, for those who steer and those who look.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use super::{
    client::Connection,
    mailbox::{Command, Mailbox},
    shared::Shared,
};
use crate::{
    base::{
        id::{ClientAddr, PeerAddr, PoolName, SessionId, StreamerId},
        shard::Sharded,
    },
    ddp::Framing,
    net::gate::Stream,
    pool::Pool,
    session::{
        migration::{Aborted, Unmovable},
        quota::Rule,
    },
};

/// All open sessions.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: Sharded<SessionId, Arc<Entry>>,
    last: AtomicU64,
}

/// One session as others see it; the relay keeps it up to date.
#[derive(Debug)]
pub struct Entry {
    pub id: SessionId,
    pub client: ClientAddr,
    pub pool: Arc<Pool>,
    pub framing: Framing,
    pub tls: bool,
    pub opened: Instant,
    pub mailbox: Mailbox,
    pub traffic: Traffic,
    place: Mutex<Place>,
    /// What the socket came by; keeps its place among the connections.
    /// None of a session that came from another gateway without its client.
    connection: Option<Arc<Connection>>,
    /// Its place when it shares the connection with others (RFC 8441).
    _stream: Option<Stream>,
}

// With the two counts of its `Arc` it is 192 bytes, a size that the allocator has.
const _: () = assert!(size_of::<Entry>() <= 176);

/// Where a session is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub standing: Standing,
    pub streamer: Option<StreamerId>,
    pub moving: Moving,
    /// The rule by which a request of the client was refused last, and when: in seconds since the
    /// client came.
    refused_by: Option<Rule>,
    refused_at: u32,
}

/// What became of the last order to move a session to another streamer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moving {
    /// There was none, or it was carried out.
    No,
    /// It is on its way, or waits for its turn.
    UnderWay,
    /// The session stayed where it is.
    Refused(MoveRefused),
}

/// Why a session was not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveRefused {
    /// Nothing was begun.
    Unmovable(Unmovable),
    /// It was begun and given up.
    Aborted(Aborted),
}

impl MoveRefused {
    /// The word for it on pages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unmovable(reason) => reason.label(),
            Self::Aborted(reason) => reason.label(),
        }
    }

    /// Whether it is worth while to order it again a moment later.
    pub fn passes(self) -> bool {
        match self {
            Self::Unmovable(reason) => reason.passes(),
            Self::Aborted(reason) => reason.passes(),
        }
    }
}

impl From<Unmovable> for MoveRefused {
    fn from(reason: Unmovable) -> Self {
        Self::Unmovable(reason)
    }
}

impl From<Aborted> for MoveRefused {
    fn from(reason: Aborted) -> Self {
        Self::Aborted(reason)
    }
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No `connect` yet.
    Greeting,
    /// Waits for room on a streamer.
    Parked,
    Attaching,
    /// Attached and not logged in.
    Anonymous,
    /// A login waits for its turn or its answer.
    LoggingIn,
    LoggedIn,
    /// The client is lost and may come back.
    Detached,
    Closing,
}

impl Standing {
    /// The word for it on pages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Parked => "parked",
            Self::Attaching => "attaching",
            Self::Anonymous => "anonymous",
            Self::LoggingIn => "logging_in",
            Self::LoggedIn => "logged_in",
            Self::Detached => "detached",
            Self::Closing => "closing",
        }
    }
}

/// Counters that move while the session lives.
#[derive(Debug, Default)]
pub struct Traffic {
    pub messages_up: AtomicU64,
    pub messages_down: AtomicU64,
    pub bytes_up: AtomicU64,
    pub bytes_down: AtomicU64,
}

/// What a new session is registered with.
#[derive(Debug)]
pub struct Newcomer {
    pub client: ClientAddr,
    /// None for a session whose client is away.
    pub connection: Option<Arc<Connection>>,
    /// Of a socket that shares its connection with others.
    pub stream: Option<Stream>,
    pub pool: Arc<Pool>,
    pub framing: Framing,
    pub tls: bool,
}

/// A place in the registry; given back when dropped.
#[derive(Debug)]
pub struct Registration {
    entry: Arc<Entry>,
    shared: Arc<Shared>,
}

/// A session as a line of `/sessions`.
#[derive(Clone, Debug, Serialize)]
pub struct SessionRow {
    pub id: String,
    pub client: String,
    pub peer: SocketAddr,
    pub pool: String,
    pub framing: &'static str,
    pub tls: bool,
    pub phase: &'static str,
    pub streamer: Option<String>,
    pub opened_at_unix_seconds: u64,
    pub age_seconds: u64,
    pub messages_up: u64,
    pub messages_down: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// Whether it is on its way to another streamer.
    pub moving: bool,
    /// Why it stayed where it is when it was last to be moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub move_refused: Option<&'static str>,
    /// Whether a request of the client was refused within the last minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limited: Option<LimitedRow>,
}

/// The last refusal of a client's request.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LimitedRow {
    pub rule: &'static str,
    pub seconds_ago: u64,
}

impl Newcomer {
    /// One that goes on where `entry` was.
    pub(super) fn like(entry: &Entry) -> Self {
        Self {
            client: entry.client,
            connection: entry.connection.clone(),
            stream: None,
            pool: entry.pool.clone(),
            framing: entry.framing,
            tls: entry.tls,
        }
    }
}

impl Registry {
    /// Registers a session of the process whose registry this is.
    pub(super) fn register(shared: &Arc<Shared>, newcomer: Newcomer, now: Instant) -> Registration {
        let registry = &shared.registry;
        let id = SessionId(registry.last.fetch_add(1, Ordering::Relaxed) + 1);
        let Newcomer {
            client,
            connection,
            stream,
            pool,
            framing,
            tls,
        } = newcomer;
        let entry = Arc::new(Entry {
            id,
            client,
            connection,
            _stream: stream,
            pool,
            framing,
            tls,
            opened: now,
            mailbox: Mailbox::default(),
            traffic: Traffic::default(),
            place: Mutex::new(Place {
                standing: Standing::Greeting,
                streamer: None,
                moving: Moving::No,
                refused_by: None,
                refused_at: 0,
            }),
        });
        registry.sessions.insert(id, entry.clone());
        Registration {
            entry,
            shared: shared.clone(),
        }
    }

    /// The id of the session that came last, if there was one.
    pub(super) fn newest(&self) -> SessionId {
        SessionId(self.last.load(Ordering::Relaxed))
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Calls `visit` for each open session; sessions may come and go meanwhile.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<Entry>)) {
        self.sessions.for_each(|_, entry| visit(entry));
    }

    /// Logged-in sessions by pool and streamer, by counting them: a session keeps no room for that.
    pub fn logged_in(&self) -> BTreeMap<(PoolName, StreamerId), u32> {
        let mut counts = BTreeMap::new();
        self.for_each(|entry| {
            let place = entry.place();
            if let (Standing::LoggedIn, Some(streamer)) = (place.standing, place.streamer) {
                *counts
                    .entry((entry.pool.name().clone(), streamer))
                    .or_default() += 1;
            }
        });
        counts
    }

    /// Leaves an order for one session; false when it is not (any more) open.
    pub fn send(&self, id: SessionId, command: Command) -> bool {
        self.sessions
            .with(&id, |entry| entry.mailbox.send(command))
            .is_some()
    }

    pub fn find(&self, id: SessionId) -> Option<Arc<Entry>> {
        self.sessions.with(&id, |entry| entry.clone())
    }

    /// Up to `limit` sessions with ids above `after`, by id.
    pub fn rows(&self, after: SessionId, limit: usize, now: Instant) -> Vec<SessionRow> {
        let wall = SystemTime::now();
        let mut entries = Vec::new();
        self.for_each(|entry| {
            if entry.id > after {
                entries.push(entry.clone());
            }
        });
        entries.sort_unstable_by_key(|entry| entry.id);
        entries.truncate(limit);
        entries.iter().map(|entry| entry.row(now, wall)).collect()
    }
}

impl Entry {
    pub fn peer(&self) -> PeerAddr {
        match &self.connection {
            Some(connection) => connection.peer,
            None => PeerAddr(SocketAddr::new(self.client.0, 0)),
        }
    }

    pub fn place(&self) -> Place {
        self.lock().clone()
    }

    /// The session is on this streamer, and not on its way to one.
    pub(super) fn set_streamer(&self, streamer: StreamerId) {
        let mut place = self.lock();
        place.streamer = Some(streamer);
        place.moving = Moving::No;
    }

    /// Has the session moved to another streamer; see [`Command::Move`].
    pub fn order_move(&self, optional: bool) {
        self.lock().moving = Moving::UnderWay;
        self.mailbox.send(Command::Move { optional });
    }

    /// The session was to be moved and stays.
    pub(super) fn set_move_refused(&self, reason: impl Into<MoveRefused>) {
        self.lock().moving = Moving::Refused(reason.into());
    }

    pub(super) fn set_standing(&self, standing: Standing) {
        self.lock().standing = standing;
    }

    /// A request was refused because of `rule`.
    pub(super) fn set_limited(&self, rule: Rule, now: Instant) {
        let seconds = now.duration_since(self.opened).as_secs();
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let mut place = self.lock();
        place.refused_by = Some(rule);
        place.refused_at = seconds;
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn row(&self, now: Instant, wall: SystemTime) -> SessionRow {
        let age = now.duration_since(self.opened);
        let place = self.place();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SessionRow {
            id: self.id.to_string(),
            client: self.client.to_string(),
            peer: self.peer().0,
            pool: self.pool.name().to_string(),
            framing: framing_label(self.framing),
            tls: self.tls,
            phase: place.standing.label(),
            streamer: place.streamer.as_ref().map(ToString::to_string),
            opened_at_unix_seconds: wall
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.saturating_sub(age).as_secs()),
            age_seconds: age.as_secs(),
            messages_up: read(&self.traffic.messages_up),
            messages_down: read(&self.traffic.messages_down),
            bytes_up: read(&self.traffic.bytes_up),
            bytes_down: read(&self.traffic.bytes_down),
            moving: place.moving == Moving::UnderWay,
            move_refused: match place.moving {
                Moving::Refused(reason) => Some(reason.label()),
                Moving::No | Moving::UnderWay => None,
            },
            limited: limited(&place, age),
        }
    }
}

impl Registration {
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn age(&self, now: Instant) -> Duration {
        now.duration_since(self.entry.opened)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.registry.sessions.remove(&self.entry.id);
    }
}

/// The last refusal, while it is worth showing, of a session of this age.
fn limited(place: &Place, age: Duration) -> Option<LimitedRow> {
    let rule = place.refused_by?;
    let seconds_ago = age.as_secs().saturating_sub(u64::from(place.refused_at));
    (seconds_ago < LIMITED_SHOWN).then(|| LimitedRow {
        rule: rule.label(),
        seconds_ago,
    })
}

/// Seconds for which a refusal is shown.
const LIMITED_SHOWN: u64 = 60;

pub(super) fn framing_label(framing: Framing) -> &'static str {
    match framing {
        Framing::Raw => "raw",
        Framing::SockJs => "sockjs",
    }
}
