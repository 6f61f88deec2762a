//! How often each call of `demo:count` was executed, whichever streamer executed it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Calls of `demo:count`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Keys that were called with.
    pub keys: u64,
    /// Executions.
    pub calls: u64,
    /// Most executions with one key.
    pub most: u32,
}

#[derive(Debug, Default)]
pub(super) struct Counter(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    calls: HashMap<String, u32>,
    counted: Counted,
}

impl Counter {
    /// Counts one execution and answers how many there were with this key; `None` when there are
    /// too many keys, or the key is too long.
    pub(super) fn count(&self, key: &str) -> Option<u32> {
        let mut book = self.lock();
        let Book { calls, counted } = &mut *book;
        if !calls.contains_key(key) {
            if calls.len() >= MAX_KEYS || key.len() > MAX_KEY {
                return None;
            }
            counted.keys += 1;
        }
        let count = calls.entry(key.to_owned()).or_default();
        *count = count.saturating_add(1);
        counted.calls += 1;
        counted.most = counted.most.max(*count);
        Some(*count)
    }

    pub(super) fn counted(&self) -> Counted {
        self.lock().counted
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Numbers only: whatever was interrupted, they are still numbers.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const MAX_KEYS: usize = 1 << 20;
/// In bytes.
const MAX_KEY: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_key() {
        let counter = Counter::default();
        let counts = ["a", "b", "a"].map(|key| counter.count(key));
        assert_eq!(counts, [Some(1), Some(1), Some(2)]);
        assert_eq!(counter.count(&"k".repeat(65)), None);
        let counted = Counted {
            keys: 2,
            calls: 3,
            most: 2,
        };
        assert_eq!(counter.counted(), counted);
    }
}
