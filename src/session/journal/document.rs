//! Which documents the client has: the names of their fields, and a hash of what is in them.
//!
//! A streamer publishes few: the user's own, the login services, the versions of the web client
//! (`RocketChat/Rocket.Chat:ee/apps/ddp-streamer/src/configureServer.ts`). A client that is moved to another streamer is
//! told only of those that differ there. Of such a one it gets all fields, and by name those that it has to forget.

use std::collections::BTreeSet;

use super::{
    Journal, LONGEST_ID,
    arena::{Head, Kind, Record},
    entry::take_id,
    fields,
    packed::{pack, put_counted, take, take_byte, unpack},
};

/// The collections that a streamer publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Collection {
    Users,
    LoginServices,
    ClientVersions,
}

impl Collection {
    pub const ALL: [Self; 3] = [Self::Users, Self::LoginServices, Self::ClientVersions];

    pub fn of(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|collection| collection.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::LoginServices => "meteor_accounts_loginServiceConfiguration",
            Self::ClientVersions => "meteor_autoupdate_clientVersions",
        }
    }

    /// The publication that fills it; the user's own document comes with the login.
    pub fn publication(self) -> Option<&'static str> {
        match self {
            Self::Users => None,
            Self::LoginServices => Some("meteor.loginServiceConfiguration"),
            Self::ClientVersions => Some("meteor_autoupdate_clientVersions"),
        }
    }
}

/// A document that the client has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentView {
    pub collection: Collection,
    pub id: String,
    /// Of its fields; `None` when they have changed since it came.
    pub hash: Option<u32>,
    /// The names of its fields.
    pub fields: BTreeSet<String>,
}

impl Journal {
    /// The client has this document now, with these fields; `hash` is theirs, `None` if only some of them are known.
    ///
    /// When there is no room for it the session counts as odd: it cannot be compared.
    pub fn keep_document(
        &mut self,
        collection: Collection,
        id: &str,
        hash: Option<u32>,
        names: &BTreeSet<String>,
    ) {
        self.drop_document(collection, id);
        let count = self.documents().count();
        if id.len() > LONGEST_ID || count >= MOST_DOCUMENTS {
            return self.set_odd();
        }
        let mut packed = Vec::with_capacity(id.len() + 1);
        pack(id, "", &mut packed);
        let mut body = Vec::with_capacity(packed.len() + 16);
        put_counted(&packed, &mut body);
        let hashed = if hash.is_some() { HASHED } else { 0 };
        body.push(collection as u8 | hashed);
        if let Some(hash) = hash {
            body.extend_from_slice(&hash.to_le_bytes());
        }
        if !fields::put(collection, names, &mut body) {
            return self.set_odd();
        }
        if self
            .insert(usize::MAX, Head::new(Kind::Document), 0, &body)
            .is_err()
        {
            self.set_odd();
        }
    }

    /// The client has this document no more.
    pub fn drop_document(&mut self, collection: Collection, id: &str) {
        let found = self
            .document_records()
            .find(|(_, view)| view.collection == collection && view.id == id);
        if let Some((record, _)) = found {
            self.arena.remove(&record);
        }
    }

    /// The client has forgotten its documents.
    pub fn forget_documents(&mut self) {
        loop {
            let first = self.document_records().next();
            let Some((record, _)) = first else { return };
            self.arena.remove(&record);
        }
    }

    /// The documents that the client has, at most [`MOST_DOCUMENTS`].
    pub fn documents(&self) -> impl Iterator<Item = DocumentView> {
        self.document_records().map(|(_, view)| view)
    }

    fn document_records(&self) -> impl Iterator<Item = (Record, DocumentView)> {
        self.arena
            .records()
            .filter(|record| record.head.is(Kind::Document))
            .filter_map(|record| {
                let mut body = self.arena.body(&record);
                let id = unpack(take_id(&mut body)?, "").into_owned();
                let code = take_byte(&mut body)?;
                let collection = Collection::ALL
                    .into_iter()
                    .find(|collection| *collection as u8 == code & !HASHED)?;
                let hash = if code & HASHED == 0 {
                    None
                } else {
                    let bytes = take(&mut body, 4)?.try_into().ok()?;
                    Some(u32::from_le_bytes(bytes))
                };
                let fields = fields::read(collection, body)?;
                let view = DocumentView {
                    collection,
                    id,
                    hash,
                    fields,
                };
                Some((record, view))
            })
    }
}

/// Beside the collection: a hash follows.
const HASHED: u8 = 0x80;

/// Known servers have about a dozen.
pub const MOST_DOCUMENTS: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Collection, DocumentView, MOST_DOCUMENTS};
    use crate::session::{Journal, journal::Bounds};

    #[test]
    fn documents_are_kept_by_collection_and_id() {
        let mut journal = Journal::new(Bounds::default());
        journal.set_session("s");
        let names = |names: &[&str]| -> BTreeSet<String> {
            names.iter().map(|&name| name.to_owned()).collect()
        };
        let (few, many) = (names(&["name"]), names(&["name", "mine", "roles"]));
        journal.keep_document(Collection::Users, "u1", Some(7), &few);
        journal.keep_document(Collection::LoginServices, "u1", None, &many);
        let _ = journal.begin_sub("a", "stream-roles", "[\"roles\"]", 0);
        journal.log_in("u1", Some("token"));
        journal.keep_document(Collection::Users, "u1", Some(8), &many);
        let view = |collection, hash| DocumentView {
            collection,
            id: "u1".to_owned(),
            hash,
            fields: many.clone(),
        };
        assert_eq!(
            journal.documents().collect::<Vec<_>>(),
            [
                view(Collection::LoginServices, None),
                view(Collection::Users, Some(8))
            ]
        );
        assert_eq!(journal.user().as_deref(), Some("u1"));
        assert_eq!(journal.sub_count(), 1);
        journal.drop_document(Collection::Users, "u1");
        journal.drop_document(Collection::Users, "nobody");
        assert_eq!(journal.documents().count(), 1);
        assert!(!journal.odd());
    }

    #[test]
    fn too_many_make_the_session_odd() {
        let mut journal = Journal::new(Bounds::default());
        for number in 0..MOST_DOCUMENTS {
            let (id, none) = (number.to_string(), BTreeSet::new());
            journal.keep_document(Collection::LoginServices, &id, Some(1), &none);
        }
        assert!(!journal.odd());
        journal.keep_document(Collection::LoginServices, "more", Some(1), &BTreeSet::new());
        assert!(journal.odd());
        assert_eq!(journal.documents().count(), MOST_DOCUMENTS);
    }
}
