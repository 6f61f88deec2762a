//! Keeps this gateway in step with the others: tells them what it has, hears what they have, and
//! sees to it that nobody has too much.
//!
//! What is decided is decided in [`crate::replicas`]; here are the bus, the clock, and those that
//! are told: pools, the login queue and the quotas.

use std::{
    convert::Infallible,
    fs,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use metrics::{Counter, Gauge};
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};

use super::app::Inner;
use crate::{
    base::id::StreamerId,
    bus::{self, Link, LinkError, Post, Turn, jitter},
    config::model,
    pool,
    replicas::{
        Charge, Charges, Demand, MOST_CHARGES, News, Phase, Replica, ReplicaId, Replicas, State,
        Terms, Unusable, Usage,
    },
    session::quota::{Mirrored, Used},
    telemetry::{names, seldom::Seldom},
};

/// This gateway among the others, for those who look at it.
#[derive(Debug)]
pub(super) struct Fellows {
    /// What the other gateways are reached by.
    pub(super) post: Post,
    config: watch::Sender<Option<model::Replicas>>,
    leaving: watch::Sender<bool>,
    left: watch::Sender<bool>,
    report: Mutex<Option<ReplicasReport>>,
}

/// The replicas on the admin pages.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicasReport {
    /// The bus, without credentials.
    pub bus: String,
    pub subject: String,
    pub id: String,
    pub name: String,
    /// `together`, `alone`, `learning` (who else there is) or `away` (the bus).
    pub state: &'static str,
    /// Why the bus is away.
    pub error: Option<String>,
    /// This gateway's part of the pace of logins.
    pub login_share: f64,
    pub others: Vec<ReplicaReport>,
}

/// Another gateway.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaReport {
    pub id: String,
    pub name: String,
    pub known_for_seconds: f64,
    pub heard_seconds_ago: f64,
    pub sessions: u32,
    pub waiting: u32,
    /// Logins that wait or are in flight there.
    pub logins: u32,
}

impl Fellows {
    pub(super) fn new(config: Option<&model::Replicas>) -> Self {
        Self {
            post: Post::default(),
            config: watch::Sender::new(config.cloned()),
            leaving: watch::Sender::new(false),
            left: watch::Sender::new(false),
            report: Mutex::new(None),
        }
    }

    /// A reload says so.
    pub(super) fn reconfigure(&self, config: Option<&model::Replicas>) {
        self.config.send_if_modified(|current| {
            let changed = current.as_ref() != config;
            if changed {
                *current = config.cloned();
            }
            changed
        });
    }

    /// Tells the others that this gateway holds nothing any more; returns soon in any case.
    pub(super) async fn leave(&self) {
        if self.config.borrow().is_none() {
            return;
        }
        self.leaving.send_replace(true);
        let mut left = self.left.subscribe();
        let said = left.wait_for(|left| *left);
        let _ = tokio::time::timeout(FAREWELL, said).await;
    }

