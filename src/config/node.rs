//! What was written, before anybody asks what it means: values with the place of each.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{
    diagnostic::{Diagnostic, Place, Source},
    source::Environment,
};

/// One value.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) data: Data,
    pub(super) place: Place,
}

#[derive(Clone, Debug)]
pub(super) enum Data {
    Text(String),
    /// `None` when it does not fit.
    Integer(Option<i64>),
    Float(f64),
    Bool(bool),
    /// A date or a time; no key wants one.
    Moment,
    /// A text that could not be filled in, which has been reported.
    Unknown,
    List(Vec<Node>),
    Table(Entries),
}

/// The keys of one table.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries(pub(super) BTreeMap<String, Entry>);

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Place,
    pub(super) node: Node,
}

/// What could be made out of a text, and what is wrong with its syntax and its `${NAME}`.
pub(super) struct Document {
    pub(super) root: Entries,
    pub(super) faults: Vec<Diagnostic>,
}

impl Document {
    /// Reads a whole file. What stands on a line with a syntax error is left out, so that the rest
    /// can still be judged.
    pub(super) fn parse(name: &str, text: &str, environment: &Environment) -> Self {
        let source = Source::file(name, text);
        let (table, errors) = DeTable::parse_recoverable(text);
        let broken: Vec<Place> = errors
            .iter()
            .map(|error| Place::new(&source, error.span().unwrap_or(0..0)))
            .collect();
        let mut faults: Vec<Diagnostic> = errors
            .iter()
            .zip(&broken)
            .map(|(error, place)| {
                Diagnostic::error(place, "this is not valid TOML").label(error.message())
            })
            .collect();
        let mut reader = Reader {
            source: &source,
            environment,
            base: 0,
            faults: Vec::new(),
        };
        let mut root = reader.entries(table.get_ref());
        faults.append(&mut reader.faults);
        root.drop_lines(&broken);
        Self { root, faults }
    }
}

impl Node {
    /// Reads one TOML value that stands at `base` of the text of `source`.
    pub(super) fn fragment(
        text: &str,
        source: &Arc<Source>,
        base: usize,
        environment: &Environment,
    ) -> Result<Self, Box<Diagnostic>> {
        let place = Place::new(source, base..base + text.len());
        let value = DeValue::parse(text).map_err(|error| {
            Box::new(Diagnostic::error(&place, "this is not a TOML value").label(error.message()))
        })?;
        let mut reader = Reader {
            source,
            environment,
            base,
            faults: Vec::new(),
        };
        let node = reader.node(&value);
        match reader.faults.pop() {
            Some(fault) => Err(Box::new(fault)),
            None => Ok(node),
        }
    }

    /// The value without its places.
    pub(super) fn json(&self) -> Json {
        match &self.data {
            Data::Text(text) => json!(text),
            Data::Integer(number) => json!(number),
            Data::Float(number) => json!(number),
            Data::Bool(value) => json!(value),
            Data::Moment | Data::Unknown => Json::Null,
            Data::List(nodes) => nodes.iter().map(Self::json).collect(),
            Data::Table(entries) => entries
                .0
                .iter()
                .map(|(name, entry)| (name.clone(), entry.node.json()))
                .collect(),
        }
    }

    /// What it is, as a noun phrase.
    pub(super) fn noun(&self) -> &'static str {
        match self.data {
            Data::Text(_) | Data::Unknown => "a string",
            Data::Integer(_) | Data::Float(_) => "a number",
            Data::Bool(_) => "a boolean",
            Data::Moment => "a date or time",
            Data::List(_) => "an array",
            Data::Table(_) => "a table",
        }
    }
}

impl Entries {
    /// Removes every key that shares a line with one of `places`.
    fn drop_lines(&mut self, places: &[Place]) {
        if places.is_empty() {
            return;
        }
        self.0.retain(|_, entry| {
            let broken = places
                .iter()
                .any(|place| place.shares_line(&entry.key) || place.shares_line(&entry.node.place));
            match &mut entry.node.data {
                Data::Table(entries) => {
                    entries.drop_lines(places);
                    true
                }
                Data::List(nodes) => {
                    for node in nodes {
                        if let Data::Table(entries) = &mut node.data {
                            entries.drop_lines(places);
                        }
                    }
                    !broken
                }
                _ => !broken,
            }
        });
    }
}

struct Reader<'a> {
    source: &'a Arc<Source>,
    environment: &'a Environment,
    base: usize,
    faults: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        Place::new(self.source, self.base + span.start..self.base + span.end)
    }

    fn entries(&mut self, table: &DeTable<'_>) -> Entries {
        let mut entries = Entries::default();
        for (key, value) in table {
            let entry = Entry {
                key: self.place(key.span()),
                node: self.node(value),
            };
            entries.0.insert(key.get_ref().to_string(), entry);
        }
        entries
    }

    fn node(&mut self, value: &Spanned<DeValue<'_>>) -> Node {
        let place = self.place(value.span());
        let data = match value.get_ref() {
            DeValue::String(text) => match self.environment.substitute(text) {
                Ok(text) => Data::Text(text),
                Err(error) => {
                    let fault = Diagnostic::error(&place, error.to_string())
                        .label("cannot be filled in")
                        .help(error.help());
                    self.faults.push(fault);
                    Data::Unknown
                }
            },
            DeValue::Integer(integer) => {
                Data::Integer(i64::from_str_radix(integer.as_str(), integer.radix()).ok())
            }
            DeValue::Float(float) => Data::Float(float.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(value) => Data::Bool(*value),
            DeValue::Datetime(_) => Data::Moment,
            DeValue::Array(values) => {
                Data::List(values.iter().map(|value| self.node(value)).collect())
            }
            DeValue::Table(table) => Data::Table(self.entries(table)),
        };
        Node { data, place }
    }
}
