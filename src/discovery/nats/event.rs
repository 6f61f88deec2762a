//! Events of Rocket.Chat's services, as far as they are of use to somebody who only listens.
//!
//! Upstream: `RocketChat/Rocket.Chat:packages/core-services/src/events/Events.ts` says what each
//! carries, `ee/apps/ddp-streamer/src/DDPStreamer.ts` which of them a streamer sends and hears. The
//! arguments of an event are one array, whichever broker carries it.
//!
//! A socket of a streamer is known by the session id that the streamer gives it, which events carry
//! and the leg's `connected` has told the gateway. A header of the gateway's own on the upgrade would
//! do as well, and be worse: `socket.connected` broadcasts all headers to everybody on the bus.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::packet::{PROTOCOL, Unusable};

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All of a user's sockets, or the one of this session, are about to be cut: the user was
    /// deactivated, has a new password, or was logged out of this device.
    ForcedLogout {
        user: String,
        session: Option<String>,
    },
    /// The web client of this kind (`web.browser` and so on) is to have this version from now on. A
    /// monolith says so at each of its starts, too.
    ClientVersion { kind: String, version: String },
    /// A streamer has a new socket, or a socket on which somebody logged in.
    Socket {
        /// The streamer's name for the session.
        session: String,
        /// Where the client is, as the streamer believes.
        client: IpAddr,
    },
}

/// The name of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    ForceLogout,
    ClientVersion,
    Login,
    Connected,
}

impl Name {
    pub(super) const ALL: [Self; 4] = [
        Self::ForceLogout,
        Self::ClientVersion,
        Self::Login,
        Self::Connected,
    ];

    /// As it goes over the bus.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::ForceLogout => "user.forceLogout",
            Self::ClientVersion => "meteor.clientVersionUpdated",
            Self::Login => "accounts.login",
            Self::Connected => "socket.connected",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.text() == text)
    }
}

/// Which events of interest a node gets copies of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hears(u8);

impl Hears {
    pub(super) fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let bits = names.filter_map(Name::parse).map(|name| 1 << name as u8);
        Self(bits.fold(0, |all, bit: u8| all | bit))
    }

    pub(super) fn includes(self, name: Name) -> bool {
        self.0 & 1 << name as u8 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Nodes by their ids, and what each gets copies of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hearers(pub(super) BTreeMap<String, Hears>);

/// What came on a node's subject: `None` for events that are of no interest, which are most, and of
/// which only the beginning is looked at.
pub(super) fn of_packet(payload: &[u8]) -> Option<Result<Event, Unusable>> {
    if payload.first() != Some(&b'{') {
        return Some(Err(Unusable::Serialiser));
    }
    // `id` and `event` come first (`moleculer:src/transit.js`); a wanted name further back, in what
    // users have written, is none.
    let head = &payload[..payload.len().min(HEAD)];
    let wanted = |name: &Name| {
        let text = name.text().as_bytes();
        head.windows(text.len() + 2)
            .any(|part| part[0] == b'"' && part.ends_with(b"\"") && &part[1..=text.len()] == text)
    };
    if !Name::ALL.iter().any(wanted) {
        return None;
    }
    if payload.len() > LARGEST_EVENT {
        return Some(Err(Unusable::TooLarge));
    }
    let Ok(packet) = serde_json::from_slice::<Packet<'_>>(payload) else {
        return Some(Err(Unusable::Malformed));
    };
    if packet.ver != PROTOCOL {
        return Some(Err(Unusable::Version));
    }
    let name = Name::parse(&packet.event)?;
    Some(of_arguments(name, packet.data.get().as_bytes()))
}

/// The arguments of an event, which are all that there is under `BROKER=nats`.
pub(super) fn of_arguments(name: Name, arguments: &[u8]) -> Result<Event, Unusable> {
    if arguments.len() > LARGEST_EVENT {
        return Err(Unusable::TooLarge);
    }
    parse(name, arguments)
        .filter(Event::is_plausible)
        .ok_or(Unusable::Malformed)
}

fn parse(name: Name, arguments: &[u8]) -> Option<Event> {
    let arguments: Vec<&RawValue> = serde_json::from_slice(arguments).ok()?;
    let first = arguments.first()?.get();
    Some(match name {
        Name::ForceLogout => {
            let session = arguments.get(1).map(|second| second.get());
            Event::ForcedLogout {
                user: serde_json::from_str(first).ok()?,
                session: session.and_then(|second| serde_json::from_str(second).ok()?),
            }
        }
        Name::ClientVersion => {
            let record: VersionRecord = serde_json::from_str(first).ok()?;
            Event::ClientVersion {
                kind: record.id,
                version: record.version,
            }
        }
        Name::Connected => serde_json::from_str::<Connection>(first).ok()?.socket()?,
        Name::Login => {
            let login: LoginRecord = serde_json::from_str(first).ok()?;
            login.connection.socket()?
        }
    })
}

impl Event {
    /// No id is longer; what is longer is not kept by anybody.
    fn is_plausible(&self) -> bool {
        let fits = |text: &str| !text.is_empty() && text.len() <= LONGEST_TEXT;
        match self {
            Self::ForcedLogout { user, session } => {
                fits(user) && session.as_deref().is_none_or(fits)
            }
            Self::ClientVersion { kind, version } => fits(kind) && fits(version),
            Self::Socket { session, .. } => fits(session),
        }
    }
}

