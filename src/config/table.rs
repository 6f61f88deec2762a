//! The shape of the file: tables of keys, declared once in `file.rs`.
//!
//! From one declaration come the reader, the JSON schema, the commented default and the effective
//! output, so that none of them can say what another does not.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value as Json;

use super::{
    diagnostic::{Diagnostic, Place, Source},
    node::{Data, Entries, Entry, Node},
    source::Environment,
    value::Value,
};

/// One key of a table.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// Lines, each with a blank in front.
    pub(super) doc: &'static [&'static str],
    /// As it would be written in the file. `None`: not set.
    pub(super) default: Option<&'static str>,
    /// A value to show where there is no default.
    pub(super) example: Option<&'static str>,
    pub(super) shape: Shape,
}

pub(super) enum Shape {
    Value {
        input: Input,
        secret: bool,
        required: bool,
        schema: fn() -> Json,
    },
    Table(fn() -> Vec<Key>),
    /// `[[name]]`
    List(fn() -> Vec<Key>),
    /// `[name.FREE]`
    Map(fn() -> Vec<Key>),
}

impl Key {
    /// The explanation as one paragraph.
    pub(super) fn text(&self) -> String {
        let lines: Vec<&str> = self.doc.iter().map(|line| line.trim()).collect();
        lines.join(" ")
    }
}

/// How the text of an environment variable becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// As it stands.
    Text,
    /// A number or a boolean.
    Plain,
    /// A TOML array, or values between commas.
    List,
    OneOrList,
}

/// A value with the place it came from.
#[derive(Clone, Debug)]
pub(super) struct Setting<T> {
    pub(super) value: T,
    pub(super) place: Place,
    /// As `http.body_limit`.
    pub(super) path: Arc<str>,
    /// The default in place of what could not be read, which has been reported.
    pub(super) stand_in: bool,
}

/// A value that may be missing where something else stands in for it, which is to be known from one
/// that is there and could not be read.
#[derive(Clone, Debug)]
pub(super) enum Maybe<T> {
    Missing,
    Faulty,
    Given(Setting<T>),
}

impl<T> Maybe<T> {
    pub(super) fn given(&self) -> Option<&Setting<T>> {
        match self {
            Self::Given(setting) => Some(setting),
            Self::Missing | Self::Faulty => None,
        }
    }
}

/// A value that has to be there. `None` has been reported.
#[derive(Clone, Debug)]
pub(super) struct Required<T>(pub(super) Option<Setting<T>>);

/// A table whose keys are known.
pub(super) trait Table: Sized + Clone {
    fn keys() -> Vec<Key>;
    fn read(reader: &mut Reader<'_>) -> Self;
    fn write(&self, out: &mut Writer);
}

/// What can stand behind a key.
pub(super) trait Field: Sized {
    fn shape() -> Shape;
    fn read(slot: Slot<'_>, faults: &mut Vec<Diagnostic>) -> Self;
    fn write(&self, name: &str, out: &mut Writer);
}

/// One key of a table that is being read, with what the file has for it.
pub(super) struct Slot<'a> {
    key: &'a Key,
    path: Arc<str>,
    entry: Option<&'a Entry>,
    /// Of the table that the key belongs to.
    table: &'a Place,
}

/// Reads the keys of one table.
pub(super) struct Reader<'a> {
    pub(super) place: Place,
    pub(super) path: Arc<str>,
    entries: &'a Entries,
    keys: Vec<Key>,
    faults: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    /// Reads the table that the whole file is.
    pub(super) fn root<T: Table>(entries: &Entries, faults: &mut Vec<Diagnostic>) -> T {
        Reader::table(entries, Place::new(&Source::default(), 0..0), "", faults)
    }

    /// Reads the table and reports the keys that it may not have.
    pub(super) fn table<T: Table>(
        entries: &Entries,
        place: Place,
        path: &str,
        faults: &mut Vec<Diagnostic>,
    ) -> T {
        let keys = T::keys();
        for (name, entry) in &entries.0 {
            if !keys.iter().any(|key| key.name == name) {
                faults.push(unknown_key(name, entry, path, &keys));
            }
        }
        let mut reader = Reader {
            place,
            path: path.into(),
            entries,
            keys,
            faults,
        };
        T::read(&mut reader)
    }

