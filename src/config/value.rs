//! The kinds of values: how each is read, described and written.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use serde_json::{Value as Json, json};

use super::{
    diagnostic::Diagnostic,
    model::{DnsKind, HostPattern, LogFormat, Server},
    node::{Data, Node},
    table::{Input, Setting, nearest},
    units::{self, UnitError},
};
use crate::base::{id::ListenAddr, secret::Secret};

/// A value that a key may have.
pub(super) trait Value: Sized + Clone {
    const INPUT: Input;
    /// Never shown.
    const SECRET: bool = false;

    /// `None`: the fault has been pushed.
    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self>;
    /// JSON schema.
    fn schema() -> Json;
    /// As TOML.
    fn print(&self) -> String;
}

/// A value that is written as one string.
pub(super) trait Word: Sized + Clone {
    /// Noun phrase with an example.
    const EXPECTED: &str;
    /// Units to propose when a bare number stands there.
    const UNITS: &[&str] = &[];
    const SECRET: bool = false;

    fn parse(text: &str) -> Result<Self, Reason>;
    fn print(&self) -> String;
    /// Why a number is not enough.
    fn number(number: i64) -> Reason {
        if Self::UNITS.is_empty() {
            Reason::new("this is a number")
        } else {
            no_unit(&number.to_string(), Self::UNITS)
        }
    }
    /// Further members of the JSON schema.
    fn restrict(schema: &mut Json) {
        let _ = schema;
    }
}

/// Why a text is not the value that is wanted.
pub(super) struct Reason {
    label: String,
    help: Option<String>,
}

impl Reason {
    fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            help: None,
        }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl<T: Word> Value for T {
    const INPUT: Input = Input::Text;
    const SECRET: bool = <T as Word>::SECRET;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        let reason = match &node.data {
            Data::Text(text) => match T::parse(text) {
                Ok(value) => return Some(value),
                Err(reason) => reason,
            },
            Data::Integer(Some(number)) => T::number(*number),
            _ => Reason::new(format!("this is {}", node.noun())),
        };
        let message = format!("`{path}` must be {}", T::EXPECTED);
        let mut fault = Diagnostic::error(&node.place, message).label(reason.label);
        fault.help = reason.help;
        faults.push(fault);
        None
    }

    fn schema() -> Json {
        let mut schema = json!({ "type": "string" });
        T::restrict(&mut schema);
        schema
    }

    fn print(&self) -> String {
        quote(&Word::print(self))
    }
}

/// A TOML string that is read back as it is, without substitution.
pub(super) fn quote(text: &str) -> String {
    toml::Value::String(text.replace("${", "$${")).to_string()
}

fn no_unit(number: &str, units: &[&str]) -> Reason {
    let choice: Vec<String> = units
        .iter()
        .map(|unit| format!("\"{number}{unit}\""))
        .collect();
    Reason::new("a number without a unit").help(format!("write {}", choice.join(" or ")))
}

fn unit_reason(error: UnitError, text: &str, units: &[&str]) -> Reason {
    let text = text.trim();
    match error {
        UnitError::NoUnit if text.bytes().all(|byte| byte.is_ascii_digit()) => no_unit(text, units),
        _ => Reason::new(error.to_string()),
    }
}

impl Word for Duration {
    const EXPECTED: &str = "a duration in d, h, m, s or ms, such as \"10s\"";
    const UNITS: &[&str] = &["s", "ms"];

    fn parse(text: &str) -> Result<Self, Reason> {
        units::duration(text).map_err(|error| unit_reason(error, text, Self::UNITS))
    }

