//! The documents that the new leg publishes, to be compared with those that the client has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json, value::RawValue};

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
        let size = |fields: Option<&RawValue>| {
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
    /// A document that differs is sent with all its fields, for which of them differ is not known,
    /// and with the names of those that it has no more. One that the new leg does not have is
    /// removed if `is_served` says that it would have published it by now; the user's own document
    /// comes some time after the login, and is never removed.
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
                told.push(message("removed", view.collection, &view.id).to_string());
                journal.drop_document(view.collection, &view.id);
            }
        }
        for ((collection, id), fields) in self.known {
            let hash = print::of_fields(&fields);
            let before = had
                .iter()
                .find(|view| view.collection == collection && view.id == id);
            journal.keep_document(collection, &id, Some(hash), &names(&fields));
            told.push(match before {
                None => added(collection, &id, fields),
                Some(view) if view.hash == Some(hash) => continue,
                Some(view) => changed(view, fields),
            });
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
            let fields = read(*fields);
            let hash = print::of_fields(&fields);
            let before = journal
                .documents()
                .find(|view| view.collection == collection && view.id == id);
            let new = names(&fields);
            match before {
                Some(before) if before.hash == Some(hash) => moved.then_some(None),
                Some(before) if moved => {
                    journal.keep_document(collection, id, Some(hash), &new);
                    Some(Some(changed(&before, fields)))
                }
                // It keeps what the new one does not name.
                Some(before) => {
                    let hash = before.fields.is_subset(&new).then_some(hash);
                    let all = before.fields.union(&new).cloned().collect();
                    journal.keep_document(collection, id, hash, &all);
                    None
                }
                None => {
                    journal.keep_document(collection, id, Some(hash), &new);
                    None
                }
            }
        }
        Change::Changed { fields, cleared } => {
            let before = journal
                .documents()
                .find(|view| view.collection == collection && view.id == id);
            let mut all = before.map(|before| before.fields).unwrap_or_default();
            all.extend(names(&read(*fields)));
            for name in cleared {
                all.remove(name.as_str());
            }
            journal.keep_document(collection, id, None, &all);
            None
        }
        Change::Removed => {
            journal.drop_document(collection, id);
            None
        }
    }
}

fn read(fields: Option<&RawValue>) -> Map<String, Value> {
    fields
        .and_then(|fields| serde_json::from_str(fields.get()).ok())
        .unwrap_or_default()
}

fn names(fields: &Map<String, Value>) -> BTreeSet<String> {
    fields.keys().cloned().collect()
}

fn added(collection: Collection, id: &str, fields: Map<String, Value>) -> String {
    let mut message = message("added", collection, id);
    message["fields"] = Value::Object(fields);
    message.to_string()
}

/// What makes the document that the client has one with these fields and no others.
fn changed(before: &DocumentView, fields: Map<String, Value>) -> String {
    let cleared: Vec<&String> = before
        .fields
        .iter()
        .filter(|name| !fields.contains_key(*name))
        .collect();
    let mut message = message("changed", before.collection, &before.id);
    if !cleared.is_empty() {
        message["cleared"] = json!(cleared);
    }
    message["fields"] = Value::Object(fields);
    message.to_string()
}

fn message(kind: &str, collection: Collection, id: &str) -> Value {
    json!({ "msg": kind, "collection": collection.name(), "id": id })
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
                r#"{"cleared":["b"],"collection":"meteor_accounts_loginServiceConfiguration","fields":{"a":1,"c":3},"id":"l1","msg":"changed"}"#
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
    fn a_field_that_is_gone_is_cleared() {
        let mut journal = Journal::new(Bounds::default());
        note(&mut journal, &document(USER), false);
        let change = r#"{"msg":"changed","collection":"users","id":"u1","fields":{"bio":"b","x":1},"cleared":["name"]}"#;
        note(&mut journal, &document(change), false);
        let names = |journal: &Journal| -> Vec<String> {
            let view = journal.documents().next().unwrap();
            view.fields.into_iter().collect()
        };
        assert_eq!(names(&journal), ["bio", "x"]);
        // At the switch.
        let mut documents = Documents::default();
        let new = USER.replace("name", "x");
        documents.apply(&document(&new)).unwrap();
        let told = documents.settle(&mut journal, |_| true);
        let changed = r#"{"cleared":["bio"],"collection":"users","fields":{"x":"ann"},"id":"u1","msg":"changed"}"#;
        assert_eq!(told, [changed]);
        assert_eq!(names(&journal), ["x"]);
        // Behind it.
        let changed = r#"{"cleared":["x"],"collection":"users","fields":{"name":"ann"},"id":"u1","msg":"changed"}"#;
        let said = note(&mut journal, &document(USER), true);
        assert_eq!(said, Some(Some(changed.to_owned())));
        assert_eq!(names(&journal), ["name"]);
        // A second one of the same streamer takes nothing away, and the next move does.
        assert_eq!(note(&mut journal, &document(&new), false), None);
        assert_eq!(names(&journal), ["name", "x"]);
        let mut documents = Documents::default();
        documents.apply(&document(&new)).unwrap();
        let told = documents.settle(&mut journal, |_| true);
        assert!(told[0].contains(r#""cleared":["name"]"#), "{told:?}");
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
