//! Drives one pool: what discovery says goes in, probes go out, time passes.

use std::{
    collections::HashMap,
    future::poll_fn,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use rand::random;
use tokio::{
    net::TcpStream,
    sync::watch,
    task::{JoinError, JoinSet},
    time::{sleep, sleep_until},
};

pub use super::events_task::Events;
use crate::{
    base::id::StreamerId,
    config::model,
    discovery::{Discovery, Listing, News, Source, Tell},
    net::{
        dial::is_shortage,
        probe::{self, Patience, ProbeError},
    },
    pool::{Fault, Pace, Pool, Probe, ProbeKind, Settings, Streamer},
};

/// What the configuration of a pool means to [`Pool`].
pub fn settings(pool: &model::Pool) -> Settings {
    Settings {
        name: pool.name.clone(),
        seed: random(),
        sessions_per_streamer: pool.sessions_per_streamer,
        queue_length: pool.queue.length,
        queue_wait: pool.queue.wait,
        slow_start: pool.slow_start,
        failures: pool.health.failures,
        max_ejected: pool.health.max_ejected,
        pace: Pace {
            interval: pool.health.interval,
            ddp_interval: pool.health.ddp_interval,
            timeout: pool.health.timeout,
        },
    }
}

/// Keeps `pool` up to date as `config` says, until the sender of `config` is dropped. `listing`
/// shows what the sources of discovery say; what they hear that concerns clients goes to `events`.
///
/// A changed configuration takes effect at once; sources of discovery that did not change run on.
/// May be dropped at any time: that ends the probes and the look-ups.
///
/// A pool that nobody looks after would keep its dead streamers in rotation, so a defect that
/// panics in here costs a second and not the pool.
pub async fn run(
    pool: Arc<Pool>,
    mut config: watch::Receiver<Arc<model::Pool>>,
    listing: Listing,
    events: Events,
) {
    loop {
        let driven = drive(&pool, &mut config, &listing, &events);
        let driven = AssertUnwindSafe(driven).catch_unwind();
        if driven.await.is_ok() {
            return;
        }
        tracing::error!(
            pool = %pool.name(),
            "the task that watches pool {} ended by a panic and starts again: report this defect",
            pool.name()
        );
        sleep(RESTART_PAUSE).await;
    }
}

async fn drive(
    pool: &Arc<Pool>,
    config: &mut watch::Receiver<Arc<model::Pool>>,
    listing: &Listing,
    events: &Events,
) {
    let (tell, mut told) = Tell::channel();
    let sources = Source::of(&config.borrow_and_update());
    let mut driver = Driver {
        discovery: Discovery::start(sources, listing.clone(), tell),
        probes: JoinSet::new(),
        kept: HashMap::new(),
        // What is known without asking anybody is used without delay.
        apply_at: Some(Instant::now()),
        pool: pool.clone(),
    };
    loop {
        driver.step();
        let wake_at = driver.wake_at();
        tokio::select! {
            changed = config.changed() => {
                if changed.is_err() {
                    return;
                }
                let config = config.borrow_and_update().clone();
                driver.pool.reconfigure(settings(&config));
                driver.discovery.replace(Source::of(&config));
                driver.apply_at = Some(Instant::now());
            }
            () = driver.discovery.changed(), if driver.apply_at.is_none() => {
                // Several sources, or a rolling update, change things one after the other; only
                // who has nobody takes the first one at once.
                let pause = match driver.pool.view().entries.is_empty() {
                    true => Duration::ZERO,
                    false => DEBOUNCE,
                };
                driver.apply_at = Some(Instant::now() + pause);
            }
            Some(news) = told.recv() => match news {
                News::Beat { address, cpu } => driver.pool.beat(address, cpu, Instant::now()),
                News::Event(event) => events.tell(pool.name(), event),
            },
            Some(done) = driver.probes.join_next() => driver.done(done),
            () = poll_fn(|cx| driver.pool.poll_hurried(cx)) => {}
            () = sleep_until(wake_at.into()) => {}
        }
    }
}

struct Driver {
    pool: Arc<Pool>,
    discovery: Discovery,
    probes: JoinSet<Done>,
    /// Idle connections for `GET /health`, one per streamer.
    kept: HashMap<StreamerId, Kept>,
    /// When the endpoints are to be applied.
    apply_at: Option<Instant>,
}

struct Kept {
    /// The connection is of use for this very streamer only, not for one of the same id at
    /// another address.
    streamer: Arc<Streamer>,
    stream: TcpStream,
    since: Instant,
}

/// A probe that has ended.
struct Done {
    probe: Probe,
    /// When its connection was made, or an earlier time.
    since: Instant,
    result: Result<Option<TcpStream>, ProbeError>,
}

impl Driver {
    /// Does everything that is due.
    fn step(&mut self) {
        let now = Instant::now();
        if self.apply_at.is_some_and(|at| at <= now) {
            self.apply_at = None;
            let endpoints = self.discovery.endpoints().clone();
            for id in self.announced() {
                self.pool.announce_leave(&id, now);
            }
            if self.pool.apply(&endpoints.0, now) {
                let view = self.pool.view();
                self.kept.retain(|id, _| view.find(id).is_some());
            }
        }
        self.pool.advance(now);
        let room = PROBES_IN_FLIGHT.saturating_sub(self.probes.len());
        for probe in self.pool.due(room, now) {
            let kept = match probe.kind {
                ProbeKind::Health => self.kept.remove(&probe.streamer.id),
                ProbeKind::Ddp => None,
            };
            let kept = kept.filter(|kept| {
                Arc::ptr_eq(&kept.streamer, &probe.streamer) && now - kept.since < KEEP_FOR
            });
            self.probes.spawn(send(probe, kept));
        }
    }

    /// The streamers in rotation that somebody who knows says will end.
    fn announced(&self) -> Vec<StreamerId> {
        let leaving = self.discovery.leaving();
        if leaving.is_empty() {
            return Vec::new();
        }
        let view = self.pool.view();
        let known = view.entries.iter().chain(&view.leaving);
        known
            .filter(|entry| leaving.contains(&entry.streamer.addr))
            .map(|entry| entry.streamer.id.clone())
            .collect()
    }

    fn done(&mut self, done: Result<Done, JoinError>) {
        let Ok(Done {
            probe,
            since,
            result,
        }) = done
        else {
            // The runtime counts and logs the panic; the pool gives the probe out again.
            return;
        };
        let streamer = &probe.streamer;
        let verdict = match result {
            Ok(kept) => {
                let view = self.pool.view();
                let listed = view
                    .find(&streamer.id)
                    .is_some_and(|entry| Arc::ptr_eq(&entry.streamer, streamer));
                if let Some(stream) = kept.filter(|_| listed) {
                    let kept = Kept {
                        streamer: streamer.clone(),
                        stream,
                        since,
                    };
                    self.kept.insert(streamer.id.clone(), kept);
                }
                Ok(())
            }
            Err(error) => {
                tracing::debug!(
                    pool = %self.pool.name(), streamer = %streamer.id, probe = probe.kind.label(), %error,
                    "a probe failed"
                );
                Err(fault(&error))
            }
        };
        self.pool.probed(&probe, verdict, Instant::now());
    }

    /// When something is due next.
    fn wake_at(&self) -> Instant {
        let latest = Instant::now() + LONGEST_SLEEP;
        let due = self.pool.next_due().unwrap_or(latest);
        // With all probes out, the next one waits for one that ends, not for a time.
        let due = if self.probes.len() >= PROBES_IN_FLIGHT {
            latest
        } else {
            due
        };
        due.min(self.apply_at.unwrap_or(latest)).min(latest)
    }
}

async fn send(probe: Probe, kept: Option<Kept>) -> Done {
    let since = kept.as_ref().map_or_else(Instant::now, |kept| kept.since);
    let kept = kept.map(|kept| kept.stream);
    let patience = Patience {
        connect: probe.connect_timeout,
        whole: probe.timeout,
    };
    let address = probe.streamer.addr.0;
    let result = match probe.kind {
        ProbeKind::Health => probe::health(address, kept, patience).await,
        ProbeKind::Ddp => probe::ddp(address, patience).await.map(|()| None),
    };
    Done {
        probe,
        since,
        result,
    }
}

fn fault(error: &ProbeError) -> Fault {
    match error {
        ProbeError::Connect(error) if is_shortage(error) => Fault::Ours,
        ProbeError::Connect(_) => Fault::Connect,
        ProbeError::Timeout => Fault::Timeout,
        ProbeError::Closed => Fault::Closed,
        ProbeError::Status(_)
        | ProbeError::NotHttp
        | ProbeError::WebSocket(_)
        | ProbeError::NotDdp => Fault::Answer,
    }
}

/// Probes of one pool at the same time; with more streamers than this that are all silent, probes
/// come late but do come.
pub(super) const PROBES_IN_FLIGHT: usize = 64;
/// A streamer may answer on connections that it has and yet refuse new ones, so a connection for
/// `GET /health` serves for a few probes only.
const KEEP_FOR: Duration = Duration::from_secs(1);
const RESTART_PAUSE: Duration = Duration::from_secs(1);
const DEBOUNCE: Duration = Duration::from_millis(200);
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
