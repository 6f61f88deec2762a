//! Sessions by the names that clients know them by, and clients that want one back.
//!
//! One per process. A client that comes back with the id of a session asks the relay that has it, be
//! it that the client's loss was noticed or not: it leaves its claim here and gives the relay a call.
//! The relay compares the token and hands over what it has, or says no.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use foldhash::fast::RandomState;
use tokio::sync::oneshot;

use super::{
    handover::NameHash,
    registry::{Entry, Registry, Standing},
    relay::Kept,
    shared::Shared,
};
use crate::{
    base::{id::SessionId, secret::Secret},
    ddp::Connect,
};

/// Where sessions are found again.
#[derive(Debug, Default)]
pub(super) struct Detached {
    names: Names,
    claims: Mutex<HashMap<SessionId, Claim, RandomState>>,
    /// A client has said how many messages it has: such clients exist here, so copies of what is
    /// sent are worth their memory.
    counting: AtomicBool,
}

/// Sessions by a hash of their name, in tables of which each is made when those before it have no
/// room for a name: a few sessions take little memory, and nobody waits for a lock. A name that finds
/// its bucket full in all of them takes the place of another, whose client is then a newcomer like
/// any other when it comes back. The relay that is found compares the name itself.
///
/// The hash is the one that other gateways ask by.
#[derive(Debug, Default)]
struct Names {
    /// Buckets of [`BUCKET`]: 32 bits of the hash and 32 bits of the session's number; 0 is empty.
    tables: [OnceLock<Box<[AtomicU64]>>; TABLES.len()],
}

/// A session that a client wants back.
pub(super) struct Wanted {
    pub(super) name: String,
    /// Messages that the client says it has.
    pub(super) received: Option<u64>,
    pub(super) holder: Holder,
}

/// Who has a session.
pub(super) enum Holder {
    Here(Arc<Entry>),
    /// Another gateway may.
    Elsewhere,
}

impl Holder {
    /// The session's number, if it is one of this gateway.
    pub(super) fn id(&self) -> Option<SessionId> {
        match self {
            Self::Here(entry) => Some(entry.id),
            Self::Elsewhere => None,
        }
    }
}

/// What the client shows to the session's holder.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) name: String,
    /// `None`: the gateway itself wants the session of a client that is away.
    pub(super) token: Option<Secret<String>>,
    /// It is to go on at another gateway.
    pub(super) leaves: bool,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// All that there is of the session, or `None`: it is not given.
pub(super) type Answer = Option<Box<Kept>>;

/// A name that a session has for a while besides its own; given back when dropped.
pub(super) struct Alias {
    shared: Arc<Shared>,
    name: NameHash,
    holder: SessionId,
}

impl Alias {
    /// The streamer that `holder` moves to knows the session by this name.
    pub(super) fn new(shared: &Arc<Shared>, name: &str, holder: SessionId) -> Self {
        let name = NameHash::of(name);
        shared.detached.names.insert(name, holder);
        Self {
            shared: shared.clone(),
            name,
            holder,
        }
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        self.shared.detached.names.remove(self.name, self.holder);
    }
}

impl Detached {
    /// The client of `holder` knows its session as `name`.
    pub(super) fn name(&self, name: &str, holder: SessionId) {
        self.names.insert(NameHash::of(name), holder);
    }

    /// The session of `holder` is over.
    pub(super) fn forget(&self, name: &str, holder: SessionId) {
        self.names.remove(NameHash::of(name), holder);
    }

    /// Who has the session of this name, or another one with the same hash. `newest` is the session
    /// that came last.
    pub(super) fn holder(&self, name: &str, newest: SessionId) -> Option<SessionId> {
        self.names.find(NameHash::of(name), newest)
    }

    /// What `connect` asks for, if there is such a session and `newcomer` may be its client.
    /// `asks`: other gateways can be asked for it.
    pub(super) fn find(
        &self,
        connect: &Connect,
        newcomer: &Entry,
        registry: &Registry,
        asks: bool,
    ) -> Option<Wanted> {
        if connect.received_count.is_some() && !self.is_counting() {
            self.counting.store(true, Ordering::Relaxed);
        }
        let name = connect.session.as_ref()?;
        let here = self.names.find(NameHash::of(name), newcomer.id);
        let here = here.and_then(|holder| registry.find(holder));
        let holder = match here {
            Some(holder) => {
                let fits = holder.id != newcomer.id
                    && holder.framing == newcomer.framing
                    && holder.pool.name() == newcomer.pool.name()
                    && matches!(
                        holder.place().standing,
                        Standing::LoggedIn | Standing::Detached
                    );
                fits.then_some(Holder::Here(holder))?
            }
            None if asks => Holder::Elsewhere,
            None => return None,
        };
        Some(Wanted {
            name: name.clone(),
            received: connect.received_count,
            holder,
        })
    }

    /// The session that another gateway asks for.
    pub(super) fn find_hashed(&self, name: NameHash, registry: &Registry) -> Option<Arc<Entry>> {
        registry.find(self.names.find(name, registry.newest())?)
    }

    /// Whether clients here count their messages.
    pub(super) fn is_counting(&self) -> bool {
        self.counting.load(Ordering::Relaxed)
    }

