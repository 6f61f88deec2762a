//! Many small accounts in a bounded table.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Nanoseconds since the table was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) u64);

impl Moment {
    pub(super) fn plus(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// The time from `earlier` to here; zero when it lies the other way.
    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// One account: a key, and the moment from which on it is as good as none.
#[derive(Clone, Copy, Debug)]
struct Cell {
    /// Never 0 in use.
    key: u64,
    until: Moment,
}

const FREE: Cell = Cell {
    key: 0,
    until: Moment(0),
};

/// The accounts of all keys, behind [`SHARDS`] locks.
#[derive(Debug)]
pub(super) struct Cells {
    shards: [Mutex<Shard>; SHARDS],
    started: Instant,
}

impl Cells {
    /// Allocates nothing.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(Shard::default())),
            started: now,
        }
    }

    pub(super) fn moment(&self, now: Instant) -> Moment {
        let since = now.saturating_duration_since(self.started);
        Moment(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Locks the shards of these subjects.
    pub(super) fn lock<const N: usize>(&self, subjects: [Option<u64>; N]) -> Locked<'_, N> {
        let mut wanted = subjects.map(|subject| subject.map(shard_of));
        // Always in the order of the shards, so that two threads never wait for each other.
        wanted.sort_unstable();
        let mut guards = [const { None }; N];
        let mut last = None;
        for (guard, shard) in guards.iter_mut().zip(wanted) {
            if let Some(at) = shard
                && last != shard
            {
                *guard = Some((at, lock(&self.shards[at])));
                last = shard;
            }
        }
        Locked(guards)
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len).sum()
    }

    /// Bytes of the tables.
    pub(super) fn bytes(&self) -> usize {
        let slots = |shard| lock(shard).slots.len();
        self.shards.iter().map(slots).sum::<usize>() * size_of::<Cell>()
    }

    /// Each shard, one after the other.
    pub(super) fn for_each(&self, mut each: impl FnMut(&mut Shard)) {
        for shard in &self.shards {
            each(&mut lock(shard));
        }
    }

    /// Frees every account whose moment has passed, and the memory that is no longer needed.
    pub(super) fn sweep(&self, now: Moment) {
        for shard in &self.shards {
            lock(shard).sweep_all(now);
        }
    }
}

/// The shards that one decision needs.
pub(super) struct Locked<'c, const N: usize>([Option<(usize, MutexGuard<'c, Shard>)>; N]);

impl<const N: usize> Locked<'_, N> {
    /// The shard of one of the subjects that were named to [`Cells::lock`].
    pub(super) fn shard(&mut self, subject: u64) -> &mut Shard {
        let wanted = shard_of(subject);
        self.0
            .iter_mut()
            .flatten()
            .find(|(at, _)| *at == wanted)
            .map(|(_, shard)| &mut **shard)
            .expect("the shards of all subjects were locked")
    }
}

/// Open addressing with linear probing. Of the slots, at most [`MAX_CELLS`] are in use; an account whose moment has
/// passed is freed when the slot is wanted, when the cursor comes by, or by a sweep.
#[derive(Debug, Default)]
pub(super) struct Shard {
    /// A power of two, or none.
    slots: Vec<Cell>,
    len: usize,
    /// Where [`Self::sweep_some`] goes on.
    cursor: usize,
    /// What new keys share, per rule, while there is no room for them.
    pub(super) shared: [Moment; SHARED],
    /// What other gateways are to be told; `None` while there are none.
    pub(super) ledger: Option<Box<Ledger>>,
}

/// What was charged in one shard since the others were told.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By account.
    pub(super) charges: HashMap<u64, Charged>,
    /// Accounts of those who were punished, and nanoseconds.
    pub(super) penalties: Vec<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Charged {
    /// Whose shard the account is in.
    pub(super) subject: u64,
    pub(super) rule: u8,
    pub(super) nanos: u64,
}

impl Ledger {
    pub(super) fn charge(&mut self, account: u64, charged: Charged) {
        if let Some(known) = self.charges.get_mut(&account) {
            known.nanos = known.nanos.saturating_add(charged.nanos);
        } else if self.charges.len() < MOST_CHARGED {
            self.charges.insert(account, charged);
        }
    }

    pub(super) fn punish(&mut self, culprit: u64, nanos: u64) {
        if self.penalties.len() < MOST_PUNISHED {
            self.penalties.push((culprit, nanos));
        }
    }
}

/// Where the account of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It has one, until then.
    Own(Moment),
    /// It has none, and there is room for one.
    Room,
    /// There is no room.
    Full,
}

impl Shard {
    pub(super) fn find(&mut self, key: u64, now: Moment) -> Place {
        self.sweep_some(now);
        let key = key.max(1);
        let mut room = self.len < MAX_CELLS;
        for at in self.chain(key) {
            let cell = self.slots[at];
            if cell.key == key {
                return Place::Own(cell.until);
            }
            if cell.key == FREE.key {
                break;
            }
            room |= cell.until <= now;
        }
        if room { Place::Room } else { Place::Full }
    }

