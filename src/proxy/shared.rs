//! What all requests and relays of the process share.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use metrics::{Counter, Gauge, Histogram};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::{
    detached::Detached,
    handover::Handover,
    introduction::Introductions,
    meters::{MoveMeters, RequestMeters},
    registry::{Entry, Registry},
    reloads::{Herd, Reloads},
    snapshot::Snapshot,
};
use crate::{
    base::chunk::Budget,
    config::model::{self, Config},
    net::splice::Pipes,
    pool::{
        Pool, Recall,
        logins::{LoginSettings, Logins},
    },
    session::{
        ForcedLogouts, QuotaRules, Quotas, Rules, Side, Timeouts,
        limits::Allowance,
        quota::{Abuse, Quota},
    },
    telemetry::{names, process},
};

/// Where the process is in its life; see the module `control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// No new work is invited, what is there goes on.
    Draining,
    /// Listeners are closed, HTTP finishes, sockets are being closed.
    Closing,
}

/// One per process.
#[derive(Debug)]
pub struct Shared {
    /// What new requests see. Replaced as a whole by a reload.
    pub snapshot: ArcSwap<Snapshot>,
    /// What live sessions see. Changes with a reload.
    pub terms: LiveTerms,
    pub registry: Arc<Registry>,
    pub recall: Recall,
    /// For answers that go past HTTP.
    pub pipes: Pipes,
    /// Sessions by the names that their clients know.
    pub(super) detached: Detached,
    /// Sessions that change between gateways.
    pub handover: Handover,
    /// Who may log in; for all pools.
    pub logins: Arc<Logins>,
    /// Who was logged out by force lately.
    pub forced_logouts: ForcedLogouts,
    /// When clients hear of a new version of the web client.
    pub reloads: Reloads,
    /// Who has asked for how much.
    pub quotas: Arc<Quotas>,
    pub budget: Arc<Budget>,
    /// Turns to dial a streamer. When a whole pool comes back, those who waited for it would
    /// otherwise all be at it at once, and a newcomer would see its `o` behind them.
    pub(super) attaching: Semaphore,
    /// Relays, connections and tunnels; empty means that nobody is served any more.
    pub tasks: TaskTracker,
    pub phase: watch::Receiver<Phase>,
    pub meters: Meters,
    pub(super) introductions: Introductions,
}

impl Shared {
    pub fn new(snapshot: Arc<Snapshot>, phase: watch::Receiver<Phase>) -> Arc<Self> {
        let config = snapshot.config.clone();
        let budget = Arc::new(Budget::new(config.websocket.buffer_total));
        let terms = LiveTerms::new(Terms::new(&config));
        let forced_logouts = ForcedLogouts::default();
        forced_logouts.expect(hears_events(&config));
        Arc::new(Self {
            snapshot: ArcSwap::new(snapshot),
            terms,
            registry: Arc::new(Registry::default()),
            recall: Recall::new(RECALLED, config.affinity.remember),
            pipes: Pipes::new(process::descriptor_limit()),
            logins: Logins::new(login_settings(&config.logins), Instant::now()),
            quotas: Arc::new(quotas(&config)),
            detached: Detached::default(),
            forced_logouts,
            reloads: Reloads::new(),
            handover: Handover::new(),
            budget,
            attaching: Semaphore::new(ATTACHING),
            tasks: TaskTracker::new(),
            phase,
            meters: Meters::new(),
            introductions: Introductions::default(),
        })
    }

    /// Makes `snapshot` what new requests see and its limits those of live sessions.
    pub fn install(&self, snapshot: Arc<Snapshot>) {
        self.budget
            .set_limit(snapshot.config.websocket.buffer_total);
        self.terms.set(Terms::new(&snapshot.config));
        self.forced_logouts.expect(hears_events(&snapshot.config));
        self.logins
            .reconfigure(login_settings(&snapshot.config.logins), Instant::now());
        self.snapshot.store(snapshot);
    }

    /// The session that its client or its streamer calls so, as far as that is known: it may be
    /// another one with the same hash.
    pub fn find_named(&self, name: &str) -> Option<Arc<Entry>> {
        let newest = self.registry.newest();
        self.registry.find(self.detached.holder(name, newest)?)
    }

    /// A client is to get this version of the web client; how long it does not yet, if it is one of
    /// many that reload for it.
    pub(super) fn client_version(
        &self,
        json: &str,
        changed: bool,
        now: Instant,
    ) -> Option<Duration> {
        match self.herd().filter(|_| changed) {
            Some(herd) => self.reloads.delay(json, herd, rand::random(), now),
            None => {
                self.reloads.learn(json);
                None
            }
        }
    }

