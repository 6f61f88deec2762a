//! What the API server says, as far as it matters: EndpointSlices (discovery.k8s.io/v1), lists of
//! them, and events of a watch.
//!
//! Format: `kubernetes:staging/src/k8s.io/api/discovery/v1/types.go` and
//! `apimachinery/pkg/apis/meta/v1/{types,watch}.go`.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::trouble::Trouble;
use crate::config::model::ServicePort;

/// One entry of a slice that has an address and the wanted port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seat {
    pub(super) address: SocketAddr,
    /// Name of the pod.
    pub(super) pod: Option<String>,
    /// Tells a pod from an earlier one of the same name or address.
    pub(super) uid: Option<String>,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
}

/// A slice, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) name: String,
    pub(super) seats: Vec<Seat>,
    /// It has endpoints, and no port that is wanted.
    pub(super) portless: bool,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) slices: Vec<Slice>,
    pub(super) version: String,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<String>,
}

/// One line of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Added or modified: it is like this from here on.
    Is(Slice),
    Gone {
        /// Of the slice.
        name: String,
    },
    /// Nothing but the version has changed.
    Bookmark,
    /// The version from which the watch began is too old: list again.
    Expired,
    /// The watch ends because of this.
    Error(Trouble),
    /// A kind of event that this code does not know.
    Unknown,
}

/// An event, and the version of the list after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) event: Event,
    pub(super) version: Option<String>,
}

impl Page {
    /// # Errors
    /// When it is no list of EndpointSlices.
    pub(super) fn parse(body: &[u8], port: &ServicePort) -> Result<Self, Trouble> {
        let list: RawList = serde_json::from_slice(body).map_err(|_| Trouble::Garbage)?;
        let version = version(list.metadata.version).ok_or(Trouble::Garbage)?;
        let next = list.metadata.next.filter(|next| !next.is_empty());
        if next.as_ref().is_some_and(|next| next.len() > LONGEST_TOKEN) {
            return Err(Trouble::TooMuch);
        }
        let slices = list.items.unwrap_or_default().into_iter();
        Ok(Self {
            slices: slices
                .map(|raw| raw.slice(port))
                .collect::<Result<_, _>>()?,
            version,
            next,
        })
    }
}

impl Line {
    /// # Errors
    /// When it is no event of a watch of EndpointSlices.
    pub(super) fn parse(line: &[u8], port: &ServicePort) -> Result<Self, Trouble> {
        let raw: RawEvent<'_> = serde_json::from_slice(line).map_err(|_| Trouble::Garbage)?;
        let object = raw.object.get();
        let slice = || serde_json::from_str::<RawSlice>(object).map_err(|_| Trouble::Garbage);
        let (event, version) = match raw.kind.as_str() {
            "ADDED" | "MODIFIED" => {
                let slice = slice()?;
                let version = version(slice.metadata.version.clone());
                (Event::Is(slice.slice(port)?), version)
            }
            "DELETED" => {
                let metadata = slice()?.metadata;
                let name = metadata.name.ok_or(Trouble::Garbage)?;
                (Event::Gone { name }, version(metadata.version))
            }
            "BOOKMARK" => (Event::Bookmark, version(slice()?.metadata.version)),
            "ERROR" => {
                let status = serde_json::from_str::<RawStatus>(object);
                (status.map_err(|_| Trouble::Garbage)?.event(), None)
            }
            _ => (Event::Unknown, None),
        };
        Ok(Self { event, version })
    }
}

/// What an answer with a status other than 200 says besides it.
pub(super) fn message(body: &[u8]) -> String {
    let status: Option<RawStatus> = serde_json::from_slice(body).ok();
    printable(&status.and_then(|status| status.message).unwrap_or_default())
}

/// The beginning of a text, without what would spoil a log.
fn printable(text: &str) -> String {
    let plain = text.chars().filter(|c| !c.is_control());
    plain.take(LONGEST_MESSAGE).collect()
}

/// Opaque; empty and "0" mean something else in a request.
fn version(version: Option<String>) -> Option<String> {
    version.filter(|version| !version.is_empty() && version != "0" && version.len() <= 256)
}

