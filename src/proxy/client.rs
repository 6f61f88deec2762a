//! Who sends a request, and over what.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use http::{HeaderMap, HeaderName};

use crate::{
    base::id::{ClientAddr, PeerAddr, RequestId},
    config::model::{Config, Listener},
    headers::forwarded::{self, Origin},
    net::gate::Entered,
};

/// One accepted connection. Counted as open as long as someone holds it.
#[derive(Debug)]
pub struct Connection {
    pub peer: PeerAddr,
    /// As it was configured when the connection came.
    pub listener: Arc<Listener>,
    /// The connection's place in the count of open ones.
    pub guard: Entered,
}

/// The sender of one request.
#[derive(Clone, Debug)]
pub struct Client {
    /// The farthest address that is believed.
    pub addr: ClientAddr,
    pub peer: PeerAddr,
    /// Whether the client spoke https, be it to us or to a trusted proxy in front.
    pub tls: bool,
    /// Whether the peer's forwarding headers are believed.
    pub trusted: bool,
    pub request_id: RequestId,
    /// To be kept by whatever the connection turns into.
    pub connection: Arc<Connection>,
}

impl Connection {
    pub fn is_tls(&self) -> bool {
        !self.listener.tls.is_empty()
    }
}

impl Client {
    /// Reads who it is from the connection and, if its peer is trusted, from the headers.
    pub fn identify(connection: &Arc<Connection>, headers: &HeaderMap, config: &Config) -> Self {
        let Origin {
            client,
            trusted,
            https,
        } = forwarded::origin(headers, connection.peer, connection.is_tls(), |address| {
            config.trusted_proxies.contains(address)
        });
        Self {
            addr: client,
            peer: connection.peer,
            tls: https,
            trusted,
            request_id: given_id(headers)
                .filter(|_| trusted)
                .unwrap_or_else(next_id),
            connection: connection.clone(),
        }
    }

    /// The forwarding headers' view of this client.
    pub fn origin(&self) -> Origin {
        Origin {
            client: self.addr,
            trusted: self.trusted,
            https: self.tls,
        }
    }
}

/// The id that a proxy in front gave the request, if it is short and plain.
fn given_id(headers: &HeaderMap) -> Option<RequestId> {
    let text = headers.get(X_REQUEST_ID)?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ((1..=64).contains(&text.len()) && text.bytes().all(plain)).then(|| RequestId::from(text))
}

/// Unique within the process, and hardly ever the same in two processes. Not a secret.
fn next_id() -> RequestId {
    static START: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let start = START.get_or_init(rand::random);
    // An odd factor permutes the numbers of 64 bits, so that ids do not look like a count.
    let id = (start.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut text = [0; 16];
    for (at, digit) in text.iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(id >> (4 * at) & 15) as usize];
    }
    RequestId::from(str::from_utf8(&text).unwrap_or_default())
}

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
