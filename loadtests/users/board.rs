//! Where all users report to.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::tally::Tally;

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
}

impl Board {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            standing: Default::default(),
            tally: Mutex::new(Tally::new()),
        }
    }

    /// Users who stand there now.
    pub fn count(&self, standing: Standing) -> usize {
        self.standing[standing as usize].load(Ordering::Relaxed)
    }

    /// What has happened since the last call.
    pub fn take(&self) -> Tally {
        std::mem::replace(&mut *self.tally(), Tally::new())
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
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.board.standing[self.standing as usize].fetch_sub(1, Ordering::Relaxed);
    }
}
