//! Who the client is, and what the origin is told about it: `X-Forwarded-*`, `X-Real-IP`, and
//! `Forwarded` (RFC 7239) as a source.
//!
//! Only a peer within the trusted ranges is believed. `X-Forwarded-For` is read from its right end,
//! where the nearest proxy wrote: entries of trusted proxies are passed over, the first other one is
//! the client. Whatever stands to the left of it was sent by the client and proves nothing.
//!
//! A trusted proxy must set or remove `X-Forwarded-For`. `Forwarded` counts only when the former is
//! absent, because a proxy that knows just one of the two passes the other one on unread.

use std::net::{IpAddr, Ipv6Addr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::base::id::{ClientAddr, PeerAddr};

/// What can be believed about where a request came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub client: ClientAddr,
    /// Whether the peer's forwarding headers are believed at all.
    pub trusted: bool,
    /// Whether the client itself spoke https, as far as known.
    pub https: bool,
}

/// Reads the forwarding headers of a request.
///
/// `https` says whether the peer's own connection was encrypted; `is_trusted` decides about an
/// address of a proxy.
pub fn origin(
    headers: &HeaderMap,
    peer: PeerAddr,
    https: bool,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Origin {
    let peer = peer.0.ip().to_canonical();
    if !is_trusted(peer) {
        return Origin {
            client: ClientAddr(peer),
            trusted: false,
            https,
        };
    }
    let client = if headers.contains_key(&X_FORWARDED_FOR) {
        farthest(peer, entries(headers, &X_FORWARDED_FOR), &is_trusted)
    } else {
        farthest(
            peer,
            entries(headers, &header::FORWARDED)
                .map(|element| parameter(element, "for").unwrap_or_default()),
            &is_trusted,
        )
    };
    Origin {
        client: ClientAddr(client),
        trusted: true,
        https: forwarded_https(headers).unwrap_or(https),
    }
}

/// Writes the forwarding headers for the next hop.
///
/// The peer is appended to `X-Forwarded-For`, so that the n-th entry from the end is the client when
/// n proxies, this one included, are in front: what Meteor's `HTTP_FORWARDED_COUNT` counts
/// (`meteor/meteor:packages/ddp-server/livedata_server.js`, `_clientAddress`). From a peer that is not
/// trusted nothing is taken over. `host` is what the client asked for.
pub fn apply(headers: &mut HeaderMap, origin: &Origin, peer: PeerAddr, host: Option<&HeaderValue>) {
    let peer = peer.0.ip().to_canonical();
    // A look at all names costs less than asking for each of these, and most clients send none.
    let forwarded = headers.keys().any(is_forwarding);
    if forwarded {
        headers.remove(header::FORWARDED);
        if !origin.trusted {
            for name in &FROM_PROXIES {
                headers.remove(name);
            }
        }
    }
    let address = value(address_text(origin.client.0));
    let chain = if forwarded || origin.client.0 != peer {
        value(chain(headers, origin, peer))
    } else {
        address.clone()
    };
    insert(headers, X_FORWARDED_FOR, chain);
    insert(headers, X_REAL_IP, address);
    let proto = if origin.https { "https" } else { "http" };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    if !forwarded || headers.get_all(&X_FORWARDED_HOST).iter().count() != 1 {
        match host {
            Some(host) => headers.insert(X_FORWARDED_HOST, host.clone()),
            None => headers.remove(X_FORWARDED_HOST),
        };
    }
}

/// `X-Forwarded-For` for the next hop: what came, and the peer.
fn chain(headers: &HeaderMap, origin: &Origin, peer: IpAddr) -> String {
    let chain: Vec<&str> = entries_in_order(headers, &X_FORWARDED_FOR).collect();
    if chain.is_empty() && origin.client.0 != peer {
        // The client came from `Forwarded`, which ends here.
        format!("{}, {}", address_text(origin.client.0), address_text(peer))
    } else if chain.is_empty() {
        address_text(peer)
    } else {
        // Very long chains are junk or a loop; the near end is the one that counts.
        let skip = chain.len().saturating_sub(MAX_ENTRIES);
        format!("{}, {}", chain[skip..].join(", "), address_text(peer))
    }
}

fn is_forwarding(name: &HeaderName) -> bool {
    // The lengths of the names that are compared.
    matches!(name.as_str().len(), 9 | 15..=18)
        && (*name == header::FORWARDED || FROM_PROXIES.contains(name))
}

/// An address as `Display` writes it, which takes ten times as long for IPv4.
pub fn address_text(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else {
        return address.to_string();
    };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            text.push('.');
        }
        for (unit, divisor) in [(octet >= 100, 100), (octet >= 10, 10), (true, 1)] {
            if unit {
                text.push(char::from(b'0' + octet / divisor % 10));
            }
        }
    }
    text
}

