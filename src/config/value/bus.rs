//! What is written about a message bus.

use serde_json::{Value as Json, json};

use super::{Reason, Word, address::host_port, one_of};
use crate::{base::secret::Secret, config::model::NatsServer};

/// Servers as in Rocket.Chat's `TRANSPORTER`: one URL, or several between commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct NatsUrl {
    /// Never empty.
    pub(in crate::config) servers: Vec<NatsServer>,
    pub(in crate::config) login: UrlLogin,
}

/// Credentials in a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) enum UrlLogin {
    Nobody,
    User(String, Secret<String>),
    Token(Secret<String>),
}

impl Word for NatsUrl {
    const EXPECTED: &str = "the address of a NATS server, such as \"nats://nats:4222\"";

    // No message may repeat what stands in front of `@`.
    fn parse(text: &str) -> Result<Self, Reason> {
        let mut found = Self {
            servers: Vec::new(),
            login: UrlLogin::Nobody,
        };
        for url in text.split(',') {
            let (server, login) = parse_url(url.trim())?;
            match (&found.login, login) {
                (_, UrlLogin::Nobody) => {}
                (UrlLogin::Nobody, login) => found.login = login,
                (known, login) if *known == login => {}
                _ => return Err(Reason::new("different credentials for servers of one bus")),
            }
            found.servers.push(server);
        }
        Ok(found)
    }

    fn print(&self) -> String {
        let servers: Vec<_> = self.servers.iter().map(ToString::to_string).collect();
        servers.join(",")
    }

    fn hidden(&self) -> bool {
        self.login != UrlLogin::Nobody
    }

    fn restrict(schema: &mut Json) {
        schema["examples"] = json!(["nats://nats:4222"]);
    }
}

fn parse_url(url: &str) -> Result<(NatsServer, UrlLogin), Reason> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "nats" => false,
        "tls" => true,
        "monolith+nats" | "monolith+tls" => {
            return Err(Reason::new("only monoliths talk on this bus").help(
                "`monolith+` in TRANSPORTER says that there are no microservices; name the bus \
                 of the streamers, or give their addresses in `streamers`",
            ));
        }
        "ws" | "wss" => return Err(Reason::new("NATS by WebSocket is not spoken here")),
        _ => {
            return Err(
                Reason::new("neither `nats://` nor `tls://`").help("write \"nats://nats:4222\"")
            );
        }
    };
    let (login, authority) = match rest.rsplit_once('@') {
        Some((login, authority)) => (parse_login(login)?, authority),
        None => (UrlLogin::Nobody, rest),
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if authority.contains(['/', '?', '#']) {
        return Err(Reason::new("a path cannot stand here"));
    }
    let (host, port) = host_port(authority, Some(4222))?;
    if port == 0 {
        return Err(Reason::new("no server listens on port 0"));
    }
    let server = NatsServer {
        host: host.into(),
        port,
        tls,
    };
    Ok((server, login))
}

fn parse_login(text: &str) -> Result<UrlLogin, Reason> {
    let decoded = |part: &str| {
        decode(part).ok_or_else(|| {
            Reason::new("the credentials have a `%` that is no escape").help("write %25 for it")
        })
    };
    Ok(match text.split_once(':') {
        Some((user, password)) => UrlLogin::User(decoded(user)?, Secret::new(decoded(password)?)),
        None => UrlLogin::Token(Secret::new(decoded(text)?)),
    })
}

/// Without percent signs.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.as_bytes().split(|byte| *byte == b'%');
    bytes.extend_from_slice(parts.next()?);
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest);
    }
    String::from_utf8(bytes).ok()
}

/// Moleculer's namespace, a part of each subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Namespace(pub(in crate::config) String);

impl Word for Namespace {
    const EXPECTED: &str = "a namespace as in MS_NAMESPACE, or nothing";

    fn parse(text: &str) -> Result<Self, Reason> {
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>');
        if text.contains(odd)
            || text.len() > 128
            || text.split('.').any(str::is_empty) && !text.is_empty()
        {
            return Err(Reason::new("this cannot be part of a subject"));
        }
        Ok(Self(text.to_owned()))
    }

    fn print(&self) -> String {
        self.0.clone()
    }
}

