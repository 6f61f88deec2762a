//! Time that the gateway is answerable for.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Measures real time, less the time for which the machine did not let this process run.
///
/// A limit in real time cannot hold while other processes (or other virtual machines) have the
/// processors, and taking the best of several rounds would let a wrong pace pass. So each
/// measurement is taken once, and what the machine took is measured beside it, in two ways:
/// - a thread that does nothing but wait for its next beat notes how late each one is. It shares no
///   lock and no runtime with the gateway, so nothing that the gateway does wrong makes it late:
///   only what keeps every thread from running does;
/// - the kernel counts for how long the thread of the test, which is that of the gateway in it too,
///   was ready to run and stood in line for a processor.
///
/// The larger one is subtracted, not their sum, since both see the same stalls. A gateway that
/// waits, polls too seldom or computes for too long gets nothing subtracted for it.
#[derive(Debug)]
pub struct Stopwatch {
    what: &'static str,
    started: Instant,
    stood_in_line: Duration,
    heart: Arc<Heart>,
    beating: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Heart {
    beats: AtomicBool,
    pulse: Mutex<Pulse>,
}

#[derive(Debug)]
struct Pulse {
    late: Duration,
    last: Instant,
}

impl Stopwatch {
    /// In the thread that the runtime of the test runs in.
    pub fn start(what: &'static str) -> Self {
        let heart = Arc::new(Heart {
            beats: AtomicBool::new(true),
            pulse: Mutex::new(Pulse {
                late: Duration::ZERO,
                last: Instant::now(),
            }),
        });
        let beating = thread::spawn({
            let heart = heart.clone();
            move || {
                while heart.beats.load(Ordering::Relaxed) {
                    thread::park_timeout(BEAT);
                    heart.beat();
                }
            }
        });
        Self {
            what,
            started: Instant::now(),
            stood_in_line: stood_in_line(),
            heart,
            beating: Some(beating),
        }
    }

    /// Time since the start, less the machine's share; both are printed.
    pub fn read(&self) -> Duration {
        let whole = self.started.elapsed();
        let late = self.heart.beat();
        let in_line = stood_in_line().saturating_sub(self.stood_in_line);
        let own = whole.saturating_sub(late.max(in_line));
        println!(
            "{}: {own:?} of {whole:?}; beats were {late:?} late, {in_line:?} in line for a processor",
            self.what
        );
        own
    }
}

impl Heart {
    /// What all beats so far were late by.
    fn beat(&self) -> Duration {
        let now = Instant::now();
        let mut pulse = self.pulse.lock().unwrap();
        // What a beat is late by in peace is not counted, so that it does not add up.
        let late = now.saturating_duration_since(pulse.last + BEAT);
        if late > BEAT {
            pulse.late += late;
        }
        pulse.last = now;
        pulse.late
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.heart.beats.store(false, Ordering::Relaxed);
        if let Some(beating) = self.beating.take() {
            beating.thread().unpark();
            let _ = beating.join();
        }
    }
}

/// For how long this thread was ready to run and did not; 0 where the kernel does not say
/// (`Documentation/scheduler/sched-stats.rst`).
fn stood_in_line() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').nth(1).and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

const BEAT: Duration = Duration::from_millis(5);
