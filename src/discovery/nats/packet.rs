//! Moleculer's packets (protocol 4), as far as somebody who only listens needs them.
//!
//! Upstream: `moleculerjs/moleculer:src/packets.js`, `src/transit.js`, at 0.14.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, de::IgnoredAny};

use super::event::Hears;

/// The subjects of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subjects {
    prefix: String,
}

/// A packet from a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    Info(Info),
    /// `cpu`: of the node's machine, in percent.
    Heartbeat {
        sender: String,
        cpu: Option<u8>,
    },
    Disconnect {
        sender: String,
    },
}

/// What a node says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) sender: String,
    pub(super) host: String,
    /// New with each start of the process.
    pub(super) instance: String,
    /// Rises with each change of the node's services.
    pub(super) sequence: u64,
    /// Has the service that clients' sockets belong to.
    pub(super) streams: bool,
    /// In the order of the node's interfaces.
    pub(super) addresses: Vec<IpAddr>,
    /// Of the events that are of interest, those of which this node gets a copy.
    pub(super) hears: Hears,
}

/// Which packet a subject carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    Info,
    Heartbeat,
    Disconnect,
}

/// Why a packet is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    TooLarge,
    /// Another serialiser than JSON or EJSON.
    Serialiser,
    Malformed,
    /// Another protocol than ours.
    Version,
    /// A sender that cannot be addressed.
    Sender,
}

impl Unusable {
    pub(super) const ALL: [Self; 5] = [
        Self::TooLarge,
        Self::Serialiser,
        Self::Malformed,
        Self::Version,
        Self::Sender,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Serialiser => "serialiser",
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::Sender => "sender",
        }
    }
}

impl Subjects {
    pub(super) fn new(namespace: &str) -> Self {
        Self {
            prefix: match namespace {
                "" => "MOL".to_owned(),
                namespace => format!("MOL-{namespace}"),
            },
        }
    }

    /// What to subscribe to as this node, with the kind of packets that come there.
    pub(super) fn heard_by(&self, own: &str) -> [(String, Topic); 4] {
        let prefix = &self.prefix;
        [
            (format!("{prefix}.INFO"), Topic::Info),
            (format!("{prefix}.INFO.{own}"), Topic::Info),
            (format!("{prefix}.HEARTBEAT"), Topic::Heartbeat),
            (format!("{prefix}.DISCONNECT"), Topic::Disconnect),
        ]
    }

    /// Where a node gets its copies of events.
    pub(super) fn events_of(&self, node: &str) -> String {
        format!("{}.EVENT.{node}", self.prefix)
    }

    /// Where every node hears a DISCOVER, or only this one.
    pub(super) fn discover(&self, node: Option<&str>) -> String {
        match node {
            None => format!("{}.DISCOVER", self.prefix),
            Some(node) => format!("{}.DISCOVER.{node}", self.prefix),
        }
    }
}

/// The one packet that the gateway ever sends. Every node answers it with its INFO, and none
/// registers who asked.
pub(super) fn discover(own: &str) -> String {
    serde_json::json!({"ver": PROTOCOL, "sender": own}).to_string()
}

/// Whether a subject can be made with this.
pub(super) fn is_node_id(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>');
    let empty_token = |text: &str| text.split('.').any(str::is_empty);
    text.len() <= LONGEST_ID && !text.contains(odd) && !empty_token(text)
}

/// The host in a node's id, `<host>-<uuid>`.
pub(super) fn host_of(node: &str) -> &str {
    let at = node.len().saturating_sub(UUID_LENGTH + 1);
    match node.split_at_checked(at) {
        Some((host, rest)) if !host.is_empty() && rest.starts_with('-') => host,
        _ => node,
    }
}

