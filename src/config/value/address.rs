//! Addresses, hosts and ranges.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde_json::{Value as Json, json};

use super::{Reason, Word};
use crate::{
    base::id::ListenAddr,
    config::model::{HostPattern, Server},
};

impl Word for ListenAddr {
    const EXPECTED: &str = "an IP address and a port, such as \"0.0.0.0:8080\" or \"[::]:8080\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        text.parse::<SocketAddr>().map(Self).map_err(|_| {
            let port = text.strip_prefix(':').unwrap_or(text);
            if port.parse::<u16>().is_ok() {
                return Reason::new("a port without an address").help(format!(
                    "write \"0.0.0.0:{port}\" for all interfaces, \"127.0.0.1:{port}\" for this \
                     machine only"
                ));
            }
            if text.parse::<IpAddr>().is_ok() {
                return Reason::new("an address without a port");
            }
            match text.strip_prefix("localhost:") {
                Some(port) => Reason::new("a name").help(format!("write \"127.0.0.1:{port}\"")),
                None if host_port(text, None).is_ok() => {
                    Reason::new("a name, but listeners are opened on addresses")
                }
                None => Reason::new("this is neither"),
            }
        })
    }

    fn print(&self) -> String {
        self.0.to_string()
    }

    fn number(number: i64) -> Reason {
        match u16::try_from(number) {
            Ok(port) => Self::parse(&port.to_string())
                .err()
                .unwrap_or_else(|| Reason::new("this is a number")),
            Err(_) => Reason::new("this is a number"),
        }
    }
}

impl Word for SocketAddr {
    const EXPECTED: &str = "an IP address, with or without a port, such as \"10.96.0.10\"";

    /// Without a port: that of DNS.
    fn parse(text: &str) -> Result<Self, Reason> {
        text.parse()
            .or_else(|_| text.parse().map(|address: IpAddr| Self::new(address, 53)))
            .map_err(|_| Reason::new("this is not an IP address"))
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

impl Word for Server {
    const EXPECTED: &str = "the address of an HTTP server, such as \"http://127.0.0.1:3000\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(
                Reason::new("`http://` is missing").help(format!("write \"http://{text}\""))
            );
        };
        if scheme.eq_ignore_ascii_case("https") {
            return Err(Reason::new("only http").help(
                "the monolith is reached in plain text, inside the cluster; TLS ends at the gateway",
            ));
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(Reason::new(format!("`{scheme}` is not http")));
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(Reason::new("a path cannot stand here").help(
                "requests are passed on with the path that they came with; routes match it by \
                 `[[route]] path`",
            ));
        }
        if authority.contains('@') {
            return Err(Reason::new("a user name cannot stand here"));
        }
        let (host, port) = host_port(authority, Some(80))?;
        Ok(Self {
            host: host.into(),
            port,
        })
    }

    fn print(&self) -> String {
        if self.host.contains(':') {
            format!("http://[{}]:{}", self.host, self.port)
        } else {
            format!("http://{}:{}", self.host, self.port)
        }
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^[hH][tT][tT][pP]://[^/?#@]+/?$|\$\{");
    }
}

/// Where a streamer is: an address, or a name that is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Endpoint {
    /// Lower case; an IPv6 address is without brackets.
    pub(in crate::config) host: String,
    pub(in crate::config) port: u16,
}

impl Word for Endpoint {
    const EXPECTED: &str = "host and port of a streamer, such as \"10.0.0.7:3000\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        if let Some((scheme, rest)) = text.split_once("://") {
            let rest = rest.split('/').next().unwrap_or(rest);
            return Err(
                Reason::new(format!("`{scheme}://` is too much")).help(format!("write \"{rest}\""))
            );
        }
        let (host, port) = host_port(text, None)?;
        if port == 0 {
            return Err(Reason::new("no streamer listens on port 0"));
        }
        Ok(Self { host, port })
    }

    fn print(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Splits `host:port`; the host is an IP address or a DNS name, in lower case.
pub(super) fn host_port(text: &str, default: Option<u16>) -> Result<(String, u16), Reason> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip().to_string(), address.port()));
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let (host, port) = match (bare, text.rsplit_once(':')) {
        (Some(host), _) => (host, None),
        (None, Some((host, _))) if host.contains(':') => {
            return Err(
                Reason::new("an IPv6 address stands in brackets").help("write \"[fd00::7]:3000\"")
            );
        }
        (None, Some((host, port))) => (host, Some(port)),
        (None, None) => (text, None),
    };
    let port = match port {
        Some(port) => port
            .parse()
            .map_err(|_| Reason::new(format!("`{port}` is not a port")))?,
        None => default.ok_or_else(|| Reason::new("the port is missing"))?,
    };
    if host.is_empty() {
        return Err(Reason::new("the host is missing"));
    }
    let host = host.to_ascii_lowercase();
    if host.parse::<IpAddr>().is_ok() || (bare.is_none() && is_host_name(&host)) {
        Ok((host, port))
    } else {
        Err(Reason::new(format!("`{host}` is not a host name")))
    }
}

/// Letters, digits, `-` and `_` in labels of at most 63 bytes, 253 together (RFC 1123, and `_` as
/// many resolvers allow it).
fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let all_digits = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.len() <= 253 && !all_digits && text.split('.').all(label)
}

/// A name to ask the DNS for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct DnsName(pub(in crate::config) String);

impl Word for DnsName {
    const EXPECTED: &str = "a DNS name, such as \"rocketchat-ddp-streamer-headless\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        if is_host_name(text) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(match text.rsplit_once(':') {
            Some((name, port)) if is_host_name(name) && port.parse::<u16>().is_ok() => {
                Reason::new("a port cannot stand here")
                    .help(format!("write `name = \"{name}\"` and `port = {port}`"))
            }
            _ => Reason::new("this is not a DNS name"),
        })
    }

    fn print(&self) -> String {
        self.0.clone()
    }
}

impl Word for IpNet {
    const EXPECTED: &str = "a range of addresses, such as \"10.0.0.0/8\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        let range = text
            .parse::<Self>()
            .or_else(|_| text.parse::<IpAddr>().map(Self::from))
            .map_err(|_| Reason::new("this is not a range"))?;
        let whole = range.trunc();
        if whole != range {
            return Err(Reason::new(format!("the range begins at {}", whole.addr()))
                .help(format!("write \"{whole}\"")));
        }
        Ok(range)
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

impl Word for HostPattern {
    const EXPECTED: &str = "a host name, \"*.example.com\" or \"*\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        let lower = text.to_ascii_lowercase();
        if lower == "*" {
            return Ok(Self::Any);
        }
        if let Some(rest) = lower.strip_prefix("*.") {
            return if is_host_name(rest) {
                Ok(Self::Suffix(rest.to_owned()))
            } else {
                Err(Reason::new("`*.` stands in front of a host name only"))
            };
        }
        if lower.contains("://") {
            return Err(Reason::new("a host, not a URL"));
        }
        let bare = lower.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        if is_host_name(&lower) || lower.parse::<IpAddr>().is_ok() || bare.is_some() {
            return Ok(Self::Exact(lower));
        }
        Err(match lower.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => {
                Reason::new("a host without a port").help(format!("write \"{host}\""))
            }
            _ => Reason::new("this is none of these"),
        })
    }

    fn print(&self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::Exact(host) => host.clone(),
            Self::Suffix(rest) => format!("*.{rest}"),
        }
    }
}
