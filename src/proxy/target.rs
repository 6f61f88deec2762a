//! The request target, read once for routing and written once for the origin.
//!
//! Two programs that disagree about `/a/..%2fb` disagree about who is asked. So a target is looked at
//! in every way that a reader behind us may look at it: with encoded slashes as slashes or as text,
//! with repeated slashes merged or not, with backslashes as slashes or as text. If these readings
//! lead to different destinations, or if a dot segment hides behind an encoding, the request is
//! refused. What travels on has no dot segments and no needless escapes (RFC 3986 section 6.2.2), so
//! there is nothing left to disagree about.

use http::{
    HeaderMap, HeaderValue, Method, Uri, Version, header,
    uri::{Authority, PathAndQuery},
};

/// A request target without ambiguity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `None` only for HTTP/1.0 requests that name none.
    pub host: Option<Host>,
    /// Normalised; begins with `/`. Read by the routes.
    pub path: String,
    /// Path and query as they travel on.
    pub forward: PathAndQuery,
}

/// Whom the client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Lower case, without port and trailing dot: what routes compare.
    pub name: String,
    /// As the client wrote it, for the origin.
    pub value: HeaderValue,
}

/// Why a target is refused. All of these are the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the request has no Host header")]
    NoHost,
    #[error("the request has several Host headers")]
    SeveralHosts,
    #[error("the Host header is not a host")]
    BadHost,
    #[error("the target names another host than the Host header")]
    OtherHost,
    #[error("the gateway is no forward proxy")]
    ForwardProxy,
    #[error("the path has a broken percent escape")]
    BadEscape,
    #[error("the path holds NUL")]
    Nul,
    #[error("the path can be read in several ways")]
    Ambiguous,
}

impl Target {
    /// Reads the target of a request.
    ///
    /// `destination` says where a path would go, given the host; readings of the path that go to
    /// different places are refused.
    pub fn read<D: PartialEq>(
        method: &Method,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
        destination: impl Fn(Option<&str>, &str) -> D,
    ) -> Result<Self, TargetError> {
        // Extended CONNECT (RFC 8441) carries a path; the plain one would make us a forward proxy.
        if *method == Method::CONNECT && uri.path_and_query().is_none() {
            return Err(TargetError::ForwardProxy);
        }
        let host = read_host(uri, version, headers)?;
        let name = host.as_ref().map(|host| host.name.as_str());
        let path = normalise(uri.path().as_bytes(), |path| destination(name, path))?;
        let forward = match (uri.path_and_query(), uri.query()) {
            // The client's own, which is as good as what would be made of it.
            (Some(own), _) if own.path() == path => Ok(own.clone()),
            (_, Some(query)) => PathAndQuery::try_from(format!("{path}?{query}")),
            (_, None) => PathAndQuery::try_from(path.as_str()),
        }
        .map_err(|_| TargetError::BadEscape)?;
        Ok(Self {
            host,
            path,
            forward,
        })
    }
}

/// Finds the one host of a request in its target and its `Host` headers.
fn read_host(
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<Option<Host>, TargetError> {
    let mut values = headers.get_all(header::HOST).iter();
    let given = values.next();
    if values.next().is_some() {
        return Err(TargetError::SeveralHosts);
    }
    let given = given.map(|value| host(value.clone())).transpose()?;
    let Some(authority) = uri.authority() else {
        return match given {
            None if version == Version::HTTP_11 => Err(TargetError::NoHost),
            None if version == Version::HTTP_2 => Err(TargetError::NoHost),
            given => Ok(given),
        };
    };
    if !matches!(uri.scheme_str(), None | Some("http" | "https")) {
        return Err(TargetError::ForwardProxy);
    }
    let value = HeaderValue::from_str(authority.as_str()).map_err(|_| TargetError::BadHost)?;
    let wanted = host(value)?;
    // RFC 9112 section 3.2.2 lets the target win. A reader that looks at the header instead would
    // find another site, so both have to agree.
    match given {
        Some(given) if given.name != wanted.name || port(&given) != port(&wanted) => {
            Err(TargetError::OtherHost)
        }
        None if version == Version::HTTP_11 => Err(TargetError::NoHost),
        _ => Ok(Some(wanted)),
    }
}

fn host(value: HeaderValue) -> Result<Host, TargetError> {
    let text = value.to_str().map_err(|_| TargetError::BadHost)?;
    let name = match usual_name(text) {
        Some(name) => name.to_ascii_lowercase(),
        None => unusual_name(text)?,
    };
    Ok(Host { name, value })
}

fn unusual_name(text: &str) -> Result<String, TargetError> {
    let authority: Authority = text.parse().map_err(|_| TargetError::BadHost)?;
    let name = authority.host();
    let port = text.strip_prefix(name).ok_or(TargetError::BadHost)?;
    let port_fits = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.is_empty() || port.parse::<u16>().is_ok());
    let name_fits = match name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        }
    };
    if !port_fits || !name_fits {
        return Err(TargetError::BadHost);
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if name.is_empty() {
        return Err(TargetError::BadHost);
    }
    Ok(name)
}

