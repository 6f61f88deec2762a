//! What a client asks for, read whole.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Framing,
    message::{SyntaxError, to_json},
    object::{fields, text},
    usual,
};

/// A message of a client.
///
/// `params` is the text of the value as the client wrote it, `""` where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Method {
        id: Cow<'a, str>,
        method: Cow<'a, str>,
        params: &'a str,
    },
    Sub {
        id: Cow<'a, str>,
        name: Cow<'a, str>,
        params: &'a str,
    },
    Unsub {
        id: Cow<'a, str>,
    },
    Ping {
        id: Option<Cow<'a, str>>,
    },
    Pong,
    Connect,
    /// Meteor's client from 3.5 on says it before it closes on purpose.
    Disconnect,
    /// A type that nobody knows. The streamer ignores it, as it does `disconnect`.
    Other,
}

impl<'a> Request<'a> {
    /// Reads the text of one message, framing taken off, as strictly as the streamer does.
    ///
    /// Of keys that occur twice the last one counts, as in JavaScript. Takes time proportional to the text, and memory
    /// only for ids and names that are written with escapes.
    ///
    /// # Errors
    /// `Empty`, `Json` and `NotObject` for text at which the streamer closes with 1007; `Missing` for a method or
    /// subscription without id or name, at which it closes with 1002. An empty string, and one with half of a surrogate
    /// pair in it, count as missing.
    pub fn parse(json: &'a str) -> Result<Self, SyntaxError> {
        match usual::request(json) {
            Some(request) => Ok(request),
            None => Self::read(json),
        }
    }

    /// The one request in a client's text message, without parameters; `None` for what a closer look is needed to read.
    pub fn glance(framing: Framing, text: &'a [u8]) -> Option<Self> {
        usual::request_in(str::from_utf8(text).ok()?, framing)
    }

    /// As [`Self::parse`], of whatever form.
    pub(super) fn read(json: &'a str) -> Result<Self, SyntaxError> {
        let names = ["msg", "id", "method", "name", "params"];
        let [msg, id, method, name, params] = fields(json, names)?;
        let params = params.map_or("", RawValue::get);
        let Some(msg) = msg.and_then(text) else {
            return Ok(Self::Other);
        };
        Ok(match &*msg {
            "method" => Self::Method {
                method: needed(method, "method")?,
                id: needed(id, "id")?,
                params,
            },
            "sub" => Self::Sub {
                name: needed(name, "name")?,
                id: needed(id, "id")?,
                params,
            },
            "unsub" => Self::Unsub {
                id: needed(id, "id")?,
            },
            "ping" => Self::Ping {
                id: id.and_then(text),
            },
            "pong" => Self::Pong,
            "connect" => Self::Connect,
            "disconnect" => Self::Disconnect,
            _ => Self::Other,
        })
    }
}

/// A client's `unsub`.
pub fn unsub(id: &str) -> String {
    #[derive(Serialize)]
    #[serde(tag = "msg", rename = "unsub")]
    struct Unsub<'a> {
        id: &'a str,
    }
    to_json(&Unsub { id })
}

