//! What a client that is back repeats, compared with what is known.
//!
//! Meteor's client sends all of it without waiting for `connected`: login, subscriptions under their
//! old ids, and behind the login's answer the methods without a result, under their old ids too. It
//! drops the result of a method that it has not sent again yet, so what came meanwhile is kept for
//! then, and a method that runs is not sent on a second time.

use std::time::{Duration, Instant};

use super::{
    super::{
        Effects, Session, Turn, Verdict,
        book::Logins,
        journal::{Answered, Journal},
        quota::Asker,
    },
    Resume,
    missed::Missed,
    portable::{MOST_IDS, millis},
    renewal::{Renewal, has_own_document},
};
use crate::{
    base::packing::{Garbled, Packer, Unpacker},
    ddp::{Connected, Kind as Message, ids, login, reply, request::unsub, resume_token},
};

/// How a client got its leg back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Under the same session id, with what it missed.
    Resumed,
    /// Under a new session id.
    Rebound,
}

impl Kind {
    /// Value of the `kind` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Resumed => "resumed",
            Self::Rebound => "rebound",
        }
    }
}

/// A client that has proven that the session is its own.
#[derive(Debug)]
pub struct Back<'a> {
    /// The messages that it says it has; Meteor 3.5 and newer.
    pub received: Option<u64>,
    /// A session id that nobody has, in case it cannot go on with its own.
    pub fresh: &'a str,
    /// Who it is to the limits; the user is the session's.
    pub asker: Asker,
}

/// What a client that is back gets first.
#[derive(Debug, PartialEq, Eq)]
pub struct Returned {
    pub kind: Kind,
    /// Without framing.
    pub connected: String,
    /// Whole frames, as they were sent before.
    pub missed: Vec<u8>,
    /// Messages in them.
    pub missed_messages: u32,
}

/// What may still be repeated.
pub(super) struct Returning {
    kind: Kind,
    /// Methods of before whose answers the client has not taken.
    methods: Vec<Owed>,
    /// Methods whose result the client has, and whose `updated` it does not wait for in a new session.
    done: Vec<String>,
    /// Subscriptions of before that the client has not named again.
    unnamed: Vec<String>,
    /// Subscriptions that are over, as the client only learns by what it missed.
    gone: Vec<String>,
    /// Subscriptions that the gateway ended: whose `nosub` is not the client's.
    ended: Vec<String>,
    next: Instant,
    until: Instant,
}

/// A method whose answers wait until the client asks again.
struct Owed {
    id: String,
    result: Option<String>,
    updated: bool,
}

impl Returning {
    pub(super) fn next_timeout(&self) -> Instant {
        self.next
    }

    /// Writes it; times from `now` on.
    pub(super) fn pack(&self, now: Instant, out: &mut Packer) {
        out.flag(self.kind == Kind::Resumed);
        out.list(self.methods.iter(), |out, owed| {
            out.text(&owed.id);
            out.option(owed.result.as_deref(), Packer::text);
            out.flag(owed.updated);
        });
        for ids in [&self.done, &self.unnamed, &self.gone, &self.ended] {
            out.list(ids.iter(), |out, id| out.text(id));
        }
        for time in [self.next, self.until] {
            out.number(millis(time.saturating_duration_since(now)));
        }
    }

    pub(super) fn unpack(now: Instant, from: &mut Unpacker<'_>) -> Result<Self, Garbled> {
        let kind = match from.flag()? {
            true => Kind::Resumed,
            false => Kind::Rebound,
        };
        let methods = from.list(MOST_IDS, |from| {
            Ok(Owed {
                id: from.text()?.to_owned(),
                result: from.option(|from| from.text())?.map(str::to_owned),
                updated: from.flag()?,
            })
        })?;
        let mut ids = || from.list(MOST_IDS, |from| from.text().map(str::to_owned));
        let (done, unnamed, gone, ended) = (ids()?, ids()?, ids()?, ids()?);
        let mut time = || {
            from.number_u32()
                .map(|time| now + Duration::from_millis(time.into()))
        };
        Ok(Self {
            kind,
            methods,
            done,
            unnamed,
            gone,
            ended,
            next: time()?,
            until: time()?,
        })
    }

    fn owes(&self, id: &str) -> bool {
        self.methods.iter().any(|owed| owed.id == id)
    }

