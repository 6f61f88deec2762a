//! The document of a user whose login was answered from memory.
//!
//! Of each document a session knows no more than a hash, but a client that begins a new session has
//! forgotten its own, and a streamer publishes a user's document with a login only
//! (`RocketChat/Rocket.Chat:ee/apps/ddp-streamer`). Keeping a copy would cost each session more than
//! all the rest of it, and the copy would be as old as the login. So the client is told at once that
//! it is in; what it asks for passes at once, since its leg is; and behind that the gateway logs in
//! again under an id of its own, in its turn. The answers are swallowed, the document passes.
//!
//! `updated` goes out behind the document, which is what it says: the data of the login is there.
//! Meteor's client keeps what it had before the loss until then (`meteor/meteor:packages/ddp-client`,
//! quiescence; `accounts-base/accounts_client.js` relies on it at a reconnect). Sent any earlier, it
//! would make that client drop the old document before it has the new one, and Rocket.Chat's then
//! shows a user without a name the form to choose one (`apps/meteor/client/views/root/MainLayout`).
//! Clients of other kinds go by the result alone.

use std::time::{Duration, Instant};

use super::{
    super::{
        Disconnect, Effects, Login, Note, Session, Turn,
        book::Logins,
        journal::{Collection, Journal},
        machine::Phase,
        migration::PRIVATE,
    },
    Resume,
    portable::millis,
};
use crate::{
    base::{
        packing::{Garbled, Packer, Unpacker},
        secret::Secret,
    },
    ddp::{Kind as Message, LoginReply, login, reply},
};

/// A login of the gateway's own, for the user's document.
pub(super) struct Renewal {
    began: Instant,
    /// The client's logins that have their result, and will have their `updated` with the document.
    owed: Vec<String>,
    step: Step,
    /// How long the next failure keeps it from being tried again.
    pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The client is gone, or has not logged in since it came back.
    Lapsed,
    /// For the turn to log in.
    Waiting,
    /// The streamer could not do it.
    Pausing { until: Instant },
    /// With the result, once it is here; the `updated` is not.
    Sent { outcome: Option<Login> },
    /// The document may come, and `updated` goes out without it at the end.
    Answered { until: Instant },
}

impl Renewal {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            owed: Vec::new(),
            step: Step::Waiting,
            pause: FIRST_PAUSE,
        }
    }

    /// Whether `updated` can be promised to one more login.
    pub(super) fn has_room(&self) -> bool {
        self.owed.len() < MOST_OWED
    }

    /// The client's login `id` has its result, and gets its `updated` with the document.
    pub(super) fn owe(renewal: &mut Option<Box<Self>>, id: &str, now: Instant) {
        let renewal = renewal.get_or_insert_with(|| Box::new(Self::new(now)));
        renewal.owed.push(id.to_owned());
        if renewal.step == Step::Lapsed {
            renewal.step = Step::Waiting;
        }
    }

    /// The client is gone: only a login that is under way goes on.
    pub(super) fn lapse(&mut self) {
        if !matches!(self.step, Step::Sent { .. }) {
            self.step = Step::Lapsed;
        }
    }

    /// The client begins a new session, and waits for nothing of the old one.
    pub(super) fn begin_anew(renewal: &mut Option<Box<Self>>) {
        let sent = renewal.take_if(|renewal| matches!(renewal.step, Step::Sent { .. }));
        *renewal = sent.map(|mut renewal| {
            renewal.owed.clear();
            renewal
        });
    }

    /// Writes it, unless the login is under way; times from `now` on.
    pub(super) fn pack(&self, now: Instant, out: &mut Packer) -> Result<(), LoggingIn> {
        let (step, until) = match self.step {
            Step::Lapsed => (0, None),
            Step::Waiting => (1, None),
            Step::Pausing { until } => (2, Some(until)),
            Step::Answered { until } => (3, Some(until)),
            Step::Sent { .. } => return Err(LoggingIn),
        };
        out.byte(step);
        let until = until.map(|until| until.saturating_duration_since(now));
        for time in [
            now.saturating_duration_since(self.began),
            until.unwrap_or_default(),
            self.pause,
        ] {
            out.number(millis(time));
        }
        out.list(self.owed.iter(), |out, id| out.text(id));
        Ok(())
    }

    pub(super) fn unpack(now: Instant, from: &mut Unpacker<'_>) -> Result<Self, Garbled> {
        let step = from.byte()?;
        let mut time = || from.number_u32().map(u64::from).map(Duration::from_millis);
        let (age, left, pause) = (time()?, time()?, time()?);
        let until = now + left;
        Ok(Self {
            began: now.checked_sub(age).unwrap_or(now),
            owed: from.list(MOST_OWED, |from| from.text().map(str::to_owned))?,
            step: match step {
                0 => Step::Lapsed,
                1 => Step::Waiting,
                2 => Step::Pausing { until },
                3 => Step::Answered { until },
                _ => return Err(Garbled),
            },
            pause,
        })
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match self.step {
            Step::Pausing { until } | Step::Answered { until } => Some(until),
            Step::Lapsed | Step::Waiting | Step::Sent { .. } => None,
        }
    }
}

/// A login of the gateway's own has no answer yet.
pub(in crate::session) struct LoggingIn;

/// Whether the client has the document of its user, as far as that is known.
pub(super) fn has_own_document(journal: &Journal) -> bool {
    let user = journal.user();
    journal.documents().any(|document| {
        document.collection == Collection::Users && Some(document.id.as_str()) == user.as_deref()
    })
}

