//! The name of the session that a client knows, in place of those that its streamers use.
//!
//! All streamers bring the same event, whichever of them it names. During a move the session has two
//! of their names, and either one means the client: whose session is ended on one streamer has lost
//! its token.

use crate::{ddp::published::Event, session::journal::Journal};

/// An event that names the session, as the client has to see it; `None` for all others.
///
/// Only `<uid>/force_logout` does (`RocketChat/Rocket.Chat:apps/meteor/client`, `useForceLogout`).
/// `other` is what the second streamer of a move calls the session.
pub(super) fn translated(
    event: &Event<'_>,
    json: &str,
    other: Option<&str>,
    journal: &Journal,
) -> Option<String> {
    if event.collection != STREAM || !event.name.ends_with(EVENT) {
        return None;
    }
    let args = event.args?.get();
    let client = journal.session()?;
    let quoted = |id: &str| serde_json::Value::from(id).to_string();
    let own = journal.upstream();
    let mut translated = args.to_owned();
    for name in own.as_deref().into_iter().chain(other) {
        translated = translated.replace(&quoted(name), &quoted(&client));
    }
    if translated == args {
        return None;
    }
    // Everything else stays as it was written: two legs are compared by that.
    let at = json.rfind(args)?;
    let (before, behind) = (json.get(..at)?, json.get(at + args.len()..)?);
    Some(format!("{before}{translated}{behind}"))
}

pub(in crate::session) const STREAM: &str = "stream-notify-user";
const EVENT: &str = "/force_logout";

/// Stands in every event that may have to be translated.
pub(in crate::session) const MARK: &[u8] = b"force_logout";

#[cfg(test)]
mod tests {
    use super::translated;
    use crate::{
        ddp::Published,
        session::journal::{Bounds, Journal},
    };

    #[test]
    fn only_the_name_of_the_session_changes() {
        let mut journal = Journal::new(Bounds::default());
        journal.set_session("client-1");
        let event = |name: &str, args: &str| {
            format!(
                r#"{{"msg":"changed","collection":"stream-notify-user","id":"id","fields":{{"eventName":"{name}","args":{args}}}}}"#
            )
        };
        let translate = |json: &str| match Published::parse(json) {
            Ok(Published::Event(event)) => translated(&event, json, Some("up-1"), &journal),
            other => panic!("{other:?}"),
        };
        let json = event("u1/force_logout", r#"["up-1","up-2"]"#);
        let said = translate(&json).unwrap();
        let args = &serde_json::from_str::<serde_json::Value>(&said).unwrap()["fields"]["args"];
        assert_eq!(args.to_string(), r#"["client-1","up-2"]"#);
        assert_eq!(translate(&event("u1/force_logout", r#"["up-2"]"#)), None);
        assert_eq!(translate(&event("u1/message", r#"["up-1"]"#)), None);
        // The name on the leg in charge, too, and both alike.
        journal.set_upstream("up-0");
        let translate = |json: &str| match Published::parse(json) {
            Ok(Published::Event(event)) => translated(&event, json, Some("up-1"), &journal),
            other => panic!("{other:?}"),
        };
        let of_old = translate(&event("u1/force_logout", r#"["up-0"]"#));
        let of_new = translate(&event("u1/force_logout", r#"["up-1"]"#));
        assert_eq!(of_old, of_new);
        assert!(of_old.unwrap().contains(r#"["client-1"]"#));
    }
}