    /// `None`: this gateway has no replicas.
    pub(super) fn report(&self) -> Option<ReplicasReport> {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn show(&self, report: Option<ReplicasReport>) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

/// Runs until the process stops.
///
/// Claims that nobody renews would hold clients up for ever, so a defect that panics in here costs a
/// second, and what is shared is forgotten.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut config = inner.fellows.config.subscribe();
    loop {
        let wanted = config.borrow_and_update().clone();
        let Some(wanted) = wanted else {
            tokio::select! {
                () = inner.stop.cancelled() => return,
                changed = config.changed() => if changed.is_err() { return },
            }
            continue;
        };
        let sharing = Box::pin(share(&inner, &wanted, &mut config));
        let ended = tokio::select! {
            () = inner.stop.cancelled() => return,
            ended = AssertUnwindSafe(sharing).catch_unwind() => ended,
        };
        alone(&inner);
        match ended {
            Ok(Ended::Reconfigured) => {}
            Ok(Ended::Left) => return inner.stop.cancelled().await,
            Err(_) => {
                tracing::error!(
                    "the task that keeps this gateway in step with the others ended by a panic and \
                     starts again: report this defect"
                );
                sleep(RESTART_PAUSE).await;
            }
        }
    }
}

/// Why nothing is shared any more; the others have been told.
enum Ended {
    /// There are other terms, or none.
    Reconfigured,
    /// The process ends.
    Left,
}

/// Nothing is shared any more.
fn alone(inner: &Inner) {
    let now = Instant::now();
    for pool in &inner.shared.snapshot.load().pools {
        pool.set_elsewhere(0, 0);
        pool.share(now, |_, _, all| {
            let none = pool::Shared {
                claim: None,
                elsewhere: 0,
            };
            vec![none; all.len()]
        });
    }
    inner.shared.logins.set_shares(1.0, |_| 1.0, 1.0, now);
    inner.shared.quotas.set_mirrored(false);
    inner.fellows.post.unplug();
    inner.fellows.show(None);
    names::REPLICAS.gauge(&[]).set(1.0);
}

/// Ends when the others have been told that this gateway leaves, be it for good or because they are
/// to be met on other terms.
async fn share(
    inner: &Inner,
    config: &model::Replicas,
    configured: &mut watch::Receiver<Option<model::Replicas>>,
) -> Ended {
    let post = &inner.fellows.post;
    let (state, mut link) = watch::channel(Some(LinkError::Lost));
    let kept = keep(config, post, state);
    let mut member = Member::new(inner, config);
    let told = async {
        let mut hearing = post.hear(format!("{}.state", config.subject));
        let mut leaving = inner.fellows.leaving.subscribe();
        loop {
            member.step().await;
            let wake_at = member.wake_at();
            tokio::select! {
                message = hearing.next() => member.hear(&message.payload),
                changed = link.changed() => {
                    if changed.is_ok() {
                        let state = link.borrow_and_update().clone();
                        member.turned(state);
                    }
                }
                left = async { leaving.wait_for(|leaving| *leaving).await.is_ok() } => {
                    if left {
                        member.leave().await;
                        return Ended::Left;
                    }
                }
                changed = configured.changed() => {
                    member.leave().await;
                    return match changed {
                        Ok(()) => Ended::Reconfigured,
                        Err(_) => Ended::Left,
                    };
                }
                () = sleep_until(wake_at.into()) => {}
            }
        }
    };
    let ended = tokio::select! {
        never = kept => match never {},
        ended = told => ended,
    };
    if matches!(ended, Ended::Left) {
        inner.fellows.left.send_replace(true);
    }
    ended
}

/// Keeps a connection, and says how it is.
async fn keep(
    config: &model::Replicas,
    post: &Post,
    state: watch::Sender<Option<LinkError>>,
) -> Infallible {
    let source = config.name();
    let meters = bus::Meters::new(&source);
    let said = Seldom::new(SAY_EVERY);
    let mut pause = RETRY_FIRST;
    loop {
        match Link::connect(&config.bus, &meters).await {
            Ok(mut link) => {
                pause = RETRY_FIRST;
                post.plug(&link);
                meters.up.set(1.0);
                let server = link.server();
                tracing::info!(%source, %server, "replicas: connected to the message bus at {source}");
                state.send_replace(None);
                follow(&mut link, &source, &meters, &state).await;
                post.unplug();
                meters.up.set(0.0);
                state.send_replace(Some(LinkError::Lost));
            }
            Err(error) => {
                if said.due(Instant::now()).is_some() {
                    tracing::warn!(
                        %source, %error,
                        "replicas: no message bus at {source}: {error}; this gateway counts \
                         sessions, logins and quotas alone until there is one"
                    );
                }
                state.send_replace(Some(error));
            }
        }
        sleep(jitter(pause)).await;
        pause = (pause * 2).min(RETRY_MOST);
    }
}

async fn follow(
    link: &mut Link,
    source: &str,
    meters: &bus::Meters,
    state: &watch::Sender<Option<LinkError>>,
) {
    loop {
        match link.turn().await {
            Turn::Restored => {
                meters.up.set(1.0);
                tracing::info!(
                    source,
                    "replicas: connected to the message bus at {source} again"
                );
                state.send_replace(None);
            }
            Turn::Lost => {
                meters.up.set(0.0);
                tracing::warn!(
                    source,
                    "replicas: the message bus at {source} is lost; what was agreed on with other \
                     gateways holds for 3.5 s, then this one counts alone"
                );
                state.send_replace(Some(LinkError::Lost));
            }
            Turn::LameDuck => link.leave_server().await,
            Turn::Forbidden(text) => {
                tracing::warn!(
                    source, answer = %text,
                    "replicas: the server of the message bus {source} refuses something: {text}; \
                     the permissions that the gateway needs are in the README"
                );
                state.send_replace(Some(LinkError::Forbidden(text)));
            }
            // The next packet of each says all that the lost ones did.
            Turn::Overrun => {}
            Turn::Ended => return,
        }
    }
}

/// This gateway while it takes part.
struct Member<'a> {
    inner: &'a Inner,
    config: &'a model::Replicas,
    machine: Replicas,
    name: String,
    meters: Meters,
    error: Option<LinkError>,
    look_at: Instant,
    charges_at: Instant,
    /// Others name accounts otherwise: it was said.
    strangers: bool,
    full: Seldom,
}