    /// Notes an answer of before; true when it is not to be sent as it is.
    fn keep(&mut self, kind: Message, json: &str) -> bool {
        match kind {
            Message::Result => {
                let Ok(id) = reply::id(json) else {
                    return false;
                };
                self.methods.push(Owed {
                    id,
                    result: Some(json.to_owned()),
                    updated: false,
                });
                true
            }
            Message::Updated => {
                let Ok(ids) = ids(json) else { return false };
                let owed = self
                    .methods
                    .iter_mut()
                    .find(|owed| ids == [owed.id.as_str()]);
                owed.map(|owed| owed.updated = true).is_some()
            }
            Message::Nosub => {
                self.gone.extend(reply::id(json).ok());
                false
            }
            _ => false,
        }
    }
}

impl Session {
    /// The client is back and has proven it. What it sends from here on is this session's.
    ///
    /// It goes on under its old name when it counts its messages and all that it misses is here.
    pub fn handle_return(&mut self, back: Back<'_>, now: Instant) -> Returned {
        let (framing, sent) = (self.framing, self.sent());
        self.regain_client(now);
        let tail = self.lend_tail();
        let mut all = None;
        let mut tail = tail.map(|mut tail| {
            all = tail.take(framing);
            tail
        });
        let all = all.unwrap_or_default();
        let missed = back.received.and_then(|received| {
            let tail = tail.as_ref()?;
            tail.missed_since(received, sent, all.clone()).ok()
        });
        let kind = match missed {
            Some(_) => Kind::Resumed,
            None => Kind::Rebound,
        };
        let mut returning = Returning {
            kind,
            methods: Vec::new(),
            done: Vec::new(),
            unnamed: Vec::new(),
            gone: Vec::new(),
            ended: Vec::new(),
            next: now + KEEP,
            until: now + KEEP,
        };
        let known = back.received.unwrap_or(0);
        let replayed = replay(missed.unwrap_or(all), kind, &mut returning);
        let first = match kind {
            Kind::Resumed => u32::try_from(known).unwrap_or(u32::MAX).saturating_add(1),
            Kind::Rebound => 1,
        };
        let mut frames = Vec::new();
        for missed in &replayed {
            frames.extend_from_slice(&missed.frames);
        }
        let missed_messages = u32::try_from(replayed.len()).unwrap_or(u32::MAX);
        let mut session = String::new();
        let mut asks = Vec::new();
        if let Some(book) = &mut self.book {
            let user = book.asker.user;
            book.asker = Asker { user, ..back.asker };
            book.sent = first.saturating_add(missed_messages);
            let journal = &mut book.journal;
            journal.set_resumable(back.received.is_some());
            if kind == Kind::Rebound {
                rename(journal, back.fresh);
                returning.unnamed = renew_documents(journal, &mut asks, &mut returning.ended);
            }
            session = journal.session().unwrap_or_default().into_owned();
            for (id, answered) in journal.methods() {
                let id = id.into_owned();
                if !answered {
                    returning.methods.push(Owed {
                        id,
                        result: None,
                        updated: false,
                    });
                } else if kind == Kind::Rebound && !returning.owes(&id) {
                    returning.done.push(id);
                }
            }
            let resume = book.resume.get_or_insert_default();
            // Lost again before it had asked for all: what waits for that waits on.
            if let Some(before) = resume.returning.take() {
                let answered = before.methods.into_iter();
                let answered = answered.filter(|owed| owed.result.is_some());
                returning.methods.extend(answered);
                returning.ended.extend(before.ended);
            }
            if kind == Kind::Rebound {
                Renewal::begin_anew(&mut resume.renewal);
            }
            resume.asks.append(&mut asks);
            resume.returning = Some(Box::new(returning));
        }
        if let Some(tail) = &mut tail {
            tail.reopen(first, kind == Kind::Resumed);
            tail.record(&frames);
        }
        self.return_tail(tail);
        Returned {
            kind,
            connected: Connected { session }.to_json(),
            missed: frames,
            missed_messages,
        }
    }