fn needed<'a>(value: Option<&'a RawValue>, key: &'static str) -> Result<Cow<'a, str>, SyntaxError> {
    value
        .and_then(text)
        .filter(|text| !text.is_empty())
        .ok_or(SyntaxError::Missing { key })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::{Request, SyntaxError};

    #[test]
    fn the_requests_of_clients() {
        for (json, request) in [
            (
                r#"{"msg":"method","id":"1","method":"login","params":[{"resume":"t"}]}"#,
                Request::Method {
                    id: "1".into(),
                    method: "login".into(),
                    params: r#"[{"resume":"t"}]"#,
                },
            ),
            (
                r#"{"params": [ 1.50 ] ,"randomSeed":"x","id":"a\"b","method":"m","msg":"\u006dethod"}"#,
                Request::Method {
                    id: "a\"b".into(),
                    method: "m".into(),
                    params: "[ 1.50 ]",
                },
            ),
            (
                r#"{"msg":"sub","id":"k","name":"stream-room-messages","params":["GENERAL",false]}"#,
                Request::Sub {
                    id: "k".into(),
                    name: "stream-room-messages".into(),
                    params: r#"["GENERAL",false]"#,
                },
            ),
            (
                r#"{"msg":"sub","id":"k","name":"n"}"#,
                Request::Sub {
                    id: "k".into(),
                    name: "n".into(),
                    params: "",
                },
            ),
            (
                r#"{"msg":"unsub","id":"k"}"#,
                Request::Unsub { id: "k".into() },
            ),
            (r#"{"msg":"ping"}"#, Request::Ping { id: None }),
            (r#"{"msg":"ping","id":7}"#, Request::Ping { id: None }),
            (
                r#"{"msg":"ping","id":"7"}"#,
                Request::Ping {
                    id: Some("7".into()),
                },
            ),
            (r#"{"msg":"pong","id":"7"}"#, Request::Pong),
            (
                r#"{"msg":"connect","version":"1","support":["1"]}"#,
                Request::Connect,
            ),
            (r#"{"msg":"disconnect"}"#, Request::Disconnect),
            (r#"{"msg":["method"]}"#, Request::Other),
            (r#"{}"#, Request::Other),
            // The last one counts.
            (
                r#"{"msg":"method","msg":"unsub","id":"a","id":"b"}"#,
                Request::Unsub { id: "b".into() },
            ),
            (
                r#"{"msg":"sub","id":"a","name":"n","msg":"pong","id":null}"#,
                Request::Pong,
            ),
        ] {
            assert_eq!(Request::parse(json), Ok(request), "{json}");
        }
    }

    #[test]
    fn what_the_streamer_closes_on() {
        for (json, key) in [
            (r#"{"msg":"method","id":"1"}"#, "method"),
            (r#"{"msg":"method","method":"m"}"#, "id"),
            (r#"{"msg":"method","method":"m","id":""}"#, "id"),
            (r#"{"msg":"method","method":"","id":"1"}"#, "method"),
            (r#"{"msg":"method","method":"m","id":1}"#, "id"),
            (r#"{"msg":"method","method":"m","id":"1","id":null}"#, "id"),
            (r#"{"msg":"method","method":"m","id":"\ud800"}"#, "id"),
            (r#"{"msg":"sub","id":"1"}"#, "name"),
            (r#"{"msg":"sub","name":"n"}"#, "id"),
            (r#"{"msg":"sub","name":{},"id":"1"}"#, "name"),
            (r#"{"msg":"unsub"}"#, "id"),
        ] {
            let fault = SyntaxError::Missing { key };
            assert_eq!(Request::parse(json), Err(fault), "{json}");
        }
        for (json, fault) in [
            ("", SyntaxError::Empty),
            ("[]", SyntaxError::NotObject),
            (r#"["{\"msg\":\"ping\"}"]"#, SyntaxError::NotObject),
            (r#"{"msg":"ping"}{"#, SyntaxError::Json),
            (r#"{"msg":"ping",}"#, SyntaxError::Json),
            (r#"{"msg":"ping""#, SyntaxError::Json),
            (r#"{'msg':'ping'}"#, SyntaxError::Json),
            (r#"{"msg":"ping","x":[1,2}"#, SyntaxError::Json),
            (r#"{"msg":"ping","x":"\x"}"#, SyntaxError::Json),
        ] {
            assert_eq!(Request::parse(json), Err(fault), "{json}");
        }
    }

    #[test]
    fn plain_ids_and_names_are_borrowed() {
        let json = r#"{"msg":"method","id":"1","method":"m"}"#;
        assert!(matches!(
            Request::parse(json),
            Ok(Request::Method {
                id: Cow::Borrowed("1"),
                method: Cow::Borrowed("m"),
                params: ""
            })
        ));
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let json = format!(r#"{{"x":{deep},"msg":"sub","id":"1","name":"n","params":{deep}}}"#);
        let sub = Request::Sub {
            id: "1".into(),
            name: "n".into(),
            params: &deep,
        };
        assert_eq!(Request::parse(&json), Ok(sub));
        let json = format!(r#"{{"msg":"unsub","id":{deep}}}"#);
        assert_eq!(
            Request::parse(&json),
            Err(SyntaxError::Missing { key: "id" })
        );
    }
}