pub(super) fn parse(topic: Topic, payload: &[u8]) -> Result<Packet, Unusable> {
    if payload.len() > LARGEST_PACKET {
        return Err(Unusable::TooLarge);
    }
    if payload.trim_ascii_start().first() != Some(&b'{') {
        return Err(Unusable::Serialiser);
    }
    let head: Head = serde_json::from_slice(payload).map_err(|_| Unusable::Malformed)?;
    if head.ver != PROTOCOL {
        return Err(Unusable::Version);
    }
    let sender = head.sender;
    if !is_node_id(&sender) {
        return Err(Unusable::Sender);
    }
    Ok(match topic {
        Topic::Heartbeat => Packet::Heartbeat {
            sender,
            cpu: percent(&head.cpu),
        },
        Topic::Disconnect => Packet::Disconnect { sender },
        Topic::Info => {
            let body: Body = serde_json::from_slice(payload).map_err(|_| Unusable::Malformed)?;
            Packet::Info(body.info(sender))
        }
    })
}

#[derive(Deserialize)]
struct Head {
    ver: String,
    sender: String,
    #[serde(default)]
    cpu: serde_json::Value,
}

/// Nodes that cannot tell say `null`.
fn percent(cpu: &serde_json::Value) -> Option<u8> {
    let cpu = cpu.as_f64().filter(|cpu| (0.0..=100.0).contains(cpu))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 0 and 100"
    )]
    Some(cpu.round() as u8)
}

#[derive(Deserialize)]
struct Body {
    services: Vec<Service>,
    #[serde(rename = "ipList", default)]
    ip_list: Vec<String>,
    #[serde(default)]
    hostname: Option<String>,
    #[serde(rename = "instanceID", default)]
    instance: Option<String>,
    #[serde(default)]
    seq: Option<u64>,
}

#[derive(Deserialize)]
struct Service {
    name: String,
    #[serde(default)]
    events: Option<BTreeMap<String, IgnoredAny>>,
}

impl Body {
    fn info(self, sender: String) -> Info {
        let host = self
            .hostname
            .filter(|host| !host.is_empty() && host.len() <= LONGEST_ID);
        let addresses = self.ip_list.iter().take(MOST_ADDRESSES);
        let services = self.services.iter();
        let events = services.filter_map(|service| service.events.as_ref());
        Info {
            host: host.unwrap_or_else(|| host_of(&sender).to_owned()),
            instance: self.instance.unwrap_or_default(),
            sequence: self.seq.unwrap_or_default(),
            streams: self.services.iter().any(|service| service.name == STREAMER),
            addresses: addresses.filter_map(|text| text.parse().ok()).collect(),
            hears: Hears::of(events.flatten().map(|(name, _)| name.as_str())),
            sender,
        }
    }
}

