use proptest::{
    collection::vec,
    prelude::{BoxedStrategy, Strategy, any, prop_assert_eq, prop_oneof, proptest},
    sample::{Index, select},
    test_runner::TestCaseError,
};

use super::{envelope, request};
use crate::ddp::{
    Envelope, Framing, Kind, Request, Sender, envelope::read, messages_from_client, peek,
    wrap_for_client, wrap_for_streamer,
};

const FORMS: [(Framing, Sender); 4] = [
    (Framing::Raw, Sender::Client),
    (Framing::Raw, Sender::Server),
    (Framing::SockJs, Sender::Client),
    (Framing::SockJs, Sender::Server),
];

fn frame(json: &str, framing: Framing, sender: Sender) -> Vec<u8> {
    match sender {
        Sender::Client => wrap_for_streamer(framing, json),
        Sender::Server => wrap_for_client(framing, json),
    }
}

/// JSON as it is written without blanks, and a little else that is broken.
fn value() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        8 => select(vec![
            "\"\"", "\"1\"", "\"rc-ddp-client-12\"", "\"a\\\"b\"", "\"\\\\\"", "\"\\n\"", "\"\\u0041\"", "\"é😀\"",
            "\"result\"", "\"changed\"", "\"stream-x\"", "\"a longer text, of more than eight bytes\"", "\"\\ud800\"",
            "0", "-0", "12", "1.5", "-1.50", "1e3", "true", "false", "null", "[]", "{}",
        ]),
        1 => select(vec![
            "", "01", "1.", "-", ".5", "tru", "nul", "\"\n\"", "\"\\x\"", "[1,]", "{\"a\"}", "[}", "{]", "\"", " 1", "+1",
        ]),
    ]
    .prop_map(str::to_owned);
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            vec((key(), inner), 0..4).prop_map(|members| object(&members)),
        ]
    })
    .boxed()
}

fn key() -> impl Strategy<Value = &'static str> {
    select(vec![
        "msg",
        "id",
        "method",
        "name",
        "params",
        "collection",
        "session",
        "subs",
        "methods",
        "server_id",
        "fields",
        "é",
        "a\\nb",
        "",
        "m\\u0073g",
    ])
}

fn object(members: &[(&str, String)]) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(key, value)| format!("\"{key}\":{value}"))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// What begins as known clients and servers begin, and goes on in any way.
fn message() -> impl Strategy<Value = String> {
    let start = select(vec![
        vec![
            ("msg", "\"changed\""),
            ("collection", "\"stream-room-messages\""),
        ],
        vec![("msg", "\"changed\""), ("collection", "\"users\"")],
        vec![("collection", "\"stream-x\""), ("msg", "\"changed\"")],
        vec![("msg", "\"result\""), ("id", "\"41\"")],
        vec![("msg", "\"updated\""), ("methods", "[\"41\"]")],
        vec![("msg", "\"updated\""), ("methods", "[\"41\",\"42\"]")],
        vec![("msg", "\"ready\""), ("subs", "[\"k\"]")],
        vec![
            ("msg", "\"method\""),
            ("id", "\"41\""),
            ("method", "\"login\""),
        ],
        vec![
            ("msg", "\"sub\""),
            ("id", "\"k\""),
            ("name", "\"stream-x\""),
        ],
        vec![("msg", "\"unsub\""), ("id", "\"k\"")],
        vec![("msg", "\"ping\"")],
        vec![("msg", "\"pong\"")],
        vec![("msg", "\"connect\"")],
        vec![],
    ]);
    (start, vec((key(), value()), 0..5)).prop_map(|(start, mut rest)| {
        let mut members: Vec<_> = start
            .into_iter()
            .map(|(key, value)| (key, value.to_owned()))
            .collect();
        members.append(&mut rest);
        object(&members)
    })
}

fn says_the_same(text: &[u8], framing: Framing, sender: Sender) -> Result<(), TestCaseError> {
    if let Some(usual) = envelope(text, framing, sender) {
        let said = read(text, framing, sender);
        prop_assert_eq!(usual, said, "{}", String::from_utf8_lossy(text));
    }
    if let Some(usual) = Request::glance(framing, text) {
        let messages = messages_from_client(framing, text);
        let [message] = messages.as_deref().unwrap_or_default() else {
            return Err(TestCaseError::fail(format!("{messages:?}")));
        };
        let whole = Request::read(message).map(|whole| without_params(&whole));
        prop_assert_eq!(whole, Ok(without_params(&usual)), "{}", message);
    }
    Ok(())
}

fn without_params<'a>(request: &Request<'a>) -> Request<'a> {
    match request.clone() {
        Request::Method { id, method, .. } => Request::Method {
            id,
            method,
            params: "",
        },
        Request::Sub { id, name, .. } => Request::Sub {
            id,
            name,
            params: "",
        },
        request => request,
    }
}

