//! Where values come from: the built-in defaults, the file, the environment, the command line. A
//! later one wins over an earlier one.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    diagnostic::{Diagnostic, Place, Source},
    node::{Data, Entries, Entry, Node},
    suggest::nearest,
    table::{Input, Key, Shape},
};

/// Begins the name of each environment variable that sets a key: `[http] body_limit` is
/// `DDP_GATEWAY__HTTP__BODY_LIMIT`.
///
/// Two underscores, because Kubernetes gives every pod variables such as
/// `DDP_GATEWAY_SERVICE_HOST` when a service is called `ddp-gateway`.
pub const PREFIX: &str = "DDP_GATEWAY__";

/// What a configuration may draw on besides its file.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// Key and value of each `--set key=value`.
    flags: Vec<(String, String)>,
    /// Leave `${NAME}` as it is.
    literal: bool,
}

/// Why a `${...}` cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SubstituteError {
    #[error("the environment variable `{0}` is not set")]
    Unset(String),
    #[error("`${{` without `}}`")]
    Unclosed,
    #[error("`{0}` cannot be the name of an environment variable")]
    BadName(String),
}

impl SubstituteError {
    pub(super) fn help(&self) -> String {
        match self {
            Self::Unset(name) => {
                format!("set it, or give a value for when it is not: `${{{name}:-value}}`")
            }
            Self::Unclosed | Self::BadName(_) => {
                "write `${NAME}` or `${NAME:-value}`; a `${` that is meant as such is `$${`"
                    .to_owned()
            }
        }
    }
}

impl Environment {
    /// The variables of this process. Those that are not UTF-8 are as good as not set.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// No variable and no flag.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Fills nothing in.
    pub(super) fn literal() -> Self {
        Self {
            literal: true,
            ..Self::default()
        }
    }

    /// Adds what `--set key=value` says, as key and value.
    #[must_use]
    pub fn with_flags(mut self, flags: impl IntoIterator<Item = (String, String)>) -> Self {
        self.flags.extend(flags);
        self
    }

