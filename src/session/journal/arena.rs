//! Records one behind the other in one allocation.
//!
//! A record: the head (kind and marks), the time it was begun if it is waiting (4 bytes), the length of the body as a
//! varint, the body. Taking one out closes the gap, so nothing in the arena is ever dead.

use std::ops::Range;

use super::packed::{Out, Short, put_varint, take, take_byte, take_varint};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Session,
    User,
    Token,
    Sub,
    Method,
    /// The streamer's name for the session, when the client knows another one.
    Upstream,
    Document,
}

/// The first byte of a record: its kind and what else is known by one bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head(u8);

impl Head {
    const KIND: u8 = 0x07;
    /// No `ready` or `result` has come: the time of the beginning follows.
    pub(super) const WAITING: u8 = 0x08;
    /// Sub: the client has sent `unsub`. Method: `updated` came before the result.
    pub(super) const MARKED: u8 = 0x10;
    /// Sub: the parameters are a set of users, see [`super::watched`].
    pub(super) const SET: u8 = 0x20;

    pub(super) fn new(kind: Kind) -> Self {
        Self(match kind {
            Kind::Session => 0,
            Kind::User => 1,
            Kind::Token => 2,
            Kind::Sub => 3,
            Kind::Method => 4,
            Kind::Upstream => 5,
            Kind::Document => 6,
        })
    }

    pub(super) fn with(self, mark: u8) -> Self {
        Self(self.0 | mark)
    }

    pub(super) fn without(self, mark: u8) -> Self {
        Self(self.0 & !mark)
    }

    pub(super) fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    pub(super) fn is(self, kind: Kind) -> bool {
        self.0 & Self::KIND == Self::new(kind).0
    }
}

/// The arena would have outgrown its bound; it is as it was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

#[derive(Default)]
pub(super) struct Arena {
    bytes: Vec<u8>,
}

impl Arena {
    /// Puts a record before the one that starts at `at`, or at the end.
    pub(super) fn insert(
        &mut self,
        at: usize,
        head: Head,
        since: u32,
        body: &[u8],
        bound: usize,
    ) -> Result<(), NoRoom> {
        let mut front = Short::<LONGEST_FRONT>::new();
        front.push(head.0);
        if head.has(Head::WAITING) {
            front.put(&since.to_le_bytes());
        }
        put_varint(body.len() as u64, &mut front);
        let front = front.as_bytes();
        let more = front.len() + body.len();
        self.reserve(more, bound)?;
        let end = self.bytes.len();
        if at >= end {
            self.bytes.extend_from_slice(front);
            self.bytes.extend_from_slice(body);
            return Ok(());
        }
        self.bytes.resize(end + more, 0);
        self.bytes.copy_within(at..end, at + more);
        self.bytes[at..at + front.len()].copy_from_slice(front);
        self.bytes[at + front.len()..at + more].copy_from_slice(body);
        Ok(())
    }

    pub(super) fn push(
        &mut self,
        head: Head,
        since: u32,
        body: &[u8],
        bound: usize,
    ) -> Result<(), NoRoom> {
        self.insert(self.bytes.len(), head, since, body, bound)
    }

    /// Gives a record that is not waiting another body.
    pub(super) fn replace(
        &mut self,
        record: &Record,
        head: Head,
        body: &[u8],
        bound: usize,
    ) -> Result<(), NoRoom> {
        let rest = self.bytes.len() - (record.body.end - record.start);
        if rest + body.len() + LONGEST_FRONT > bound {
            return Err(NoRoom);
        }
        self.remove(record);
        self.insert(record.start, head, record.since, body, bound)
    }

    pub(super) fn remove(&mut self, record: &Record) {
        self.cut(record.start..record.body.end);
    }

    /// The record waits no longer: its time is forgotten. Places behind it change.
    pub(super) fn answered(&mut self, record: &Record) {
        if record.head.has(Head::WAITING) {
            self.mark(record, record.head.without(Head::WAITING));
            self.cut(record.start + 1..record.start + 1 + SINCE_LEN);
        }
    }

    /// Changes marks other than `WAITING`, which has to do with what follows.
    pub(super) fn mark(&mut self, record: &Record, head: Head) {
        if let Some(byte) = self.bytes.get_mut(record.start) {
            *byte = head.0;
        }
    }

