//! `peek` against `serde_json`, and what goes into a frame against what comes out.

use ddp_gateway::{
    ddp::{
        Connect, Envelope, Framing, Kind, Sender, messages_from_client, messages_from_streamer,
        peek, wrap_for_client, wrap_for_streamer,
    },
    sockjs::frame,
};
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::{
        BoxedStrategy, Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq,
        prop_oneof, proptest,
    },
    sample::select,
    test_runner::TestCaseError,
};
use serde_json::{Map, Value};

const KINDS: [(&str, Kind); 20] = [
    ("connect", Kind::Connect),
    ("connected", Kind::Connected),
    ("failed", Kind::Failed),
    ("ping", Kind::Ping),
    ("pong", Kind::Pong),
    ("sub", Kind::Sub),
    ("unsub", Kind::Unsub),
    ("method", Kind::Method),
    ("disconnect", Kind::Disconnect),
    ("nosub", Kind::Nosub),
    ("added", Kind::Added),
    ("changed", Kind::Changed),
    ("removed", Kind::Removed),
    ("ready", Kind::Ready),
    ("addedBefore", Kind::AddedBefore),
    ("movedBefore", Kind::MovedBefore),
    ("result", Kind::Result),
    ("updated", Kind::Updated),
    ("error", Kind::Error),
    ("server_id", Kind::ServerId),
];

const KEYS: [&str; 7] = [
    "msg",
    "id",
    "method",
    "name",
    "collection",
    "session",
    "server_id",
];

/// The two ways in which a SockJS message can be written, and the raw one.
const FORMS: [(Framing, Sender); 3] = [
    (Framing::Raw, Sender::Client),
    (Framing::SockJs, Sender::Client),
    (Framing::SockJs, Sender::Server),
];

/// Writes JSON with blanks and escapes wherever the grammar allows them, as the choices tell.
struct Pen<'a> {
    out: String,
    choices: std::iter::Cycle<std::slice::Iter<'a, u8>>,
}

impl<'a> Pen<'a> {
    fn new(choices: &'a [u8]) -> Self {
        Self {
            out: String::new(),
            choices: choices.iter().cycle(),
        }
    }

    fn choice(&mut self) -> u8 {
        self.choices.next().copied().unwrap_or(255)
    }

    fn blank(&mut self) {
        let blank = match self.choice() {
            0..=15 => " ",
            16..=31 => "\r\n\t ",
            _ => "",
        };
        self.out.push_str(blank);
    }

    fn between(&mut self, mark: char) {
        self.blank();
        self.out.push(mark);
        self.blank();
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for char in text.chars() {
            let choice = self.choice();
            match char {
                '"' | '\\' | '/' if choice < 128 => self.out.extend(['\\', char]),
                '\n' if choice < 128 => self.out.push_str("\\n"),
                '\u{8}' if choice < 128 => self.out.push_str("\\b"),
                '"' | '\\' | '\0'..='\u{1f}' => self.code_units(char),
                _ if choice < 12 => self.code_units(char),
                _ => self.out.push(char),
            }
        }
        self.out.push('"');
    }

    fn code_units(&mut self, char: char) {
        for unit in char.encode_utf16(&mut [0; 2]) {
            self.out.push_str(&format!("\\u{unit:04X}"));
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.string(text),
            Value::Array(items) => {
                self.out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.between(',');
                    }
                    self.value(item);
                }
                self.blank();
                self.out.push(']');
            }
            Value::Object(map) => {
                let entries: Vec<_> = map
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                self.object(&entries);
            }
            scalar => self.out.push_str(&scalar.to_string()),
        }
    }

    fn object(&mut self, entries: &[(String, Value)]) {
        self.out.push('{');
        self.blank();
        for (index, (key, value)) in entries.iter().enumerate() {
            if index > 0 {
                self.between(',');
            }
            self.string(key);
            self.between(':');
            self.value(value);
        }
        self.blank();
        self.out.push('}');
    }
}

pub(super) fn write_object(entries: &[(String, Value)], choices: &[u8]) -> String {
    let mut pen = Pen::new(choices);
    pen.blank();
    pen.object(entries);
    pen.blank();
    pen.out
}

