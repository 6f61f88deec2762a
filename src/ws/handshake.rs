//! Both opening handshakes: what a client asks of us, and what we ask of a streamer (RFC 6455
//! section 4). No extension and no subprotocol is ever offered or accepted.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
        SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING,
        UPGRADE,
    },
};
use sha1::{Digest as _, Sha1};

/// The one version there is (section 4.1); also what a refusal for its sake must name.
pub const VERSION: &str = "13";

/// Section 1.3.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Bytes behind the base64 of a `Sec-WebSocket-Key`.
const KEY_BYTES: usize = 16;

/// Why a handshake is refused. The first group is a client's fault, the second a streamer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Section 4.1: answered with 405.
    #[error("a WebSocket is opened with GET")]
    NotGet,
    /// Section 4.1: at least HTTP/1.1.
    #[error("HTTP/1.0 cannot be upgraded")]
    Http10,
    /// The request asks for no upgrade to `websocket`.
    #[error("the request does not ask for an upgrade to websocket")]
    NotUpgrade,
    /// Section 4.2.1: a host must be named once.
    #[error("the Host header is missing or repeated")]
    BadHost,
    /// Section 4.4: answered with 426 and `Sec-WebSocket-Version: 13`.
    #[error("the Sec-WebSocket-Version is not 13")]
    BadVersion,
    /// Section 4.2.1: base64 of 16 bytes, once.
    #[error("the Sec-WebSocket-Key is missing, repeated or not 16 bytes in base64")]
    BadKey,
    /// A GET has no body; where it would end, and the frames begin, two readers could see
    /// differently.
    #[error("the request has a body")]
    HasBody,

    /// Anything but 101.
    #[error("the server answered {0} instead of 101")]
    Refused(StatusCode),
    /// A 101 that does not switch to `websocket`.
    #[error("the server's 101 does not switch to websocket")]
    NotSwitched,
    /// The peer has not read our key: no WebSocket server, or a cached answer.
    #[error("the server's Sec-WebSocket-Accept does not match the key")]
    BadAccept,
    /// Section 4.1: what was not offered must not be chosen.
    #[error("the server chose an extension or subprotocol that was not offered")]
    Unoffered,
}

/// The `Sec-WebSocket-Accept` that proves that `key` was read (section 4.2.2).
pub fn accept_key(key: impl AsRef<[u8]>) -> String {
    let digest = Sha1::new()
        .chain_update(key)
        .chain_update(ACCEPT_GUID)
        .finalize();
    STANDARD.encode(digest)
}

/// A `Sec-WebSocket-Key` out of 16 random bytes (section 4.1).
pub fn request_key(nonce: [u8; KEY_BYTES]) -> String {
    STANDARD.encode(nonce)
}

/// Checks a client's handshake over HTTP/1 (section 4.2.1); returns the `Sec-WebSocket-Accept` of
/// the answer.
///
/// # Errors
/// The first rule that is broken, in the order in which an answer helps most.
pub fn check_request(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
) -> Result<String, HandshakeError> {
    if !lists(headers, &UPGRADE, "websocket") || !lists(headers, &CONNECTION, "upgrade") {
        return Err(HandshakeError::NotUpgrade);
    }
    if method != Method::GET {
        return Err(HandshakeError::NotGet);
    }
    if version < Version::HTTP_11 {
        return Err(HandshakeError::Http10);
    }
    if single(headers, &HOST).is_none() {
        return Err(HandshakeError::BadHost);
    }
    if single(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|value| value != VERSION) {
        return Err(HandshakeError::BadVersion);
    }
    let key = single(headers, &SEC_WEBSOCKET_KEY).ok_or(HandshakeError::BadKey)?;
    if !is_key(key.as_bytes()) {
        return Err(HandshakeError::BadKey);
    }
    Ok(accept_key(key))
}