/// The name in a host that needs no parser: a DNS name or an IPv4 address, with or without a port.
fn usual_name(text: &str) -> Option<&str> {
    let (name, port) = text.split_once(':').unwrap_or((text, "0"));
    let fits = !name.is_empty()
        && !name.ends_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        && matches!(port.len(), 1..=5)
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok();
    fits.then_some(name)
}

/// The port as written, with the two default ports left out.
fn port(host: &Host) -> Option<&[u8]> {
    let text = host.value.as_bytes();
    let colon = text.iter().rposition(|&byte| byte == b':')?;
    let port = &text[colon + 1..];
    let digits = !port.is_empty() && port.iter().all(u8::is_ascii_digit);
    (digits && port != b"80" && port != b"443").then_some(port)
}

/// The path to forward, if all readings of it go to the same place.
fn normalise<D: PartialEq>(
    path: &[u8],
    destination: impl Fn(&str) -> D,
) -> Result<String, TargetError> {
    if path.first() != Some(&b'/') {
        return Err(TargetError::ForwardProxy);
    }
    let plain = unescape(path)?;
    if reads_one_way(&plain) {
        return Ok(plain);
    }
    let path = remove_dot_segments(&plain);
    if hides_dot_segment(&path) {
        return Err(TargetError::Ambiguous);
    }
    // Dot segments take away what stands before them: how much that is depends on the slashes that a
    // reader sees, so each of its ways is gone from the beginning.
    let here = destination(&path);
    let slashed = decode_slashes(&plain);
    let decoded = decode_slashes(&path);
    let merged = merge_slashes(&decoded);
    let readings = [
        remove_dot_segments(&merge_slashes(&plain)),
        remove_dot_segments(&merge_slashes(&slashed)),
        remove_dot_segments(&slashed),
        remove_dot_segments(&decoded),
        remove_dot_segments(&merged),
        merge_slashes(&path),
        decoded,
        merged,
    ];
    if readings.iter().any(|reading| destination(reading) != here) {
        return Err(TargetError::Ambiguous);
    }
    Ok(path)
}

/// Nothing in it is left out or decoded by any reader: nearly all paths, which would else be written
/// a dozen times to be found the same.
fn reads_one_way(plain: &str) -> bool {
    let bytes = plain.as_bytes();
    !bytes.windows(2).any(|pair| matches!(pair, b"//" | b"/."))
        && !bytes
            .windows(3)
            .any(|three| matches!(three, b"%2F" | b"%5C"))
}

/// Decodes what needs no escape, escapes what does, and writes the rest in upper case.
fn unescape(path: &[u8]) -> Result<String, TargetError> {
    // Nearly all paths stay as they are.
    if let Ok(text) = std::str::from_utf8(path)
        && path.iter().all(|&byte| STAYS[usize::from(byte)])
    {
        return Ok(text.to_owned());
    }
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        let (byte, escaped) = if byte == b'%' {
            (escape(&mut bytes).ok_or(TargetError::BadEscape)?, true)
        } else {
            (byte, false)
        };
        match byte {
            0 => return Err(TargetError::Nul),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            // A raw backslash is a slash to some readers, never when it is escaped.
            b'\\' => out.push_str("%5C"),
            b'!'..=b'~' if !escaped => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    Ok(out)
}

fn escape(bytes: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let mut digit = || char::from(bytes.next()?).to_digit(16);
    let value = digit()? * 16 + digit()?;
    u8::try_from(value).ok()
}

/// RFC 3986 section 5.2.4 for an absolute path.
fn remove_dot_segments(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    out.pop();
                }
                if last {
                    out.push("");
                }
            }
            _ => out.push(segment),
        }
    }
    let mut path = String::with_capacity(path.len());
    for segment in out {
        path.push('/');
        path.push_str(segment);
    }
    if path.is_empty() {
        path.push('/');
    }
    path
}

/// Whether a segment turns into a dot segment once encoded slashes are decoded.
fn hides_dot_segment(path: &str) -> bool {
    path.split('/')
        .filter(|segment| segment.contains("%2F") || segment.contains("%5C"))
        .any(|segment| {
            decode_slashes(segment)
                .split('/')
                .any(|piece| piece == "." || piece == "..")
        })
}

