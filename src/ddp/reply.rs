//! Answers to methods and subscriptions: whom they are for, and those that the gateway gives itself.

use std::time::Duration;

use serde::Serialize;

use crate::base::secret::Secret;

use super::{
    login::LoginReply,
    message::{SyntaxError, expect, to_json},
    object::{fields, text, typed},
};

/// The ids that a `ready` (its `subs`) or `updated` (its `methods`) names.
///
/// # Errors
/// `Empty`, `Json` and `NotObject` for unreadable text, `Unexpected` for any other message, `Missing` unless the ids are
/// an array of strings.
pub fn ids(json: &str) -> Result<Vec<String>, SyntaxError> {
    let [msg, subs, methods] = fields(json, ["msg", "subs", "methods"])?;
    let (key, ids) = match msg.and_then(text).as_deref() {
        Some("ready") => ("subs", subs),
        Some("updated") => ("methods", methods),
        _ => {
            return Err(SyntaxError::Unexpected {
                wanted: "ready or updated",
            });
        }
    };
    typed(ids).ok_or(SyntaxError::Missing { key })
}

/// The id of a `result` or `nosub`.
///
/// # Errors
/// `Empty`, `Json` and `NotObject` for unreadable text, `Missing` unless it is a string.
pub fn id(json: &str) -> Result<String, SyntaxError> {
    let [id] = fields(json, ["id"])?;
    typed(id).ok_or(SyntaxError::Missing { key: "id" })
}

/// Says that a subscription is over because the client may not have it (any more), in the words of
/// `RocketChat/Rocket.Chat:ee/apps/ddp-streamer/src/Server.ts`.
pub fn refused_nosub(id: &str) -> String {
    #[derive(Serialize)]
    #[serde(tag = "msg", rename = "nosub")]
    struct Nosub<'a> {
        id: &'a str,
        error: NotAllowed,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct NotAllowed {
        is_client_safe: bool,
        error: &'static str,
        message: &'static str,
        error_type: &'static str,
    }
    to_json(&Nosub {
        id,
        error: NotAllowed {
            is_client_safe: true,
            error: "not-allowed",
            message: "[not-allowed]",
            error_type: "Meteor.Error",
        },
    })
}

/// Why a subscription has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nosub {
    /// The client wanted it, or it was of the kind that only changes another one.
    Ended,
    /// There is no such thing, or not for this user: asking again does not help.
    Refused,
    /// The server has a trouble of its own.
    Failed,
}

/// What a `nosub` says about its reason.
///
/// # Errors
/// When it is not one.
pub fn nosub_reason(json: &str) -> Result<Nosub, SyntaxError> {
    let [msg, error] = fields(json, ["msg", "error"])?;
    expect(msg, "nosub")?;
    Ok(match error.map(LoginReply::of_error) {
        None => Nosub::Ended,
        Some(LoginReply::Refused) => Nosub::Refused,
        Some(_) => Nosub::Failed,
    })
}

/// `ready` for one subscription.
pub fn ready(id: &str) -> String {
    #[derive(Serialize)]
    #[serde(tag = "msg", rename = "ready")]
    struct Ready<'a> {
        subs: [&'a str; 1],
    }
    to_json(&Ready { subs: [id] })
}

/// `nosub` without an error: the subscription is over, or there was none.
pub fn nosub(id: &str) -> String {
    #[derive(Serialize)]
    #[serde(tag = "msg", rename = "nosub")]
    struct Nosub<'a> {
        id: &'a str,
    }
    to_json(&Nosub { id })
}

/// `updated` for one method.
pub fn updated(id: &str) -> String {
    #[derive(Serialize)]
    #[serde(tag = "msg", rename = "updated")]
    struct Updated<'a> {
        methods: [&'a str; 1],
    }
    to_json(&Updated { methods: [id] })
}

/// The `result` of a login with a token that is known to be good; [`updated`] has to follow.
pub fn logged_in(id: &str, user: &str, token: &Secret<String>) -> String {
    #[derive(Serialize)]
    #[serde(tag = "msg", rename = "result")]
    struct Done<'a> {
        id: &'a str,
        result: User<'a>,
    }
    #[derive(Serialize)]
    struct User<'a> {
        id: &'a str,
        token: &'a str,
        r#type: &'static str,
    }
    to_json(&Done {
        id,
        result: User {
            id: user,
            token: token.expose(),
            r#type: "resume",
        },
    })
}

