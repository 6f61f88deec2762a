//! The messages of a connection's beginning and its signs of life.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::object::{fields, text, typed};

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
        let names = ["msg", "session", "version", "support", "receivedCount"];
        let [msg, session, version, support, received_count] = fields(json, names)?;
        expect(msg, "connect")?;
        Ok(Self {
            session: session.and_then(text).map(Cow::into_owned),
            version: version.and_then(text).map(Cow::into_owned),
            support: typed(support).unwrap_or_default(),
            received_count: typed(received_count),
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
        let [msg, session] = fields(json, ["msg", "session"])?;
        expect(msg, "connected")?;
        match session.and_then(text) {
            Some(session) => Ok(Self {
                session: session.into_owned(),
            }),
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

pub(super) fn to_json(message: &impl Serialize) -> String {
    serde_json::to_string(message)
        .expect("a struct of strings and numbers is always writable as JSON")
}

/// An error unless `msg` says that the message is the `wanted` one.
pub(super) fn expect(msg: Option<&RawValue>, wanted: &'static str) -> Result<(), SyntaxError> {
    match msg.and_then(text) {
        Some(msg) if msg == wanted => Ok(()),
        _ => Err(SyntaxError::Unexpected { wanted }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Connect, Connected, PING, SyntaxError, pong};

    #[test]
    fn connect_of_a_browser_that_resumes() {
        let json = r#"{"msg":"connect","session":"s1","version":"1","support":["1","pre2"],"receivedCount":12}"#;
        let connect = Connect {
            session: Some("s1".to_owned()),
            version: Some("1".to_owned()),
            support: vec!["1".to_owned(), "pre2".to_owned()],
            received_count: Some(12),
        };
        assert_eq!(Connect::parse(json), Ok(connect.clone()));
        assert_eq!(connect.to_json(), json);
    }

    #[test]
    fn connect_without_history_is_what_clients_send() {
        assert_eq!(
            Connect::fresh().to_json(),
            r#"{"msg":"connect","version":"1","support":["1","pre2","pre1"]}"#
        );
    }

    #[test]
    fn connect_is_read_as_leniently_as_the_streamer_reads_it() {
        let bare = Connect::default();
        for json in [
            r#"{"msg":"connect"}"#,
            r#" {"support":{},"version":1,"session":null,"receivedCount":-1,"msg":"connect"} "#,
            r#"{"msg":"ping","msg":"\u0063onnect","session":"a","session":[]}"#,
        ] {
            assert_eq!(Connect::parse(json), Ok(bare.clone()), "{json}");
        }
    }

    #[test]
    fn faults_are_told_apart() {
        for (json, error) in [
            ("", SyntaxError::Empty),
            (" ", SyntaxError::Json),
            ("{", SyntaxError::Json),
            ("{}x", SyntaxError::Json),
            ("nonsense", SyntaxError::Json),
            ("[]", SyntaxError::NotObject),
            ("5", SyntaxError::NotObject),
            ("\"connect\"", SyntaxError::NotObject),
            ("{}", SyntaxError::Unexpected { wanted: "connect" }),
            (
                r#"{"msg":"pong"}"#,
                SyntaxError::Unexpected { wanted: "connect" },
            ),
            (
                r#"{"msg":["connect"]}"#,
                SyntaxError::Unexpected { wanted: "connect" },
            ),
        ] {
            assert_eq!(Connect::parse(json), Err(error), "{json}");
        }
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let json = format!(
            r#"{{"msg":"connect","x":{}{}}}"#,
            "[".repeat(50_000),
            "]".repeat(50_000)
        );
        assert_eq!(Connect::parse(&json), Ok(Connect::default()));
        let json = format!(
            r#"{{"msg":"connect","support":{}{}}}"#,
            "[".repeat(50_000),
            "]".repeat(50_000)
        );
        assert_eq!(Connect::parse(&json), Ok(Connect::default()));
    }

    #[test]
    fn connected_carries_a_session() {
        let connected = Connected {
            session: "s".to_owned(),
        };
        assert_eq!(connected.to_json(), r#"{"msg":"connected","session":"s"}"#);
        assert_eq!(Connected::parse(&connected.to_json()), Ok(connected));
        assert_eq!(
            Connected::parse(r#"{"msg":"connected"}"#),
            Err(SyntaxError::Missing { key: "session" })
        );
        assert_eq!(
            Connected::parse(PING),
            Err(SyntaxError::Unexpected {
                wanted: "connected"
            })
        );
    }

    #[test]
    fn a_pong_repeats_the_id() {
        assert_eq!(pong(None), r#"{"msg":"pong"}"#);
        assert_eq!(pong(Some("a\"b")), r#"{"msg":"pong","id":"a\"b"}"#);
    }
}