fn decode_slashes(path: &str) -> String {
    path.replace("%2F", "/").replace("%5C", "/")
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

/// What a path has as it is: printable, and neither an escape nor a slash in disguise.
const STAYS: [bool; 256] = {
    let mut stays = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        stays[byte as usize] = !matches!(byte, b'%' | b'\\');
        byte += 1;
    }
    stays
};

const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{Target, TargetError, normalise, unusual_name, usual_name};

    /// The default routes: streamers below two prefixes, the monolith elsewhere.
    fn streamer(path: &str) -> bool {
        path == "/websocket"
            || path == "/websocket/"
            || path == "/sockjs"
            || path.starts_with("/sockjs/")
    }

    fn table(path: &str) -> Result<String, TargetError> {
        normalise(path.as_bytes(), streamer)
    }

    #[test]
    fn forwards_an_unambiguous_form() {
        for (given, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/../../b", "/b"),
            ("/..", "/"),
            ("/%2e%2E/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/%61%2Db%7e", "/a-b~"),
            ("/%c3%a9", "/%C3%A9"),
            ("/\u{e9}", "/%C3%A9"),
            ("/a%2fb", "/a%2Fb"),
            ("/a\\b", "/a%5Cb"),
            ("/a%5cb", "/a%5Cb"),
            ("/a//b", "/a//b"),
            ("/a%20b%0a", "/a%20b%0A"),
            ("/a%252e%252e%252fb", "/a%252e%252e%252fb"),
            ("/...", "/..."),
            ("/a..b/.c", "/a..b/.c"),
            ("/api/v1/x;y=1,2@:!$&'()*+=", "/api/v1/x;y=1,2@:!$&'()*+="),
            ("/x/../websocket", "/websocket"),
            ("/%77ebsocket", "/websocket"),
            ("/sockjs/000/abc/websocket", "/sockjs/000/abc/websocket"),
            ("/websocketx/../sockjs/info", "/sockjs/info"),
        ] {
            assert_eq!(table(given).as_deref(), Ok(expected), "{given}");
        }
    }

    #[test]
    fn refuses_what_two_readers_could_read_differently() {
        for given in [
            "/x/..%2fwebsocket",
            "/sockjs/..%2fapi",
            "/sockjs/%2e%2e%2fapi",
            "/sockjs%2finfo",
            "/sockjs\\info",
            "/sockjs%5cinfo",
            "//websocket",
            "//sockjs/info",
            "/%2fwebsocket",
            "/\\websocket",
            "/websocket%2f",
            "/websocket\\",
            "/foo/..%2fbar",
            "/foo/..\\bar",
            "/foo/%2e%2e%5cbar",
            "/foo/..%2f",
            "/foo%2f..",
            "/a//../websocket",
            "/api/..//websocket",
            "/websocket%2fa/..",
        ] {
            assert_eq!(table(given), Err(TargetError::Ambiguous), "{given}");
        }
        for (given, error) in [
            ("/a%00b", TargetError::Nul),
            ("/a%", TargetError::BadEscape),
            ("/a%4", TargetError::BadEscape),
            ("/a%zz", TargetError::BadEscape),
            ("/a%+1", TargetError::BadEscape),
            ("*", TargetError::ForwardProxy),
            ("", TargetError::ForwardProxy),
        ] {
            assert_eq!(table(given), Err(error), "{given}");
        }
    }

    fn read(uri: &str, hosts: &[&str]) -> Result<Target, TargetError> {
        read_as(Version::HTTP_11, &Method::GET, uri, hosts)
    }

    fn read_as(
        version: Version,
        method: &Method,
        uri: &str,
        hosts: &[&str],
    ) -> Result<Target, TargetError> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        let uri: Uri = uri.parse().unwrap();
        Target::read(method, &uri, version, &headers, |_, path| streamer(path))
    }

    #[test]
    fn one_host_and_no_other() {
        let name = |target: Target| target.host.unwrap().name;
        assert_eq!(
            read("/", &["Chat.Example:8443"]).map(name).as_deref(),
            Ok("chat.example")
        );
        assert_eq!(
            read("/", &["chat.example."]).map(name).as_deref(),
            Ok("chat.example")
        );
        assert_eq!(
            read("/", &["[2001:DB8::1]:80"]).map(name).as_deref(),
            Ok("[2001:db8::1]")
        );
        assert_eq!(read("/", &[]), Err(TargetError::NoHost));
        assert_eq!(read("/", &["a", "a"]), Err(TargetError::SeveralHosts));
        for bad in [
            "", "a b", "a/b", "a@b", "a,b", "a:b", "a:99999", "[::1", "[zz]", ".", "a?b",
        ] {
            assert_eq!(read("/", &[bad]), Err(TargetError::BadHost), "{bad}");
        }
        assert!(
            read_as(Version::HTTP_10, &Method::GET, "/", &[])
                .unwrap()
                .host
                .is_none()
        );
    }

    #[test]
    fn the_absolute_form_names_the_same_host() {
        let target = read("http://chat.example/a/../b?c", &["CHAT.example:80"]).unwrap();
        assert_eq!(target.forward, "/b?c");
        assert_eq!(
            read("http://evil.example/", &["chat.example"]),
            Err(TargetError::OtherHost)
        );
        assert_eq!(
            read("http://chat.example:81/", &["chat.example"]),
            Err(TargetError::OtherHost)
        );
        assert_eq!(read("http://chat.example/", &[]), Err(TargetError::NoHost));
        assert_eq!(
            read("ftp://chat.example/", &["chat.example"]),
            Err(TargetError::ForwardProxy)
        );
        assert_eq!(
            read("http://user@chat.example/", &["chat.example"]),
            Err(TargetError::BadHost)
        );
        assert_eq!(
            read_as(
                Version::HTTP_11,
                &Method::CONNECT,
                "chat.example:443",
                &["chat.example:443"]
            ),
            Err(TargetError::ForwardProxy)
        );
        assert_eq!(
            read_as(Version::HTTP_2, &Method::GET, "https://chat.example/x", &[])
                .unwrap()
                .path,
            "/x"
        );
    }

    #[test]
    fn the_query_travels_as_it_is() {
        let target = read("/a/%2e%2e/b?x=..%2f&y=%zz", &["h"]).unwrap();
        assert_eq!(target.forward, "/b?x=..%2f&y=%zz");
    }

    const PIECES: &str =
        "(/|//|\\.|\\.\\.|%2e|%2E%2e|%2f|%5C|\\\\|a|websocket|sockjs|%77|%25|%00|;){0,9}";

    proptest! {
        /// The short way says what the parser would have said.
        #[test]
        fn a_usual_host_is_read_as_any_other(text in "[aZ0.:_%@\\[-]{0,4}(:[0-9]{0,6})?") {
            if let Some(name) = usual_name(&text) {
                prop_assert_eq!(Ok(name.to_ascii_lowercase()), unusual_name(&text));
            }
        }

        #[test]
        fn normalising_twice_changes_nothing(path in PIECES) {
            if let Ok(once) = table(&format!("/{path}")) {
                let twice = table(&once);
                prop_assert_eq!(twice, Ok(once));
            }
        }

        /// However a reader behind us treats slashes, escapes and dots, it ends at the same place.
        #[test]
        fn every_reader_goes_to_the_same_place(path in PIECES) {
            let path = format!("/{path}");
            if let Ok(out) = table(&path) {
                let here = streamer(&out);
                for text in [&path, &out] {
                    for (decode, merge) in [(false, false), (true, false), (false, true), (true, true)] {
                        let mut read = percent_decode(text, decode);
                        if merge {
                            while read.contains("//") {
                                read = read.replace("//", "/");
                            }
                        }
                        prop_assert_eq!(streamer(&resolve(&read)), here, "{} read as {}", text, read);
                    }
                }
                prop_assert!(!out.split('/').any(|segment| segment == ".." || segment == "."));
            }
        }

        #[test]
        fn any_bytes_are_survived(path in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            let _ = normalise(&path, streamer);
        }
    }

    /// Another reader, written apart from the code above.
    fn percent_decode(text: &str, slashes: bool) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let byte = rest
                .strip_prefix('%')
                .and_then(|hex| hex.get(..2))
                .and_then(|hex| u8::from_str_radix(hex, 16).ok());
            match byte {
                Some(byte @ (b'/' | b'\\')) if !slashes => {
                    out.push_str(if byte == b'/' { "%2F" } else { "%5C" });
                    rest = &rest[3..];
                }
                Some(byte) => {
                    out.push(if byte == b'\\' { '/' } else { char::from(byte) });
                    rest = &rest[3..];
                }
                None => {
                    out.push(if c == '\\' && slashes { '/' } else { c });
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
        out
    }

    fn resolve(path: &str) -> String {
        let mut stack: Vec<&str> = vec![];
        let segments: Vec<&str> = path.split('/').collect();
        for (n, segment) in segments.iter().enumerate().skip(1) {
            let last = n + 1 == segments.len();
            match *segment {
                ".." => {
                    stack.pop();
                    if last {
                        stack.push("");
                    }
                }
                "." => {
                    if last {
                        stack.push("");
                    }
                }
                other => stack.push(other),
            }
        }
        format!("/{}", stack.join("/"))
    }
}
