//! The SockJS pages that need no session: greeting, info, iframe, and the refusals of all others.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use super::path::{Path, Transport};

/// The pages of one SockJS prefix.
#[derive(Clone, Debug)]
pub struct Pages {
    iframe: Bytes,
    iframe_tag: HeaderValue,
}

/// What a page depends on besides the request.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    pub now: SystemTime,
    /// A random number, another one for each request: browsers without a good source of their own mix it in.
    pub entropy: u32,
    /// Set when no session could be served: `/info` then turns the client away, which of all ways to refuse costs
    /// least, because a browser goes on to no other transport and keeps its back-off growing.
    pub full: Option<Duration>,
}

impl Pages {
    /// The iframe page loads no script. The transports that would need the SockJS client in it are
    /// not offered, and a script of somebody else must not run under the name of the chat.
    pub fn new() -> Self {
        let tag = blake3::hash(IFRAME.as_bytes()).to_hex();
        Self {
            iframe: Bytes::from_static(IFRAME.as_bytes()),
            iframe_tag: HeaderValue::from_str(&format!("\"{}\"", &tag[..16]))
                .expect("hexadecimal digits in quotes are a header value"),
        }
    }

    /// Answers a request that is not a WebSocket upgrade; `path` is `None` where no route matched.
    ///
    /// The HTTP transports are answered 404 at once: anything slower costs the client a transport timeout for each.
    pub fn answer(
        &self,
        path: Option<Path<'_>>,
        method: &Method,
        headers: &HeaderMap,
        visit: &Visit,
    ) -> Response<Bytes> {
        let Some(path) = path else { return not_found() };
        match (path, method) {
            (Path::Greeting, &Method::GET) => greeting(),
            (Path::Info, &Method::GET) => match visit.full {
                None => info(headers, visit.entropy),
                Some(retry_after) => unavailable(headers, retry_after),
            },
            (Path::Info, &Method::OPTIONS) => preflight(headers, path.allow(), visit.now),
            (Path::Iframe, &Method::GET) => self.iframe(headers, visit.now),
            (
                Path::RawWebSocket
                | Path::Session {
                    transport: Transport::WebSocket,
                    ..
                },
                &Method::GET,
            ) => no_upgrade(),
            (Path::Session { transport, .. }, _) if transport != Transport::WebSocket => {
                not_found()
            }
            _ => method_not_allowed(path.allow()),
        }
    }

    fn iframe(&self, headers: &HeaderMap, now: SystemTime) -> Response<Bytes> {
        let known = headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .any(|value| matches_tag(value, &self.iframe_tag));
        let mut response = if known {
            status(StatusCode::NOT_MODIFIED)
        } else {
            page(
                StatusCode::OK,
                "text/html; charset=UTF-8",
                self.iframe.clone(),
            )
        };
        cache_for_a_year(response.headers_mut(), now);
        response
            .headers_mut()
            .insert(header::ETAG, self.iframe_tag.clone());
        response
    }
}

/// Tells people and load balancers that SockJS is served here.
pub fn greeting() -> Response<Bytes> {
    page(
        StatusCode::OK,
        PLAIN,
        Bytes::from_static(b"Welcome to SockJS!\n"),
    )
}

/// Tells a client what it may use.
pub fn info(headers: &HeaderMap, entropy: u32) -> Response<Bytes> {
    let body = format!(
        r#"{{"websocket":true,"origins":["*:*"],"cookie_needed":false,"entropy":{entropy}}}"#
    );
    let mut response = page(
        StatusCode::OK,
        "application/json; charset=UTF-8",
        Bytes::from(body),
    );
    never_cache(response.headers_mut());
    allow_origin(response.headers_mut(), headers);
    response
}

/// Turns a client away before it opens a socket. `retry_after` is rounded up to whole seconds.
pub fn unavailable(headers: &HeaderMap, retry_after: Duration) -> Response<Bytes> {
    let body = Bytes::from_static(b"No room for another session. Try again later.\n");
    let mut response = page(StatusCode::SERVICE_UNAVAILABLE, PLAIN, body);
    let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    never_cache(response.headers_mut());
    allow_origin(response.headers_mut(), headers);
    response
}

/// Answers the question of a browser whether another origin's page may send a request.
pub fn preflight(headers: &HeaderMap, methods: &'static str, now: SystemTime) -> Response<Bytes> {
    let mut response = status(StatusCode::NO_CONTENT);
    let out = response.headers_mut();
    out.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static(methods),
    );
    out.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from(YEAR.as_secs()),
    );
    cache_for_a_year(out, now);
    allow_origin(out, headers);
    response
}