/// Follows the chain from the near end as far as proxies are trusted.
///
/// An unreadable entry ends the walk: the last address that is known for certain stands.
fn farthest<'a>(
    peer: IpAddr,
    nearest_first: impl Iterator<Item = &'a str>,
    is_trusted: &impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut client = peer;
    for entry in nearest_first.take(MAX_ENTRIES) {
        let Some(address) = node(entry) else {
            break;
        };
        client = address;
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// An address as it stands in either header: with or without port, brackets and quotes.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"').trim();
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (inside, port) = rest.split_once(']')?;
        if !(port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) {
            return None;
        }
        IpAddr::V6(inside.parse::<Ipv6Addr>().ok()?)
    } else if let Ok(address) = text.parse::<IpAddr>() {
        address
    } else {
        let (address, port) = text.rsplit_once(':')?;
        if !is_port(port) {
            return None;
        }
        // Only IPv4 may have a port without brackets; else the last group would be taken for one.
        IpAddr::V4(address.parse().ok()?)
    };
    Some(address.to_canonical())
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The list elements of all lines of a header, the last one first.
///
/// A line that is not text makes one empty element, which ends a walk instead of being skipped.
fn entries<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines: Vec<&str> = headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap_or_default())
        .collect();
    lines
        .into_iter()
        .rev()
        .flat_map(|line| line.rsplit(','))
        .map(str::trim)
}

fn entries_in_order<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
}

/// A parameter of one `Forwarded` element, without its quotes.
fn parameter<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    element.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim()
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().trim_matches('"'))
    })
}

/// What a trusted proxy says about the client's scheme; the nearest statement counts.
fn forwarded_https(headers: &HeaderMap) -> Option<bool> {
    let said = entries(headers, &X_FORWARDED_PROTO).next().or_else(|| {
        entries(headers, &header::FORWARDED)
            .next()
            .and_then(|element| parameter(element, "proto"))
    })?;
    if said.eq_ignore_ascii_case("https") || said.eq_ignore_ascii_case("wss") {
        Some(true)
    } else if said.eq_ignore_ascii_case("http") || said.eq_ignore_ascii_case("ws") {
        Some(false)
    } else {
        None
    }
}

fn value(text: String) -> Option<HeaderValue> {
    // Entries come from header values, so they are valid in one.
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => headers.insert(name, value),
        None => headers.remove(name),
    };
}

