//! The few messages that the gateway reads or writes whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{error::Category, value::RawValue};

/// What is wrong with a message that had to be read whole.
///
/// The streamer closes with 1007 where text cannot be read, with 1002 where it is not the message it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    #[error("the message is empty")]
    Empty,
    #[error("the message is not UTF-8")]
    Encoding,
    #[error("the message is not in SockJS framing")]
    Framing,
    #[error("the message is not JSON")]
    Json,
    #[error("the message is JSON, but no object")]
    NotObject,
    #[error("the message is not `{wanted}`")]
    Unexpected { wanted: &'static str },
    #[error("the message lacks `{key}`")]
    Missing { key: &'static str },
}

/// The client's first message.
///
/// Read as leniently as the streamer reads it, which answers whatever the fields say: a field of another type than
/// here counts as missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "msg", rename = "connect", rename_all = "camelCase")]
pub struct Connect {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Versions that the client speaks, best first.
    pub support: Vec<String>,
    /// Server messages that the client got in `session`; only clients that can resume send it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_count: Option<u64>,
}

impl Connect {
    /// What a client without history says.
    pub fn fresh() -> Self {
        Self {
            session: None,
            version: Some("1".to_owned()),
            support: ["1", "pre2", "pre1"].map(str::to_owned).to_vec(),
            received_count: None,
        }
    }

    /// Reads the text of one message, framing taken off.
    ///
    /// # Errors
    /// `Empty`, `Json` and `NotObject` for unreadable text, `Unexpected` for any other message.
    pub fn parse(json: &str) -> Result<Self, SyntaxError> {
        let object = Object::parse(json, "connect")?;
        Ok(Self {
            session: object.field("session"),
            version: object.field("version"),
            support: object.field("support").unwrap_or_default(),
            received_count: object.field("receivedCount"),
        })
    }

    pub fn to_json(&self) -> String {
        to_json(self)
    }
}

/// The server's answer to `connect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "msg", rename = "connected")]
pub struct Connected {
    pub session: String,
}

impl Connected {
    /// Reads the text of one message, framing taken off.
    ///
    /// # Errors
    /// As [`Connect::parse`], and `Missing` without a session.
    pub fn parse(json: &str) -> Result<Self, SyntaxError> {
        let object = Object::parse(json, "connected")?;
        match object.field("session") {
            Some(session) => Ok(Self { session }),
            None => Err(SyntaxError::Missing { key: "session" }),
        }
    }

    pub fn to_json(&self) -> String {
        to_json(self)
    }
}

/// Asks the other side for a sign of life; the answer is a `pong` without id.
pub const PING: &str = r#"{"msg":"ping"}"#;

/// The answer to a `ping`, whose id it repeats.
pub fn pong(id: Option<&str>) -> String {
    #[derive(Serialize)]
    #[serde(tag = "msg", rename = "pong")]
    struct Pong<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    to_json(&Pong { id })
}

fn to_json(message: &impl Serialize) -> String {
    serde_json::to_string(message)
        .expect("a struct of strings and numbers is always writable as JSON")
}

/// A message of the wanted type with its fields unread. Of keys that occur twice the last one counts, as in JavaScript.
#[derive(Deserialize)]
#[serde(transparent)]
struct Object<'a> {
    #[serde(borrow)]
    fields: BTreeMap<String, &'a RawValue>,
}

impl<'a> Object<'a> {
    fn parse(json: &'a str, wanted: &'static str) -> Result<Self, SyntaxError> {
        if json.is_empty() {
            return Err(SyntaxError::Empty);
        }
        let object: Self = serde_json::from_str(json).map_err(|error| match error.classify() {
            Category::Data => SyntaxError::NotObject,
            Category::Syntax | Category::Eof | Category::Io => SyntaxError::Json,
        })?;
        match object.field::<String>("msg") {
            Some(msg) if msg == wanted => Ok(object),
            _ => Err(SyntaxError::Unexpected { wanted }),
        }
    }

    fn field<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.fields
            .get(key)
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
    }
}
