//! The process as an object: built from a configuration, reloaded, drained.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use super::{
    banner, bounds,
    drain::{self, Exit, Progress},
    events_task::{self, Events},
    handover_task,
    listeners::Listeners,
    login_task, moves,
    pools::{Listings, Pools},
    rebalance::Rebalances,
    reload::{self, Applied, Outcome, ReloadError, Trigger, Wish},
    replicas_task::{self, Fellows, ReplicasReport},
    signals,
    streamer_drain::StreamerDrains,
    upkeep,
};
use crate::{
    base::{id::ListenAddr, secret::Secret},
    config::{Environment, model::Config},
    net::{
        gate::Gate,
        listen::{self, Accepted, Bound},
        tls,
        workers::Workers,
    },
    proxy::{
        connection,
        shared::{Phase, Shared},
        snapshot::Snapshot,
    },
    telemetry::{export, log::Log, process},
};

/// A running gateway. Stops accepting when dropped.
#[derive(Debug)]
pub struct App {
    control: Control,
}

/// What a start needs besides the configuration.
#[derive(Debug, Default)]
pub struct Options {
    /// Where a reload reads from.
    pub origin: Origin,
    /// What the configuration was made from.
    pub reading: Reading,
    /// Follows the configuration's filter, when given.
    pub log: Option<Log>,
    /// Serves the admin listener (`admin::serve`). Without it `admin` of the configuration has no
    /// effect.
    pub admin: Option<AdminServer>,
    /// Threads that carry the connections of clients. Without any, the runtime that the start is on
    /// carries them.
    pub workers: Workers,
}

/// Serves admin requests on a socket until it is told to stop.
pub type AdminServer =
    fn(Control, Bound, CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub enum Origin {
    /// Given by the caller: there is nothing to read again.
    #[default]
    Given,
    File {
        path: PathBuf,
        environment: Environment,
    },
}

/// What is known of a configuration besides its values.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Files that it was read from or names; a change of one reloads.
    pub files: Vec<PathBuf>,
    /// All values with their origin, secrets masked.
    pub effective: String,
}

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the system gives no randomness: {0}")]
    Randomness(String),
    #[error(transparent)]
    Config(#[from] ReloadError),
}

/// How a gateway ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything was closed, or the deadline was over.
    Drained,
    /// By a second signal.
    Cut,
}

/// A handle to a running gateway, for those who watch and steer it.
#[derive(Clone, Debug)]
pub struct Control(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) gate: Arc<Gate>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) exit: Exit,
    pub(super) streamer_drains: StreamerDrains,
    pub(super) rebalances: Rebalances,
    /// The other gateways.
    pub(super) fellows: Fellows,
    /// Something is to be moved earlier than was thought.
    pub(super) moves_due: Notify,
    pub(super) state: tokio::sync::Mutex<State>,
    pub(super) origin: Origin,
    pub(super) wishes: mpsc::Sender<Wish>,
    /// Ends what serves the process rather than clients.
    pub(super) stop: CancellationToken,
    pub(super) start_secret: Secret<Vec<u8>>,
    pub(super) log: Option<Log>,
    pub(super) admin_server: Option<AdminServer>,
    addresses: ArcSwap<Addresses>,
    outcome: Mutex<Option<Outcome>>,
    /// Listeners, and connections from accept to end.
    connections: TaskTracker,
    pub(super) started: Instant,
    /// What discovery knows of the pools.
    pub(super) listings: Listings,
}

/// What a reload replaces, held by whoever replaces it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) config: Arc<Config>,
    pub(super) reading: Reading,
    pub(super) listeners: Listeners,
    pub(super) pools: Pools,
    pub(super) admin: Option<Admin>,
}

