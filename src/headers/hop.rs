//! Headers that belong to one connection and must not travel on (RFC 9110 section 7.6.1).

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Removes what belongs to the hop the message came from, and what its `Connection` header names.
///
/// `TE: trailers` stays, because gRPC-style servers ask for it; every other `TE` goes. `Trailer`
/// stays as well: trailers pass through. A `Connection` header cannot remove what ends the message
/// or says whom it is for: a client could otherwise strip a header that the origin relies on.
pub fn strip(headers: &mut HeaderMap) {
    // A look at all names costs less than asking for each of these, and most messages have none.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let trailers = wants_trailers(headers);
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Like [`strip`], for a request that asks to change the protocol: the protocol it asks for is kept,
/// with a `Connection` header that says so.
pub fn strip_but_upgrade(headers: &mut HeaderMap) {
    let upgrade: Vec<HeaderValue> = headers.get_all(header::UPGRADE).iter().cloned().collect();
    strip(headers);
    if upgrade.is_empty() {
        return;
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    for value in upgrade {
        headers.append(header::UPGRADE, value);
    }
}

/// Whether a comma-separated header holds this token, whatever its case.
pub fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    // A weight may follow: `trailers;q=0.5` still names trailers.
    tokens(headers, header::TE).any(|token| {
        token
            .split(';')
            .next()
            .is_some_and(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
    })
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    // The lengths of the names below.
    matches!(name.as_str().len(), 2 | 7 | 10 | 16..=19) && HOP_BY_HOP.contains(name)
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    tokens(headers, header::CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !PROTECTED.contains(name))
        .collect()
}

const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Naming these in `Connection` has no effect. The forwarding headers are set after this step, so
/// they cannot be lost; the others would change what the message means.
const PROTECTED: [HeaderName; 9] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::COOKIE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::SET_COOKIE,
    header::TRAILER,
];

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, header};

    use super::{has_token, strip, strip_but_upgrade};

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    name.parse::<HeaderName>().unwrap(),
                    value.parse::<HeaderValue>().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn removes_the_hop_and_what_it_names() {
        let mut headers = map(&[
            ("connection", "close, X-Private"),
            ("connection", "x-other"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic xyz"),
            ("te", "gzip, trailers;q=0.5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-private", "1"),
            ("x-other", "2"),
            ("x-kept", "3"),
            ("trailer", "grpc-status"),
        ]);
        strip(&mut headers);
        assert_eq!(
            headers,
            map(&[
                ("x-kept", "3"),
                ("te", "trailers"),
                ("trailer", "grpc-status")
            ])
        );
    }

    #[test]
    fn connection_cannot_strip_what_the_message_means() {
        let mut headers = map(&[
            ("connection", "host, cookie, authorization, content-length"),
            ("host", "chat.example"),
            ("cookie", "a=b"),
            ("authorization", "Bearer x"),
            ("content-length", "5"),
        ]);
        strip(&mut headers);
        assert_eq!(headers.len(), 4);
    }

    #[test]
    fn each_of_them_is_noticed_alone() {
        for name in &super::HOP_BY_HOP {
            let mut headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("x"))]);
            strip(&mut headers);
            assert!(headers.is_empty(), "{name}");
        }
    }

    #[test]
    fn survives_junk_in_connection() {
        let mut headers = HeaderMap::new();
        headers.append(
            header::CONNECTION,
            HeaderValue::from_bytes(b"\xff\xfe, x-a").unwrap(),
        );
        headers.append(header::CONNECTION, HeaderValue::from_static(",, ,a b,x-b"));
        headers.insert("x-b", HeaderValue::from_static("1"));
        strip(&mut headers);
        assert!(!headers.contains_key(header::CONNECTION));
    }

    #[test]
    fn an_upgrade_keeps_its_protocol() {
        let mut headers = map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("te", "trailers"),
        ]);
        strip_but_upgrade(&mut headers);
        assert!(has_token(&headers, header::CONNECTION, "upgrade"));
        assert!(!has_token(&headers, header::CONNECTION, "keep-alive"));
        assert_eq!(headers[header::UPGRADE], "websocket");
    }
}
