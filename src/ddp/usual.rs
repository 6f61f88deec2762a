//! Messages in the form in which nearly all of them come, read quickly.
//!
//! Every known client and server of Rocket.Chat writes JSON without blanks, its names and ids without escapes, and
//! quotes it for SockJS with nothing but backslashes. Of what is read here the readers that know all of JSON
//! ([`envelope`](super::envelope), [`request`](super::request)) say the same; what is written in any other way, or is
//! broken, is left to them.

mod body;
mod members;

use body::Body;
use members::Members;

use super::{Envelope, Framing, Kind, Request, Sender};
use crate::base::quote::plain_len;

/// As [`super::peek`]; `None` unless it is in the usual form, as far as it is here.
pub(super) fn envelope(prefix: &[u8], framing: Framing, sender: Sender) -> Option<Envelope<'_>> {
    if sender == Sender::Server {
        let known = match framing {
            Framing::Raw => from_server::<false>(prefix),
            Framing::SockJs => from_server::<true>(prefix),
        };
        if known.is_some() {
            return known;
        }
    }
    let opening: &[u8] = match (framing, sender) {
        (Framing::Raw, _) => b"",
        (Framing::SockJs, Sender::Client) => b"[\"",
        (Framing::SockJs, Sender::Server) => b"a[\"",
    };
    let bytes = prefix
        .strip_prefix(opening)
        .filter(|rest| !rest.is_empty())?;
    match framing {
        Framing::Raw => Members::<false>::envelope(bytes, framing, sender),
        Framing::SockJs => Members::<true>::envelope(bytes, framing, sender),
    }
}

/// What servers say most, by its very bytes.
fn from_server<const QUOTED: bool>(prefix: &[u8]) -> Option<Envelope<'_>> {
    let framing = match QUOTED {
        true => Framing::SockJs,
        false => Framing::Raw,
    };
    let rest = match QUOTED {
        true => prefix.strip_prefix(br#"a["{\"msg\":\""#)?,
        false => prefix.strip_prefix(br#"{"msg":""#)?,
    };
    let (kind, opening): (_, [&[u8]; 2]) = match rest.first()? {
        b'c' => (
            Kind::Changed,
            [
                br#"changed","collection":""#,
                br#"changed\",\"collection\":\""#,
            ],
        ),
        b'r' => (
            Kind::Result,
            [br#"result","id":""#, br#"result\",\"id\":\""#],
        ),
        b'u' => (
            Kind::Updated,
            [br#"updated","methods":[""#, br#"updated\",\"methods\":[\""#],
        ),
        b'p' => {
            let kind = match (QUOTED, rest) {
                (false, br#"ping"}"#) | (true, br#"ping\"}"]"#) => Kind::Ping,
                (false, br#"pong"}"#) | (true, br#"pong\"}"]"#) => Kind::Pong,
                _ => return None,
            };
            return Some(Envelope::of(kind));
        }
        _ => return None,
    };
    let rest = rest.strip_prefix(opening[usize::from(QUOTED)])?;
    let (text, rest) = rest.split_at(plain_len(rest));
    let rest = match QUOTED {
        true => rest.strip_prefix(br#"\""#)?,
        false => rest.strip_prefix(br#"""#)?,
    };
    let mut envelope = Envelope::of(kind);
    match kind {
        Kind::Changed => envelope.collection = Some(text),
        _ => envelope.id = Some(text),
    }
    match (kind, QUOTED, rest) {
        (Kind::Updated, false, b"]}") | (Kind::Updated, true, br#"]}"]"#) => Some(envelope),
        _ if envelope.is_enough(Sender::Server) => Some(envelope.before(framing, rest)),
        _ => None,
    }
}

/// As [`Request::parse`]; `None` for all that it refuses, too.
pub(super) fn request(json: &str) -> Option<Request<'_>> {
    Body::<false>::new(json).read()
}

/// The one request in a client's text message, without its parameters.
pub(super) fn request_in(text: &str, framing: Framing) -> Option<Request<'_>> {
    match (framing, text) {
        (Framing::Raw, PING) | (Framing::SockJs, QUOTED_PING) => Some(Request::Ping { id: None }),
        (Framing::Raw, PONG) | (Framing::SockJs, QUOTED_PONG) => Some(Request::Pong),
        (Framing::Raw, _) => request(text),
        (Framing::SockJs, _) => {
            let text = text.strip_prefix("[\"")?.strip_suffix("\"]")?;
            Body::<true>::new(text).read()
        }
    }
}

const PING: &str = r#"{"msg":"ping"}"#;
const PONG: &str = r#"{"msg":"pong"}"#;
const QUOTED_PING: &str = r#"["{\"msg\":\"ping\"}"]"#;
const QUOTED_PONG: &str = r#"["{\"msg\":\"pong\"}"]"#;

/// A key that matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Msg,
    Id,
    Method,
    Name,
    Collection,
    Session,
    Params,
    /// `subs` or `methods`.
    Ids,
    ServerId,
    Other,
}

impl Key {
    fn of(text: &[u8]) -> Self {
        match text {
            b"msg" => Self::Msg,
            b"id" => Self::Id,
            b"method" => Self::Method,
            b"name" => Self::Name,
            b"collection" => Self::Collection,
            b"session" => Self::Session,
            b"params" => Self::Params,
            b"subs" | b"methods" => Self::Ids,
            b"server_id" => Self::ServerId,
            _ => Self::Other,
        }
    }
}

/// Whether this may stand behind a backslash. `u` may, too, but nobody has to write it.
fn is_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
}

#[cfg(test)]
mod tests;
