//! The documents that the new leg publishes, to be compared with those that the client has.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::print;
use crate::{
    ddp::published::{Change, Document},
    session::journal::{Collection, DocumentView, Journal, MOST_DOCUMENTS},
};

/// Documents by collection and id, with their fields as they are now.
#[derive(Default)]
pub(super) struct Documents {
    known: BTreeMap<(Collection, String), Map<String, Value>>,
    bytes: usize,
}

/// More documents than known streamers have, or larger ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl Documents {
    /// The new leg published something.
    pub(super) fn apply(&mut self, document: &Document<'_>) -> Result<(), TooMany> {
        let Some(collection) = Collection::of(&document.collection) else {
            return Err(TooMany);
        };
        let key = (collection, document.id.clone().into_owned());
        let read = |fields: Option<&serde_json::value::RawValue>| -> Map<String, Value> {
            fields
                .and_then(|fields| serde_json::from_str(fields.get()).ok())
                .unwrap_or_default()
        };
        let size = |fields: Option<&serde_json::value::RawValue>| {
            document.id.len() + fields.map_or(0, |fields| fields.get().len())
        };
        match &document.change {
            Change::Added(fields) => {
                self.bytes += size(*fields);
                self.known.insert(key, read(*fields));
            }
            Change::Changed { fields, cleared } => {
                self.bytes += size(*fields);
                let known = self.known.entry(key).or_default();
                known.extend(read(*fields));
                for name in cleared {
                    known.remove(name);
                }
            }
            Change::Removed => {
                self.known.remove(&key);
            }
        }
        if self.known.len() > MOST_DOCUMENTS || self.bytes > MOST_BYTES {
            return Err(TooMany);
        }
        Ok(())
    }

    /// What the client has to be told so that its documents are these; noted in the journal.
    ///
    /// A document that differs is sent with all its fields: which of them differ is not known. One
    /// that the new leg does not have is removed if `is_served` says that it would have published
    /// it by now; the user's own document comes some time after the login, and is never removed.
    pub(super) fn settle(
        self,
        journal: &mut Journal,
        is_served: impl Fn(Collection) -> bool,
    ) -> Vec<String> {
        let had: Vec<DocumentView> = journal.documents().collect();
        let mut told = Vec::new();
        for view in &had {
            let key = (view.collection, view.id.clone());
            if view.collection != Collection::Users
                && is_served(view.collection)
                && !self.known.contains_key(&key)
            {
                told.push(message("removed", view.collection, &view.id, None));
                journal.drop_document(view.collection, &view.id);
            }
        }
        for ((collection, id), fields) in self.known {
            let hash = print::of_fields(&fields);
            let before = had
                .iter()
                .find(|view| view.collection == collection && view.id == id);
            let kind = match before {
                None => "added",
                Some(view) if view.hash == Some(hash) => continue,
                Some(_) => "changed",
            };
            told.push(message(kind, collection, &id, Some(fields)));
            journal.keep_document(collection, &id, Some(hash));
        }
        told
    }
}

/// The leg in charge published something, and the client is about to be told. Notes it; gives what
/// the client is told instead of an `added` for a document that it has, which would make it throw
/// (`meteor/meteor:packages/ddp-client`, `_process_added`): `Some(None)` for nothing.
pub(in crate::session) fn note(
    journal: &mut Journal,
    document: &Document<'_>,
    moved: bool,
) -> Option<Option<String>> {
    let Some(collection) = Collection::of(&document.collection) else {
        journal.set_odd();
        return None;
    };
    let id = &*document.id;
    match &document.change {
        Change::Added(fields) => {
            let fields: Map<String, Value> = fields
                .and_then(|fields| serde_json::from_str(fields.get()).ok())
                .unwrap_or_default();
            let hash = print::of_fields(&fields);
            let before = journal
                .documents()
                .find(|view| view.collection == collection && view.id == id);
            let same = before
                .as_ref()
                .is_some_and(|before| before.hash == Some(hash));
            if !same {
                journal.keep_document(collection, id, Some(hash));
            }
            match before {
                Some(_) if moved && same => Some(None),
                Some(_) if moved => Some(Some(message("changed", collection, id, Some(fields)))),
                _ => None,
            }
        }
        Change::Changed { .. } => {
            journal.keep_document(collection, id, None);
            None
        }
        Change::Removed => {
            journal.drop_document(collection, id);
            None
        }
    }
}