    pub(super) fn field<F: Field>(&mut self, name: &str) -> F {
        let key = self.keys.iter().find(|key| key.name == name);
        let key = key.expect("the macro that asks is the one that made the keys");
        let slot = Slot {
            key,
            path: join(&self.path, name).into(),
            entry: self.entries.0.get(name),
            table: &self.place,
        };
        F::read(slot, self.faults)
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn unknown_key(name: &str, entry: &Entry, path: &str, keys: &[Key]) -> Diagnostic {
    let fault = Diagnostic::error(&entry.key, format!("unknown key `{}`", join(path, name)));
    let meant = nearest(name, keys.iter().map(|key| key.name));
    // A slip of the fingers is more likely than the wrong table, and that more than a word that is
    // only alike.
    let slip = meant.filter(|meant| strsim::damerau_levenshtein(name, meant) <= 2);
    let homes = super::file::homes(name);
    if let Some(meant) = slip {
        return fault
            .label("no such key")
            .help(format!("did you mean `{meant}`?"));
    }
    let fault = fault.label(match path {
        "" => "no such key at the top level".to_owned(),
        path => format!("no such key in `{path}`"),
    });
    match (homes.as_slice(), meant) {
        ([], Some(meant)) => fault.help(format!("did you mean `{meant}`?")),
        ([], None) => {
            let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
            fault.help(format!("the keys here are {}", names.join(", ")))
        }
        (homes, _) => fault.help(format!("`{name}` is a key of {}", homes.join(", "))),
    }
}

/// The candidate that a typing mistake would turn into `name`, if there is one.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    candidates
        .map(|candidate| {
            let edits = strsim::damerau_levenshtein(&name, candidate);
            let likeness = strsim::jaro_winkler(&name, candidate);
            (candidate, edits, likeness)
        })
        .filter(|(candidate, edits, likeness)| {
            *edits <= (candidate.len() / 4).clamp(1, 3) || *likeness >= 0.88
        })
        .min_by(|a, b| a.1.cmp(&b.1).then(b.2.total_cmp(&a.2)))
        .map(|(candidate, ..)| candidate)
}

impl<T: Value> Setting<T> {
    fn read_entry(slot: &Slot<'_>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        let node = &slot.entry?.node;
        if matches!(node.data, Data::Unknown) {
            return None;
        }
        let value = T::read(node, &slot.path, faults)?;
        Some(Self {
            value,
            place: node.place.clone(),
            path: Arc::clone(&slot.path),
            stand_in: false,
        })
    }

    fn default(slot: &Slot<'_>) -> Self {
        let text = slot.key.default.expect("declared without `Option`");
        Self::implied(text, &slot.path)
    }

    /// A value that nobody wrote; `text` is TOML.
    pub(super) fn implied(text: &str, path: &str) -> Self {
        let path = Arc::from(path);
        let source = Source::default();
        let node = Node::fragment(text, &source, 0, &Environment::empty());
        let node = node.expect("a test reads all defaults");
        let value = T::read(&node, &path, &mut Vec::new()).expect("a test reads all defaults");
        Self {
            value,
            place: Place::new(&source, 0..0),
            path,
            stand_in: false,
        }
    }
}

fn value_shape<T: Value>(required: bool) -> Shape {
    Shape::Value {
        input: T::INPUT,
        secret: T::SECRET,
        required,
        schema: T::schema,
    }
}

impl<T: Value> Field for Setting<T> {
    fn shape() -> Shape {
        value_shape::<T>(false)
    }

    fn read(slot: Slot<'_>, faults: &mut Vec<Diagnostic>) -> Self {
        // A value that cannot be read is a fault already; the default takes its place so that the
        // rest can be judged as well.
        Self::read_entry(&slot, faults).unwrap_or_else(|| Self {
            stand_in: slot.entry.is_some(),
            ..Self::default(&slot)
        })
    }

    fn write(&self, name: &str, out: &mut Writer) {
        out.value(name, &self.value, &self.place);
    }
}

impl<T: Value> Field for Option<Setting<T>> {
    fn shape() -> Shape {
        value_shape::<T>(false)
    }

    fn read(slot: Slot<'_>, faults: &mut Vec<Diagnostic>) -> Self {
        Setting::read_entry(&slot, faults)
    }

    fn write(&self, name: &str, out: &mut Writer) {
        if let Some(setting) = self {
            out.value(name, &setting.value, &setting.place);
        }
    }
}

impl<T: Value> Field for Maybe<T> {
    fn shape() -> Shape {
        value_shape::<T>(false)
    }

