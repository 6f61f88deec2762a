//! The DDP methods that the simulated deployment answers.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    hub::ConnectionId,
    workspace::{ROOMS, Status, User, Workspace, now_ms},
};

/// Longest pause that `demo:sleep` accepts.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// An error as it stands on the wire.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) error: Value,
    pub(super) reason: &'static str,
}

impl Fault {
    pub(super) fn new(error: impl Into<Value>, reason: &'static str) -> Self {
        Self {
            error: error.into(),
            reason,
        }
    }

    pub(super) fn json(&self) -> Value {
        let error = &self.error;
        let code = error
            .as_str()
            .map_or_else(|| error.to_string(), str::to_owned);
        json!({
            "error": error,
            "reason": self.reason,
            "message": format!("{} [{code}]", self.reason),
            "errorType": "Meteor.Error",
            "isClientSafe": true,
        })
    }
}

/// Who calls: one socket and the user on it.
#[derive(Debug)]
pub(super) struct Caller<'a> {
    pub(super) connection: ConnectionId,
    pub(super) user: Option<&'a User>,
    pub(super) streamer: &'a str,
    pub(super) workspace: &'a Workspace,
}

/// What a method does to its caller's socket.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// The result; `Null` for none.
    Done(Value),
    /// The same, but only after a while in which the socket's other methods and subs wait.
    Later(Duration, Value),
    Failed(Fault),
    LoggedIn(User, Value),
    LoggedOut,
}

pub(super) fn call(caller: &Caller<'_>, method: &str, params: &[Value]) -> Outcome {
    let text = |n: usize| params.get(n).and_then(Value::as_str);
    match method {
        "login" => login(params.first()),
        "logout" => Outcome::LoggedOut,
        "UserPresence:online" => presence(caller, Some(Status::Online), None),
        "UserPresence:away" => presence(caller, Some(Status::Away), None),
        "UserPresence:setDefaultStatus" => default_status(caller, text(0), None),
        "setUserStatus" => default_status(caller, text(0), text(1)),
        "livechat:setUpConnection" => Outcome::Done(Value::Null),
        "sendMessage" => send_message(caller, params.first()),
        "loadHistory" => match text(0) {
            Some(room) => Outcome::Done(json!({ "messages": caller.workspace.history(room) })),
            None => Outcome::Failed(Fault::new("invalid-room", "The room id is missing")),
        },
        "rooms/get" => Outcome::Done(
            ROOMS
                .iter()
                .map(|(id, name, topic)| json!({ "_id": id, "name": name, "t": "c", "topic": topic }))
                .collect(),
        ),
        "demo:whoami" => Outcome::Done(json!({
            "streamer": caller.streamer,
            "username": caller.user.map(|user| &user.name),
        })),
        "demo:echo" => Outcome::Done(params.first().cloned().unwrap_or(Value::Null)),
        "demo:sleep" => {
            let ms = params.first().and_then(Value::as_u64).unwrap_or(0);
            Outcome::Later(Duration::from_millis(ms).min(MAX_SLEEP), json!(ms))
        }
        "demo:count" => {
            let ms = params.get(1).and_then(Value::as_u64).unwrap_or(0);
            let pause = Duration::from_millis(ms).min(MAX_SLEEP);
            match caller.workspace.counter().count(text(0).unwrap_or_default()) {
                Some(count) if pause.is_zero() => Outcome::Done(json!(count)),
                Some(count) => Outcome::Later(pause, json!(count)),
                None => Outcome::Failed(Fault::new(400, "No call is counted under this key")),
            }
        }
        "demo:fail" => Outcome::Failed(Fault::new(500, "Internal server error")),
        _ => match method.strip_prefix("stream-") {
            Some(_) => write_stream(caller, method, params),
            None => Outcome::Failed(Fault::new(404, "There is no such method")),
        },
    }
}

fn login(params: Option<&Value>) -> Outcome {
    let token = params
        .and_then(|first| first.get("resume"))
        .and_then(Value::as_str);
    match token.and_then(|token| User::of_token(token).map(|user| (token, user))) {
        Some((token, user)) => {
            let result = json!({
                "id": user.id,
                "token": token,
                "tokenExpires": { "$date": now_ms() + 90 * 24 * 3_600_000 },
                "type": "resume",
            });
            Outcome::LoggedIn(user, result)
        }
        None => Outcome::Failed(Fault::new(
            403,
            "This login token is not known. Log in again",
        )),
    }
}

fn presence(caller: &Caller<'_>, connection: Option<Status>, default: Option<Status>) -> Outcome {
    let Some(user) = caller.user else {
        return Outcome::Failed(Fault::new("not-authorized", "Log in first"));
    };
    if let Some(status) = connection {
        let connection = caller.connection;
        caller
            .workspace
            .set_connection_status(user, connection, status);
    }
    if let Some(status) = default {
        caller.workspace.set_default_status(user, status, None);
    }
    Outcome::Done(Value::Null)
}

fn default_status(caller: &Caller<'_>, status: Option<&str>, text: Option<&str>) -> Outcome {
    let Some(user) = caller.user else {
        return Outcome::Failed(Fault::new("not-authorized", "Log in first"));
    };
    match status.and_then(Status::parse) {
        Some(status) => {
            caller.workspace.set_default_status(user, status, text);
            Outcome::Done(Value::Null)
        }
        None => Outcome::Failed(Fault::new(
            "error-invalid-status",
            "There is no such status",
        )),
    }
}

fn send_message(caller: &Caller<'_>, message: Option<&Value>) -> Outcome {
    let field = |name| message.and_then(|m| m.get(name)).and_then(Value::as_str);
    let Some(user) = caller.user else {
        return Outcome::Failed(Fault::new("error-invalid-user", "Log in first"));
    };
    match (field("rid"), field("msg")) {
        (Some(room), Some(text)) if !room.is_empty() && !text.trim().is_empty() => {
            let id = field("_id").filter(|id| id.len() <= 64);
            Outcome::Done(caller.workspace.post(room, user, text, id))
        }
        _ => Outcome::Failed(Fault::new(
            "error-invalid-message",
            "A message has rid and msg",
        )),
    }
}

/// `stream-<name>` with `[event, ...args]`: typing and the like. The socket that wrote does not
/// get its own event.
fn write_stream(caller: &Caller<'_>, stream: &str, params: &[Value]) -> Outcome {
    let writable = matches!(
        stream,
        "stream-notify-room" | "stream-notify-room-users" | "stream-notify-user"
    );
    let Some(event) = params.first().and_then(Value::as_str).filter(|_| writable) else {
        return Outcome::Failed(Fault::new(
            "not-allowed",
            "This stream takes no such writes",
        ));
    };
    let typing = event.ends_with("/typing") || event.ends_with("/user-activity");
    let allowed = match caller.user {
        Some(user) => !typing || params.get(1).and_then(Value::as_str) == Some(&user.name),
        None => false,
    };
    if !allowed {
        return Outcome::Failed(Fault::new("not-allowed", "Not allowed to write this event"));
    }
    let connection = Some(caller.connection);
    caller
        .workspace
        .publish_from(connection, stream, event, &params[1..]);
    Outcome::Done(Value::Null)
}
