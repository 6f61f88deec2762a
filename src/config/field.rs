//! What can stand behind a key: a value, a table, or many tables.

use std::collections::BTreeMap;

use super::{
    diagnostic::{Diagnostic, Place, Source},
    node::{Data, Entries, Entry},
    table::{Maybe, Reader, Required, Setting, Shape, Slot, Table, join},
    value::Value,
    writer::Writer,
};

/// What can stand behind a key.
pub(super) trait Field: Sized {
    fn shape() -> Shape;
    fn read(slot: Slot<'_>, faults: &mut Vec<Diagnostic>) -> Self;
    fn write(&self, name: &str, out: &mut Writer);
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
