//! Who on one streamer listens to what.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

/// Messages that may wait for one client before it is cut off.
pub(super) const OUTBOX: usize = 8192;

/// One socket within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConnectionId(pub(super) u64);

/// One DDP message, ready for both framings so that a fan-out encodes it once.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) raw: Utf8Bytes,
    pub(super) sockjs: Utf8Bytes,
}

impl Frame {
    pub(super) fn new(message: &Value) -> Self {
        let raw = message.to_string();
        Self {
            sockjs: format!("a{}", json!([raw])).into(),
            raw: raw.into(),
        }
    }
}

/// Where events for one socket go.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    pub(super) connection: ConnectionId,
    pub(super) frames: mpsc::Sender<Frame>,
    /// Cuts the socket without a close frame.
    pub(super) terminate: CancellationToken,
}

impl Outbox {
    fn push(&self, frame: &Frame) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.frames.try_send(frame.clone()) {
            tracing::debug!(connection = self.connection.0, "slow reader cut off");
            self.terminate.cancel();
        }
    }
}

/// An event of a stream: `stream-room-messages` and `GENERAL`, for example.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Topic {
    pub(super) stream: String,
    pub(super) event: String,
}

/// Names one running publication, also one whose subscription id was used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PublicationId(u64);

/// The subscriptions of all sockets of one streamer.
#[derive(Debug, Default)]
pub(super) struct Hub {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    next: u64,
    topics: HashMap<Topic, HashMap<PublicationId, Outbox>>,
    presence: HashMap<ConnectionId, (HashSet<String>, Outbox)>,
}

impl Hub {
    pub(super) fn subscribe(&self, topic: Topic, outbox: Outbox) -> PublicationId {
        let mut tables = self.tables();
        let id = PublicationId(tables.next);
        tables.next += 1;
        tables.topics.entry(topic).or_default().insert(id, outbox);
        id
    }

    pub(super) fn unsubscribe(&self, topic: &Topic, publication: PublicationId) {
        let mut tables = self.tables();
        if let Some(listeners) = tables.topics.get_mut(topic) {
            listeners.remove(&publication);
            if listeners.is_empty() {
                tables.topics.remove(topic);
            }
        }
    }

    /// Changes the set of users whose presence a socket sees.
    pub(super) fn watch_presence(
        &self,
        outbox: &Outbox,
        added: impl Iterator<Item = String>,
        removed: impl Iterator<Item = String>,
    ) {
        let mut tables = self.tables();
        let (users, _) = tables
            .presence
            .entry(outbox.connection)
            .or_insert_with(|| (HashSet::new(), outbox.clone()));
        users.extend(added);
        for user in removed {
            users.remove(&user);
        }
    }

    pub(super) fn forget_presence(&self, connection: ConnectionId) {
        self.tables().presence.remove(&connection);
    }

    /// Sends an event to everyone who subscribed, except to `writer`.
    pub(super) fn publish(&self, topic: &Topic, args: &[Value], writer: Option<ConnectionId>) {
        let tables = self.tables();
        let Some(listeners) = tables.topics.get(topic) else {
            return;
        };
        let frame = Frame::new(&json!({
            "msg": "changed",
            "collection": topic.stream,
            "id": "id",
            "fields": { "eventName": topic.event, "args": args },
        }));
        for outbox in listeners.values() {
            if writer != Some(outbox.connection) {
                outbox.push(&frame);
            }
        }
    }

    /// Tells those who watch `user` about its presence. Unlike in all other streams the document's
    /// id is the user's.
    pub(super) fn publish_presence(&self, user: &str, args: &Value) {
        let tables = self.tables();
        let frame = Frame::new(&json!({
            "msg": "changed",
            "collection": "stream-user-presence",
            "id": user,
            "fields": { "uid": user, "args": [args] },
        }));
        for (users, outbox) in tables.presence.values() {
            if users.contains(user) {
                outbox.push(&frame);
            }
        }
    }

    /// Publications running now, those that leaked included.
    pub(super) fn publications(&self) -> usize {
        let tables = self.tables();
        tables.topics.values().map(HashMap::len).sum::<usize>() + tables.presence.len()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Nothing in here panics half way, so a poisoned table is still a whole one.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all streamers of a deployment share in the place of a message bus.
#[derive(Debug, Default)]
pub(super) struct Bus {
    hubs: Mutex<Vec<Arc<Hub>>>,
}

impl Bus {
    pub(super) fn join(&self, hub: Arc<Hub>) {
        self.hubs().push(hub);
    }

    pub(super) fn leave(&self, hub: &Arc<Hub>) {
        self.hubs().retain(|other| !Arc::ptr_eq(other, hub));
    }

    pub(super) fn publish(&self, topic: &Topic, args: &[Value], writer: Option<ConnectionId>) {
        for hub in self.hubs().iter() {
            hub.publish(topic, args, writer);
        }
    }

    pub(super) fn publish_presence(&self, user: &str, args: &Value) {
        for hub in self.hubs().iter() {
            hub.publish_presence(user, args);
        }
    }

    fn hubs(&self) -> MutexGuard<'_, Vec<Arc<Hub>>> {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
