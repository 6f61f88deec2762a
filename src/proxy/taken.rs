//! Whether a client takes the answer that it asked for.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::Counter;
use tokio::time::{Instant, sleep};

use crate::config::model::Http;

/// How far the answer in progress is, of a connection (HTTP/1.1) or a stream (HTTP/2).
///
/// hyper asks a body for its next piece when the last one is on its way, so time between two pieces
/// in which nothing was asked for is time the client took.
#[derive(Debug)]
pub(super) struct Taken {
    start: Instant,
    turn: AtomicU8,
    bytes: AtomicU64,
    /// Milliseconds that the client took, up to `since`.
    owed: AtomicU64,
    /// Milliseconds from `start` to the last change of turn.
    since: AtomicU64,
}

/// What a client has to take at least.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pull {
    pub(super) window: Duration,
    bytes: u64,
}

/// A look at a [`Taken`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    bytes: u64,
    owed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// No answer is in progress.
    None = 0,
    /// The client has to take a piece.
    Client = 1,
    /// The next piece has yet to come from the monolith.
    Monolith = 2,
}

impl Taken {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            turn: AtomicU8::new(Turn::None as u8),
            bytes: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            since: AtomicU64::new(0),
        })
    }

    /// The next piece was asked for: the client took the last one.
    pub(super) fn asked(&self) {
        self.turn(Turn::Monolith);
    }

    /// A piece is on its way to the client.
    pub(super) fn given(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.turn(Turn::Client);
    }

    /// The answer is over.
    pub(super) fn done(&self) {
        self.turn(Turn::None);
    }

    pub(super) fn look(&self) -> Look {
        let mut owed = self.owed.load(Ordering::Relaxed);
        if self.turn.load(Ordering::Acquire) == Turn::Client as u8 {
            owed += self
                .now()
                .saturating_sub(self.since.load(Ordering::Relaxed));
        }
        Look {
            bytes: self.bytes.load(Ordering::Relaxed),
            owed,
        }
    }

    /// Ready when a whole window was the client's turn and it took too little.
    pub(super) async fn stalled(&self, pull: Pull) {
        let mut last = self.look();
        loop {
            sleep(pull.window).await;
            let look = self.look();
            if pull.is_missed(last, look) {
                return;
            }
            last = look;
        }
    }

    fn turn(&self, turn: Turn) {
        let now = self.now();
        let since = self.since.swap(now, Ordering::Relaxed);
        if self.turn.swap(turn as u8, Ordering::AcqRel) == Turn::Client as u8 {
            self.owed
                .fetch_add(now.saturating_sub(since), Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Pull {
    pub(super) fn new(http: &Http) -> Self {
        // What is buffered on the way makes progress jump; the window has to hold several jumps.
        let resolution = match http.min_rate {
            0 => http.idle_timeout * 2,
            rate => Duration::from_secs(GRAIN.div_ceil(rate)),
        };
        let window = http.idle_timeout.max(resolution);
        Self {
            window,
            bytes: http.min_rate.saturating_mul(window.as_secs()).max(1),
        }
    }

    pub(super) fn is_missed(&self, before: Look, after: Look) -> bool {
        let window = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        let owed = after.owed.saturating_sub(before.owed);
        owed >= window - window / 10 && after.bytes.saturating_sub(before.bytes) < self.bytes
    }
}

tokio::task_local! {
    static STREAM: Arc<Taken>;
}

/// The progress of the HTTP/2 stream whose task this is.
pub(super) fn of_stream() -> Option<Arc<Taken>> {
    STREAM.try_with(Arc::clone).ok()
}

/// Runs the streams of an HTTP/2 connection, each until it ends or its client stops taking from it:
/// dropping a stream's future resets that stream and no other.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    pub(super) pull: Pull,
    /// Counts streams whose client took nothing.
    pub(super) slow_readers: Counter,
}

impl Streams {
    pub(super) fn spawn(&self, stream: impl Future<Output = ()> + Send + 'static) {
        let Self { pull, slow_readers } = self.clone();
        let taken = Taken::new();
        tokio::spawn(STREAM.scope(taken.clone(), async move {
            tokio::select! {
                () = stream => {}
                () = taken.stalled(pull) => {
                    slow_readers.increment(1);
                    tracing::debug!("an HTTP/2 stream was reset: its client took nothing");
                }
            }
        }));
    }
}

/// Most that is buffered between a body and the wire.
const GRAIN: u64 = 128 * 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Look, Pull};

    #[test]
    fn only_a_window_that_was_the_clients_counts() {
        let pull = Pull {
            window: Duration::from_secs(10),
            bytes: 1000,
        };
        let look = |bytes, owed| Look { bytes, owed };
        assert!(pull.is_missed(look(0, 0), look(999, 10_000)));
        assert!(!pull.is_missed(look(0, 0), look(1000, 10_000)));
        assert!(!pull.is_missed(look(0, 0), look(0, 5_000)));
        assert!(pull.is_missed(look(5000, 7_000), look(5000, 16_500)));
    }
}
