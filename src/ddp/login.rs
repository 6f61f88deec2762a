//! The method `login`: its token, and what its result says.

use serde_json::value::RawValue;

use super::{
    message::{SyntaxError, expect},
    object::{fields, first_element, text, typed},
};
use crate::base::secret::Secret;

/// The method's name.
pub const LOGIN: &str = "login";
/// The method that ends it; the streamer closes the socket behind its answer.
pub const LOGOUT: &str = "logout";

/// The token with which the client says who it is: `params` of `login` as `[{"resume":"..."}]`.
///
/// `None` for every other way to log in, and for anything that cannot be read.
pub fn resume_token(params: &str) -> Option<Secret<String>> {
    let first = first_element(params)?;
    let [resume] = fields(first.get(), ["resume"]).ok()?;
    secret(resume)
}

/// The `result` of `login`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginReply {
    /// The session is this user's from here on.
    Done {
        user: String,
        /// With which the user may come back.
        token: Option<Secret<String>>,
    },
    /// The backend works and says no, as with 403 for a token that is no longer valid.
    Refused,
    /// The backend is in trouble: an error from 500 on, "too-many-requests", or one that cannot be read.
    Failed,
}

impl LoginReply {
    /// Reads the text of one message, framing taken off.
    ///
    /// # Errors
    /// `Empty`, `Json` and `NotObject` for unreadable text, `Unexpected` for any other message than `result`, `Missing`
    /// for a result without error that names no user.
    pub fn parse(json: &str) -> Result<Self, SyntaxError> {
        let [msg, result, error] = fields(json, ["msg", "result", "error"])?;
        expect(msg, "result")?;
        if let Some(error) = error {
            return Ok(Self::of_error(error));
        }
        let missing = |key| SyntaxError::Missing { key };
        let result = result.ok_or_else(|| missing("result"))?;
        let [id, token] = fields(result.get(), ["id", "token"])?;
        let user = id
            .and_then(text)
            .filter(|user| !user.is_empty())
            .ok_or_else(|| missing("id"))?;
        Ok(Self::Done {
            user: user.into_owned(),
            token: secret(token),
        })
    }

    pub(super) fn of_error(error: &RawValue) -> Self {
        let Ok([code]) = fields(error.get(), ["error"]) else {
            return Self::Failed;
        };
        let number = typed::<f64>(code);
        let word = code.and_then(text);
        match (number, word.as_deref()) {
            (Some(number), _) if (400.0..500.0).contains(&number) => Self::Refused,
            (None, Some("too-many-requests")) | (Some(_), _) | (None, None) => Self::Failed,
            (None, Some(word)) => match word.parse::<u16>() {
                Ok(number) if number >= 500 => Self::Failed,
                // "totp-required", "not-allowed" and the like are about this user.
                _ => Self::Refused,
            },
        }
    }
}

fn secret(value: Option<&RawValue>) -> Option<Secret<String>> {
    value
        .and_then(text)
        .filter(|token| !token.is_empty())
        .map(|token| Secret::new(token.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::{LoginReply, SyntaxError, resume_token};
    use crate::base::secret::Secret;

    #[test]
    fn the_token_of_a_resume() {
        for (params, token) in [
            (r#"[{"resume":"abc"}]"#, Some("abc")),
            (r#" [ { "x":[1], "resume":"a\u0062c" } , 2 ] "#, Some("abc")),
            (r#"[{"resume":"a","resume":"b"}]"#, Some("b")),
            (r#"[{"resume":""}]"#, None),
            (r#"[{"resume":5}]"#, None),
            (r#"[{"user":{"username":"x"},"password":{}}]"#, None),
            (r#"[null,{"resume":"abc"}]"#, None),
            (r#"{"resume":"abc"}"#, None),
            ("[", None),
            ("", None),
        ] {
            let found = resume_token(params);
            let token = token.map(|token| Secret::new(token.to_owned()));
            assert_eq!(found, token, "{params}");
        }
        assert_eq!(
            format!("{:?}", resume_token(r#"[{"resume":"abc"}]"#)),
            "Some(***)"
        );
    }

    #[test]
    fn results_of_a_login() {
        let done = |user: &str, token: Option<&str>| LoginReply::Done {
            user: user.to_owned(),
            token: token.map(|token| Secret::new(token.to_owned())),
        };
        for (json, reply) in [
            (
                r#"{"msg":"result","id":"1","result":{"id":"u1","token":"t","tokenExpires":{"$date":1767225600000},"type":"resume"}}"#,
                done("u1", Some("t")),
            ),
            (
                r#"{"msg":"result","id":"1","result":{"id":"u1"}}"#,
                done("u1", None),
            ),
            (
                r#"{"msg":"result","id":"1","error":{"isClientSafe":true,"error":403,"reason":"You've been logged out by the server. Please log in again.","errorType":"Meteor.Error"}}"#,
                LoginReply::Refused,
            ),
            (
                r#"{"msg":"result","id":"1","error":{"error":"403"}}"#,
                LoginReply::Refused,
            ),
            (
                r#"{"msg":"result","id":"1","error":{"error":"totp-required"}}"#,
                LoginReply::Refused,
            ),
            (
                r#"{"msg":"result","id":"1","error":{"error":500,"reason":"Internal server error"}}"#,
                LoginReply::Failed,
            ),
            (
                r#"{"msg":"result","id":"1","error":{"error":"500"}}"#,
                LoginReply::Failed,
            ),
            (
                r#"{"msg":"result","id":"1","error":{"error":"too-many-requests"}}"#,
                LoginReply::Failed,
            ),
            (
                r#"{"msg":"result","id":"1","error":{}}"#,
                LoginReply::Failed,
            ),
            (
                r#"{"msg":"result","id":"1","error":"no"}"#,
                LoginReply::Failed,
            ),
        ] {
            assert_eq!(LoginReply::parse(json), Ok(reply), "{json}");
        }
        for (json, fault) in [
            (
                r#"{"msg":"result","id":"1"}"#,
                SyntaxError::Missing { key: "result" },
            ),
            (
                r#"{"msg":"result","id":"1","result":{"id":""}}"#,
                SyntaxError::Missing { key: "id" },
            ),
            (
                r#"{"msg":"result","id":"1","result":"u1"}"#,
                SyntaxError::NotObject,
            ),
            (
                r#"{"msg":"updated","methods":["1"]}"#,
                SyntaxError::Unexpected { wanted: "result" },
            ),
            ("{", SyntaxError::Json),
        ] {
            assert_eq!(LoginReply::parse(json), Err(fault), "{json}");
        }
    }

    #[test]
    fn the_token_is_masked() {
        let json = r#"{"msg":"result","id":"1","result":{"id":"u1","token":"hunter2"}}"#;
        let printed = format!("{:?}", LoginReply::parse(json));
        assert!(
            printed.contains("u1") && !printed.contains("hunter2"),
            "{printed}"
        );
    }
}