#[derive(Deserialize)]
struct Packet<'a> {
    ver: String,
    event: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct VersionRecord {
    #[serde(rename = "_id")]
    id: String,
    version: String,
}

#[derive(Deserialize)]
struct LoginRecord {
    connection: Connection,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    id: String,
    client_address: String,
}

impl Connection {
    fn socket(self) -> Option<Event> {
        let client: IpAddr = self.client_address.parse().ok()?;
        Some(Event::Socket {
            session: self.id,
            client: client.to_canonical(),
        })
    }
}

const HEAD: usize = 256;
/// All headers of an upgrade request are in `socket.connected`.
const LARGEST_EVENT: usize = 64 << 10;
const LONGEST_TEXT: usize = 255;

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{Event, Hears, Name, of_arguments, of_packet};
    use crate::discovery::nats::packet::Unusable;

    fn packet(event: &str, data: &str) -> String {
        format!(
            r#"{{"id":"0c2d6e9a-5f2b-4a52-9a37-7e8a3f6f1d11","event":"{event}","data":{data},"groups":["streamer"],"broadcast":true,"meta":{{}},"level":1,"tracing":null,"parentID":null,"requestID":"r","caller":null,"needAck":false,"ver":"4","sender":"m-1"}}"#
        )
    }

    fn heard(event: &str, data: &str) -> Option<Result<Event, Unusable>> {
        of_packet(packet(event, data).as_bytes())
    }

    fn logout(user: &str, session: Option<&str>) -> Event {
        Event::ForcedLogout {
            user: user.to_owned(),
            session: session.map(str::to_owned),
        }
    }

    #[test]
    fn what_is_of_interest() {
        let name = "user.forceLogout";
        assert_eq!(heard(name, r#"["u1"]"#), Some(Ok(logout("u1", None))));
        assert_eq!(heard(name, r#"["u1",null]"#), Some(Ok(logout("u1", None))));
        let one = heard(name, r#"["u1","s1"]"#);
        assert_eq!(one, Some(Ok(logout("u1", Some("s1")))));
        let version = heard(
            "meteor.clientVersionUpdated",
            r#"[{"_id":"web.browser","version":"v2","versionRefreshable":"r","assets":[]}]"#,
        );
        assert_eq!(
            version,
            Some(Ok(Event::ClientVersion {
                kind: "web.browser".to_owned(),
                version: "v2".to_owned()
            }))
        );
        let connection =
            r#"{"id":"s1","instanceId":"n","clientAddress":"::ffff:10.0.0.9","httpHeaders":{}}"#;
        let socket = Some(Ok(Event::Socket {
            session: "s1".to_owned(),
            client: [10, 0, 0, 9].into(),
        }));
        assert_eq!(
            heard("socket.connected", &format!("[{connection}]")),
            socket
        );
        let login = format!(r#"[{{"userId":"u1","connection":{connection}}}]"#);
        assert_eq!(heard("accounts.login", &login), socket);
    }

    #[test]
    fn what_is_not() {
        assert_eq!(
            heard("stream", r#"["notify-user","u1/x",["user.forceLogout"]]"#),
            None
        );
        // What somebody wrote may look like an event.
        let forged = r#"["notify-user","x",[{"event":"user.forceLogout","data":["u1"]}]]"#;
        assert_eq!(heard("stream", forged), None);
        assert_eq!(of_packet(b"\x83\xa2id"), Some(Err(Unusable::Serialiser)));
        let newer = packet("user.forceLogout", r#"["u1"]"#).replace("\"4\"", "\"5\"");
        assert_eq!(of_packet(newer.as_bytes()), Some(Err(Unusable::Version)));
        for data in ["[]", "{}", "[7]", r#"[""]"#, r#"[{"x":"u1"}]"#, "null"] {
            let heard = heard("user.forceLogout", data);
            assert_eq!(heard, Some(Err(Unusable::Malformed)), "{data}");
        }
        let long = format!("[\"{}\"]", "u".repeat(70_000));
        assert_eq!(
            heard("user.forceLogout", &long),
            Some(Err(Unusable::TooLarge))
        );
        let long = format!("[\"{}\"]", "u".repeat(300));
        assert_eq!(
            heard("user.forceLogout", &long),
            Some(Err(Unusable::Malformed))
        );
    }

    #[test]
    fn nodes_say_what_they_hear() {
        let hears = Hears::of(["stream", "user.forceLogout", "accounts.login"].into_iter());
        assert!(hears.includes(Name::ForceLogout) && hears.includes(Name::Login));
        assert!(!hears.includes(Name::Connected) && !hears.is_empty());
        assert!(Hears::of(["stream"].into_iter()).is_empty());
    }

    proptest! {
        #[test]
        fn anything_is_judged(noise in vec(any::<u8>(), 0..120), at in 0usize..500, which in 0usize..4) {
            let name = Name::ALL[which];
            let whole = packet(name.text(), r#"["u1","s1"]"#);
            let (before, behind) = whole.as_bytes().split_at(at.min(whole.len()));
            let payload = [before, &noise, behind].concat();
            if let Some(Ok(event)) = of_packet(&payload) {
                prop_assert!(event.is_plausible());
            }
            if let Ok(event) = of_arguments(name, &noise) {
                prop_assert!(event.is_plausible());
            }
        }
    }
}