#[derive(Deserialize)]
struct RawList {
    metadata: RawMetadata,
    items: Option<Vec<RawSlice>>,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
struct RawMetadata {
    name: Option<String>,
    #[serde(rename = "resourceVersion")]
    version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct RawStatus {
    code: Option<u16>,
    reason: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct RawSlice {
    #[serde(default)]
    metadata: RawMetadata,
    endpoints: Option<Vec<RawEndpoint>>,
    ports: Option<Vec<RawPort>>,
}

#[derive(Deserialize)]
struct RawEndpoint {
    addresses: Option<Vec<String>>,
    #[serde(default)]
    conditions: RawConditions,
    #[serde(rename = "targetRef")]
    target: Option<RawTarget>,
}

/// All of them may be missing, which means "unknown".
#[derive(Default, Deserialize)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct RawTarget {
    kind: Option<String>,
    name: Option<String>,
    uid: Option<String>,
}

#[derive(Deserialize)]
struct RawPort {
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
}

impl RawStatus {
    fn event(self) -> Event {
        if self.code == Some(410) || self.reason.as_deref() == Some("Expired") {
            return Event::Expired;
        }
        Event::Error(Trouble::Status {
            code: self.code.unwrap_or_default(),
            message: printable(&self.message.or(self.reason).unwrap_or_default()),
        })
    }
}

impl RawSlice {
    fn slice(self, wanted: &ServicePort) -> Result<Slice, Trouble> {
        let name = self.metadata.name.filter(|name| name.len() <= 253);
        let name = name.ok_or(Trouble::Garbage)?;
        let endpoints = self.endpoints.unwrap_or_default();
        if endpoints.len() > MOST_ENDPOINTS {
            return Err(Trouble::TooMuch);
        }
        let port = port(&self.ports.unwrap_or_default(), wanted);
        let portless = port.is_none() && !endpoints.is_empty();
        let seats = endpoints.into_iter();
        let seats = seats.filter_map(|endpoint| endpoint.seat(port?)).collect();
        Ok(Slice {
            name,
            seats,
            portless,
        })
    }
}

impl RawEndpoint {
    /// `None` when it has no IP address: an endpoint may be a name, which nothing in Kubernetes
    /// makes for pods.
    fn seat(self, port: u16) -> Option<Seat> {
        // All addresses of an endpoint mean the same; consumers are told to take the first.
        let address: IpAddr = self.addresses?.first()?.parse().ok()?;
        let target = self.target.filter(|target| {
            let kind = target.kind.as_deref();
            kind == Some("Pod")
        });
        let (pod, uid) = target.map_or((None, None), |target| (target.name, target.uid));
        // What is not known of these is taken for granted (`types.go`, `EndpointConditions`).
        let ready = self.conditions.ready.unwrap_or(true);
        Some(Seat {
            address: SocketAddr::new(address, port),
            pod: pod.filter(|name| is_name(name)),
            uid: uid.filter(|uid| uid.len() <= 64),
            ready,
            serving: self.conditions.serving.unwrap_or(ready),
            terminating: self.conditions.terminating.unwrap_or(false),
        })
    }
}

/// A number is the port whatever the slice says, as it is for the other sources.
fn port(ports: &[RawPort], wanted: &ServicePort) -> Option<u16> {
    let wanted = match wanted {
        ServicePort::Number(number) => return Some(*number),
        ServicePort::Name(name) => name,
    };
    let name = |port: &RawPort| port.name.clone().unwrap_or_default();
    let tcp = |port: &&RawPort| port.protocol.as_deref().is_none_or(|kind| kind == "TCP");
    let tcp: Vec<_> = ports.iter().filter(tcp).collect();
    let found = tcp.iter().find(|port| name(port) == *wanted).or_else(|| {
        // A Service with one port need not name it.
        let [only] = tcp.as_slice() else {
            return None;
        };
        name(only).is_empty().then_some(only)
    });
    found?.port.filter(|port| *port > 0)
}

/// As names of pods are (RFC 1123).
fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    (1..=253).contains(&text.len()) && text.bytes().all(allowed)
}

/// The API server allows as many.
const MOST_ENDPOINTS: usize = 1000;
const LONGEST_TOKEN: usize = 4096;
/// In characters.
const LONGEST_MESSAGE: usize = 300;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Event, Line, Page, Slice, message};
    use crate::{config::model::ServicePort, discovery::kubernetes::trouble::Trouble};

    fn http() -> ServicePort {
        ServicePort::Name("http".to_owned())
    }

    fn event(kind: &str, object: &Value) -> Result<Line, Trouble> {
        let line = json!({ "type": kind, "object": object }).to_string();
        Line::parse(line.as_bytes(), &http())
    }

    fn slice(object: &Value, port: &ServicePort) -> Slice {
        let list = json!({ "metadata": { "resourceVersion": "1" }, "items": [object] });
        let page = Page::parse(list.to_string().as_bytes(), port).unwrap();
        page.slices.into_iter().next().unwrap()
    }

    #[test]
    fn what_is_not_said_of_an_endpoint_is_taken_for_granted() {
        let of = |conditions: Value| {
            let object = json!({
                "metadata": { "name": "s" },
                "endpoints": [{ "addresses": ["10.0.0.1", "10.0.0.2"], "conditions": conditions }],
                "ports": [{ "name": "http", "port": 3000, "protocol": "TCP" }],
            });
            let seats = slice(&object, &http()).seats;
            assert_eq!(seats.len(), 1);
            assert_eq!(seats[0].address.to_string(), "10.0.0.1:3000");
            (seats[0].ready, seats[0].serving, seats[0].terminating)
        };
        assert_eq!(of(json!({})), (true, true, false));
        assert_eq!(of(json!({ "ready": null })), (true, true, false));
        assert_eq!(of(json!({ "ready": false })), (false, false, false));
        assert_eq!(
            of(json!({ "ready": false, "serving": true, "terminating": true })),
            (false, true, true)
        );
    }

    #[test]
    fn the_port_is_found_by_name_or_given_by_number() {
        let of = |ports: Value, wanted: &ServicePort| {
            let object = json!({
                "metadata": { "name": "s" }, "ports": ports,
                "endpoints": [{ "addresses": ["fd00::1"] }],
            });
            let slice = slice(&object, wanted);
            assert_eq!(slice.portless, slice.seats.is_empty());
            slice.seats.first().map(|seat| seat.address.port())
        };
        let two = json!([{ "name": "metrics", "port": 9458 }, { "name": "http", "port": 3000 }]);
        assert_eq!(of(two.clone(), &http()), Some(3000));
        assert_eq!(of(two.clone(), &ServicePort::Name("web".to_owned())), None);
        assert_eq!(of(two, &ServicePort::Number(8080)), Some(8080));
        assert_eq!(
            of(json!([{ "name": "", "port": 3000 }]), &http()),
            Some(3000)
        );
        assert_eq!(
            of(json!([{ "name": null, "port": 3000 }]), &http()),
            Some(3000)
        );
        assert_eq!(of(json!([{ "name": "web", "port": 3000 }]), &http()), None);
        let udp = json!([{ "name": "http", "port": 3000, "protocol": "UDP" }]);
        assert_eq!(of(udp, &http()), None);
        assert_eq!(of(json!([{ "name": "http" }]), &http()), None);
        assert_eq!(of(json!([{ "name": "http", "port": 0 }]), &http()), None);
        assert_eq!(of(Value::Null, &http()), None);
    }

    #[test]
    fn only_pods_lend_their_name() {
        let of = |target: Value| {
            let object = json!({
                "metadata": { "name": "s" }, "ports": [{ "name": "http", "port": 1 }],
                "endpoints": [{ "addresses": ["10.0.0.1"], "targetRef": target }],
            });
            slice(&object, &http()).seats.remove(0).pod
        };
        let pod = json!({ "kind": "Pod", "name": "ddp-0", "namespace": "chat", "uid": "u" });
        assert_eq!(of(pod).as_deref(), Some("ddp-0"));
        assert_eq!(of(json!({ "kind": "Node", "name": "n" })), None);
        assert_eq!(of(json!({ "kind": "Pod", "name": "a\nb" })), None);
        assert_eq!(of(json!({ "kind": "Pod", "name": "x".repeat(254) })), None);
        assert_eq!(of(Value::Null), None);
    }

    #[test]
    fn what_is_no_address_is_left_out() {
        let object = json!({
            "metadata": { "name": "s" }, "ports": [{ "name": "http", "port": 1 }],
            "endpoints": [
                { "addresses": ["pod.example.com"] }, { "addresses": [] }, {},
                { "addresses": null }, { "addresses": ["10.0.0.1"] },
            ],
        });
        assert_eq!(slice(&object, &http()).seats.len(), 1);
        let none = json!({ "metadata": { "name": "s" }, "endpoints": null, "ports": null });
        assert_eq!(slice(&none, &http()).seats.len(), 0);
        assert!(!slice(&none, &http()).portless);
    }

    #[test]
    fn events_carry_their_version() {
        let object = json!({ "metadata": { "name": "s", "resourceVersion": "7" } });
        let is = |line: &Line, version: Option<&str>| {
            assert_eq!(line.version.as_deref(), version, "{line:?}");
        };
        for kind in ["ADDED", "MODIFIED"] {
            let line = event(kind, &object).unwrap();
            assert!(matches!(&line.event, Event::Is(slice) if slice.name == "s"));
            is(&line, Some("7"));
        }
        let line = event("DELETED", &object).unwrap();
        assert_eq!(
            line.event,
            Event::Gone {
                name: "s".to_owned()
            }
        );
        is(&line, Some("7"));
        let bookmark = json!({ "kind": "EndpointSlice", "metadata": { "resourceVersion": "9" },
                               "endpoints": null, "ports": null });
        let line = event("BOOKMARK", &bookmark).unwrap();
        assert_eq!(line.event, Event::Bookmark);
        is(&line, Some("9"));
        is(&event("SOMETHING", &object).unwrap(), None);
        let nothing = json!({ "metadata": { "name": "s", "resourceVersion": "0" } });
        is(&event("ADDED", &nothing).unwrap(), None);
    }

    #[test]
    fn errors_are_told_from_a_version_that_is_too_old() {
        let status = |code: u16, reason: &str| {
            let object = json!({ "kind": "Status", "code": code, "reason": reason,
                                 "message": "so\nit is" });
            event("ERROR", &object).unwrap().event
        };
        assert_eq!(status(410, "Gone"), Event::Expired);
        assert_eq!(status(0, "Expired"), Event::Expired);
        let Event::Error(Trouble::Status { code, message }) = status(500, "InternalError") else {
            panic!("another event");
        };
        assert_eq!((code, message.as_str()), (500, "soit is"));
    }

    #[test]
    fn what_is_not_understood_is_garbage() {
        for line in [
            "",
            "null",
            "[]",
            "{}",
            "{\"type\":\"ADDED\"}",
            "{\"type\":\"ADDED\",\"object\":{}}",
            "{\"type\":\"DELETED\",\"object\":{\"metadata\":{}}}",
            "{\"type\":\"ERROR\",\"object\":7}",
            "{\"type\":\"ADDED\",\"object\":",
        ] {
            let parsed = Line::parse(line.as_bytes(), &http());
            assert_eq!(parsed, Err(Trouble::Garbage), "{line}");
        }
        for list in [
            "",
            "{}",
            "{\"metadata\":{}}",
            "{\"metadata\":{},\"items\":[]}",
        ] {
            let parsed = Page::parse(list.as_bytes(), &http());
            assert_eq!(parsed, Err(Trouble::Garbage), "{list}");
        }
        let many = vec![json!({}); 1001];
        let object = json!({ "metadata": { "name": "s" }, "endpoints": many });
        assert_eq!(event("ADDED", &object), Err(Trouble::TooMuch));
        assert_eq!(message(b"<html>"), "");
        assert_eq!(message(br#"{"message":"no\u0007"}"#), "no");
    }
}