struct Meters {
    replicas: Gauge,
    sent: Counter,
    heard: Counter,
    unusable: [(Unusable, Counter); Unusable::ALL.len()],
    charges_sent: Counter,
    charges_heard: Counter,
}

impl<'a> Member<'a> {
    fn new(inner: &'a Inner, config: &'a model::Replicas) -> Self {
        let now = Instant::now();
        let name = host_name();
        let packets = |result| names::REPLICA_PACKETS.counter(&[result]);
        inner.shared.quotas.set_mirrored(true);
        Self {
            inner,
            config,
            machine: Replicas::new(ReplicaId(rand::random()), name.clone(), now),
            name,
            meters: Meters {
                replicas: names::REPLICAS.gauge(&[]),
                sent: packets("sent"),
                heard: packets("ok"),
                unusable: Unusable::ALL.map(|why| (why, packets(why.label()))),
                charges_sent: names::REPLICA_CHARGES.counter(&["sent"]),
                charges_heard: names::REPLICA_CHARGES.counter(&["heard"]),
            },
            error: None,
            look_at: now,
            charges_at: now,
            strangers: false,
            full: Seldom::new(SAY_EVERY),
        }
    }

    /// Does everything that is due.
    async fn step(&mut self) {
        let now = Instant::now();
        for silent in self.machine.handle_timeout(now) {
            let (name, id) = (&silent.state.name, silent.state.id);
            tracing::warn!(
                replica = %id, name = %name,
                "replicas: gateway {name} ({id}) was not heard for {:.1} s and is not counted with \
                 any more; if it lives, it and this gateway together may now exceed limits",
                now.saturating_duration_since(silent.heard_at).as_secs_f64(),
            );
        }
        if self.look_at <= now {
            self.look_at = now + LOOK_EVERY;
            self.look(now);
        }
        if let Some(mut state) = self.machine.packet(rand::random(), now) {
            self.add_charges(&mut state, now);
            if let Some(payload) = state.to_payload() {
                let subject = format!("{}.state", self.config.subject);
                self.inner.fellows.post.publish(subject, payload).await;
                self.meters.sent.increment(1);
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let due = self.machine.next_due();
        due.map_or(self.look_at, |due| due.min(self.look_at))
    }

    /// Settles what this gateway may have.
    fn look(&mut self, now: Instant) {
        let snapshot = self.inner.shared.snapshot.load();
        let machine = &mut self.machine;
        machine.retain_pools(|name| {
            snapshot
                .pools
                .iter()
                .any(|pool| pool.name().as_str() == name)
        });
        for pool in &snapshot.pools {
            let name = pool.name().as_str();
            let others = machine
                .others()
                .filter_map(|other| other.state.pools.get(name));
            let (mut count, mut clients) = (0, 0);
            for other in others {
                count += 1;
                clients += u64::from(other.sessions) + u64::from(other.waiting);
            }
            pool.set_elsewhere(count, clients);
            pool.share(now, |sessions, waiting, all| {
                let usage = |one: &pool::Sharing| Usage {
                    held: one.held,
                    limit: one.limit,
                    waiting,
                };
                let all: Vec<(&str, Usage)> = all
                    .iter()
                    .map(|one| (one.streamer.as_str(), usage(one)))
                    .collect();
                let terms = machine.claim(name, sessions, waiting, &all);
                let shared = |terms: Terms| pool::Shared {
                    claim: terms.claim,
                    elsewhere: terms.others,
                };
                terms.into_iter().map(shared).collect()
            });
        }
        let logins = &self.inner.shared.logins;
        let (whole, streamers) = logins.demand();
        let streamers = streamers.into_iter();
        machine.set_demand(Demand {
            whole,
            streamers: streamers
                .map(|(id, logins)| (id.as_str().to_owned(), logins))
                .collect(),
        });
        let of = |id: &StreamerId| machine.share(Some(id.as_str()), now);
        let (whole, idle) = (machine.share(None, now), machine.share(Some(""), now));
        logins.set_shares(whole, of, idle, now);
        if self.inner.shared.quotas.has_penalties() {
            machine.hurry();
        }
        self.meters
            .replicas
            .set(machine.others().map(|_| 1.0).sum::<f64>() + 1.0);
        self.inner.fellows.show(Some(self.report(now)));
    }

    /// What users and addresses have used, once a second, and who was punished, at once.
    fn add_charges(&mut self, state: &mut State, now: Instant) {
        let quotas = &self.inner.shared.quotas;
        let due = self.charges_at <= now;
        if !due && !quotas.has_penalties() {
            return;
        }
        self.charges_at = now + CHARGES_EVERY;
        let gateways = u32::try_from(self.machine.others().count()).unwrap_or(u32::MAX);
        // Who uses less than this at each of them is within the limits in any case.
        let least = CHARGES_EVERY / gateways.saturating_add(1);
        let mirrored = quotas.take_mirrored(least, MOST_USERS);
        if gateways == 0 || mirrored == Mirrored::default() {
            return;
        }
        let charge = |used: &Used| Charge(used.subject, used.account, used.rule, used.nanos);
        let charges: Vec<Charge> = mirrored.used.iter().map(charge).collect();
        self.meters.charges_sent.increment(charges.len() as u64);
        state.quotas = Some(Charges {
            names: quotas.names(),
            charges,
            penalties: mirrored.penalties,
        });
    }

    fn hear(&mut self, payload: &[u8]) {
        let now = Instant::now();
        let state = match State::parse(payload) {
            Ok(state) if state.id == self.machine.id() => return,
            Ok(state) => state,
            Err(why) => return self.passed_over(why),
        };
        let (id, name, quotas) = (state.id, state.name.clone(), state.quotas.clone());
        match self.machine.handle(state, now) {
            Ok(News::Joined) => tracing::info!(
                replica = %id, name = %name,
                "replicas: gateway {name} ({id}) is there; sessions, logins and quotas are counted \
                 together"
            ),
            Ok(News::Left) => tracing::info!(
                replica = %id, name = %name, "replicas: gateway {name} ({id}) has left"
            ),
            Ok(News::Awaits | News::Nothing) => {}
            Err(why) => return self.passed_over(why),
        }
        self.meters.heard.increment(1);
        self.look_at = self.look_at.min(now + LOOK_SOON);
        if let Some(quotas) = quotas {
            self.mirror(quotas, &name, now);
        }
    }

    fn mirror(&mut self, charges: Charges, name: &str, now: Instant) {
        let quotas = &self.inner.shared.quotas;
        if charges.names != quotas.names() {
            if !std::mem::replace(&mut self.strangers, true) {
                tracing::warn!(
                    name,
                    "replicas: gateway {name} has another affinity.secret than this one, so each \
                     counts the quotas of users and addresses alone, and cookies of the one mean \
                     nothing to the other; give all the same secret and restart them"
                );
            }
            return;
        }
        self.meters
            .charges_heard
            .increment(charges.charges.len() as u64);
        let used = |Charge(subject, account, rule, nanos): &Charge| Used {
            subject: *subject,
            account: *account,
            rule: *rule,
            nanos: *nanos,
        };
        let mirrored = Mirrored {
            used: charges.charges.iter().map(used).collect(),
            penalties: charges.penalties,
        };
        let rules = self.inner.shared.terms.load();
        quotas.mirror(&rules.rules.quotas, &mirrored, now);
    }

    fn passed_over(&self, why: Unusable) {
        let counter = self.meters.unusable.iter().find(|(known, _)| *known == why);
        counter.inspect(|(_, counter)| counter.increment(1));
        if why == Unusable::TooMany && self.full.due(Instant::now()).is_some() {
            tracing::warn!(
                "replicas: there are 64 gateways already, and what further ones say is passed over: \
                 give a part of them another `subject` and streamers of their own"
            );
        }
    }

    /// The bus is there, or why not.
    fn turned(&mut self, trouble: Option<LinkError>) {
        match trouble {
            None => self.machine.handle_connected(Instant::now()),
            Some(_) => self.machine.handle_disconnected(),
        }
        self.error = trouble;
        self.look_at = Instant::now();
    }

    async fn leave(&mut self) {
        let post = &self.inner.fellows.post;
        if let Some(payload) = self.machine.farewell().to_payload() {
            let subject = format!("{}.state", self.config.subject);
            post.publish(subject, payload).await;
            post.flush().await;
        }
    }

    fn report(&self, now: Instant) -> ReplicasReport {
        let machine = &self.machine;
        let other = |replica: &Replica| {
            let pools = replica.state.pools.values();
            let seconds = |since| now.saturating_duration_since(since).as_secs_f64();
            ReplicaReport {
                id: replica.state.id.to_string(),
                name: replica.state.name.clone(),
                known_for_seconds: seconds(replica.since),
                heard_seconds_ago: seconds(replica.heard_at),
                sessions: pools.clone().map(|pool| pool.sessions).sum(),
                waiting: pools.map(|pool| pool.waiting).sum(),
                logins: replica.state.logins.whole,
            }
        };
        ReplicasReport {
            bus: self.config.bus.name(),
            subject: self.config.subject.clone(),
            id: machine.id().to_string(),
            name: self.name.clone(),
            state: match machine.phase() {
                Phase::Away => "away",
                Phase::Learning { .. } => "learning",
                Phase::Knowing if machine.is_alone() => "alone",
                Phase::Knowing => "together",
            },
            error: self.error.as_ref().map(ToString::to_string),
            login_share: machine.share(None, now),
            others: machine.others().map(other).collect(),
        }
    }
}

/// In Kubernetes the name of the pod.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "ddp-gateway".to_owned(),
        name => name.to_owned(),
    }
}

/// Sessions come and go without a word to this task.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What another gateway says is of interest at once, but not a hundred times in a moment.
const LOOK_SOON: Duration = Duration::from_millis(5);
const CHARGES_EVERY: Duration = Duration::from_secs(1);
/// Of one packet; the rest of [`MOST_CHARGES`] is for penalties.
const MOST_USERS: usize = MOST_CHARGES - 100;
const FAREWELL: Duration = Duration::from_millis(500);
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(2);
const SAY_EVERY: Duration = Duration::from_secs(60);
const RESTART_PAUSE: Duration = Duration::from_secs(1);