    /// Sets the account of `key`, if there is room for it.
    pub(super) fn set(&mut self, key: u64, until: Moment, now: Moment) {
        let key = key.max(1);
        let mut reusable = None;
        for at in self.chain(key) {
            let cell = self.slots[at];
            if cell.key == key {
                self.slots[at].until = until;
                return;
            }
            if cell.key == FREE.key {
                break;
            }
            if cell.until <= now {
                reusable.get_or_insert(at);
            }
        }
        if let Some(at) = reusable {
            self.slots[at] = Cell { key, until };
        } else if self.len < MAX_CELLS {
            if (self.len + 1) * 8 > self.slots.len() * 7 {
                self.rebuild((self.slots.len() * 2).max(MIN_SLOTS), now);
            }
            self.insert(Cell { key, until });
        }
    }

    /// Forgets the account of `key`.
    pub(super) fn remove(&mut self, key: u64) {
        let key = key.max(1);
        let found = self
            .chain(key)
            .take_while(|at| self.slots[*at].key != FREE.key)
            .find(|at| self.slots[*at].key == key);
        if let Some(at) = found {
            self.free(at);
        }
    }

    /// Looks at a few slots and frees what has become as good as none.
    fn sweep_some(&mut self, now: Moment) {
        let looks = if self.len < MAX_CELLS {
            LOOKS
        } else {
            LOOKS_WHEN_FULL
        };
        for _ in 0..looks.min(self.slots.len()) {
            let at = self.cursor & (self.slots.len() - 1);
            let cell = self.slots[at];
            if cell.key != FREE.key && cell.until <= now {
                // Another cell may have moved here: it is looked at next time.
                self.free(at);
            } else {
                self.cursor = at + 1;
            }
        }
    }

    fn sweep_all(&mut self, now: Moment) {
        let live = self.slots.iter().filter(|cell| cell.until > now).count();
        if live == 0 {
            self.slots = Vec::new();
            self.len = 0;
            return;
        }
        // With room to grow, so that the next newcomer does not rebuild it again.
        let slots = (live * 2).next_power_of_two().clamp(MIN_SLOTS, MAX_SLOTS);
        if live < self.len || slots * 2 < self.slots.len() {
            self.rebuild(slots, now);
        }
    }

    /// Moves what still matters to a table of this size.
    fn rebuild(&mut self, slots: usize, now: Moment) {
        let old = std::mem::replace(&mut self.slots, vec![FREE; slots]);
        self.len = 0;
        self.cursor = 0;
        for cell in old {
            if cell.until > now {
                self.insert(cell);
            }
        }
    }

    /// Puts a cell whose key is not there into a table with a free slot.
    fn insert(&mut self, cell: Cell) {
        let free = self
            .chain(cell.key)
            .find(|at| self.slots[*at].key == FREE.key);
        if let Some(at) = free {
            self.slots[at] = cell;
            self.len += 1;
        }
    }

    /// Frees a slot and closes the gap that it leaves in the chains across it.
    fn free(&mut self, at: usize) {
        let mask = self.slots.len() - 1;
        let mut gap = at;
        let mut next = (at + 1) & mask;
        while self.slots[next].key != FREE.key && next != at {
            let home = self.home(self.slots[next].key);
            // The cell may move back to the gap unless its chain begins behind it.
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(gap) & mask {
                self.slots[gap] = self.slots[next];
                gap = next;
            }
            next = (next + 1) & mask;
        }
        self.slots[gap] = FREE;
        self.len -= 1;
    }

    /// The slots in which a key may be, in order.
    fn chain(&self, key: u64) -> impl Iterator<Item = usize> + use<> {
        let slots = self.slots.len();
        let home = self.home(key);
        (0..slots).map(move |step| (home + step) & (slots - 1))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low bits are what is wanted"
    )]
    fn home(&self, key: u64) -> usize {
        key as usize & self.slots.len().saturating_sub(1)
    }
}

/// By high bits: the slots are chosen by the low ones.
fn shard_of(subject: u64) -> usize {
    (subject >> 60) as usize % SHARDS
}

/// A panic under the lock cannot leave a slot half written, so poisoning is passed over.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

const SHARDS: usize = 16;

/// Accounts of one shard that others can be told of at a time; 16 times as many for the process.
const MOST_CHARGED: usize = 1_024;
const MOST_PUNISHED: usize = 6;

/// Accounts that share their fate when a shard is full: one per rule.
pub(super) const SHARED: usize = 5;

const MIN_SLOTS: usize = 16;
const MAX_SLOTS: usize = 1 << 16;
const MAX_CELLS: usize = MAX_SLOTS / 8 * 7;

