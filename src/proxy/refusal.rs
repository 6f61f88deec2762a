//! Everything that becomes an HTTP answer of the gateway's own, in one table.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{
    body::{Body, BodyError},
    client::X_REQUEST_ID,
    target::TargetError,
    upgrade::UpgradeError,
};
use crate::{net::monolith::Fault, ws::HandshakeError};

/// Why the gateway answers itself, and with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The target or the Host header is unusable or ambiguous.
    BadTarget(TargetError),
    /// The message could be cut into pieces in two ways (RFC 9112 section 6).
    BadFraming,
    /// A transfer coding other than `chunked`.
    UnknownCoding,
    /// An `Expect` that nobody can fulfil.
    UnknownExpectation,
    /// TRACE, which would show the headers that proxies add.
    MethodRefused,
    /// A WebSocket handshake that is not a GET.
    NotGet,
    /// The request changes the protocol in a way that is not supported.
    BadUpgrade,
    /// A WebSocket handshake of another version than 13.
    UpgradeRequired,
    /// The WebSocket's Origin is not on the list.
    OriginRefused,
    /// No streamer has room, and the queue is full.
    NoRoom,
    /// The gateway serves as many requests as its file descriptors allow.
    Crowded,
    /// The body is over the limit.
    TooLarge,
    /// The body came too slowly or not at all.
    SlowBody,
    /// The body broke off; nobody is left to read the answer.
    ClientGone,
    /// The gateway is about to end.
    ShuttingDown,
    /// No server of the monolith can be reached.
    Unreachable,
    /// A server closed the connection without an answer, or broke the protocol.
    BadGateway,
    /// The response's head is larger than allowed.
    HeadTooLarge,
    /// A server was silent for too long.
    Silent,
    /// The whole exchange took too long.
    Deadline,
}

impl Refusal {
    pub(super) const LABELS: [&'static str; 19] = [
        "bad_target",
        "bad_framing",
        "unknown_coding",
        "unknown_expectation",
        "method",
        "bad_upgrade",
        "upgrade_required",
        "origin",
        "no_room",
        "too_large",
        "slow_body",
        "client_gone",
        "shutting_down",
        "unreachable",
        "bad_gateway",
        "head_too_large",
        "silent",
        "deadline",
        "crowded",
    ];

    pub(super) fn index(self) -> usize {
        match self {
            Self::BadTarget(_) => 0,
            Self::BadFraming => 1,
            Self::UnknownCoding => 2,
            Self::UnknownExpectation => 3,
            Self::MethodRefused | Self::NotGet => 4,
            Self::BadUpgrade => 5,
            Self::UpgradeRequired => 6,
            Self::OriginRefused => 7,
            Self::NoRoom => 8,
            Self::TooLarge => 9,
            Self::SlowBody => 10,
            Self::ClientGone => 11,
            Self::ShuttingDown => 12,
            Self::Unreachable => 13,
            Self::BadGateway => 14,
            Self::HeadTooLarge => 15,
            Self::Silent => 16,
            Self::Deadline => 17,
            Self::Crowded => 18,
        }
    }

