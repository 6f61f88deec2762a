//! What a message is about, by its first bytes.

use super::{
    framing::{Framing, Sender},
    scan::{Scan, Stop},
    usual,
};

/// The type of a message, or of a SockJS frame that carries none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Connect,
    Connected,
    Failed,
    Ping,
    Pong,
    Sub,
    Unsub,
    Method,
    Disconnect,
    Nosub,
    Added,
    Changed,
    Removed,
    Ready,
    AddedBefore,
    MovedBefore,
    Result,
    Updated,
    Error,
    /// The greeting of a server, with or without `msg`.
    ServerId,
    /// SockJS `o`.
    Open,
    /// SockJS `h`.
    Heartbeat,
    /// SockJS `c[code,"reason"]`.
    Closed,
    /// No message at all: empty text, SockJS `[]` or `a[]`.
    Empty,
    /// An object with another `msg`, with none, or whose `msg` lies beyond the bytes that were seen.
    Other,
    /// Not JSON, not an object, or not in the framing's form.
    Unreadable,
}

/// A borrowed view of the first bytes of a message.
///
/// A value is `None` when it is missing, not a string, written with escapes, or beyond the bytes that were seen. The
/// bytes are as the sender wrote them: nobody has checked them to be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Of a SockJS batch: of its first message, like every other field.
    pub kind: Kind,
    /// The `id`, or the first element of `subs` (in `ready`) or `methods` (in `updated`).
    pub id: Option<&'a [u8]>,
    pub method: Option<&'a [u8]>,
    pub name: Option<&'a [u8]>,
    pub collection: Option<&'a [u8]>,
    pub session: Option<&'a [u8]>,
    /// `subs` or `methods` has another number of elements than one.
    pub several: bool,
    /// A SockJS array with more than one element. The streamer reads only the first, so a batch must be split. Where
    /// the end of the first one is not looked for, it is enough that there may be more.
    pub batch: bool,
    /// A SockJS message from a client that stands in no array. The streamer cannot read it, so it must be wrapped.
    pub bare: bool,
    /// Not all of the message was read: what is missing here may still come.
    pub cut: bool,
}

/// Reads what a message is about from its first un-masked bytes.
///
/// `prefix` may end anywhere; a few hundred bytes are enough for every known client, since they write `msg` first and
/// the bulk last. Takes time proportional to `prefix` and no memory. Of keys that occur twice the last one counts, as
/// with every JSON reader of the other side; it may lie beyond the prefix, so an envelope is good for accounting and
/// for choosing what to parse in full, not for proof.
///
/// Of a server's event and result, which are most of what there is, no more is read when they begin as servers write
/// them: with `msg`, and the `collection` of a stream or the `id`.
pub fn peek(prefix: &[u8], framing: Framing, sender: Sender) -> Envelope<'_> {
    match usual::envelope(prefix, framing, sender) {
        Some(envelope) => envelope,
        None => read(prefix, framing, sender),
    }
}

/// As [`peek`], of whatever form.
pub(super) fn read(prefix: &[u8], framing: Framing, sender: Sender) -> Envelope<'_> {
    let mut envelope = Envelope::of(Kind::Other);
    let mut scan = Scan::new(prefix);
    let outcome = match (framing, sender) {
        _ if prefix.is_empty() => return Envelope::of(Kind::Empty),
        (Framing::Raw, _) => read_raw(&mut scan, &mut envelope, sender),
        (Framing::SockJs, Sender::Client) => read_from_client(&mut scan, &mut envelope),
        (Framing::SockJs, Sender::Server) => read_from_server(&mut scan, &mut envelope),
    };
    match outcome {
        Ok(()) => envelope,
        Err(Stop::Enough) => envelope.before(framing, scan.rest()),
        Err(Stop::Cut) => Envelope {
            cut: true,
            ..envelope
        },
        Err(Stop::Broken) => Envelope::of(Kind::Unreadable),
    }
}

