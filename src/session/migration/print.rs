//! What makes two events of different streamers the same.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use super::WATCH;
use crate::ddp::published::Event;

/// By what an event is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Print {
    /// Of its stream and name: what a subscription asks for.
    pub(super) topic: u64,
    /// Of all that streamers of one version write alike.
    pub(super) content: u64,
    /// Events of one topic come in one order everywhere, but for the presence of several users.
    pub(super) unordered: bool,
}

impl Print {
    /// `json` is the whole message that `event` was read from.
    pub(super) fn of(event: &Event<'_>, json: &str) -> Self {
        Self {
            topic: topic(&event.collection, &event.name),
            content: content(event).unwrap_or_else(|| hash(&json)),
            unordered: event.collection == WATCH,
        }
    }
}

/// A stream's name and an event's name, together.
pub(super) fn topic(stream: &str, event: &str) -> u64 {
    // Presence is one subscription whatever it is called; its events carry no name.
    match stream {
        WATCH => hash(&stream),
        _ => hash(&(stream, event)),
    }
}

/// What a client writes to a stream, as its event would carry it; `params` are those of the method
/// that has the stream's name.
pub(super) fn of_write(stream: &str, params: &str) -> Option<u64> {
    let params: Vec<Value> = serde_json::from_str(params).ok()?;
    let (name, args) = params.split_first()?;
    let args = serde_json::to_string(args).ok()?;
    Some(hash(&(stream, name.as_str()?, args)))
}

/// The same of an event that came.
pub(super) fn as_write(event: &Event<'_>) -> Option<u64> {
    let args: Vec<Value> = serde_json::from_str(event.args?.get()).ok()?;
    let args = serde_json::to_string(&args).ok()?;
    Some(hash(&(&*event.collection, &*event.name, args)))
}

/// Documents are compared by this.
pub(super) fn of_fields(fields: &serde_json::Map<String, Value>) -> u32 {
    let mut sorted: Vec<_> = fields.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    let mut hasher = DefaultHasher::new();
    for (name, value) in sorted {
        name.hash(&mut hasher);
        value.to_string().hash(&mut hasher);
    }
    (hasher.finish() >> 32) as u32
}

/// Of the events that each streamer makes by itself, only what is the same in all of them
/// (`RocketChat/Rocket.Chat:apps/meteor/server/modules/{listeners,notifications}`): the extra object
/// of `__my_messages__` is computed for each recipient, and messages that only one user sees get
/// their id and time where they are sent.
fn content(event: &Event<'_>) -> Option<u64> {
    let args = || serde_json::from_str::<Vec<Value>>(event.args?.get()).ok();
    let first = match &*event.collection {
        "stream-room-messages" => args()?.into_iter().next()?,
        "stream-notify-user" if event.name.ends_with("/message") => {
            let mut message = args()?.into_iter().next()?;
            if let Some(message) = message.as_object_mut() {
                for made in ["_id", "ts", "_updatedAt"] {
                    message.remove(made);
                }
            }
            message
        }
        _ => return None,
    };
    Some(hash(&(&*event.collection, &*event.name, first.to_string())))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::{Print, as_write, of_write};
    use crate::ddp::Published;

    fn event(collection: &str, name: &str, args: &str) -> String {
        format!(
            r#"{{"msg":"changed","collection":"{collection}","id":"id","fields":{{"eventName":"{name}","args":{args}}}}}"#
        )
    }

    fn print(json: &str) -> Print {
        match Published::parse(json) {
            Ok(Published::Event(event)) => Print::of(&event, json),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_streamer_computes_by_itself_does_not_count() {
        let message = r#"{"_id":"m1","ts":1,"msg":"hi"}"#;
        let mine = |extra: &str| {
            let args = format!("[{message},{extra}]");
            print(&event("stream-room-messages", "__my_messages__", &args))
        };
        assert_eq!(
            mine(r#"{"roomParticipant":true}"#),
            mine(r#"{"roomParticipant":false}"#)
        );
        let only_you = |id: &str, text: &str| {
            let args = format!(r#"[{{"_id":"{id}","ts":{{"$date":1}},"msg":"{text}"}}]"#);
            print(&event("stream-notify-user", "u1/message", &args))
        };
        assert_eq!(only_you("a", "hi"), only_you("b", "hi"));
        assert_ne!(only_you("a", "hi"), only_you("a", "ho"));
        assert_ne!(
            print(&event("stream-roles", "roles", "[1]")),
            print(&event("stream-roles", "roles", "[2]"))
        );
    }

    #[test]
    fn an_echo_is_known_by_what_was_written() {
        let json = event("stream-notify-room", "r/typing", r#"["ann", true]"#);
        let Ok(Published::Event(event)) = Published::parse(&json) else {
            panic!("an event");
        };
        let written = of_write("stream-notify-room", r#"["r/typing","ann",true]"#);
        assert!(written.is_some());
        assert_eq!(as_write(&event), written);
        assert_ne!(
            as_write(&event),
            of_write("stream-notify-room", r#"["r/typing","ann",false]"#)
        );
        assert_eq!(of_write("stream-notify-room", "{}"), None);
    }
}
