//! Whose presence a client watches: the one subscription that later ones change.
//!
//! The first `stream-user-presence` of a connection stays; each later one adds and removes users and is answered with
//! `nosub` (`RocketChat/Rocket.Chat:ee/apps/ddp-streamer`). To set it up again takes one sub with the whole set.

use std::{collections::HashSet, iter};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    Journal, LONGEST_ID,
    arena::{Head, Kind, Record},
    entry::packed_params,
    packed::{pack, put_counted, put_varint, take, take_counted, take_varint, unpack},
};

const STREAM: &str = "stream-user-presence";

impl Journal {
    /// What a presence subscription that was not ready wanted to change, as it ends.
    pub(super) fn presence_change(&self, record: &Record) -> Option<Change> {
        if !record.head.has(Head::WAITING) || !self.watches_presence(record) {
            return None;
        }
        let view = self.view(record, &self.own_user())?;
        Change::parse(&view.request?.params)
    }

    /// Makes the change to the first presence subscription.
    pub(super) fn change_presence(&mut self, change: &Change) {
        let main = self
            .arena
            .records()
            .find(|record| !record.head.has(Head::WAITING) && self.watches_presence(record));
        let Some((main, body)) = main.and_then(|main| {
            let body = self.changed_set(&main, change)?;
            Some((main, body))
        }) else {
            return;
        };
        let head = main.head.with(Head::SET);
        let replaced = self.arena.replace(&main, head, &body, self.bounds.bytes());
        if replaced.is_err() {
            self.overflow();
        }
    }

    /// The main presence subscription's body with the change made.
    fn changed_set(&self, main: &Record, change: &Change) -> Option<Vec<u8>> {
        if self.overflowed {
            return None;
        }
        let body = self.arena.body(main);
        let params = packed_params(body)?;
        let set = if main.head.has(Head::SET) {
            change.apply(params)
        } else {
            let set = Change::parse(&unpack(params, &self.own_user()))?.into_set();
            change.apply(&set)
        }?;
        let mut changed = body[..body.len() - params.len()].to_vec();
        changed.extend_from_slice(&set);
        Some(changed)
    }

    fn watches_presence(&self, record: &Record) -> bool {
        record.head.is(Kind::Sub) && self.name(record).label() == STREAM
    }
}

/// The parameters of one such subscription.
pub(super) struct Change {
    event: String,
    added: Vec<String>,
    removed: Vec<String>,
}

impl Change {
    /// Reads `["<event>",{"added":[..],"removed":[..]}]`; what is missing or of another type counts as empty.
    pub(super) fn parse(params: &str) -> Option<Self> {
        let params: Vec<&RawValue> = serde_json::from_str(params).ok()?;
        let event = serde_json::from_str(params.first()?.get()).ok()?;
        let lists = params
            .get(1)
            .and_then(|lists| serde_json::from_str(lists.get()).ok());
        let Lists { added, removed } = lists.unwrap_or_default();
        Some(Self {
            event,
            added,
            removed,
        })
    }

    /// The set as it is after this change alone.
    pub(super) fn into_set(self) -> Vec<u8> {
        let mut event = Vec::new();
        pack(&self.event, "", &mut event);
        let mut set = Vec::new();
        put_varint(event.len() as u64, &mut set);
        set.extend_from_slice(&event);
        self.apply(&set).unwrap_or(set)
    }

    /// The packed `set` with this change made to it, `None` if it is not one. Who is added and removed at once is
    /// removed: the streamer adds first.
    pub(super) fn apply(&self, set: &[u8]) -> Option<Vec<u8>> {
        let removed: HashSet<_> = packed_ids(&self.removed).collect();
        let added: Vec<_> = packed_ids(&self.added).collect();
        let mut users = set;
        take_event(&mut users)?;
        let mut changed = set[..set.len() - users.len()].to_vec();
        let mut seen = HashSet::new();
        let before = iter::from_fn(|| take_counted(&mut users));
        for id in before.chain(added.iter().map(Vec::as_slice)) {
            if !removed.contains(id) && seen.insert(id) {
                put_counted(id, &mut changed);
            }
        }
        Some(changed)
    }
}