impl Envelope<'_> {
    pub(super) fn of(kind: Kind) -> Self {
        Self {
            kind,
            id: None,
            method: None,
            name: None,
            collection: None,
            session: None,
            several: false,
            batch: false,
            bare: false,
            cut: false,
        }
    }

    /// Whether the first two members of a message are enough of it: an event is known by its collection, a result by
    /// its id.
    pub(super) fn is_enough(&self, sender: Sender) -> bool {
        let is_stream = |name: &[u8]| name.starts_with(b"stream-");
        sender == Sender::Server
            && match self.kind {
                Kind::Changed => self.collection.is_some_and(is_stream),
                Kind::Result => self.id.is_some(),
                _ => false,
            }
    }

    /// This, when `rest` follows and is not read.
    pub(super) fn before(self, framing: Framing, rest: &[u8]) -> Self {
        Self {
            // There is a quote that ends the message, and it is not the last one.
            batch: framing == Framing::SockJs
                && has_bare_quote(rest.strip_suffix(b"\"]").unwrap_or(rest)),
            cut: true,
            ..self
        }
    }
}

/// Whether a quote stands in the text that has no backslash before it. All bytes are looked at, so that it is done for
/// many at once.
fn has_bare_quote(text: &[u8]) -> bool {
    let pairs = text.iter().zip(text.get(1..).unwrap_or_default());
    let found = pairs.fold(0, |found, (&before, &byte)| {
        found | u8::from(byte == b'"') & u8::from(before != b'\\')
    });
    found > 0 || text.first() == Some(&b'"')
}

fn read_raw<'a>(
    scan: &mut Scan<'a>,
    envelope: &mut Envelope<'a>,
    sender: Sender,
) -> Result<(), Stop> {
    read_object(scan, envelope, sender)?;
    expect_end(scan)
}

fn read_from_client<'a>(scan: &mut Scan<'a>, envelope: &mut Envelope<'a>) -> Result<(), Stop> {
    match scan.solid()? {
        b'[' => read_elements(scan, envelope, Sender::Client),
        b'"' => {
            envelope.bare = true;
            read_quoted(scan, envelope, Sender::Client)?;
            expect_end(scan)
        }
        _ => Err(Stop::Broken),
    }
}

fn read_from_server<'a>(scan: &mut Scan<'a>, envelope: &mut Envelope<'a>) -> Result<(), Stop> {
    match scan.next()? {
        b'a' if scan.solid()? == b'[' => read_elements(scan, envelope, Sender::Server),
        b'o' => {
            envelope.kind = Kind::Open;
            expect_end(scan)
        }
        b'h' => {
            envelope.kind = Kind::Heartbeat;
            expect_end(scan)
        }
        b'c' if scan.solid()? == b'[' => {
            envelope.kind = Kind::Closed;
            scan.skip_nested()?;
            expect_end(scan)
        }
        _ => Err(Stop::Broken),
    }
}

/// A SockJS array after its opening bracket: the first element is read, others are only noticed.
fn read_elements<'a>(
    scan: &mut Scan<'a>,
    envelope: &mut Envelope<'a>,
    sender: Sender,
) -> Result<(), Stop> {
    match scan.solid()? {
        b']' => {
            envelope.kind = Kind::Empty;
            return expect_end(scan);
        }
        b'"' => read_quoted(scan, envelope, sender)?,
        _ => return Err(Stop::Broken),
    }
    match scan.solid()? {
        b']' => expect_end(scan),
        b',' => {
            envelope.batch = true;
            scan.skip_nested()?;
            expect_end(scan)
        }
        _ => Err(Stop::Broken),
    }
}

fn read_quoted<'a>(
    scan: &mut Scan<'a>,
    envelope: &mut Envelope<'a>,
    sender: Sender,
) -> Result<(), Stop> {
    scan.enter_quotes();
    read_object(scan, envelope, sender)?;
    scan.leave_quotes()
}

