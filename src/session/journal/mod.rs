//! What a session would need on another streamer, and what is unanswered.

pub mod name;

use std::{borrow::Cow, fmt};

use crate::base::secret::Secret;

pub use name::Name;

/// Longest id of a subscription or method, in bytes. Known clients use at most 36.
pub const LONGEST_ID: usize = 128;

/// How much a [`Journal`] may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes on the heap.
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

/// What became of a subscription or method that a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Begun {
    New,
    /// The id is in use on this session. Nothing was noted.
    Duplicate,
    /// A bound is reached or the id is longer than [`LONGEST_ID`]. Nothing was noted.
    Full,
}

/// An answer of the streamer, compared with what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Nobody asked, or the matter has been closed.
    Unknown,
    /// Answered before: a second `ready` or `result`, or the end of a subscription that was ready.
    Again,
    First(Waited),
}

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    pub name: Name,
    /// When it was asked for, in milliseconds since the session began.
    pub since: u32,
    /// Of a method: `updated` came before the result and is owed to the client. The method is finished.
    pub owes_updated: bool,
}

/// What to do with `updated` for one method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The client has the result; the method is finished.
    Forward,
    /// The result is not here. It is remembered: see [`Waited::owes_updated`].
    Early,
    Unknown,
}

/// What the client last said about its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Online,
    Away,
}

/// One subscription.
#[derive(Clone, PartialEq, Eq)]
pub struct SubView<'a> {
    pub id: Cow<'a, str>,
    pub name: Name,
    /// The name as the client wrote it, its parameters too (`""` when it gave none). `None` when they were dropped,
    /// see [`Journal::overflowed`].
    pub request: Option<SubRequest<'a>>,
    /// The streamer has answered `ready`.
    pub ready: bool,
    /// The client has sent `unsub`.
    pub ending: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub struct SubRequest<'a> {
    pub name: Cow<'a, str>,
    pub params: Cow<'a, str>,
}

impl fmt::Debug for SubView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubView")
            .field("name", &self.name)
            .field("ready", &self.ready)
            .field("ending", &self.ending)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SubRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubRequest")
    }
}

/// Everything that would be needed to set the session up on another streamer, and what is unanswered.
pub struct Journal {
    bounds: Bounds,
    session: Option<String>,
    resumable: bool,
    user: Option<String>,
    token: Option<String>,
    presence: Option<Presence>,
    subs: Vec<Sub>,
    methods: Vec<Method>,
    unseen: u32,
}

struct Sub {
    id: String,
    name: String,
    params: String,
    since: u32,
    ready: bool,
    ending: bool,
}

struct Method {
    id: String,
    name: Name,
    since: u32,
    result: bool,
    updated: bool,
}

