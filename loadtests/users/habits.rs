//! What a user does while it is logged in, besides being there.

use std::time::Duration;

use serde_json::{Value, json};

/// The habits of one user.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Rooms that it is in. It types in the first one.
    pub rooms: Box<[u32]>,
    /// Rooms that there are; it looks into the others for a while.
    pub all_rooms: u32,
    /// Users whose presence it sees, by their number.
    pub watched: Box<[u32]>,
    /// It is away from its keyboard, by what its client says.
    pub away: bool,
    /// Mean time between two things that it does.
    pub pause: Duration,
}

impl Habits {
    /// Subscriptions that come on top of those of the client: two per room, and one that adds to
    /// the users who are watched.
    pub(super) fn subscriptions(&self) -> u8 {
        u8::try_from(2 * self.rooms.len() + 1).unwrap_or(u8::MAX)
    }

    pub(super) fn subscription(&self, n: u8) -> (&'static str, Value) {
        let n = usize::from(n);
        match self.rooms.get(n / 2) {
            Some(room) if n.is_multiple_of(2) => (MESSAGES, json!([room_name(*room), options()])),
            Some(room) => (ROOM, json!([activity(*room), options()])),
            None => {
                let watched: Vec<String> = self.watched.iter().map(|n| user_id(*n)).collect();
                (PRESENCE, json!(["", { "added": watched, "removed": [] }]))
            }
        }
    }

    /// The room whose messages subscription number `n` brings.
    pub(super) fn room_of(&self, n: u8) -> Option<u32> {
        let room = self.rooms.get(usize::from(n / 2));
        room.copied().filter(|_| n.is_multiple_of(2))
    }
}

pub(super) const MESSAGES: &str = "stream-room-messages";
pub(super) const ROOM: &str = "stream-notify-room";
pub(super) const PRESENCE: &str = "stream-user-presence";

pub(super) fn options() -> Value {
    json!({ "useCollection": false, "args": [] })
}

/// The name of a room.
pub fn room_name(room: u32) -> String {
    format!("crowd-{room}")
}

pub(super) fn activity(room: u32) -> String {
    format!("{}/user-activity", room_name(room))
}

/// The id of user number `n`.
pub fn user_id(n: u32) -> String {
    format!("uid-user{n}")
}