    fn read(slot: Slot<'_>, faults: &mut Vec<Diagnostic>) -> Self {
        match (slot.entry, Setting::read_entry(&slot, faults)) {
            (None, _) => Self::Missing,
            (Some(_), None) => Self::Faulty,
            (Some(_), Some(setting)) => Self::Given(setting),
        }
    }

    fn write(&self, name: &str, out: &mut Writer) {
        if let Self::Given(setting) = self {
            out.value(name, &setting.value, &setting.place);
        }
    }
}

impl<T: Value> Field for Required<T> {
    fn shape() -> Shape {
        value_shape::<T>(true)
    }

    fn read(slot: Slot<'_>, faults: &mut Vec<Diagnostic>) -> Self {
        if slot.entry.is_none() {
            let message = format!("`{}` is missing", slot.path);
            let fault = if slot.table.is_default() {
                Diagnostic::placeless(message)
            } else {
                Diagnostic::error(slot.table, message).label("has to be here")
            };
            let example = slot.key.example.expect("declared with an example");
            faults.push(
                fault
                    .absence()
                    .help(format!("add: {} = {example}", slot.key.name)),
            );
        }
        Self(Setting::read_entry(&slot, faults))
    }

    fn write(&self, name: &str, out: &mut Writer) {
        self.0.write(name, out);
    }
}

impl<T: Table> Field for T {
    fn shape() -> Shape {
        Shape::Table(T::keys)
    }

    fn read(slot: Slot<'_>, faults: &mut Vec<Diagnostic>) -> Self {
        let nothing = Entries::default();
        let (entries, place) = match slot.entry.map(|entry| (entry, &entry.node.data)) {
            Some((entry, Data::Table(entries))) => (entries, entry.key.clone()),
            Some((entry, _)) => {
                faults.push(not_a_table(entry, &slot.path));
                (&nothing, entry.key.clone())
            }
            None => (&nothing, Place::new(&Source::default(), 0..0)),
        };
        Reader::table(entries, place, &slot.path, faults)
    }

    fn write(&self, name: &str, out: &mut Writer) {
        out.table(name, |out| Table::write(self, out));
    }
}

impl<T: Table> Field for Option<T> {
    fn shape() -> Shape {
        Shape::Table(T::keys)
    }

    fn read(slot: Slot<'_>, faults: &mut Vec<Diagnostic>) -> Self {
        slot.entry?;
        Some(<T as Field>::read(slot, faults))
    }

    fn write(&self, name: &str, out: &mut Writer) {
        if let Some(table) = self {
            <T as Field>::write(table, name, out);
        }
    }
}

impl<T: Table> Field for Vec<T> {
    fn shape() -> Shape {
        Shape::List(T::keys)
    }

    fn read(slot: Slot<'_>, faults: &mut Vec<Diagnostic>) -> Self {
        let Some(entry) = slot.entry else {
            return Self::new();
        };
        let nodes = match &entry.node.data {
            Data::List(nodes) => nodes.as_slice(),
            other => {
                let name = slot.key.name;
                let message = format!("`{}` is an array of tables", slot.path);
                let fault = Diagnostic::error(&entry.key, message);
                let (fault, nodes) = match other {
                    // What stands in it can be judged all the same.
                    Data::Table(_) => (
                        fault
                            .label("a single table")
                            .help(format!("double the brackets: `[[{name}]]`")),
                        std::slice::from_ref(&entry.node),
                    ),
                    _ => (
                        fault
                            .label(format!("this is {}", entry.node.noun()))
                            .help(format!("write `[[{name}]]` on a line, then its keys")),
                        &[][..],
                    ),
                };
                faults.push(fault);
                nodes
            }
        };
        let mut tables = Self::new();
        for node in nodes {
            match &node.data {
                Data::Table(entries) => {
                    let place = node.place.clone();
                    tables.push(Reader::table(entries, place, &slot.path, faults));
                }
                _ => faults.push(
                    Diagnostic::error(&node.place, format!("`{}` holds tables", slot.path))
                        .label(format!("this is {}", node.noun())),
                ),
            }
        }
        tables
    }

    fn write(&self, name: &str, out: &mut Writer) {
        for table in self {
            out.list(name, |out| Table::write(table, out));
        }
    }
}

impl<T: Table> Field for BTreeMap<String, T> {
    fn shape() -> Shape {
        Shape::Map(T::keys)
    }

