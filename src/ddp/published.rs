//! What a streamer publishes: the events of streams, and documents.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    message::SyntaxError,
    object::{fields, text, typed},
};

/// One `added`, `changed` or `removed` of a server.
#[derive(Clone, Debug)]
pub enum Published<'a> {
    /// A `changed` of a `stream-*` collection: how Rocket.Chat sends events.
    Event(Event<'a>),
    /// The `added` of a stream that precedes `ready` when a client wants a collection
    /// (`RocketChat/Rocket.Chat:ee/apps/ddp-streamer/src/Streamer.ts`).
    Announced,
    Document(Document<'a>),
}

/// An event of a stream.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    pub collection: Cow<'a, str>,
    /// `fields.eventName`; empty when there is none, as in `stream-user-presence`.
    pub name: Cow<'a, str>,
    /// `fields.args`.
    pub args: Option<&'a RawValue>,
}

/// What becomes of one document.
#[derive(Clone, Debug)]
pub struct Document<'a> {
    pub collection: Cow<'a, str>,
    pub id: Cow<'a, str>,
    pub change: Change<'a>,
}

#[derive(Clone, Debug)]
pub enum Change<'a> {
    Added(Option<&'a RawValue>),
    Changed {
        fields: Option<&'a RawValue>,
        cleared: Vec<String>,
    },
    Removed,
}

impl<'a> Published<'a> {
    /// Reads the text of one message, framing taken off.
    ///
    /// # Errors
    /// When it is not JSON, none of the three messages, or without a collection or id.
    pub fn parse(json: &'a str) -> Result<Self, SyntaxError> {
        let names = ["msg", "collection", "id", "fields", "cleared"];
        let [msg, collection, id, inner, cleared] = fields(json, names)?;
        let missing = |key| SyntaxError::Missing { key };
        let collection = collection
            .and_then(text)
            .ok_or_else(|| missing("collection"))?;
        let id = id.and_then(text).ok_or_else(|| missing("id"))?;
        let msg = msg.and_then(text);
        let stream = collection.starts_with("stream-");
        let change = match msg.as_deref() {
            Some("added") if stream => return Ok(Self::Announced),
            Some("changed") if stream => {
                return Ok(Self::Event(Event::of(collection, inner)));
            }
            Some("added") => Change::Added(inner),
            Some("changed") => Change::Changed {
                fields: inner,
                cleared: typed(cleared).unwrap_or_default(),
            },
            Some("removed") => Change::Removed,
            _ => {
                return Err(SyntaxError::Unexpected {
                    wanted: "added, changed or removed",
                });
            }
        };
        Ok(Self::Document(Document {
            collection,
            id,
            change,
        }))
    }
}

impl<'a> Event<'a> {
    fn of(collection: Cow<'a, str>, inner: Option<&'a RawValue>) -> Self {
        let inner = inner.and_then(|inner| fields(inner.get(), ["eventName", "args"]).ok());
        let [name, args] = inner.unwrap_or_default();
        Self {
            collection,
            name: name.and_then(text).unwrap_or_default(),
            args,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Published};

    #[test]
    fn tells_events_from_documents() {
        let json = r#"{"msg":"changed","collection":"stream-notify-room","id":"id","fields":{"eventName":"r/typing","args":["ann",true]}}"#;
        let Ok(Published::Event(event)) = Published::parse(json) else {
            panic!("an event");
        };
        assert_eq!(event.collection, "stream-notify-room");
        assert_eq!(event.name, "r/typing");
        assert_eq!(event.args.unwrap().get(), r#"["ann",true]"#);

        let json = r#"{"msg":"changed","collection":"stream-user-presence","id":"u1","fields":{"uid":"u1","args":[["ann",1,""]]}}"#;
        let Ok(Published::Event(event)) = Published::parse(json) else {
            panic!("an event");
        };
        assert_eq!(event.name, "");

        let json = r#"{"msg":"added","collection":"stream-roles","id":"id","fields":{"eventName":"roles"}}"#;
        assert!(matches!(Published::parse(json), Ok(Published::Announced)));

        let json =
            r#"{"msg":"changed","collection":"users","id":"u1","cleared":["a"],"fields":{"b":1}}"#;
        let Ok(Published::Document(document)) = Published::parse(json) else {
            panic!("a document");
        };
        assert_eq!((&*document.collection, &*document.id), ("users", "u1"));
        let Change::Changed { fields, cleared } = document.change else {
            panic!("a change");
        };
        assert_eq!(
            (fields.unwrap().get(), cleared),
            (r#"{"b":1}"#, vec!["a".to_owned()])
        );
    }

    #[test]
    fn what_lacks_something_is_an_error() {
        for json in [
            "",
            "{",
            r#"{"msg":"changed","id":"x"}"#,
            r#"{"msg":"changed","collection":"users"}"#,
            r#"{"msg":"ready","collection":"users","id":"x"}"#,
            r#"{"collection":"stream-roles","id":"x"}"#,
        ] {
            assert!(Published::parse(json).is_err(), "{json}");
        }
    }
}
