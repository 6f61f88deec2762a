//! Messages read whole against `serde_json`.

use ddp_gateway::ddp::{LoginReply, Request, SyntaxError, ids, reply, resume_token};
use proptest::{
    collection::vec,
    option,
    prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest},
    sample::select,
};
use serde_json::{Map, Value};

use super::ddp::{choices, entries, text, value, write_object};

/// Entries of any message, now and then twice, with parameters.
fn requests() -> impl Strategy<Value = Vec<(String, Value)>> {
    let msg = prop_oneof![
        6 => select(vec!["method", "sub", "unsub", "ping", "pong", "connect"]).prop_map(Value::from),
        1 => value(),
    ];
    let with = |key: &'static str, value| option::of((Just(key.to_owned()), value));
    (
        entries(),
        with("msg", msg.boxed()),
        with("params", value()),
        with("id", text().prop_map(Value::from).boxed()),
    )
        .prop_map(|(mut all, msg, params, id)| {
            all.extend([msg, params, id].into_iter().flatten());
            all
        })
        .prop_shuffle()
}

/// What is left of a request, without a parser of our own.
fn expected(
    object: &Map<String, Value>,
) -> Result<(&str, Option<&str>, Option<&str>), SyntaxError> {
    let string = |key: &str| object.get(key).and_then(Value::as_str);
    let needed = |key| {
        string(key)
            .filter(|text| !text.is_empty())
            .ok_or(SyntaxError::Missing { key })
    };
    Ok(match string("msg") {
        Some("method") => {
            let method = needed("method")?;
            ("method", Some(needed("id")?), Some(method))
        }
        Some("sub") => {
            let name = needed("name")?;
            ("sub", Some(needed("id")?), Some(name))
        }
        Some("unsub") => ("unsub", Some(needed("id")?), None),
        Some("ping") => ("ping", string("id"), None),
        Some("pong") => ("pong", None, None),
        Some("connect") => ("connect", None, None),
        Some("disconnect") => ("disconnect", None, None),
        _ => ("other", None, None),
    })
}

fn found<'r>(
    request: &'r Result<Request<'_>, SyntaxError>,
) -> Result<(&'static str, Option<&'r str>, Option<&'r str>), SyntaxError> {
    Ok(match request {
        Err(fault) => return Err(*fault),
        Ok(Request::Method { id, method, .. }) => ("method", Some(id), Some(method)),
        Ok(Request::Sub { id, name, .. }) => ("sub", Some(id), Some(name)),
        Ok(Request::Unsub { id }) => ("unsub", Some(id), None),
        Ok(Request::Ping { id }) => ("ping", id.as_deref(), None),
        Ok(Request::Pong) => ("pong", None, None),
        Ok(Request::Connect) => ("connect", None, None),
        Ok(Request::Disconnect) => ("disconnect", None, None),
        Ok(Request::Other) => ("other", None, None),
    })
}

fn params<'r>(request: &Result<Request<'r>, SyntaxError>) -> Option<&'r str> {
    match request {
        Ok(Request::Method { params, .. } | Request::Sub { params, .. }) => Some(params),
        _ => None,
    }
}

proptest! {
    #[test]
    fn requests_are_read_as_serde_json_reads_them(entries in requests(), inner in choices()) {
        let json = write_object(&entries, &inner);
        let object: Map<String, Value> = serde_json::from_str(&json).unwrap();
        let request = Request::parse(&json);
        prop_assert_eq!(found(&request), expected(&object), "{}", json);
        if let Some(params) = params(&request) {
            let read = (!params.is_empty()).then(|| serde_json::from_str::<Value>(params).unwrap());
            prop_assert_eq!(read.as_ref(), object.get("params"));
        }
    }

    #[test]
    fn what_is_no_object_is_no_request(
        text in vec(select(vec![
            "{", "}", "[", "]", ":", ",", "\"", "\\", "\\\"", "\\u", "0", "22", " ", "a", "o", "-", ".", "e",
            "\"msg\":", "\"ping\"", "\"id\":", "\"a\"", "null", "true", "{}", "é", "\n", "\"params\":[",
        ]), 0..16).prop_map(|parts| parts.concat())
    ) {
        let unreadable = |fault: &SyntaxError| {
            matches!(fault, SyntaxError::Empty | SyntaxError::Json | SyntaxError::NotObject)
        };
        let readable = serde_json::from_str::<Map<String, Value>>(&text).is_ok();
        let refused = Request::parse(&text).as_ref().is_err_and(unreadable);
        prop_assert_eq!(refused, !readable, "{}", text);
        // The others read the same text without a panic, and see nothing in what is broken.
        prop_assert!(readable || ids(&text).is_err());
        prop_assert!(readable || LoginReply::parse(&text).is_err());
        resume_token(&text);
    }

    #[test]
    fn any_text_is_survived(text in any::<String>(), params in any::<String>()) {
        let _ = (Request::parse(&text), ids(&text), LoginReply::parse(&text));
        prop_assert_eq!(resume_token(&params).is_some(), false);
    }

    #[test]
    fn tokens_are_found_where_serde_json_finds_them(
        entries in entries(), resume in option::of(value()), more in vec(value(), 0..2), inner in choices()
    ) {
        let mut entries = entries;
        entries.extend(resume.map(|resume| ("resume".to_owned(), resume)));
        let mut params = format!("[{}", write_object(&entries, &inner));
        for value in more {
            params.push_str(&format!(",{value}"));
        }
        params.push(']');
        let object: Value = serde_json::from_str(&params).unwrap();
        let expected = object[0]["resume"].as_str().filter(|token| !token.is_empty());
        let found = resume_token(&params);
        prop_assert_eq!(found.as_ref().map(|token| token.expose().as_str()), expected);
    }

    #[test]
    fn answers_name_whom_they_are_for(id in text(), ms in any::<u32>()) {
        let wait = std::time::Duration::from_millis(u64::from(ms));
        prop_assert_eq!(ids(&reply::ready(&id)), Ok(vec![id.clone()]));
        prop_assert_eq!(ids(&reply::updated(&id)), Ok(vec![id.clone()]));
        for (answer, msg) in [
            (reply::limited_result(&id, wait), "result"),
            (reply::limited_nosub(&id, wait), "nosub"),
        ] {
            let answer: Value = serde_json::from_str(&answer).unwrap();
            prop_assert_eq!(answer["msg"].as_str(), Some(msg));
            prop_assert_eq!(answer["id"].as_str(), Some(id.as_str()));
            prop_assert_eq!(answer["error"]["details"]["timeToReset"].as_u64(), Some(u64::from(ms)));
        }
    }
}