/// Puts a message into a frame whose string is escaped more freely than any known client does it.
fn frame_freely(json: &str, framing: Framing, sender: Sender, choices: &[u8]) -> String {
    if framing == Framing::Raw {
        return json.to_owned();
    }
    let mut pen = Pen::new(choices);
    if sender == Sender::Server {
        pen.out.push('a');
    } else {
        pen.blank();
    }
    pen.out.push('[');
    pen.blank();
    pen.string(json);
    pen.blank();
    pen.out.push(']');
    pen.blank();
    pen.out
}

fn frame_as_usual(json: &str, framing: Framing, sender: Sender) -> Vec<u8> {
    match sender {
        Sender::Client => wrap_for_streamer(framing, json),
        Sender::Server => wrap_for_client(framing, json),
    }
}

pub(super) fn text() -> BoxedStrategy<String> {
    prop_oneof![
        "[a-zA-Z0-9 _/{}:,\\[\\]-]{0,12}",
        select(KINDS.map(|(name, _)| name.to_owned()).to_vec()),
        select(KEYS.map(str::to_owned).to_vec()),
        "[\"\\\\\\n\\x00-\\x1f/é€😀\u{200c}\u{2028}\u{ffff}]{0,4}",
        "\\PC{0,6}",
    ]
    .boxed()
}

pub(super) fn value() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        4 => text().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(text(), inner, 0..4).prop_map(|map| Value::Object(Map::from_iter(map))),
        ]
    })
    .boxed()
}

/// Top-level entries in any order, no key twice.
pub(super) fn entries() -> impl Strategy<Value = Vec<(String, Value)>> {
    let known = KEYS.map(|key| {
        let value = match key {
            "msg" => prop_oneof![
                9 => select(KINDS.map(|(name, _)| name.to_owned()).to_vec()).prop_map(Value::from),
                1 => value(),
            ]
            .boxed(),
            _ => prop_oneof![2 => text().prop_map(Value::from), 1 => value()].boxed(),
        };
        option::weighted(if key == "msg" { 0.9 } else { 0.5 }, value)
            .prop_map(move |value| value.map(|value| (key.to_owned(), value)))
            .boxed()
    });
    (known.to_vec(), btree_map(text(), value(), 0..4))
        .prop_map(|(known, others)| {
            let others = others
                .into_iter()
                .filter(|(key, _)| !KEYS.contains(&key.as_str()));
            known
                .into_iter()
                .flatten()
                .chain(others)
                .collect::<Vec<_>>()
        })
        .prop_shuffle()
}

pub(super) fn choices() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), vec(any::<u8>(), 1..64)]
}

fn expected_kind(object: &Map<String, Value>) -> Kind {
    match object.get("msg") {
        Some(msg) => KINDS
            .iter()
            .find(|(name, _)| msg == name)
            .map_or(Kind::Other, |(_, kind)| *kind),
        None if object.contains_key("server_id") => Kind::ServerId,
        None => Kind::Other,
    }
}

fn fields<'a>(envelope: &Envelope<'a>) -> [(&'static str, Option<&'a [u8]>); 5] {
    [
        ("id", envelope.id),
        ("method", envelope.method),
        ("name", envelope.name),
        ("collection", envelope.collection),
        ("session", envelope.session),
    ]
}

/// What is reported is true; what is not may be unknown.
fn agrees(envelope: &Envelope<'_>, object: &Map<String, Value>) -> Result<(), TestCaseError> {
    for (key, value) in fields(envelope) {
        if let Some(value) = value {
            let expected = object.get(key).and_then(Value::as_str).map(str::as_bytes);
            prop_assert_eq!(Some(value), expected, "{}", key);
        }
    }
    Ok(())
}