#[derive(Debug)]
pub(super) struct Admin {
    /// As configured.
    pub(super) address: ListenAddr,
    local: SocketAddr,
    pub(super) stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Addresses {
    listeners: Vec<ListenAddr>,
    admin: Option<SocketAddr>,
}

impl App {
    /// Binds, starts everything and returns; clients are served from then on.
    ///
    /// # Errors
    /// All of them at once when addresses cannot be bound or certificates cannot be used; nothing
    /// is left running then.
    pub async fn start(config: Config, options: Options) -> Result<Self, StartError> {
        // First, so that all handles made below record something.
        export::recorder();
        process::record_build();
        let tls = tls::Terms::new().map_err(|error| StartError::Randomness(error.to_string()))?;
        let config = Arc::new(config);
        let gate = Arc::new(Gate::new(bounds::gate_terms(&config)));
        let connections = TaskTracker::new();
        let listeners = Listeners::new(gate.clone(), tls, connections.clone(), options.workers);
        let prepared = listeners.prepare(&config).map_err(ReloadError::Listeners)?;
        let admin = match (config.admin, options.admin) {
            (Some(address), Some(_)) => Some((address, bind_admin(address)?)),
            _ => None,
        };
        // Nothing fails from here on.
        let listings = Listings::default();
        let (events, heard) = Events::channel();
        let mut pools = Pools::new(listings.clone(), events);
        let start_secret = Secret::new(rand::random::<[u8; 32]>().to_vec());
        let snapshot = Snapshot::first(config.clone(), pools.apply(&config.pools), &start_secret);
        let (phase, phase_seen) = watch::channel(Phase::Running);
        let (wishes, wished) = mpsc::channel(WISHES);
        let inner = Arc::new(Inner {
            shared: Shared::new(snapshot, phase_seen),
            gate,
            phase,
            exit: Exit::new(),
            streamer_drains: StreamerDrains::default(),
            rebalances: Rebalances::default(),
            fellows: Fellows::new(config.replicas.as_deref()),
            moves_due: Notify::new(),
            state: tokio::sync::Mutex::new(State {
                config,
                reading: options.reading,
                listeners,
                pools,
                admin: None,
            }),
            origin: options.origin,
            wishes,
            stop: CancellationToken::new(),
            start_secret,
            log: options.log,
            admin_server: options.admin,
            addresses: ArcSwap::default(),
            outcome: Mutex::new(None),
            connections,
            started: Instant::now(),
            listings,
        });
        let mut state = inner.state.lock().await;
        state.listeners.apply(prepared, &inner.server());
        state.admin = admin.map(|(address, bound)| inner.start_admin(address, bound));
        inner.publish_addresses(&state);
        drop(state);
        let generation = inner.shared.snapshot.load().generation;
        reload::record(&Ok(&Applied {
            generation,
            changed: true,
            changes: Vec::new(),
            warnings: Vec::new(),
        }));
        tokio::spawn(reload::run(inner.clone(), wished));
        tokio::spawn(upkeep::run(inner.clone()));
        tokio::spawn(login_task::run(inner.clone()));
        tokio::spawn(events_task::run(inner.clone(), heard));
        tokio::spawn(moves::run(inner.clone()));
        tokio::spawn(handover_task::run(inner.clone()));
        tokio::spawn(replicas_task::run(inner.clone()));
        Ok(Self {
            control: Control(inner),
        })
    }

    /// Where clients can connect, in the order of the configuration; ports that were 0 are those
    /// that the system chose.
    pub fn addresses(&self) -> Vec<ListenAddr> {
        self.control.0.addresses.load().listeners.clone()
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.control.0.addresses.load().admin
    }

    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Replaces the configuration, or changes nothing.
    pub async fn reload(&self, config: Config) -> Result<Applied, ReloadError> {
        self.control.0.apply(config, Reading::default()).await
    }

    /// Starts to end; with a deadline other than the configured one, if given. Returns at once,
    /// [`Self::wait`] tells when it is done.
    pub async fn drain(&self, deadline: Option<Duration>) {
        self.control.0.drain(deadline, "asked by the caller").await;
    }

    /// Returns when a drain is over.
    pub async fn wait(&self) {
        self.control.0.exit.stopped.cancelled().await;
    }

    /// Serves the signals of the process until the gateway has ended. `ready` runs as soon as they
    /// are heard.
    ///
    /// # Errors
    /// When the system takes no signal handler.
    pub async fn serve_signals(&self, ready: impl Future<Output = ()>) -> io::Result<Ended> {
        signals::serve(self.control.0.clone(), ready).await
    }

