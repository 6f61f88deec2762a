//! What a streamer was told about a client, kept so that another one can be told the same.
//!
//! Ten thousand clients have a few hundred browsers: what they have in common is kept once, and
//! their addresses stand in the registry anyway.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::registry::Entry;
use crate::{
    base::packing::{Garbled, Packer, Unpacker},
    ddp::Framing,
    headers::forwarded::address_text,
    net::dial::LegRequest,
};

/// What is said about a client in an upgrade request, but for its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Introduction {
    host: String,
    headers: HeaderMap,
    /// The client's way here, when it is not just its address and the peer's.
    way: Option<HeaderValue>,
}

impl Introduction {
    fn new(request: &LegRequest, entry: &Entry) -> Self {
        // The addresses are known; the last one is of the request that is over.
        let own = [&FORWARDED_FOR, &REAL_IP, &REQUEST_ID];
        let headers = request.headers.iter();
        let headers = headers.filter(|(name, _)| !own.contains(name));
        let way = request.headers.get(&FORWARDED_FOR);
        let way = way.filter(|way| way.as_bytes() != way_of(entry).as_bytes());
        Self {
            host: request.host.clone(),
            headers: headers
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            way: way.cloned(),
        }
    }

    /// The request for another leg of the same client.
    pub(super) fn request(&self, entry: &Entry) -> LegRequest {
        let mut headers = self.headers.clone();
        let way = match &self.way {
            Some(way) => Some(way.clone()),
            None => HeaderValue::from_str(&way_of(entry)).ok(),
        };
        headers.extend(way.map(|way| (FORWARDED_FOR, way)));
        let client = HeaderValue::from_str(&address_text(entry.client.0)).ok();
        headers.extend(client.map(|client| (REAL_IP, client)));
        LegRequest {
            target: match entry.framing {
                Framing::Raw => "/websocket".to_owned(),
                Framing::SockJs => "/sockjs/000/moved/websocket".to_owned(),
            },
            host: self.host.clone(),
            headers,
        }
    }

    /// Writes it for another gateway.
    pub(super) fn pack(&self, out: &mut Packer) {
        out.text(&self.host);
        let headers: Vec<_> = self.headers.iter().collect();
        out.list(headers.into_iter(), |out, (name, value)| {
            out.text(name.as_str());
            out.bytes(value.as_bytes());
        });
        out.option(self.way.as_ref(), |out, way| out.bytes(way.as_bytes()));
    }

    pub(super) fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Garbled> {
        let host = from.text()?.to_owned();
        let value = |bytes| HeaderValue::from_bytes(bytes).map_err(|_| Garbled);
        let pairs = from.list(MOST_HEADERS, |from| {
            let name = HeaderName::from_bytes(from.text()?.as_bytes()).map_err(|_| Garbled)?;
            Ok((name, value(from.bytes()?)?))
        })?;
        // It stands in a request's head.
        if !host.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Garbled);
        }
        let mut headers = HeaderMap::with_capacity(pairs.len());
        for (name, value) in pairs {
            headers.append(name, value);
        }
        Ok(Self {
            host,
            headers,
            way: from.option(|from| value(from.bytes()?))?,
        })
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.host.hash(&mut hasher);
        self.way.hash(&mut hasher);
        for (name, value) in &self.headers {
            (name, value).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// As [`crate::headers::forwarded::apply`] writes it for a client without proxies on its way, or
/// with the peer as the only one.
fn way_of(entry: &Entry) -> String {
    let peer = entry.peer().0.ip().to_canonical();
    if entry.client.0 == peer {
        address_text(peer)
    } else {
        format!("{}, {}", address_text(entry.client.0), address_text(peer))
    }
}

/// All of them; each is kept as long as a session has it.
#[derive(Debug, Default)]
pub(super) struct Introductions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Two that share a key are rare enough that the later one is just not shared.
    by_key: HashMap<u64, Weak<Introduction>>,
    /// Dropped ones are swept out when there are this many.
    sweep_at: usize,
}

impl Introductions {
    /// What is to be kept of `request`.
    pub(super) fn keep(&self, request: &LegRequest, entry: &Entry) -> Arc<Introduction> {
        let introduction = Introduction::new(request, entry);
        let key = introduction.key();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.by_key.get(&key).and_then(Weak::upgrade) {
            Some(same) if *same == introduction => return same,
            Some(_) => return Arc::new(introduction),
            None => {}
        }
        if known.by_key.len() >= known.sweep_at {
            known.by_key.retain(|_, known| known.strong_count() > 0);
            known.sweep_at = (known.by_key.len() * 2).max(SMALLEST);
        }
        let introduction = Arc::new(introduction);
        known.by_key.insert(key, Arc::downgrade(&introduction));
        introduction
    }
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const SMALLEST: usize = 64;

/// More than the listener takes.
const MOST_HEADERS: usize = 256;