    pub(super) fn records(&self) -> Records<'_> {
        Records {
            bytes: &self.bytes,
            at: 0,
        }
    }

    pub(super) fn body(&self, record: &Record) -> &[u8] {
        self.bytes.get(record.body.clone()).unwrap_or_default()
    }

    /// Bytes on the heap.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    fn cut(&mut self, range: Range<usize>) {
        self.bytes.drain(range);
        let len = self.bytes.len();
        if len == 0 {
            self.bytes = Vec::new();
        } else if self.bytes.capacity() > SMALLEST && len <= self.bytes.capacity() / 2 {
            // A quarter is left free, or a client that calls one method after the other would allocate for each.
            self.bytes.shrink_to(allocation(len + len / 4));
        }
    }

    fn reserve(&mut self, more: usize, bound: usize) -> Result<(), NoRoom> {
        let wanted = self.bytes.len() + more;
        if wanted > bound {
            return Err(NoRoom);
        }
        if wanted > self.bytes.capacity() {
            let wanted = allocation(wanted).min(bound);
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        Ok(())
    }
}

/// Where a record lies. Holds until the arena is changed.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) start: usize,
    pub(super) head: Head,
    /// When a waiting record was begun.
    pub(super) since: u32,
    pub(super) body: Range<usize>,
}

#[derive(Clone)]
pub(super) struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let start = self.at;
        let mut rest = self.bytes.get(start..)?;
        let head = Head(take_byte(&mut rest)?);
        let since = if head.has(Head::WAITING) {
            u32::from_le_bytes(take(&mut rest, SINCE_LEN)?.try_into().ok()?)
        } else {
            0
        };
        let len = usize::try_from(take_varint(&mut rest)?).ok()?;
        let body = self.bytes.len() - rest.len();
        take(&mut rest, len)?;
        self.at = body + len;
        Some(Record {
            start,
            head,
            since,
            body: body..self.at,
        })
    }
}

const SINCE_LEN: usize = 4;
/// What stands before a body: head, time, length.
const LONGEST_FRONT: usize = 1 + SINCE_LEN + 10;
const SMALLEST: usize = 32;

/// How much is allocated for so many bytes: what jemalloc would give anyway, four sizes per power of two.
fn allocation(len: usize) -> usize {
    if len <= 128 {
        return len.next_multiple_of(16).max(SMALLEST);
    }
    len.next_multiple_of(len.next_power_of_two() / 8)
}

#[cfg(test)]
mod tests {
    use super::{Arena, Head, Kind, NoRoom, allocation};

    #[test]
    fn sizes_are_those_of_the_allocator() {
        let sizes = [
            (1, 32),
            (32, 32),
            (33, 48),
            (128, 128),
            (129, 160),
            (161, 192),
            (200, 224),
            (256, 256),
            (257, 320),
            (1_000, 1_024),
            (1_025, 1_280),
            (65_536, 65_536),
        ];
        for (len, size) in sizes {
            assert_eq!(allocation(len), size, "{len}");
        }
    }

    #[test]
    fn records_come_back_in_order_and_leave_nothing() {
        let mut arena = Arena::default();
        assert_eq!(arena.capacity(), 0);
        let waiting = Head::new(Kind::Sub).with(Head::WAITING);
        for length in 0..300_u16 {
            let body = vec![7; usize::from(length)];
            arena
                .push(waiting, u32::from(length), &body, 1 << 20)
                .unwrap();
        }
        arena
            .insert(0, Head::new(Kind::User), 0, b"u", 1 << 20)
            .unwrap();
        let records: Vec<_> = arena.records().collect();
        assert_eq!(records.len(), 301);
        assert!(records[0].head.is(Kind::User));
        for (length, record) in (0..).zip(&records[1..]) {
            assert_eq!(record.since, length);
            assert_eq!(record.body.len(), usize::try_from(length).unwrap());
        }
        let last = records.last().unwrap().clone();
        arena.answered(&last);
        let last = arena.records().last().unwrap();
        assert_eq!((last.since, last.body.len()), (0, 299));
        assert!(last.head.is(Kind::Sub) && !last.head.has(Head::WAITING));
        while let Some(first) = arena.records().next() {
            arena.remove(&first);
        }
        assert_eq!(arena.capacity(), 0);
    }

    #[test]
    fn the_bound_holds_and_memory_is_given_back() {
        let mut arena = Arena::default();
        let head = Head::new(Kind::Method);
        let mut count = 0;
        while arena.push(head, 0, &[0; 50], 1_000).is_ok() {
            count += 1;
        }
        assert_eq!(count, 1_000 / 52);
        assert!(arena.capacity() <= 1_000);
        assert_eq!(arena.push(head, 0, &[0; 50], 1_000), Err(NoRoom));
        for _ in 0..count - 3 {
            let first = arena.records().next().unwrap();
            arena.remove(&first);
        }
        assert!(arena.capacity() < 2 * 3 * 52, "{}", arena.capacity());
    }
}