proptest! {
    #[test]
    fn the_quick_reader_says_what_the_other_one_says(json in message(), cut in any::<Index>()) {
        if let Some(usual) = request(&json) {
            prop_assert_eq!(Request::read(&json), Ok(usual), "{}", json);
        }
        for (framing, sender) in FORMS {
            let text = frame(&json, framing, sender);
            says_the_same(&text, framing, sender)?;
            says_the_same(&text[..cut.index(text.len())], framing, sender)?;
        }
    }

    #[test]
    fn also_of_what_is_garbled(
        json in message(), at in any::<Index>(), byte in select(b"\"\\{}[]:,a0 \n\xff".to_vec()), replaces in any::<bool>(),
    ) {
        for (framing, sender) in FORMS {
            let mut text = frame(&json, framing, sender);
            let at = at.index(text.len());
            match replaces {
                true => text[at] = byte,
                false => text.insert(at, byte),
            }
            says_the_same(&text, framing, sender)?;
            if let Ok(text) = str::from_utf8(&text)
                && let Some(usual) = request(text)
            {
                prop_assert_eq!(Request::read(text), Ok(usual), "{}", text);
            }
        }
    }

    #[test]
    fn and_of_several_messages(
        one in message(), other in message(), between in select(vec![",", " ,", "", "]"]), cut in any::<Index>(),
    ) {
        for sender in [Sender::Client, Sender::Server] {
            let one = frame(&one, Framing::SockJs, sender);
            let other = frame(&other, Framing::SockJs, Sender::Client);
            let text = [&one[..one.len() - 1], between.as_bytes(), &other[1..]].concat();
            says_the_same(&text, Framing::SockJs, sender)?;
            says_the_same(&text[..cut.index(text.len())], Framing::SockJs, sender)?;
        }
    }

    #[test]
    fn and_of_anything(
        text in vec(select(vec![
            "a[\"", "[\"", "\"]", "{", "}", "[", "]", ":", ",", "\"", "\\\"", "\\", "\\\\", "msg", "id", "changed", "ping",
            "{\"msg\":\"changed\",\"collection\":\"stream-", "a[\"{\\\"msg\\\":\\\"changed\\\",\\\"collection\\\":\\\"stream-",
            "a[\"{\\\"msg\\\":\\\"result\\\",\\\"id\\\":\\\"", "{\"msg\":\"method\",\"id\":\"1\",\"method\":\"", "0", " ",
        ]), 0..12)
    ) {
        let text = text.concat();
        for (framing, sender) in FORMS {
            says_the_same(text.as_bytes(), framing, sender)?;
        }
    }
}

#[test]
fn what_clients_and_servers_write_is_read_quickly() {
    let deep = format!("{}1{}", "[".repeat(60), "]".repeat(60));
    for json in [
        r#"{"msg":"method","id":"41","method":"stream-notify-room","params":["GENERAL/user-activity","ada",["x"],{}]}"#,
        r#"{"msg":"method","method":"getRoomRoles","params":[{"$date":17637},-1.5,true,null,"a\"\\\n"],"id":"rc-ddp-client-12"}"#,
        r#"{"id":"1","method":"m","msg":"method","params":[{},[],[{"a":[]}]]}"#,
        r#"{"msg":"sub","id":"k","name":"stream-room-messages","params":["GENERAL",{"useCollection":false,"args":[]}]}"#,
        r#"{"msg":"unsub","id":"k"}"#,
        r#"{"msg":"ping"}"#,
        r#"{"msg":"pong","id":"1"}"#,
        r#"{"msg":"connect","version":"1","support":["1","pre2"]}"#,
        &format!(r#"{{"msg":"method","id":"1","method":"m","params":{deep}}}"#),
    ] {
        assert!(request(json).is_some(), "{json}");
        for framing in [Framing::Raw, Framing::SockJs] {
            let text = wrap_for_streamer(framing, json);
            assert!(Request::glance(framing, &text).is_some(), "{json}");
        }
    }
    for json in [
        r#"{"msg":"result","id":"41","result":{"a":[1,"\n"]}}"#,
        r#"{"msg":"updated","methods":["41"]}"#,
        r#"{"msg":"ready","subs":["k"]}"#,
        r#"{"msg":"nosub","id":"k","error":{"error":"not-allowed"}}"#,
        r#"{"msg":"added","collection":"users","id":"u","fields":{"name":"é \"x\" \\"}}"#,
        r#"{"msg":"changed","collection":"stream-x","id":"id","fields":{"eventName":"e","args":[]}}"#,
        r#"{"msg":"ping"}"#,
        r#"{"msg":"pong","id":"7"}"#,
    ] {
        for framing in [Framing::Raw, Framing::SockJs] {
            let text = wrap_for_client(framing, json);
            assert!(envelope(&text, framing, Sender::Server).is_some(), "{json}");
        }
    }
}

#[test]
fn an_event_is_known_by_its_beginning() {
    let event = r#"{"msg":"changed","collection":"stream-x","id":"id","fields":{},"msg":"result"}"#;
    let known = Envelope {
        collection: Some(b"stream-x"),
        cut: true,
        ..Envelope::of(Kind::Changed)
    };
    for framing in [Framing::Raw, Framing::SockJs] {
        let text = wrap_for_client(framing, event);
        assert_eq!(peek(&text, framing, Sender::Server), known);
        assert_eq!(read(&text, framing, Sender::Server), known);
        // Only what a server says is believed so far.
        let text = wrap_for_streamer(framing, event);
        assert_eq!(peek(&text, framing, Sender::Client).kind, Kind::Result);
    }
    let document = event.replace("stream-x", "users");
    let kind = peek(document.as_bytes(), Framing::Raw, Sender::Server).kind;
    assert_eq!(kind, Kind::Result);
}

#[test]
fn several_messages_in_a_frame_are_noticed_behind_an_event() {
    let quoted =
        r#""{\"msg\":\"changed\",\"collection\":\"stream-x\",\"fields\":{\"a\":\"\\\"\\\\\"}}""#;
    for (text, batch) in [
        (format!("a[{quoted}]"), false),
        (format!("a[{quoted},{quoted}]"), true),
        (format!("a[{quoted} , {quoted}]"), true),
        (format!("a[{quoted}]")[..60].to_owned(), false),
    ] {
        for known in [peek, read] {
            let said = known(text.as_bytes(), Framing::SockJs, Sender::Server);
            assert_eq!((said.kind, said.batch), (Kind::Changed, batch), "{text}");
        }
    }
}
