//! What a SockJS URL asks for.

/// A URL below the SockJS prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path<'a> {
    Greeting,
    Info,
    Iframe,
    /// A WebSocket without SockJS framing.
    RawWebSocket,
    Session {
        /// Chosen by the client for load balancers; means nothing.
        server: &'a str,
        /// Identifies the session for every transport but the WebSocket, where it may be open twice.
        session: &'a str,
        transport: Transport,
    },
}

/// The last segment of a session's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    WebSocket,
    Xhr,
    XhrStreaming,
    XhrSend,
    EventSource,
    HtmlFile,
    Jsonp,
    JsonpSend,
}

impl<'a> Path<'a> {
    /// Reads what follows the prefix, without the query; `None` is a 404.
    ///
    /// Every route may end in one slash, and nothing is decoded, as in `sockjs/sockjs-node:lib/listener.js`.
    pub fn parse(rest: &'a str) -> Option<Self> {
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            return Some(Self::Greeting);
        }
        let mut segments = rest.strip_prefix('/')?.split('/');
        let first = segments.next()?;
        let Some(session) = segments.next() else {
            return match first {
                "info" => Some(Self::Info),
                "websocket" => Some(Self::RawWebSocket),
                _ if is_iframe(first) => Some(Self::Iframe),
                _ => None,
            };
        };
        let transport = Transport::named(segments.next()?)?;
        if segments.next().is_some() || !is_name(first) || !is_name(session) {
            return None;
        }
        Some(Self::Session {
            server: first,
            session,
            transport,
        })
    }

    /// The methods of this URL, as an `Allow` header tells them.
    pub fn allow(&self) -> &'static str {
        match self {
            Self::Greeting | Self::Iframe | Self::RawWebSocket => "GET",
            Self::Info => "OPTIONS, GET",
            Self::Session { transport, .. } => transport.allow(),
        }
    }
}

impl Transport {
    fn named(segment: &str) -> Option<Self> {
        Some(match segment {
            "websocket" => Self::WebSocket,
            "xhr" => Self::Xhr,
            "xhr_streaming" => Self::XhrStreaming,
            "xhr_send" => Self::XhrSend,
            "eventsource" => Self::EventSource,
            "htmlfile" => Self::HtmlFile,
            "jsonp" => Self::Jsonp,
            "jsonp_send" => Self::JsonpSend,
            _ => return None,
        })
    }

    fn allow(self) -> &'static str {
        match self {
            Self::WebSocket | Self::EventSource | Self::HtmlFile | Self::Jsonp => "GET",
            Self::Xhr | Self::XhrStreaming | Self::XhrSend => "OPTIONS, POST",
            Self::JsonpSend => "POST",
        }
    }
}

/// `iframe.html`, or with a version between the two words to defeat caches.
fn is_iframe(segment: &str) -> bool {
    segment
        .strip_prefix("iframe")
        .and_then(|rest| rest.strip_suffix(".html"))
        .is_some_and(|version| {
            version
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-' | b'.' | b'_'))
        })
}

fn is_name(segment: &str) -> bool {
    !segment.is_empty() && !segment.contains('.')
}

#[cfg(test)]
mod tests {
    use super::{Path, Transport};

    #[test]
    fn every_route_with_and_without_a_trailing_slash() {
        for (rest, path) in [
            ("", Path::Greeting),
            ("/info", Path::Info),
            ("/iframe.html", Path::Iframe),
            ("/iframe-1.6.1.html", Path::Iframe),
            ("/iframe0-9.a_z.html", Path::Iframe),
            ("/websocket", Path::RawWebSocket),
        ] {
            assert_eq!(Path::parse(rest), Some(path), "{rest}");
            assert_eq!(Path::parse(&format!("{rest}/")), Some(path), "{rest}/");
            assert_eq!(Path::parse(&format!("{rest}//")), None, "{rest}//");
        }
    }

    #[test]
    fn sessions_of_every_transport() {
        for (name, transport, allow) in [
            ("websocket", Transport::WebSocket, "GET"),
            ("xhr", Transport::Xhr, "OPTIONS, POST"),
            ("xhr_streaming", Transport::XhrStreaming, "OPTIONS, POST"),
            ("xhr_send", Transport::XhrSend, "OPTIONS, POST"),
            ("eventsource", Transport::EventSource, "GET"),
            ("htmlfile", Transport::HtmlFile, "GET"),
            ("jsonp", Transport::Jsonp, "GET"),
            ("jsonp_send", Transport::JsonpSend, "POST"),
        ] {
            for (server, session) in [("000", "abcd1234"), ("a", "%2e"), ("_", "ä b")] {
                let rest = format!("/{server}/{session}/{name}");
                let path = Path::Session {
                    server,
                    session,
                    transport,
                };
                assert_eq!(Path::parse(&rest), Some(path));
                assert_eq!(Path::parse(&format!("{rest}/")), Some(path));
                assert_eq!(path.allow(), allow);
            }
        }
    }

    // The list of `sockjs/sockjs-protocol:sockjs-protocol.py` (IframePage, SessionURLs), and a few more.
    #[test]
    fn everything_else_is_not_found() {
        for rest in [
            "//",
            "///",
            "a",
            "info",
            "websocket",
            "/Info",
            "/info/x",
            "/iframe.htm",
            "/iframe",
            "/IFRAME.HTML",
            "/IFRAME",
            "/iframe.HTML",
            "/iframe.xml",
            "/iframe-/.html",
            "/iframe-A.html",
            "/iframe.html.",
            "/iframe-%20.html",
            "/0/a",
            "/0/a/",
            "/0/a/x",
            "/0/a/xhr/x",
            "//a/websocket",
            "/0//websocket",
            "///websocket",
            "/a./a/websocket",
            "/a/a./websocket",
            "/./a/websocket",
            "/a/./websocket",
            "/../websocket",
            "/a/b/c/websocket",
            "/0/a/websocket//",
        ] {
            assert_eq!(Path::parse(rest), None, "{rest}");
        }
    }
}
