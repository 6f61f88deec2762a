//! What the client says next.

use std::time::Instant;

use serde_json::json;

use super::{bus::USER, client::Client, plan::Plan};

impl Client {
    /// The next thing that it has to say, several messages at most.
    pub(crate) fn act(&mut self, plan: &mut Plan, now: Instant) -> Vec<String> {
        let free = SUB_IDS.iter().filter(|id| !self.open.contains_key(**id));
        let free: Vec<&str> = free.copied().collect();
        let overtakes = plan.overtakes;
        // Who ends that while a session moves has it given up.
        let unwatches = plan.dice.chance(3);
        let may_end = self
            .open
            .iter()
            .filter(|(_, open)| !open.unsub && (overtakes || open.ready))
            .filter(|(id, _)| SUB_IDS.contains(&id.as_str()))
            .filter(|(_, open)| open.name != "stream-user-presence" || unwatches);
        let may_end: Vec<String> = may_end.map(|(id, _)| id.clone()).collect();
        let waits = self.in_flight() >= 10;
        let may = |is: bool, weight: usize| if is { weight } else { 0 };
        let weights = [
            may(!free.is_empty(), 14),
            may(!may_end.is_empty(), 8),
            may(!waits, 14),
            may(plan.logs_in && !waits, 3),
            may(!waits, 8),
            6,
            may(plan.large && !waits, 3),
            may(!may_end.is_empty(), 1),
            2,
        ];
        match plan.dice.weighed(&weights) {
            0 => {
                let id = *plan.dice.pick(&free);
                vec![self.any_sub(id, plan, now)]
            }
            1 => {
                let id = plan.dice.pick(may_end.as_slice());
                vec![self.unsub(id, now)]
            }
            2 => {
                let name = *plan.dice.pick(&["sendMessage", "rooms/get", "loadHistory"]);
                vec![self.call(name, &json!([1.50, "}\\\""]))]
            }
            3 => {
                let name = *plan
                    .dice
                    .pick(&["UserPresence:online", "UserPresence:away"]);
                vec![self.call(name, &json!([]))]
            }
            4 => {
                let event = *plan.dice.pick(TYPED);
                let params = json!([event, "me", ["user-typing"], {}]);
                vec![self.call("stream-notify-room", &params)]
            }
            5 => vec![self.ping()],
            6 => {
                let size = *plan.dice.pick(&[600, 5_000, 30_000]);
                vec![self.call("sendMessage", &json!(["y".repeat(size)]))]
            }
            // The end and a new beginning under the same id: the latter is swallowed while the
            // former is on its way.
            7 => {
                let id = plan.dice.pick(may_end.as_slice()).clone();
                let end = self.unsub(&id, now);
                vec![end, self.any_sub(&id, plan, now)]
            }
            _ => {
                let id = *plan.dice.pick(SUB_IDS);
                vec![self.any_sub(id, plan, now)]
            }
        }
    }

    pub(crate) fn any_sub(&mut self, id: &str, plan: &mut Plan, now: Instant) -> String {
        let (name, event) = *plan.dice.pick(SUBS);
        let event = event.replace("<uid>", USER);
        if !name.starts_with("stream-") {
            let open = self.open.values().any(|open| open.name == name);
            if !open {
                return self.sub(id, name, &json!([]), now);
            }
            return self.ping();
        }
        let params = match name {
            "stream-user-presence" => {
                let who = |count: usize, plan: &mut Plan| -> Vec<String> {
                    let draw = |_| format!("u{}", plan.dice.below(WATCHED));
                    (0..count).map(draw).collect()
                };
                let (added, removed) = (plan.dice.below(4), plan.dice.below(3) / 2);
                json!(["", {"added": who(added, plan), "removed": who(removed, plan)}])
            }
            _ => {
                json!([event, {"useCollection": plan.dice.chance(10), "args": []}])
            }
        };
        self.sub(id, name, &params, now)
    }
}

pub(crate) const WATCHED: usize = 6;

pub(crate) const SUB_IDS: &[&str] = &[
    "s0",
    "s1",
    "s2",
    "s3",
    "s4",
    "s5",
    "s6",
    "kX3fS9bQ7Zt2LmNaP",
    "9f1b7c10-5f0e-11ef-9a53-0242ac120002",
    "with \"quotes\"",
    "back\\slash é",
];

pub(crate) const TYPED: &[&str] = &["GENERAL/user-activity", "R2/user-activity"];

/// Some of them come more often.
pub(crate) const SUBS: &[(&str, &str)] = &[
    ("stream-notify-room", "GENERAL/user-activity"),
    ("stream-notify-room", "GENERAL/user-activity"),
    ("stream-notify-room", "R2/user-activity"),
    ("stream-notify-room", "GENERAL/deleteMessage"),
    ("stream-room-messages", "GENERAL"),
    ("stream-room-messages", "__my_messages__"),
    ("stream-room-messages", "__my_messages__"),
    ("stream-notify-user", "<uid>/rooms-changed"),
    ("stream-notify-user", "<uid>/message"),
    ("stream-notify-user", "<uid>/force_logout"),
    ("stream-notify-logged", "user-status"),
    ("stream-notify-room", "FORBIDDEN/user-activity"),
    ("stream-user-presence", ""),
    ("stream-user-presence", ""),
    ("stream-user-presence", ""),
    ("meteor.loginServiceConfiguration", ""),
    ("meteor_autoupdate_clientVersions", ""),
];