/// Reads one object to its closing bracket and notes the values of the known keys.
fn read_object<'a>(
    scan: &mut Scan<'a>,
    envelope: &mut Envelope<'a>,
    sender: Sender,
) -> Result<(), Stop> {
    if scan.solid()? != b'{' {
        return Err(Stop::Broken);
    }
    let mut has_msg = false;
    let mut has_server_id = false;
    let mut members = 0_u32;
    let mut byte = scan.solid()?;
    if byte == b'}' {
        return Ok(());
    }
    loop {
        if byte != b'"' {
            return Err(Stop::Broken);
        }
        let key = scan.string()?.word;
        if scan.solid()? != b':' {
            return Err(Stop::Broken);
        }
        let (text, after) = match scan.solid()? {
            b'"' => (Some(scan.string()?), None),
            b'[' if matches!(key.as_bytes(), b"subs" | b"methods") => {
                read_ids(scan, envelope)?;
                (None, None)
            }
            b'{' | b'[' => {
                scan.skip_nested()?;
                (None, None)
            }
            b',' | b'}' | b']' | b':' => return Err(Stop::Broken),
            _ => (None, Some(scan.skip_scalar()?)),
        };
        let value = text.as_ref().and_then(|text| text.plain);
        match key.as_bytes() {
            b"msg" => {
                has_msg = true;
                envelope.kind = text.map_or(Kind::Other, |text| Kind::named(text.word.as_bytes()));
            }
            b"id" => envelope.id = value,
            b"method" => envelope.method = value,
            b"name" => envelope.name = value,
            b"collection" => envelope.collection = value,
            b"session" => envelope.session = value,
            b"server_id" => has_server_id = true,
            _ => {}
        }
        members += 1;
        if members == 2 && envelope.is_enough(sender) {
            return Err(Stop::Enough);
        }
        let after = match after {
            Some(byte) => byte,
            None => scan.solid()?,
        };
        match after {
            b',' => byte = scan.solid()?,
            b'}' => break,
            _ => return Err(Stop::Broken),
        }
    }
    if has_server_id && !has_msg {
        envelope.kind = Kind::ServerId;
    }
    Ok(())
}

/// The ids in `subs` or `methods`, after the opening bracket.
fn read_ids<'a>(scan: &mut Scan<'a>, envelope: &mut Envelope<'a>) -> Result<(), Stop> {
    // Until the end of the list has been seen, it may hold anything.
    envelope.several = true;
    let first = match scan.solid()? {
        b'"' => scan.string()?.plain,
        b']' => return Ok(()),
        b'{' | b'[' => {
            scan.skip_nested()?;
            return scan.skip_nested();
        }
        _ => return scan.skip_nested(),
    };
    match scan.solid()? {
        b']' => {
            envelope.id = first;
            envelope.several = false;
            Ok(())
        }
        b',' => scan.skip_nested(),
        _ => Err(Stop::Broken),
    }
}

/// Only blanks may be left.
fn expect_end(scan: &mut Scan<'_>) -> Result<(), Stop> {
    match scan.solid() {
        Err(Stop::Cut) => Ok(()),
        Ok(_) | Err(_) => Err(Stop::Broken),
    }
}

impl Kind {
    pub(super) fn named(msg: &[u8]) -> Self {
        match msg {
            b"connect" => Self::Connect,
            b"connected" => Self::Connected,
            b"failed" => Self::Failed,
            b"ping" => Self::Ping,
            b"pong" => Self::Pong,
            b"sub" => Self::Sub,
            b"unsub" => Self::Unsub,
            b"method" => Self::Method,
            b"disconnect" => Self::Disconnect,
            b"nosub" => Self::Nosub,
            b"added" => Self::Added,
            b"changed" => Self::Changed,
            b"removed" => Self::Removed,
            b"ready" => Self::Ready,
            b"addedBefore" => Self::AddedBefore,
            b"movedBefore" => Self::MovedBefore,
            b"result" => Self::Result,
            b"updated" => Self::Updated,
            b"error" => Self::Error,
            b"server_id" => Self::ServerId,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Envelope, Kind, peek};
    use crate::ddp::{Framing, Sender, wrap_for_client, wrap_for_streamer};

    const METHOD: &str =
        r#"{"msg":"method","id":"7","method":"login","params":[{"id":"no","msg":"no"}]}"#;

    fn from_client(text: &str) -> Envelope<'_> {
        peek(text.as_bytes(), Framing::SockJs, Sender::Client)
    }