    /// Leaves a claim and calls the holder; the answer comes through the receiver. The first of two
    /// claims for one session counts, the second one's receiver is closed.
    pub(super) fn claim(
        &self,
        name: &str,
        holder: &Entry,
        token: Secret<String>,
    ) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let claim = Claim {
            name: name.to_owned(),
            token: Some(token),
            leaves: false,
            answer,
        };
        self.leave(holder, claim);
        receiver
    }

    /// The same for another gateway; without a token for one that drains, whatever the name.
    pub(super) fn claim_away(
        &self,
        name: &str,
        holder: &Entry,
        token: Option<Secret<String>>,
    ) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let claim = Claim {
            name: name.to_owned(),
            token,
            leaves: true,
            answer,
        };
        self.leave(holder, claim);
        receiver
    }

    fn leave(&self, holder: &Entry, claim: Claim) {
        let mut claims = self.lock();
        let earlier = claims.get(&holder.id);
        if earlier.is_none_or(|earlier| earlier.answer.is_closed()) {
            claims.insert(holder.id, claim);
            drop(claims);
            holder.mailbox.call();
        }
    }

    /// The claim for a session, for its holder.
    pub(super) fn take_claim(&self, holder: SessionId) -> Option<Claim> {
        self.lock().remove(&holder)
    }

    /// The holder could not answer yet.
    pub(super) fn put_back(&self, holder: SessionId, claim: Claim) {
        self.lock().entry(holder).or_insert(claim);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Claim, RandomState>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    fn insert(&self, name: NameHash, holder: SessionId) {
        let value = value(name, holder);
        let is_free = |slot: &&AtomicU64| {
            let held = slot.load(Ordering::Relaxed);
            held == 0 || held >> 32 == value >> 32
        };
        let mut last: &[AtomicU64] = &[];
        for (level, (table, slots)) in self.tables.iter().zip(TABLES).enumerate() {
            let table = table.get_or_init(|| (0..slots).map(|_| AtomicU64::new(0)).collect());
            last = bucket(table, level, name);
            if let Some(slot) = last.iter().find(is_free) {
                slot.store(value, Ordering::Relaxed);
                return;
            }
        }
        let any = usize::from(value.to_le_bytes()[0]) % BUCKET;
        last[any].store(value, Ordering::Relaxed);
    }

    fn remove(&self, name: NameHash, holder: SessionId) {
        let value = value(name, holder);
        for slot in self.slots(name) {
            let _ = slot.compare_exchange(value, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// The number of the session; `later` is one that was opened after it.
    fn find(&self, name: NameHash, later: SessionId) -> Option<SessionId> {
        let value = value(name, later);
        let held = self
            .slots(name)
            .map(|slot| slot.load(Ordering::Relaxed))
            .find(|held| held >> 32 == value >> 32)?;
        let number = later.0 & !LOW | held & LOW;
        Some(SessionId(number))
    }

    /// Where a name may be.
    fn slots(&self, name: NameHash) -> impl Iterator<Item = &AtomicU64> {
        let made = self.tables.iter().map_while(OnceLock::get).enumerate();
        made.flat_map(move |(level, table)| bucket(table, level, name))
    }
}

fn bucket(table: &[AtomicU64], level: usize, name: NameHash) -> &[AtomicU64] {
    // Names that share a bucket in one table do not in the next.
    let low = (name.number() & LOW) as usize;
    let first = (low >> (3 * level)) % (table.len() / BUCKET) * BUCKET;
    &table[first..first + BUCKET]
}

fn value(name: NameHash, holder: SessionId) -> u64 {
    // Never 0, which is empty.
    (name.number() | 1 << 32) & !LOW | holder.0 & LOW
}

const LOW: u64 = 0xffff_ffff;
const BUCKET: usize = 4;
/// Slots of each table. All together take a megabyte, and have room for a hundred thousand sessions.
const TABLES: [usize; 6] = [4 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];

#[cfg(test)]
mod tests {
    use super::{NameHash, Names, TABLES};
    use crate::base::id::SessionId;

    fn named(number: u64) -> NameHash {
        NameHash::of(&format!("n{number}"))
    }

    #[test]
    fn names_are_found_until_they_are_forgotten() {
        let names = Names::default();
        let late = SessionId(1 << 33 | 7);
        for number in 0..20_000 {
            names.insert(named(number), SessionId(1 << 33 | number));
        }
        let found = |number: u64| names.find(named(number), late);
        let right =
            (0..20_000).filter(|&number| found(number) == Some(SessionId(1 << 33 | number)));
        assert!(right.count() > 19_900, "buckets are seldom full");
        for number in 0..20_000 {
            // Another session's name stays.
            names.remove(named(number), SessionId(number + 1));
        }
        assert!(found(19_999).is_some());
        for number in 0..20_000 {
            names.remove(named(number), SessionId(1 << 33 | number));
        }
        assert_eq!(found(19_999), None);
        // What was pushed out is gone already; nothing else is left.
        let tables = names.tables.iter().filter_map(|table| table.get());
        let left = tables
            .flatten()
            .filter(|slot| slot.load(std::sync::atomic::Ordering::Relaxed) != 0);
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn a_few_thousand_take_little_memory() {
        let names = Names::default();
        for number in 0..4_000 {
            names.insert(named(number), SessionId(number));
        }
        let made = names.tables.iter().filter_map(|table| table.get());
        assert!(made.map(|table| table.len()).sum::<usize>() <= 16 << 10);
        let found = |number: &u64| names.find(named(*number), SessionId(*number)).is_some();
        assert_eq!((0..4_000).filter(found).count(), 4_000);
    }

    #[test]
    fn more_names_than_places_are_no_trouble() {
        let names = Names::default();
        let many = 3 * TABLES.iter().sum::<usize>() as u64;
        for number in 0..many {
            names.insert(named(number), SessionId(number));
        }
        let last = many - 1;
        assert_eq!(
            names.find(named(last), SessionId(last)),
            Some(SessionId(last))
        );
    }
}
