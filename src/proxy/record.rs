//! What is remembered of each request: one line in the access log and the metrics.

use std::{fmt, sync::Arc, time::Duration};

use http::{Method, StatusCode, Version};
use metrics::{Counter, Gauge, Histogram};
use tokio::time::Instant;

use super::{
    body::BodyError, client::Client, connection::Visit, refusal::Refusal, route::RouteKind,
    upload::Progress,
};
use crate::{
    net::gate::Stream,
    telemetry::{meters::Counted, names},
};

/// Handles of the HTTP metrics, made once per process.
#[derive(Debug)]
pub(super) struct Meters {
    /// By route, then by class of status.
    requests: [[Counter; CLASSES.len()]; RouteKind::ALL.len()],
    seconds: [Histogram; RouteKind::ALL.len()],
    in_flight: Gauge,
    request_bytes: Counter,
    response_bytes: Counter,
    refusals: [Counter; Refusal::LABELS.len()],
    /// Requests that hyper refused before they became one.
    pub(super) malformed: Counter,
    /// Connections ended because a head did not end, or an answer was not taken.
    pub(super) slow_heads: Counter,
    /// Connections without even a first request.
    pub(super) no_request: Counter,
    /// Connections that broke the rules or the limits of HTTP/2.
    pub(super) http2: Counter,
    pub(super) slow_readers: Counter,
    pub(super) retries: Counter,
    pub(super) tunnels: Gauge,
    pub(super) tunnels_opened: Counter,
}

/// One request, from its head to the last byte of its response. Dropping it writes it down.
pub(super) struct Record {
    meters: Arc<Meters>,
    _in_flight: Counted,
    /// Its place among the requests on HTTP/2 connections.
    _stream: Option<Stream>,
    visit: Visit,
    started: Instant,
    method: Method,
    version: Version,
    /// Without the query: that is where clients put tokens.
    path: String,
    host: Option<String>,
    peer: std::net::SocketAddr,
    client: Option<Client>,
    route: RouteKind,
    status: Option<StatusCode>,
    refusal: Option<&'static str>,
    server: Option<String>,
    upload: Option<Arc<Progress>>,
    bytes_out: u64,
    end: End,
    log: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing more is to be sent.
    Complete,
    Cut(BodyError),
    /// Dropped before its end: the client went away.
    Open,
}

impl Meters {
    pub(super) fn new() -> Self {
        Self {
            requests: RouteKind::ALL
                .map(|route| CLASSES.map(|class| names::REQUESTS.counter(&[route.label(), class]))),
            seconds: RouteKind::ALL.map(|route| names::REQUEST_SECONDS.histogram(&[route.label()])),
            in_flight: names::REQUESTS_IN_FLIGHT.gauge(&[]),
            request_bytes: names::REQUEST_BYTES.counter(&[]),
            response_bytes: names::RESPONSE_BYTES.counter(&[]),
            refusals: Refusal::LABELS.map(|label| names::REFUSALS.counter(&[label])),
            malformed: names::REFUSALS.counter(&["malformed"]),
            slow_heads: names::REFUSALS.counter(&["slow_head"]),
            no_request: names::REFUSALS.counter(&["no_request"]),
            http2: names::REFUSALS.counter(&["http2"]),
            slow_readers: names::REFUSALS.counter(&["slow_reader"]),
            retries: names::MONOLITH_RETRIES.counter(&[]),
            tunnels: names::TUNNELS.gauge(&[]),
            tunnels_opened: names::TUNNELS_OPENED.counter(&[]),
        }
    }
}

