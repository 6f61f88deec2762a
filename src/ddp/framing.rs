//! DDP messages in and out of the text of a WebSocket message.

use std::str;

use crate::base::quote::{push_quoted, read_quoted};

use super::message::SyntaxError;

/// How the DDP messages of a connection are written into WebSocket text messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// One message per text message, as it is.
    Raw,
    /// Messages as strings of a JSON array: `["..."]` from the client, `a["..."]` from the server, which also sends
    /// the frames `o`, `h` and `c[...]`.
    SockJs,
}

/// Who wrote a message: the two sides of a SockJS connection speak differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    Client,
    Server,
}

/// The text that brings one DDP message to a client.
pub fn wrap_for_client(framing: Framing, json: &str) -> Vec<u8> {
    wrap(framing, "a[", json)
}

/// The text that brings one DDP message to a streamer.
pub fn wrap_for_streamer(framing: Framing, json: &str) -> Vec<u8> {
    wrap(framing, "[", json)
}

fn wrap(framing: Framing, opening: &str, json: &str) -> Vec<u8> {
    match framing {
        Framing::Raw => json.as_bytes().to_vec(),
        Framing::SockJs => {
            let mut out = opening.as_bytes().to_vec();
            push_quoted(&mut out, json);
            out.push(b']');
            out
        }
    }
}

/// The DDP messages in a client's text message.
///
/// With SockJS these may be several, or none: a server has to ignore empty text and `[]`. A bare string counts as an
/// array of one, as in `sockjs/sockjs-node`.
///
/// # Errors
/// `Empty` (raw only), `Encoding`, and `Framing` for anything that is not an array of strings.
pub fn messages_from_client(framing: Framing, text: &[u8]) -> Result<Vec<String>, SyntaxError> {
    let text = str::from_utf8(text).map_err(|_| SyntaxError::Encoding)?;
    match framing {
        Framing::Raw if text.is_empty() => Err(SyntaxError::Empty),
        Framing::Raw => Ok(vec![text.to_owned()]),
        Framing::SockJs if text.is_empty() => Ok(Vec::new()),
        Framing::SockJs if text.trim_ascii_start().starts_with('"') => {
            match serde_json::from_str(text) {
                Ok(message) => Ok(vec![message]),
                Err(_) => Err(SyntaxError::Framing),
            }
        }
        Framing::SockJs => serde_json::from_str(text).map_err(|_| SyntaxError::Framing),
    }
}

/// The one DDP message in a text message, unpacked into `out` where it is quoted; no memory is taken.
///
/// `None` for everything else: several messages or none, a bare string, broken framing, text that is not UTF-8 or does
/// not fit. [`messages_from_client`] and [`messages_from_streamer`] tell these apart.
pub fn single_message<'a>(
    framing: Framing,
    sender: Sender,
    text: &'a [u8],
    out: &'a mut [u8],
) -> Option<&'a str> {
    let array = match (framing, sender) {
        (Framing::Raw, _) => return str::from_utf8(text).ok(),
        (Framing::SockJs, Sender::Client) => text,
        (Framing::SockJs, Sender::Server) => text.strip_prefix(b"a")?,
    };
    let element = array
        .trim_ascii_start()
        .strip_prefix(b"[")?
        .trim_ascii_start();
    let (message, used) = read_quoted(element, out)?;
    (element.get(used..)?.trim_ascii() == b"]").then_some(message)
}

