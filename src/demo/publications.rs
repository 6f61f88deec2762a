//! The DDP subscriptions that the simulated deployment knows, and who may have them.

use serde_json::{Value, json};

use super::{hub::Topic, methods::Fault, workspace::User};

/// What a subscription turns out to be.
#[derive(Debug, PartialEq)]
pub(super) enum Publication {
    /// Events of one stream; `announce` asks for the extra `added` of `useCollection`.
    Stream { topic: Topic, announce: bool },
    /// The socket's one set of users to watch, to be changed by this.
    Presence {
        added: Vec<String>,
        removed: Vec<String>,
    },
    /// Documents: collection, id, fields.
    Documents(Vec<(&'static str, &'static str, Value)>),
}

/// Most users that one `stream-user-presence` call may name.
const MAX_WATCHED: usize = 10_000;

pub(super) fn publication(
    name: &str,
    params: Option<&[Value]>,
    user: Option<&User>,
) -> Result<Publication, Fault> {
    let Some(params) = params else {
        // The real one fails while it takes the missing parameters apart.
        return Err(Fault::new(500, "Internal server error"));
    };
    match name {
        "meteor.loginServiceConfiguration" => return Ok(Publication::Documents(Vec::new())),
        "meteor_autoupdate_clientVersions" => {
            let fields = json!({ "assets": [] });
            let document = ("meteor_autoupdate_clientVersions", "web.browser", fields);
            return Ok(Publication::Documents(vec![document]));
        }
        "stream-user-presence" => {
            user.ok_or_else(not_allowed)?;
            let names = |key| {
                let list = params.get(1).and_then(|options| options.get(key));
                list.and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .take(MAX_WATCHED)
                    .map(str::to_owned)
                    .collect()
            };
            return Ok(Publication::Presence {
                added: names("added"),
                removed: names("removed"),
            });
        }
        _ => {}
    }
    let rule = rule(name).ok_or_else(|| Fault::new(404, "There is no such subscription"))?;
    let event = params.first().and_then(Value::as_str).unwrap_or_default();
    if event.is_empty() {
        return Err(Fault::new(
            "invalid-event-name",
            "The event's name is missing",
        ));
    }
    if !rule.allows(event, user) {
        return Err(not_allowed());
    }
    let announce = match params.get(1) {
        Some(Value::Bool(announce)) => *announce,
        Some(options) => options.get("useCollection") == Some(&Value::Bool(true)),
        None => false,
    };
    Ok(Publication::Stream {
        topic: Topic {
            stream: name.to_owned(),
            event: event.to_owned(),
        },
        announce,
    })
}

fn not_allowed() -> Fault {
    Fault::new("not-allowed", "Not allowed to subscribe to this")
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    All,
    LoggedIn,
    /// The event's name begins with the user's own id.
    OwnId,
    /// Rooms are open to everyone here, as with anonymous read; `__my_messages__` needs a login.
    Room,
}

impl Rule {
    fn allows(self, event: &str, user: Option<&User>) -> bool {
        match self {
            Self::All => true,
            Self::LoggedIn => user.is_some(),
            Self::OwnId => user.is_some_and(|user| {
                let owner = event.split('/').next();
                owner == Some(user.id.as_str())
            }),
            Self::Room => event != "__my_messages__" || user.is_some(),
        }
    }
}

fn rule(name: &str) -> Option<Rule> {
    Some(match name {
        "stream-notify-all" => Rule::All,
        "stream-room-messages"
        | "stream-room-data"
        | "stream-notify-room"
        | "stream-livechat-room" => Rule::Room,
        "stream-notify-user" => Rule::OwnId,
        "stream-notify-logged"
        | "stream-notify-room-users"
        | "stream-roles"
        | "stream-apps"
        | "stream-apps-engine"
        | "stream-importers"
        | "stream-canned-responses"
        | "stream-integrationHistory"
        | "stream-livechat-inquiry-queue-observer" => Rule::LoggedIn,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_follow_the_streams() {
        let ann = User::of_token("demo-ann").unwrap();
        let try_it = |name: &str, params: Value, user: Option<&User>| {
            publication(name, params.as_array().map(Vec::as_slice), user)
                .map(|_| ())
                .map_err(|fault| fault.error)
        };
        let room = "stream-room-messages";
        assert_eq!(try_it(room, json!(["GENERAL", false]), None), Ok(()));
        let refused = Err(json!("not-allowed"));
        assert_eq!(try_it(room, json!(["__my_messages__"]), None), refused);
        assert_eq!(
            try_it(room, json!([""]), None),
            Err(json!("invalid-event-name"))
        );
        assert_eq!(try_it(room, Value::Null, None), Err(json!(500)));
        assert_eq!(try_it("nothing", json!([]), None), Err(json!(404)));
        let own = json!(["uid-ann/notification", false]);
        assert_eq!(try_it("stream-notify-user", own, Some(&ann)), Ok(()));
        let other = json!(["uid-bob/notification", false]);
        assert_eq!(try_it("stream-notify-user", other, Some(&ann)), refused);
    }
}
