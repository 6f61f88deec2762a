//! The threads that carry connections, each with a runtime of its own.
//!
//! A connection stays on the thread that accepted it, with its leg, its timers and the connections
//! to the monolith that its requests use. A message so wakes the one thread that has all it needs.
//! On a runtime that several threads share, a woken task may first be taken over by another thread:
//! a wake-up more, and cold caches.
//!
//! For the same reason each thread stays on one core. A system that wakes a thread looks for a core
//! that idles, which is seldom the one whose caches know it: on two cores, 2,000 round trips a second
//! took 10 % less time of processors with threads that stay, as many small GETs 14 %, 400 connections
//! a second 15 %.

use std::{
    cell::Cell,
    fmt, io,
    num::NonZeroUsize,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::config::model::Config;

/// Where listeners spread their connections. Cheap to clone. Displayed, it says how many there are
/// and where they run.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    runtimes: Arc<[Handle]>,
    is_pinned: bool,
}

/// The threads behind [`Workers`]; they end when this is dropped, and what they carry with them.
#[derive(Debug)]
pub struct Threads {
    workers: Workers,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

/// Where the threads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Wherever the system has room.
    Free,
    /// Each on a core of its own, if there are as many threads as cores that the process may use.
    /// With fewer, as in a container with a share of a machine, every process would choose the same
    /// cores and leave the others idle.
    Pinned,
}

impl Placement {
    pub fn of(config: &Config) -> Self {
        match config.pin_workers {
            true => Self::Pinned,
            false => Self::Free,
        }
    }

    /// The cores for `count` threads, and all that the process may use.
    fn cores(self, count: usize) -> Option<(Vec<CpuSet>, CpuSet)> {
        if self == Self::Free {
            return None;
        }
        // Fails on systems with more cores than a set can name.
        let all = sched_getaffinity(None).ok()?;
        // Changes nothing, and tells whether a sandbox forbids it before anybody is told otherwise.
        sched_setaffinity(None, &all).ok()?;
        let cores: Vec<CpuSet> = (0..CpuSet::MAX_CPU)
            .filter(|&core| all.is_set(core))
            .map(|core| {
                let mut only = CpuSet::new();
                only.set(core);
                only
            })
            .collect();
        (cores.len() == count).then_some((cores, all))
    }
}

impl Workers {
    /// Everything stays on the runtime that it is started from.
    pub fn none() -> Self {
        Self::default()
    }

    pub fn are_none(&self) -> bool {
        self.runtimes.is_empty()
    }

    /// Runtimes to spread over: the workers' ones, or else that of the caller, which must be on one.
    pub(super) fn runtimes(&self) -> Vec<Handle> {
        match self.runtimes.is_empty() {
            true => vec![Handle::current()],
            false => self.runtimes.to_vec(),
        }
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.is_pinned {
            true => "on a core of its own",
            false => "where the system places it",
        };
        match self.runtimes.len() {
            0 => f.write_str("no workers"),
            1 => write!(f, "1 worker, {place}"),
            count => write!(f, "{count} workers, each {place}"),
        }
    }
}

impl Threads {
    /// Starts `count` of them, or as many as there are cores.
    ///
    /// # Errors
    /// When the system gives no thread or no descriptors.
    pub fn start(count: Option<NonZeroUsize>, placement: Placement) -> io::Result<Self> {
        let count = self::count(count);
        let (cores, all) = placement.cores(count).unzip();
        let is_pinned = cores.is_some();
        let cores = cores.unwrap_or_default();
        let mut started = Self {
            workers: Workers::none(),
            stop: CancellationToken::new(),
            threads: Vec::with_capacity(count),
        };
        let mut handles = Vec::with_capacity(count);
        for number in 1..=count {
            let mut runtime = Builder::new_current_thread();
            // Its threads for blocking calls would stay where it does.
            runtime.on_thread_start(move || place(all.as_ref()));
            let runtime = runtime.enable_all().build()?;
            handles.push(runtime.handle().clone());
            let stop = started.stop.clone();
            let core = cores.get(number - 1).copied();
            let thread = thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    NUMBER.set(number);
                    place(core.as_ref());
                    runtime.block_on(pulse(&stop));
                    // A blocking call of a task that is gone shall not hold up the end.
                    runtime.shutdown_background();
                })?;
            started.threads.push(thread);
        }
        started.workers = Workers {
            runtimes: handles.into(),
            is_pinned,
        };
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

/// Keeps the thread that calls to these cores, or leaves it where it is.
fn place(cores: Option<&CpuSet>) {
    if let Some(cores) = cores
        && let Err(error) = sched_setaffinity(None, cores)
    {
        // The core was taken away meanwhile. It costs time and nothing else.
        tracing::debug!(%error, "a thread cannot be kept on its core");
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

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, time::Duration};

    use rustix::thread::{CpuSet, sched_getaffinity};

    use super::{Placement, Threads};

    fn here() -> CpuSet {
        sched_getaffinity(None).unwrap()
    }

    /// Where each worker may run, and where its blocking calls may.
    fn placed(count: u32, placement: Placement, says: &str) -> Vec<(CpuSet, CpuSet)> {
        let threads = Threads::start(NonZeroUsize::new(count as usize), placement).unwrap();
        let said = threads.workers().to_string();
        assert!(
            said.starts_with(&count.to_string()) && said.ends_with(says),
            "{said}"
        );
        let runtimes = threads.workers().runtimes();
        runtimes
            .iter()
            .map(|runtime| {
                let (send, receive) = std::sync::mpsc::channel();
                runtime.spawn(async move {
                    let blocking = tokio::task::spawn_blocking(here).await.unwrap();
                    send.send((here(), blocking)).unwrap();
                });
                receive.recv_timeout(Duration::from_secs(10)).unwrap()
            })
            .collect()
    }

    #[test]
    fn each_worker_has_a_core_where_there_are_as_many() {
        let all = here();
        let placed = placed(all.count(), Placement::Pinned, "on a core of its own");
        let mut taken = CpuSet::new();
        for (worker, blocking) in placed {
            assert_eq!(worker.count(), 1);
            let core = (0..CpuSet::MAX_CPU).find(|&core| worker.is_set(core));
            let core = core.unwrap();
            assert!(all.is_set(core) && !taken.is_set(core), "core {core}");
            taken.set(core);
            assert!(blocking == all, "blocking calls go anywhere");
        }
        assert!(taken == all);
    }

    #[test]
    fn workers_are_not_pinned_where_cores_would_be_left_or_shared() {
        let all = here();
        for (count, placement) in [
            (all.count() + 1, Placement::Pinned),
            (all.count(), Placement::Free),
        ] {
            for (worker, blocking) in placed(count, placement, "where the system places it") {
                assert!(worker == all && blocking == all, "{count}, {placement:?}");
            }
        }
    }
}
