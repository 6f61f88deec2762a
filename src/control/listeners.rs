//! The listeners of the process, kept by address from one configuration to the next.

use std::{future::Future, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    base::id::ListenAddr,
    config::model::{Config, Listener},
    net::{
        gate::Gate,
        listen::{self, Accepted, BindError, Bound, Sharing},
        tls::{self, CertStore, CertificateError, Certificates},
        workers::Workers,
    },
    telemetry::names,
};

/// All listeners, and what each does with its next connection.
#[derive(Debug)]
pub(super) struct Listeners {
    open: Vec<Open>,
    gate: Arc<Gate>,
    tls: tls::Terms,
    tasks: TaskTracker,
    workers: Workers,
}

#[derive(Debug)]
struct Open {
    /// As configured; the port may be 0.
    address: ListenAddr,
    /// As bound.
    local: ListenAddr,
    terms: Arc<ArcSwap<listen::Terms>>,
    certificates: Option<Arc<CertStore>>,
    stop: CancellationToken,
}

/// The listeners of the next configuration: bound, certificates read, nothing changed yet.
///
/// Dropped unapplied it closes what it bound.
#[derive(Debug)]
pub(super) struct Prepared {
    planned: Vec<Planned>,
    /// Certificates that stay in use because their files are broken now.
    pub(super) kept: Vec<CertificateError>,
}

#[derive(Debug)]
struct Planned {
    terms: listen::Terms,
    certificates: Option<Certificates>,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    /// Index into [`Listeners::open`].
    Kept(usize),
    New(Bound),
}

/// Why the listeners of a configuration cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("certificate {0}")]
    Certificate(#[from] CertificateError),
}

impl Listeners {
    pub(super) fn new(
        gate: Arc<Gate>,
        tls: tls::Terms,
        tasks: TaskTracker,
        workers: Workers,
    ) -> Self {
        Self {
            open: Vec::new(),
            gate,
            tls,
            tasks,
            workers,
        }
    }

    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Binds and reads everything that `config` needs and that is not there yet. All faults at
    /// once.
    pub(super) fn prepare(&self, config: &Config) -> Result<Prepared, Vec<ListenerError>> {
        let mut faults = Vec::new();
        let mut kept = Vec::new();
        let mut taken = vec![false; self.open.len()];
        let mut planned = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            let old = self
                .open
                .iter()
                .zip(&taken)
                .position(|(open, taken)| open.address == listener.address && !taken);
            if let Some(index) = old {
                taken[index] = true;
            }
            let store = old.and_then(|index| self.open[index].certificates.as_ref());
            let certificates = match listener.tls.as_slice() {
                [] => None,
                wanted => {
                    let current = store.map(|store| store.current());
                    match Certificates::load(wanted, current.as_deref()) {
                        Ok((certificates, stood_in)) => {
                            kept.extend(stood_in);
                            Some(certificates)
                        }
                        Err(unusable) => {
                            faults.extend(unusable.into_iter().map(ListenerError::from));
                            continue;
                        }
                    }
                }
            };
            let socket = match old {
                Some(index) => Socket::Kept(index),
                None => match listen::bind_on(listener.address, sharing(listener), &self.workers) {
                    Ok(bound) => Socket::New(bound),
                    Err(fault) => {
                        faults.push(fault.into());
                        continue;
                    }
                },
            };
            planned.push(Planned {
                terms: listen::Terms {
                    listener: Arc::new(listener.clone()),
                    tls: None,
                    handshake_timeout: config.http.header_timeout,
                },
                certificates,
                socket,
            });
        }
        if faults.is_empty() {
            Ok(Prepared { planned, kept })
        } else {
            Err(faults)
        }
    }

    /// Makes the prepared listeners the ones in use. Sockets that are no longer wanted stop
    /// accepting; connections that came through them live on.
    pub(super) fn apply<F, S>(&mut self, prepared: Prepared, serve: &S)
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(Accepted) -> F + Clone + Send + Sync + 'static,
    {
        for fault in &prepared.kept {
            names::CERTIFICATE_RELOADS.counter(&["failed"]).increment(1);
            warn!(%fault, "certificate not replaced: the one in use stays");
        }
        let mut old: Vec<Option<Open>> = self.open.drain(..).map(Some).collect();
        // What there is at the start is announced as a whole.
        let first = old.is_empty();
        let mut open = Vec::with_capacity(prepared.planned.len());
        for mut planned in prepared.planned {
            let listener = planned.terms.listener.clone();
            let (kept, bound) = match planned.socket {
                Socket::Kept(index) => (old[index].take(), None),
                Socket::New(bound) => (None, Some(bound)),
            };
            let store = kept.as_ref().and_then(|open| open.certificates.clone());
            let certificates = planned
                .certificates
                .map(|certificates| install(store, certificates));
            planned.terms.tls = certificates
                .as_ref()
                .map(|store| self.tls.server(store.clone(), listener.http2));
            match (kept, bound) {
                (Some(kept), _) => {
                    kept.terms.store(Arc::new(planned.terms));
                    open.push(Open {
                        certificates,
                        ..kept
                    });
                }
                (None, Some(bound)) => {
                    let started = self.start(bound, &listener, planned.terms, certificates, serve);
                    if !first {
                        info!(listener = %started.local, "listener opened");
                    }
                    open.push(started);
                }
                (None, None) => unreachable!("each planned listener is kept once or bound"),
            }
        }
        for removed in old.into_iter().flatten() {
            info!(listener = %removed.local, "listener closed; its connections live on");
            removed.stop.cancel();
        }
        self.open = open;
    }

    fn start<F, S>(
        &self,
        bound: Bound,
        listener: &Listener,
        terms: listen::Terms,
        certificates: Option<Arc<CertStore>>,
        serve: &S,
    ) -> Open
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(Accepted) -> F + Clone + Send + Sync + 'static,
    {
        let local = bound.local();
        let terms = Arc::new(ArcSwap::from_pointee(terms));
        let stop = CancellationToken::new();
        bound.serve(&terms, self.gate.clone(), &self.tasks, &stop, serve);
        Open {
            address: listener.address,
            local,
            terms,
            certificates,
            stop,
        }
    }

    /// Where clients can connect, in the order of the configuration.
    pub(super) fn addresses(&self) -> Vec<ListenAddr> {
        self.open.iter().map(|open| open.local).collect()
    }

    /// Takes no new connection any more.
    pub(super) fn close(&self) {
        for open in &self.open {
            open.stop.cancel();
        }
    }
}

fn sharing(listener: &Listener) -> Sharing {
    match listener.reuse_port {
        true => Sharing::Processes,
        false => Sharing::Alone,
    }
}

/// Puts certificates into the store that handshakes read already, or into a new one.
fn install(store: Option<Arc<CertStore>>, certificates: Certificates) -> Arc<CertStore> {
    let now = SystemTime::now();
    for served in certificates.served() {
        served.record_expiry();
        if let Some(complaint) = served.complaint(now) {
            warn!(certificate = %served.path().display(), "the certificate {complaint}: replace its files");
        }
    }
    match store {
        Some(store) => {
            names::CERTIFICATE_RELOADS.counter(&["ok"]).increment(1);
            store.install(certificates);
            store
        }
        None => CertStore::new(certificates),
    }
}
