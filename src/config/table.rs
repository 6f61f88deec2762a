//! The shape of the file: tables of keys, declared once in `file.rs`.
//!
//! From one declaration come the reader, the JSON schema, the commented default and the effective
//! output, so that none of them can say what another does not.

use std::sync::Arc;

use serde_json::Value as Json;

use super::{
    diagnostic::{Diagnostic, Place, Source},
    field::Field,
    node::{Data, Entries, Entry, Node},
    source::Environment,
    suggest::unknown_key,
    value::Value,
    writer::Writer,
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

/// A table that most files do not have need not take its room in all of them.
impl<T: Table> Table for Box<T> {
    fn keys() -> Vec<Key> {
        T::keys()
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        Self::new(T::read(reader))
    }

    fn write(&self, out: &mut Writer) {
        T::write(self, out);
    }
}

/// One key of a table that is being read, with what the file has for it.
pub(super) struct Slot<'a> {
    pub(super) key: &'a Key,
    pub(super) path: Arc<str>,
    pub(super) entry: Option<&'a Entry>,
    /// Of the table that the key belongs to.
    pub(super) table: &'a Place,
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

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

impl<T: Value> Setting<T> {
    pub(super) fn read_entry(slot: &Slot<'_>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
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

    pub(super) fn default(slot: &Slot<'_>) -> Self {
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
                        shape: <$type as $crate::config::field::Field>::shape(),
                    }
                ),*]
            }

            fn read(reader: &mut $crate::config::table::Reader<'_>) -> Self {
                Self {
                    place: reader.place.clone(),
                    $( $field: reader.field(stringify!($field)), )*
                }
            }

            fn write(&self, out: &mut $crate::config::writer::Writer) {
                $( $crate::config::field::Field::write(&self.$field, stringify!($field), out); )*
            }
        }
    )*};
    (@text) => { None };
    (@text $value:tt) => { Some(stringify!($value)) };
}

pub(super) use tables;