    /// Logs what a person wants to know at the start: where it listens, who is behind it, what it
    /// may need, what is unprotected.
    pub async fn announce(&self) {
        let inner = &self.control.0;
        let (config, workers) = {
            let state = inner.state.lock().await;
            (state.config.clone(), state.listeners.workers().clone())
        };
        let room = inner.gate.max_connections();
        banner::announce(&config, &self.addresses(), self.admin(), room, &workers);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let inner = &self.control.0;
        inner.stop.cancel();
        if let Ok(mut state) = inner.state.try_lock() {
            state.close();
            state.pools = Pools::default();
        }
    }
}

impl Control {
    pub fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Loads the configuration file again.
    pub async fn reload(&self, trigger: Trigger) -> Result<Applied, Arc<ReloadError>> {
        let (reply, answer) = oneshot::channel();
        let wish = Wish {
            trigger,
            reply: Some(reply),
        };
        let stopping = || Arc::new(ReloadError::Stopping);
        self.0.wishes.send(wish).await.map_err(|_| stopping())?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Of the last reload, if there was one.
    pub fn last_reload(&self) -> Option<Outcome> {
        self.0.outcome().clone()
    }

    /// Starts to end, unless that is under way.
    pub async fn drain(&self, deadline: Option<Duration>, why: &'static str) -> bool {
        self.0.drain(deadline, why).await
    }

    pub fn progress(&self) -> Progress {
        self.0.exit.progress(self.0.sessions(), self.0.gate.open())
    }

    /// All values in use with their origin, secrets masked; empty when no file is behind them.
    pub async fn effective(&self) -> String {
        self.0.state.lock().await.reading.effective.clone()
    }

    /// The gateways that act as one with this one; `None` when it has no replicas.
    pub fn replicas(&self) -> Option<ReplicasReport> {
        self.0.fellows.report()
    }

    /// Brings gauges up to date that are only known by looking.
    pub fn observe(&self) {
        upkeep::observe(&self.0);
    }
}

impl Inner {
    /// What is done with an accepted connection.
    pub(super) fn server(
        self: &Arc<Self>,
    ) -> impl Fn(Accepted) -> Pin<Box<dyn Future<Output = ()> + Send>> + Clone + Send + Sync + 'static
    {
        let shared = self.shared.clone();
        move |accepted| Box::pin(connection::serve(shared.clone(), accepted))
    }

    pub(super) fn start_admin(self: &Arc<Self>, address: ListenAddr, bound: Bound) -> Admin {
        let local = bound.local().0;
        let stop = self.stop.child_token();
        debug!(address = %local, "admin listener opened");
        if let Some(server) = self.admin_server {
            tokio::spawn(server(Control(self.clone()), bound, stop.clone()));
        }
        Admin {
            address,
            local,
            stop,
        }
    }

    pub(super) fn publish_addresses(&self, state: &State) {
        self.addresses.store(Arc::new(Addresses {
            listeners: state.listeners.addresses(),
            admin: state.admin.as_ref().map(|admin| admin.local),
        }));
    }

    pub(super) async fn drain(
        self: &Arc<Self>,
        deadline: Option<Duration>,
        why: &'static str,
    ) -> bool {
        let mut terms = self.state.lock().await.config.drain.clone();
        if let Some(deadline) = deadline {
            terms.deadline = deadline;
        }
        drain::begin(self, terms, why)
    }

    /// Client sockets open now.
    pub(super) fn sessions(&self) -> usize {
        self.shared.registry.len()
    }

    /// Whether nobody is served any more.
    pub(super) fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.shared.tasks.is_empty()
    }

    pub(super) fn set_outcome(&self, outcome: Outcome) {
        *self.outcome() = Some(outcome);
    }

    fn outcome(&self) -> std::sync::MutexGuard<'_, Option<Outcome>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes no new client any more.
    pub(super) fn close(&self) {
        self.listeners.close();
    }
}

pub(super) fn bind_admin(address: ListenAddr) -> Result<Bound, ReloadError> {
    listen::bind(address).map_err(|error| ReloadError::Listeners(vec![error.into()]))
}

/// Reloads that may wait for the one under way; each loads everything anew, so one would do.
const WISHES: usize = 16;
