//! Who may come in: open connections, new connections per address, TLS handshakes in flight.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use metrics::{Counter, Gauge};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{
    config::model::{Ranges, Rate},
    telemetry::{meters::Counted, names},
};

/// The bounds on client connections, one for the whole process.
#[derive(Debug)]
pub struct Gate {
    open: AtomicUsize,
    /// Requests on HTTP/2 connections: each may need a connection of its own towards a server.
    streams: AtomicUsize,
    terms: ArcSwap<Applied>,
    refused_descriptors: Counter,
    refused_address: Counter,
    refused_handshakes: Counter,
    limited: Counter,
    handshakes: Gauge,
}

/// What the gate is told by the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateTerms {
    /// Open client connections.
    pub max_connections: usize,
    /// TLS handshakes in flight.
    pub max_handshakes: usize,
    /// New connections per address.
    pub per_address: Rate,
    /// Not limited by address; loopback never is.
    pub exempt: Ranges,
}

#[derive(Debug)]
struct Applied {
    terms: GateTerms,
    handshakes: Arc<Semaphore>,
    addresses: Arc<DefaultKeyedRateLimiter<IpAddr>>,
}

/// Why a connection is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Turned {
    #[error("the gateway holds as many connections as its file descriptors allow")]
    Full,
    #[error("the process has no file descriptor left")]
    Exhausted,
    #[error("this address opens connections too quickly")]
    TooFast,
    #[error("too many TLS handshakes were in flight for too long")]
    Handshakes,
}

impl Gate {
    pub fn new(terms: GateTerms) -> Self {
        Self {
            open: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            terms: ArcSwap::from_pointee(Applied::new(terms)),
            refused_descriptors: names::CONNECTIONS_REFUSED.counter(&["descriptors"]),
            refused_address: names::CONNECTIONS_REFUSED.counter(&["address_rate"]),
            refused_handshakes: names::CONNECTIONS_REFUSED.counter(&["handshakes"]),
            limited: names::LIMITED.counter(&["connections"]),
            handshakes: names::HANDSHAKES.gauge(&[]),
        }
    }

    /// Applies to the next connection. Who is in stays in; the memory of addresses is kept unless
    /// their rate changed.
    pub fn reconfigure(&self, terms: GateTerms) {
        let old = self.terms.load();
        if old.terms == terms {
            return;
        }
        let mut next = Applied::new(terms);
        if old.terms.per_address == next.terms.per_address {
            next.addresses = old.addresses.clone();
        }
        if old.terms.max_handshakes == next.terms.max_handshakes {
            next.handshakes = old.handshakes.clone();
        }
        self.terms.store(Arc::new(next));
    }

    /// Client connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub fn max_connections(&self) -> usize {
        self.terms.load().terms.max_connections
    }

    /// Counts one more connection, unless the process has as many as it can hold.
    pub fn enter(self: &Arc<Self>, listener: &Gauge) -> Result<Entered, Turned> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let entered = Entered {
            gate: self.clone(),
            _gauge: Counted::new(listener),
        };
        if before + self.streams.load(Ordering::Relaxed) >= self.max_connections() {
            self.refused_descriptors.increment(1);
            return Err(Turned::Full);
        }
        Ok(entered)
    }

    /// Counts a connection that the process has no descriptor for, although there is a place.
    pub fn out_of_descriptors(&self) -> Turned {
        self.refused_descriptors.increment(1);
        Turned::Exhausted
    }

    /// Whether this address may open one more connection now.
    pub fn admit(&self, address: IpAddr) -> Result<(), Turned> {
        let address = address.to_canonical();
        let applied = self.terms.load();
        if address.is_loopback() || applied.terms.exempt.contains(address) {
            return Ok(());
        }
        applied
            .addresses
            .check_key(&limited_by(address))
            .map_err(|_| {
                self.refused_address.increment(1);
                self.limited.increment(1);
                Turned::TooFast
            })
    }

    /// Waits for a place among the handshakes in flight, until `deadline`. When a whole office comes
    /// back at once, each of them is served in turn.
    pub async fn handshake(&self, deadline: Instant) -> Result<Handshake, Turned> {
        let slots = self.terms.load().handshakes.clone();
        match timeout_at(deadline, slots.acquire_owned()).await {
            Ok(Ok(slot)) => Ok(Handshake {
                _slot: slot,
                _gauge: Counted::new(&self.handshakes),
            }),
            _ => {
                self.refused_handshakes.increment(1);
                Err(Turned::Handshakes)
            }
        }
    }

    /// Forgets addresses that have been quiet for as long as their bucket takes to fill.
    pub fn sweep(&self) {
        let applied = self.terms.load();
        applied.addresses.retain_recent();
        applied.addresses.shrink_to_fit();
    }
}

