//! How late this machine is.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::tally::Spread;

/// Wants to wake up every few milliseconds and notes how much too late it does.
///
/// Every time that a user measures contains such delays, on both sides of the wire: what is below
/// them says nothing about the server.
#[derive(Debug)]
pub struct Pulse {
    lateness: Arc<Mutex<Spread>>,
    task: JoinHandle<()>,
}

impl Pulse {
    pub fn start() -> Self {
        let lateness: Arc<Mutex<Spread>> = Arc::default();
        let noted = lateness.clone();
        let task = tokio::spawn(async move {
            loop {
                let due = Instant::now() + BEAT;
                sleep_until(due).await;
                lock(&noted).record(due.elapsed());
            }
        });
        Self { lateness, task }
    }

    /// Since the last call.
    pub fn take(&self) -> Spread {
        std::mem::take(&mut *lock(&self.lateness))
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const BEAT: Duration = Duration::from_millis(5);

fn lock(spread: &Mutex<Spread>) -> MutexGuard<'_, Spread> {
    spread.lock().unwrap_or_else(PoisonError::into_inner)
}