/// The parameters of one sub that asks for the whole packed `set`.
pub(super) fn to_params(set: &[u8]) -> String {
    let mut rest = set;
    let event = take_event(&mut rest).map(|event| unpack(event, ""));
    let mut added = Vec::new();
    while let Some(id) = take_counted(&mut rest) {
        added.push(unpack(id, ""));
    }
    let lists = WholeSet { added };
    serde_json::to_string(&(event.unwrap_or_default(), lists)).unwrap_or_default()
}

fn packed_ids(ids: &[String]) -> impl Iterator<Item = Vec<u8>> {
    ids.iter().filter(|id| id.len() <= LONGEST_ID).map(|id| {
        let mut packed = Vec::new();
        pack(id, "", &mut packed);
        packed
    })
}

fn take_event<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(rest)?).ok()?;
    take(rest, len)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Lists {
    added: Vec<String>,
    removed: Vec<String>,
}

#[derive(Serialize)]
struct WholeSet<T> {
    added: Vec<T>,
}

#[cfg(test)]
mod tests {
    use super::{Change, to_params};

    fn set(params: &str) -> Vec<u8> {
        Change::parse(params).unwrap().into_set()
    }

    #[test]
    fn changes_add_up() {
        let mut users = set(
            r#"["",{"added":["kX3fS9bQ7Zt2LmNaP","rocket.cat","rocket.cat"],"removed":["rocket.cat"]}]"#,
        );
        assert_eq!(users.len(), 1 + 15);
        assert_eq!(to_params(&users), r#"["",{"added":["kX3fS9bQ7Zt2LmNaP"]}]"#);
        for (change, after) in [
            (
                r#"["",{"added":["rocket.cat","a","b","a"]}]"#,
                r#"["",{"added":["kX3fS9bQ7Zt2LmNaP","rocket.cat","a","b"]}]"#,
            ),
            (
                r#"["",{"removed":["rocket.cat","nobody"]}]"#,
                r#"["",{"added":["kX3fS9bQ7Zt2LmNaP","a","b"]}]"#,
            ),
            (
                r#"["other",{"removed":["a"],"added":["a\"","é"]}]"#,
                r#"["",{"added":["kX3fS9bQ7Zt2LmNaP","b","a\"","é"]}]"#,
            ),
            (
                r#"["",{"removed":["b","c"],"added":["b","c"]}]"#,
                r#"["",{"added":["kX3fS9bQ7Zt2LmNaP","a\"","é"]}]"#,
            ),
            (
                r#"["",false]"#,
                r#"["",{"added":["kX3fS9bQ7Zt2LmNaP","a\"","é"]}]"#,
            ),
            (
                r#"["",{"removed":["kX3fS9bQ7Zt2LmNaP","a\"","é"]}]"#,
                r#"["",{"added":[]}]"#,
            ),
        ] {
            users = Change::parse(change).unwrap().apply(&users).unwrap();
            assert_eq!(to_params(&users), after);
        }
    }

    #[test]
    fn only_what_can_be_read_counts() {
        for params in [
            "",
            "[]",
            "{}",
            "[1]",
            r#"[null,{"added":["a"]}]"#,
            "[\"",
            "\"\"",
        ] {
            assert!(Change::parse(params).is_none(), "{params}");
        }
        for params in [
            r#"["e"]"#,
            r#"["e",{}]"#,
            r#"["e",{"added":"a"}]"#,
            r#"["e",{"added":[1]}]"#,
            r#"["e",[]]"#,
        ] {
            assert_eq!(to_params(&set(params)), r#"["e",{"added":[]}]"#, "{params}");
        }
        let long = "x".repeat(200);
        assert_eq!(
            to_params(&set(&format!(r#"["e",{{"added":["{long}"]}}]"#))),
            r#"["e",{"added":[]}]"#
        );
    }
}