    fn from_server(text: &str) -> Envelope<'_> {
        peek(text.as_bytes(), Framing::SockJs, Sender::Server)
    }

    fn raw(text: &str) -> Envelope<'_> {
        peek(text.as_bytes(), Framing::Raw, Sender::Client)
    }

    #[test]
    fn reads_the_top_level_in_every_framing() {
        let expected = Envelope {
            id: Some(b"7"),
            method: Some(b"login"),
            ..Envelope::of(Kind::Method)
        };
        assert_eq!(raw(METHOD), expected);
        let upward = wrap_for_streamer(Framing::SockJs, METHOD);
        assert_eq!(peek(&upward, Framing::SockJs, Sender::Client), expected);
        let downward = wrap_for_client(Framing::SockJs, METHOD);
        assert_eq!(peek(&downward, Framing::SockJs, Sender::Server), expected);
    }

    #[test]
    fn key_order_blanks_and_nesting_do_not_matter() {
        let text = " {\n\"params\" : [ [ {\"id\":\"]}\"}, \"\\\"}\" ], 1e3, null ] ,\t\"n\":-1.5 , \"t\":true, \
                    \"name\":\"stream-x\" ,\"id\":\"a\",\"msg\":\"sub\"} ";
        let envelope = raw(text);
        assert_eq!(envelope.kind, Kind::Sub);
        assert_eq!(envelope.id, Some(&b"a"[..]));
        assert_eq!(envelope.name, Some(&b"stream-x"[..]));
        assert!(!envelope.cut);
    }

    #[test]
    fn msg_is_recognised_through_escapes_but_other_values_are_not_lent() {
        let envelope = raw(r#"{"\u006dsg":"m\u0065thod","id":"\u0031","method":"lo\/gin"}"#);
        assert_eq!(envelope, Envelope::of(Kind::Method));
        let envelope =
            from_client(r#"["{\u0022msg\u0022:\"\u006det\\u0068od\",\"id\":\"\u0031\"}"]"#);
        assert_eq!(envelope, Envelope::of(Kind::Method));
    }

    #[test]
    fn what_lies_beyond_ascii_is_never_a_known_name() {
        // U+0167 ends in the byte of `g`, U+0067 is one.
        for text in [
            r#"{"ms\u0167":"ping"}"#,
            r#"{"msg":"pin\u0167"}"#,
            r#"{"msg":"pin\ud83d\ude67"}"#,
            r#"{"msg":"pinģ"}"#,
        ] {
            assert_eq!(raw(text), Envelope::of(Kind::Other), "{text}");
        }
        assert_eq!(raw(r#"{"msg":"pin\u0067"}"#).kind, Kind::Ping);
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        let envelope = raw(r#"{"msg":"ping","id":"1","msg":"method","id":2}"#);
        assert_eq!(envelope, Envelope::of(Kind::Method));
    }

    #[test]
    fn server_id_is_known_with_and_without_msg() {
        assert_eq!(raw(r#"{"server_id":"0"}"#).kind, Kind::ServerId);
        assert_eq!(
            from_server(r#"a["{\"msg\":\"server_id\",\"server_id\":\"0\"}"]"#).kind,
            Kind::ServerId
        );
        assert_eq!(raw(r#"{"server_id":"0","msg":"ping"}"#).kind, Kind::Ping);
        // More keys may follow, `msg` among them.
        assert_eq!(raw(r#"{"server_id":"0""#).kind, Kind::Other);
    }

    #[test]
    fn ids_of_ready_and_updated_are_read_when_there_is_one() {
        let ready = raw(r#"{"msg":"ready","subs":["a1"]}"#);
        assert_eq!((ready.id, ready.several), (Some(&b"a1"[..]), false));
        let updated = from_server(r#"a["{\"msg\":\"updated\",\"methods\":[\"7\"]}"]"#);
        assert_eq!((updated.id, updated.several), (Some(&b"7"[..]), false));
        for text in [
            r#"{"msg":"ready","subs":[]}"#,
            r#"{"msg":"ready","subs":["a","b"]}"#,
            r#"{"msg":"ready","subs":[["a"],"b"]}"#,
            r#"{"msg":"ready","subs":[{"a":1}]}"#,
            r#"{"msg":"ready","subs":[1,2]}"#,
            r#"{"msg":"ready","subs":["a","#,
        ] {
            let ready = raw(text);
            assert_eq!(ready.kind, Kind::Ready, "{text}");
            assert!(ready.several && ready.id.is_none(), "{text}");
        }
        let escaped = raw(r#"{"msg":"ready","subs":["\u0061"]}"#);
        assert_eq!((escaped.id, escaped.several), (None, false));
        assert_eq!(raw(r#"{"msg":"ready","subs":["a"}"#).kind, Kind::Unreadable);
    }

    #[test]
    fn sockjs_frames_without_messages() {
        for (text, kind) in [
            ("", Kind::Empty),
            ("o", Kind::Open),
            ("o\n", Kind::Open),
            ("h", Kind::Heartbeat),
            (r#"c[3000,"Go away!"]"#, Kind::Closed),
            ("a[]", Kind::Empty),
            ("a [ ] ", Kind::Empty),
            ("x", Kind::Unreadable),
            ("oo", Kind::Unreadable),
            ("c3000", Kind::Unreadable),
            ("a{}", Kind::Unreadable),
        ] {
            assert_eq!(from_server(text), Envelope::of(kind), "{text:?}");
        }
        for (text, kind) in [
            ("", Kind::Empty),
            ("[]", Kind::Empty),
            (" [ ] ", Kind::Empty),
            ("[1]", Kind::Unreadable),
            (r#"[{"msg":"ping"}]"#, Kind::Unreadable),
            (r#"{"msg":"ping"}"#, Kind::Unreadable),
            (r#"[""]"#, Kind::Unreadable),
            (r#"["{\"msg\":"]"#, Kind::Unreadable),
            (r#"["{\"msg\":\"ping\"}" x"#, Kind::Unreadable),
            (r#"["{\"msg\":\"ping\"} x"]"#, Kind::Unreadable),
            (r#"["{\"msg\":\"\q\"}"]"#, Kind::Unreadable),
        ] {
            assert_eq!(from_client(text), Envelope::of(kind), "{text:?}");
        }
        assert_eq!(raw(""), Envelope::of(Kind::Empty));
    }

    #[test]
    fn batches_and_bare_strings_are_flagged() {
        let batch = from_client(r#"["{\"msg\":\"ping\"}" , "{\"msg\":\"pong\"}"]"#);
        assert_eq!(
            batch,
            Envelope {
                batch: true,
                ..Envelope::of(Kind::Ping)
            }
        );
        let cut = from_server(r#"a["{\"msg\":\"ready\"}","{\"ms"#);
        assert!(cut.batch && cut.cut && cut.kind == Kind::Ready);
        let bare = from_client(r#" "{\"msg\":\"ping\"}" "#);
        assert_eq!(
            bare,
            Envelope {
                bare: true,
                ..Envelope::of(Kind::Ping)
            }
        );
    }

    #[test]
    fn what_is_no_object_is_unreadable() {
        for text in [
            "x",
            "5",
            "[]",
            "\"a\"",
            "null",
            "{]",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}x",
            "{\"a\":1]",
            "{\"a\":tr\"ue\"}",
            "{}{}",
            "\\",
            "\u{0}",
        ] {
            assert_eq!(raw(text).kind, Kind::Unreadable, "{text:?}");
        }
    }

    #[test]
    fn every_cut_keeps_what_is_certain() {
        for at in 1..METHOD.len() {
            let envelope = raw(&METHOD[..at]);
            assert!(envelope.cut);
            assert_eq!(
                envelope.kind == Kind::Method,
                at >= r#"{"msg":"method""#.len()
            );
            assert!(envelope.id.is_none() || envelope.id == Some(b"7"));
            assert!(envelope.method.is_none() || envelope.method == Some(b"login"));
        }
    }
}
