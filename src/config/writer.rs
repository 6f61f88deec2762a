//! Effective values as TOML.

use super::{diagnostic::Place, value::Value};

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

    pub(super) fn value<T: Value>(&mut self, name: &str, value: &T, place: &Place) {
        let line = if value.hidden() {
            format!("# {name} = \"***\"")
        } else {
            format!("{name} = {}", value.print())
        };
        self.out
            .push_str(&format!("{line:<44} # {}\n", place.origin()));
    }

    pub(super) fn table(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        self.section(name, "[", "]", write);
    }

    pub(super) fn list(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
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
