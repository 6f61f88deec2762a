//! The kinds of values: how each is read, described and written.

pub(super) mod address;
pub(super) mod bus;
pub(super) mod choice;
pub(super) mod kubernetes;
pub(super) mod list;
pub(super) mod quantity;
pub(super) mod text;

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{
    diagnostic::Diagnostic,
    node::{Data, Node},
    suggest::nearest,
    table::Input,
};

/// A value that a key may have.
pub(super) trait Value: Sized + Clone {
    const INPUT: Input;
    /// Never shown.
    const SECRET: bool = false;

    /// `None`: the fault has been pushed.
    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self>;
    /// JSON schema.
    fn schema() -> Json;
    /// As TOML.
    fn print(&self) -> String;
    /// Whether this very value is not to be shown.
    fn hidden(&self) -> bool {
        Self::SECRET
    }
}

/// A value that is written as one string.
pub(super) trait Word: Sized + Clone {
    /// Noun phrase with an example.
    const EXPECTED: &str;
    /// Units to propose when a bare number stands there.
    const UNITS: &[&str] = &[];
    const SECRET: bool = false;

    fn parse(text: &str) -> Result<Self, Reason>;
    fn print(&self) -> String;

    /// Whether this very value is not to be shown.
    fn hidden(&self) -> bool {
        Self::SECRET
    }

    /// Why a number is not enough.
    fn number(number: i64) -> Reason {
        if Self::UNITS.is_empty() {
            Reason::new("this is a number")
        } else {
            no_unit(&number.to_string(), Self::UNITS)
        }
    }

    /// Further members of the JSON schema.
    fn restrict(_schema: &mut Json) {}
}

/// Why a text is not the value that is wanted.
pub(super) struct Reason {
    label: String,
    help: Option<String>,
}

impl Reason {
    fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            help: None,
        }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl<T: Word> Value for T {
    const INPUT: Input = Input::Text;
    const SECRET: bool = <T as Word>::SECRET;

    fn read(node: &Node, path: &Arc<str>, faults: &mut Vec<Diagnostic>) -> Option<Self> {
        let reason = match &node.data {
            Data::Text(text) => match T::parse(text) {
                Ok(value) => return Some(value),
                Err(reason) => reason,
            },
            Data::Integer(Some(number)) => T::number(*number),
            _ => Reason::new(format!("this is {}", node.noun())),
        };
        let message = format!("`{path}` must be {}", T::EXPECTED);
        let mut fault = Diagnostic::error(&node.place, message).label(reason.label);
        fault.help = reason.help;
        faults.push(fault);
        None
    }

    fn schema() -> Json {
        let mut schema = json!({ "type": "string" });
        T::restrict(&mut schema);
        schema
    }

    fn print(&self) -> String {
        quote(&Word::print(self))
    }

    fn hidden(&self) -> bool {
        Word::hidden(self)
    }
}

/// A TOML string that is read back as it is, without substitution.
pub(super) fn quote(text: &str) -> String {
    toml::Value::String(text.replace("${", "$${")).to_string()
}

fn no_unit(number: &str, units: &[&str]) -> Reason {
    let choice: Vec<String> = units
        .iter()
        .map(|unit| format!("\"{number}{unit}\""))
        .collect();
    Reason::new("a number without a unit").help(format!("write {}", choice.join(" or ")))
}

/// Finds a word in a list, or says what was probably meant.
fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, Reason> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let reason = Reason::new("this is neither");
    Err(match nearest(text, words.iter().map(|(word, _)| *word)) {
        Some(meant) => reason.help(format!("did you mean \"{meant}\"?")),
        None => reason,
    })
}