    /// The reason as a label of metrics and in the access log.
    pub fn label(self) -> &'static str {
        Self::LABELS[self.index()]
    }

    pub fn status(self) -> StatusCode {
        match self {
            Self::BadTarget(_) | Self::BadFraming | Self::BadUpgrade | Self::ClientGone => {
                StatusCode::BAD_REQUEST
            }
            Self::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
            Self::OriginRefused => StatusCode::FORBIDDEN,
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Self::UnknownExpectation => StatusCode::EXPECTATION_FAILED,
            Self::MethodRefused | Self::NotGet => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::ShuttingDown | Self::Unreachable | Self::NoRoom | Self::Crowded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::BadGateway | Self::HeadTooLarge => StatusCode::BAD_GATEWAY,
            Self::Silent | Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Whether the connection must end with the answer, because where the next request would begin
    /// is uncertain or the client still sends.
    pub(super) fn closes(self) -> bool {
        matches!(
            self,
            Self::BadTarget(_)
                | Self::BadFraming
                | Self::UnknownCoding
                | Self::BadUpgrade
                | Self::TooLarge
                | Self::SlowBody
                | Self::ClientGone
                | Self::ShuttingDown
        )
    }

    /// Seconds after which another try makes sense.
    fn retry_after(self) -> Option<u32> {
        match self {
            Self::ShuttingDown => Some(1),
            Self::Unreachable | Self::Crowded => Some(5),
            Self::NoRoom => Some(10),
            _ => None,
        }
    }

    /// For the client: what is wrong, in words that name nothing inside.
    fn sentence(self) -> &'static str {
        match self {
            Self::BadTarget(_) => "The address of this request cannot be read in one way only.",
            Self::BadFraming => "Where this request ends is unclear.",
            Self::UnknownCoding => "The request's transfer coding is not supported.",
            Self::UnknownExpectation => "The request expects something that is not supported.",
            Self::MethodRefused | Self::NotGet => "This method is not allowed here.",
            Self::BadUpgrade => "The request to change the protocol is not valid.",
            Self::UpgradeRequired => "Only version 13 of the WebSocket protocol is supported.",
            Self::OriginRefused => "Pages of this origin may not connect here.",
            Self::NoRoom | Self::Crowded => "The server is full. Please try again in a moment.",
            Self::TooLarge => "The request is larger than this server accepts.",
            Self::SlowBody => "The request did not arrive in time.",
            Self::ClientGone => "The request broke off.",
            Self::ShuttingDown => "The server is restarting. Please try again in a moment.",
            Self::Unreachable => {
                "The server is not available right now. Please try again in a moment."
            }
            Self::BadGateway | Self::HeadTooLarge => "The server gave no valid answer.",
            Self::Silent | Self::Deadline => "The server did not answer in time.",
        }
    }

    /// The answer: a page for browsers, JSON in Rocket.Chat's form for everyone else. Neither says
    /// more than the status and the request's id, by which the log line is found.
    pub fn answer(self, headers: &HeaderMap, request_id: &str) -> Response<Body> {
        let status = self.status();
        let (kind, body) = if prefers_html(headers) {
            (HTML, page(status, self.sentence(), request_id))
        } else {
            (JSON, json(status, self.sentence(), request_id))
        };
        let mut response = Response::new(Body::Full(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert(X_REQUEST_ID, id);
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self == Self::UpgradeRequired {
            headers.insert(
                header::SEC_WEBSOCKET_VERSION,
                HeaderValue::from_static("13"),
            );
        }
        if self == Self::NotGet {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        if self == Self::MethodRefused {
            headers.insert(
                header::ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            );
        }
        response
    }
}

impl From<TargetError> for Refusal {
    fn from(error: TargetError) -> Self {
        Self::BadTarget(error)
    }
}

impl From<UpgradeError> for Refusal {
    fn from(error: UpgradeError) -> Self {
        match error {
            UpgradeError::Handshake(HandshakeError::BadVersion) => Self::UpgradeRequired,
            UpgradeError::Handshake(HandshakeError::NotGet) => Self::NotGet,
            UpgradeError::Handshake(_) => Self::BadUpgrade,
            UpgradeError::Origin => Self::OriginRefused,
            UpgradeError::Draining => Self::ShuttingDown,
            UpgradeError::Full => Self::NoRoom,
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unresolved | Fault::Unreachable | Fault::Busy => Self::Unreachable,
            Fault::ConnectTimeout => Self::Silent,
            Fault::Closed | Fault::Protocol => Self::BadGateway,
            Fault::HeadTooLarge => Self::HeadTooLarge,
            Fault::Body => Self::ClientGone,
        }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::MonolithCut | BodyError::Unwanted => Self::BadGateway,
            BodyError::MonolithSilent => Self::Silent,
            BodyError::ClientCut => Self::ClientGone,
            BodyError::ClientSlow => Self::SlowBody,
            BodyError::TooLarge => Self::TooLarge,
            BodyError::Deadline => Self::Deadline,
        }
    }
}

/// Browsers name `text/html` when they navigate, and never when a script asks for data.
fn prefers_html(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|item| item.split(';').next())
        .map(str::trim)
        .find(|kind| {
            kind.eq_ignore_ascii_case("text/html") || kind.eq_ignore_ascii_case("application/json")
        })
        .is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"))
}

fn json(status: StatusCode, sentence: &str, request_id: &str) -> String {
    // Nothing in here needs escaping: own sentences, and an id of plain characters.
    format!(
        r#"{{"success":false,"status":{},"error":"{sentence}","requestId":"{request_id}"}}"#,
        status.as_u16()
    )
}

fn page(status: StatusCode, sentence: &str, request_id: &str) -> String {
    let reason = status.canonical_reason().unwrap_or("Error");
    let code = status.as_u16();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{reason}</title>\n<style>{STYLE}</style>\n\
         </head>\n<body>\n<main>\n<p class=\"code\">{code}</p>\n<h1>{reason}</h1>\n<p>{sentence}</p>\n\
         <p class=\"id\">Request {request_id}</p>\n</main>\n</body>\n</html>\n"
    )
}

