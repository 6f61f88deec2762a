//! The threads that carry connections, each with a runtime of its own.
//!
//! A connection stays on the thread that accepted it, with its leg, its timers and the connections
//! to the monolith that its requests use. A message so wakes the one thread that has all it needs.
//! On a runtime that several threads share, a woken task may first be taken over by another thread:
//! a wake-up more, and cold caches.

use std::{
    cell::Cell,
    io,
    num::NonZeroUsize,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Where listeners spread their connections. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Workers(Arc<[Handle]>);

/// The threads behind [`Workers`]; they end when this is dropped, and what they carry with them.
#[derive(Debug)]
pub struct Threads {
    workers: Workers,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Everything stays on the runtime that it is started from.
    pub fn none() -> Self {
        Self::default()
    }

    /// Runtimes to spread over: the workers' ones, or else that of the caller, which must be on one.
    pub(super) fn runtimes(&self) -> Vec<Handle> {
        match self.0.is_empty() {
            true => vec![Handle::current()],
            false => self.0.to_vec(),
        }
    }
}

impl Threads {
    /// Starts `count` of them, or as many as there are cores.
    ///
    /// # Errors
    /// When the system gives no thread or no descriptors.
    pub fn start(count: Option<NonZeroUsize>) -> io::Result<Self> {
        let count = self::count(count);
        let mut started = Self {
            workers: Workers::none(),
            stop: CancellationToken::new(),
            threads: Vec::with_capacity(count),
        };
        let mut handles = Vec::with_capacity(count);
        for number in 1..=count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            handles.push(runtime.handle().clone());
            let stop = started.stop.clone();
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    NUMBER.set(number);
                    runtime.block_on(pulse(&stop));
                    // A blocking call of a task that is gone shall not hold up the end.
                    runtime.shutdown_background();
                })?;
            started.threads.push(thread);
        }
        started.workers = Workers(handles.into());
        Ok(started)
    }

    pub fn workers(&self) -> Workers {
        self.workers.clone()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// Lasts until the threads are to end, with a timer that is always near.
///
/// A timer that is set on a runtime and runs out before all others there makes the runtime wake its
/// own thread: a system call, and a turn of the event loop for nothing. On a thread with few sessions
/// that was two of each for every connection. None of a connection's timers is as near as this one.
async fn pulse(stop: &CancellationToken) {
    while tokio::time::timeout(PULSE, stop.cancelled()).await.is_err() {}
}

/// How many there will be when `wanted` is what the configuration says.
pub fn count(wanted: Option<NonZeroUsize>) -> usize {
    wanted
        .or_else(|| thread::available_parallelism().ok())
        .map_or(1, NonZeroUsize::get)
}

/// The worker that calls, counted from 1; 0 on any other thread.
pub(super) fn current() -> usize {
    NUMBER.get()
}

const PULSE: Duration = Duration::from_millis(200);

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}