/// Whether the text of a server was not read to its end, because its first two members say enough: those of an event or
/// of a result.
fn has_said_enough(
    envelope: &Envelope<'_>,
    sender: Sender,
    entries: &[(String, Value)],
) -> Result<bool, TestCaseError> {
    if sender == Sender::Client || !envelope.cut {
        return Ok(false);
    }
    let first: Map<String, Value> = entries.iter().take(2).cloned().collect();
    prop_assert_eq!(envelope.kind, expected_kind(&first));
    match envelope.kind {
        Kind::Changed => prop_assert!(envelope.collection.is_some()),
        kind => prop_assert!(kind == Kind::Result && envelope.id.is_some()),
    }
    agrees(envelope, &first)?;
    Ok(true)
}

/// Whether a character stands for itself in a JSON string inside a SockJS frame.
fn is_plain(char: char) -> bool {
    !matches!(char,
        '\0'..='\u{1f}' | '"' | '\\' | '\u{200c}'..='\u{200f}' | '\u{2028}'..='\u{202f}'
        | '\u{2060}'..='\u{206f}' | '\u{fff0}'..='\u{ffff}')
}

proptest! {
    // Each case reads its text once per byte, so fewer of them take as long as the others.
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_cut_contradicts_the_whole(entries in entries(), inner in choices(), outer in choices()) {
        let json = write_object(&entries, &inner);
        let object: Map<String, Value> = serde_json::from_str(&json).unwrap();
        for (framing, sender) in FORMS {
            let text = frame_freely(&json, framing, sender, &outer);
            let whole = peek(text.as_bytes(), framing, sender);
            let mut known = Envelope { cut: true, ..peek(b"{", Framing::Raw, Sender::Client) };
            for at in 1..text.len() {
                let part = peek(&text.as_bytes()[..at], framing, sender);
                prop_assert!(part.cut || part == whole, "{} of {}", at, text);
                prop_assert!(part.kind == whole.kind || part.kind == Kind::Other, "{} of {}", at, text);
                agrees(&part, &object)?;
                // What was known of a shorter prefix stays known.
                prop_assert!(known.kind == Kind::Other || part.kind == known.kind, "{} of {}", at, text);
                for ((key, before), (_, now)) in fields(&known).into_iter().zip(fields(&part)) {
                    prop_assert!(before.is_none() || now == before, "{} at {} of {}", key, at, text);
                }
                known = part;
            }
        }
    }
}