/// The bytes of our own handshake towards a streamer (section 4.1).
///
/// `target` is path and query, `key` comes from [`request_key`]. Of `extra` goes along what neither
/// belongs to the handshake itself nor announces a body. Bytes that would end the request line or
/// a header early are percent-encoded in `target` and left out of `host`.
pub fn upgrade_request(target: &str, host: &str, key: &str, extra: &HeaderMap) -> Vec<u8> {
    let mut head = String::with_capacity(192 + target.len() + host.len());
    head.push_str("GET ");
    for character in target.chars() {
        if character.is_ascii_graphic() {
            head.push(character);
        } else {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(head, "%{byte:02X}");
            }
        }
    }
    head.push_str(" HTTP/1.1\r\nHost: ");
    head.extend(host.chars().filter(char::is_ascii_graphic));
    head.push_str("\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: ");
    head.push_str(VERSION);
    head.push_str("\r\nSec-WebSocket-Key: ");
    head.push_str(key);
    head.push_str("\r\n");

    let mut request = head.into_bytes();
    for (name, value) in extra.iter().filter(|(name, _)| !is_own(name)) {
        request.extend_from_slice(name.as_str().as_bytes());
        request.extend_from_slice(b": ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request
}

/// Checks a server's answer to [`upgrade_request`] with the same `key` (section 4.1).
///
/// # Errors
/// The first rule that is broken.
pub fn check_response(
    status: StatusCode,
    headers: &HeaderMap,
    key: &str,
) -> Result<(), HandshakeError> {
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(HandshakeError::Refused(status));
    }
    let switched = single(headers, &UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !switched || !lists(headers, &CONNECTION, "upgrade") {
        return Err(HandshakeError::NotSwitched);
    }
    let accept = accept_key(key);
    if single(headers, &SEC_WEBSOCKET_ACCEPT).is_none_or(|value| value != accept.as_str()) {
        return Err(HandshakeError::BadAccept);
    }
    if headers.contains_key(&SEC_WEBSOCKET_EXTENSIONS)
        || headers.contains_key(&SEC_WEBSOCKET_PROTOCOL)
    {
        return Err(HandshakeError::Unoffered);
    }
    Ok(())
}

/// Whether one of the comma separated tokens of `name` is `token`, in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The value of a header that stands there exactly once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn is_key(key: &[u8]) -> bool {
    // Room for the decoder's estimate, which knows of no padding.
    let mut nonce = [0; KEY_BYTES + 2];
    key.len() == 24 && STANDARD.decode_slice(key, &mut nonce) == Ok(KEY_BYTES)
}