/// Rocket.Chat's name for the service.
pub(super) const STREAMER: &str = "streamer";
pub(super) const PROTOCOL: &str = "4";
/// A monolith lists some hundred actions and events, which is about 100 KB.
const LARGEST_PACKET: usize = 1 << 20;
const LONGEST_ID: usize = 255;
const UUID_LENGTH: usize = 36;
/// Of one node.
const MOST_ADDRESSES: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{MOST_ADDRESSES, Packet, Subjects, Topic, Unusable, discover, host_of, parse};

    const INFO: &str = r#"{"ver":"4","sender":"pod-1-0c2d6e9a-5f2b-4a52-9a37-7e8a3f6f1d11",
        "services":[{"name":"$node","fullName":"$node","settings":{}},
            {"name":"streamer","fullName":"streamer","actions":{"streamer.x":{"cache":false}}}],
        "ipList":["10.42.1.17","fe80::1","nonsense"],"hostname":"pod-1",
        "client":{"type":"nodejs","version":"0.14.35","langVersion":"v22.14.0"},"config":{},
        "instanceID":"a","metadata":{"at":{"$date":1767225600000}},"seq":3}"#;

    #[test]
    fn an_info_of_a_streamer() {
        let Ok(Packet::Info(info)) = parse(Topic::Info, INFO.as_bytes()) else {
            panic!()
        };
        assert!(info.streams);
        assert_eq!((info.host.as_str(), info.sequence), ("pod-1", 3));
        assert_eq!(info.addresses[0].to_string(), "10.42.1.17");
        assert_eq!(info.addresses.len(), 2);
    }

    #[test]
    fn without_the_service_and_without_a_host_name() {
        let text =
            r#" {"ver":"4","sender":"pod-1-0c2d6e9a-5f2b-4a52-9a37-7e8a3f6f1d11","services":[]}"#;
        let Ok(Packet::Info(info)) = parse(Topic::Info, text.as_bytes()) else {
            panic!()
        };
        assert!(!info.streams);
        assert_eq!(info.host, "pod-1");
    }

    #[test]
    fn what_is_passed_over() {
        let wide = format!("{{\"ver\":\"4\",\"sender\":\"{}\"}}", "a".repeat(2 << 20));
        let long = format!("{{\"ver\":\"4\",\"sender\":\"{}\"}}", "a".repeat(300));
        let deep = format!("{{\"ver\":\"4\",\"sender\":\"a\",\"x\":{}", "[".repeat(500));
        for (payload, why) in [
            ("", Unusable::Serialiser),
            ("\u{2}ver", Unusable::Serialiser),
            ("{", Unusable::Malformed),
            (r#"{"sender":"a"}"#, Unusable::Malformed),
            (r#"{"ver":"5","sender":"a"}"#, Unusable::Version),
            (r#"{"ver":"4","sender":""}"#, Unusable::Sender),
            (r#"{"ver":"4","sender":"a.>"}"#, Unusable::Sender),
            (r#"{"ver":"4","sender":"a b"}"#, Unusable::Sender),
            (r#"{"ver":"4","sender":"a..b"}"#, Unusable::Sender),
            (&long, Unusable::Sender),
            (&wide, Unusable::TooLarge),
            (&deep, Unusable::Malformed),
            (r#"{"ver":"4","sender":"a"}"#, Unusable::Malformed),
            (
                r#"{"ver":"4","sender":"a","services":{}}"#,
                Unusable::Malformed,
            ),
        ] {
            assert_eq!(
                parse(Topic::Info, payload.as_bytes()),
                Err(why),
                "{payload:.80}"
            );
        }
    }

    proptest! {
        #[test]
        fn anything_is_judged(mut payload in vec(any::<u8>(), 0..200), damage in any::<bool>()) {
            if damage {
                let at = payload.iter().map(|byte| usize::from(*byte)).sum::<usize>() % INFO.len();
                let (before, after) = INFO.as_bytes().split_at(at);
                payload.truncate(2);
                payload = [before, &payload, after].concat();
            }
            for topic in [Topic::Info, Topic::Heartbeat, Topic::Disconnect] {
                if let Ok(Packet::Info(info)) = parse(topic, &payload) {
                    prop_assert!(info.addresses.len() <= MOST_ADDRESSES);
                    prop_assert!(!info.sender.is_empty());
                }
            }
        }
    }

    #[test]
    fn subjects_with_and_without_a_namespace() {
        let subjects = Subjects::new("");
        assert_eq!(subjects.discover(None), "MOL.DISCOVER");
        let subjects = Subjects::new("eu");
        assert_eq!(subjects.discover(Some("a")), "MOL-eu.DISCOVER.a");
        let heard = subjects.heard_by("me").map(|(subject, _)| subject);
        assert_eq!(
            heard,
            [
                "MOL-eu.INFO",
                "MOL-eu.INFO.me",
                "MOL-eu.HEARTBEAT",
                "MOL-eu.DISCONNECT"
            ]
        );
        assert_eq!(discover("me"), r#"{"sender":"me","ver":"4"}"#);
    }

    #[test]
    fn the_host_is_in_the_id() {
        for (id, host) in [
            (
                "rc-ddp-7c9f-x2x4k-0c2d6e9a-5f2b-4a52-9a37-7e8a3f6f1d11",
                "rc-ddp-7c9f-x2x4k",
            ),
            ("short", "short"),
            (
                "-0c2d6e9a-5f2b-4a52-9a37-7e8a3f6f1d11",
                "-0c2d6e9a-5f2b-4a52-9a37-7e8a3f6f1d11",
            ),
            ("ä".repeat(30).as_str(), "ä".repeat(30).as_str()),
        ] {
            assert_eq!(host_of(id), host);
        }
    }
}
