//! What a user does besides being there: by its habits, or by a rate at which it talks.

use std::time::Instant;

use serde_json::{Value, value::RawValue};

use super::{board::Board, busy::Busy, chance::Chance, crowd::Person, talk::Talking};

pub(super) enum Doing<'a> {
    Busy(Box<Busy<'a>>),
    Talking(Box<Talking<'a>>),
}

impl<'a> Doing<'a> {
    pub(super) fn of(person: &'a Person, board: &'a Board, chance: Chance) -> Option<Self> {
        Some(match (&person.habits, &person.talk) {
            (Some(habits), _) => Self::Busy(Box::new(Busy::new(person, habits, board, chance))),
            (None, Some(talk)) => {
                Self::Talking(Box::new(Talking::new(person, talk, board, chance)))
            }
            (None, None) => return None,
        })
    }

    /// Subscription number `n` of this user's own has been asked for.
    pub(super) fn subscribed(&mut self, n: u8) {
        match self {
            Self::Busy(busy) => busy.subscribed(n),
            Self::Talking(_) => {}
        }
    }

    pub(super) fn ready(&mut self, n: u8) {
        match self {
            Self::Busy(busy) => busy.ready(n),
            Self::Talking(_) => {}
        }
    }

    pub(super) fn settled(&mut self, say: &mut Vec<String>, now: Instant) {
        match self {
            Self::Busy(busy) => busy.settled(say, now),
            Self::Talking(talking) => talking.settled(now),
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match self {
            Self::Busy(busy) => busy.next_timeout(),
            Self::Talking(talking) => talking.next_timeout(),
        }
    }

    pub(super) fn due(&mut self, say: &mut Vec<String>, now: Instant) {
        match self {
            Self::Busy(busy) => busy.due(say, now),
            Self::Talking(talking) => talking.due(say, now),
        }
    }

    pub(super) fn hear_event(&mut self, collection: &str, fields: &RawValue) {
        match self {
            Self::Busy(busy) => busy.hear_event(collection, fields),
            Self::Talking(talking) => talking.hear_event(collection, fields),
        }
    }

    pub(super) fn hear_result(
        &mut self,
        id: Option<&str>,
        result: Option<&RawValue>,
        failed: bool,
        now: Instant,
    ) {
        match self {
            Self::Busy(busy) => busy.hear_result(id, result, failed, now),
            Self::Talking(talking) => talking.hear_result(id, failed, now),
        }
    }

    pub(super) fn hear_updated(&mut self, id: &str) {
        match self {
            Self::Busy(busy) => busy.hear_updated(id),
            Self::Talking(_) => {}
        }
    }

    pub(super) fn hear_sub_answer(&mut self, id: &str, ready: bool, now: Instant) -> bool {
        match self {
            Self::Busy(busy) => busy.hear_sub_answer(id, ready, now),
            Self::Talking(talking) => talking.hear_sub_answer(id, ready),
        }
    }
}

impl Person {
    /// Subscriptions that what it does brings with it.
    pub(super) fn own_subscriptions(&self) -> u8 {
        match (&self.habits, &self.talk) {
            (Some(habits), _) => habits.subscriptions(),
            (None, Some(talk)) => talk.subscriptions(),
            (None, None) => 0,
        }
    }

    pub(super) fn own_subscription(&self, n: u8) -> Option<(&'static str, Value)> {
        match (&self.habits, &self.talk) {
            (Some(habits), _) => Some(habits.subscription(n)),
            (None, Some(talk)) => talk.subscription(n),
            (None, None) => None,
        }
    }
}