/// What subjects of our own begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Subject(pub(in crate::config) String);

impl Word for Subject {
    const EXPECTED: &str = "what subjects begin with, such as \"ddp-gateway\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        let Namespace(subject) = Namespace::parse(text)?;
        let first = subject.split('.').next().unwrap_or_default();
        if subject.is_empty() {
            return Err(Reason::new("this is empty"));
        }
        // Rocket.Chat's services answer on these, and so does the server.
        if first.starts_with(['$', '_']) || first == "MOL" || first.starts_with("MOL-") {
            return Err(Reason::new("others talk below this"));
        }
        Ok(Self(subject))
    }

    fn print(&self) -> String {
        self.0.clone()
    }
}

/// A name to log in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct UserName(pub(in crate::config) String);

impl Word for UserName {
    const EXPECTED: &str = "the name of a user";

    fn parse(text: &str) -> Result<Self, Reason> {
        match text.is_empty() {
            true => Err(Reason::new("this is empty")),
            false => Ok(Self(text.to_owned())),
        }
    }

    fn print(&self) -> String {
        self.0.clone()
    }
}

/// What the services on a bus speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum BrokerKind {
    Moleculer,
    Nats,
}

impl Word for BrokerKind {
    const EXPECTED: &str = "\"moleculer\" or \"nats\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        one_of(
            &text.to_ascii_lowercase(),
            &[("moleculer", Self::Moleculer), ("nats", Self::Nats)],
        )
    }

    fn print(&self) -> String {
        match self {
            Self::Moleculer => "moleculer",
            Self::Nats => "nats",
        }
        .to_owned()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] =
            json!(r"^([mM][oO][lL][eE][cC][uU][lL][eE][rR]|[nN][aA][tT][sS])$|\$\{");
    }
}

#[cfg(test)]
mod tests {
    use super::{NatsUrl, Subject, UrlLogin};
    use crate::config::value::Word as _;

    #[test]
    fn urls_as_in_transporter() {
        for (text, servers) in [
            ("nats://nats:4222", "nats://nats:4222"),
            ("nats", "nats://nats:4222"),
            ("tls://10.0.0.1/", "tls://10.0.0.1:4222"),
            (
                "nats://a:1, NATS://[fd00::1]:2",
                "nats://a:1,nats://[fd00::1]:2",
            ),
        ] {
            let url = NatsUrl::parse(text).unwrap_or_else(|reason| panic!("{}", reason.label));
            assert_eq!(url.print(), servers);
            assert!(!url.hidden());
        }
        for text in [
            "",
            "http://nats",
            "monolith+nats://nats:4222",
            "nats://",
            "nats://a/b",
        ] {
            assert!(NatsUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn subjects_that_belong_to_others() {
        for text in [
            "",
            "a b",
            "a.",
            "a.>",
            "MOL",
            "MOL-prod.x",
            "$SYS",
            "_INBOX.x",
        ] {
            assert!(Subject::parse(text).is_err(), "{text}");
        }
        for text in ["ddp-gateway", "eu.ddp-gateway", "MOLE"] {
            assert!(Subject::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn credentials_are_taken_out_and_never_shown() {
        let url = NatsUrl::parse("nats://me:a%40b@one,nats://two").unwrap_or_else(|_| panic!());
        let UrlLogin::User(user, password) = &url.login else {
            panic!("{:?}", url.login)
        };
        assert_eq!((user.as_str(), password.expose().as_str()), ("me", "a@b"));
        assert_eq!(url.print(), "nats://one:4222,nats://two:4222");
        assert!(url.hidden() && !format!("{url:?}").contains("a@b"));
        let url = NatsUrl::parse("nats://s3cr3t@one").unwrap_or_else(|_| panic!());
        assert!(matches!(&url.login, UrlLogin::Token(token) if token.expose() == "s3cr3t"));
        for text in [
            "nats://hunter:2%@one",
            "nats://hunter:x@one,nats://you:y@two",
        ] {
            let reason = NatsUrl::parse(text).err().map(|reason| reason.label);
            assert!(
                reason.is_some_and(|label| !label.contains("hunter")),
                "{text}"
            );
        }
    }
}
