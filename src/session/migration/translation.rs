//! The name of the session that a client knows, in place of the one that its streamer uses.

use crate::{ddp::published::Event, session::journal::Journal};

/// An event that names the session, as the client has to see it; `None` for all others.
///
/// Only `<uid>/force_logout` does (`RocketChat/Rocket.Chat:apps/meteor/client`, `useForceLogout`).
/// `upstream` is what the event's streamer calls the session, `None` if that is what the client
/// knows.
pub(super) fn translated(
    event: &Event<'_>,
    json: &str,
    upstream: Option<&str>,
    journal: &Journal,
) -> Option<String> {
    let upstream = upstream?;
    let concerns = event.collection == STREAM
        && event.name.ends_with(EVENT)
        && event.args.is_some_and(|args| args.get().contains(upstream));
    let client = journal.session().filter(|_| concerns)?;
    // Everything else stays as it was written: two legs are compared by that.
    let args = event.args?.get();
    let at = json.rfind(args)?;
    let quoted = |id: &str| serde_json::Value::from(id).to_string();
    let translated = args.replace(&quoted(upstream), &quoted(&client));
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
    }
}