    fn print(&self) -> String {
        units::print_duration(*self)
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^\s*([0-9_]+\s*(d|h|m|s|ms)\s*)+$|\$\{");
    }
}

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl Word for Size {
    const EXPECTED: &str = "a size in B, KiB, MiB or GiB, such as \"200MiB\"";
    const UNITS: &[&str] = &["MiB", "KiB"];

    fn parse(text: &str) -> Result<Self, Reason> {
        units::size(text)
            .map(Self)
            .map_err(|error| unit_reason(error, text, Self::UNITS))
    }

    fn print(&self) -> String {
        units::print_size(self.0)
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^\s*[0-9_]+\s*(B|[kK]B|MB|GB|TB|KiB|MiB|GiB|TiB)\s*$|\$\{");
    }
}

/// Events per second, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PerSecond(pub(super) u32);

impl Word for PerSecond {
    const EXPECTED: &str = "a rate, such as \"20/s\" or \"600/min\"";
    const UNITS: &[&str] = &["/s", "/min"];

    fn parse(text: &str) -> Result<Self, Reason> {
        units::rate(text)
            .map(Self)
            .map_err(|error| unit_reason(error, text, Self::UNITS))
    }

    fn print(&self) -> String {
        format!("{}/s", self.0)
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^\s*[0-9_]+\s*/\s*(s|min)\s*$|\$\{");
    }
}

/// Bytes per second, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BytesPerSecond(pub(super) u32);

impl Word for BytesPerSecond {
    const EXPECTED: &str = "a rate of bytes, such as \"128KiB/s\"";
    const UNITS: &[&str] = &["KiB/s", "MiB/s"];

    fn parse(text: &str) -> Result<Self, Reason> {
        units::byte_rate(text).map(Self).map_err(|error| {
            let text = text.trim();
            let (number, time) = text.split_once('/').unwrap_or((text, "s"));
            match error {
                UnitError::NoUnit if units::size(number).is_ok() => {
                    Reason::new("`/s` is missing").help(format!("write \"{number}/s\""))
                }
                UnitError::NoUnit if text.contains('/') => {
                    Reason::new("bytes have a unit").help(format!(
                        "write \"{}B/{time}\" or \"{}KiB/{time}\"",
                        number.trim(),
                        number.trim()
                    ))
                }
                error => unit_reason(error, text, Self::UNITS),
            }
        })
    }

    fn print(&self) -> String {
        format!("{}/s", units::print_size(u64::from(self.0)))
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] =
            json!(r"^\s*[0-9_]+\s*(B|[kK]B|MB|GB|KiB|MiB|GiB)\s*/\s*(s|min)\s*$|\$\{");
    }
}

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
pub(super) struct Endpoint {
    /// Lower case; an IPv6 address is without brackets.
    pub(super) host: String,
    pub(super) port: u16,
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
fn host_port(text: &str, default: Option<u16>) -> Result<(String, u16), Reason> {
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
pub(super) struct DnsName(pub(super) String);

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

/// A path prefix: begins with `/`; does not end with one unless it is `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RoutePath(pub(super) String);

impl Word for RoutePath {
    const EXPECTED: &str = "a path that begins with /, such as \"/chat\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        if !text.starts_with('/') {
            return Err(Reason::new("`/` is missing").help(format!("write \"/{text}\"")));
        }
        if text.contains(['?', '#', '%', '\\', '*']) || !text.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(Reason::new("plain segments only")
                .help("a path matches by whole segments, without wildcards and escapes"));
        }
        let path = text.trim_end_matches('/');
        let odd = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
        if path.split('/').skip(1).any(odd) {
            return Err(Reason::new(
                "an empty segment or a dot segment never matches",
            ));
        }
        Ok(Self(if path.is_empty() { "/" } else { path }.to_owned()))
    }

    fn print(&self) -> String {
        self.0.clone()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^/|\$\{");
    }
}

/// The `Origin` header of a page: scheme and host, the port when it is not the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WebOrigin(pub(super) String);

impl Word for WebOrigin {
    const EXPECTED: &str = "an origin, such as \"https://chat.example.com\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        let lower = text.to_ascii_lowercase();
        let Some((scheme, host)) = lower.split_once("://") else {
            return Err(
                Reason::new("`https://` is missing").help(format!("write \"https://{text}\""))
            );
        };
        let host = host.strip_suffix('/').unwrap_or(host);
        if host.contains(['/', '?', '#', '@', '*', ' ']) || host.is_empty() {
            return Err(Reason::new("scheme, host and port only"));
        }
        // Browsers leave the scheme's own port out (RFC 6454 section 6.2).
        let own_port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        let host = match host.strip_suffix(own_port) {
            Some(short) if !own_port.is_empty() => short,
            _ => host,
        };
        Ok(Self(format!("{scheme}://{host}")))
    }

    fn print(&self) -> String {
        self.0.clone()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?#@* ]+/?$|\$\{");
    }
}

/// A token as cookie names are (RFC 6265 section 4.1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CookieName(pub(super) String);

impl Word for CookieName {
    const EXPECTED: &str = "the name of a cookie";