    /// The bus says which version web clients are to have.
    pub fn expect_version(&self, kind: &str, version: &str, now: Instant) {
        if let Some(herd) = self.herd() {
            self.reloads.expect(kind, version, herd, now);
        }
    }

    /// All clients, if their logins are paced.
    fn herd(&self) -> Option<Herd> {
        let sessions = self.registry.len();
        let rate = self.logins.paced_rate()?;
        Some(Herd { sessions, rate })
    }

    /// Whether a new client has a chance, be it of a place or of its turn to log in.
    pub(super) fn accepting(&self, pool: &Pool) -> bool {
        pool.accepting() && self.logins.accepting()
    }

    /// Whether a client that is lost may come back for its session: here, or when this gateway ends,
    /// by way of another one.
    pub(super) fn expects_returns(&self) -> bool {
        self.phase() == Phase::Running || self.handover.is_open()
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }
}

/// Rules that apply to live sessions at once when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub rules: Arc<Rules>,
    /// Bytes that may wait for one client.
    pub buffer: usize,
    /// Largest message of a client in bytes.
    pub message_limit: u64,
}

impl Terms {
    pub fn new(config: &Config) -> Self {
        let (messages, bytes) = (config.limits.messages, config.limits.bytes);
        Self {
            rules: Arc::new(Rules {
                allowance: Allowance {
                    messages_per_second: whole(messages.per_second),
                    messages_burst: whole(messages.burst),
                    bytes_per_second: whole(bytes.per_second),
                    bytes_burst: whole(bytes.burst),
                    abuse_after: config.limits.abuse_after,
                },
                quotas: quota_rules(&config.limits.methods),
                timeouts: Timeouts {
                    connect: config.websocket.connect_timeout,
                    idle: config.websocket.idle_timeout,
                    stall: config.websocket.stall_timeout,
                    resume: config.websocket.resume_grace,
                },
            }),
            buffer: config.websocket.buffer,
            message_limit: config.websocket.message_limit,
        }
    }
}

/// The rules now in force, with a number that a relay compares before it reads them.
#[derive(Debug)]
pub struct LiveTerms {
    version: AtomicU32,
    terms: ArcSwap<Terms>,
}

impl LiveTerms {
    fn new(terms: Terms) -> Self {
        Self {
            version: AtomicU32::new(1),
            terms: ArcSwap::from_pointee(terms),
        }
    }

