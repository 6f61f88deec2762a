//! What a client of Rocket.Chat subscribes to.

use serde_json::{Value, json};

use super::kind::Family;

/// Rooms that a user has open, in the order in which their subscriptions come.
const ROOMS: [&str; 3] = ["GENERAL", "random", "gateway"];

/// Name and parameters of a client's subscription number `n`, for the user with this id. The list
/// has no end: behind what a client asks for at its start come rooms, one after the other.
pub(super) fn subscription(family: Family, n: usize, user: &str) -> (&'static str, Value) {
    let web: &[(&str, &str)] = &[
        ("meteor.loginServiceConfiguration", ""),
        ("meteor_autoupdate_clientVersions", ""),
        ("stream-notify-user", "/notification"),
        ("stream-notify-user", "/rooms-changed"),
        ("stream-notify-user", "/subscriptions-changed"),
        ("stream-user-presence", ""),
        ("stream-notify-logged", "permissions-changed"),
        ("stream-notify-logged", "roles-change"),
        ("stream-notify-all", "public-settings-changed"),
        ("stream-notify-user", "/uiInteraction"),
        ("stream-notify-user", "/force_logout"),
        ("stream-notify-logged", "updateAvatar"),
        ("stream-notify-logged", "Users:NameChanged"),
        ("stream-notify-logged", "private-settings-changed"),
        ("stream-notify-all", "updateEmojiCustom"),
        ("stream-notify-all", "deleteEmojiCustom"),
        ("stream-notify-user", "/message"),
        ("stream-notify-user", "/webrtc"),
        ("stream-notify-user", "/otr"),
        ("stream-notify-user", "/video-conference"),
        ("stream-notify-user", "/userData"),
        ("stream-notify-logged", "Users:Deleted"),
        ("stream-notify-logged", "banner-changed"),
        ("stream-roles", "roles"),
    ];
    let mobile: &[(&str, &str)] = &[
        ("stream-notify-logged", "updateAvatar"),
        ("stream-notify-logged", "Users:NameChanged"),
        ("stream-user-presence", ""),
        ("stream-notify-user", "/message"),
        ("stream-notify-user", "/notification"),
        ("stream-notify-user", "/rooms-changed"),
        ("stream-notify-user", "/subscriptions-changed"),
        ("stream-notify-user", "/uiInteraction"),
        ("stream-notify-user", "/video-conference"),
        ("stream-notify-logged", "permissions-changed"),
        ("stream-notify-logged", "roles-change"),
        ("stream-notify-all", "public-settings-changed"),
    ];
    let list = match family {
        Family::Web => web,
        Family::ReactNative | Family::Sdk => mobile,
    };
    let Some(&(name, event)) = list.get(n) else {
        return room(n - list.len());
    };
    let params = match (name, event) {
        ("stream-user-presence", _) => json!(["", { "added": [user], "removed": [] }]),
        (_, "") => json!([]),
        (_, event) if event.starts_with('/') => {
            json!([format!("{user}{event}"), { "useCollection": false, "args": [] }])
        }
        (_, event) => json!([event, { "useCollection": false, "args": [] }]),
    };
    (name, params)
}

/// Four subscriptions per room.
fn room(n: usize) -> (&'static str, Value) {
    let known = ROOMS.get(n / 4).map(|room| (*room).to_owned());
    let room = known.unwrap_or_else(|| format!("room-{}", n / 4));
    let (name, event) = match n % 4 {
        0 => ("stream-room-messages", room),
        1 => ("stream-notify-room", format!("{room}/user-activity")),
        2 => ("stream-notify-room", format!("{room}/deleteMessage")),
        _ => ("stream-notify-room", format!("{room}/deleteMessageBulk")),
    };
    (name, json!([event, { "useCollection": false, "args": [] }]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Family, subscription};

    #[test]
    fn no_subscription_comes_twice() {
        for family in [Family::Web, Family::ReactNative, Family::Sdk] {
            let all: HashSet<String> = (0..60)
                .map(|n| format!("{:?}", subscription(family, n, "u1")))
                .collect();
            assert_eq!(all.len(), 60);
        }
        let (name, params) = subscription(Family::Web, 2, "u1");
        assert_eq!(name, "stream-notify-user");
        assert_eq!(params[0], "u1/notification");
    }
}
