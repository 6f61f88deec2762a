//! Memory for bytes in flight: a scratch per thread, and queues that own nothing while empty.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Bytes that one pass of a relay may read at once.
pub const SCRATCH_BYTES: usize = 64 * 1024;

/// Runs `work` with this thread's scratch buffer of [`SCRATCH_BYTES`].
///
/// Its content is whatever the last user left. A nested call gets a fresh buffer instead of a
/// panic, so that a mistake costs an allocation and nothing else.
pub fn with_scratch<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => {
            if scratch.is_empty() {
                scratch.resize(SCRATCH_BYTES, 0);
            }
            work(&mut scratch)
        }
        Err(_) => work(&mut vec![0; SCRATCH_BYTES]),
    })
}

/// Upper bound, for the whole process, of the bytes that wait for slow peers.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: AtomicUsize,
}

impl Budget {
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit_bytes),
        }
    }

    /// Bytes in use now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Takes effect for the next byte that asks; what is held stays held.
    pub fn set_limit(&self, limit_bytes: usize) {
        self.limit.store(limit_bytes, Ordering::Relaxed);
    }

    fn take(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.limit() {
            return true;
        }
        self.give(bytes);
        false
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes that a peer has not taken yet, in order.
///
/// Holds no heap memory while empty. Each byte in it counts against the process-wide [`Budget`],
/// and is given back when it leaves or the queue is dropped.
#[derive(Debug)]
pub struct Backlog {
    inner: Option<Box<Filled>>,
    budget: Arc<Budget>,
}

/// The queue is over its own bound, or the process over its budget; nothing was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many bytes wait for a slow peer")]
pub struct Full;

#[derive(Debug)]
struct Filled {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are already gone.
    taken: usize,
    bytes: usize,
}

impl Backlog {
    pub fn new(budget: Arc<Budget>) -> Self {
        Self {
            inner: None,
            budget,
        }
    }

    /// Bytes waiting.
    pub fn len(&self) -> usize {
        self.inner.as_ref().map_or(0, |filled| filled.bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    /// Appends all of `bytes`, unless more than `bound` bytes would wait then.
    pub fn push(&mut self, bytes: &[u8], bound: usize) -> Result<(), Full> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.len().saturating_add(bytes.len()) > bound || !self.budget.take(bytes.len()) {
            return Err(Full);
        }
        let filled = self.inner.get_or_insert_with(|| {
            Box::new(Filled {
                chunks: VecDeque::with_capacity(1),
                taken: 0,
                bytes: 0,
            })
        });
        filled.bytes += bytes.len();
        match filled.chunks.back_mut() {
            // Small pieces share a chunk; it is never grown beyond one allocation's worth.
            Some(last) if last.len() + bytes.len() <= CHUNK_BYTES => last.extend_from_slice(bytes),
            _ => filled.chunks.push_back(bytes.to_vec()),
        }
        Ok(())
    }

    /// An empty queue that counts against the same budget.
    pub fn sibling(&self) -> Self {
        Self::new(self.budget.clone())
    }

    /// Appends all that waits in `other`, which counts against the same budget.
    ///
    /// # Errors
    /// When the process is over its budget; what could not be moved is lost.
    pub fn append(&mut self, mut other: Self) -> Result<(), Full> {
        debug_assert!(Arc::ptr_eq(&self.budget, &other.budget));
        if self.inner.is_none() {
            std::mem::swap(&mut self.inner, &mut other.inner);
            return Ok(());
        }
        while !other.is_empty() {
            let front = other.front().len();
            self.push(&other.front()[..front], usize::MAX)?;
            other.advance(front);
        }
        Ok(())
    }

    /// The bytes to offer to the peer next; empty only when the queue is.
    pub fn front(&self) -> &[u8] {
        match &self.inner {
            Some(filled) => filled
                .chunks
                .front()
                .map_or(&[], |chunk| &chunk[filled.taken..]),
            None => &[],
        }
    }

    /// All that waits, in order, piece by piece.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let filled = self.inner.iter();
        filled.flat_map(|filled| {
            let chunks = filled.chunks.iter().enumerate();
            chunks.map(|(place, chunk)| match place {
                0 => &chunk[filled.taken..],
                _ => chunk.as_slice(),
            })
        })
    }

    /// Drops `bytes` of [`Self::front`] that the peer has taken.
    pub fn advance(&mut self, bytes: usize) {
        let Some(filled) = &mut self.inner else {
            return;
        };
        let front = filled
            .chunks
            .front()
            .map_or(0, |chunk| chunk.len() - filled.taken);
        let bytes = bytes.min(front);
        filled.taken += bytes;
        filled.bytes -= bytes;
        self.budget.give(bytes);
        if bytes == front {
            filled.chunks.pop_front();
            filled.taken = 0;
        }
        if filled.bytes == 0 {
            self.inner = None;
        }
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.budget.give(self.len());
        self.inner = None;
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.clear();
    }
}

const CHUNK_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Backlog, Budget, Full, SCRATCH_BYTES, with_scratch};

    #[test]
    fn keeps_order_and_gives_everything_back() {
        let budget = Arc::new(Budget::new(100_000));
        let mut backlog = Backlog::new(budget.clone());
        let sent: Vec<u8> = (0..50_000_u32).map(|n| (n % 251) as u8).collect();
        for piece in sent.chunks(777) {
            backlog.push(piece, 60_000).unwrap();
        }
        assert_eq!(budget.used(), 50_000);
        let mut got = Vec::new();
        while !backlog.is_empty() {
            let take = backlog.front().len().min(1_000);
            got.extend_from_slice(&backlog.front()[..take]);
            backlog.advance(take);
            let left: Vec<u8> = backlog.chunks().flatten().copied().collect();
            assert_eq!(left, sent[got.len()..]);
        }
        assert_eq!(got, sent);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn refuses_beyond_its_bound_and_beyond_the_budget() {
        let budget = Arc::new(Budget::new(10));
        let mut one = Backlog::new(budget.clone());
        let mut two = Backlog::new(budget.clone());
        one.push(b"12345", 6).unwrap();
        assert_eq!(one.push(b"67", 6), Err(Full));
        assert_eq!(one.len(), 5);
        assert_eq!(two.push(b"123456", 100), Err(Full));
        two.push(b"12345", 100).unwrap();
        drop(one);
        assert_eq!(budget.used(), 5);
        two.clear();
        assert_eq!(budget.used(), 0);
        assert!(two.front().is_empty());
    }

    #[test]
    fn one_queue_goes_behind_another() {
        let budget = Arc::new(Budget::new(100_000));
        let mut first = Backlog::new(budget.clone());
        for part in [&b"ab"[..], &[b'c'; 40_000]] {
            let mut second = first.sibling();
            second.push(part, usize::MAX).unwrap();
            second.push(b"d", usize::MAX).unwrap();
            first.append(second).unwrap();
        }
        assert_eq!(first.len(), 40_004);
        assert_eq!(budget.used(), 40_004);
        let mut all = Vec::new();
        while !first.is_empty() {
            let taken = first.front().len();
            all.extend_from_slice(first.front());
            first.advance(taken);
        }
        assert_eq!(all, [&b"abd"[..], &[b'c'; 40_000], b"d"].concat());
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn scratch_may_be_nested() {
        with_scratch(|outer| {
            outer[0] = 1;
            with_scratch(|inner| inner[0] = 2);
            assert_eq!(outer[0], 1);
            assert_eq!(outer.len(), SCRATCH_BYTES);
        });
    }
}
