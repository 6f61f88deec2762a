//! Names and addresses as Kubernetes has them.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{Reason, Value, Word, address::host_port, quote};
use crate::config::{
    diagnostic::Diagnostic,
    model::{ApiServer, ServicePort},
    node::{Data, Node},
    table::Input,
};

/// The name of a Service or a namespace (RFC 1123 label).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Label(pub(in crate::config) String);

impl Word for Label {
    const EXPECTED: &str = "a name without its domain, such as \"rocketchat-ddp-streamer\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        if is_label(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(match text.split_once('.') {
            Some((name, _)) if is_label(name) => Reason::new("a name with a domain").help(format!(
                "write \"{name}\"; the namespace is a key of its own"
            )),
            _ => Reason::new("lower-case letters, digits and `-` only, at most 63"),
        })
    }

    fn print(&self) -> String {
        self.0.clone()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$|\$\{");
    }
}

fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl Value for ServicePort {
    const INPUT: Input = Input::Plain;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        let label = match &node.data {
            Data::Integer(Some(number @ 1..=65535)) => {
                return u16::try_from(*number).ok().map(Self::Number);
            }
            Data::Integer(_) => "out of range".to_owned(),
            Data::Text(text) if is_label(text) => return Some(Self::Name(text.clone())),
            Data::Text(_) => "this is neither".to_owned(),
            _ => format!("this is {}", node.noun()),
        };
        let message =
            format!("`{path}` must be the name of a Service's port, or a number from 1 to 65535");
        faults.push(Diagnostic::error(&node.place, message).label(label));
        None
    }

    fn schema() -> Json {
        json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 65535 },
            { "type": "string" },
        ] })
    }

    fn print(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Name(name) => quote(name),
        }
    }
}

impl Word for ApiServer {
    const EXPECTED: &str = "the URL of an API server, such as \"https://10.96.0.1:443\"";

    fn parse(text: &str) -> Result<Self, Reason> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(
                Reason::new("`https://` is missing").help(format!("write \"https://{text}\""))
            );
        };
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(Reason::new(format!("`{scheme}` is not https"))),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#', '@']) {
            return Err(Reason::new("scheme, host and port only"));
        }
        let (host, port) = host_port(authority, Some(if tls { 443 } else { 80 }))?;
        Ok(Self {
            tls,
            host: host.into(),
            port,
        })
    }

    fn print(&self) -> String {
        self.to_string()
    }

    fn restrict(schema: &mut Json) {
        schema["pattern"] = json!(r"^[hH][tT][tT][pP][sS]?://[^/?#@]+/?$|\$\{");
    }
}
