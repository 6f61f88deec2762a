//! What the new leg has been asked, and what it has answered.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{PRIVATE, WATCH, outcome::Aborted};
use crate::{
    ddp::{login, reply::Nosub},
    session::journal::{Presence, SubView},
};

/// The client's requests as the new leg knows them.
#[derive(Default)]
pub(super) struct Shadow {
    /// The login has no answer yet.
    logging_in: bool,
    /// Presence calls that were sent, and how many of them are answered.
    presence_sent: u32,
    presence_answered: u32,
    presence: Option<Presence>,
    /// Changes of the presence subscription that were sent.
    changes: u32,
    subs: BTreeMap<String, Sub>,
    /// Subscriptions in it that are not settled.
    unsettled: usize,
    /// There was more to ask than is kept.
    overfull: bool,
}

/// One subscription on the new leg, where each id is in use at most once at a time: a second sub
/// with the same id would deliver everything twice.
struct Sub {
    state: SubState,
    /// The message that asked for it, until it is answered.
    json: String,
    /// Asked for a second time after a failure.
    again: bool,
    /// The client does not want it any more.
    over: bool,
    /// The client has asked anew under the same id.
    next: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SubState {
    Pending,
    Ready,
    /// `unsub` was sent.
    Ending,
    /// Refused for good.
    Refused,
}

/// What follows from an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Next {
    /// To be sent to the new leg.
    pub(super) send: Option<String>,
    pub(super) abort: Option<Aborted>,
}

impl Next {
    fn send(message: String) -> Self {
        Self {
            send: Some(message),
            abort: None,
        }
    }

    fn abort(why: Aborted) -> Self {
        Self {
            send: None,
            abort: Some(why),
        }
    }
}

impl Shadow {
    /// The message that logs the user in.
    pub(super) fn log_in(&mut self, token: &str) -> String {
        self.logging_in = true;
        let params = [Resume { resume: token }];
        method(&private(LOGIN), login::LOGIN, &params)
    }

    /// The message that repeats what the client last said about its user.
    pub(super) fn call_presence(&mut self, presence: Presence) -> String {
        self.presence_sent += 1;
        self.presence = Some(presence);
        let name = match presence {
            Presence::Online => "UserPresence:online",
            Presence::Away => "UserPresence:away",
        };
        method(
            &private(&format!("p{}", self.presence_sent)),
            name,
            &[(); 0],
        )
    }

    /// A `sub` of the client; the message to send now, if it is its turn.
    pub(super) fn begin_sub(&mut self, id: &str, json: String) -> Option<String> {
        if !self.has_room(id, json.len()) {
            return None;
        }
        if let Some(sub) = self.subs.get_mut(id) {
            if sub.state == SubState::Refused {
                sub.state = SubState::Pending;
                sub.json = json.clone();
                (sub.again, sub.over) = (false, false);
                self.unsettled += 1;
                return Some(json);
            }
            sub.next = Some(json);
            return None;
        }
        self.unsettled += 1;
        let sub = Sub {
            state: SubState::Pending,
            json: json.clone(),
            again: false,
            over: false,
            next: None,
        };
        self.subs.insert(id.to_owned(), sub);
        Some(json)
    }