    fn parse(text: &str) -> Result<Self, Reason> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if text.is_empty() || text.len() > 64 || !text.bytes().all(token) {
            return Err(Reason::new("letters, digits, `_` and `-` only, at most 64"));
        }
        Ok(Self(text.to_owned()))
    }

    fn print(&self) -> String {
        self.0.clone()
    }
}

/// The name of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PoolRef(pub(super) String);

impl Word for PoolRef {
    const EXPECTED: &str = "the name of a pool";

    fn parse(text: &str) -> Result<Self, Reason> {
        if text.is_empty() {
            return Err(Reason::new("this is empty"));
        }
        Ok(Self(text.to_owned()))
    }

    fn print(&self) -> String {
        self.0.clone()
    }
}

/// A file or directory; a relative one is meant from the directory of the configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilePath(pub(super) PathBuf);

impl Word for FilePath {
    const EXPECTED: &str = "a path, such as \"/etc/ddp-gateway/tls.crt\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        if text.is_empty() || text.contains('\0') {
            return Err(Reason::new("this is empty"));
        }
        Ok(Self(PathBuf::from(text)))
    }

    fn print(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
}

/// A text that must not be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SecretText(pub(super) Secret<String>);

impl Word for SecretText {
    const EXPECTED: &str = "a string of at least 16 characters";
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, Reason> {
        if text.len() < 16 {
            return Err(Reason::new("too short to be a secret")
                .help("make one with: head -c 32 /dev/urandom | base64"));
        }
        Ok(Self(Secret::new(text.to_owned())))
    }

    fn print(&self) -> String {
        "***".to_owned()
    }
}

/// A filter of `tracing` directives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogFilter(pub(super) String);

impl Word for LogFilter {
    const EXPECTED: &str = "a level (\"info\") or directives (\"info,ddp_gateway::pool=debug\")";

    fn parse(text: &str) -> Result<Self, Reason> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        for directive in text.split(',') {
            let directive = directive.trim();
            let target = |text: &str| {
                !text.is_empty()
                    && text
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"_:-.[]{}".contains(&b))
            };
            let (name, given) = match directive.rsplit_once('=') {
                Some((name, given)) => (name, given),
                None => ("", directive),
            };
            if level(given)
                && (name.is_empty() != directive.contains('='))
                && (name.is_empty() || target(name))
            {
                continue;
            }
            // A target alone means all of its levels, so a mistyped level would be taken as one.
            let reason = Reason::new(format!("`{given}` is not a level"));
            return Err(match nearest(given, LEVELS.into_iter()) {
                Some(meant) => reason.help(format!("did you mean `{meant}`?")),
                None => reason.help(format!("levels are {}", LEVELS.join(", "))),
            });
        }
        Ok(Self(text.to_owned()))
    }

    fn print(&self) -> String {
        self.0.clone()
    }
}

/// Finds a word in a list, or says what was probably meant.
fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, Reason> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let reason = Reason::new("this is neither");
    Err(match nearest(text, words.iter().map(|(word, _)| *word)) {
        Some(meant) => reason.help(format!("did you mean \"{meant}\"?")),
        None => reason,
    })
}