/// What only a trusted proxy may say.
const FROM_PROXIES: [HeaderName; 5] = [
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PORT,
    X_FORWARDED_PREFIX,
    X_FORWARDED_SERVER,
];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const X_FORWARDED_SERVER: HeaderName = HeaderName::from_static("x-forwarded-server");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Hops that are looked at; no deployment has as many.
const MAX_ENTRIES: usize = 32;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{Origin, address_text, apply, node, origin};
    use crate::base::id::{ClientAddr, PeerAddr};

    const PEER: &str = "10.0.0.9:4711";

    fn peer(text: &str) -> PeerAddr {
        PeerAddr(text.parse().unwrap())
    }

    fn private(address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10)
            || address == "fd00::1".parse::<IpAddr>().unwrap()
    }

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    fn client(pairs: &[(&'static str, &str)]) -> String {
        origin(&map(pairs), peer(PEER), false, private)
            .client
            .to_string()
    }

    #[test]
    fn without_trust_nothing_is_believed() {
        let headers = map(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4;proto=https"),
        ]);
        let seen = origin(&headers, peer("198.51.100.7:99"), false, private);
        assert_eq!(
            seen,
            Origin {
                client: ClientAddr("198.51.100.7".parse().unwrap()),
                trusted: false,
                https: false
            }
        );
        let mut out = headers;
        apply(
            &mut out,
            &seen,
            peer("198.51.100.7:99"),
            Some(&HeaderValue::from_static("chat.example")),
        );
        assert_eq!(
            out,
            map(&[
                ("x-forwarded-for", "198.51.100.7"),
                ("x-forwarded-proto", "http"),
                ("x-real-ip", "198.51.100.7"),
                ("x-forwarded-host", "chat.example"),
            ])
        );
    }

    #[test]
    fn the_client_is_the_first_untrusted_from_the_right() {
        for (given, expected) in [
            ("203.0.113.5", "203.0.113.5"),
            ("6.6.6.6, 203.0.113.5", "203.0.113.5"),
            ("6.6.6.6, 203.0.113.5, 10.1.1.1", "203.0.113.5"),
            ("6.6.6.6,203.0.113.5:5555 ,10.1.1.1:80", "203.0.113.5"),
            ("10.7.7.7, 10.1.1.1", "10.7.7.7"),
            ("[2001:db8::7]:443", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("\"[2001:db8::7]\"", "2001:db8::7"),
            ("::ffff:203.0.113.5", "203.0.113.5"),
            ("203.0.113.5, junk", "10.0.0.9"),
            ("203.0.113.5, junk, 10.1.1.1", "10.1.1.1"),
            ("unknown", "10.0.0.9"),
            ("", "10.0.0.9"),
            (",", "10.0.0.9"),
            ("203.0.113.5, ", "10.0.0.9"),
        ] {
            assert_eq!(client(&[("x-forwarded-for", given)]), expected, "{given}");
        }
        assert_eq!(
            client(&[
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-for", "203.0.113.5")
            ]),
            "203.0.113.5",
            "lines are one list"
        );
    }

    #[test]
    fn forwarded_counts_only_alone() {
        assert_eq!(
            client(&[(
                "forwarded",
                "for=6.6.6.6, For=\"[2001:db8::7]:99\";proto=https;by=10.0.0.1"
            )]),
            "2001:db8::7"
        );
        assert_eq!(
            client(&[
                ("forwarded", "for=6.6.6.6"),
                ("x-forwarded-for", "203.0.113.5")
            ]),
            "203.0.113.5"
        );
        for junk in ["for=_hidden", "for=unknown", "by=1.1.1.1", ";;=", "for"] {
            assert_eq!(client(&[("forwarded", junk)]), "10.0.0.9", "{junk}");
        }
        let headers = map(&[("forwarded", "for=203.0.113.5;proto=https")]);
        let seen = origin(&headers, peer(PEER), false, private);
        assert!(seen.https);
        let mut out = headers;
        apply(&mut out, &seen, peer(PEER), None);
        assert_eq!(out["x-forwarded-for"], "203.0.113.5, 10.0.0.9");
        assert!(!out.contains_key("forwarded"));
    }

    #[test]
    fn forwarded_count_finds_the_client() {
        // What Meteor does with HTTP_FORWARDED_COUNT: the n-th entry from the end.
        let meteor = |headers: &HeaderMap, count: usize| {
            let list = headers["x-forwarded-for"].to_str().unwrap().to_owned();
            let entries: Vec<String> = list.split(',').map(|e| e.trim().to_owned()).collect();
            entries[entries.len() - count].clone()
        };
        let mut direct = map(&[("x-forwarded-for", "6.6.6.6")]);
        let seen = origin(&direct, peer("203.0.113.5:1"), true, private);
        apply(&mut direct, &seen, peer("203.0.113.5:1"), None);
        assert_eq!(meteor(&direct, 1), "203.0.113.5");

        let mut behind = map(&[("x-forwarded-for", "6.6.6.6, 203.0.113.5")]);
        let seen = origin(&behind, peer(PEER), true, private);
        apply(&mut behind, &seen, peer(PEER), None);
        assert_eq!(meteor(&behind, 2), "203.0.113.5");
        assert_eq!(behind["x-real-ip"], "203.0.113.5");
    }

    #[test]
    fn a_trusted_proxy_says_scheme_and_host() {
        let headers = map(&[
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "outer.example"),
        ]);
        let seen = origin(&headers, peer(PEER), false, private);
        let mut out = headers;
        apply(
            &mut out,
            &seen,
            peer(PEER),
            Some(&HeaderValue::from_static("inner.example")),
        );
        assert_eq!(out["x-forwarded-proto"], "https");
        assert_eq!(out["x-forwarded-host"], "outer.example");
        let odd = map(&[("x-forwarded-proto", "javascript:")]);
        assert!(origin(&odd, peer(PEER), true, private).https);
    }

    proptest! {
        #[test]
        fn addresses_are_written_as_display_writes_them(v4 in any::<[u8; 4]>(), v6 in any::<[u16; 8]>()) {
            for address in [IpAddr::from(v4), IpAddr::from(v6)] {
                prop_assert_eq!(address_text(address), address.to_string());
            }
        }

        /// Whatever of these a client sends, alone or together.
        #[test]
        fn nothing_of_an_untrusted_peer_travels_on(present in any::<[bool; 7]>()) {
            let names = [
                "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port",
                "x-forwarded-prefix", "x-forwarded-server", "x-forwarded-proto",
            ];
            let mut headers = HeaderMap::new();
            for (name, _) in names.iter().zip(present).filter(|(_, present)| *present) {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static("spoof"));
            }
            let seen = origin(&headers, peer(PEER), false, |_| false);
            apply(&mut headers, &seen, peer(PEER), None);
            prop_assert!(headers.values().all(|value| value != "spoof"), "{headers:?}");
        }

        #[test]
        fn any_header_is_survived(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..6),
            forwarded in proptest::bool::ANY,
        ) {
            let mut headers = HeaderMap::new();
            let name = if forwarded { "forwarded" } else { "x-forwarded-for" };
            for value in &values {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    headers.append(HeaderName::from_static(name), value);
                }
            }
            let seen = origin(&headers, peer(PEER), false, private);
            apply(&mut headers, &seen, peer(PEER), None);
            let real: IpAddr = headers["x-real-ip"].to_str().unwrap().parse().unwrap();
            prop_assert_eq!(real, seen.client.0);
            let chain = headers["x-forwarded-for"].to_str().unwrap();
            prop_assert!(chain.ends_with("10.0.0.9"));
        }

        #[test]
        fn what_the_client_puts_in_front_changes_nothing(spoof in "[0-9a-f:.,\\[\\]\" ]{0,60}") {
            let list = format!("{spoof}, 203.0.113.5, 10.2.2.2");
            prop_assert_eq!(client(&[("x-forwarded-for", &list)]), "203.0.113.5");
        }

        #[test]
        fn an_address_reads_back(v4 in any::<u32>(), v6 in any::<u128>(), port in any::<u16>()) {
            let v4 = IpAddr::V4(v4.into());
            let v6 = IpAddr::V6(v6.into());
            prop_assert_eq!(node(&v4.to_string()), Some(v4));
            prop_assert_eq!(node(&format!("{v4}:{port}")), Some(v4));
            prop_assert_eq!(node(&v6.to_string()), Some(v6.to_canonical()));
            prop_assert_eq!(node(&format!("[{v6}]")), Some(v6.to_canonical()));
            prop_assert_eq!(node(&format!("\"[{v6}]:{port}\"")), Some(v6.to_canonical()));
        }
    }
}
