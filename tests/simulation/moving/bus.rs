//! What is published to both streamers, and how each of them writes it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::dice::Dice;

/// The user of the session.
pub(crate) const USER: &str = "kX3fS9bQ7Zt2LmNaP";

/// One event on its way to both streamers.
pub(crate) struct Publication {
    pub(crate) what: What,
    pub(crate) stream: &'static str,
    pub(crate) event: String,
    pub(crate) at: Instant,
    /// When each streamer has it.
    pub(crate) there: [Instant; 2],
    /// The leg that wrote it, which gets no echo.
    pub(crate) author: Option<usize>,
    pub(crate) number: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The same bytes everywhere, and unlike every other.
    Plain { size: usize },
    /// The same bytes everywhere and each time.
    Typing { name: String },
    /// Its second argument is computed per streamer.
    RoomMessage,
    /// `_id` and times are computed per streamer.
    OwnMessage,
    /// Names this upstream session of the client, on whichever leg that is, or that of another one.
    ForceLogout { session: Option<String> },
    /// The status of this user.
    Status { uid: String },
}

impl Publication {
    /// The latest moment at which a streamer has it.
    pub(crate) fn everywhere(&self) -> Instant {
        self.there[0].max(self.there[1])
    }

    /// As the streamer writes it.
    pub(crate) fn written(&self, streamer: usize) -> String {
        let (number, event) = (self.number, &self.event);
        let args = match &self.what {
            What::Plain { size } => {
                let pad = "p".repeat(*size);
                json!(["updated", {"_id": format!("r{number}"), "n": number, "pad": pad, "x": 1.50}])
            }
            What::Typing { name } => json!([name, ["user-typing"], {}]),
            What::RoomMessage => json!([
                {"_id": format!("m{number}"), "msg": "\"hi\" }\\", "n": number},
                {"roomParticipant": true, "by": streamer}
            ]),
            What::OwnMessage => json!([{
                "_id": format!("e{number}by{streamer}"),
                "rid": "GENERAL",
                "msg": "only you can see this",
                "n": number,
                "ts": {"$date": 1_767_225_600_000_u64 + (2 * number + streamer) as u64},
                "_updatedAt": {"$date": 1_767_225_600_001_u64 + (2 * number + streamer) as u64},
            }]),
            What::ForceLogout {
                session: Some(session),
            } => json!([session, {"n": number}]),
            What::ForceLogout { session: None } => json!([format!("other-{number}")]),
            What::Status { uid } => {
                let args = json!([["name", number % 4, format!("text {number}")]]);
                return format!(
                    r#"{{"msg":"changed","collection":"stream-user-presence","id":"{uid}","fields":{{"uid":"{uid}","args":{args}}}}}"#
                );
            }
        };
        let event = serde_json::to_string(event).expect("a string can be written");
        format!(
            r#"{{"msg":"changed","collection":"{}","id":"id","fields":{{"eventName":{event},"args":{args}}}}}"#,
            self.stream
        )
    }

    /// By which the client tells it from others; repeated ones are alike.
    pub(crate) fn key(&self) -> String {
        match &self.what {
            What::Typing { name } => format!("{} {name}", self.event),
            What::ForceLogout { session: None } => format!("force_logout other-{}", self.number),
            _ => format!("#{}", self.number),
        }
    }
}

/// The key of an event that the client got, and its number if it has one.
pub(crate) fn key_of(message: &Value) -> (String, Option<usize>) {
    let fields = &message["fields"];
    let first = &fields["args"][0];
    let event = fields["eventName"].as_str().unwrap_or_default();
    if event.ends_with("/force_logout") {
        let named = first.as_str().unwrap_or_default();
        return match fields["args"][1]["n"].as_u64() {
            Some(number) => {
                let number = usize::try_from(number).expect("small");
                (format!("#{number}"), Some(number))
            }
            None => (format!("force_logout {named}"), None),
        };
    }
    let text = first[2]
        .as_str()
        .and_then(|text| text.strip_prefix("text "));
    let number = match text {
        Some(text) => text.parse().ok(),
        None => first["n"]
            .as_u64()
            .or_else(|| fields["args"][1]["n"].as_u64()),
    };
    match number {
        Some(number) => {
            let number = usize::try_from(number).expect("small");
            (format!("#{number}"), Some(number))
        }
        None => {
            let name = first.as_str().unwrap_or_default();
            (format!("{event} {name}"), None)
        }
    }
}

/// Fields of a document, all of them words.
pub(crate) type Fields = BTreeMap<String, String>;

/// Collection and id.
pub(crate) type Key = (String, String);

/// A document on its way to both streamers; without fields it is gone.
#[derive(Clone)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) fields: Option<Fields>,
}

/// Delays of the bus: in order per streamer and event name.
pub(crate) struct Bus {
    skew: Duration,
    last: BTreeMap<(usize, String), Instant>,
    pub(crate) publications: Vec<Publication>,
    pub(crate) changes: Vec<Change>,
}

impl Bus {
    pub(crate) fn new(skew: Duration) -> Self {
        Self {
            skew,
            last: BTreeMap::new(),
            publications: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// When each streamer gets what is published now under this name.
    pub(crate) fn arrivals(&mut self, name: &str, now: Instant, dice: &mut Dice) -> [Instant; 2] {
        let slow = dice.below(2);
        [0, 1].map(|streamer| {
            let delay = match slow == streamer {
                true => dice.time(self.skew),
                false => dice.time(self.skew / 8),
            };
            let last = self.last.entry((streamer, name.to_owned())).or_insert(now);
            *last = (*last).max(now + delay);
            *last
        })
    }
}
