//! What the simulated servers know together: users, rooms, messages, presence.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::{
    counted::{Counted, Counter},
    hub::{Bus, ConnectionId, Topic},
    logins::{LoginCounters, LoginDesk, LoginModel},
};

/// Rooms that exist from the start, as id, name and purpose.
pub const ROOMS: [(&str, &str, &str); 3] = [
    ("GENERAL", "general", "Everyone is here"),
    ("random", "random", "Everything else"),
    (
        "gateway",
        "gateway",
        "What happens in front of the streamers",
    ),
];

/// Messages kept per room.
const HISTORY: usize = 100;
/// Rooms that are remembered; events reach any room, history only these.
const MAX_ROOMS: usize = 64;
/// Users whose presence is remembered.
const MAX_USERS: usize = 50_000;
/// Longest message text, in characters.
const MAX_TEXT: usize = 5_000;

/// The state behind the streamers; clones share it.
///
/// Streamers started with the same workspace form one deployment: an event that one of them
/// publishes reaches the subscribers of all.
#[derive(Clone, Debug, Default)]
pub struct Workspace {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    bus: Bus,
    rooms: Mutex<HashMap<String, VecDeque<Value>>>,
    users: Mutex<HashMap<String, Presence>>,
    ids: AtomicU64,
    connections: AtomicU64,
    logins: Arc<LoginDesk>,
    counter: Counter,
    changes: [AtomicU64; 4],
    client_version: ClientVersion,
}

/// Of the web client.
#[derive(Debug)]
struct ClientVersion(Mutex<String>);

impl Default for ClientVersion {
    fn default() -> Self {
        Self(Mutex::new("demo".to_owned()))
    }
}

/// Users by the status that is shown of them, or changes to that status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statuses {
    pub offline: u64,
    pub online: u64,
    pub away: u64,
    pub busy: u64,
}

impl Statuses {
    fn of(counts: [u64; 4]) -> Self {
        let [offline, online, away, busy] = counts;
        Self {
            offline,
            online,
            away,
            busy,
        }
    }
}

/// A user who has logged in with the token `demo-<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) id: String,
    pub(super) name: String,
}

impl User {
    /// The owner of a token; `None` when the token is not one of ours.
    pub(super) fn of_token(token: &str) -> Option<Self> {
        let name = token.strip_prefix("demo-")?;
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.chars().count() > 32 || !name.chars().all(allowed) {
            return None;
        }
        Some(Self {
            id: format!("uid-{name}"),
            name: name.to_owned(),
        })
    }
}

/// Status numbers as they stand on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Offline = 0,
    Online = 1,
    Away = 2,
    Busy = 3,
}

impl Status {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "offline" => Self::Offline,
            "online" => Self::Online,
            "away" => Self::Away,
            "busy" => Self::Busy,
            _ => return None,
        })
    }
}

#[derive(Debug)]
struct Presence {
    default: Status,
    text: String,
    connections: Vec<(ConnectionId, Status)>,
    shown: Status,
}

impl Presence {
    /// Online wins among the connections, else the last that is not offline; what the user chose
    /// survives unless that is "online".
    fn visible(&self) -> Status {
        let statuses = || self.connections.iter().map(|(_, status)| *status);
        let connected = if statuses().any(|status| status == Status::Online) {
            Status::Online
        } else {
            statuses()
                .rfind(|status| *status != Status::Offline)
                .unwrap_or(Status::Offline)
        };
        match (connected, self.default) {
            (Status::Offline, _) => Status::Offline,
            (connected, Status::Online) => connected,
            (_, chosen) => chosen,
        }
    }
}

impl Workspace {
    /// An empty workspace whose monolith takes its time for logins.
    pub fn with_logins(model: LoginModel) -> Self {
        Self {
            state: Arc::new(State {
                logins: Arc::new(LoginDesk::new(model)),
                ..State::default()
            }),
        }
    }

    /// Logins on all streamers together.
    pub fn logins(&self) -> LoginCounters {
        self.state.logins.counters()
    }

    /// Calls of `demo:count` on all streamers together.
    pub fn counted(&self) -> Counted {
        self.state.counter.counted()
    }

    pub(super) fn counter(&self) -> &Counter {
        &self.state.counter
    }

    /// How many users are shown with each status, of those who ever logged in.
    pub fn presence(&self) -> Statuses {
        let mut counts = [0; 4];
        for presence in lock(&self.state.users).values() {
            counts[presence.shown as usize] += 1;
        }
        Statuses::of(counts)
    }

    /// How often a user's status changed to each, since the start.
    pub fn presence_changes(&self) -> Statuses {
        let changes = &self.state.changes;
        Statuses::of(
            changes
                .each_ref()
                .map(|count| count.load(Ordering::Relaxed)),
        )
    }

    pub(super) fn login_desk(&self) -> &Arc<LoginDesk> {
        &self.state.logins
    }

    /// The web client has this version from now on: all who subscribed to that are told.
    pub fn set_client_version(&self, version: &str) {
        *lock(&self.state.client_version.0) = version.to_owned();
        let document = [
            json!("web.browser"),
            json!({ "version": version, "assets": [] }),
        ];
        self.publish("meteor_autoupdate_clientVersions", "", &document);
    }

    pub(super) fn client_version(&self) -> String {
        lock(&self.state.client_version.0).clone()
    }

    /// Sends an event to every subscriber on every streamer.
    pub fn publish(&self, stream: &str, event: &str, args: &[Value]) {
        self.publish_from(None, stream, event, args);
    }

