//! Where all users report to.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{tally::Tally, traffic::Traffic};

/// Where a user stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Waits to try again, or tries.
    Away,
    /// The transport is open, `connected` has not come.
    Parked,
    /// Not logged in yet.
    Connected,
    /// Some subscriptions are unanswered.
    LoggedIn,
    /// Everything that was asked at the start is answered.
    Settled,
    /// The login was refused.
    Refused,
    /// Does not come back any more.
    Gone,
}

impl Standing {
    const ALL: [Self; 7] = [
        Self::Away,
        Self::Parked,
        Self::Connected,
        Self::LoggedIn,
        Self::Settled,
        Self::Refused,
        Self::Gone,
    ];
}

/// Shared by the users of a crowd.
#[derive(Debug)]
pub struct Board {
    began: Instant,
    standing: [AtomicUsize; Standing::ALL.len()],
    tally: Mutex<Tally>,
    busy: AtomicBool,
    skewed: AtomicBool,
    keys: AtomicU64,
    rooms: Box<[Numbers]>,
    have_last: AtomicU64,
    cut: watch::Sender<()>,
}

/// Messages of one room: the last whose publication has begun, and the last that is published.
#[derive(Debug, Default)]
struct Numbers {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Board {
    pub(super) fn new(rooms: u32) -> Self {
        Self {
            began: Instant::now(),
            standing: Default::default(),
            tally: Mutex::new(Tally::new()),
            busy: AtomicBool::new(false),
            skewed: AtomicBool::new(false),
            keys: AtomicU64::new(0),
            rooms: (0..rooms).map(|_| Numbers::default()).collect(),
            have_last: AtomicU64::new(0),
            cut: watch::Sender::new(()),
        }
    }

    /// Whether users with habits do anything. From then on nobody's presence changes.
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::SeqCst);
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::SeqCst)
    }

    /// Whether messages take a while to get to the server of a user. Then nobody can say what a user
    /// who leaves a room has to have.
    pub fn set_skewed(&self, skewed: bool) {
        self.skewed.store(skewed, Ordering::SeqCst);
    }

    pub(super) fn is_skewed(&self) -> bool {
        self.skewed.load(Ordering::SeqCst)
    }

    /// Cuts every connection that is open, without a goodbye. The users come back as they would.
    pub fn cut(&self) {
        self.cut.send_replace(());
    }

    pub(super) fn cuts(&self) -> watch::Receiver<()> {
        self.cut.subscribe()
    }

    /// Publishes the next message of a room: `send` gets its number. To be called by one at a time.
    pub fn publish(&self, room: u32, send: impl FnOnce(u64, Duration)) {
        if let Some(numbers) = self.rooms.get(room as usize) {
            let number = numbers.begun.fetch_add(1, Ordering::SeqCst) + 1;
            send(number, self.elapsed());
            numbers.done.store(number, Ordering::SeqCst);
        }
    }

    /// The last message of a room whose publication has begun.
    pub(super) fn begun(&self, room: u32) -> u64 {
        let numbers = self.rooms.get(room as usize);
        numbers.map_or(0, |numbers| numbers.begun.load(Ordering::SeqCst))
    }

    /// The last one that is published.
    pub(super) fn done(&self, room: u32) -> u64 {
        let numbers = self.rooms.get(room as usize);
        numbers.map_or(0, |numbers| numbers.done.load(Ordering::SeqCst))
    }

    pub(super) fn has_last(&self) {
        self.have_last.fetch_add(1, Ordering::SeqCst);
    }

    /// How often a message that was marked as the last has reached a user who is in its room.
    pub fn have_last(&self) -> u64 {
        self.have_last.load(Ordering::SeqCst)
    }

    /// A number that nobody else gets.
    pub(super) fn key(&self) -> u64 {
        self.keys.fetch_add(1, Ordering::Relaxed)
    }

    /// Users who stand there now.
    pub fn count(&self, standing: Standing) -> usize {
        self.standing[standing as usize].load(Ordering::Relaxed)
    }

    /// What has happened since the last call.
    pub fn take(&self) -> Tally {
        std::mem::replace(&mut *self.tally(), Tally::new())
    }

    /// What users with habits did and heard since the last call of [`Self::take`].
    pub fn traffic(&self) -> Traffic {
        self.tally().traffic.clone()
    }

    /// Users who have lost a session since then, and are logged in again.
    pub fn back(&self) -> u64 {
        self.tally().back.count()
    }

    /// Since the crowd was made; the times of attempts count from there.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        // Numbers only: whatever was interrupted, they are still numbers.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Standing::ALL.map(|standing| (standing, self.count(standing)));
        let counts = counts.iter().filter(|(_, count)| *count > 0);
        let counts: Vec<String> = counts.map(|(name, n)| format!("{n} {name:?}")).collect();
        f.write_str(&counts.join(", "))
    }
}

/// One user's place on the board.
#[derive(Debug)]
pub(super) struct Pin<'a> {
    board: &'a Board,
    standing: Standing,
}

impl<'a> Pin<'a> {
    pub(super) fn new(board: &'a Board) -> Self {
        board.standing[Standing::Away as usize].fetch_add(1, Ordering::Relaxed);
        Self {
            board,
            standing: Standing::Away,
        }
    }

    pub(super) fn set(&mut self, standing: Standing) {
        if standing != self.standing {
            let counts = &self.board.standing;
            counts[self.standing as usize].fetch_sub(1, Ordering::Relaxed);
            counts[standing as usize].fetch_add(1, Ordering::Relaxed);
            self.standing = standing;
        }
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// Nothing more comes for what was asked at the start.
    pub(super) fn has_its_answers(&self) -> bool {
        matches!(self.standing, Standing::Settled | Standing::Refused)
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.board.standing[self.standing as usize].fetch_sub(1, Ordering::Relaxed);
    }
}
