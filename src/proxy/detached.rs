//! Sessions by the names that clients know them by, and clients that want one back.
//!
//! One per process. A client that comes back with the id of a session asks the relay that has it, be
//! it that the client's loss was noticed or not: it leaves its claim here and gives the relay a call.
//! The relay compares the token and hands over what it has, or says no.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use foldhash::fast::RandomState;
use tokio::sync::oneshot;

use super::{
    registry::{Entry, Registry, Standing},
    relay::Kept,
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

/// Sessions by a hash of their name, in a table that is as large as it will ever be: a session
/// keeps no memory for it, and nobody waits for a lock. A name that finds its bucket full takes the
/// place of another, whose client is then a newcomer like any other when it comes back. The relay
/// that is found compares the name itself.
#[derive(Debug)]
struct Names {
    hasher: RandomState,
    /// Buckets of [`BUCKET`]: 32 bits of the hash and 32 bits of the session's number; 0 is empty.
    slots: Box<[AtomicU64]>,
}

/// A session that a client wants back.
pub(super) struct Wanted {
    pub(super) name: String,
    /// Messages that the client says it has.
    pub(super) received: Option<u64>,
    pub(super) holder: Arc<Entry>,
}

/// What the client shows to the session's holder.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) name: String,
    pub(super) token: Secret<String>,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// All that there is of the session, or `None`: it is not given.
pub(super) type Answer = Option<Box<Kept>>;

impl Detached {
    /// The client of `holder` knows its session as `name`.
    pub(super) fn name(&self, name: &str, holder: SessionId) {
        self.names.insert(name, holder);
    }

    /// The session of `holder` is over.
    pub(super) fn forget(&self, name: &str, holder: SessionId) {
        self.names.remove(name, holder);
    }

    /// Who has the session of this name, or another one with the same hash. `newest` is the session
    /// that came last.
    pub(super) fn holder(&self, name: &str, newest: SessionId) -> Option<SessionId> {
        self.names.find(name, newest)
    }

    /// What `connect` asks for, if there is such a session and `newcomer` may be its client.
    pub(super) fn find(
        &self,
        connect: &Connect,
        newcomer: &Entry,
        registry: &Registry,
    ) -> Option<Wanted> {
        if connect.received_count.is_some() && !self.is_counting() {
            self.counting.store(true, Ordering::Relaxed);
        }
        let name = connect.session.as_ref()?;
        let holder = registry.find(self.names.find(name, newcomer.id)?)?;
        let fits = holder.id != newcomer.id
            && holder.framing == newcomer.framing
            && holder.pool.name() == newcomer.pool.name()
            && matches!(
                holder.place().standing,
                Standing::LoggedIn | Standing::Detached
            );
        fits.then(|| Wanted {
            name: name.clone(),
            received: connect.received_count,
            holder,
        })
    }

    /// Whether clients here count their messages.
    pub(super) fn is_counting(&self) -> bool {
        self.counting.load(Ordering::Relaxed)
    }

    /// Leaves a claim and calls the holder; the answer comes through the receiver. The first of two
    /// claims for one session counts, the second one's receiver is closed.
    pub(super) fn claim(
        &self,
        wanted: &Wanted,
        token: Secret<String>,
    ) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let mut claims = self.lock();
        let claim = claims.get(&wanted.holder.id);
        if claim.is_none_or(|earlier| earlier.answer.is_closed()) {
            let claim = Claim {
                name: wanted.name.clone(),
                token,
                answer,
            };
            claims.insert(wanted.holder.id, claim);
            drop(claims);
            wanted.holder.mailbox.call();
        }
        receiver
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
    fn insert(&self, name: &str, holder: SessionId) {
        let (bucket, value) = self.place(name, holder);
        let is_free = |slot: &&AtomicU64| {
            let held = slot.load(Ordering::Relaxed);
            held == 0 || held >> 32 == value >> 32
        };
        let slot = bucket.iter().find(is_free);
        let any = usize::from(value.to_le_bytes()[0]) % BUCKET;
        let slot = slot.unwrap_or_else(|| &bucket[any]);
        slot.store(value, Ordering::Relaxed);
    }

    fn remove(&self, name: &str, holder: SessionId) {
        let (bucket, value) = self.place(name, holder);
        for slot in bucket {
            let _ = slot.compare_exchange(value, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// The number of the session; `later` is one that was opened after it.
    fn find(&self, name: &str, later: SessionId) -> Option<SessionId> {
        let (bucket, value) = self.place(name, later);
        let held = bucket
            .iter()
            .map(|slot| slot.load(Ordering::Relaxed))
            .find(|held| held >> 32 == value >> 32)?;
        let number = later.0 & !LOW | held & LOW;
        Some(SessionId(number))
    }

    fn place(&self, name: &str, holder: SessionId) -> (&[AtomicU64], u64) {
        let hash = self.hasher.hash_one(name);
        let first = (hash & LOW) as usize % (SLOTS / BUCKET) * BUCKET;
        // Never 0, which is empty.
        let value = (hash | 1 << 32) & !LOW | holder.0 & LOW;
        (&self.slots[first..first + BUCKET], value)
    }
}

impl Default for Names {
    fn default() -> Self {
        Self {
            hasher: RandomState::default(),
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

const LOW: u64 = 0xffff_ffff;
const BUCKET: usize = 4;
/// A megabyte, and room for a hundred thousand sessions.
const SLOTS: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::{Names, SLOTS};
    use crate::base::id::SessionId;

    #[test]
    fn names_are_found_until_they_are_forgotten() {
        let names = Names::default();
        let late = SessionId(1 << 33 | 7);
        for number in 0..20_000 {
            names.insert(&format!("n{number}"), SessionId(1 << 33 | number));
        }
        let found = |number: u64| names.find(&format!("n{number}"), late);
        let right =
            (0..20_000).filter(|&number| found(number) == Some(SessionId(1 << 33 | number)));
        assert!(right.count() > 19_900, "buckets are seldom full");
        for number in 0..20_000 {
            // Another session's name stays.
            names.remove(&format!("n{number}"), SessionId(number + 1));
        }
        assert!(found(19_999).is_some());
        for number in 0..20_000 {
            names.remove(&format!("n{number}"), SessionId(1 << 33 | number));
        }
        assert_eq!(found(19_999), None);
        // What was pushed out is gone already; nothing else is left.
        let left = names
            .slots
            .iter()
            .filter(|slot| slot.load(std::sync::atomic::Ordering::Relaxed) != 0);
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn more_names_than_places_are_no_trouble() {
        let names = Names::default();
        for number in 0..3 * SLOTS as u64 {
            names.insert(&number.to_string(), SessionId(number));
        }
        let last = 3 * SLOTS as u64 - 1;
        assert_eq!(
            names.find(&last.to_string(), SessionId(last)),
            Some(SessionId(last))
        );
    }
}