    /// A method that the client has asked for before it was lost; `None` when it is a new one.
    pub(in crate::session) fn recall_method<E: Effects>(
        &mut self,
        id: &str,
        method: &str,
        params: &str,
        turn: &mut Turn<'_, E>,
    ) -> Option<Verdict> {
        let book = self.book.as_mut()?;
        let resume = book.resume.as_mut()?;
        let returning = resume.returning.as_mut()?;
        if let Some(place) = returning.methods.iter().position(|owed| owed.id == id) {
            let owed = returning.methods.swap_remove(place);
            owed.pay(turn);
            return Some(Verdict::Drop);
        }
        if method == login::LOGIN
            && book.logins == Logins::default()
            && let Some(offered) = resume_token(params)
            && let (Some(user), Some(token)) = (book.journal.user(), book.journal.token())
            && super::same(offered.expose(), token.expose())
        {
            let lacks = match returning.kind {
                Kind::Resumed => resume.renewal.is_some(),
                Kind::Rebound => true,
            };
            let lacks = lacks && !has_own_document(&book.journal);
            if lacks && resume.renewal.as_ref().is_some_and(|it| !it.has_room()) {
                return None;
            }
            turn.effects.reply(reply::logged_in(id, &user, &token));
            if lacks {
                Renewal::owe(&mut resume.renewal, id, turn.now);
            } else {
                turn.effects.reply(reply::updated(id));
            }
            return Some(Verdict::Drop);
        }
        None
    }

    /// A subscription that the client had before it was lost; `None` when it is a new one.
    pub(in crate::session) fn recall_sub<E: Effects>(
        &mut self,
        id: &str,
        name: &str,
        params: &str,
        turn: &mut Turn<'_, E>,
    ) -> Option<Verdict> {
        let book = self.book.as_mut()?;
        let resume = book.resume.as_mut()?;
        let returning = resume.returning.as_mut()?;
        if let Some(place) = returning.gone.iter().position(|gone| gone == id) {
            returning.gone.swap_remove(place);
            return Some(Verdict::Drop);
        }
        if returning.kind == Kind::Resumed {
            return book.journal.has_sub(id).then_some(Verdict::Drop);
        }
        let place = returning.unnamed.iter().position(|unnamed| unnamed == id)?;
        returning.unnamed.swap_remove(place);
        let (same, ready) =
            book.journal
                .subs()
                .find(|sub| sub.id == id)
                .map_or((false, false), |sub| {
                    let request = sub.request.as_ref();
                    // Those that came later have changed whom the first one watches.
                    let same = request.is_some_and(|known| {
                        known.name == name && (known.params == params || name == PRESENCE)
                    });
                    (same && !sub.ending, sub.ready)
                });
        if same {
            if ready {
                turn.effects.reply(reply::ready(id));
            }
            return Some(Verdict::Drop);
        }
        if end(&mut book.journal, id, ready, &mut resume.asks) {
            returning.ended.push(id.to_owned());
        }
        None
    }

    /// An answer of the streamer that the client would not understand yet: it is kept until the
    /// client asks again. `json` is the whole message, of a `result`.
    pub(in crate::session) fn withhold(&mut self, kind: Message, id: &str, json: &str) -> bool {
        let Some(returning) = self.returning_mut() else {
            return false;
        };
        match kind {
            Message::Nosub => {
                let place = returning.ended.iter().position(|ended| ended == id);
                place
                    .map(|place| returning.ended.swap_remove(place))
                    .is_some()
            }
            Message::Result => {
                let owed = returning.methods.iter_mut().find(|owed| owed.id == id);
                owed.map(|owed| owed.result = Some(json.to_owned()))
                    .is_some()
            }
            Message::Updated => {
                if let Some(place) = returning.done.iter().position(|done| done == id) {
                    returning.done.swap_remove(place);
                    return true;
                }
                let owed = returning.methods.iter_mut().find(|owed| owed.id == id);
                owed.map(|owed| owed.updated = true).is_some()
            }
            _ => false,
        }
    }