    /// Fills in each `${NAME}` and `${NAME:-value}`; `$${` stands for `${`.
    pub(super) fn substitute(&self, text: &str) -> Result<String, SubstituteError> {
        if self.literal {
            return Ok(text.to_owned());
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at]);
                out.push('{');
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let inner = &rest[at + 2..];
            let end = inner.find('}').ok_or(SubstituteError::Unclosed)?;
            let (name, fallback) = match inner[..end].split_once(":-") {
                Some((name, fallback)) => (name, Some(fallback)),
                None => (&inner[..end], None),
            };
            let named = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(named) {
                return Err(SubstituteError::BadName(name.to_owned()));
            }
            // As in a shell, `:-` also stands in for a variable that is empty.
            match (self.variables.get(name), fallback) {
                (Some(value), None) => out.push_str(value),
                (Some(value), Some(_)) if !value.is_empty() => out.push_str(value),
                (_, Some(fallback)) => out.push_str(fallback),
                (None, None) => return Err(SubstituteError::Unset(name.to_owned())),
            }
            rest = &inner[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// Puts the keys that the environment and the flags set over those of the file.
    pub(super) fn overlay(&self, root: &mut Entries, keys: &[Key]) -> Vec<Diagnostic> {
        let mut faults = Vec::new();
        let known = settable(keys, &[]);
        for (name, value) in &self.variables {
            let Some(rest) = name.strip_prefix(PREFIX) else {
                continue;
            };
            let path = rest.to_ascii_lowercase().replace("__", ".");
            match known.iter().find(|known| known.path == path) {
                Some(known) => {
                    let source = Source::environment(name, known.shown(value));
                    known.put(root, value, &source, name.len() + 1, &mut faults);
                }
                None => {
                    let source = Source::environment(name, "...");
                    let place = Place::new(&source, 0..name.len());
                    let fault = Diagnostic::error(&place, "this variable sets no key that exists")
                        .label(format!("there is no key `{path}`"))
                        .help(
                            match nearest(&path, known.iter().map(|known| &*known.path)) {
                                Some(path) => format!("did you mean `{}`?", variable(path)),
                                None => format!(
                                    "names that begin with {PREFIX} set keys, such as {}",
                                    variable("http.body_limit")
                                ),
                            },
                        );
                    faults.push(fault);
                }
            }
        }
        for (path, value) in &self.flags {
            match known.iter().find(|known| known.path == *path) {
                Some(known) => {
                    let source = Source::flag(path, known.shown(value));
                    known.put(root, value, &source, path.len() + 1, &mut faults);
                }
                None => {
                    let source = Source::flag(path, "...");
                    let place = Place::new(&source, 0..path.len());
                    let mut fault = Diagnostic::error(&place, format!("unknown key `{path}`"))
                        .label("cannot be set on the command line");
                    if let Some(path) = nearest(path, known.iter().map(|known| &*known.path)) {
                        fault = fault.help(format!("did you mean `{path}`?"));
                    }
                    faults.push(fault);
                }
            }
        }
        faults
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Self {
            variables,
            ..Self::default()
        }
    }
}

/// The environment variable that sets the key at this path.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

/// A key that has one place in the file, so that a flat name can stand for it.
struct Settable {
    /// As `http.body_limit`.
    path: String,
    input: Input,
    secret: bool,
}

/// All keys that are not below `[[..]]` or a table with a free name.
fn settable(keys: &[Key], above: &[&str]) -> Vec<Settable> {
    let mut found = Vec::new();
    for key in keys {
        let mut path = above.to_vec();
        path.push(key.name);
        match &key.shape {
            Shape::Value { input, secret, .. } => found.push(Settable {
                path: path.join("."),
                input: *input,
                secret: *secret,
            }),
            Shape::Table(keys) => found.extend(settable(&keys(), &path)),
            Shape::List(_) | Shape::Map(_) => {}
        }
    }
    found
}

impl Settable {
    fn shown<'a>(&self, value: &'a str) -> &'a str {
        if self.secret { "***" } else { value }
    }

    fn put(
        &self,
        root: &mut Entries,
        text: &str,
        source: &Arc<Source>,
        at: usize,
        faults: &mut Vec<Diagnostic>,
    ) {
        let place = Place::new(source, at..at + text.len());
        let plain = |text: &str| Node {
            data: Data::Text(text.to_owned()),
            place: place.clone(),
        };
        let node = match self.input {
            Input::List | Input::OneOrList if text.trim_start().starts_with('[') => {
                match Node::fragment(text, source, at, &Environment::empty()) {
                    Ok(node) => node,
                    Err(fault) => return faults.push(*fault),
                }
            }
            Input::List | Input::OneOrList => {
                let parts = text.split(',').map(str::trim);
                let nodes = parts.filter(|part| !part.is_empty()).map(plain).collect();
                Node {
                    data: Data::List(nodes),
                    place: place.clone(),
                }
            }
            Input::Plain => {
                let empty = Environment::empty();
                Node::fragment(text, source, at, &empty).unwrap_or_else(|_| plain(text))
            }
            Input::Text => plain(text),
        };
        let mut table = root;
        let mut names = self.path.split('.').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                let key = Place::new(source, 0..at.saturating_sub(1));
                table.0.insert(name.to_owned(), Entry { key, node });
                return;
            }
            let entry = table.0.entry(name.to_owned()).or_insert_with(|| Entry {
                key: place.clone(),
                node: Node {
                    data: Data::Table(Entries::default()),
                    place: place.clone(),
                },
            });
            match &mut entry.node.data {
                Data::Table(inner) => table = inner,
                // Not a table in the file: that is reported where it stands.
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Environment, SubstituteError, settable, variable};
    use crate::config::{file::FileConfig, table::Table as _};

    /// The name of a variable leads back to its key, and to no other.
    #[test]
    fn each_key_has_a_variable_of_its_own() {
        let known = settable(&FileConfig::keys(), &[]);
        assert!(known.len() > 50);
        for key in &known {
            let name = variable(&key.path);
            let back = name
                .strip_prefix(super::PREFIX)
                .unwrap()
                .to_ascii_lowercase();
            assert_eq!(back.replace("__", "."), key.path);
            let same = known.iter().filter(|other| variable(&other.path) == name);
            assert_eq!(same.count(), 1, "{name}");
        }
        assert_eq!(variable("http.body_limit"), "DDP_GATEWAY__HTTP__BODY_LIMIT");
    }

    #[test]
    fn substitution() {
        let environment: Environment = [("A", "1"), ("EMPTY", "")].into_iter().collect();
        let ok = [
            ("plain", "plain"),
            ("${A}", "1"),
            ("x${A}y${A}z", "x1y1z"),
            ("${B:-2}", "2"),
            ("${A:-2}", "1"),
            ("${EMPTY:-2}", "2"),
            ("${EMPTY}", ""),
            ("${B:-}", ""),
            ("$${A}", "${A}"),
            ("$A $", "$A $"),
            ("${B:-http://h:1/}", "http://h:1/"),
        ];
        for (text, filled) in ok {
            assert_eq!(
                environment.substitute(text).as_deref(),
                Ok(filled),
                "{text}"
            );
        }
        let bad = [
            ("${B}", SubstituteError::Unset("B".to_owned())),
            ("${A", SubstituteError::Unclosed),
            ("${}", SubstituteError::BadName(String::new())),
            ("${A B}", SubstituteError::BadName("A B".to_owned())),
        ];
        for (text, error) in bad {
            assert_eq!(environment.substitute(text), Err(error), "{text}");
        }
    }
}
