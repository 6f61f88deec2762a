//! Who on one streamer listens to what.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::mpsc, time::sleep_until};
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
    /// Whom each socket watches, and the same from the other side: a login tells only those who
    /// watch that user.
    watched: HashMap<ConnectionId, HashSet<String>>,
    watchers: HashMap<String, HashMap<ConnectionId, Outbox>>,
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
        let Tables {
            watched, watchers, ..
        } = &mut *tables;
        let connection = outbox.connection;
        let users = watched.entry(connection).or_default();
        for user in added {
            let watching = watchers.entry(user.clone()).or_default();
            watching.insert(connection, outbox.clone());
            users.insert(user);
        }
        for user in removed {
            users.remove(&user);
            forget(watchers, &user, connection);
        }
    }

    pub(super) fn forget_presence(&self, connection: ConnectionId) {
        let mut tables = self.tables();
        for user in tables.watched.remove(&connection).unwrap_or_default() {
            forget(&mut tables.watchers, &user, connection);
        }
    }

    /// Sends an event to everyone who subscribed, except to `writer`.
    pub(super) fn publish(&self, topic: &Topic, args: &[Value], writer: Option<ConnectionId>) {
        let tables = self.tables();
        let Some(listeners) = tables.topics.get(topic) else {
            return;
        };
        let frame = Frame::new(&match args {
            // A document rather than an event.
            [id, fields] if topic.event.is_empty() => json!({
                "msg": "changed", "collection": topic.stream, "id": id, "fields": fields,
            }),
            _ => json!({
                "msg": "changed",
                "collection": topic.stream,
                "id": "id",
                "fields": { "eventName": topic.event, "args": args },
            }),
        });
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
        let Some(watchers) = tables.watchers.get(user) else {
            return;
        };
        let frame = Frame::new(&json!({
            "msg": "changed",
            "collection": "stream-user-presence",
            "id": user,
            "fields": { "uid": user, "args": [args] },
        }));
        for outbox in watchers.values() {
            outbox.push(&frame);
        }
    }

    /// Publications running now, those that leaked included.
    pub(super) fn publications(&self) -> usize {
        let tables = self.tables();
        tables.topics.values().map(HashMap::len).sum::<usize>() + tables.watched.len()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Nothing in here panics half way, so a poisoned table is still a whole one.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget(
    watchers: &mut HashMap<String, HashMap<ConnectionId, Outbox>>,
    user: &str,
    connection: ConnectionId,
) {
    if let Some(watching) = watchers.get_mut(user) {
        watching.remove(&connection);
        if watching.is_empty() {
            watchers.remove(user);
        }
    }
}

/// What all streamers of a deployment share in the place of a message bus.
#[derive(Debug, Default)]
pub(super) struct Bus {
    members: Mutex<Vec<Member>>,
}

#[derive(Debug)]
struct Member {
    hub: Arc<Hub>,
    /// The way of events to a streamer that gets them late.
    late: Option<Late>,
}

#[derive(Debug)]
struct Late {
    lag: Duration,
    events: mpsc::Sender<(Instant, Event)>,
}

#[derive(Clone, Debug)]
enum Event {
    Stream {
        topic: Topic,
        args: Vec<Value>,
        writer: Option<ConnectionId>,
    },
    Presence {
        user: String,
        args: Value,
    },
}

impl Bus {
    /// From now on the streamer gets all events, each so long after it was published. To be called
    /// within a runtime if that is not at once.
    pub(super) fn join(&self, hub: Arc<Hub>, lag: Duration) {
        let late = (!lag.is_zero()).then(|| {
            let (events, waiting) = mpsc::channel(LATE_EVENTS);
            tokio::spawn(deliver(hub.clone(), waiting));
            Late { lag, events }
        });
        self.members().push(Member { hub, late });
    }

    pub(super) fn leave(&self, hub: &Arc<Hub>) {
        self.members()
            .retain(|member| !Arc::ptr_eq(&member.hub, hub));
    }

    pub(super) fn publish(&self, topic: &Topic, args: &[Value], writer: Option<ConnectionId>) {
        let event = || Event::Stream {
            topic: topic.clone(),
            args: args.to_vec(),
            writer,
        };
        for member in self.members().iter() {
            match &member.late {
                None => member.hub.publish(topic, args, writer),
                Some(late) => late.send(event()),
            }
        }
    }

    pub(super) fn publish_presence(&self, user: &str, args: &Value) {
        let event = || Event::Presence {
            user: user.to_owned(),
            args: args.clone(),
        };
        for member in self.members().iter() {
            match &member.late {
                None => member.hub.publish_presence(user, args),
                Some(late) => late.send(event()),
            }
        }
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Late {
    fn send(&self, event: Event) {
        if self
            .events
            .try_send((Instant::now() + self.lag, event))
            .is_err()
        {
            tracing::warn!("an event is lost on its way to a simulated streamer: too many wait");
        }
    }
}

/// Ends when the streamer has left the bus.
async fn deliver(hub: Arc<Hub>, mut events: mpsc::Receiver<(Instant, Event)>) {
    while let Some((due, event)) = events.recv().await {
        sleep_until(due.into()).await;
        match event {
            Event::Stream {
                topic,
                args,
                writer,
            } => hub.publish(&topic, &args, writer),
            Event::Presence { user, args } => hub.publish_presence(&user, &args),
        }
    }
}

/// Events that may be on their way to one streamer.
const LATE_EVENTS: usize = 65_536;