    /// A time is over: what was not repeated by now will not be.
    pub(super) fn settle_return(&mut self, now: Instant) {
        let Some(book) = &mut self.book else { return };
        let Some(resume) = &mut book.resume else {
            return;
        };
        let Some(returning) = &mut resume.returning else {
            return;
        };
        if now < returning.next {
            return;
        }
        returning.next = (now + UNNAMED_AFTER).min(returning.until).max(now + SHORT);
        let unnamed = std::mem::take(&mut returning.unnamed);
        for id in unnamed {
            let Some(ready) = book
                .journal
                .subs()
                .find(|sub| sub.id == id)
                .map(|sub| sub.ready && !sub.ending)
            else {
                continue;
            };
            if !ready && now < returning.until {
                returning.unnamed.push(id);
            } else if end(&mut book.journal, &id, ready, &mut resume.asks) {
                returning.ended.push(id);
            }
        }
        // Meteor's client sends its methods again when its login is done.
        if resume.renewal.is_some() && now >= returning.until {
            returning.until = now + KEEP;
            returning.next = returning.until;
        }
        if now < returning.until {
            return;
        }
        if returning.kind == Kind::Resumed {
            // One that knows from the session id that it may wait for them.
            for owed in returning.methods.drain(..) {
                resume.replies.extend(owed.result);
                if owed.updated {
                    resume.replies.push(reply::updated(&owed.id));
                }
            }
        }
        // Meteor's client throws at an `updated` for a method that it has given up.
        returning.methods.retain(|owed| !owed.updated);
        returning.until = now + ANSWER_WITHIN;
        returning.next = returning.until;
        if returning.methods.is_empty() {
            resume.returning = None;
        }
    }

    fn returning_mut(&mut self) -> Option<&mut Returning> {
        self.book
            .as_mut()?
            .resume
            .as_mut()?
            .returning
            .as_deref_mut()
    }
}

impl Resume {
    /// The client's login is done: what it had begun before, it sends again now.
    pub(super) fn await_repeats(&mut self, now: Instant) {
        if let Some(returning) = &mut self.returning {
            returning.until = returning.until.max(now + KEEP);
        }
    }
}

impl Owed {
    fn pay<E: Effects>(self, turn: &mut Turn<'_, E>) {
        if let Some(result) = self.result {
            turn.effects.reply(result);
            if self.updated {
                turn.effects.reply(reply::updated(&self.id));
            }
        }
    }
}

/// What of the missed messages is sent again, in order; the answers of methods are kept aside.
fn replay(missed: Vec<Missed>, kind: Kind, returning: &mut Returning) -> Vec<Missed> {
    let mut again = Vec::new();
    for message in missed {
        let kept = returning.keep(message.kind, &message.json);
        if kind == Kind::Resumed && message.counted && !kept {
            again.push(message);
        }
    }
    if kind == Kind::Rebound {
        returning.gone.clear();
    }
    again
}

/// The client goes on under another session id; the streamer knows the old one.
fn rename(journal: &mut Journal, fresh: &str) {
    let upstream = journal.upstream().or_else(|| journal.session());
    let upstream = upstream.unwrap_or_default().into_owned();
    journal.set_session(fresh);
    journal.set_upstream(&upstream);
    journal.forget_documents();
}

/// Ends the subscriptions whose documents the client will want anew, and names the others.
fn renew_documents(
    journal: &mut Journal,
    asks: &mut Vec<String>,
    ended: &mut Vec<String>,
) -> Vec<String> {
    let mut unnamed = Vec::new();
    let mut renewed = Vec::new();
    for sub in journal.subs() {
        let keeps = sub
            .request
            .is_some_and(|request| request.name.starts_with(STREAM) && !collects(&request.params));
        if keeps || !sub.ready || sub.ending {
            unnamed.push(sub.id.into_owned());
        } else {
            renewed.push(sub.id.into_owned());
        }
    }
    for id in renewed {
        if end(journal, &id, true, asks) {
            ended.push(id);
        }
    }
    unnamed
}

/// Whether a stream's subscription with these parameters begins with a document.
fn collects(params: &str) -> bool {
    params.ends_with(",true]") || params.contains(r#""useCollection":true"#)
}

/// Ends a subscription on behalf of a client that does not know it any more; whether the streamer
/// will say so.
fn end(journal: &mut Journal, id: &str, ready: bool, asks: &mut Vec<String>) -> bool {
    let known = journal.end_sub(id) != Answered::Unknown;
    if known {
        asks.push(unsub(id));
    }
    known && ready
}

/// The names of Rocket.Chat's streams begin with this, and those of publications do not.
const STREAM: &str = "stream-";
const PRESENCE: &str = "stream-user-presence";

/// From the return to the end of the subscriptions that the client did not name again.
const UNNAMED_AFTER: Duration = Duration::from_secs(5);

/// How long a client may take to ask again, from its return and from the end of its login.
const KEEP: Duration = Duration::from_secs(5);

/// How often it is looked whether a method of before, that nobody has asked for again, is answered.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

const SHORT: Duration = Duration::from_millis(100);