proptest! {
    #[test]
    fn peek_agrees_with_serde_json(entries in entries(), inner in choices(), outer in choices()) {
        let json = write_object(&entries, &inner);
        let object: Map<String, Value> = serde_json::from_str(&json).unwrap();
        for (framing, sender) in FORMS {
            let text = frame_freely(&json, framing, sender, &outer);
            let envelope = peek(text.as_bytes(), framing, sender);
            if has_said_enough(&envelope, sender, &entries)? {
                continue;
            }
            prop_assert_eq!(envelope.kind, expected_kind(&object), "{}", text);
            prop_assert!(!envelope.cut && !envelope.batch && !envelope.bare, "{}", text);
            agrees(&envelope, &object)?;
        }
    }

    #[test]
    fn plain_values_are_always_lent(entries in entries()) {
        // No free escapes here: what is left is what clients and servers really write.
        let json = write_object(&entries, &[]);
        let object: Map<String, Value> = serde_json::from_str(&json).unwrap();
        for (framing, sender) in FORMS {
            let text = frame_as_usual(&json, framing, sender);
            let envelope = peek(&text, framing, sender);
            if has_said_enough(&envelope, sender, &entries)? {
                continue;
            }
            for (key, value) in fields(&envelope) {
                let expected = object.get(key).and_then(Value::as_str).filter(|text| text.chars().all(is_plain));
                if let Some(expected) = expected {
                    prop_assert_eq!(value, Some(expected.as_bytes()), "{}", key);
                }
            }
        }
    }

    #[test]
    fn of_equal_keys_the_last_counts(
        first in entries(), second in entries(), inner in choices(), outer in choices()
    ) {
        let both = [first, second].concat();
        let json = write_object(&both, &inner);
        let object: Map<String, Value> = serde_json::from_str(&json).unwrap();
        for (framing, sender) in FORMS {
            let text = frame_freely(&json, framing, sender, &outer);
            let envelope = peek(text.as_bytes(), framing, sender);
            if has_said_enough(&envelope, sender, &both)? {
                continue;
            }
            prop_assert_eq!(envelope.kind, expected_kind(&object), "{}", text);
            agrees(&envelope, &object)?;
        }
    }

    #[test]
    fn batches_are_told_by_their_first_message(messages in vec(entries(), 0..4), inner in choices()) {
        let written: Vec<String> = messages.iter().map(|entries| write_object(entries, &inner)).collect();
        let down = frame::messages(written.iter().map(String::as_str));
        let up = serde_json::to_vec(&written).unwrap();
        for (text, sender) in [(down, Sender::Server), (up, Sender::Client)] {
            let envelope = peek(&text, Framing::SockJs, sender);
            prop_assert_eq!(envelope.batch, written.len() > 1);
            match written.first() {
                None => prop_assert_eq!(envelope.kind, Kind::Empty),
                Some(first) => {
                    let object: Map<String, Value> = serde_json::from_str(first).unwrap();
                    prop_assert_eq!(envelope.kind, expected_kind(&object));
                    agrees(&envelope, &object)?;
                }
            }
            let unpacked = match sender {
                Sender::Server => messages_from_streamer(Framing::SockJs, &text),
                Sender::Client => messages_from_client(Framing::SockJs, &text),
            };
            prop_assert_eq!(unpacked.as_ref(), Ok(&written));
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..512)) {
        for (framing, sender) in FORMS {
            peek(&bytes, framing, sender);
        }
    }

    #[test]
    fn what_looks_like_json_is_read_as_serde_json_reads_it(
        text in vec(select(vec![
            "{", "}", "[", "]", ":", ",", "\"", "\\", "\\\"", "\\u", "0", "22", " ", "a", "o", "h", "c",
            "\"msg\":", "\"ping\"", "\"id\":", "\"a\"", "\\\"msg\\\":", "\\\"sub\\\"", "é", "\\u0022",
        ]), 0..24).prop_map(|parts| parts.concat())
    ) {
        for (framing, sender) in FORMS {
            let envelope = peek(text.as_bytes(), framing, sender);
            let messages = match sender {
                Sender::Client => messages_from_client(framing, text.as_bytes()),
                Sender::Server => messages_from_streamer(framing, text.as_bytes()),
            };
            let Ok(messages) = messages else { continue };
            let Some(first) = messages.first() else { continue };
            if let Ok(object) = serde_json::from_str::<Map<String, Value>>(first) {
                prop_assert_eq!(envelope.kind, expected_kind(&object), "{}", text);
                agrees(&envelope, &object)?;
            }
        }
    }

    #[test]
    fn what_is_wrapped_comes_out_again(json in any::<String>().prop_filter("not empty", |json| !json.is_empty())) {
        for framing in [Framing::Raw, Framing::SockJs] {
            let expected = Ok(vec![json.clone()]);
            prop_assert_eq!(&messages_from_client(framing, &wrap_for_streamer(framing, &json)), &expected);
            prop_assert_eq!(&messages_from_streamer(framing, &wrap_for_client(framing, &json)), &expected);
        }
    }

    #[test]
    fn connect_survives_a_round_trip(
        session in option::of(text()),
        version in option::of(text()),
        support in vec(text(), 0..4),
        received_count in option::of(any::<u64>()),
    ) {
        let connect = Connect { session, version, support, received_count };
        let json = connect.to_json();
        prop_assert_eq!(peek(json.as_bytes(), Framing::Raw, Sender::Client).kind, Kind::Connect);
        prop_assert_eq!(Connect::parse(&json), Ok(connect));
    }

    #[test]
    fn connect_reads_any_text_as_serde_json_does(entries in entries(), inner in choices()) {
        let json = write_object(&entries, &inner);
        let object: Map<String, Value> = serde_json::from_str(&json).unwrap();
        let connect = Connect::parse(&json);
        prop_assert_eq!(connect.is_ok(), expected_kind(&object) == Kind::Connect);
        if let Ok(connect) = connect {
            prop_assert_eq!(connect.session.as_deref(), object.get("session").and_then(Value::as_str));
        }
    }
}
