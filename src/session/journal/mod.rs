//! What a session would need on another streamer, and what is unanswered.
//!
//! One allocation for all of it (`arena`), names as one byte ([`Name`]), ids and parameters packed (`packed`): the
//! thirty subscriptions of a web client take about 1 KiB. Knows nothing of messages: the session machine tells it what
//! went by.

mod answer;
mod arena;
mod document;
mod entry;
mod fields;
mod identity;
mod name;
mod packed;
mod portable;
mod watched;
mod words;

use std::{borrow::Cow, fmt};

use arena::{Arena, Head, Kind, NoRoom, Record};
use entry::{put_request, split_request, take_id, take_name};
use packed::{ID_ROOM, Short, unpack};

pub use answer::{Answered, Begun, Updated, Waited};
pub use document::{Collection, DocumentView, MOST_DOCUMENTS};
pub use entry::{SubRequest, SubView};
pub use identity::LONGEST_TEXT;
pub use name::Name;

/// Longest id of a subscription or method, in bytes. Known clients use at most 36.
pub const LONGEST_ID: usize = 128;

/// How much a [`Journal`] may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes on the heap. Parameters and unusual names of subscriptions are dropped when they do not fit, see
    /// [`Journal::overflowed`]. When not even the ids fit, further ones are [`Begun::Full`], and user or token that do
    /// not fit are not kept; the default has room for all ids that known clients can have.
    pub bytes: usize,
    /// Subscriptions, asked for and active.
    pub subs: u32,
    /// Methods in flight.
    pub methods: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes: 64 * 1024,
            subs: 1_000,
            methods: 256,
        }
    }
}

/// What the client last said about its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Online,
    Away,
}

/// Everything that would be needed to set the session up on another streamer, and what is unanswered.
///
/// What a client sends cannot make it larger than its [`Bounds`] and cannot make it panic. Every operation is linear in
/// the number of entries.
pub struct Journal {
    /// First session, user and token if known, then subscriptions and methods in the order of their beginning.
    arena: Arena,
    bounds: Packed,
    subs: u32,
    pending_subs: u32,
    methods: u32,
    unseen: u32,
    /// Subscriptions have neither parameters nor names that [`Name`] does not know. Ends with the last of them.
    overflowed: bool,
    resumable: bool,
    /// The client has said `disconnect`.
    farewell: bool,
    /// Something happened that the journal cannot account for.
    odd: bool,
    /// `livechat:setUpConnection` was called.
    livechat: bool,
    presence: Option<Presence>,
}

// Every session has one; eight bytes more would make what stands around it a size larger.
const _: () = assert!(size_of::<Journal>() <= 56);

/// [`Bounds`] as every journal keeps them; more than fits is the most that does.
#[derive(Clone, Copy, Debug)]
struct Packed {
    bytes: u32,
    subs: u16,
    methods: u16,
}

impl Packed {
    fn bytes(self) -> usize {
        self.bytes as usize
    }
}

impl From<Bounds> for Packed {
    fn from(bounds: Bounds) -> Self {
        Self {
            bytes: u32::try_from(bounds.bytes).unwrap_or(u32::MAX),
            subs: u16::try_from(bounds.subs).unwrap_or(u16::MAX),
            methods: u16::try_from(bounds.methods).unwrap_or(u16::MAX),
        }
    }
}