impl Word for LogFormat {
    const EXPECTED: &str = "\"json\" or \"text\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        one_of(text, &[("json", Self::Json), ("text", Self::Text)])
    }

    fn print(&self) -> String {
        match self {
            Self::Json => "json",
            Self::Text => "text",
        }
        .to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^(json|text)$|\$\{");
    }
}

/// What to ask the DNS for; the port is a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Address,
    Srv,
}

impl Word for Record {
    const EXPECTED: &str = "\"a\" (addresses, IPv4 and IPv6) or \"srv\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        one_of(
            &text.to_ascii_lowercase(),
            &[("a", Self::Address), ("srv", Self::Srv)],
        )
    }

    fn print(&self) -> String {
        match self {
            Self::Address => "a",
            Self::Srv => "srv",
        }
        .to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^([aA]|[sS][rR][vV])$|\$\{");
    }
}

impl Record {
    pub(super) fn with_port(self, port: u16) -> DnsKind {
        match self {
            Self::Address => DnsKind::Address { port },
            Self::Srv => DnsKind::Srv,
        }
    }
}

/// A value, or a word instead of it, such as "off".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Or<T, W> {
    Value(T),
    Word(W),
}

impl<T, W> Or<T, W> {
    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Word(_) => None,
        }
    }
}

/// A fixed word.
pub(super) trait Literal: Copy {
    const TEXT: &str;
    const SELF: Self;
}

/// `"off"`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Off;

impl Literal for Off {
    const TEXT: &str = "off";
    const SELF: Self = Self;
}

/// `"auto"`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Auto;

impl Literal for Auto {
    const TEXT: &str = "auto";
    const SELF: Self = Self;
}

impl<T: Value, W: Literal> Value for Or<T, W> {
    const INPUT: Input = T::INPUT;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        if let Data::Text(text) = &node.data {
            if text == W::TEXT {
                return Some(Self::Word(W::SELF));
            }
            if T::INPUT == Input::Plain && nearest(text, [W::TEXT].into_iter()).is_some() {
                let message = format!("`{path}` must be a number or \"{}\"", W::TEXT);
                let fault = Diagnostic::error(&node.place, message)
                    .label("this is neither")
                    .help(format!("did you mean \"{}\"?", W::TEXT));
                faults.push(fault);
                return None;
            }
        }
        if matches!(node.data, Data::Bool(_)) {
            let message = format!("`{path}` cannot be a boolean");
            let fault = Diagnostic::error(&node.place, message)
                .label("this is a boolean")
                .help(format!("the word is \"{}\"", W::TEXT));
            faults.push(fault);
            return None;
        }
        let before = faults.len();
        let value = T::read(node, path, faults);
        for fault in &mut faults[before..] {
            fault.message.push_str(&format!(" or \"{}\"", W::TEXT));
        }
        value.map(Self::Value)
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "const": W::TEXT }, T::schema()] })
    }

    fn print(&self) -> String {
        match self {
            Self::Value(value) => value.print(),
            Self::Word(_) => quote(W::TEXT),
        }
    }
}

impl Value for bool {
    const INPUT: Input = Input::Plain;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        if let Data::Bool(value) = node.data {
            return Some(value);
        }
        let mut fault = Diagnostic::error(&node.place, format!("`{path}` must be true or false"))
            .label(format!("this is {}", node.noun()));
        if let Data::Text(text) = &node.data
            && let "true" | "false" = text.as_str()
        {
            fault = fault.help(format!("write {text} without quotation marks"));
        }
        faults.push(fault);
        None
    }

    fn schema() -> Json {
        json!({ "type": "boolean" })
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

/// A whole number between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<const MIN: u32, const MAX: u32> Value for Whole<MIN, MAX> {
    const INPUT: Input = Input::Plain;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        let label = match node.data {
            Data::Integer(number) => {
                let number = number.and_then(|number| u32::try_from(number).ok());
                match number.filter(|number| (MIN..=MAX).contains(number)) {
                    Some(number) => return Some(Self(number)),
                    None => "out of range".to_owned(),
                }
            }
            Data::Text(_) => "this is a string".to_owned(),
            _ => format!("this is {}", node.noun()),
        };
        let message = format!("`{path}` must be a whole number from {MIN} to {MAX}");
        faults.push(Diagnostic::error(&node.place, message).label(label));
        None
    }

    fn schema() -> Json {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }

    fn print(&self) -> String {
        self.0.to_string()
    }
}