    /// The message that changes whom the presence subscription watches, under an id of our own:
    /// the client's may be in use again.
    pub(super) fn change_watch(&mut self, params: &str) -> Option<String> {
        self.changes += 1;
        let id = private(&format!("w{}", self.changes));
        if !self.has_room(&id, 0) {
            return None;
        }
        let json = format!(r#"{{"msg":"sub","id":"{id}","name":"{WATCH}","params":{params}}}"#);
        self.unsettled += 1;
        let sub = Sub {
            state: SubState::Pending,
            json: String::new(),
            again: false,
            over: true,
            next: None,
        };
        self.subs.insert(id, sub);
        Some(json)
    }

    /// The client has asked for more than is kept: the new leg does not know all of it.
    pub(super) fn is_overfull(&self) -> bool {
        self.overfull
    }

    /// Whether `bytes` more may wait under `id`. What the client asks for and gives up at once is
    /// kept until the new leg has answered it, however slow that is.
    fn has_room(&mut self, id: &str, bytes: usize) -> bool {
        let waiting = self.subs.values().map(|sub| {
            let next = sub.next.as_ref().map_or(0, String::len);
            sub.json.len() + next
        });
        let too_many = self.subs.len() >= MOST_SUBS && !self.subs.contains_key(id);
        self.overfull |= too_many || waiting.sum::<usize>() + bytes > MOST_WAITING_BYTES;
        !self.overfull
    }

    /// The old leg has ended a subscription; the message to send now, if there is one.
    pub(super) fn end_sub(&mut self, id: &str) -> Option<String> {
        let sub = self.subs.get_mut(id)?;
        // What waits to be asked for anew is what has ended.
        if sub.next.take().is_some() {
            return None;
        }
        match sub.state {
            // An unsub would overtake the sub and be ignored.
            SubState::Pending => {
                sub.over = true;
                None
            }
            SubState::Ready => {
                sub.state = SubState::Ending;
                self.unsettled += 1;
                Some(unsub(id))
            }
            SubState::Ending => None,
            SubState::Refused => {
                self.subs.remove(id);
                None
            }
        }
    }

    /// The new leg answered a login or a presence call. Whether it is one of those.
    pub(super) fn answered(&mut self, id: &str) -> bool {
        match id.strip_prefix(PRIVATE) {
            Some(LOGIN) => self.logging_in = false,
            Some(call) if call.starts_with('p') => {
                self.presence_answered = self.presence_sent.min(self.presence_answered + 1);
            }
            _ => return false,
        }
        true
    }

    pub(super) fn ready(&mut self, id: &str) -> Next {
        let Some(sub) = self.subs.get_mut(id) else {
            return Next::default();
        };
        if sub.state != SubState::Pending {
            return Next::default();
        }
        // It should have changed one that is not there yet.
        if id.starts_with(PRIVATE) {
            return Next::abort(Aborted::Busy);
        }
        sub.json = String::new();
        if sub.over || sub.next.is_some() {
            sub.state = SubState::Ending;
            return Next::send(unsub(id));
        }
        sub.state = SubState::Ready;
        self.unsettled -= 1;
        Next::default()
    }

    pub(super) fn nosub(&mut self, id: &str, reason: Nosub) -> Next {
        let Some(sub) = self.subs.get_mut(id) else {
            return Next::default();
        };
        if id.starts_with(PRIVATE) && reason != Nosub::Ended {
            return Next::abort(Aborted::SubRefused);
        }
        let settled = match (sub.state, reason) {
            (SubState::Refused, _) => return Next::default(),
            (SubState::Pending, Nosub::Failed) if !sub.over && sub.next.is_none() => {
                if sub.again {
                    return Next::abort(Aborted::SubRefused);
                }
                sub.again = true;
                return Next::send(sub.json.clone());
            }
            (state, _) => state == SubState::Ready,
        };
        if let Some(json) = sub.next.take() {
            let message = json.clone();
            if settled {
                self.unsettled += 1;
            }
            (sub.state, sub.json) = (SubState::Pending, json);
            (sub.again, sub.over) = (false, false);
            return Next::send(message);
        }
        if !settled {
            self.unsettled -= 1;
        }
        // Refused where the old leg serves it: the client hears of it with the switch. One that only
        // changes another one ends on the old leg too, which is then noticed.
        if sub.over || sub.state == SubState::Ending {
            self.subs.remove(id);
        } else {
            sub.state = SubState::Refused;
        }
        Next::default()
    }

    /// Whether everything that was asked is answered.
    pub(super) fn is_settled(&self) -> bool {
        !self.logging_in && self.presence_sent == self.presence_answered && self.unsettled == 0
    }

    /// What the new leg was last told about the user.
    pub(super) fn presence(&self) -> Option<Presence> {
        self.presence
    }

    pub(super) fn is_logging_in(&self) -> bool {
        self.logging_in
    }

    /// Whether the new leg has been asked for this subscription.
    pub(super) fn has_sub(&self, id: &str) -> bool {
        self.subs.contains_key(id)
    }

    /// Subscriptions that the new leg does not serve although the client has them.
    pub(super) fn refused(&self) -> impl Iterator<Item = &str> {
        let refused = |sub: &Sub| sub.state == SubState::Refused;
        self.subs
            .iter()
            .filter(move |(_, sub)| refused(sub))
            .map(|(id, _)| id.as_str())
    }
}

/// The `sub` that a client sent, from what is known of it.
pub(super) fn sub(view: &SubView<'_>) -> Option<String> {
    let request = view.request.as_ref()?;
    let mut json = String::from(r#"{"msg":"sub","id":"#);
    json.push_str(&quoted(&view.id));
    json.push_str(r#","name":"#);
    json.push_str(&quoted(&request.name));
    if !request.params.is_empty() {
        json.push_str(r#","params":"#);
        json.push_str(&request.params);
    }
    json.push('}');
    Some(json)
}

/// An id for requests of the gateway's own.
pub(super) fn private(name: &str) -> String {
    format!("{PRIVATE}{name}")
}

fn unsub(id: &str) -> String {
    format!(r#"{{"msg":"unsub","id":{}}}"#, quoted(id))
}

fn method(id: &str, name: &str, params: &impl Serialize) -> String {
    let params = serde_json::to_string(params).unwrap_or_else(|_| "[]".to_owned());
    let (id, name) = (quoted(id), quoted(name));
    format!(r#"{{"msg":"method","id":{id},"method":{name},"params":{params}}}"#)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[derive(Serialize)]
struct Resume<'a> {
    resume: &'a str,
}

const LOGIN: &str = "login";

/// Subscriptions that the new leg is asked for: twice what a client may have at a time.
const MOST_SUBS: usize = 2_000;

/// Of their messages that are not answered.
const MOST_WAITING_BYTES: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::{MOST_SUBS, MOST_WAITING_BYTES, Next, Shadow};
    use crate::{
        ddp::reply::Nosub,
        session::{journal::Presence, migration::outcome::Aborted},
    };

    const SUB: &str = r#"{"msg":"sub","id":"a"}"#;
    const UNSUB: &str = r#"{"msg":"unsub","id":"a"}"#;

    fn begin(shadow: &mut Shadow) -> Option<String> {
        shadow.begin_sub("a", SUB.to_owned())
    }

    #[test]
    fn private_requests_are_answered_before_anything_is_settled() {
        let mut shadow = Shadow::default();
        assert!(shadow.is_settled());
        assert_eq!(
            shadow.log_in("t\"1"),
            r#"{"msg":"method","id":"ddpgw:login","method":"login","params":[{"resume":"t\"1"}]}"#
        );
        assert_eq!(
            shadow.call_presence(Presence::Away),
            r#"{"msg":"method","id":"ddpgw:p1","method":"UserPresence:away","params":[]}"#
        );
        assert!(!shadow.answered("login"));
        assert!(shadow.answered("ddpgw:login"));
        assert!(!shadow.is_logging_in() && !shadow.is_settled());
        assert!(shadow.answered("ddpgw:p1"));
        assert!(shadow.is_settled());
    }

    #[test]
    fn an_unsub_follows_the_answer() {
        let mut shadow = Shadow::default();
        assert_eq!(begin(&mut shadow).as_deref(), Some(SUB));
        assert_eq!(shadow.end_sub("a"), None);
        assert_eq!(shadow.ready("a"), Next::send(UNSUB.to_owned()));
        assert!(!shadow.is_settled());
        assert_eq!(shadow.nosub("a", Nosub::Ended), Next::default());
        assert!(shadow.is_settled());
        assert_eq!(shadow.refused().count(), 0);
    }

    #[test]
    fn an_id_is_in_use_once_at_a_time() {
        let mut shadow = Shadow::default();
        begin(&mut shadow);
        shadow.end_sub("a");
        assert_eq!(begin(&mut shadow), None);
        assert_eq!(shadow.ready("a"), Next::send(UNSUB.to_owned()));
        assert_eq!(shadow.nosub("a", Nosub::Ended), Next::send(SUB.to_owned()));
        assert!(!shadow.is_settled());
        assert_eq!(shadow.ready("a"), Next::default());
        assert!(shadow.is_settled());
        // Ended, asked for anew and ended again while the first end is under way.
        assert_eq!(shadow.end_sub("a").as_deref(), Some(UNSUB));
        assert_eq!(begin(&mut shadow), None);
        assert_eq!(shadow.end_sub("a"), None);
        assert_eq!(shadow.nosub("a", Nosub::Ended), Next::default());
        assert!(shadow.is_settled());
    }

    #[test]
    fn a_failure_is_tried_once_more() {
        let mut shadow = Shadow::default();
        begin(&mut shadow);
        assert_eq!(shadow.nosub("a", Nosub::Failed), Next::send(SUB.to_owned()));
        assert_eq!(
            shadow.nosub("a", Nosub::Failed).abort,
            Some(Aborted::SubRefused)
        );
    }

    #[test]
    fn a_refusal_is_for_the_client_unless_it_has_ended_the_sub() {
        let mut shadow = Shadow::default();
        begin(&mut shadow);
        assert_eq!(shadow.nosub("a", Nosub::Refused), Next::default());
        assert!(shadow.is_settled());
        assert_eq!(shadow.refused().collect::<Vec<_>>(), ["a"]);
        assert_eq!(shadow.end_sub("a"), None);
        assert_eq!(shadow.refused().count(), 0);

        begin(&mut shadow);
        shadow.end_sub("a");
        assert_eq!(shadow.nosub("a", Nosub::Refused), Next::default());
        assert_eq!(shadow.refused().count(), 0);

        begin(&mut shadow);
        shadow.ready("a");
        assert_eq!(shadow.nosub("a", Nosub::Ended), Next::default());
        assert_eq!(shadow.refused().collect::<Vec<_>>(), ["a"]);
        // Asked for anew.
        assert_eq!(begin(&mut shadow).as_deref(), Some(SUB));
        shadow.ready("a");
        assert!(shadow.is_settled());
        assert_eq!(shadow.refused().count(), 0);
    }

    #[test]
    fn bounds_hold() {
        let mut shadow = Shadow::default();
        for number in 0..MOST_SUBS {
            let id = number.to_string();
            assert!(shadow.begin_sub(&id, SUB.to_owned()).is_some());
            // Given up, but asked.
            assert_eq!(shadow.end_sub(&id), None);
        }
        // Anew under an id that is known.
        assert_eq!(shadow.begin_sub("0", SUB.to_owned()), None);
        assert!(!shadow.is_overfull());
        assert_eq!(shadow.begin_sub("more", SUB.to_owned()), None);
        assert!(shadow.is_overfull());

        let mut shadow = Shadow::default();
        let half = "x".repeat(MOST_WAITING_BYTES / 2);
        assert!(shadow.begin_sub("a", half.clone()).is_some());
        assert!(shadow.begin_sub("b", half.clone()).is_some());
        assert!(shadow.change_watch("[]").is_some());
        // What is answered waits no more.
        shadow.ready("b");
        assert!(shadow.begin_sub("c", half.clone()).is_some());
        assert_eq!(shadow.begin_sub("a", half), None);
        assert!(shadow.is_overfull());
        assert_eq!(shadow.change_watch("[]"), None);
    }

    #[test]
    fn what_only_changes_another_one_ends_at_once() {
        let mut shadow = Shadow::default();
        begin(&mut shadow);
        assert_eq!(shadow.nosub("a", Nosub::Ended), Next::default());
        assert!(shadow.is_settled());
        assert_eq!(shadow.end_sub("a"), None);
        assert_eq!(shadow.refused().count(), 0);
    }
}