impl Journal {
    /// Allocates nothing.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            arena: Arena::default(),
            bounds: bounds.into(),
            farewell: false,
            subs: 0,
            pending_subs: 0,
            methods: 0,
            unseen: 0,
            overflowed: false,
            resumable: false,
            odd: false,
            livechat: false,
            presence: None,
        }
    }

    /// The client's `connect` told how many messages it has received: it can resume.
    pub fn set_resumable(&mut self, yes: bool) {
        self.resumable = yes;
    }

    /// The client said `disconnect`: the end of its connection is meant.
    pub fn set_farewell(&mut self) {
        self.farewell = true;
    }

    pub fn farewell(&self) -> bool {
        self.farewell
    }

    /// Something happened that is not accounted for: the session cannot be set up elsewhere as it is.
    pub fn set_odd(&mut self) {
        self.odd = true;
    }

    pub fn odd(&self) -> bool {
        self.odd
    }

    /// The client called `livechat:setUpConnection`: the end of its leg marks the visitor offline
    /// (`RocketChat/Rocket.Chat:ee/apps/ddp-streamer/src/configureServer.ts`).
    pub fn set_livechat(&mut self) {
        self.livechat = true;
    }

    pub fn livechat(&self) -> bool {
        self.livechat
    }

    pub fn set_presence(&mut self, presence: Presence) {
        self.presence = Some(presence);
    }

    /// The client asks for a subscription. `params` is the JSON text of its parameters, `""` when it gave none; `at`
    /// the time in milliseconds since the session began.
    pub fn begin_sub(&mut self, id: &str, name: &str, params: &str, at: u32) -> Begun {
        if self.find(Kind::Sub, id).is_some() {
            return Begun::Duplicate;
        }
        if id.len() > LONGEST_ID || self.subs >= u32::from(self.bounds.subs) {
            return Begun::Full;
        }
        let bound = self.bounds.bytes();
        let head = Head::new(Kind::Sub).with(Head::WAITING);
        let bare = entry::bare(id, Name::of(name));
        let mut whole = bare.as_bytes().to_vec();
        if !self.overflowed {
            put_request(name, params, &self.own_user(), &mut whole);
        }
        let mut pushed = self.arena.push(head, at, &whole, bound);
        if pushed.is_err() {
            self.overflow();
            pushed = self.arena.push(head, at, bare.as_bytes(), bound);
        }
        if pushed.is_err() {
            self.overflowed &= self.subs > 0;
            return Begun::Full;
        }
        self.subs += 1;
        self.pending_subs += 1;
        Begun::New
    }

    /// `ready` from the streamer.
    pub fn sub_ready(&mut self, id: &str) -> Answered {
        let Some(record) = self.find(Kind::Sub, id) else {
            return Answered::Unknown;
        };
        let answered = self.answered(&record);
        if record.head.has(Head::WAITING) {
            self.arena.answered(&record);
            self.pending_subs = self.pending_subs.saturating_sub(1);
        }
        answered
    }

    /// `nosub` from the streamer: the subscription is over. `First` when it was never ready.
    ///
    /// For a `stream-user-presence` beside the first one this is the usual answer; what it added and removed is noted
    /// with the first.
    pub fn end_sub(&mut self, id: &str) -> Answered {
        let Some(record) = self.find(Kind::Sub, id) else {
            return Answered::Unknown;
        };
        let answered = self.answered(&record);
        let change = self.presence_change(&record);
        self.arena.remove(&record);
        self.subs = self.subs.saturating_sub(1);
        if record.head.has(Head::WAITING) {
            self.pending_subs = self.pending_subs.saturating_sub(1);
        }
        self.overflowed &= self.subs > 0;
        if let Some(change) = change {
            self.change_presence(&change);
        }
        answered
    }

    /// `unsub` from the client. Whether there is such a subscription.
    pub fn wants_end(&mut self, id: &str) -> bool {
        let Some(record) = self.find(Kind::Sub, id) else {
            return false;
        };
        self.arena.mark(&record, record.head.with(Head::MARKED));
        true
    }

    /// The client calls a method. `at` is the time in milliseconds since the session began.
    ///
    /// Methods may share an id; answers to it are taken for these methods in the order of their beginning, which is
    /// the order in which a streamer answers.
    pub fn begin_method(&mut self, id: &str, name: &str, at: u32) -> Begun {
        if id.len() > LONGEST_ID || self.methods >= u32::from(self.bounds.methods) {
            return Begun::Full;
        }
        let head = Head::new(Kind::Method).with(Head::WAITING);
        let entry = entry::bare(id, Name::of(name));
        if self.insert(usize::MAX, head, at, entry.as_bytes()).is_err() {
            return Begun::Full;
        }
        self.methods += 1;
        Begun::New
    }

    /// `result` from the streamer. The method stays in flight until its `updated` came.
    pub fn method_result(&mut self, id: &str) -> Answered {
        let Some(record) = self.find_where(Kind::Method, id, |head| head.has(Head::WAITING)) else {
            return match self.find(Kind::Method, id) {
                Some(_) => Answered::Again,
                None => Answered::Unknown,
            };
        };
        let answered = self.answered(&record);
        if record.head.has(Head::MARKED) {
            self.end_method(&record);
        } else {
            self.arena.answered(&record);
        }
        answered
    }

    /// The id of the method that has waited longest for its `result`.
    pub fn oldest_method(&self) -> Option<Cow<'_, str>> {
        let mut records = self.arena.records();
        let oldest = records
            .find(|record| record.head.is(Kind::Method) && record.head.has(Head::WAITING))?;
        let mut body = self.arena.body(&oldest);
        take_id(&mut body).map(|id| unpack(id, ""))
    }

    /// `updated` from the streamer, for one of the methods it names.
    pub fn method_updated(&mut self, id: &str) -> Updated {
        if let Some(record) = self.find_where(Kind::Method, id, |head| !head.has(Head::WAITING)) {
            self.end_method(&record);
            return Updated::Forward;
        }
        if let Some(record) = self.find_where(Kind::Method, id, |head| !head.has(Head::MARKED)) {
            self.arena.mark(&record, record.head.with(Head::MARKED));
            return Updated::Early;
        }
        match self.find(Kind::Method, id) {
            Some(_) => Updated::Early,
            None => Updated::Unknown,
        }
    }

    /// The client calls a method whose id could not be read. Until [`Journal::end_unseen`], answers with unknown ids
    /// may be its own.
    pub fn begin_unseen(&mut self) {
        self.unseen = self.unseen.saturating_add(1);
    }

    pub fn end_unseen(&mut self) {
        self.unseen = self.unseen.saturating_sub(1);
    }

    pub fn resumable(&self) -> bool {
        self.resumable
    }

    pub fn presence(&self) -> Option<Presence> {
        self.presence
    }

    /// All subscriptions in the order of their first appearance.
    pub fn subs(&self) -> impl Iterator<Item = SubView<'_>> {
        let own_user = self.own_user();
        self.arena
            .records()
            .filter(|record| record.head.is(Kind::Sub))
            .filter_map(move |record| self.view(&record, &own_user))
    }

    /// The ids of the methods in flight, in the order of their beginning, and whether they have their `result`.
    pub fn methods(&self) -> impl Iterator<Item = (Cow<'_, str>, bool)> {
        self.arena
            .records()
            .filter(|record| record.head.is(Kind::Method))
            .filter_map(|record| {
                let mut body = self.arena.body(&record);
                let id = unpack(take_id(&mut body)?, "");
                Some((id, !record.head.has(Head::WAITING)))
            })
    }

    /// Whether there is a subscription with this id.
    pub fn has_sub(&self, id: &str) -> bool {
        self.find(Kind::Sub, id).is_some()
    }

    pub fn sub_count(&self) -> u32 {
        self.subs
    }

    /// Subscriptions without `ready`.
    pub fn pending_subs(&self) -> u32 {
        self.pending_subs
    }

    /// Subscriptions whose `unsub` is not answered.
    pub fn ending_subs(&self) -> u32 {
        let ending = |record: &Record| record.head.is(Kind::Sub) && record.head.has(Head::MARKED);
        u32::try_from(self.arena.records().filter(ending).count()).unwrap_or(u32::MAX)
    }

    /// Methods whose `result` or `updated` is missing.
    pub fn unanswered_methods(&self) -> u32 {
        self.methods
    }

    /// Whether a method in flight has such a name.
    pub fn has_method(&self, is_such: impl Fn(Name) -> bool) -> bool {
        self.arena
            .records()
            .any(|record| record.head.is(Kind::Method) && is_such(self.name(&record)))
    }

    /// Methods in flight whose id is unknown.
    pub fn unseen(&self) -> u32 {
        self.unseen
    }

    /// Bytes on the heap; at most [`Bounds::bytes`].
    pub fn bytes(&self) -> usize {
        self.arena.capacity()
    }

    /// Names and parameters of subscriptions were dropped because of [`Bounds::bytes`], so the session cannot be set up
    /// elsewhere. Holds until none of the subscriptions is left.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    fn find(&self, kind: Kind, id: &str) -> Option<Record> {
        self.find_where(kind, id, |_| true)
    }

    /// The first that is so. Compares ids as they are packed.
    fn find_where(&self, kind: Kind, id: &str, is_so: impl Fn(Head) -> bool) -> Option<Record> {
        if id.len() > LONGEST_ID {
            return None;
        }
        let wanted = Short::<ID_ROOM>::counted(id);
        let wanted = wanted.as_bytes();
        self.arena.records().find(|record| {
            record.head.is(kind)
                && is_so(record.head)
                && self.arena.body(record).starts_with(wanted)
        })
    }

    /// What the next answer to this entry is.
    fn answered(&self, record: &Record) -> Answered {
        if !record.head.has(Head::WAITING) {
            return Answered::Again;
        }
        Answered::First(Waited {
            name: self.name(record),
            since: record.since,
            owes_updated: record.head.is(Kind::Method) && record.head.has(Head::MARKED),
        })
    }

    fn name(&self, record: &Record) -> Name {
        let mut body = self.arena.body(record);
        take_id(&mut body)
            .and_then(|_| take_name(&mut body))
            .unwrap_or(Name::OTHER)
    }

    fn end_method(&mut self, record: &Record) {
        self.arena.remove(record);
        self.methods = self.methods.saturating_sub(1);
    }

    fn view<'a>(&'a self, record: &Record, own_user: &str) -> Option<SubView<'a>> {
        let mut body = self.arena.body(record);
        let id = unpack(take_id(&mut body)?, "");
        let name = take_name(&mut body)?;
        let request = if self.overflowed {
            None
        } else {
            let (text, params) = split_request(name, body)?;
            let params = if record.head.has(Head::SET) {
                Cow::Owned(watched::to_params(params))
            } else {
                unpack(params, own_user)
            };
            Some(SubRequest { name: text, params })
        };
        Some(SubView {
            id,
            name,
            request,
            ready: !record.head.has(Head::WAITING),
            ending: record.head.has(Head::MARKED),
        })
    }

    /// Puts a record into the arena, if need be at the cost of parameters.
    fn insert(&mut self, at: usize, head: Head, since: u32, body: &[u8]) -> Result<(), NoRoom> {
        let bound = self.bounds.bytes();
        let inserted = self.arena.insert(at, head, since, body, bound);
        if inserted.is_ok() || self.overflowed || self.subs == 0 {
            return inserted;
        }
        self.overflow();
        self.arena.insert(at, head, since, body, bound)
    }

    /// Drops what is needed only to set the session up elsewhere: it cannot be any more.
    fn overflow(&mut self) {
        if self.overflowed {
            return;
        }
        let mut bare = Arena::default();
        for record in self.arena.records() {
            let body = self.arena.body(&record);
            let kept = if record.head.is(Kind::Sub) {
                entry::bare_len(body)
            } else {
                body.len()
            };
            let head = record.head.without(Head::SET);
            let pushed = bare.push(head, record.since, &body[..kept], self.bounds.bytes());
            debug_assert_eq!(pushed, Ok(()), "what is left is smaller");
        }
        self.arena = bare;
        self.overflowed = true;
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("logged_in", &self.user().is_some())
            .field("subs", &self.subs)
            .field("pending_subs", &self.pending_subs)
            .field("methods", &self.methods)
            .field("unseen", &self.unseen)
            .field("bytes", &self.bytes())
            .field("overflowed", &self.overflowed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