/// A share of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share(pub(super) f64);

impl Value for Share {
    const INPUT: Input = Input::Plain;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        let (label, help) = match &node.data {
            Data::Float(share) if (0.0..=1.0).contains(share) => return Some(Self(*share)),
            Data::Integer(Some(0)) => return Some(Self(0.0)),
            Data::Integer(Some(1)) => return Some(Self(1.0)),
            Data::Integer(Some(percent @ 2..=100)) => {
                let percent = u32::try_from(*percent).unwrap_or(100);
                let share = f64::from(percent) / 100.0;
                (
                    "out of range".to_owned(),
                    Some(format!("{percent} % is {share}")),
                )
            }
            Data::Float(_) | Data::Integer(_) => ("out of range".to_owned(), None),
            _ => (format!("this is {}", node.noun()), None),
        };
        let message = format!("`{path}` must be a share from 0.0 to 1.0");
        let mut fault = Diagnostic::error(&node.place, message).label(label);
        fault.help = help;
        faults.push(fault);
        None
    }

    fn schema() -> Json {
        json!({ "type": "number", "minimum": 0, "maximum": 1 })
    }

    fn print(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// An array; each element keeps its place.
#[derive(Clone, Debug)]
pub(super) struct Many<T>(pub(super) Elements<T>);

/// A value that stands alone, or an array of such.
#[derive(Clone, Debug)]
pub(super) struct OneOrMany<T>(pub(super) Elements<T>);

#[derive(Clone, Debug)]
pub(super) struct Elements<T> {
    pub(super) all: Vec<Setting<T>>,
    /// Some could not be read, so that nothing can be said about their number.
    faulty: bool,
}

impl<T: Value> Elements<T> {
    fn read(nodes: &[Node], path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Self {
        let read = |node: &Node| {
            if matches!(node.data, Data::Unknown) {
                return None;
            }
            let value = T::read(node, path, faults)?;
            Some(Setting {
                value,
                place: node.place.clone(),
                path: Arc::clone(path),
                stand_in: false,
            })
        };
        let all: Vec<Setting<T>> = nodes.iter().filter_map(read).collect();
        Self {
            faulty: all.len() < nodes.len(),
            all,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && !self.faulty
    }
}

fn print_elements<T: Value>(elements: &[Setting<T>]) -> String {
    let printed: Vec<String> = elements
        .iter()
        .map(|element| element.value.print())
        .collect();
    format!("[{}]", printed.join(", "))
}

impl<T: Value> Value for Many<T> {
    const INPUT: Input = Input::List;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        if let Data::List(nodes) = &node.data {
            return Some(Self(Elements::read(nodes, path, faults)));
        }
        let mut fault = Diagnostic::error(&node.place, format!("`{path}` must be an array"))
            .label(format!("this is {}", node.noun()));
        if let Data::Text(text) = &node.data {
            fault = fault.help(format!("write [{}]", quote(text)));
        }
        faults.push(fault);
        None
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": T::schema() })
    }

    fn print(&self) -> String {
        print_elements(&self.0.all)
    }
}

impl<T: Value> Value for OneOrMany<T> {
    const INPUT: Input = Input::OneOrList;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        match &node.data {
            Data::List(nodes) => Some(Self(Elements::read(nodes, path, faults))),
            _ => {
                let one = Elements::read(std::slice::from_ref(node), path, faults);
                (!one.faulty).then_some(Self(one))
            }
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [T::schema(), { "type": "array", "items": T::schema() }] })
    }

    fn print(&self) -> String {
        match self.0.all.as_slice() {
            [one] => one.value.print(),
            many => print_elements(many),
        }
    }
}