/// The answer to a method that was limited, as Rocket.Chat's own limiter gives it; [`updated`] has to follow.
///
/// `wait` is the time after which the same method will pass.
///
/// `RocketChat/Rocket.Chat:apps/meteor/app/lib/server/startup/rateLimiter.js`
pub fn limited_result(id: &str, wait: Duration) -> String {
    #[derive(Serialize)]
    #[serde(tag = "msg", rename = "result")]
    struct Failed<'a> {
        id: &'a str,
        error: TooManyRequests,
    }
    to_json(&Failed {
        id,
        error: TooManyRequests::new(wait),
    })
}

/// The answer to a subscription that was limited; see [`limited_result`].
pub fn limited_nosub(id: &str, wait: Duration) -> String {
    #[derive(Serialize)]
    #[serde(tag = "msg", rename = "nosub")]
    struct Nosub<'a> {
        id: &'a str,
        error: TooManyRequests,
    }
    to_json(&Nosub {
        id,
        error: TooManyRequests::new(wait),
    })
}

/// The error of one call that came too early. The order of its fields is the wire's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TooManyRequests {
    is_client_safe: bool,
    error: &'static str,
    reason: String,
    details: Details,
    message: String,
    error_type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    /// Milliseconds.
    time_to_reset: u64,
}

impl TooManyRequests {
    fn new(wait: Duration) -> Self {
        // Rounded up: who comes back after exactly this time has to pass.
        let time_to_reset = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let seconds = time_to_reset.div_ceil(1000);
        let error = "too-many-requests";
        let reason = format!(
            "Error, too many requests. Please slow down. You must wait {seconds} seconds before trying again."
        );
        Self {
            is_client_safe: true,
            error,
            message: format!("{reason} [{error}]"),
            reason,
            details: Details { time_to_reset },
            error_type: "Meteor.Error",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{SyntaxError, ids, limited_nosub, limited_result, ready, updated};

    const ERROR: &str = r#"{"isClientSafe":true,"error":"too-many-requests","reason":"Error, too many requests. Please slow down. You must wait 9 seconds before trying again.","details":{"timeToReset":8423},"message":"Error, too many requests. Please slow down. You must wait 9 seconds before trying again. [too-many-requests]","errorType":"Meteor.Error"}"#;

    #[test]
    fn a_limited_call_is_answered_as_rocket_chat_does() {
        let wait = Duration::from_millis(8423);
        assert_eq!(
            limited_result("12", wait),
            format!(r#"{{"msg":"result","id":"12","error":{ERROR}}}"#)
        );
        assert_eq!(updated("12"), r#"{"msg":"updated","methods":["12"]}"#);
        assert_eq!(
            limited_nosub("k\"X", wait),
            format!(r#"{{"msg":"nosub","id":"k\"X","error":{ERROR}}}"#)
        );
        assert_eq!(ready("kX"), r#"{"msg":"ready","subs":["kX"]}"#);
    }

    #[test]
    fn waits_are_rounded_up() {
        for (wait, text) in [
            (Duration::from_nanos(1), r#"wait 1 seconds before"#),
            (Duration::from_nanos(1), r#"{"timeToReset":1}"#),
            (Duration::from_millis(1000), r#"wait 1 seconds before"#),
            (Duration::from_micros(1_000_001), r#"{"timeToReset":1001}"#),
            (Duration::from_micros(1_000_001), r#"wait 2 seconds before"#),
            (Duration::MAX, r#"{"timeToReset":18446744073709551615}"#),
        ] {
            let answer = limited_result("1", wait);
            assert!(answer.contains(text), "{answer}");
        }
    }

    #[test]
    fn ids_of_ready_and_updated() {
        let names = |ids: &[&str]| Ok(ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
        for (json, found) in [
            (
                r#"{"msg":"ready","subs":["a","b\n"]}"#,
                names(&["a", "b\n"]),
            ),
            (r#"{"msg":"ready","methods":["x"],"subs":[]}"#, names(&[])),
            (r#"{"msg":"updated","methods":["7"]}"#, names(&["7"])),
            (
                r#"{"msg":"ready"}"#,
                Err(SyntaxError::Missing { key: "subs" }),
            ),
            (
                r#"{"msg":"updated","methods":[7]}"#,
                Err(SyntaxError::Missing { key: "methods" }),
            ),
            (
                r#"{"msg":"added","subs":["a"]}"#,
                Err(SyntaxError::Unexpected {
                    wanted: "ready or updated",
                }),
            ),
            ("[", Err(SyntaxError::NotObject)),
        ] {
            assert_eq!(ids(json), found, "{json}");
        }
        assert_eq!(ids(&ready("é\"")), names(&["é\""]));
        assert_eq!(ids(&updated("é\"")), names(&["é\""]));
    }
}