/// Headers that the handshake writes itself or that have no place in it.
fn is_own(name: &HeaderName) -> bool {
    [HOST, CONNECTION, UPGRADE, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name)
        || name.as_str().starts_with("sec-websocket-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    name.parse::<HeaderName>().unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    fn request() -> HeaderMap {
        map(&[
            ("host", "chat.example"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-key", KEY),
            ("sec-websocket-version", "13"),
        ])
    }

    fn response() -> HeaderMap {
        map(&[
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", ACCEPT),
        ])
    }

    fn check(headers: &HeaderMap) -> Result<String, HandshakeError> {
        check_request(&Method::GET, Version::HTTP_11, headers)
    }

    #[test]
    fn accepts_the_example_of_section_1_3() {
        assert_eq!(accept_key(KEY), ACCEPT);
        assert_eq!(request_key(*b"the sample nonce"), KEY);
        assert_eq!(check(&request()).as_deref(), Ok(ACCEPT));
    }

    #[test]
    fn tokens_are_found_in_lists_and_in_any_case() {
        let mut headers = request();
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive , UPGRADE"));
        headers.insert(UPGRADE, HeaderValue::from_static("h2c"));
        headers.append(UPGRADE, HeaderValue::from_static("WebSocket"));
        assert!(check(&headers).is_ok());
        headers.insert(CONNECTION, HeaderValue::from_static("upgraded"));
        assert_eq!(check(&headers), Err(HandshakeError::NotUpgrade));
    }

    #[test]
    fn each_broken_rule_of_a_request_has_its_name() {
        let without = |name: &str| {
            let mut headers = request();
            headers.remove(name);
            check(&headers)
        };
        assert_eq!(without("upgrade"), Err(HandshakeError::NotUpgrade));
        assert_eq!(without("connection"), Err(HandshakeError::NotUpgrade));
        assert_eq!(without("host"), Err(HandshakeError::BadHost));
        assert_eq!(
            without("sec-websocket-version"),
            Err(HandshakeError::BadVersion)
        );
        assert_eq!(without("sec-websocket-key"), Err(HandshakeError::BadKey));

        let with = |name: HeaderName, value: &'static str| {
            let mut headers = request();
            headers.insert(name, HeaderValue::from_static(value));
            check(&headers)
        };
        assert_eq!(
            with(SEC_WEBSOCKET_VERSION, "8"),
            Err(HandshakeError::BadVersion)
        );
        for key in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25jZSE=",
            "dGhlIHNhbXBsZSBub25jZQ=!",
            "dGhlIHNhbXBsZSBub25jZSEh",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert_eq!(with(SEC_WEBSOCKET_KEY, key), Err(HandshakeError::BadKey));
        }
        for name in [HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION] {
            let mut headers = request();
            let again = headers[&name].clone();
            headers.append(&name, again);
            assert!(check(&headers).is_err(), "{name} twice");
        }
        assert_eq!(
            check_request(&Method::POST, Version::HTTP_11, &request()),
            Err(HandshakeError::NotGet)
        );
        assert_eq!(
            check_request(&Method::GET, Version::HTTP_10, &request()),
            Err(HandshakeError::Http10)
        );
    }

    #[test]
    fn a_request_of_ours_passes_our_own_check() {
        let extra = map(&[
            ("x-forwarded-for", "192.0.2.1"),
            ("sec-websocket-extensions", "permessage-deflate"),
            ("connection", "close"),
            ("content-length", "5"),
            ("host", "elsewhere.example"),
        ]);
        let bytes = upgrade_request("/websocket", "chat.example:3000", KEY, &extra);
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut headers);
        assert_eq!(
            parsed.parse(&bytes).unwrap(),
            httparse::Status::Complete(bytes.len())
        );
        assert_eq!(parsed.path, Some("/websocket"));
        let headers: HeaderMap = parsed
            .headers
            .iter()
            .map(|header| {
                (
                    header.name.parse::<HeaderName>().unwrap(),
                    HeaderValue::from_bytes(header.value).unwrap(),
                )
            })
            .collect();
        assert_eq!(check(&headers).as_deref(), Ok(ACCEPT));
        assert_eq!(headers[HOST], "chat.example:3000");
        assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
        assert_eq!(headers.len(), 6);
    }

    #[test]
    fn nothing_can_be_smuggled_into_the_request() {
        let bytes = upgrade_request("/a b\r\nX: y\u{e9}", "h\r\nX: z", KEY, &HeaderMap::new());
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("GET /a%20b%0D%0AX:%20y%C3%A9 HTTP/1.1\r\nHost: hX:z\r\n"));
    }

    #[test]
    fn each_broken_rule_of_a_response_has_its_name() {
        let check =
            |headers: &HeaderMap| check_response(StatusCode::SWITCHING_PROTOCOLS, headers, KEY);
        assert_eq!(check(&response()), Ok(()));
        assert_eq!(
            check_response(StatusCode::OK, &response(), KEY),
            Err(HandshakeError::Refused(StatusCode::OK))
        );
        for (name, error) in [
            (UPGRADE, HandshakeError::NotSwitched),
            (CONNECTION, HandshakeError::NotSwitched),
            (SEC_WEBSOCKET_ACCEPT, HandshakeError::BadAccept),
        ] {
            let mut headers = response();
            headers.insert(&name, HeaderValue::from_static("other"));
            assert_eq!(check(&headers), Err(error));
            headers.remove(&name);
            assert_eq!(check(&headers), Err(error));
        }
        for name in [SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL] {
            let mut headers = response();
            headers.insert(name, HeaderValue::from_static("x"));
            assert_eq!(check(&headers), Err(HandshakeError::Unoffered));
        }
    }
}