const STYLE: &str = ":root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}\
    body{margin:0;min-height:100vh;display:grid;place-items:center;\
    background:light-dark(#f7f8fa,#16181d);color:light-dark(#2f343d,#e4e7ea)}\
    main{max-width:32rem;padding:2rem}h1{margin:0 0 .5rem;font-size:1.5rem}p{margin:0 0 1rem}\
    .code{margin:0;font-weight:600;color:light-dark(#b4233a,#ff8a98)}\
    .id{font-size:.8rem;color:light-dark(#6c727a,#9ea2a8)}";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::Refusal;
    use crate::proxy::{body::Body, target::TargetError};

    const ALL: [Refusal; 18] = [
        Refusal::BadTarget(TargetError::Ambiguous),
        Refusal::BadFraming,
        Refusal::UnknownCoding,
        Refusal::UnknownExpectation,
        Refusal::MethodRefused,
        Refusal::BadUpgrade,
        Refusal::UpgradeRequired,
        Refusal::OriginRefused,
        Refusal::NoRoom,
        Refusal::TooLarge,
        Refusal::SlowBody,
        Refusal::ClientGone,
        Refusal::ShuttingDown,
        Refusal::Unreachable,
        Refusal::BadGateway,
        Refusal::HeadTooLarge,
        Refusal::Silent,
        Refusal::Deadline,
    ];

    #[test]
    fn each_has_its_own_label() {
        for (n, refusal) in ALL.iter().enumerate() {
            assert_eq!(refusal.index(), n);
        }
        let labels: std::collections::BTreeSet<_> =
            ALL.iter().map(|refusal| refusal.label()).collect();
        assert_eq!(labels.len(), ALL.len());
    }

    #[test]
    fn every_503_says_when_to_come_back() {
        for refusal in ALL {
            let answer = refusal.answer(&HeaderMap::new(), "id");
            assert_eq!(
                answer.status().as_u16() == 503,
                answer.headers().contains_key(header::RETRY_AFTER),
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn json_unless_a_browser_navigates() {
        for (accept, html) in [
            (None, false),
            (Some("*/*"), false),
            (Some("application/json, text/html"), false),
            (
                Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
                true,
            ),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            let answer = Refusal::Unreachable.answer(&headers, "abc123");
            let Body::Full(bytes) = answer.body() else {
                panic!("a page has a body");
            };
            let text = std::str::from_utf8(bytes).unwrap();
            assert!(text.contains("abc123"));
            assert_eq!(text.starts_with("<!DOCTYPE html>"), html, "{accept:?}");
            if !html {
                let value: serde_json::Value = serde_json::from_str(text).unwrap();
                assert_eq!(value["success"], false);
                assert_eq!(value["status"], 503);
            }
        }
    }
}
