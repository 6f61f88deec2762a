//! Which streamer a returning session was on.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;

use crate::base::id::StreamerId;

/// Bounded memory from a session's name (DDP session id, SockJS session id) to its streamer.
///
/// Two generations: when the young one is full, or as old as names are remembered, it becomes the old
/// one, and what the old one held is forgotten. So the bound holds under any load, nothing has to be
/// swept, names that have expired take no memory for long, and what was touched within the last half
/// of the capacity is always there. Names are kept as hashes.
#[derive(Debug)]
pub struct Recall {
    generations: Mutex<Generations>,
    /// Entries per generation.
    half: usize,
}

#[derive(Debug)]
struct Generations {
    keep: Duration,
    /// What places count their seconds from: the first time that something was remembered.
    base: Option<Instant>,
    /// When the young one began.
    began: Option<Instant>,
    young: HashMap<u64, Place, RandomState>,
    old: HashMap<u64, Place, RandomState>,
    /// Every streamer that a place has named, and the number it goes by.
    streamers: Vec<StreamerId>,
    numbers: HashMap<StreamerId, u32, RandomState>,
}

/// Kept small, since there are two of them per session.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Index into [`Generations::streamers`].
    streamer: u32,
    /// Seconds after the base; a hundred years mean for ever.
    until: u32,
}

impl Recall {
    /// Remembers up to `capacity` sessions (at least 2), about 30 bytes each, for `keep` each.
    pub fn new(capacity: usize, keep: Duration) -> Self {
        Self {
            generations: Mutex::new(Generations {
                keep,
                base: None,
                began: None,
                young: HashMap::default(),
                old: HashMap::default(),
                streamers: Vec::new(),
                numbers: HashMap::default(),
            }),
            half: (capacity / 2).max(1),
        }
    }

    /// Holds for what is remembered from here on.
    pub fn set_keep(&self, keep: Duration) {
        self.lock().keep = keep;
    }

    /// Remembers that the session `name` is on `streamer`.
    pub fn remember(&self, name: &str, streamer: &StreamerId, now: Instant) {
        let key = key(name);
        let mut generations = self.lock();
        let base = *generations.base.get_or_insert(now);
        let until = now
            .saturating_duration_since(base)
            .saturating_add(generations.keep);
        let place = Place {
            streamer: generations.number(streamer),
            until: u32::try_from(until.as_secs()).unwrap_or(u32::MAX),
        };
        let full = generations.young.len() >= self.half && !generations.young.contains_key(&key);
        // What is in the old one has expired by then.
        let age = now.saturating_duration_since(*generations.began.get_or_insert(now));
        if full || age >= generations.keep {
            generations.old = std::mem::take(&mut generations.young);
            generations.began = Some(now);
        }
        generations.young.insert(key, place);
    }

    /// The streamer that the session `name` was on, unless that was too long ago.
    pub fn find(&self, name: &str, now: Instant) -> Option<StreamerId> {
        let key = key(name);
        let generations = self.lock();
        let place = generations
            .young
            .get(&key)
            .or_else(|| generations.old.get(&key))?;
        let age = now.saturating_duration_since(generations.base?);
        (age.as_secs() < u64::from(place.until))
            .then(|| generations.streamers.get(place.streamer as usize).cloned())?
    }

    /// Sessions remembered, expired ones included.
    pub fn len(&self) -> usize {
        let generations = self.lock();
        generations.young.len() + generations.old.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing under this lock panics halfway through a change.
    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    /// The number of a streamer. Streamers come and go: when very many have, all is forgotten.
    fn number(&mut self, streamer: &StreamerId) -> u32 {
        if let Some(&number) = self.numbers.get(streamer) {
            return number;
        }
        if self.streamers.len() >= MOST_STREAMERS {
            self.young = HashMap::default();
            self.old = HashMap::default();
            self.streamers.clear();
            self.numbers.clear();
        }
        let number = u32::try_from(self.streamers.len()).unwrap_or(u32::MAX);
        self.streamers.push(streamer.clone());
        self.numbers.insert(streamer.clone(), number);
        number
    }
}

/// Different streamers that are remembered, gone ones included.
const MOST_STREAMERS: usize = 10_000;

/// The first eight bytes of a BLAKE3 hash. A client chooses its SockJS session id: to be taken for
/// another session it would have to find a preimage, and would win that session's streamer.
fn key(name: &str) -> u64 {
    let hash = blake3::hash(name.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Recall;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn remembers_until_it_expires() {
        let recall = Recall::new(100, MINUTE);
        let start = Instant::now();
        recall.remember("a", &"one".into(), start);
        recall.remember("a", &"two".into(), start);
        assert_eq!(recall.find("a", start), Some("two".into()));
        assert_eq!(recall.find("b", start), None);
        assert_eq!(recall.find("a", start + MINUTE), None);
    }

    #[test]
    fn streamers_that_come_and_go_are_bounded() {
        let recall = Recall::new(100, MINUTE);
        let now = Instant::now();
        for n in 0..25_000 {
            let streamer = format!("pod-{n}").as_str().into();
            recall.remember(&n.to_string(), &streamer, now);
            assert_eq!(recall.find(&n.to_string(), now), Some(streamer));
        }
        let generations = recall.lock();
        assert!(generations.streamers.len() <= super::MOST_STREAMERS);
        assert_eq!(generations.streamers.len(), generations.numbers.len());
    }

    #[test]
    fn what_has_expired_takes_no_memory_for_long() {
        let recall = Recall::new(100_000, MINUTE);
        let start = Instant::now();
        for second in 0..600 {
            let now = start + MINUTE * second / 60;
            recall.remember(&second.to_string(), &"one".into(), now);
            assert!(recall.len() <= 121, "{} after {second} s", recall.len());
            let remembered = second.saturating_sub(59);
            for n in remembered..=second {
                assert!(
                    recall.find(&n.to_string(), now).is_some(),
                    "{n} at {second}"
                );
            }
        }
    }

    #[test]
    fn is_bounded_and_forgets_the_oldest() {
        let recall = Recall::new(100, MINUTE);
        let now = Instant::now();
        for n in 0..10_000 {
            recall.remember(&n.to_string(), &"one".into(), now);
            assert!(recall.len() <= 100);
        }
        for n in 9_950..10_000 {
            assert!(recall.find(&n.to_string(), now).is_some(), "{n}");
        }
        assert_eq!(recall.find("0", now), None);
    }
}