impl Session {
    /// Whether the session wants to log in for the user's document.
    pub(in crate::session) fn wants_renewal(&self) -> bool {
        let waits = self.renewal().map(|renewal| renewal.step) == Some(Step::Waiting);
        let book = self.book.as_ref().filter(|_| waits);
        self.phase == Phase::Live && book.is_some_and(|book| book.logins == Logins::default())
    }

    /// Whether it does, and has no answer yet.
    pub(in crate::session) fn is_renewing(&self) -> bool {
        self.renewal()
            .is_some_and(|renewal| renewal.step == Step::Sent { outcome: None })
    }

    /// It is the session's turn to log in.
    pub(in crate::session) fn begin_renewal(&mut self) {
        if !self.wants_renewal() {
            return;
        }
        let Some(book) = &mut self.book else { return };
        let Some(resume) = &mut book.resume else {
            return;
        };
        let Some(renewal) = &mut resume.renewal else {
            return;
        };
        match book.journal.token() {
            Some(token) => {
                renewal.step = Step::Sent { outcome: None };
                resume.asks.push(message(&token));
            }
            // The user has logged out.
            None => resume.pay(),
        }
    }

    /// The client logs in on its own, and gets the document by that.
    pub(in crate::session) fn supersede_renewal(&mut self) {
        if let Some(resume) = self.resume_mut()
            && let Some(renewal) = &resume.renewal
            && !matches!(renewal.step, Step::Sent { .. })
        {
            resume.pay();
        }
    }

    /// An answer of the streamer; whether it is one to a login of the gateway's own.
    pub(in crate::session) fn take_renewal<E: Effects>(
        &mut self,
        kind: Message,
        id: &str,
        json: &str,
        turn: &mut Turn<'_, E>,
    ) -> bool {
        if id.strip_prefix(PRIVATE) != Some(NAME) {
            return false;
        }
        let Some(resume) = self.resume_mut() else {
            return false;
        };
        let Some(renewal) = &mut resume.renewal else {
            return false;
        };
        match (kind, renewal.step) {
            (Message::Result, Step::Sent { outcome: None }) => {
                let outcome = match LoginReply::parse(json) {
                    Ok(LoginReply::Done { .. }) => Login::In,
                    Ok(LoginReply::Refused) => Login::Refused,
                    Ok(LoginReply::Failed) | Err(_) => Login::Failed,
                };
                renewal.step = Step::Sent {
                    outcome: Some(outcome),
                };
                let took = turn.now.saturating_duration_since(renewal.began);
                turn.effects.note(Note::Login { outcome, took });
                // The client's own login has to fail, so that it learns that it is logged out.
                if outcome == Login::Refused {
                    self.close(Disconnect::LoggedOut, turn.now);
                }
            }
            (Message::Updated, Step::Sent { outcome }) => {
                renewal.step = match outcome {
                    Some(Login::In) => Step::Answered {
                        until: turn.now + DOCUMENT_WITHIN,
                    },
                    _ => Step::Pausing {
                        until: turn.now + renewal.pause,
                    },
                };
                renewal.pause = (renewal.pause * 2).min(LONGEST_PAUSE);
                self.settle_renewal(turn);
            }
            _ => {}
        }
        true
    }

    /// A document has passed, or was passed over because the client has it.
    pub(in crate::session) fn settle_renewal<E: Effects>(&mut self, turn: &mut Turn<'_, E>) {
        let Some(book) = &mut self.book else { return };
        let Some(resume) = &mut book.resume else {
            return;
        };
        if resume.renewal.is_none() || !has_own_document(&book.journal) {
            return;
        }
        resume.await_repeats(turn.now);
        for id in resume.end_renewal() {
            turn.effects.reply(reply::updated(&id));
        }
    }

    pub(super) fn handle_renewal_timeout(&mut self, now: Instant) {
        let Some(resume) = self.resume_mut() else {
            return;
        };
        let Some(renewal) = &mut resume.renewal else {
            return;
        };
        match renewal.step {
            Step::Pausing { until } if now >= until => renewal.step = Step::Waiting,
            Step::Answered { until } if now >= until => {
                resume.await_repeats(now);
                resume.pay();
            }
            _ => {}
        }
    }

    fn renewal(&self) -> Option<&Renewal> {
        self.resume()?.renewal.as_deref()
    }
}

impl Resume {
    /// What the client is owed goes out without the document.
    fn pay(&mut self) {
        let owed = self.end_renewal();
        self.replies
            .extend(owed.iter().map(|id| reply::updated(id)));
    }

    /// The ids that are owed an `updated`. One that is under way is kept until its answers came.
    fn end_renewal(&mut self) -> Vec<String> {
        let Some(renewal) = &mut self.renewal else {
            return Vec::new();
        };
        let owed = std::mem::take(&mut renewal.owed);
        if !matches!(renewal.step, Step::Sent { .. }) {
            self.renewal = None;
        }
        owed
    }
}

fn message(token: &Secret<String>) -> String {
    serde_json::json!({
        "msg": "method",
        "id": format!("{PRIVATE}{NAME}"),
        "method": login::LOGIN,
        "params": [{ "resume": token.expose() }],
    })
    .to_string()
}

const NAME: &str = "renewal";

/// A streamer sends the document a moment after its answer.
const DOCUMENT_WITHIN: Duration = Duration::from_secs(5);

/// Between two logins that failed, of a client that is in all the while.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Logins that wait for one document.
const MOST_OWED: usize = 8;