    fn read(slot: Slot<'_>, faults: &mut Vec<Diagnostic>) -> Self {
        let Some(entry) = slot.entry else {
            return Self::new();
        };
        let Data::Table(entries) = &entry.node.data else {
            faults.push(not_a_table(entry, &format!("{}.NAME", slot.path)));
            return Self::new();
        };
        let mut tables = Self::new();
        for (name, entry) in &entries.0 {
            let path = join(&slot.path, name);
            match &entry.node.data {
                Data::Table(entries) => {
                    let place = entry.key.clone();
                    let table = Reader::table(entries, place, &path, faults);
                    tables.insert(name.clone(), table);
                }
                _ => faults.push(not_a_table(entry, &path)),
            }
        }
        tables
    }

    fn write(&self, name: &str, out: &mut Writer) {
        for (free, table) in self {
            out.table(&format!("{name}.{free}"), |out| Table::write(table, out));
        }
    }
}

fn not_a_table(entry: &Entry, path: &str) -> Diagnostic {
    let named = path.strip_suffix(".NAME").unwrap_or(path);
    Diagnostic::error(&entry.node.place, format!("`{named}` is a table"))
        .label(format!("this is {}", entry.node.noun()))
        .help(format!("write `[{path}]` on a line, then its keys"))
}

/// Writes effective values as TOML, each with its origin behind it.
#[derive(Default)]
pub(super) struct Writer {
    out: String,
    path: Vec<String>,
}

impl Writer {
    pub(super) fn finish(self) -> String {
        self.out
    }

    fn value<T: Value>(&mut self, name: &str, value: &T, place: &Place) {
        let line = if T::SECRET {
            format!("# {name} = \"***\"")
        } else {
            format!("{name} = {}", value.print())
        };
        self.out
            .push_str(&format!("{line:<44} # {}\n", place.origin()));
    }

    fn table(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        self.section(name, "[", "]", write);
    }

    fn list(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        self.section(name, "[[", "]]", write);
    }

    fn section(&mut self, name: &str, open: &str, close: &str, write: impl FnOnce(&mut Self)) {
        self.path.push(name.to_owned());
        let header = format!("\n{open}{}{close}\n", self.path.join("."));
        let before = self.out.len();
        self.out.push_str(&header);
        let empty = self.out.len();
        write(self);
        // A table without keys says nothing; an element of an array counts even so.
        if self.out.len() == empty && open == "[" {
            self.out.truncate(before);
        }
        self.path.pop();
    }
}

/// Declares tables of the file.
///
/// `key: Setting<T> = default` always has a value, `key: Option<Setting<T>> | example` may have
/// one; a table, `Vec` of tables or map of tables stands without either. Comments become the text
/// of `config default` and of the schema. Values come before tables, as TOML wants it.
macro_rules! tables {
    ($(
        $(#[$meta:meta])*
        $table:ident {
            $(
                $(#[doc = $doc:literal])*
                $field:ident : $type:ty $(= $default:tt)? $(| $example:tt)?
            ),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub(super) struct $table {
            /// Of its header, or nowhere when it is not in the file.
            #[allow(dead_code, reason = "not every table is pointed at by a diagnostic")]
            pub(super) place: $crate::config::diagnostic::Place,
            $( $(#[doc = $doc])* pub(super) $field: $type, )*
        }

        impl $crate::config::table::Table for $table {
            fn keys() -> Vec<$crate::config::table::Key> {
                vec![$(
                    $crate::config::table::Key {
                        name: stringify!($field),
                        doc: &[$($doc),*],
                        default: tables!(@text $($default)?),
                        example: tables!(@text $($example)?),
                        shape: <$type as $crate::config::table::Field>::shape(),
                    }
                ),*]
            }

            fn read(reader: &mut $crate::config::table::Reader<'_>) -> Self {
                Self {
                    place: reader.place.clone(),
                    $( $field: reader.field(stringify!($field)), )*
                }
            }

            fn write(&self, out: &mut $crate::config::table::Writer) {
                $( $crate::config::table::Field::write(&self.$field, stringify!($field), out); )*
            }
        }
    )*};
    (@text) => { None };
    (@text $value:tt) => { Some(stringify!($value)) };
}

pub(super) use tables;