fn message(
    kind: &str,
    collection: Collection,
    id: &str,
    fields: Option<Map<String, Value>>,
) -> String {
    let mut message = json!({ "msg": kind, "collection": collection.name(), "id": id });
    if let Some(fields) = fields {
        message["fields"] = Value::Object(fields);
    }
    message.to_string()
}

/// Of all documents of a session together, as they came.
const MOST_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::{Documents, TooMany, note};
    use crate::{
        ddp::{Published, published::Document},
        session::journal::{Bounds, Collection, Journal},
    };

    fn document(json: &str) -> Document<'_> {
        match Published::parse(json) {
            Ok(Published::Document(document)) => document,
            other => panic!("{other:?}"),
        }
    }

    const SERVICE: &str = r#"{"msg":"added","collection":"meteor_accounts_loginServiceConfiguration","id":"l1","fields":{"a":1,"b":2}}"#;
    const OTHER: &str = r#"{"msg":"added","collection":"meteor_accounts_loginServiceConfiguration","id":"l2","fields":{"a":1}}"#;
    const USER: &str = r#"{"msg":"added","collection":"users","id":"u1","fields":{"name":"ann"}}"#;

    #[test]
    fn only_what_differs_is_told() {
        let mut journal = Journal::new(Bounds::default());
        for json in [SERVICE, OTHER, USER] {
            assert_eq!(note(&mut journal, &document(json), false), None);
        }
        let mut documents = Documents::default();
        let swapped = SERVICE.replace(r#""a":1,"b":2"#, r#""b":2,"a":1"#);
        documents.apply(&document(&swapped)).unwrap();
        let told = documents.settle(&mut journal, |_| true);
        assert_eq!(
            told,
            [
                r#"{"collection":"meteor_accounts_loginServiceConfiguration","id":"l2","msg":"removed"}"#
            ]
        );
        assert_eq!(journal.documents().count(), 2);

        let mut documents = Documents::default();
        documents.apply(&document(SERVICE)).unwrap();
        let change = r#"{"msg":"changed","collection":"meteor_accounts_loginServiceConfiguration","id":"l1","fields":{"c":3},"cleared":["b"]}"#;
        documents.apply(&document(change)).unwrap();
        let told = documents.settle(&mut journal, |_| false);
        assert_eq!(
            told,
            [
                r#"{"collection":"meteor_accounts_loginServiceConfiguration","fields":{"a":1,"c":3},"id":"l1","msg":"changed"}"#
            ]
        );
    }

    #[test]
    fn a_document_that_came_late_is_no_second_one() {
        let mut journal = Journal::new(Bounds::default());
        assert_eq!(note(&mut journal, &document(USER), false), None);
        // As it would be without a move.
        assert_eq!(note(&mut journal, &document(USER), false), None);
        assert_eq!(note(&mut journal, &document(USER), true), Some(None));
        let other = USER.replace("ann", "bob");
        let changed = r#"{"collection":"users","fields":{"name":"bob"},"id":"u1","msg":"changed"}"#;
        assert_eq!(
            note(&mut journal, &document(&other), true),
            Some(Some(changed.to_owned()))
        );
        assert_eq!(note(&mut journal, &document(&other), true), Some(None));
        let change = r#"{"msg":"changed","collection":"users","id":"u1","fields":{"x":1}}"#;
        note(&mut journal, &document(change), true);
        assert_eq!(journal.documents().next().unwrap().hash, None);
        assert_eq!(
            journal.documents().next().unwrap().collection,
            Collection::Users
        );
    }

    #[test]
    fn bounds_hold() {
        let mut documents = Documents::default();
        let long = "x".repeat(300_000);
        let json = format!(
            r#"{{"msg":"added","collection":"users","id":"u1","fields":{{"a":"{long}"}}}}"#
        );
        assert_eq!(documents.apply(&document(&json)), Err(TooMany));
        let unknown = r#"{"msg":"added","collection":"rooms","id":"u1"}"#;
        assert_eq!(Documents::default().apply(&document(unknown)), Err(TooMany));
    }
}
