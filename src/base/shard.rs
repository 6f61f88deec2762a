//! A concurrent map for the control path: sixteen maps behind sixteen locks.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
    sync::{Mutex, MutexGuard, PoisonError},
};

use foldhash::fast::RandomState;

/// Map from `K` to `V` whose keys are spread over sixteen locks.
///
/// Meant for what happens once per connection, not once per frame.
#[derive(Debug)]
pub struct Sharded<K, V> {
    shards: [Mutex<HashMap<K, V, RandomState>>; SHARDS],
    hasher: RandomState,
}

impl<K: Hash + Eq, V> Sharded<K, V> {
    pub fn new() -> Self {
        let hasher = RandomState::default();
        Self {
            shards: std::array::from_fn(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))),
            hasher,
        }
    }

    pub fn insert(&self, key: K, value: V) -> Option<V> {
        self.shard(&key).insert(key, value)
    }

    pub fn remove(&self, key: &K) -> Option<V> {
        let mut shard = self.shard(key);
        let value = shard.remove(key);
        // A storm must not leave its high-water mark behind.
        if shard.capacity() > 64 && shard.len() * 4 < shard.capacity() {
            shard.shrink_to_fit();
        }
        value
    }

    /// Runs `read` on the value under the shard's lock.
    pub fn with<R>(&self, key: &K, read: impl FnOnce(&mut V) -> R) -> Option<R> {
        self.shard(key).get_mut(key).map(read)
    }

    /// Calls `visit` for each entry, one shard at a time; entries may come and go meanwhile.
    pub fn for_each(&self, mut visit: impl FnMut(&K, &V)) {
        for shard in &self.shards {
            for (key, value) in lock(shard).iter() {
                visit(key, value);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, HashMap<K, V, RandomState>> {
        let hash = self.hasher.hash_one(key);
        // The map inside uses the low bits; the shard is chosen by high ones.
        lock(&self.shards[(hash >> 56) as usize % SHARDS])
    }
}

impl<K: Hash + Eq, V> Default for Sharded<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// A panic under the lock leaves the map itself intact, so poisoning is passed over.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::Sharded;

    #[test]
    fn keeps_what_is_put_in_and_gives_memory_back() {
        let map = Sharded::new();
        for n in 0..10_000_u32 {
            assert_eq!(map.insert(n, n * 2), None);
        }
        assert_eq!(map.len(), 10_000);
        assert_eq!(map.with(&77, |value| *value), Some(154));
        let mut sum = 0_u64;
        map.for_each(|key, _| sum += u64::from(*key));
        assert_eq!(sum, 49_995_000);
        for n in 0..10_000 {
            assert_eq!(map.remove(&n), Some(n * 2));
        }
        assert!(map.is_empty());
        let kept: usize = map
            .shards
            .iter()
            .map(|s| s.lock().unwrap().capacity())
            .sum();
        assert!(kept <= 16 * 128, "{kept} slots kept after the storm");
    }
}