pub fn not_found() -> Response<Bytes> {
    page(
        StatusCode::NOT_FOUND,
        PLAIN,
        Bytes::from_static(b"There is no such SockJS page.\n"),
    )
}

/// The answer to a plain request where a WebSocket upgrade was expected.
pub fn no_upgrade() -> Response<Bytes> {
    page(
        StatusCode::BAD_REQUEST,
        PLAIN,
        Bytes::from_static(b"Only a WebSocket upgrade is served here.\n"),
    )
}

pub fn method_not_allowed(allow: &'static str) -> Response<Bytes> {
    let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

const PLAIN: &str = "text/plain; charset=UTF-8";
const YEAR: Duration = Duration::from_secs(31_536_000);

fn page(code: StatusCode, content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn status(code: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = code;
    response
}

fn never_cache(out: &mut HeaderMap) {
    out.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-store, no-cache, no-transform, must-revalidate, max-age=0"),
    );
}

fn cache_for_a_year(out: &mut HeaderMap, now: SystemTime) {
    out.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=31536000"),
    );
    let date = httpdate::fmt_http_date(now + YEAR);
    out.insert(
        header::EXPIRES,
        HeaderValue::from_str(&date).expect("an HTTP date is ASCII"),
    );
}

/// Any origin may read the answer: it is the same for everybody and the socket has its own check.
fn allow_origin(out: &mut HeaderMap, request: &HeaderMap) {
    match request.get(header::ORIGIN) {
        Some(origin) => {
            out.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            out.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
            out.insert(header::VARY, HeaderValue::from_static("Origin"));
        }
        None => {
            out.insert(
                header::ACCESS_CONTROL_ALLOW_ORIGIN,
                HeaderValue::from_static("*"),
            );
        }
    }
    if let Some(wanted) = request
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .filter(|wanted| !wanted.is_empty())
    {
        out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
}

/// Whether an `If-None-Match` value names `tag`, compared weakly (RFC 9110, 13.1.2).
fn matches_tag(value: &HeaderValue, tag: &HeaderValue) -> bool {
    value.as_bytes().split(|&byte| byte == b',').any(|part| {
        let part = part.trim_ascii();
        part == b"*" || part.strip_prefix(b"W/").unwrap_or(part) == tag.as_bytes()
    })
}

impl Default for Pages {
    fn default() -> Self {
        Self::new()
    }
}

const IFRAME: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"UTF-8\">\n\
    <title>SockJS</title>\n</head>\n\
    <body>SockJS connections for pages of another origin are not offered here.</body>\n</html>\n";

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, Method, Response, header};

    use super::{Pages, Visit};
    use crate::sockjs::Path;

    fn ask(
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        full: Option<Duration>,
    ) -> Response<Bytes> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        let visit = Visit {
            now: SystemTime::UNIX_EPOCH,
            entropy: 4_294_967_295,
            full,
        };
        Pages::new().answer(Path::parse(path), &method, &headers, &visit)
    }

    fn field<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
        response
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap())
    }

    #[test]
    fn greeting_is_what_the_protocol_says() {
        for path in ["", "/"] {
            let response = ask(Method::GET, path, &[], None);
            assert_eq!(response.status(), 200);
            assert_eq!(
                field(&response, "content-type"),
                Some("text/plain; charset=UTF-8")
            );
            assert_eq!(response.body().as_ref(), b"Welcome to SockJS!\n");
            assert_eq!(field(&response, "set-cookie"), None);
        }
    }

    #[test]
    fn info_says_websocket_and_is_never_cached() {
        let response = ask(Method::GET, "/info", &[], None);
        assert_eq!(response.status(), 200);
        assert_eq!(
            field(&response, "content-type"),
            Some("application/json; charset=UTF-8")
        );
        assert_eq!(
            field(&response, "cache-control"),
            Some("no-store, no-cache, no-transform, must-revalidate, max-age=0")
        );
        assert_eq!(field(&response, "expires"), None);
        assert_eq!(field(&response, "access-control-allow-origin"), Some("*"));
        assert_eq!(field(&response, "access-control-allow-credentials"), None);
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "websocket": true, "origins": ["*:*"], "cookie_needed": false, "entropy": 4_294_967_295_u32,
            })
        );
    }

    #[test]
    fn an_origin_is_echoed_with_credentials() {
        for origin in ["https://chat.example", "null"] {
            let response = ask(Method::GET, "/info", &[("origin", origin)], None);
            assert_eq!(
                field(&response, "access-control-allow-origin"),
                Some(origin)
            );
            assert_eq!(
                field(&response, "access-control-allow-credentials"),
                Some("true")
            );
            assert_eq!(field(&response, "vary"), Some("Origin"));
        }
    }

    #[test]
    fn preflight_names_methods_and_wanted_headers() {
        let wanted = [
            ("origin", "https://a.example"),
            ("access-control-request-headers", "a, b"),
        ];
        let response = ask(Method::OPTIONS, "/info", &wanted, None);
        assert_eq!(response.status(), 204);
        assert_eq!(
            field(&response, "access-control-allow-methods"),
            Some("OPTIONS, GET")
        );
        assert_eq!(
            field(&response, "access-control-allow-headers"),
            Some("a, b")
        );
        assert_eq!(field(&response, "access-control-max-age"), Some("31536000"));
        assert_eq!(
            field(&response, "cache-control"),
            Some("public, max-age=31536000")
        );
        assert_eq!(
            field(&response, "expires"),
            Some("Fri, 01 Jan 1971 00:00:00 GMT")
        );
        assert!(response.body().is_empty());
        let response = ask(
            Method::OPTIONS,
            "/info",
            &[("access-control-request-headers", "")],
            None,
        );
        assert_eq!(field(&response, "access-control-allow-headers"), None);
    }

    #[test]
    fn a_full_house_is_said_at_info() {
        let response = ask(
            Method::GET,
            "/info",
            &[("origin", "https://a.example")],
            Some(Duration::from_millis(1001)),
        );
        assert_eq!(response.status(), 503);
        assert_eq!(field(&response, "retry-after"), Some("2"));
        assert_eq!(
            field(&response, "access-control-allow-origin"),
            Some("https://a.example")
        );
        assert!(
            field(&response, "cache-control")
                .unwrap()
                .starts_with("no-store")
        );
        // Nothing else is refused by it.
        assert_eq!(
            ask(Method::GET, "/", &[], Some(Duration::ZERO)).status(),
            200
        );
        assert_eq!(
            ask(Method::OPTIONS, "/info", &[], Some(Duration::ZERO)).status(),
            204
        );
    }

    #[test]
    fn iframe_page_is_cached_by_tag() {
        let first = ask(Method::GET, "/iframe-1.6.1.html", &[], None);
        assert_eq!(first.status(), 200);
        assert_eq!(
            field(&first, "content-type"),
            Some("text/html; charset=UTF-8")
        );
        assert_eq!(
            field(&first, "cache-control"),
            Some("public, max-age=31536000")
        );
        assert_eq!(field(&first, "set-cookie"), None);
        let text = str::from_utf8(first.body()).unwrap();
        assert!(text.starts_with("<!DOCTYPE html>"), "{text}");
        assert!(!text.contains("script") && !text.contains("://"), "{text}");
        let tag = field(&first, "etag").unwrap().to_owned();
        for known in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"x\", {tag}"),
            "*".to_owned(),
        ] {
            let again = ask(
                Method::GET,
                "/iframe.html",
                &[("if-none-match", &known)],
                None,
            );
            assert_eq!(again.status(), 304, "{known}");
            assert!(again.body().is_empty());
            assert_eq!(again.headers().get(header::CONTENT_TYPE), None);
            assert_eq!(field(&again, "etag"), Some(tag.as_str()));
        }
        assert_eq!(
            ask(
                Method::GET,
                "/iframe.html",
                &[("if-none-match", "\"x\"")],
                None
            )
            .status(),
            200
        );
    }

    #[test]
    fn unknown_pages_and_fallback_transports_are_not_found() {
        for (method, path) in [
            (Method::GET, "/nothing"),
            (Method::POST, "/000/abc/xhr"),
            (Method::OPTIONS, "/000/abc/xhr_send"),
            (Method::GET, "/000/abc/jsonp"),
        ] {
            let response = ask(method, path, &[], None);
            assert_eq!(response.status(), 404);
            assert_eq!(
                field(&response, "content-type"),
                Some("text/plain; charset=UTF-8")
            );
        }
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones() {
        for (path, allow) in [
            ("", "GET"),
            ("/info", "OPTIONS, GET"),
            ("/iframe.html", "GET"),
            ("/websocket", "GET"),
            ("/000/abc/websocket", "GET"),
        ] {
            for method in [Method::POST, Method::PUT, Method::HEAD] {
                let response = ask(method, path, &[], None);
                assert_eq!(response.status(), 405);
                assert_eq!(field(&response, "allow"), Some(allow));
                assert_eq!(field(&response, "content-type"), None);
                assert!(response.body().is_empty());
            }
        }
        assert_eq!(ask(Method::GET, "/websocket", &[], None).status(), 400);
        assert_eq!(ask(Method::GET, "/0/a/websocket/", &[], None).status(), 400);
    }
}