    /// Leaves the number alone when nothing changed, so that a reload of something else does not
    /// forgive a client what it owes.
    fn set(&self, terms: Terms) {
        if **self.terms.load() != terms {
            self.terms.store(Arc::new(terms));
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    pub(super) fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    pub fn load(&self) -> Arc<Terms> {
        self.terms.load_full()
    }
}

/// Handles of the relays' metrics.
#[derive(Debug)]
pub struct Meters {
    pub messages_up: Counter,
    pub messages_down: Counter,
    pub bytes_up: Counter,
    pub bytes_down: Counter,
    pub accept_seconds: Histogram,
    pub attach_seconds: Histogram,
    pub session_seconds: Histogram,
    pub affinity_kept: Counter,
    pub affinity_moved: Counter,
    pub affinity_new: Counter,
    pub limited_messages: Counter,
    pub limited_bytes: Counter,
    pub opened_raw: Counter,
    pub opened_sockjs: Counter,
    pub greeting: Gauge,
    pub attaching: Gauge,
    pub anonymous: Gauge,
    pub logging_in: Gauge,
    pub logged_in: Gauge,
    pub closing: Gauge,
    pub detached: Gauge,
    /// Clients that came back: to their session, to its leg only, or with the wrong token.
    pub resumed: Counter,
    pub rebound: Counter,
    pub resume_refused: Counter,
    /// Sessions whose client did not come back in time, or missed too much.
    pub resume_expired: Counter,
    pub resume_overflow: Counter,
    pub(super) requests: RequestMeters,
    pub(super) moves: MoveMeters,
}

impl Meters {
    fn new() -> Self {
        Self {
            messages_up: names::SESSION_MESSAGES.counter(&["up"]),
            messages_down: names::SESSION_MESSAGES.counter(&["down"]),
            bytes_up: names::SESSION_BYTES.counter(&["up"]),
            bytes_down: names::SESSION_BYTES.counter(&["down"]),
            accept_seconds: names::ACCEPT_SECONDS.histogram(&[]),
            attach_seconds: names::ATTACH_SECONDS.histogram(&[]),
            session_seconds: names::SESSION_SECONDS.histogram(&[]),
            affinity_kept: names::AFFINITY.counter(&["kept"]),
            affinity_moved: names::AFFINITY.counter(&["moved"]),
            affinity_new: names::AFFINITY.counter(&["new"]),
            limited_messages: names::LIMITED.counter(&["messages"]),
            limited_bytes: names::LIMITED.counter(&["bytes"]),
            opened_raw: names::SESSIONS_OPENED.counter(&["raw"]),
            opened_sockjs: names::SESSIONS_OPENED.counter(&["sockjs"]),
            greeting: names::SESSIONS.gauge(&["greeting"]),
            attaching: names::SESSIONS.gauge(&["attaching"]),
            anonymous: names::SESSIONS.gauge(&["anonymous"]),
            logging_in: names::SESSIONS.gauge(&["logging_in"]),
            logged_in: names::SESSIONS.gauge(&["logged_in"]),
            closing: names::SESSIONS.gauge(&["closing"]),
            detached: names::SESSIONS.gauge(&["detached"]),
            resumed: names::RESUMES.counter(&["resumed"]),
            rebound: names::RESUMES.counter(&["rebound"]),
            resume_refused: names::RESUMES.counter(&["refused"]),
            resume_expired: names::RESUMES.counter(&["expired"]),
            resume_overflow: names::RESUMES.counter(&["overflow"]),
            requests: RequestMeters::new(),
            moves: MoveMeters::new(),
        }
    }

    /// Once per session, at its end.
    pub(super) fn closed(&self, reason: &'static str, by: Side) -> Counter {
        names::SESSIONS_CLOSED.counter(&[reason, by.label()])
    }
}

/// Whether somebody listens to what the services tell each other.
fn hears_events(config: &Config) -> bool {
    let buses = config.pools.iter().filter_map(|pool| pool.nats.as_ref());
    buses.into_iter().any(|nats| nats.events)
}

/// What the configuration of logins means to [`Logins`].
fn login_settings(config: &model::Logins) -> LoginSettings {
    LoginSettings {
        pace: config.pace,
        streamer_concurrency: config.streamer_concurrency,
        concurrency: config.concurrency,
        streamer_rate: config.streamer_rate,
        rate: config.rate,
        latency_target: config.latency_target,
        timeout: config.timeout,
        queue_length: config.queue_length,
    }
}

/// Accounts that replicas have by the same names, if there may be replicas.
fn quotas(config: &Config) -> Quotas {
    let now = Instant::now();
    match (&config.affinity.secret, &config.replicas) {
        (Some(secret), Some(_)) => Quotas::named_after(secret.expose(), now),
        (None, Some(replicas)) => Quotas::named_after(replicas.subject.as_bytes(), now),
        (_, None) => Quotas::new(rand::random(), now),
    }
}

/// What the configuration of methods and subscriptions means to [`Quotas`].
fn quota_rules(config: &model::MethodLimits) -> QuotaRules {
    let quota = |limit: model::Quota| Quota::new(whole(limit.requests), limit.interval);
    QuotaRules {
        connection: config.connection.map(quota),
        user: config.user.map(quota),
        address: config.address.map(quota),
        connection_method: config.connection_by_method.map(quota),
        user_method: config.user_by_method.map(quota),
        abuse: config.abuse.map(|refusals| Abuse {
            refusals: quota(refusals),
            penalty: config.penalty,
        }),
    }
}

/// A rate of the configuration is never 0; see `config::model::Rate`.
fn whole(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).unwrap_or(NonZeroU32::MIN)
}

/// Legs that are dialled at the same time. A leg takes some milliseconds; one to a streamer that hangs
/// takes the attach timeout, but such a streamer gets no new ones within two seconds.
const ATTACHING: usize = 64;

/// Sessions whose streamer is remembered for their return.
const RECALLED: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::{QuotaRules, Terms};
    use crate::config::{self, Environment};

    #[test]
    fn the_default_quotas_are_rocket_chats() {
        let text = "monolith = \"http://127.0.0.1:1\"\nstreamers = [\"127.0.0.1:2\"]";
        let loaded = config::from_str("proxy.toml", text, &Environment::empty()).unwrap();
        let terms = Terms::new(&loaded.config);
        assert_eq!(terms.rules.quotas, QuotaRules::default());
    }
}