/// Slots looked at by each lookup, so that a table that is used cleans itself.
const LOOKS: usize = 4;
const LOOKS_WHEN_FULL: usize = 64;

/// Accounts of the whole process: 917,504. A busy client needs about 25 at a time (itself, its user, and ten names for
/// each of the two), so this is for some 36,000 clients in the middle of a reconnect.
pub(super) const CAPACITY: usize = SHARDS * MAX_CELLS;

/// What they take at most: 16 MiB.
pub(super) const CAPACITY_BYTES: usize = SHARDS * MAX_SLOTS * size_of::<Cell>();

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Instant};

    use super::{CAPACITY_BYTES, Cell, Cells, MAX_CELLS, Moment, Place, Shard};

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = super::super::mix(self.0.wrapping_add(0x9e37_79b9_7f4a_7c15));
            self.0
        }
    }

    #[test]
    fn a_cell_takes_16_bytes() {
        assert_eq!(size_of::<Cell>(), 16);
        assert_eq!(CAPACITY_BYTES, 16 << 20);
    }

    /// Against a map of the standard library: nothing that still matters is lost or changed.
    #[test]
    fn keeps_what_matters() {
        let mut random = Random(5);
        let mut shard = Shard::default();
        let mut model: HashMap<u64, Moment> = HashMap::new();
        let mut now = Moment(0);
        for step in 0..200_000 {
            // Few homes, so that chains are long and cross each other.
            let key = random.next() % 400 * 0x1000_0007 + 1;
            match random.next() % 8 {
                0 => now = now.plus(random.next() % 40),
                1 => {
                    shard.remove(key);
                    model.remove(&key);
                }
                2..5 => {
                    let until = now.plus(random.next() % 2000);
                    shard.set(key, until, now);
                    model.insert(key, until);
                }
                _ => match (shard.find(key, now), model.get(&key)) {
                    (Place::Own(until), Some(expected)) => assert_eq!(until, *expected),
                    (Place::Room, Some(expected)) => assert!(*expected <= now),
                    (Place::Room, None) => {}
                    (found, expected) => panic!("step {step}: {found:?}, not {expected:?}"),
                },
            }
            if step % 10_000 == 0 {
                shard.sweep_all(now);
                model.retain(|_, until| *until > now);
                assert_eq!(shard.len, model.len());
            }
        }
        for (key, until) in model {
            if until > now {
                assert_eq!(shard.find(key, now), Place::Own(until));
            }
        }
    }

    #[test]
    fn a_full_shard_takes_in_only_who_replaces_somebody() {
        let mut random = Random(1);
        let mut shard = Shard::default();
        let (start, end) = (Moment(0), Moment(10));
        while shard.len < MAX_CELLS {
            shard.set(random.next(), end, start);
        }
        let bytes = shard.slots.len() * size_of::<Cell>();
        assert_eq!(bytes, 1 << 20);
        let newcomer = random.next();
        assert_eq!(shard.find(newcomer, start), Place::Full);
        shard.set(newcomer, end, start);
        assert_eq!(shard.find(newcomer, start), Place::Full);

        assert_eq!(shard.find(newcomer, end), Place::Room);
        shard.set(newcomer, Moment(20), end);
        assert_eq!(shard.find(newcomer, end), Place::Own(Moment(20)));
        assert!(shard.len <= MAX_CELLS && shard.slots.len() * size_of::<Cell>() == bytes);
    }

    #[test]
    fn use_alone_cleans_up_and_a_sweep_gives_memory_back() {
        let mut random = Random(2);
        let cells = Cells::new(Instant::now());
        for _ in 0..100_000 {
            let key = random.next();
            cells
                .lock([Some(key)])
                .shard(key)
                .set(key, Moment(10), Moment(0));
        }
        assert_eq!(cells.len(), 100_000);
        for _ in 0..16 * 16_384 / 4 * 2 {
            let key = random.next();
            assert_eq!(
                cells.lock([Some(key)]).shard(key).find(key, Moment(10)),
                Place::Room
            );
        }
        assert!(cells.len() < 2000, "{} left", cells.len());
        assert!(cells.bytes() > 1 << 20);
        cells.sweep(Moment(10));
        assert_eq!((cells.len(), cells.bytes()), (0, 0));
    }

    #[test]
    fn subjects_of_one_shard_are_locked_once() {
        let cells = Cells::new(Instant::now());
        let mut locked = cells.lock([Some(1), Some(2), None, Some(u64::MAX)]);
        locked.shard(1).set(7, Moment(5), Moment(0));
        assert_eq!(locked.shard(2).find(7, Moment(0)), Place::Own(Moment(5)));
        assert_eq!(locked.shard(u64::MAX).find(7, Moment(0)), Place::Room);
    }
}
