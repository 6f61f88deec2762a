//! Names, paths, filters and other words.

use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::{Reason, Word, one_of};
use crate::{
    base::secret::Secret,
    config::{
        model::{DnsKind, LogFormat, RebalanceMode},
        suggest::nearest,
    },
};

/// A path prefix: begins with `/`; does not end with one unless it is `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct RoutePath(pub(in crate::config) String);

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
pub(in crate::config) struct WebOrigin(pub(in crate::config) String);

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
pub(in crate::config) struct CookieName(pub(in crate::config) String);

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
pub(in crate::config) struct PoolRef(pub(in crate::config) String);

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
pub(in crate::config) struct FilePath(pub(in crate::config) PathBuf);

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
pub(in crate::config) struct SecretText(pub(in crate::config) Secret<String>);

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
pub(in crate::config) struct LogFilter(pub(in crate::config) String);

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

impl Word for RebalanceMode {
    const EXPECTED: &str = "\"off\", \"slow\" or \"fast\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        one_of(
            text,
            &[
                ("off", Self::Off),
                ("slow", Self::Slow),
                ("fast", Self::Fast),
            ],
        )
    }

    fn print(&self) -> String {
        match self {
            Self::Off => "off",
            Self::Slow => "slow",
            Self::Fast => "fast",
        }
        .to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^(off|slow|fast)$|\$\{");
    }
}

/// What to ask the DNS for; the port is a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Record {
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
    pub(in crate::config) fn with_port(self, port: u16) -> DnsKind {
        match self {
            Self::Address => DnsKind::Address { port },
            Self::Srv => DnsKind::Srv,
        }
    }
}