impl Record {
    pub(super) fn new(
        meters: &Arc<Meters>,
        request: &http::request::Parts,
        peer: std::net::SocketAddr,
        visit: Visit,
        log: bool,
    ) -> Self {
        Self {
            _in_flight: Counted::new(&meters.in_flight),
            _stream: None,
            visit,
            meters: meters.clone(),
            started: Instant::now(),
            method: request.method.clone(),
            version: request.version,
            path: if log {
                loggable_path(request.uri.path())
            } else {
                String::new()
            },
            host: None,
            peer,
            client: None,
            route: RouteKind::None,
            status: None,
            refusal: None,
            server: None,
            upload: None,
            bytes_out: 0,
            end: End::Open,
            log,
        }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Gives the place back when the request is over.
    pub(super) fn hold(&mut self, stream: Stream) {
        self._stream = Some(stream);
    }

    pub(super) fn identified(&mut self, client: Client) {
        self.client = Some(client);
    }

    pub(super) fn routed(&mut self, host: Option<&str>, route: RouteKind) {
        self.route = route;
        if self.log {
            self.host = host.map(str::to_owned);
        }
    }

    pub(super) fn uploads(&mut self, progress: Arc<Progress>) {
        self.upload = Some(progress);
    }

    /// The monolith's server that answers.
    pub(super) fn served_by(&mut self, server: &str) {
        if self.log {
            self.server = Some(server.to_owned());
        }
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        self.meters.refusals[refusal.index()].increment(1);
        self.refusal = Some(refusal.label());
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    pub(super) fn sent(&mut self, bytes: u64) {
        self.bytes_out += bytes;
        self.meters.response_bytes.increment(bytes);
    }

    pub(super) fn complete(&mut self) {
        if self.end == End::Open {
            self.end = End::Complete;
        }
    }

    /// The answer will not be completed.
    pub(super) fn cut(&mut self, error: BodyError) {
        self.end = End::Cut(error);
        self.visit.cut();
    }

    fn write(&self, duration: Duration, bytes_in: u64) {
        let reason = match (self.refusal, self.end) {
            (Some(refusal), _) => refusal,
            (None, End::Complete) => "",
            (None, End::Cut(BodyError::MonolithSilent)) => "monolith_silent",
            (None, End::Cut(BodyError::Deadline)) => "deadline",
            (None, End::Cut(_)) => "monolith_cut",
            (None, End::Open) => "client_gone",
        };
        let client = self.client.as_ref();
        tracing::info!(
            target: "access",
            event = "request",
            client = client.map(|client| tracing::field::display(client.addr)),
            peer = %self.peer,
            request_id = client.map(|client| tracing::field::display(&client.request_id)),
            host = self.host.as_deref(),
            method = %self.method,
            path = self.path,
            version = ?self.version,
            tls = client.is_some_and(|client| client.tls),
            // What nginx calls 499: the client left before there was an answer.
            status = self.status.map_or(499, |status| status.as_u16()),
            route = self.route.label(),
            server = self.server.as_deref(),
            bytes_in,
            bytes_out = self.bytes_out,
            duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            reason,
        );
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let bytes_in = self.upload.as_ref().map_or(0, |upload| upload.bytes());
        let class = self.status.map_or(CLASSES.len() - 1, |status| {
            usize::from(status.as_u16() / 100).clamp(1, 5) - 1
        });
        let route = self.route as usize;
        self.meters.requests[route][class].increment(1);
        self.meters.seconds[route].record(duration.as_secs_f64());
        self.meters.request_bytes.increment(bytes_in);
        if self.log {
            self.write(duration, bytes_in);
        }
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("method", &self.method)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// A path fit for a log: bounded, and without the segments that are secrets in Rocket.Chat's URLs
/// (webhook, invitation, password reset and visitor tokens).
fn loggable_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len().min(MAX_PATH));
    let mut secret_next = 0_u8;
    for (n, segment) in path.split('/').enumerate() {
        if n > 0 {
            out.push('/');
        }
        if secret_next == 1 || looks_secret(segment) {
            out.push_str("***");
        } else {
            out.push_str(segment);
        }
        secret_next = secret_next.saturating_sub(1);
        secret_next = secret_next.max(match segment {
            "reset-password" | "enroll-account" | "verify-email" | "login-token" | "invite"
            | "visitor" => 1,
            // `/hooks/<integration>/<token>`, `/livechat/agent.info/<room>/<token>`
            "hooks" | "agent.info" => 2,
            _ => 0,
        });
        if out.len() > MAX_PATH {
            let mut end = MAX_PATH;
            while !out.is_char_boundary(end) {
                end -= 1;
            }
            out.truncate(end);
            out.push_str("...");
            break;
        }
    }
    out
}

/// Random secrets are long, of letters and digits, without a file's extension. Meteor's ids have 17
/// characters, its tokens 43.
fn looks_secret(segment: &str) -> bool {
    segment.len() >= 24
        && segment
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'%' | b'='))
        && segment.bytes().any(|byte| byte.is_ascii_digit())
        && segment.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// The last one stands for requests whose client left before an answer.
const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];
const MAX_PATH: usize = 512;

#[cfg(test)]
mod tests {
    use super::loggable_path;

    #[test]
    fn secrets_in_paths_are_not_logged() {
        for (path, expected) in [
            ("/", "/"),
            ("/api/v1/rooms.get", "/api/v1/rooms.get"),
            ("/hooks/64f0c1d2e3/abcDEF123", "/hooks/64f0c1d2e3/***"),
            ("/reset-password/abc", "/reset-password/***"),
            (
                "/api/v1/livechat/visitor/xyz",
                "/api/v1/livechat/visitor/***",
            ),
            (
                "/x/3mYgSmTFjSqDoPPkGcNWfdLzTzbEn5hgHKkvGBuJ4Ew/y",
                "/x/***/y",
            ),
            (
                "/file-upload/Hd7sGdk3nfHs8dkFs/picture-of-the-year-2026.png",
                "/file-upload/Hd7sGdk3nfHs8dkFs/picture-of-the-year-2026.png",
            ),
        ] {
            assert_eq!(loggable_path(path), expected);
        }
    }

    #[test]
    fn long_paths_are_cut() {
        let logged = loggable_path(&"/\u{e9}a.".repeat(2000));
        assert!(logged.len() <= super::MAX_PATH + 3, "{}", logged.len());
        assert!(logged.ends_with("..."));
    }
}