impl Journal {
    /// Allocates nothing.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            session: None,
            resumable: false,
            user: None,
            token: None,
            presence: None,
            subs: Vec::new(),
            methods: Vec::new(),
            unseen: 0,
        }
    }

    /// The session id that the client knows. One longer than [`LONGEST_ID`] is not kept.
    pub fn set_session(&mut self, client_visible: &str) {
        self.session = Some(client_visible.to_owned());
    }

    /// The client's `connect` told how many messages it has received: it can resume.
    pub fn set_resumable(&mut self, yes: bool) {
        self.resumable = yes;
    }

    /// The streamer accepted a login. `token` is what logs the same user in again, if the session has seen it.
    pub fn log_in(&mut self, user: &str, token: Option<&str>) {
        self.user = Some(user.to_owned());
        self.token = token.map(str::to_owned);
    }

    /// Forgets user, token and presence.
    pub fn log_out(&mut self) {
        self.user = None;
        self.token = None;
        self.presence = None;
    }

    pub fn set_presence(&mut self, presence: Presence) {
        self.presence = Some(presence);
    }

    /// The client asks for a subscription. `params` is the JSON text of its parameters, `""` when it gave none; `at`
    /// the time in milliseconds since the session began.
    pub fn begin_sub(&mut self, id: &str, name: &str, params: &str, at: u32) -> Begun {
        if self.subs.iter().any(|sub| sub.id == id) {
            return Begun::Duplicate;
        }
        if id.len() > LONGEST_ID || self.sub_count() >= self.bounds.subs {
            return Begun::Full;
        }
        self.subs.push(Sub {
            id: id.to_owned(),
            name: name.to_owned(),
            params: params.to_owned(),
            since: at,
            ready: false,
            ending: false,
        });
        Begun::New
    }

    /// `ready` from the streamer.
    pub fn sub_ready(&mut self, id: &str) -> Answered {
        let Some(sub) = self.subs.iter_mut().find(|sub| sub.id == id) else {
            return Answered::Unknown;
        };
        if sub.ready {
            return Answered::Again;
        }
        sub.ready = true;
        Answered::First(Waited {
            name: Name::of(&sub.name),
            since: sub.since,
            owes_updated: false,
        })
    }

    /// `nosub` from the streamer: the subscription is over. `First` when it was never ready.
    pub fn end_sub(&mut self, id: &str) -> Answered {
        let Some(place) = self.subs.iter().position(|sub| sub.id == id) else {
            return Answered::Unknown;
        };
        let sub = self.subs.remove(place);
        if sub.ready {
            return Answered::Again;
        }
        Answered::First(Waited {
            name: Name::of(&sub.name),
            since: sub.since,
            owes_updated: false,
        })
    }

    /// `unsub` from the client. Whether there is such a subscription.
    pub fn wants_end(&mut self, id: &str) -> bool {
        match self.subs.iter_mut().find(|sub| sub.id == id) {
            Some(sub) => {
                sub.ending = true;
                true
            }
            None => false,
        }
    }

    /// The client calls a method. `at` is the time in milliseconds since the session began.
    pub fn begin_method(&mut self, id: &str, name: &str, at: u32) -> Begun {
        if self.methods.iter().any(|method| method.id == id) {
            return Begun::Duplicate;
        }
        if id.len() > LONGEST_ID || self.unanswered_methods() >= self.bounds.methods {
            return Begun::Full;
        }
        self.methods.push(Method {
            id: id.to_owned(),
            name: Name::of(name),
            since: at,
            result: false,
            updated: false,
        });
        Begun::New
    }

    /// `result` from the streamer. The method stays in flight until its `updated` came.
    pub fn method_result(&mut self, id: &str) -> Answered {
        let Some(place) = self.methods.iter().position(|method| method.id == id) else {
            return Answered::Unknown;
        };
        let method = &mut self.methods[place];
        if method.result {
            return Answered::Again;
        }
        method.result = true;
        let waited = Waited {
            name: method.name,
            since: method.since,
            owes_updated: method.updated,
        };
        if method.updated {
            self.methods.remove(place);
        }
        Answered::First(waited)
    }

    /// `updated` from the streamer, for one of the methods it names.
    pub fn method_updated(&mut self, id: &str) -> Updated {
        let Some(place) = self.methods.iter().position(|method| method.id == id) else {
            return Updated::Unknown;
        };
        if self.methods[place].result {
            self.methods.remove(place);
            Updated::Forward
        } else {
            self.methods[place].updated = true;
            Updated::Early
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

    pub fn session(&self) -> Option<Cow<'_, str>> {
        self.session.as_deref().map(Cow::Borrowed)
    }

    pub fn resumable(&self) -> bool {
        self.resumable
    }

    pub fn user(&self) -> Option<Cow<'_, str>> {
        self.user.as_deref().map(Cow::Borrowed)
    }

    pub fn token(&self) -> Option<Secret<String>> {
        self.token.clone().map(Secret::new)
    }

    pub fn presence(&self) -> Option<Presence> {
        self.presence
    }

    /// All subscriptions in the order of their first appearance.
    pub fn subs(&self) -> impl Iterator<Item = SubView<'_>> {
        self.subs.iter().map(|sub| SubView {
            id: Cow::Borrowed(&sub.id),
            name: Name::of(&sub.name),
            request: Some(SubRequest {
                name: Cow::Borrowed(&sub.name),
                params: Cow::Borrowed(&sub.params),
            }),
            ready: sub.ready,
            ending: sub.ending,
        })
    }

    pub fn sub_count(&self) -> u32 {
        u32::try_from(self.subs.len()).unwrap_or(u32::MAX)
    }

    /// Subscriptions without `ready`.
    pub fn pending_subs(&self) -> u32 {
        let pending = self.subs.iter().filter(|sub| !sub.ready).count();
        u32::try_from(pending).unwrap_or(u32::MAX)
    }

    /// Methods whose `result` or `updated` is missing.
    pub fn unanswered_methods(&self) -> u32 {
        u32::try_from(self.methods.len()).unwrap_or(u32::MAX)
    }

    /// Methods in flight whose id is unknown.
    pub fn unseen(&self) -> u32 {
        self.unseen
    }

    /// Bytes on the heap.
    pub fn bytes(&self) -> usize {
        self.subs
            .iter()
            .map(|sub| sub.id.capacity() + sub.name.capacity() + sub.params.capacity())
            .sum()
    }

    /// Names and parameters of subscriptions were dropped because of [`Bounds::bytes`], so the session cannot be set up
    /// elsewhere.
    pub fn overflowed(&self) -> bool {
        false
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("logged_in", &self.user.is_some())
            .field("subs", &self.sub_count())
            .field("pending_subs", &self.pending_subs())
            .field("methods", &self.unanswered_methods())
            .field("unseen", &self.unseen)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}