impl Applied {
    fn new(terms: GateTerms) -> Self {
        let per_second = NonZeroU32::new(terms.per_address.per_second).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(terms.per_address.burst).unwrap_or(NonZeroU32::MIN);
        Self {
            handshakes: Arc::new(Semaphore::new(
                terms.max_handshakes.min(Semaphore::MAX_PERMITS),
            )),
            addresses: Arc::new(RateLimiter::keyed(
                Quota::per_second(per_second).allow_burst(burst),
            )),
            terms,
        }
    }
}

/// What counts as one address: one IPv4 address, or one IPv6 network of 64 bits, since that is
/// what a single customer gets.
fn limited_by(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
    }
}

/// One open client connection, counted until dropped.
#[derive(Debug)]
pub struct Entered {
    gate: Arc<Gate>,
    _gauge: Counted,
}

impl Entered {
    /// Counts one of several requests that are served at the same time on this connection, which
    /// costs as much as a connection does; refused when the process holds as many as it can.
    pub fn stream(&self) -> Result<Stream, Turned> {
        let gate = self.gate.clone();
        let before = gate.streams.fetch_add(1, Ordering::Relaxed);
        let full = before + gate.open() >= gate.max_connections();
        let stream = Stream(gate);
        if full { Err(Turned::Full) } else { Ok(stream) }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request on an HTTP/2 connection, counted until dropped.
#[derive(Debug)]
pub struct Stream(Arc<Gate>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One TLS handshake in flight, counted until dropped.
#[derive(Debug)]
pub struct Handshake {
    _slot: OwnedSemaphorePermit,
    _gauge: Counted,
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc, time::Duration};

    use metrics::Gauge;
    use tokio::time::Instant;

    use super::{Gate, GateTerms, Turned};
    use crate::config::model::{Ranges, Rate};

    fn terms() -> GateTerms {
        GateTerms {
            max_connections: 2,
            max_handshakes: 1,
            per_address: Rate {
                per_second: 1,
                burst: 3,
            },
            exempt: Ranges(vec!["10.0.0.0/8".parse().unwrap()]),
        }
    }

    #[test]
    fn counts_who_is_in() {
        let gate = Arc::new(Gate::new(terms()));
        let listener = Gauge::noop();
        let one = gate.enter(&listener).unwrap();
        let two = gate.enter(&listener).unwrap();
        assert_eq!(gate.enter(&listener).unwrap_err(), Turned::Full);
        assert_eq!(gate.open(), 2);
        drop(one);
        let three = gate.enter(&listener).unwrap();
        gate.reconfigure(GateTerms {
            max_connections: 1,
            ..terms()
        });
        drop((two, three));
        assert_eq!(gate.open(), 0);
        assert!(gate.enter(&listener).is_ok());
    }

    #[test]
    fn streams_take_places_too() {
        let gate = Arc::new(Gate::new(GateTerms {
            max_connections: 3,
            ..terms()
        }));
        let listener = Gauge::noop();
        let connection = gate.enter(&listener).unwrap();
        let one = connection.stream().unwrap();
        let two = connection.stream().unwrap();
        assert_eq!(connection.stream().unwrap_err(), Turned::Full);
        assert_eq!(gate.enter(&listener).unwrap_err(), Turned::Full);
        drop(one);
        let second = gate.enter(&listener).unwrap();
        drop((two, second));
        assert_eq!((gate.open(), connection.stream().is_ok()), (1, true));
    }

    #[test]
    fn limits_by_address_and_spares_the_exempt() {
        let gate = Gate::new(terms());
        let admitted = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            (0..10).filter(|_| gate.admit(address).is_ok()).count()
        };
        assert_eq!(admitted("203.0.113.1"), 3);
        assert_eq!(admitted("::ffff:203.0.113.1"), 0);
        assert_eq!(admitted("203.0.113.2"), 3);
        assert_eq!(admitted("2001:db8::1"), 3);
        assert_eq!(admitted("2001:db8::2"), 0, "the same network");
        assert_eq!(admitted("2001:db8:0:1::1"), 3);
        for exempt in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.1.2.3"] {
            assert_eq!(admitted(exempt), 10, "{exempt}");
        }
    }

    #[tokio::test]
    async fn bounds_handshakes() {
        let gate = Gate::new(terms());
        let one = gate.handshake(Instant::now()).await.unwrap();
        assert_eq!(
            gate.handshake(Instant::now()).await.unwrap_err(),
            Turned::Handshakes
        );
        let later = Instant::now() + Duration::from_secs(10);
        let (second, ()) = tokio::join!(gate.handshake(later), async { drop(one) });
        assert!(second.is_ok(), "who waits gets the place that is freed");
    }
}