/// The DDP messages in a server's text message; none in the SockJS frames `o`, `h` and `c[...]`.
///
/// # Errors
/// `Empty`, `Encoding`, and `Framing` for anything that is not a SockJS frame.
pub fn messages_from_streamer(framing: Framing, text: &[u8]) -> Result<Vec<String>, SyntaxError> {
    let text = str::from_utf8(text).map_err(|_| SyntaxError::Encoding)?;
    match (framing, text.as_bytes().first()) {
        (_, None) => Err(SyntaxError::Empty),
        (Framing::Raw, Some(_)) => Ok(vec![text.to_owned()]),
        (Framing::SockJs, Some(b'a')) => {
            serde_json::from_str(&text[1..]).map_err(|_| SyntaxError::Framing)
        }
        (Framing::SockJs, Some(b'o' | b'h' | b'c')) => Ok(Vec::new()),
        (Framing::SockJs, Some(_)) => Err(SyntaxError::Framing),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Framing, Sender, messages_from_client, messages_from_streamer, single_message,
        wrap_for_client, wrap_for_streamer,
    };
    use crate::ddp::SyntaxError;

    const CONNECT: &str = r#"{"msg":"connect","version":"1","support":["1","pre2","pre1"]}"#;

    #[test]
    fn a_single_message_needs_no_memory() {
        let mut out = [0; 100];
        for framing in [Framing::Raw, Framing::SockJs] {
            let up = wrap_for_streamer(framing, CONNECT);
            let single = single_message(framing, Sender::Client, &up, &mut out);
            assert_eq!(single, Some(CONNECT));
            let down = wrap_for_client(framing, CONNECT);
            let single = single_message(framing, Sender::Server, &down, &mut out);
            assert_eq!(single, Some(CONNECT));
        }
        for text in [
            r#"["a","b"]"#,
            "[]",
            r#""a""#,
            r#"["a"]x"#,
            r#"["a""#,
            "[1]",
            "",
            "x",
        ] {
            let single = single_message(Framing::SockJs, Sender::Client, text.as_bytes(), &mut out);
            assert_eq!(single, None, "{text}");
        }
        let blanks = single_message(Framing::SockJs, Sender::Client, b" [ \"a\" ] ", &mut out);
        assert_eq!(blanks, Some("a"));
    }

    #[test]
    fn writes_what_the_known_clients_and_the_streamer_write() {
        assert_eq!(
            wrap_for_streamer(Framing::SockJs, CONNECT),
            br#"["{\"msg\":\"connect\",\"version\":\"1\",\"support\":[\"1\",\"pre2\",\"pre1\"]}"]"#
        );
        assert_eq!(
            wrap_for_client(Framing::SockJs, r#"{"msg":"connected","session":"s"}"#),
            br#"a["{\"msg\":\"connected\",\"session\":\"s\"}"]"#
        );
        assert_eq!(wrap_for_streamer(Framing::Raw, CONNECT), CONNECT.as_bytes());
        assert_eq!(wrap_for_client(Framing::Raw, CONNECT), CONNECT.as_bytes());
    }

    #[test]
    fn a_client_may_send_arrays_bare_strings_and_nothing() {
        let read = |text: &str| messages_from_client(Framing::SockJs, text.as_bytes());
        let some = |messages: &[&str]| Ok(messages.iter().map(|&text| text.to_owned()).collect());
        assert_eq!(read(""), some(&[]));
        assert_eq!(read(" [] "), some(&[]));
        assert_eq!(read(r#"["a","\u0062"]"#), some(&["a", "b"]));
        assert_eq!(read(" \"a\"\n"), some(&["a"]));
        for text in [
            "[",
            "[1]",
            "{}",
            "\"a",
            "[\"a\"]x",
            "[\"\\ud800\"]",
            "null",
            " ",
        ] {
            assert_eq!(read(text), Err(SyntaxError::Framing), "{text}");
        }
        assert_eq!(
            messages_from_client(Framing::SockJs, b"[\"\xff\"]"),
            Err(SyntaxError::Encoding)
        );
    }

    #[test]
    fn raw_text_is_one_message() {
        assert_eq!(
            messages_from_client(Framing::Raw, b"[]"),
            Ok(vec!["[]".to_owned()])
        );
        assert_eq!(
            messages_from_client(Framing::Raw, b""),
            Err(SyntaxError::Empty)
        );
        assert_eq!(
            messages_from_client(Framing::Raw, b"\xff"),
            Err(SyntaxError::Encoding)
        );
        assert_eq!(
            messages_from_streamer(Framing::Raw, b"o"),
            Ok(vec!["o".to_owned()])
        );
    }

    #[test]
    fn a_server_sends_frames() {
        let read = |text: &str| messages_from_streamer(Framing::SockJs, text.as_bytes());
        for text in ["o", "h", "a[]", r#"c[3000,"Go away!"]"#] {
            assert_eq!(read(text), Ok(Vec::new()), "{text}");
        }
        assert_eq!(
            read(r#"a["x","y"]"#),
            Ok(vec!["x".to_owned(), "y".to_owned()])
        );
        assert_eq!(read(""), Err(SyntaxError::Empty));
        for text in ["[\"x\"]", "a", "a\"x\"", "a[1]", "{}"] {
            assert_eq!(read(text), Err(SyntaxError::Framing), "{text}");
        }
    }
}