    /// Like [`Self::publish`], but not to the socket that wrote it.
    pub(super) fn publish_from(
        &self,
        writer: Option<ConnectionId>,
        stream: &str,
        event: &str,
        args: &[Value],
    ) {
        let topic = Topic {
            stream: stream.to_owned(),
            event: event.to_owned(),
        };
        self.state.bus.publish(&topic, args, writer);
    }

    pub(super) fn bus(&self) -> &Bus {
        &self.state.bus
    }

    pub(super) fn connection_id(&self) -> ConnectionId {
        ConnectionId(self.state.connections.fetch_add(1, Ordering::Relaxed))
    }

    /// Stores a message and sends it to the room's subscribers.
    pub(super) fn post(&self, room: &str, user: &User, text: &str, id: Option<&str>) -> Value {
        let id = id.map_or_else(|| self.new_id(), str::to_owned);
        let message = json!({
            "_id": id,
            "rid": room,
            "msg": text.chars().take(MAX_TEXT).collect::<String>(),
            "ts": { "$date": now_ms() },
            "u": { "_id": user.id, "username": user.name },
        });
        {
            let mut rooms = lock(&self.state.rooms);
            if rooms.contains_key(room) || rooms.len() < MAX_ROOMS {
                let history = rooms.entry(room.to_owned()).or_default();
                if history.len() == HISTORY {
                    history.pop_front();
                }
                history.push_back(message.clone());
            }
        }
        let stream = "stream-room-messages";
        self.publish(stream, room, std::slice::from_ref(&message));
        let place = json!({ "roomParticipant": true, "roomType": "c", "roomName": room });
        self.publish(stream, "__my_messages__", &[message.clone(), place]);
        message
    }

    /// The last messages of a room, oldest first.
    pub(super) fn history(&self, room: &str) -> Vec<Value> {
        lock(&self.state.rooms)
            .get(room)
            .map(|messages| messages.iter().cloned().collect())
            .unwrap_or_default()
    }

    pub(super) fn new_id(&self) -> String {
        let n = self.state.ids.fetch_add(1, Ordering::Relaxed);
        format!("m{:x}-{n}", now_ms())
    }

    pub(super) fn connected(&self, user: &User, connection: ConnectionId) {
        self.change_presence(user, |presence| {
            presence.connections.push((connection, Status::Online));
        });
    }

    pub(super) fn disconnected(&self, user: &User, connection: ConnectionId) {
        self.change_presence(user, |presence| {
            presence.connections.retain(|(id, _)| *id != connection);
        });
    }

    pub(super) fn set_connection_status(
        &self,
        user: &User,
        connection: ConnectionId,
        status: Status,
    ) {
        self.change_presence(user, |presence| {
            for (id, current) in &mut presence.connections {
                if *id == connection {
                    *current = status;
                }
            }
        });
    }

    pub(super) fn set_default_status(&self, user: &User, status: Status, text: Option<&str>) {
        self.change_presence(user, |presence| {
            presence.default = status;
            if let Some(text) = text {
                presence.text = text.chars().take(120).collect();
            }
        });
    }

    fn change_presence(&self, user: &User, change: impl FnOnce(&mut Presence)) {
        let mut users = lock(&self.state.users);
        if !users.contains_key(&user.id) && users.len() >= MAX_USERS {
            return;
        }
        let presence = users.entry(user.id.clone()).or_insert_with(|| Presence {
            default: Status::Online,
            text: String::new(),
            connections: Vec::new(),
            shown: Status::Offline,
        });
        change(presence);
        let visible = presence.visible();
        if visible == presence.shown {
            return;
        }
        presence.shown = visible;
        self.state.changes[visible as usize].fetch_add(1, Ordering::Relaxed);
        let text = presence.text.clone();
        // Published under the lock, so that two changes of one user arrive in their order.
        let status = visible as u8;
        self.state
            .bus
            .publish_presence(&user.id, &json!([user.name, status, text]));
        let args = [json!([user.id, user.name, status, text])];
        self.publish("stream-notify-logged", "user-status", &args);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is made in one step, so a poisoned value is still a whole one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_their_owner_or_nobody() {
        assert_eq!(User::of_token("demo-ann").unwrap().name, "ann");
        for bad in [
            "",
            "demo-",
            "ann",
            "demo-a b",
            "demo-a/b",
            &format!("demo-{}", "x".repeat(33)),
        ] {
            assert_eq!(User::of_token(bad), None, "{bad}");
        }
    }

    #[test]
    fn presence_follows_the_best_connection_and_the_users_choice() {
        let mut presence = Presence {
            default: Status::Online,
            text: String::new(),
            connections: vec![],
            shown: Status::Offline,
        };
        assert_eq!(presence.visible(), Status::Offline);
        presence.connections = vec![
            (ConnectionId(1), Status::Away),
            (ConnectionId(2), Status::Online),
        ];
        assert_eq!(presence.visible(), Status::Online);
        presence.default = Status::Busy;
        assert_eq!(presence.visible(), Status::Busy);
        presence.default = Status::Online;
        presence.connections.pop();
        assert_eq!(presence.visible(), Status::Away);
    }

    #[test]
    fn a_room_keeps_its_last_messages() {
        let workspace = Workspace::default();
        let user = User::of_token("demo-ann").unwrap();
        for n in 0..HISTORY + 5 {
            workspace.post("GENERAL", &user, &n.to_string(), None);
        }
        let history = workspace.history("GENERAL");
        assert_eq!(history.len(), HISTORY);
        assert_eq!(history[0]["msg"], "5");
    }
}
